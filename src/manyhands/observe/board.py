"""A live board of many runs in the terminal: how far, how fast, waiting on what, failing how.

Four times a second it looks at the crowd, and draws what fits on the screen. The drawing is done on a worker
thread: a terminal that takes no output (Ctrl-S) stops the board and nothing else.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from manyhands._bridge import call_in_thread
from manyhands.observe.columns import Columns
from manyhands.observe.snapshot import Meter, Snapshot, counts, duration, money
from manyhands.observe.words import visible

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from rich.console import RenderableType

    from manyhands.crowd import Progress
    from manyhands.observe.snapshot import Row

_SECONDS = 0.25
_ACCENT = "#d4b702"
_MOST_ROWS = 10
# Lines of a board that are not tasks, and one for the prompt below.
_OTHER_LINES = 14
_MOST_LIMITS = 4


class Board:
    """A live board.

    Args:
        meter: Where the figures come from.
        console: The terminal; by default the standard output.
        title: What is being done.
    """

    def __init__(self, meter: Meter, console: Console | None = None, title: str = "") -> None:
        self.console = console or Console(highlight=False)
        self._meter = meter
        self._title = title
        self._live = Live(
            console=self.console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )

    async def show(self) -> None:
        """Draw until cancelled; the last state stays on the screen."""
        self._live.start()
        try:
            await self._meter.learn_price()
            while True:
                await self._draw()
                await asyncio.sleep(_SECONDS)
        finally:
            # Cancelled as this is, it waits once more, for the end must be seen; a second cancel ends that.
            last = render(self._meter.read(), self._title)
            await call_in_thread(partial(self._end, last), label="board")

    def _end(self, last: RenderableType) -> None:
        self._live.update(last)
        self._live.stop()

    async def _draw(self) -> None:
        now = self._meter.read(_MOST_ROWS)
        lines = self.console.height - _OTHER_LINES - min(len(now.limits), _MOST_LIMITS)
        picture = render(now, self._title, max(0, lines))
        await call_in_thread(partial(self._live.update, picture, refresh=True), label="board")


@asynccontextmanager
async def showing(
    progress: Progress, console: Console | None = None, title: str = "", agents: Sequence[Any] = ()
) -> AsyncIterator[Meter]:
    """Show a board of ``progress`` for the time of an ``async with``.

    Args:
        progress: The progress of a crowd.
        console: The terminal.
        title: What is being done.
        agents: The agents at work, whose limits and prices are shown.
    """
    meter = Meter(progress, agents)
    task = asyncio.create_task(Board(meter, console, title).show(), name="board")
    try:
        yield meter
    finally:
        task.cancel()
        await asyncio.wait([task])


def render(now: Snapshot, title: str = "", rows: int = _MOST_ROWS) -> RenderableType:
    """Return a snapshot as something that rich can draw.

    Args:
        now: The snapshot.
        title: What is being done.
        rows: Most tasks to list.
    """
    parts: list[RenderableType] = (
        [Text(title, style="bold", no_wrap=True, overflow="ellipsis")] if title else []
    )
    parts += [_bar(now), _figures(now)]
    if now.slowest[:rows]:
        parts.append(_slowest(now.slowest[:rows]))
    if now.note:
        parts.append(Text(now.note, style=f"bold {_ACCENT}"))
    # The cursor rests here: what the terminal echoes (^C) does not run over the edge and shift the board.
    parts.append(Text(""))
    return Group(*parts)


def _bar(now: Snapshot) -> RenderableType:
    line = Table.grid(padding=(0, 1), expand=True)
    line.add_column(ratio=1)
    line.add_column(justify="right", no_wrap=True)
    total = now.total
    bar = ProgressBar(total or 1, now.done if total else 0, complete_style=_ACCENT, finished_style="green")
    share = f"{100 * now.done // total}%" if total else ""
    of = f" of {total:,}" if total is not None else ""
    line.add_row(bar, Text(f"{now.done:,}{of}  {share}", style="bold"))
    return line


def _figures(now: Snapshot) -> RenderableType:
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style="dim", no_wrap=True, min_width=10)
    lines.add_column(overflow="ellipsis", no_wrap=True)
    lines.add_row("tasks", _totals(now))
    eta = f"   eta {duration(now.eta)}" if now.eta else ""
    lines.add_row("speed", Text(f"{now.rate:.1f}/s   elapsed {duration(now.elapsed)}{eta}"))
    tokens = f"{now.input_tokens:,} in   {now.output_tokens:,} out"
    lines.add_row("tokens", Text(tokens + money(now.money)))
    lines.add_row("waiting on", Text(counts(now.activities) or "nothing"))
    for number, limit in enumerate(now.limits[:_MOST_LIMITS]):
        lines.add_row("" if number else "limits", Text(visible(limit)))
    failures = counts(now.failures) + (f"   (retried {now.retried:,} times)" if now.retried else "")
    lines.add_row("failures", Text(failures.strip() or "none", style="red" if now.failures else ""))
    if now.last_failure:
        lines.add_row("the last", Text(visible(" ".join(now.last_failure.split())), style="red"))
    return lines


def _totals(now: Snapshot) -> Text:
    text = Text(f"{now.succeeded:,} succeeded", style="green" if now.succeeded else "")
    text.append(f"   {now.failed:,} failed", style="red" if now.failed else "default")
    text.append(f"   {now.in_flight:,} in flight", style="default")
    if now.left is not None:
        text.append(f"   {now.left:,} to go", style="default")
    if now.earlier:
        text.append(f"   {now.earlier:,} done before", style="dim")
    if now.bad:
        text.append(f"   {now.bad:,} bad lines", style="red")
    return text


def _slowest(rows: Sequence[Row]) -> RenderableType:
    cells = []
    for row in rows:
        again = f" (attempt {row.attempt})" if row.attempt > 1 else ""
        # Only what can be seen of a task is handed on to be measured.
        texts = (row.id[:40], duration(row.age), str(row.step), row.activity + again, row.task[:300])
        cells.append([visible(" ".join(text.split())) for text in texts])
    head = ("slowest", "age", "step", "waiting on", "task")
    return Columns(head, cells, right=(1, 2), most=(20, 10, 6, 28))
