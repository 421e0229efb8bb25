"""Answers one HTTP request of the simulated provider: admit, think, wait, send, and misbehave on request.

It runs on the low-level server of aiohttp, without its application and router: five paths need none, and
the request costs about half as much.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import socket
import struct
from collections import Counter
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

from aiohttp import web

from manyhands.testing.encoding import DONE, Answer, completion, finish, stream_events
from manyhands.testing.faults import BAD_JSON, DRIP, FREEZE, RESET, STALL, TRUNCATE
from manyhands.testing.quota import retry_headers
from manyhands.testing.wire import Call, ChatRequest, Reply, WireError, parse_request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence
    from typing import TypeAlias

    from manyhands.testing.faults import FaultPlan
    from manyhands.testing.quota import Quota

    Said: TypeAlias = Reply | str | Call | Sequence[Call]
    Policy: TypeAlias = Callable[[ChatRequest], Said | Awaitable[Said]]

CHAT = "/v1/chat/completions"
_CREATED = 1_700_000_000
_JSON = {"Content-Type": "application/json"}
_EVENTS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
# Pieces of a paced stream due within this time go out in one write: the loop is not woken for each token.
_TICK = 0.01
_DRIP_PIECES = 20
_SILENT_RESET = struct.pack("ii", 1, 0)
_FAULT_MESSAGES = {
    429: "Rate limit reached (injected by the simulated provider).",
    500: "The server had an error while processing your request (injected by the simulated provider).",
    503: "The engine is currently overloaded, please try again later (injected by the simulated provider).",
}


class _ResetByPlan(Exception):
    """The connection has been broken on purpose."""


@dataclass(slots=True)
class Stats:
    """What a provider has done so far; counts chat completions only.

    Attributes:
        requests: Requests that arrived.
        in_flight: Requests being worked on.
        peak_in_flight: The most there were at once.
        by_status: Answers by HTTP status.
        faults: Faults injected, by kind.
        disconnects: Requests whose client left before the answer was sent.
        prompt_tokens: Estimated tokens of the requests answered.
        completion_tokens: Estimated tokens of their answers.
    """

    requests: int = 0
    in_flight: int = 0
    peak_in_flight: int = 0
    by_status: Counter[int] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    disconnects: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    _first: float | None = field(default=None, repr=False)
    _last: float = field(default=0.0, repr=False)

    @property
    def tokens_per_second(self) -> float:
        """Completion tokens over the time from the first request to the last answer."""
        seconds = self._last - self._first if self._first is not None else 0.0
        return self.completion_tokens / seconds if seconds > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as ``GET /stats`` shows them."""
        return {
            "requests": self.requests,
            "in_flight": self.in_flight,
            "peak_in_flight": self.peak_in_flight,
            "by_status": {str(status): number for status, number in sorted(self.by_status.items())},
            "faults": dict(sorted(self.faults.items())),
            "disconnects": self.disconnects,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "tokens_per_second": round(self.tokens_per_second, 1),
        }

    def opened(self) -> None:
        """Count a request that arrived."""
        if self._first is None:
            self._first = monotonic()
        self.requests += 1
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)

    def closed(self) -> None:
        """Count a request as no longer in flight."""
        self.in_flight -= 1
        self._last = monotonic()

    def answered(self, answer: Answer) -> None:
        """Count the tokens of an answer."""
        self.prompt_tokens += answer.prompt_tokens
        self.completion_tokens += answer.completion_tokens


