"""Replies while they are written: each has its lines on the screen, and the screen its height.

A piece of a reply costs an append. What can be seen of it is worked out when the screen is drawn, a few times
a second, from the last characters only: a long reply costs as much as a short one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Group
from rich.text import Text

from manyhands.observe.words import visible

if TYPE_CHECKING:
    from rich.console import ConsoleDimensions, RenderableType

    from manyhands.messages import ChatMessageStreamDelta

# Lines that are left to what stands above the replies.
_LINES_ABOVE = 3
# Of one reply, where it has the screen for itself.
_MOST_LINES = 30


BROKEN = "(The stream broke here; the reply begins anew.)"


class Stream:
    """One reply that is being written.

    Args:
        title: Whose it is, and what: ``researcher · step 2``.
        style: Style of the title.
    """

    __slots__ = ("_began", "_length", "_parts", "style", "title")

    def __init__(self, title: str, style: str = "bold") -> None:
        self.title = title
        self.style = style
        self._parts: list[str] = []
        self._length = 0
        self._began = time.monotonic()

    def add(self, delta: ChatMessageStreamDelta) -> None:
        """Take a piece of the reply."""
        if delta.restart:
            self._append(f"\n{BROKEN}\n")
        if delta.reasoning_content:
            self._append(delta.reasoning_content)
        if delta.content:
            self._append(delta.content)
        for piece in delta.tool_calls or ():
            if piece.function is None:
                continue
            if piece.function.name:
                self._append(f"{chr(10) if self._parts else ''}{piece.function.name} ")
            if isinstance(piece.function.arguments, str):
                self._append(piece.function.arguments)

    def _append(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)

    @property
    def text(self) -> str:
        """The reply so far."""
        return "".join(self._parts)

    def tail(self, length: int) -> str:
        """Return the last characters, at least ``length`` where there are so many."""
        found: list[str] = []
        for part in reversed(self._parts[-length:]):
            found.append(part)
            length -= len(part)
            if length <= 0:
                break
        return "".join(reversed(found))

    def head(self) -> Text:
        """Return the line above the reply."""
        text = Text(visible(self.title), style=self.style, no_wrap=True, overflow="ellipsis")
        text.append(f"  {time.monotonic() - self._began:.0f}s  {self._length:,} characters", style="dim")
        return text


def region(streams: list[Stream], size: ConsoleDimensions) -> RenderableType:
    """Return what is being written, as much of it as fits.

    Args:
        streams: The replies, oldest first.
        size: Size of the console.
    """
    space = max(2, size.height - _LINES_ABOVE)
    shown = streams[: max(1, space // 2)]
    left_out = len(streams) - len(shown)
    each = min(_MOST_LINES, max(1, (space - bool(left_out)) // len(shown) - 1))
    parts: list[RenderableType] = []
    for stream in shown:
        parts.append(stream.head())
        lines = last_lines(stream.tail(each * size.width), each, size.width - 2)
        if lines:
            # One text for all lines: rich takes its time for each.
            parts.append(Text("\n".join(f"│ {line}" for line in lines), no_wrap=True, overflow="crop"))
    if left_out:
        parts.append(Text(f"… and {left_out:,} more that write", style="dim", no_wrap=True))
    return Group(*parts)


def last_lines(text: str, count: int, width: int) -> list[str]:
    """Return the last lines of a text, folded to a width.

    Args:
        text: The text.
        count: Most lines.
        width: Most cells of a line.
    """
    found: list[str] = []
    for line in reversed(visible(text).expandtabs(4).split("\n")):
        found += reversed(_folded(line, max(1, width)))
        if len(found) >= count:
            break
    return found[:count][::-1]


def _folded(line: str, width: int) -> list[str]:
    if line.isascii():
        return [line[start : start + width] for start in range(0, len(line), width)] or [""]
    pieces, piece, cells = [], "", 0
    for letter in line:
        wide = cell_len(letter)
        if cells + wide > width:
            pieces.append(piece)
            piece, cells = "", 0
        piece += letter
        cells += wide
    return [*pieces, piece]
