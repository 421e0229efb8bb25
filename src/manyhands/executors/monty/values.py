"""Values on their way into Monty and out of it: plain data, and nothing else."""

from __future__ import annotations

import dataclasses
import enum
import uuid
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_ATOMS = frozenset({str, int, float, bool, bytes, type(None), complex})
_MAX_DEPTH = 200


def entering(value: Any, what: str) -> Any:
    """Return ``value`` as Monty takes it.

    Dataclasses become dicts, arrays lists, members of enums their values; sets, dates, decimals and
    named tuples stay what they are.

    Args:
        value: A value of the host.
        what: Where it is from, for the message.

    Raises:
        TypeError: It cannot enter; the message names its type.
    """
    return _entering(value, what, 0)


def _entering(value: Any, what: str, depth: int) -> Any:
    kind = type(value)
    if kind is str:
        return _entering_text(value, what)
    if kind in _ATOMS:
        return value
    if depth > _MAX_DEPTH:
        raise TypeError(f"{what} cannot enter Monty: it is nested too deeply, or holds itself.")
    if kind in (list, tuple, set, frozenset):
        return kind(_entering(item, what, depth + 1) for item in value)
    if isinstance(value, dict):
        return {_entering(k, what, depth + 1): _entering(v, what, depth + 1) for k, v in value.items()}
    if isinstance(value, tuple):  # a named one
        for item in value:
            _entering(item, what, depth + 1)
        return value
    return _entering_object(value, what, depth)


def _entering_text(value: str, what: str) -> str:
    try:
        if not value.isascii():
            value.encode()
    except UnicodeEncodeError:
        raise TypeError(f"{what} cannot enter Monty: it holds half of a surrogate pair.") from None
    return value


def _entering_object(value: Any, what: str, depth: int) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _entering(parts, what, depth + 1)
    if isinstance(value, enum.Enum):
        return _entering(value.value, what, depth + 1)
    if type(value).__module__.partition(".")[0] == "numpy" and hasattr(value, "tolist"):
        return _entering(value.tolist(), what, depth + 1)
    if isinstance(value, (deque, range)):
        return _entering(list(value), what, depth + 1)
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, uuid.UUID):
        return str(value)
    if _known_to_monty(value):
        return value
    raise TypeError(
        f"{what} cannot enter Monty: it holds {_kind(value)}, and only plain data crosses "
        "(numbers, text, bytes, dates, lists, dicts, sets, dataclasses)."
    )


def _known_to_monty(value: Any) -> bool:
    import datetime
    import decimal
    import pathlib

    known = (datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo, decimal.Decimal)
    if isinstance(value, (str, int, float, bytes, BaseException)):
        return True
    return isinstance(value, (*known, pathlib.PurePath)) or value is ... or value is NotImplemented


def _kind(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__qualname__}"
    cls = type(value)
    name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    return f"a {name}"


def leaving(value: Any, what: str) -> Any:
    """Return a value of Monty as the host gets it; objects of dataclasses become dicts.

    Raises:
        TypeError: It cannot leave: it is a function, a class, or an object of an ordinary class.
    """
    return _leaving(value, what, 0)


def _leaving(value: Any, what: str, depth: int) -> Any:
    kind = type(value)
    if kind in _ATOMS:
        return value
    if depth > _MAX_DEPTH:
        raise TypeError(f"{what} cannot leave Monty: it is nested too deeply.")
    if kind in (list, tuple, set, frozenset):
        return kind(_leaving(item, what, depth + 1) for item in value)
    if kind is dict:
        return {_leaving(k, what, depth + 1): _leaving(v, what, depth + 1) for k, v in value.items()}
    name = kind.__name__
    if name == "MontyClassProxy":
        if value.is_dataclass:
            return _leaving(value.attributes, what, depth + 1)
        raise TypeError(
            f"{what} cannot leave Monty: it holds an object of class {value.name}, and only plain data "
            "crosses. Pass its values in a dict."
        )
    if name in ("MontyStdTypeProxy", "MontyClassTypeProxy") or isinstance(value, type):
        raise TypeError(f"{what} cannot leave Monty: it holds the function or class {_name(value)}.")
    return value


def _name(value: Any) -> str:
    return str(getattr(value, "name", None) or getattr(value, "__name__", value))


def shown_objects(value: Any, depth: int = 0) -> Any:
    """Return ``value`` with objects of Monty's own classes replaced by what shows as they do."""
    kind = type(value)
    if kind in _ATOMS or depth > _MAX_DEPTH:
        return value
    if kind in (list, tuple):
        return kind(shown_objects(item, depth + 1) for item in value)
    if kind is dict:
        return {key: shown_objects(item, depth + 1) for key, item in value.items()}
    if kind.__name__ == "MontyClassProxy":
        return Shown(value.name, value.attributes if value.is_dataclass else None)
    if kind.__name__ == "MontyClassTypeProxy":
        return Shown(f"class {value.name!r}", None)
    return Shown(_name(value), None) if kind.__name__ == "MontyStdTypeProxy" else value


class Shown:
    """Stands for an object that stayed in Monty, and shows as it.

    Args:
        name: Name of its class, or what it is.
        parts: Its fields, if it is a dataclass.
    """

    __slots__ = ("_text",)

    def __init__(self, name: str, parts: Mapping[str, Any] | None) -> None:
        if parts is None:
            self._text = f"<{name}>"
        else:
            inner = ", ".join(f"{key}={shown_objects(part)!r}" for key, part in parts.items())
            self._text = f"{name}({inner})"

    def __repr__(self) -> str:
        return self._text
