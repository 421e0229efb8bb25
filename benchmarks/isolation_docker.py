"""What containers as the wall cost: to start, to take a ready one, to call a tool, and in memory.

    python benchmarks/isolation_docker.py            # about a minute
    python benchmarks/isolation_docker.py --quick

It uses the engine that ``DOCKER_HOST`` names, or a running one, with the official Python image. Where none
runs, root gets one of its own for the time (see ``tests/executors/isolated/engine.py``), of this Python.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from _meter import Figure, Report, median
from tests.executors.isolated.engine import IMAGE, started_engine

from manyhands.executors.isolated.docker import DockerExecutor
from manyhands.executors.isolated.docker_address import find_engine
from manyhands.executors.isolated.docker_engine import EngineError, engine_at

if TYPE_CHECKING:
    from collections.abc import Iterator

_CALLS = """
import time
def timed():
    start = time.perf_counter()
    for number in range({calls}):
        echo(number)
    return (time.perf_counter() - start) / {calls}
timed()
"""


@contextlib.contextmanager
def engine() -> Iterator[dict[str, Any]]:
    """Give the parameters that lead to an engine: a running one, or one of our own."""
    with contextlib.suppress(EngineError):
        asyncio.run(_reach())
        yield {}
        return
    with started_engine() as own:
        yield {"host": own.host, "image": IMAGE}


async def _reach() -> None:
    await (await engine_at(find_engine())).open()


async def cold_start(report: Report, options: dict[str, Any], rounds: int) -> None:
    """From nothing to the value of the first line."""
    executor = DockerExecutor(warm_workers=0, **options)
    await executor.acall("1")  # the image is there now
    starts, ends = [], []
    for _ in range(rounds):
        run = executor.spawn()
        start = time.perf_counter()
        await run.acall("1")
        starts.append(time.perf_counter() - start)
        await run.acleanup()
        ends.append(time.perf_counter() - start - starts[-1])
    await executor.acleanup()
    report.add(Figure("cold start: a container, Python in it, the first line", median(starts) * 1e3, "ms"))
    report.add(Figure("the end: killed and removed", median(ends) * 1e3, "ms"))


async def warm_checkout(report: Report, options: dict[str, Any], rounds: int) -> None:
    """The first line of a run where containers are kept ready."""
    executor = DockerExecutor(warm_workers=1, **options)
    waits = []
    for _ in range(rounds):
        await executor.prepare()
        run = executor.spawn()
        start = time.perf_counter()
        await run.acall("1")
        waits.append(time.perf_counter() - start)
        await run.acleanup()
    await executor.acleanup()
    report.add(Figure("warm checkout, with the first line", median(waits) * 1e3, "ms", 5))


async def round_trip(report: Report, options: dict[str, Any], rounds: int) -> None:
    """A tool call, measured inside the container; and a whole step."""

    async def echo(number: int) -> int:
        return number

    executor = DockerExecutor(warm_workers=0, **options)
    executor.send_tools({"echo": echo})
    calls = [(await executor.acall(_CALLS.format(calls=500))).output for _ in range(rounds)]
    steps = []
    for number in range(200):
        start = time.perf_counter()
        await executor.acall(f"x = {number} + 1\nx")
        steps.append(time.perf_counter() - start)
    await executor.acleanup()
    report.add(Figure("round trip of a tool call", median(calls) * 1e3, "ms", 2))
    report.add(Figure("a step of two lines", median(steps) * 1e3, "ms"))


async def memory(report: Report, options: dict[str, Any], count: int) -> None:
    """What containers hold that wait in a tool, as the engine counts it."""
    executor = DockerExecutor(warm_workers=0, max_workers=None, **options)
    runs = [executor.spawn() for _ in range(count)]
    for run in runs:
        await run.acall("x = 1")
    there = await engine_at(find_engine(options.get("host")))
    listed = await there.ask("GET", "/containers/json", filters='{"label":["manyhands.owner"]}')
    used = []
    for entry in listed:
        stats = await there.ask(
            "GET", f"/containers/{entry['Id']}/stats", stream="false", **{"one-shot": "1"}
        )
        used.append(stats["memory_stats"]["usage"] / 2**20)
    await asyncio.gather(*(run.acleanup() for run in runs))
    await executor.acleanup()
    report.add(Figure("memory of a container with its variables", median(used), "MiB", note=f"{count} alive"))


async def crowd(report: Report, options: dict[str, Any], count: int) -> None:
    """Many runs at once through eight containers; each gets one of its own."""
    executor = DockerExecutor(warm_workers=0, max_workers=8, **options)

    async def one(number: int) -> int:
        run = executor.spawn()
        try:
            return int((await run.acall(f"{number} * 2")).output)
        finally:
            await run.acleanup()

    start = time.perf_counter()
    results = await asyncio.gather(*(one(number) for number in range(count)))
    seconds = time.perf_counter() - start
    await executor.acleanup()
    lost = sum(result != 2 * number for number, result in enumerate(results))
    report.add(Figure(f"{count} runs through 8 containers", seconds, "s"))
    report.add(Figure("   lost or mixed up", lost, "", 0))


async def everything(report: Report, options: dict[str, Any], quick: bool) -> None:
    """Measure it all."""
    rounds = 5 if quick else 15
    await cold_start(report, options, rounds)
    await warm_checkout(report, options, rounds)
    await round_trip(report, options, rounds)
    await memory(report, options, 5 if quick else 20)
    await crowd(report, options, 20 if quick else 100)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", metavar="FILE", help="write the figures to a file")
    chosen = parser.parse_args()
    report = Report()
    try:
        with engine() as options:
            asyncio.run(everything(report, options, chosen.quick))
    except RuntimeError as error:
        print(f"No container engine, no figures: {error}")
        return 0
    if chosen.json:
        report.write(chosen.json, load=os.getloadavg())
    return 0


if __name__ == "__main__":
    sys.exit(main())
