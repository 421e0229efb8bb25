"""Rows of texts in columns, made in one go: a table of rich measures each cell three times."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console, ConsoleOptions, RenderResult

_GAP = 2


class Columns:
    """Rows under a head and a line, as wide as the screen; the last column takes what is left.

    Args:
        head: Names of the columns.
        rows: Their texts, each without line ends.
        right: Columns whose texts stand on the right, counted from 0.
        most: Most cells of each column but the last.
    """

    def __init__(
        self, head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int], most: Sequence[int]
    ) -> None:
        self._head = head
        self._rows = rows
        self._right = right
        self._widths = [
            min(limit, max(map(cell_len, column)))
            for limit, column in zip(most, zip(head, *rows, strict=True), strict=False)
        ]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        yield Text("")
        yield Text(self._line(self._head, width), style="dim", no_wrap=True)
        yield Text("─" * width, style="dim", no_wrap=True)
        if self._rows:
            yield Text("\n".join(self._line(row, width) for row in self._rows), no_wrap=True)

    def _line(self, cells: Sequence[str], width: int) -> str:
        return _fitted("".join(self._cells(cells)), width).rstrip()

    def _cells(self, cells: Sequence[str]) -> Iterator[str]:
        for place, (cell, width) in enumerate(zip(cells, self._widths, strict=False)):
            text = _fitted(cell, width)
            if place in self._right:
                text = text.strip().rjust(width)
            yield text + " " * _GAP
        yield cells[-1]


def _fitted(text: str, width: int) -> str:
    """Return a text of this width, cut where it is longer."""
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    return set_cell_size(text, max(0, width - 1)) + "…"
