"""What all benchmarks measure with, and how they show it.

CPU time is the process's own; the server is another process. The loop's lag is that of a 1-ms ticker.
Figures that are compared are measured in turns, in one process where that is fair, and the median of
the rounds counts: the machine has other things to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

HERE = Path(__file__).parent


def raise_file_limit() -> None:
    """Let the process open as many connections as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@dataclass(slots=True)
class Spent:
    """What some work took."""

    cpu: float
    wall: float
    lags: list[float]
    results: Any = None

    def lag(self, share: float = 0.99) -> float:
        """Return the lag that ``share`` of the ticks stayed under, in seconds."""
        return sorted(self.lags)[int(share * (len(self.lags) - 1))] if self.lags else 0.0


async def spend(work: Callable[[], Awaitable[Any]], *, ticker: bool = False) -> Spent:
    """Do ``work`` once, and return what it took.

    Args:
        work: What to do.
        ticker: Measure the loop's lag too; that costs CPU itself.
    """
    gc.collect()
    lags: list[float] = []
    ticking = asyncio.create_task(_tick(lags)) if ticker else None
    cpu, wall = time.process_time(), time.perf_counter()
    results = await work()
    spent = Spent(time.process_time() - cpu, time.perf_counter() - wall, lags, results)
    if ticking is not None:
        ticking.cancel()
    return spent


async def _tick(lags: list[float]) -> None:
    before = time.perf_counter()
    while True:
        await asyncio.sleep(0.001)
        now = time.perf_counter()
        lags.append(max(0.0, now - before - 0.001))
        before = now


def resident() -> int:
    """Return the bytes of memory that the process holds now."""
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def fresh(script: str, *arguments: str) -> Any:
    """Run a script of this folder in a fresh process; return the JSON that it prints."""
    done = subprocess.run(
        [sys.executable, str(HERE / script), *arguments], stdout=subprocess.PIPE, check=True, text=True
    )
    return json.loads(done.stdout)


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


# --- Showing it ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Figure:
    """One line of a table.

    Attributes:
        name: What was measured.
        value: What came out.
        unit: In what.
        goal: What it has to reach, if it has to.
        at_least: Whether more is better.
        note: What it is made of.
    """

    name: str
    value: float
    unit: str = ""
    goal: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached, ``None`` if there is none."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.at_least else self.value <= self.goal

    def cells(self) -> tuple[str, str, str, str, str]:
        """Return the figure as texts."""
        sign = "≥" if self.at_least else "≤"
        goal = "" if self.goal is None else f"{sign} {_shown(self.goal)} {self.unit}".strip()
        verdict = {True: "reached", False: "MISSED", None: ""}[self.reached]
        return self.name, f"{_shown(self.value)} {self.unit}".strip(), goal, verdict, self.note


def _shown(value: float) -> str:
    if value == int(value):
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


_HEAD = ("figure", "measured", "goal", "verdict", "made of")


class Report:
    """Figures as they come, printed at once."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []

    def add(self, *figures: Figure) -> None:
        """Take figures, and print them."""
        if not self.figures:
            print(_line(_HEAD), flush=True)
        self.figures += figures
        for figure in figures:
            print(_line(figure.cells()), flush=True)

    def markdown(self) -> Iterator[str]:
        """Yield the lines of a table."""
        yield "| " + " | ".join(_HEAD) + " |"
        yield "|" + "---|" * len(_HEAD)
        for figure in self.figures:
            yield "| " + " | ".join(figure.cells()) + " |"

    def write(self, file: str, **about: Any) -> None:
        """Write everything to a JSON file."""
        figures = [{**asdict(figure), "reached": figure.reached} for figure in self.figures]
        about = {"python": platform.python_version(), "cpus": os.cpu_count(), **about}
        Path(file).write_text(json.dumps({**about, "figures": figures}, indent=1) + "\n", encoding="utf-8")

    def missed(self) -> list[Figure]:
        """Return the figures that miss their goal."""
        return [figure for figure in self.figures if figure.reached is False]


def _line(cells: Sequence[str]) -> str:
    return "{:<58} {:>12} {:>12} {:<8} {}".format(*cells)
