"""What a call of a model costs, beside a bare aiohttp loop and, where installed, the provider's own client.

::

    python benchmarks/models.py                    # everything: about three minutes
    python benchmarks/models.py --quick            # fewer rounds
    python benchmarks/models.py --only plain parse --json models.json

The server is another process and costs next to nothing. All sides take turns; the medians count.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import _meter
import _server
import _wires
import aiohttp
from _meter import Figure, Report, median

from manyhands.messages import ChatMessage, MessageRole, message
from manyhands.models import blocks, codec, items, wire
from manyhands.models.anthropic import AnthropicModel
from manyhands.models.azure import AzureOpenAIModel
from manyhands.models.openai import OpenAIModel
from manyhands.models.responses import OpenAIResponsesModel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

GOAL_PLAIN, GOAL_STREAM = 1.6, 2.0
_SYSTEM, _TASK = "You are a careful assistant. " * 80, "Say many words."
_PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to do.

    Attributes:
        url: The server.
        rounds: How often each side takes its turn.
        many: Calls in flight.
        most: Calls in flight of the largest figure.
    """

    url: str
    rounds: int = 7
    many: int = 500
    most: int = 1000

    def base(self, wire_: str, *, streams: bool, delay: float = 0.3) -> str:
        """Return the address that answers in a format."""
        return f"{self.url}/{wire_}{'-stream' if streams else ''}/{delay}/1"


# --- The sides: each asks once, and returns the text -------------------------------------------------


class Bare:
    """The loop that one writes by hand."""

    def __init__(self, wire_: str, base: str, session: aiohttp.ClientSession) -> None:
        self._url = base + _PATHS[wire_]
        self._wire = wire_
        self._session = session
        self._headers = {"Content-Type": "application/json", "Authorization": "Bearer none"}

    def _body(self, *, stream: bool) -> bytes:
        said = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _TASK}]
        field = "input" if self._wire == "responses" else "messages"
        return json.dumps({"model": "bench", "stream": stream, field: said}).encode()

    async def ask(self) -> str:
        """Ask for the reply in one piece."""
        body = self._body(stream=False)
        async with self._session.post(self._url, data=body, headers=self._headers) as response:
            reply = json.loads(await response.read())
        if self._wire == "chat":
            return str(reply["choices"][0]["message"]["content"])
        parts = reply["output"][0]["content"] if self._wire == "responses" else reply["content"]
        return str(parts[0]["text"])

    async def stream(self) -> str:
        """Ask for the reply in pieces."""
        texts: list[str] = []
        body = self._body(stream=True)
        async with self._session.post(self._url, data=body, headers=self._headers) as response:
            async for line in response.content:
                if line.startswith(b"data: {"):
                    texts.append(self._piece(json.loads(line[6:])))  # noqa: PERF401 (so it is written)
        return "".join(texts)

    def _piece(self, chunk: dict[str, Any]) -> str:
        if self._wire == "chat":
            return chunk["choices"][0]["delta"].get("content") or "" if chunk["choices"] else ""
        delta = chunk.get("delta", "")
        return (delta if isinstance(delta, str) else delta.get("text")) or ""


class Ours:
    """A model of ours."""

    def __init__(self, wire_: str, base: str) -> None:
        kinds: dict[str, Callable[[], Any]] = {
            "chat": lambda: OpenAIModel("bench", f"{base}/v1", "none"),
            "responses": lambda: OpenAIResponsesModel("bench", f"{base}/v1", "none"),
            "messages": lambda: AnthropicModel("bench", base, "none"),
        }
        self._model = kinds[wire_]()

    async def ask(self) -> str:
        """Ask for the reply in one piece."""
        return (await self._model.agenerate(_conversation())).text

    async def stream(self) -> str:
        """Ask for the reply in pieces."""
        texts = [delta.content or "" async for delta in self._model.agenerate_stream(_conversation())]
        return "".join(texts)


def _conversation() -> list[ChatMessage]:
    # New ones for each call: nothing is encoded before.
    return [message(MessageRole.SYSTEM, _SYSTEM), message(MessageRole.USER, _TASK)]


class OpenAIClient:
    """OpenAI's own client."""

    def __init__(self, openai: Any, base: str) -> None:
        self._client = openai.AsyncOpenAI(base_url=f"{base}/v1", api_key="none", timeout=300)
        self._said = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _TASK}]

    async def ask(self) -> str:
        """Ask for the reply in one piece."""
        create = self._client.chat.completions.create
        return str((await create(model="bench", messages=self._said)).choices[0].message.content)

    async def stream(self) -> str:
        """Ask for the reply in pieces."""
        chunks = await self._client.chat.completions.create(model="bench", messages=self._said, stream=True)
        texts = [chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices]
        return "".join(texts)


# --- The figures -----------------------------------------------------------------------------------


async def _all_at_once(ask: Callable[[], Awaitable[str]], count: int) -> None:
    texts = await asyncio.gather(*(ask() for _ in range(count)))
    lost = sum(text != _wires.TEXT for text in texts)
    assert not lost, f"{lost} of {count} replies lost or wrong"


async def _in_turns(plan: Plan, wire_: str, *, streams: bool) -> dict[str, float]:
    """Return microseconds of CPU per call, by side."""
    base, door = plan.base(wire_, streams=streams), "stream" if streams else "ask"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        sides: dict[str, Any] = {"bare": Bare(wire_, base, session), "ours": Ours(wire_, base)}
        openai = _openai() if wire_ == "chat" else None
        if openai is not None:
            sides["openai"] = OpenAIClient(openai, base)
        spent: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(plan.rounds + 1):
            for name, side in sides.items():
                if name == "openai" and turn > 2:
                    continue  # slow, and far off
                ask = getattr(side, door)
                took = await _meter.spend(lambda ask=ask: _all_at_once(ask, plan.many))  # type: ignore[misc]
                if turn:
                    spent[name].append(took.cpu / plan.many * 1e6)
    return {name: median(values) for name, values in spent.items()}


