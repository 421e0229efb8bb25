"""HTML pages as Markdown: what a model reads of a page, in one pass over its tags."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import urljoin

if TYPE_CHECKING:
    from collections.abc import Callable

# Elements inside elements beyond this depth are read as if they lay side by side: no real page goes
# there, and a page made to go there must not cost more than its length.
_MAX_DEPTH = 50

_SKIPPED = frozenset({"script", "style", "noscript", "template", "svg", "iframe", "object", "canvas"})
_PARAGRAPHS = frozenset(
    {"p", "div", "section", "article", "main", "header", "footer", "aside", "nav", "figure", "figcaption"}
    | {"form", "fieldset", "address", "dl", "dd", "dt", "details", "summary", "body"}
)
_MARKS = {"strong": "**", "b": "**", "em": "*", "i": "*", "code": "`", "kbd": "`", "del": "~~", "s": "~~"}


def html_to_markdown(html: str, base_url: str = "") -> str:
    """Return the text of a page as Markdown.

    Args:
        html: The page; broken HTML is read as far as it makes sense.
        base_url: Its address, for links that are relative to it.
    """
    writer = _Writer(base_url)
    writer.feed(html)
    writer.close()
    return writer.text()


class _Writer(HTMLParser):
    """Writes Markdown while tags go by.

    Text goes to the innermost of a stack of buffers; elements whose text has to be known as a whole
    (links, cells, quotes) have a buffer of their own, that their end tag closes.
    """

    def __init__(self, base_url: str) -> None:
        super().__init__(convert_charrefs=True)
        self._base = base_url
        self._buffers: list[tuple[str, list[str], str]] = [("", [], "")]
        self._skipping = 0
        self._preformatted = 0
        self._lists: list[int | None] = []
        self._rows: list[list[str]] = []
        self._is_first_row: list[bool] = []

    def text(self) -> str:
        """Return what has been written."""
        while len(self._buffers) > 1 or self._rows:  # elements that nobody closed
            if self._rows:
                self._end_row()
            else:
                self._close_buffer(self._buffers[-1][0])
        whole = "".join(self._buffers[0][1])
        whole = re.sub(r"[ \t]+\n", "\n", whole)
        return re.sub(r"\n{3,}", "\n\n", whole).strip()

    # - What the parser tells -

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SKIPPED:
            self._skipping += 1
        if self._skipping:
            return
        given = {name: value or "" for name, value in attrs}
        if tag in _MARKS and not self._preformatted:
            self._write(_MARKS[tag])
        elif re.fullmatch("h[1-6]", tag):
            self._break(2)
            self._write("#" * int(tag[1]) + " ")
        elif tag in _PARAGRAPHS:
            self._break(2)
        elif tag == "a":
            if self._buffers[-1][0] == "a":  # links do not nest
                self._close_buffer("a")
            self._open_buffer("a", given.get("href", ""))
        elif tag in _STARTS:
            _STARTS[tag](self, given)

    def handle_endtag(self, tag: str) -> None:
        if tag in _SKIPPED:
            self._skipping = max(0, self._skipping - 1)
            return
        if self._skipping:
            return
        if tag in _MARKS and not self._preformatted:
            self._write(_MARKS[tag])
        elif re.fullmatch("h[1-6]", tag) or tag in _PARAGRAPHS or tag == "title":
            self._break(2)
        elif tag in ("a", "blockquote"):
            self._close_buffer(tag)
        elif tag in _ENDS:
            _ENDS[tag](self)

    def handle_data(self, data: str) -> None:
        if self._skipping:
            return
        if self._preformatted:
            self._write(data)
            return
        data = re.sub(r"\s+", " ", data)
        written = self._buffers[-1][1]
        if not written or written[-1][-1:].isspace():
            data = data.lstrip()
        self._write(data)

    # - Writing -

    def _write(self, text: str) -> None:
        if text:
            self._buffers[-1][1].append(text)

    def _break(self, lines: int) -> None:
        """End the line, or the paragraph, unless nothing has been written since the last one."""
        written = self._buffers[-1][1]
        if not written:
            return
        ended = len(written[-1]) - len(written[-1].rstrip("\n"))
        self._write("\n" * (lines - ended))

    def _open_buffer(self, tag: str, target: str = "") -> None:
        if len(self._buffers) < _MAX_DEPTH:
            self._buffers.append((tag, [], target))

    def _close_buffer(self, tag: str) -> None:
        """Close the buffer of ``tag`` and those that were left open inside it."""
        if not any(opened == tag for opened, _, _ in self._buffers[1:]):
            return
        while True:
            opened, written, target = self._buffers.pop()
            self._place(opened, "".join(written).strip(), target)
            if opened == tag:
                return

    def _place(self, tag: str, text: str, target: str) -> None:
        if tag == "a":
            self._write(self._link(" ".join(text.split()), target))
        elif tag == "blockquote":
            self._break(2)
            self._write("\n".join(f"> {line}" for line in text.splitlines()))
            self._break(2)
        elif self._rows:
            self._rows[-1].append(text)
        else:  # a cell outside any row
            self._write(text)

    def _link(self, label: str, target: str) -> str:
        if not label or not target or target.startswith(("#", "javascript:")):
            return label
        return f"[{label}]({urljoin(self._base, target)})"

    # - Elements -

    def _start_list(self, ordered: bool) -> None:
        self._break(1 if self._lists else 2)
        self._lists.append(1 if ordered else None)

    def _end_list(self) -> None:
        if self._lists:
            self._lists.pop()
        self._break(1 if self._lists else 2)

    def _start_item(self) -> None:
        self._break(1)
        number = self._lists[-1] if self._lists else None
        if number is not None:
            self._lists[-1] = number + 1
        self._write(
            "  " * min(max(0, len(self._lists) - 1), _MAX_DEPTH)
            + (f"{number}. " if number is not None else "- ")
        )

    def _start_pre(self) -> None:
        self._break(2)
        self._write("```\n")
        self._preformatted += 1

    def _end_pre(self) -> None:
        if self._preformatted:
            self._preformatted -= 1
            self._break(1)
            self._write("```")
            self._break(2)

    def _start_table(self) -> None:
        self._break(2)
        self._is_first_row.append(True)

    def _end_table(self) -> None:
        if self._is_first_row:
            self._end_open_row()
            self._is_first_row.pop()
        self._break(2)

    def _start_row(self) -> None:
        self._end_open_row()
        if len(self._rows) < _MAX_DEPTH:
            self._rows.append([])

    def _end_open_row(self) -> None:
        """End the row of the innermost table: its end tag may be left out."""
        if self._rows and len(self._rows) >= len(self._is_first_row):
            self._end_row()

    def _start_cell(self) -> None:
        self._end_cell()
        self._open_buffer("td")

    def _end_cell(self) -> None:
        """End the cell of the innermost row, if one is open there."""
        if self._rows and sum(tag == "td" for tag, _, _ in self._buffers) >= len(self._rows):
            self._close_buffer("td")

    def _end_row(self) -> None:
        self._end_cell()
        cells = self._rows.pop() if self._rows else []
        if not any(cells):
            return
        self._break(1)
        if len(cells) == 1 or any("\n" in cell for cell in cells):  # a table that only makes a layout
            self._write("\n".join(cell for cell in cells if cell))
        else:
            self._write(f"| {' | '.join(cells)} |")
            if self._is_first_row and self._is_first_row[-1]:
                self._write(f"\n|{' --- |' * len(cells)}")
        if self._is_first_row:
            self._is_first_row[-1] = False
        self._break(1)

    def _rule(self) -> None:
        self._break(2)
        self._write("---")
        self._break(2)

    def _start_image(self, given: dict[str, str]) -> None:
        if given.get("alt") and not given.get("src", "").startswith("data:"):
            self._write(f"![{given['alt']}]({urljoin(self._base, given.get('src', ''))})")


_STARTS: dict[str, Callable[[_Writer, dict[str, str]], None]] = {
    "br": lambda writer, _: writer._write("\n"),
    "hr": lambda writer, _: writer._rule(),
    "ul": lambda writer, _: writer._start_list(ordered=False),
    "ol": lambda writer, _: writer._start_list(ordered=True),
    "li": lambda writer, _: writer._start_item(),
    "pre": lambda writer, _: writer._start_pre(),
    "table": lambda writer, _: writer._start_table(),
    "tr": lambda writer, _: writer._start_row(),
    "td": lambda writer, _: writer._start_cell(),
    "th": lambda writer, _: writer._start_cell(),
    "blockquote": lambda writer, _: writer._open_buffer("blockquote"),
    "img": lambda writer, given: writer._start_image(given),
}

_ENDS: dict[str, Callable[[_Writer], None]] = {
    "ul": _Writer._end_list,
    "ol": _Writer._end_list,
    "li": lambda writer: writer._break(1),
    "pre": _Writer._end_pre,
    "table": _Writer._end_table,
    "tr": _Writer._end_open_row,
    "td": _Writer._end_cell,
    "th": _Writer._end_cell,
}
