"""Code behind a wall of a process: how long it takes to start, to be had, to call a tool, and what it holds.

Run it: ``python benchmarks/isolation.py``. All figures come from one process on one machine, so read them as
ratios.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from manyhands.executors.isolated.process import ProcessExecutor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def median(act: Callable[[], Awaitable[object]], rounds: int) -> float:
    """The median time of ``act``, in milliseconds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        await act()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000


async def cold_start() -> float:
    """From nothing to the first value."""

    async def act() -> None:
        executor = ProcessExecutor(warm_workers=0)
        await executor.acall("1")
        await executor.acleanup()

    return await median(act, 15)


async def warm_checkout() -> float:
    """A guest that is ready, handed to a run."""
    executor = ProcessExecutor(warm_workers=1)
    times = []
    for _ in range(15):
        await executor.prepare()
        start = time.perf_counter()
        lease = await executor._pool.lease()
        times.append(time.perf_counter() - start)
        await lease.aclose()
    await executor.acleanup()
    return statistics.median(times) * 1000


async def round_trips() -> tuple[float, float, float]:
    """A step, a call of an async tool, and one of a hundred calls at once; milliseconds each."""

    async def echo(value: object) -> object:
        return value

    executor = ProcessExecutor(warm_workers=0)
    executor.send_tools({"echo": echo})
    await executor.acall("1")
    step = await median(lambda: executor.acall("x = 1"), 200)
    rounds = (
        "import time\nt = time.perf_counter()\nfor i in range(500): echo(i)\n(time.perf_counter() - t) / 500"
    )
    call = statistics.median([(await executor.acall(rounds)).output for _ in range(7)]) * 1000
    together = await median(lambda: executor.acall("parallel(echo, range(1000))"), 7) / 1000
    await executor.acleanup()
    return step, call, together


def held_by(pid: int) -> tuple[int, int]:
    """Memory of a process and of all below it, in KiB: their own share, and what only they have."""
    share = own = 0
    pids = [pid]
    while pids:
        one = Path(f"/proc/{pids.pop()}")
        for line in (one / "smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            share += int(rest.split()[0]) if name == "Pss" else 0
            own += int(rest.split()[0]) if name in ("Private_Clean", "Private_Dirty") else 0
        pids += map(int, (one / "task" / one.name / "children").read_text().split())
    return share, own


async def memory() -> tuple[float, float]:
    """Memory of one of ten live executors, in MiB."""
    executors = [ProcessExecutor(warm_workers=0) for _ in range(10)]
    await asyncio.gather(*[executor.acall("1") for executor in executors])
    held = []
    for executor in executors:
        assert executor._lease is not None
        held.append(held_by(executor._lease.link._channel.pid))  # type: ignore[attr-defined]
    for executor in executors:
        await executor.acleanup()
    return statistics.mean(h[0] for h in held) / 1024, statistics.mean(h[1] for h in held) / 1024


async def crowd(runs: int, workers: int) -> float:
    """Seconds that many runs of two steps take through few guests."""
    base = ProcessExecutor(max_workers=workers, warm_workers=2)

    async def one(number: int) -> int:
        executor = base.spawn()
        await executor.acall(f"x = {number}")
        value = (await executor.acall("x * 2")).output
        await executor.acleanup()
        return int(value)

    start = time.perf_counter()
    assert await asyncio.gather(*map(one, range(runs))) == [2 * n for n in range(runs)]
    took = time.perf_counter() - start
    await base.acleanup()
    return took


async def main() -> None:
    print(f"cold start                         {await cold_start():8.1f} ms")
    print(f"warm checkout                      {await warm_checkout():8.2f} ms")
    step, call, together = await round_trips()
    print(f"a step                             {step:8.2f} ms")
    print(f"a call of a tool                   {call:8.3f} ms")
    print(f"one of a thousand calls at once    {together:8.3f} ms")
    if sys.platform.startswith("linux"):
        share, own = await memory()
        print(f"memory of a live executor          {share:8.1f} MiB ({own:.1f} of it its own)")
    print(f"200 runs through 8 guests          {await crowd(200, 8):8.1f} s")


if __name__ == "__main__":
    asyncio.run(main())