def _openai() -> Any:
    try:
        return importlib.import_module("openai")
    except ImportError:
        return None


async def _compare(plan: Plan, report: Report, *, streams: bool) -> None:
    what = f"{_wires.DELTAS}-delta stream" if streams else "plain"
    goal = GOAL_STREAM if streams else GOAL_PLAIN
    for wire_ in _PATHS:
        spent = await _in_turns(plan, wire_, streams=streams)
        note = f"{spent['ours']:.0f} µs, bare loop {spent['bare']:.0f} µs"
        name = f"{wire_}, {what}: CPU per call, {plan.many} in flight"
        report.add(Figure(name, spent["ours"] / spent["bare"], "x bare", goal, note=note))
        if "openai" in spent:
            note = f"{spent['openai']:.0f} µs"
            report.add(Figure("   openai's client", spent["openai"] / spent["bare"], "x bare", note=note))


async def plain(plan: Plan, report: Report) -> None:
    """Measure the CPU of a call."""
    await _compare(plan, report, streams=False)


async def stream(plan: Plan, report: Report) -> None:
    """Measure the CPU of a streamed call."""
    await _compare(plan, report, streams=True)


async def most(plan: Plan, report: Report) -> None:
    """Count what is lost when very many calls are in flight."""
    for wire_ in _PATHS:
        for streams in (False, True):
            side = Ours(wire_, plan.base(wire_, streams=streams, delay=1.0))
            ask = side.stream if streams else side.ask
            texts = await asyncio.gather(*(ask() for _ in range(plan.most)), return_exceptions=True)
            lost = sum(text != _wires.TEXT for text in texts)
            name = f"{wire_}, {'streamed' if streams else 'plain'}: lost of {plan.most:,} in flight"
            report.add(Figure(name, lost, "", 0))


def _each(work: Callable[[], Any], times: int = 500) -> float:
    """Return microseconds of one piece of work."""
    rounds = []
    for _ in range(7):
        begin = time.process_time()
        for _ in range(times):
            work()
        rounds.append((time.process_time() - begin) / times)
    return median(rounds) * 1e6


async def construction(plan: Plan, report: Report) -> None:
    """Measure what it takes to make a model."""
    made: dict[str, Callable[[], Any]] = {
        "OpenAIModel": lambda: OpenAIModel("m", "http://a.test/v1", "k", temperature=0),
        "OpenAIModel with a preset": lambda: OpenAIModel("groq/m", api_key="k"),
        "AzureOpenAIModel": lambda: AzureOpenAIModel("m", "http://a.test", "k"),
        "OpenAIResponsesModel": lambda: OpenAIResponsesModel("m", "http://a.test/v1", "k"),
        "AnthropicModel": lambda: AnthropicModel("m", api_key="k", cache=True),
    }
    for name, make in made.items():
        report.add(Figure(f"{name}: construction", _each(make), "µs", 20))


async def parse(plan: Plan, report: Report) -> None:
    """Measure how long it takes to read a reply of 20 kB."""
    readers: dict[str, Callable[[Any], ChatMessage]] = {
        "chat": wire.reply_message,
        "responses": items.reply_message,
        "messages": blocks.reply_message,
    }
    for wire_, read in readers.items():
        body = _wires.whole(wire_).replace(b"word, " * _wires.DELTAS, _long())
        assert len(body) > 20_000
        took = _each(lambda body=body, read=read: read(codec.loads(body)))  # type: ignore[misc]
        report.add(Figure(f"{wire_}: a reply of {len(body) // 1000} kB read", took, "µs", 100))


def _long() -> bytes:
    return json.dumps('A line of text, with "quotes" and\nline ends. ' * 440)[1:-1].encode()


async def growth(plan: Plan, report: Report) -> None:
    """Measure the requests of a conversation that grows by two messages a step."""
    makers: dict[str, Callable[[], Any]] = {
        "chat": lambda: wire.message_encoder(),
        "responses": lambda: items.item_encoder(),
        "messages": lambda: blocks.block_encoder(),
    }
    for wire_, make in makers.items():
        encoder = make()
        short, long = (median([_grown(encoder, steps) for _ in range(5)]) for steps in (100, 200))
        note = f"{long / 200 * 1e6:.0f} µs a step of 200"
        report.add(
            Figure(f"{wire_}: encoding 200 growing requests, by 100", long / short, "x", 4.0, note=note)
        )


def _grown(encoder: Any, steps: int) -> float:
    said = [message(MessageRole.SYSTEM, _SYSTEM), message(MessageRole.USER, _TASK)]
    begin = time.process_time()
    for number in range(steps):
        encoder.encode(said)
        said.append(ChatMessage(MessageRole.ASSISTANT, f"Step {number}: " + "I look it up. " * 20))
        said.append(message(MessageRole.USER, f"Observation {number}: " + "found it. " * 40))
    return time.process_time() - begin


PARTS = {part.__name__: part for part in (plain, stream, most, construction, parse, growth)}


def main() -> int:
    """Measure what the command line asks for; fail if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure")
    parser.add_argument("--json", help="file for the figures")
    args = parser.parse_args()
    _meter.raise_file_limit()
    report = Report()
    with _server.server() as url:
        plan = Plan(url, rounds=3) if args.quick else Plan(url)
        for name in args.only:
            asyncio.run(PARTS[name](plan, report))
    if args.json:
        report.write(args.json)
    missed = report.missed()
    for figure in missed:
        print(f"MISSED: {figure.name}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
