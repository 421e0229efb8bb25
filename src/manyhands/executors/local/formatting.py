"""String formatting that reads no attribute past the guard and builds no giant padding."""

from __future__ import annotations

import importlib
import string
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from manyhands.executors.local.policy import MAX_FORMAT_WIDTH

Read = Callable[[Any, str], Any]

#: The parser behind ``string.Formatter``; it has no type stubs.
_string = importlib.import_module("_string")


def has_wide_number(text: str) -> bool:
    """True when ``text`` spells a number of more than six digits."""
    digits = 0
    for letter in text:
        digits = digits + 1 if letter.isdigit() else 0
        if digits > 6:
            return True
    return False


def check_spec(spec: str) -> str:
    """Return a plain ``spec``, or say that it is too wide."""
    plain = str.__str__(spec)
    if has_wide_number(plain):
        raise ValueError(f"A format width or precision may not be larger than {MAX_FORMAT_WIDTH:,}.")
    return plain


@lru_cache(maxsize=1024)
def is_plain_template(template: str) -> bool:
    """True when no field of ``template`` reads an attribute or an item, nests, or is very wide."""
    try:
        fields = list(string.Formatter().parse(template))
    except ValueError:
        return True  # str.format raises the same error, with the text users know
    return all(
        name is None or not ("." in name or "[" in name or "{" in (spec or "") or has_wide_number(spec or ""))
        for _, name, spec, _ in fields
    )


class GuardedFormatter:
    """``string.Formatter`` whose ``{0.name}`` goes through the attribute guard.

    It does not inherit from the original: whoever holds a class also holds its ancestors.

    Args:
        read: The guard: object and name to value.
    """

    def __init__(self, read: Read) -> None:
        self._read = read

    def format(self, format_string: str, /, *args: Any, **kwargs: Any) -> str:
        return self.vformat(format_string, args, kwargs)

    def vformat(self, format_string: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        used: set[Any] = set()
        text, _ = self._filled(format_string, args, kwargs, used, 2, 0)
        self.check_unused_args(used, args, kwargs)
        return text

    def _filled(
        self,
        template: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        used: set[Any],
        depth: int,
        auto: int,
    ) -> tuple[str, int]:
        """The template with its fields filled in, and the number of the next unnumbered field."""
        if depth < 0:
            raise ValueError("Max string recursion exceeded")
        parts: list[str] = []
        for literal, field, spec, conversion in self.parse(template):
            parts.append(literal or "")
            if field is None:
                continue
            field, auto = _numbered(field, auto)
            value, key = self.get_field(field, args, kwargs)
            used.add(key)
            value = self.convert_field(value, conversion)
            inner, auto = self._filled(spec or "", args, kwargs, used, depth - 1, auto)
            parts.append(self.format_field(value, inner))
        return "".join(parts), auto

    def parse(self, format_string: str) -> Any:
        return _string.formatter_parser(str.__str__(format_string))

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        first, rest = _split_field(field_name)
        value = self.get_value(first, args, kwargs)
        for is_attribute, key in rest:
            value = self._read(value, str(key)) if is_attribute else value[key]
        return value, first

    def get_value(self, key: int | str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return args[key] if isinstance(key, int) else kwargs[key]

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        if conversion is None:
            return value
        if conversion not in _CONVERSIONS:
            raise ValueError(f"Unknown conversion specifier {conversion!s}")
        return _CONVERSIONS[conversion](value)

    def format_field(self, value: Any, format_spec: str) -> Any:
        return format(value, check_spec(format_spec))

    def check_unused_args(self, used_args: set[Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """For subclasses."""


_CONVERSIONS: dict[str, Callable[[Any], str]] = {"s": str, "r": repr, "a": ascii}


def _numbered(field: str, auto: int) -> tuple[str, int]:
    """``{}`` and ``{.name}`` count up; they do not go together with ``{0}``."""
    first = field[: len(field) - len(field.lstrip("0123456789"))]
    if first or not (field == "" or field[0] in ".["):
        if first and auto > 0:
            raise ValueError("cannot switch from automatic field numbering to manual field specification")
        return field, -1 if first else auto
    if auto < 0:
        raise ValueError("cannot switch from manual field specification to automatic field numbering")
    return f"{auto}{field}", auto + 1


def _split_field(name: str) -> tuple[str | int, list[tuple[bool, str | int]]]:
    first, rest = _string.formatter_field_name_split(name)
    return first, list(rest)


def bound_format(template: str, read: Read) -> Callable[..., str]:
    """What ``template.format`` is for the code."""
    plain = str.__str__(template)
    if is_plain_template(plain):
        return plain.format

    def format(*args: Any, **kwargs: Any) -> str:
        return GuardedFormatter(read).vformat(plain, args, kwargs)

    return format


def bound_format_map(template: str, read: Read) -> Callable[[Mapping[str, Any]], str]:
    """What ``template.format_map`` is for the code."""
    plain = str.__str__(template)

    def format_map(mapping: Mapping[str, Any]) -> str:
        return GuardedFormatter(read).vformat(plain, (), mapping)

    return format_map
