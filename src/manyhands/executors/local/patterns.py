"""Regular expressions that can take exponential time, told apart before they run."""

from __future__ import annotations

import re
from functools import lru_cache
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any

_REPEATS = (_constants.MAX_REPEAT, _constants.MIN_REPEAT)


def check_pattern(pattern: Any) -> None:
    """Raise for a repeat of a repeat with nothing fixed between, such as ``(a+)+``.

    ``re`` runs in one C call that nothing can interrupt; such a pattern can keep it busy for years on 50
    letters.
    """
    if isinstance(pattern, (str, bytes)) and _is_explosive(_plain(pattern)):
        raise ValueError(
            "Refused: a regular expression with a repeat directly inside a repeat can take forever. "
            "Put something fixed between the two, or drop one."
        )


def _plain(pattern: str | bytes) -> str | bytes:
    return str.__str__(pattern) if isinstance(pattern, str) else bytes(pattern)


@lru_cache(maxsize=512)
def _is_explosive(pattern: str | bytes) -> bool:
    try:
        return _has_nested_repeat(_parser.parse(pattern))
    except (re.error, RecursionError, OverflowError):
        return False  # re itself says what is wrong with it


def _has_nested_repeat(parts: Any) -> bool:
    for kind, value in parts:
        if kind in _REPEATS:
            _, most, inside = value
            if most > 20 and _is_only_repeats(inside):
                return True
            if _has_nested_repeat(inside):
                return True
        elif kind is _constants.SUBPATTERN:
            if _has_nested_repeat(value[-1]):
                return True
        elif kind is _constants.BRANCH and any(_has_nested_repeat(branch) for branch in value[1]):
            return True
    return False


def _is_only_repeats(parts: Any) -> bool:
    """True when ``parts`` can match one letter in more than one way.

    Nothing in it is fixed, something is long.
    """
    long = False
    for kind, value in parts:
        if kind in _REPEATS:
            least, most, inside = value
            long = long or most > 20 or _is_only_repeats(inside)
            if least > 0 and most <= 20:
                return False
        elif kind is _constants.SUBPATTERN:
            if not _is_only_repeats(value[-1]):
                return False
            long = True
        elif kind is _constants.BRANCH:
            return any(_is_only_repeats(branch) for branch in value[1])
        elif kind is not _constants.AT:
            return False
    return long
