"""What the code prints, and how its values are shown: bounded, and in linear time."""

from __future__ import annotations

import reprlib
from collections import deque
from typing import Any

#: Characters of printed text that are kept unless the executor is told otherwise.
DEFAULT_MAX_PRINT = 50_000
#: Characters of a value's text; the agent's loop shows a model fewer.
MAX_SHOWN = 100_000
#: Items at each end of a long sequence, and in all containers of a value together.
_END = 20_000
_MAX_ITEMS = 100_000


def cut(text: str, limit: int) -> str:
    """Return ``text`` with its middle left out beyond ``limit`` characters."""
    if len(text) <= limit:
        return text
    return text[: limit // 2] + _gap(limit) + text[len(text) - limit // 2 :]


def _gap(limit: int) -> str:
    return f"\n..._This content has been truncated to stay below {limit} characters_...\n"


class Output:
    """Printed text: the beginning and the end are kept, whatever its length.

    Args:
        limit: Most characters to keep; None for the default.
    """

    __slots__ = ("_head", "_head_left", "_tail", "_tail_size", "limit", "size")

    def __init__(self, limit: int | None = None) -> None:
        self.limit = DEFAULT_MAX_PRINT if limit is None else limit
        self.size = 0
        self._head: list[str] = []
        self._head_left = self.limit // 2
        # A deque takes 600 bytes while it is empty, and most steps print little.
        self._tail: deque[str] | None = None
        self._tail_size = 0

    def write(self, text: str) -> int:
        """Append ``text``."""
        self.size += len(text)
        rest = text
        if self._head_left > 0:
            self._head.append(text[: self._head_left])
            rest = text[self._head_left :]
            self._head_left -= len(text) - len(rest)
        if rest:
            self._append_tail(rest)
        return len(text)

    def _append_tail(self, text: str) -> None:
        room = self.limit - self.limit // 2
        text = text[-room - self.limit :] if len(text) > room + self.limit else text
        if self._tail is None:
            self._tail = deque()
        tail = self._tail
        tail.append(text)
        self._tail_size += len(text)
        while tail and self._tail_size - len(tail[0]) > room:
            self._tail_size -= len(tail.popleft())

    def text(self) -> str:
        """What was printed, cut in the middle beyond the limit."""
        head, tail = "".join(self._head), "".join(self._tail or ())
        if self.size <= self.limit:
            return head + tail
        return head + _gap(self.limit) + tail[max(0, len(tail) - self.limit // 2) :]


class _Brief(reprlib.Repr):
    """A ``repr`` whose size does not depend on the size of the value."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 6
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = self.maxdeque = 200
        self.maxstring = self.maxother = self.maxlong = 2000


def shown(value: Any) -> str:
    """The text of a value, in bounded time and size; to be made while its code runs.

    Afterwards the ``__str__`` and ``__repr__`` of the code's own classes do nothing any more.
    """
    try:
        if _is_small(value):
            return cut(str.__str__(str(value)), MAX_SHOWN)
        return cut(_ends(value) if type(value) in (list, tuple) else _Brief().repr(value), MAX_SHOWN)
    except Exception as error:
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"


def _ends(value: Any) -> str:
    """The first and the last items of a long sequence: the rest would not be shown."""
    first, last = value[:_END], value[max(_END, len(value) - _END) :]
    if not _is_small(first) or not _is_small(last):
        return _Brief().repr(value)
    return repr(first)[:-1] + ", " + _gap(MAX_SHOWN).strip() + ", " + repr(last)[1:]


def _is_small(value: Any) -> bool:
    """True when all containers in ``value`` together hold few items."""
    return _left_after(value, _MAX_ITEMS, set()) >= 0


def _left_after(value: Any, left: int, above: set[int]) -> int:
    """``left`` less the items in ``value``; one that holds itself is not looked into again."""
    if type(value) not in (list, tuple, set, frozenset, dict) or id(value) in above:
        return left
    left -= len(value) + 1
    above.add(id(value))
    for item in value if type(value) is not dict else value.values():
        if left < 0:
            break
        left = _left_after(item, left, above)
    above.discard(id(value))
    return left