@dataclass(slots=True)
class Desk:
    """Everything a request is answered with.

    Attributes:
        policy: Says what to reply.
        latency: Draws the seconds until the first byte.
        quota: Rate limits.
        faults: What goes wrong, and when.
        tokens_per_second: Speed of writing, or ``None`` for at once.
        api_keys: Keys that are let in; any if empty.
        models: Models on offer; any if empty.
        retry_after: What an injected 429 tells the client to wait.
        drip_seconds: How long a dripped answer takes.
        stats: Figures.
        observe: Told of each checked request.
    """

    policy: Policy
    latency: Callable[[], float]
    quota: Quota
    faults: FaultPlan
    tokens_per_second: float | None
    api_keys: Collection[str]
    models: Collection[str]
    retry_after: float
    drip_seconds: float
    stats: Stats
    observe: Callable[[ChatRequest], None] | None = None

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one HTTP request.

        Args:
            request: As aiohttp read it.

        Returns:
            The response, sent or to be sent.
        """
        if request.path == CHAT and request.method == "POST":
            return await self._chat(request)
        try:
            return web.Response(body=json.dumps(self._page(request)).encode(), headers=_JSON)
        except WireError as error:
            return _refuse(error)

    async def _chat(self, request: web.BaseRequest) -> web.StreamResponse:
        self.stats.opened()
        try:
            response = await self._answer(request)
        except WireError as error:
            response = _refuse(error)
        except _ResetByPlan:
            return web.Response()  # Goes nowhere: its connection is gone.
        except ConnectionError:
            self.stats.disconnects += 1
            return web.Response()
        # Cancelled is how the server tells that the client has left, or that it is being stopped.
        except asyncio.CancelledError:
            self.stats.disconnects += 1
            raise
        finally:
            self.stats.closed()
        self.stats.by_status[response.status] += 1
        return response

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        raw = await _read(request)
        key = self._key(request)
        chat = parse_request(raw)
        chat.headers = request.headers
        if self.models and chat.model not in self.models:
            _no_model(chat.model)
        if self.observe is not None:
            self.observe(chat)
        headers = self.quota.admit(key, chat.prompt_tokens) if self.quota else {}
        delay, fault = self.latency(), self.faults.next()
        if fault is not None:
            await self._misbehave(fault, delay, request)
        answer = finish(await self._think(chat), chat)
        if self.quota:
            self.quota.settle(key, answer.completion_tokens)
        self.stats.answered(answer)
        if chat.stream:
            return await self._stream(request, chat, answer, delay, headers, fault)
        if self.tokens_per_second:
            delay += answer.completion_tokens / self.tokens_per_second
        if delay > 0:
            await asyncio.sleep(delay)
        body = completion(answer, chat.model)
        if fault is None:
            return web.Response(body=body, headers=headers | _JSON)
        return await self._spoil(request, body, headers, fault)

    async def _think(self, chat: ChatRequest) -> Reply:
        try:
            said = self.policy(chat)
            if inspect.isawaitable(said):
                said = await said
            return as_reply(said)
        except WireError:
            raise
        except Exception as error:
            # Whoever wrote the policy sees on the client's side what is wrong with it.
            raise WireError(
                500, f"The policy failed: {type(error).__name__}: {error}", code="policy"
            ) from error

    async def _misbehave(self, fault: str, delay: float, request: web.BaseRequest) -> None:
        """Do what a fault does before there is an answer, if it does anything then."""
        self.stats.faults[fault] += 1
        if fault == STALL:
            await _for_ever()
        if fault == RESET:
            await asyncio.sleep(delay)
            _reset(request)
            raise _ResetByPlan
        if fault.isdecimal():
            status = int(fault)
            message = _FAULT_MESSAGES.get(status, f"Status {status} (injected by the simulated provider).")
            waits = retry_headers(self.retry_after) if status in (429, 503) else None
            code, kind = ("rate_limit_exceeded", "requests") if status == 429 else (None, None)
            raise WireError(status, message, code=code, type=kind, headers=waits)

    async def _spoil(
        self, request: web.BaseRequest, body: bytes, headers: dict[str, str], fault: str
    ) -> web.StreamResponse:
        """Send a plain answer the wrong way."""
        if fault == BAD_JSON:
            return web.Response(body=body[: len(body) // 2], headers=headers | _JSON)
        response = web.StreamResponse(headers=headers | _JSON | {"Content-Length": str(len(body))})
        await response.prepare(request)
        if fault == DRIP:
            await self._drip(response, body)
            return response
        await response.write(body[: len(body) // 2])
        if fault == FREEZE:
            await _for_ever()
        _hang_up(request)
        return response

    async def _stream(
        self,
        request: web.BaseRequest,
        chat: ChatRequest,
        answer: Answer,
        delay: float,
        headers: dict[str, str],
        fault: str | None,
    ) -> web.StreamResponse:
        if delay > 0:
            await asyncio.sleep(delay)
        events = [*stream_events(answer, chat.model, chat.include_usage), DONE]
        response = web.StreamResponse(headers=headers | _EVENTS)
        await response.prepare(request)
        if fault == BAD_JSON:
            events[len(events) // 2] = events[len(events) // 2][:40] + b"\n\n"
        elif fault in (TRUNCATE, FREEZE):
            del events[len(events) // 2 :]
        if fault == DRIP:
            await self._drip(response, b"".join(events))
        else:
            await self._paced(response, events)
        if fault == FREEZE:
            await _for_ever()
        if fault == TRUNCATE:
            _hang_up(request)
        return response

    async def _paced(self, response: web.StreamResponse, events: list[bytes]) -> None:
        if self.tokens_per_second is None:
            await response.write(b"".join(events))
            return
        clock, speed = asyncio.get_running_loop().time, self.tokens_per_second
        began, sent = clock(), 0
        while True:
            due = int((clock() - began) * speed) + 1
            if due > sent:
                await response.write(b"".join(events[sent:due]))
            sent = max(sent, due)
            if sent >= len(events):
                return
            await asyncio.sleep(max(_TICK, began + sent / speed - clock()))

    async def _drip(self, response: web.StreamResponse, body: bytes) -> None:
        size = -(-len(body) // _DRIP_PIECES)
        for start in range(0, len(body), size):
            await asyncio.sleep(self.drip_seconds / _DRIP_PIECES)
            await response.write(body[start : start + size])

    def _key(self, request: web.BaseRequest) -> str:
        given = request.headers.get("Authorization", "")
        key = given[7:] if given[:7].lower() == "bearer " else ""
        if self.api_keys and key not in self.api_keys:
            problem = "Incorrect API key provided." if key else "You didn't provide an API key."
            raise WireError(401, problem, code="invalid_api_key")
        return key

    def _page(self, request: web.BaseRequest) -> dict[str, Any]:
        """Return what one of the plain pages shows."""
        path = request.path
        if path == CHAT or request.method not in ("GET", "HEAD"):
            _wrong_turn(request)
        if path == "/stats":
            return self.stats.to_dict()
        if path == "/health":
            return {"status": "ok"}
        if path == "/v1/models":
            self._key(request)
            return {"object": "list", "data": [_model(name) for name in self.models or ("simulated",)]}
        if path.startswith("/v1/models/"):
            self._key(request)
            name = path.removeprefix("/v1/models/")
            return _model(name) if not self.models or name in self.models else _no_model(name)
        return _wrong_turn(request)


def as_reply(said: object) -> Reply:
    """Return what a policy said as a reply.

    Args:
        said: A reply, a text, a call or several calls.

    Raises:
        TypeError: If it is something else.
    """
    if isinstance(said, Reply):
        return said
    if isinstance(said, str):
        return Reply(said)
    if isinstance(said, Call):
        return Reply(calls=[said])
    if isinstance(said, (list, tuple)) and all(isinstance(call, Call) for call in said):
        return Reply(calls=said)
    raise TypeError(f"a policy returns a Reply, a str, a Call or a list of Calls, not {type(said).__name__}")


async def _read(request: web.BaseRequest) -> bytes:
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise WireError(413, "The request is too large.", code="request_too_large") from error


async def _for_ever() -> NoReturn:
    """Wait until the client goes or the server stops: both cancel this."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("unreachable")


def _refuse(error: WireError) -> web.Response:
    return web.Response(status=error.status, body=error.body(), headers=dict(error.headers or {}) | _JSON)


def _reset(request: web.BaseRequest) -> None:
    """Break the connection with a TCP reset, as a crashed proxy does."""
    transport = request.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _SILENT_RESET)
        transport.abort()


def _hang_up(request: web.BaseRequest) -> None:
    """Close the connection after what has been written so far, in the middle of the answer."""
    if request.transport is not None:
        request.transport.close()


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "manyhands"}


def _no_model(name: str) -> NoReturn:
    message = f"The model `{name}` does not exist or you do not have access to it."
    raise WireError(404, message, code="model_not_found")


def _wrong_turn(request: web.BaseRequest) -> NoReturn:
    path = request.path
    if path in (CHAT, "/v1/models", "/stats", "/health"):
        hint = "POST" if path == CHAT else "GET"
        message = f"Not allowed to {request.method} on {path}. (HINT: use {hint}.)"
        raise WireError(405, message, code="method_not_supported", headers={"Allow": hint})
    raise WireError(404, f"Invalid URL ({request.method} {path})", code="unknown_url")
