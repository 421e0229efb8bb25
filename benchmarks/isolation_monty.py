"""What Monty as the wall costs: to start, for a step, for a tool call, and for code that waits.

python benchmarks/isolation_monty.py            # some seconds
python benchmarks/isolation_monty.py --quick
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
import time
import tracemalloc
from pathlib import Path

from _meter import Figure, Report, median

from manyhands.executors.monty import MontyExecutor

_CALLS = 500


async def starts(report: Report, rounds: int) -> None:
    """From nothing to the value of the first line, and the same when there is a worker."""
    cold, warm = [], []
    for number in range(rounds):
        executor = MontyExecutor(memory_mb=100 + number)  # one that shares no workers
        start = time.perf_counter()
        await executor.acall("1")
        cold.append(time.perf_counter() - start)
        start = time.perf_counter()
        await executor.spawn().acall("1")
        warm.append(time.perf_counter() - start)
        await executor.acleanup()
    report.add(Figure("cold start: a worker, the first line", median(cold) * 1e3, "ms"))
    report.add(Figure("the first line of a run where there is a worker", median(warm) * 1e3, "ms", 5))


async def steps(report: Report, rounds: int) -> None:
    """A tool call, and a whole step with its variables taken up and put away."""

    async def echo(number: int) -> int:
        return number

    executor = MontyExecutor()
    executor.send_tools({"echo": echo})
    calls = []
    for _ in range(rounds):
        start = time.perf_counter()
        await executor.acall(f"for i in range({_CALLS}): echo(i)")
        calls.append((time.perf_counter() - start) / _CALLS)
    whole = []
    for number in range(200):
        start = time.perf_counter()
        await executor.acall(f"x = {number} + 1\nx")
        whole.append(time.perf_counter() - start)
    await executor.acleanup()
    report.add(Figure("round trip of a tool call", median(calls) * 1e3, "ms", 0.5))
    report.add(Figure("a step of two lines", median(whole) * 1e3, "ms"))


async def waiting(report: Report, count: int) -> None:
    """What code costs that waits for a person: memory here, and workers."""
    asked, answer = asyncio.Semaphore(0), asyncio.Event()

    async def person(question: int) -> int:
        asked.release()
        await answer.wait()
        return question

    base = MontyExecutor(max_workers=2)
    runs = [base.spawn() for _ in range(count)]
    for run in runs:
        run.send_tools({"person": person})
    await base.acall("1")
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tasks = [asyncio.create_task(run.acall(f"x = {n}\ny = person(x)\nx + y")) for n, run in enumerate(runs)]
    for _ in tasks:
        await asked.acquire()
    # Who waits for a worker makes those who hold one and wait give it back.
    await asyncio.gather(*(base.spawn().acall("1") for _ in range(4)))
    gc.collect()
    used = (tracemalloc.get_traced_memory()[0] - before) / count / 1024
    tracemalloc.stop()
    start = time.perf_counter()
    answer.set()
    results = [result.output for result in await asyncio.gather(*tasks)]
    seconds = time.perf_counter() - start
    await base.acleanup()
    lost = sum(result != 2 * number for number, result in enumerate(results))
    report.add(Figure("memory of code that waits, its task included", used, "KiB", note=f"{count} wait"))
    report.add(Figure(f"{count} of them taken up again, two workers", seconds, "s"))
    report.add(Figure("   lost or mixed up", lost, "", 0))


async def crowd(report: Report, count: int) -> None:
    """Many runs at once through eight workers."""
    base = MontyExecutor(max_workers=8)

    async def one(number: int) -> int:
        run = base.spawn()
        try:
            return int((await run.acall(f"{number} * 2")).output)
        finally:
            await run.acleanup()

    start = time.perf_counter()
    results = await asyncio.gather(*(one(number) for number in range(count)))
    seconds = time.perf_counter() - start
    sizes = _sizes_of_workers()
    await base.acleanup()
    lost = sum(result != 2 * number for number, result in enumerate(results))
    report.add(Figure(f"{count} runs through 8 workers", seconds, "s"))
    report.add(Figure("   lost or mixed up", lost, "", 0))
    if sizes:
        report.add(Figure("memory of a worker", median(sizes), "MiB", note=f"{len(sizes)} alive"))


def _sizes_of_workers() -> list[float]:
    return [_resident(folder) for folder in Path("/proc").glob("[0-9]*") if _is_worker(folder)]


def _is_worker(folder: Path) -> bool:
    try:
        parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
        return int(parent) == os.getpid() and "monty" in (folder / "comm").read_text()
    except OSError:
        return False


def _resident(folder: Path) -> float:
    pages = int((folder / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


async def everything(report: Report, quick: bool) -> None:
    """Measure it all."""
    rounds = 5 if quick else 20
    await starts(report, rounds)
    await steps(report, rounds)
    await waiting(report, 100 if quick else 1000)
    await crowd(report, 50 if quick else 200)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", metavar="FILE", help="write the figures to a file")
    chosen = parser.parse_args()
    report = Report()
    asyncio.run(everything(report, chosen.quick))
    if chosen.json:
        report.write(chosen.json, load=os.getloadavg())
    return 0


if __name__ == "__main__":
    sys.exit(main())
