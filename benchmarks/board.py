"""What it costs to watch: the board of a thousand runs, replies on the screen, the fleet.

::

    python benchmarks/board.py                 # half a minute
    python benchmarks/board.py --quick         # shorter looks
    python benchmarks/board.py --json board.json

The terminal is a real one (a pty, 200 by 50) that is read as fast as it is written. The runs wait for their
model, so that what is measured is the watching alone.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import pty
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from _meter import Figure, Report
from rich.console import Console

from manyhands import ChatMessageStreamDelta, Fleet, ToolCallingAgent
from manyhands.crowd import Crowd
from manyhands.events import ModelStart, ToolEnd, ToolStart
from manyhands.observe.board import Board
from manyhands.observe.fleet_board import View, render
from manyhands.observe.live import Stream
from manyhands.observe.screen import Screen
from manyhands.observe.snapshot import Meter
from manyhands.steps import ToolCall
from manyhands.testing import FunctionModel

if TYPE_CHECKING:
    from collections.abc import Iterator

RUNS = 1000
GOAL_SHARE = 3.0  # percent of one core


@contextmanager
def terminal() -> Iterator[Console]:
    """Give a console on a terminal that is read by a thread."""
    master, slave = pty.openpty()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                if not os.read(master, 1 << 16):
                    return
            except OSError:
                return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    file = os.fdopen(slave, "w")
    yield Console(file=file, width=200, height=50, force_terminal=True, highlight=False)
    stop.set()
    file.close()


async def share(seconds: float) -> float:
    """Return the share of a core that this process takes for the next seconds, in percent."""
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.sleep(seconds)
    return 100 * (time.process_time() - cpu) / (time.perf_counter() - wall)


def waiting_agent(door: asyncio.Event, **options: Any) -> ToolCallingAgent:
    """Return an agent whose model answers when the door opens."""

    async def reply(messages: Any) -> Any:
        await door.wait()
        return "no call"

    return ToolCallingAgent(model=FunctionModel(reply, record=False), max_steps=1, **options)


async def measure_board(seconds: float) -> float:
    """Return what the board of a crowd takes, in percent of a core."""
    door = asyncio.Event()
    tasks = [
        f"Find out what number {number} is made of, and say it in one sentence." for number in range(RUNS)
    ]
    with terminal() as console:
        async with Crowd(waiting_agent(door), tasks, concurrency=RUNS) as crowd:
            fetching = asyncio.ensure_future(crowd.batch())
            while crowd.progress.in_flight < RUNS:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            idle = await share(seconds / 2)
            board = asyncio.ensure_future(
                Board(Meter(crowd.progress, [crowd.agent]), console, "a board").show()
            )
            await asyncio.sleep(1.0)
            found = await share(seconds) - idle
            board.cancel()
            fetching.cancel()
            await asyncio.wait([board, fetching])
    return found


async def measure_streams(number: int, seconds: float) -> float:
    """Return what so many replies on the screen take, in percent of a core."""
    with terminal() as console:
        screen = Screen.of(console)
        streams = [Stream(f"agent {name}") for name in range(number)]
        piece = ChatMessageStreamDelta("word ")
        for stream in streams:
            for _ in range(1000):
                stream.add(piece)
            screen.open(stream)
        await asyncio.sleep(0.5)
        found = await share(seconds)
        for stream in streams:
            screen.close(stream)
        await asyncio.to_thread(screen.flush)
    return found


async def measure_fleet(seconds: float) -> tuple[float, float, float]:
    """Return µs of an event, ms of a look, and percent of a core for ``manyhands top``."""
    fleet, door = Fleet(), asyncio.Event()
    agent = waiting_agent(door, observers=[fleet.observe])
    runs = [agent.arun(f"task {number}") for number in range(RUNS)]
    tasks = [asyncio.ensure_future(run) for run in runs]
    while fleet.dict(0)["waiting_on"].get("model") != RUNS:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    call = ToolCall("look", {}, "1")
    told = [
        ModelStart(runs[0].id, "m", 1, []),
        ToolStart(runs[0].id, call),
        ToolEnd(runs[0].id, call, 1, None),
    ]
    event = 1e6 * best(lambda: [fleet.observe(runs[0], one) for _ in range(3333) for one in told]) / 10_000
    look = 1e3 * best(lambda: fleet.dict(RUNS))
    with terminal() as console:
        now = fleet.dict(500)
        drawing = best(lambda: console.print(render(now, View("top"), 50)))
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return event, look, 100 * 4 * drawing


def best(work: Any) -> float:
    """Return the fewest seconds of five times."""
    found = []
    for _ in range(5):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found)


async def main(seconds: float, report: Report) -> None:
    """Measure everything."""
    board = await measure_board(seconds)
    report.add(Figure(f"board of {RUNS} runs, 4 times a second", board, "%", GOAL_SHARE, note="of one core"))
    for number in (1, 100):
        streams = await measure_streams(number, seconds)
        note = "of one core, 10 times a second"
        report.add(Figure(f"{number} replies on the screen", streams, "%", GOAL_SHARE, note=note))
    event, look, drawing = await measure_fleet(seconds)
    report.add(
        Figure("an event told to a fleet", event, "µs"),
        Figure(f"a look at a fleet of {RUNS} runs", look, "ms", note="as JSON values"),
        Figure(f"manyhands top, {RUNS} runs, 4 times a second", drawing, "%", GOAL_SHARE, note="of one core"),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What it costs to watch.")
    parser.add_argument("--quick", action="store_true", help="shorter looks")
    parser.add_argument("--json", metavar="FILE", help="write the figures to a file")
    args = parser.parse_args()
    figures = Report()
    asyncio.run(main(2.0 if args.quick else 6.0, figures))
    if args.json:
        figures.write(args.json)
    raise SystemExit(bool(figures.missed()))
