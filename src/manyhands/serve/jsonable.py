"""Any value as JSON that is safe to send: bounded in depth, length and text, and without NaN.

What tools and agents give may be anything: huge, nested without end, or failing when it is shown.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of a value is sent.

    Attributes:
        text: Most characters of one text.
        items: Most items of one list or mapping.
        depth: Most levels of lists and mappings.
        total: Most characters of all texts together.
    """

    text: int = 100_000
    items: int = 10_000
    depth: int = 32
    total: int = 1_000_000


EVENT = Bounds()
RESULT = Bounds(text=4_000_000, items=100_000, total=4_000_000)


def encoded(value: Any) -> bytes:
    """Return a JSON value as ASCII text: whatever it holds, it is one line and valid UTF-8."""
    return _encode(value).encode("ascii")


def jsonable(value: Any, bounds: Bounds = EVENT) -> Any:
    """Return ``value`` as JSON values, cut where it is beyond the bounds.

    Args:
        value: Anything; what JSON does not know becomes its text.
        bounds: How much of it is wanted.
    """
    return _Cutter(bounds).of(value, bounds.depth)


class _Cutter:
    """Turns one value into JSON values, and counts what it sends."""

    __slots__ = ("bounds", "left")

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.left = bounds.total

    def of(self, value: Any, depth: int) -> Any:
        if value is None or value is True or value is False:
            return value
        kind = type(value)
        if kind is str:
            return self.cut(value)
        if kind is int:
            return value if -(2**63) <= value < 2**64 else self.cut(_shown(value))
        if kind is float:
            return value if math.isfinite(value) else str(value)
        if isinstance(value, dict | list | tuple | set | frozenset):
            return self.nested(value, depth)
        if isinstance(value, str):
            return self.cut(str.__str__(value))
        return self.cut(_shown(value))

    def nested(self, value: Any, depth: int) -> Any:
        self.left -= 2
        if depth <= 0:
            return self.cut(_shown(value))
        if isinstance(value, dict):
            return {
                self.cut(_shown(key)): self.of(item, depth - 1) for key, item in self.first(value.items())
            }
        return [self.of(item, depth - 1) for item in self.first(value)]

    def first(self, items: Any) -> Any:
        """Give the first items, as long as there is room."""
        for count, item in enumerate(items):
            if count >= self.bounds.items or self.left <= 0:
                return
            self.left -= 1
            yield item

    def cut(self, text: str) -> str:
        room = max(0, min(self.bounds.text, self.left))
        self.left -= min(len(text), room)
        if len(text) <= room:
            return text
        return f"{text[:room]}… ({len(text) - room} more characters)"


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return str(value)
    except Exception as error:
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"
