"""JSON as bytes: orjson where it is installed, the standard library elsewhere, with the same results."""

from __future__ import annotations

import importlib
import json
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def _find_orjson() -> Any:
    try:
        return importlib.import_module("orjson")
    except ImportError:
        return None


_orjson = _find_orjson()
_BOM = "\ufeff"
# Plain JSON types only are left to orjson; whatever else goes the way it goes below.
_OPTIONS: int = _orjson and (
    _orjson.OPT_PASSTHROUGH_DATACLASS | _orjson.OPT_PASSTHROUGH_DATETIME | _orjson.OPT_PASSTHROUGH_SUBCLASS
)


def _plain(value: Any) -> Any:
    """Return a value that JSON has no form for as one that it has."""
    kinds: tuple[Callable[[Any], Any], ...] = (str, int, float, dict, list, tuple)
    for kind in kinds:
        if isinstance(value, kind):  # type: ignore[arg-type]
            return kind(value)
    return list(value) if isinstance(value, (set, frozenset)) else str(value)


# Made once: json.dumps() and json.loads() with these settings would make one for each call.
_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_plain)
# A few servers cut characters in half at their token borders, or leave line ends in texts.
_decoder = json.JSONDecoder(strict=False)


def dumps(value: Any) -> bytes:
    """Return ``value`` as compact JSON in UTF-8; what JSON cannot express is written as text."""
    if _orjson is not None:
        try:
            encoded: bytes = _orjson.dumps(value, _plain, _OPTIONS)
        except TypeError:
            pass  # keys that are no strings, huge integers, half characters: the slow way takes them
        else:
            return encoded
    return _encoder.encode(value).encode("utf-8", "replace")


def quoted(text: str) -> bytes:
    """Return ``text`` as a JSON string; half characters, which UTF-8 lacks, become question marks."""
    if _orjson is not None and type(text) is str:
        try:
            encoded: bytes = _orjson.dumps(text)
        except TypeError:
            pass
        else:
            return encoded
    return encode_basestring(text).encode("utf-8", "replace")


def loads(data: bytes | str) -> Any:
    """Return the value of JSON ``data``.

    Raises:
        ValueError: It is no JSON.
    """
    if _orjson is not None:
        try:
            return _orjson.loads(data)
        except ValueError:
            pass  # stricter than the standard library: NaN, half characters
    text = data if isinstance(data, str) else data.decode("utf-8", "replace").removeprefix(_BOM)
    return _decoder.decode(text)
