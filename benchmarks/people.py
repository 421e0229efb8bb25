"""What it costs to wait for people: memory of parked calls, answering all of them, and what a request adds.

::

    python benchmarks/people.py                  # about a minute
    python benchmarks/people.py --quick

Every run asks to make one call that needs approval and nobody answers until all runs wait. No network.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import sys
import threading
import time
import tracemalloc
from typing import Any

import _meter
from _meter import Figure, Report

from manyhands import ApprovalRequest, ChatMessage, CodeAgent, MessageRole, ToolCallingAgent, tool
from manyhands.messages import ChatMessageToolCall, ChatMessageToolCallFunction
from manyhands.testing import FunctionModel

KINDS = ("tools", "code")


async def send(text: str) -> str:
    """Send a text to everybody.

    Args:
        text: What to send.
    """
    return f"sent {text}"


def _call(name: str, **arguments: Any) -> ChatMessage:
    call = ChatMessageToolCall(ChatMessageToolCallFunction(arguments, name), "call")
    return ChatMessage(MessageRole.ASSISTANT, None, tool_calls=[call])


async def _write_code(messages: list[ChatMessage]) -> str:
    return "<code>final_answer(send('hello'))</code>"


async def _call_tools(messages: list[ChatMessage]) -> ChatMessage:
    if len(messages) <= 2:
        return _call("send", text="hello")
    return _call("final_answer", answer=messages[-1].text.removeprefix("Observation:\n"))


def make_agent(kind: str, *, guarded: bool = True, **options: Any) -> Any:
    """Return an agent that sends something and answers with what came of it."""
    make, answer = (CodeAgent, _write_code) if kind == "code" else (ToolCallingAgent, _call_tools)
    sending = tool(requires_approval=guarded)(send)
    return make([sending], FunctionModel(answer, record=False), **options)


# --- In a fresh process ----------------------------------------------------------------------------


async def _parked(agent: Any, count: int) -> dict[str, float]:
    """Let ``count`` runs wait for people, answer them all, and return what that took."""
    before, threads = _meter.resident(), threading.active_count()
    begin = time.perf_counter()
    runs = [asyncio.create_task(agent.arun(f"task {number}")) for number in range(count)]
    while len(agent.pending) < count:  # noqa: ASYNC110 - nothing tells that the last one waits
        await asyncio.sleep(0.02)
    opened = time.perf_counter() - begin
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] if tracemalloc.is_tracing() else _meter.resident() - before
    cpu = time.process_time()
    await asyncio.sleep(1)
    idle = time.process_time() - cpu
    held_threads = threading.active_count() - threads
    begin = time.perf_counter()
    for request in agent.pending.values():
        request.approve()
    answers = await asyncio.gather(*runs)
    return {
        "bytes": held / count,
        "opened": opened,
        "idle": idle,
        "threads": held_threads,
        "answered": time.perf_counter() - begin,
        "right": answers.count("sent hello"),
    }


async def parked(kind: str, count: str, traced: str = "") -> dict[str, float]:
    """Measure runs that wait; anything but "" in ``traced`` for Python's own account of the memory."""
    agent = make_agent(kind)
    await _parked(agent, 20)
    gc.collect()
    if traced:
        tracemalloc.start()
    return await _parked(agent, int(count))


async def added(kind: str, rounds: str) -> dict[str, float]:
    """Measure the CPU of a run whose call is approved at once, and of one that needs no approval."""

    def approve(run: Any, event: Any) -> None:
        if isinstance(event, ApprovalRequest):
            event.approve()

    agents = {guarded: make_agent(kind, guarded=guarded, observers=[approve]) for guarded in (True, False)}
    taken: dict[bool, list[float]] = {True: [], False: []}
    for number in range(int(rounds) + 1):
        for guarded, agent in agents.items():
            begin = time.process_time()
            for _ in range(300):
                await agent.arun("go")
            if number:
                taken[guarded].append((time.process_time() - begin) / 300)
    return {"with": _meter.median(taken[True]), "without": _meter.median(taken[False])}


# --- The command -------------------------------------------------------------------------------------


def measure(report: Report, kind: str, count: int, rounds: int) -> None:
    """Measure one kind of agent."""
    found = _meter.fresh("people.py", "--probe", "parked", kind, str(count))
    traced = _meter.fresh("people.py", "--probe", "parked", kind, str(count), "traced")["bytes"] / 1024
    name = f"{kind} agent: memory of a parked run, {count:,} parked"
    report.add(Figure(name, found["bytes"] / 1024, "KiB", 20, note="resident"))
    report.add(Figure("   Python's own account", traced, "KiB"))
    report.add(Figure("   threads that they hold", found["threads"], "", 1, note="a watchdog, for code"))
    report.add(Figure("   CPU while they wait", found["idle"] * 100, "% of a core", 2))
    report.add(Figure("   until all wait", found["opened"], "s", note=f"{count:,} runs begun at once"))
    report.add(Figure("   answering all, until all runs have ended", found["answered"], "s", 5))
    report.add(Figure("   lost", count - found["right"], "", 0))
    cost = _meter.fresh("people.py", "--probe", "added", kind, str(rounds))
    made_of = f"{cost['with'] * 1e6:.0f} µs a run with, {cost['without'] * 1e6:.0f} µs without"
    report.add(
        Figure("   CPU that a request adds", (cost["with"] - cost["without"]) * 1e6, "µs", 100, note=made_of)
    )


def main() -> int:
    """Measure and print; with ``--strict`` the exit status says whether every goal was reached."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer runs")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="kinds of agent")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a goal is missed")
    parser.add_argument("--probe", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.probe:
        logging.getLogger("manyhands").setLevel(
            logging.ERROR
        )  # nobody is told that they wait: here, that is meant
        probes: dict[str, Any] = {"parked": parked, "added": added}
        print(json.dumps(asyncio.run(probes[given.probe[0]](*given.probe[1:]))))
        return 0
    report = Report()
    for kind in given.kinds:
        measure(report, kind, 1000 if given.quick else 5000, 3 if given.quick else 9)
    if given.json:
        report.write(given.json, quick=given.quick)
    missed = report.missed()
    print(f"\n{len(missed)} of {sum(f.goal is not None for f in report.figures)} goals missed.")
    return 1 if missed and given.strict else 0


if __name__ == "__main__":
    sys.exit(main())
