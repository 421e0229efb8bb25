"""The local executor against plain ``exec`` and, if it is installed, smolagents' executor.

Run it: ``python benchmarks/executor.py``. All figures of one table come from one process, so read them as
ratios.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from manyhands.executors.local import LocalPythonExecutor

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAMS = {
    "loop": "total = 0\nfor i in range(300_000):\n    total += i & 7\ntotal",
    "while": "i = 0\nwhile i < 300_000:\n    i += 1\ni",
    "recursion": "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\nfib(24)",
    "comprehension": "total = 0\nfor _ in range(30):\n    total += len([x + 1 for x in "
    "range(10_000) if x & 1])\ntotal",
    "dict counting": (
        "words = ['a', 'b', 'c', 'd'] * 40_000\ncounts = {}\nfor w in words:\n"
        "    counts[w] = counts.get(w, 0) + 1\ncounts['a']"
    ),
    "string building": "parts = []\nfor i in range(100_000):\n    parts.append(f'{i}:{i % 7}')\n"
    "len(','.join(parts))",
    "method calls": (
        "class Counter:\n    def __init__(self):\n        self.n = 0\n    def add(self, k):\n"
        "        self.n += k\n"
        "        return self\nc = Counter()\nfor i in range(150_000):\n    c.add(i)\nc.n"
    ),
    "lambda sort": "xs = [(i * 7919) % 100_003 for i in range(60_000)]\nsorted(xs, key=lambda x: -x)[0]",
}
STEP = "x = 41\ny = x + 1\nprint(y)"
SLOW = ("recursion", "loop")


def best(call: Callable[[], object], rounds: int) -> float:
    """The shortest of several runs, in seconds."""
    times = []
    for _ in range(rounds):
        gc.collect()
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def plain(source: str) -> Callable[[], object]:
    code = compile(source, "<plain>", "exec")
    return lambda: exec(code, {})


def ours(source: str) -> Callable[[], object]:
    executor = LocalPythonExecutor()
    return lambda: executor.spawn()(source)


def smolagents(source: str) -> Callable[[], object] | None:
    """Their executor, when it is there."""
    if importlib.util.find_spec("smolagents") is None:
        return None
    from smolagents.local_python_executor import (  # type: ignore[import-not-found]
        BASE_PYTHON_TOOLS,
        evaluate_python_code,
    )

    return lambda: evaluate_python_code(source, dict(BASE_PYTHON_TOOLS), state={}, timeout_seconds=600)


def speed() -> None:
    """Programs that compute."""
    print(f"\n{'program':18}{'plain ms':>10}{'ours ms':>10}{'ratio':>8}{'smolagents':>12}")
    for name, source in PROGRAMS.items():
        run_plain, run_ours = plain(source), ours(source)
        pairs = [(best(run_plain, 1), best(run_ours, 1)) for _ in range(9)]
        base, mine = min(p for p, _ in pairs), min(m for _, m in pairs)
        theirs = smolagents(source.replace("300_000", "30_000"))
        scale = 10 if "300_000" in source else 1
        ratio = f"{best(theirs, 1) * scale / base:10.0f}x" if theirs else "-"
        print(f"{name:18}{base * 1e3:10.2f}{mine * 1e3:10.2f}{mine / base:8.2f}{ratio:>12}")


async def steps() -> None:
    """One small step: with the rewrite, and when the same source was compiled before."""
    executor = LocalPythonExecutor()
    await executor.acall(STEP)
    cold, warm = [], []
    for i in range(400):
        source = STEP.replace("41", str(i))
        start = time.perf_counter()
        await executor.acall(source)
        cold.append(time.perf_counter() - start)
        start = time.perf_counter()
        await executor.acall(source)
        warm.append(time.perf_counter() - start)
    print(f"\nthree-line step: {statistics.median(cold) * 1e6:.0f} µs with the rewrite, "
          f"{statistics.median(warm) * 1e6:.0f} µs compiled before")  # fmt: skip


def resident() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def waiting(count: int = 1000) -> None:
    """Agents that wait in a tool: memory and overhead."""
    release = asyncio.Event()

    async def held(x: int) -> int:
        await release.wait()
        return x

    base = LocalPythonExecutor()
    executors = [base.spawn() for _ in range(count)]
    for executor in executors:
        executor.send_tools({"held": held})
    await executors[0].spawn().acall("1")
    gc.collect()
    before = resident()
    tasks = [asyncio.create_task(e.acall("total = [held(i) for i in range(1)]\ntotal")) for e in executors]
    await asyncio.sleep(0.5)
    gc.collect()
    print(f"{count} agents waiting in a tool: {(resident() - before) / count / 1024:.1f} KiB each")
    release.set()
    await asyncio.gather(*tasks)

    async def brief(x: int) -> int:
        await asyncio.sleep(0.05)
        return x

    executors = [base.spawn() for _ in range(count)]
    for executor in executors:
        executor.send_tools({"brief": brief})
    start = time.perf_counter()
    await asyncio.gather(*[e.acall("t = 0\nfor i in range(5):\n    t += brief(i)\nt") for e in executors])
    took = time.perf_counter() - start
    print(f"{count} agents x 5 awaits of 50 ms: {took:.3f} s, {took / 0.25:.2f}x the ideal")


async def fairness(loops: int = 20, seconds: float = 2.0) -> None:
    """Endless loops beside a ticker, and how soon they are gone."""
    base = LocalPythonExecutor(timeout_seconds=600)
    lags: list[float] = []

    async def ticker() -> None:
        while True:
            start = time.perf_counter()
            await asyncio.sleep(0.001)
            lags.append(time.perf_counter() - start - 0.001)

    tick = asyncio.create_task(ticker())
    tasks = [asyncio.create_task(base.spawn().acall("n = 0\nwhile True:\n    n += 1")) for _ in range(loops)]
    await asyncio.sleep(seconds)
    tick.cancel()
    start = time.perf_counter()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    gone = time.perf_counter() - start
    lags.sort()
    print(f"{loops} endless loops: lag p50 {lags[len(lags) // 2] * 1e3:.1f} ms, "
          f"p99 {lags[int(len(lags) * 0.99)] * 1e3:.1f} ms, max {lags[-1] * 1e3:.1f} ms; "
          f"all cancelled in {gone * 1e3:.1f} ms")  # fmt: skip


def main() -> None:
    """Print all tables."""
    print(f"Python {sys.version.split()[0]}")
    speed()
    asyncio.run(steps())
    asyncio.run(waiting())
    asyncio.run(fairness())


if __name__ == "__main__":
    main()
