"""Values as typed JSON, for both sides of the wall: nothing is pickled, nothing evaluated.

``None``, booleans, small numbers, text and lists are themselves; everything else is an object with one key
that names its kind: ``{"set": [1, 2]}``. Objects of classes that the other side does not have arrive as
look-alikes with the same fields; coming back, they are objects of their own class again.

Runs on Python 3.9 and later with nothing but the standard library; numpy, pandas and Pillow are used only
where a value of theirs comes by.
"""

from __future__ import annotations

import base64
import builtins
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import io
import keyword
import pathlib
import re
import sys
import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

#: How deep containers may stand in each other.
MAX_DEPTH = 64
#: Values inside one value, each counted, however small.
MAX_ITEMS = 1_000_000
_SMALL = 2**63
_MAX_FIELDS = 500

_PLAIN = frozenset({str, float, bool, type(None)})
_ATOMS = _PLAIN | {int}


class CannotCross(TypeError):
    """A value that cannot go through the wall, and where in the whole it stands.

    Args:
        reason: Why, with ``{place}`` where the place belongs.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.place = ""

    def within(self, place: str) -> CannotCross:
        """Note that the value stands at ``place`` of something larger."""
        self.place = place + self.place
        return self

    def __str__(self) -> str:
        return self.reason.replace("{place}", f" at {self.place}" if self.place else "")


class MalformedValue(ValueError):
    """JSON that no codec has made."""


class Codec:
    """Turns values into JSON and back, for one side of one wall.

    Args:
        way: What values do that are encoded here: ``leave`` or ``enter`` the sandbox.
        lacking: Where values arrive that are decoded here: ``the sandbox`` or ``this computer``.
        max_items: Most values inside one value.
    """

    def __init__(
        self, way: str = "leave", lacking: str = "this computer", max_items: int = MAX_ITEMS
    ) -> None:
        self._way = way
        self._lacking = lacking
        # Classes of this side whose objects the other side has seen, by name.
        self._own: dict[str, type] = {}
        self._max_items = self._left = max_items
        self._above: set[int] = set()

    # --- Encoding -----------------------------------------------------------------------------

    def encode(self, value: Any) -> Any:
        """Return ``value`` as JSON.

        Raises:
            CannotCross: It, or something in it, is of a type that has no JSON; the text says which and where.
        """
        # Each value has a count of its own: several threads may encode at once.
        fresh = Codec.__new__(Codec)
        fresh.__dict__.update(self.__dict__, _left=self._max_items, _above=set())
        return fresh._encoded(value, 0)

    def _encoded(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is int:
            return value if -_SMALL < value < _SMALL else {"int": hex(value)}
        self._left -= 1
        if self._left < 0:
            raise CannotCross(
                f"a value of more than {self._max_items:,} parts cannot {self._way} the sandbox"
            )
        if depth > MAX_DEPTH:
            raise CannotCross(f"a value nested deeper than {MAX_DEPTH} levels cannot {self._way} the sandbox")
        encoder = _ENCODERS.get(kind) or self._encoder_of(value)
        if id(value) in self._above:
            raise CannotCross(f"a value that holds itself{{place}} cannot {self._way} the sandbox")
        self._above.add(id(value))
        try:
            return encoder(self, value, depth + 1)
        except (ImportError, AttributeError, ValueError, OverflowError, LookupError) as error:
            raise self._refusal(value, f": {type(error).__name__}: {error}") from error
        finally:
            self._above.discard(id(value))

    def _refusal(self, value: Any, why: str = "") -> CannotCross:
        name = type(value).__name__
        return CannotCross(f"a value of type {name}{{place}} cannot {self._way} the sandbox{why}")

    def _encoder_of(self, value: Any) -> Callable[[Codec, Any, int], Any]:
        """The encoder of an object whose class is not one of the usual ones."""
        kind = type(value)
        library = kind.__module__.split(".")[0]
        if library in _LIBRARIES:
            return _LIBRARIES[library]
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            return Codec._as_base
        if isinstance(value, enum.Enum):
            return Codec._enum
        if isinstance(value, tuple) and hasattr(kind, "_fields"):
            return Codec._named_tuple
        if _field_names(kind) is not None:
            return Codec._record
        for base, encoder in _BASES:
            if isinstance(value, base):
                return encoder
        owner = next((c.__module__.split(".")[0] for c in kind.__mro__ if _is_of_library(c)), None)
        if owner is not None:
            return _LIBRARIES[owner]
        raise self._refusal(value)

    def _as_base(self, value: Any, depth: int) -> Any:
        """An object of a subclass of text or numbers, as the plain text or number."""
        if isinstance(value, str):
            return self._encoded(str.__str__(value), depth - 1)
        return self._encoded(int(value) if isinstance(value, int) else float(value), depth - 1)

    def _items(self, values: Any, depth: int) -> list[Any]:
        """The values of a sequence, encoded."""
        if _are_plain(values):
            self._left -= len(values) // 16
            return list(values)
        encoded = []
        for index, value in enumerate(values):
            try:
                encoded.append(self._encoded(value, depth))
            except CannotCross as error:
                raise error.within(f"[{index}]") from error.__cause__
        return encoded

    def _list(self, value: Any, depth: int) -> Any:
        return self._items(value, depth)

    def _dict(self, value: Any, depth: int) -> Any:
        by_text = set(map(type, value)) <= {str}
        pairs = []
        for key, item in value.items():
            try:
                pairs.append([key if by_text else self._encoded(key, depth), self._encoded(item, depth)])
            except CannotCross as error:
                raise error.within(f"[{_brief(key)}]") from error.__cause__
        return {"map": dict(pairs)} if by_text else {"dict": pairs}

    def _named_tuple(self, value: Any, depth: int) -> Any:
        return self._fielded("named", value, list(type(value)._fields), depth)

    def _record(self, value: Any, depth: int) -> Any:
        return self._fielded("record", value, _field_names(type(value)) or [], depth)

    def _fielded(self, tag: str, value: Any, names: list[str], depth: int) -> Any:
        fields = {}
        for name in names:
            try:
                fields[name] = self._encoded(getattr(value, name), depth)
            except CannotCross as error:
                raise error.within(f".{name}") from error.__cause__
        return {tag: [self._introduced(type(value)), type(value).__name__, fields]}

    def _enum(self, value: Any, depth: int) -> Any:
        kind = type(value)
        return {
            "enum": [self._introduced(kind), kind.__name__, value.name, self._encoded(value.value, depth)]
        }

    def _introduced(self, kind: type) -> str:
        """The name under which objects of ``kind`` find back to it."""
        name = f"{kind.__module__}:{kind.__qualname__}"
        if len(self._own) < 10_000 or name in self._own:
            self._own[name] = kind
        return name

    def _exception(self, value: Any, depth: int) -> Any:
        kind = type(value)
        base = next(c for c in kind.__mro__ if getattr(builtins, c.__name__, None) is c)
        try:
            arguments = self._items(value.args, depth)
        except CannotCross:
            arguments = [_text_of(value)]
        return {"error": [kind.__name__, base.__name__, arguments]}

    # --- Decoding -----------------------------------------------------------------------------

    def decode(self, value: Any) -> Any:
        """Return the value of which ``value`` is the JSON.

        Raises:
            MalformedValue: It is no such JSON.
            CannotCross: It needs a library that is not installed here.
        """
        try:
            return self._decoded(value, 0)
        except (MalformedValue, CannotCross):
            raise
        except RecursionError:
            raise MalformedValue("A value is nested too deeply.") from None
        except Exception as error:  # whatever a constructor says to arguments that make no sense
            raise MalformedValue(f"A value makes no sense ({type(error).__name__}: {error}).") from None

    def _decoded(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind in _PLAIN or kind is int:
            return value
        if depth > MAX_DEPTH + 2:
            raise MalformedValue("A value is nested too deeply.")
        if kind is list:
            plain = _ATOMS.issuperset(map(type, value))
            return value if plain else [self._decoded(item, depth + 1) for item in value]
        if kind is not dict or len(value) != 1:
            raise MalformedValue("A value is neither plain nor of a kind.")
        tag, content = next(iter(value.items()))
        decoder = _DECODERS.get(tag)
        if decoder is None:
            raise MalformedValue(f"A value is of an unknown kind, {tag[:40]!r}.")
        return decoder(self, content, depth + 1)

    def _many(self, content: Any, depth: int) -> list[Any]:
        if type(content) is not list:
            raise MalformedValue("A container holds no list.")
        return self._decoded(content, depth)  # type: ignore[no-any-return]

    def _pairs(self, content: Any, depth: int) -> dict[Any, Any]:
        return {self._decoded(key, depth): self._decoded(item, depth) for key, item in content}

    def _map(self, content: Any, depth: int) -> dict[str, Any]:
        return {key: self._decoded(item, depth) for key, item in content.items()}

    def _fields_of(self, content: Any, depth: int) -> tuple[str, str, dict[str, Any]]:
        name, short, fields = content
        if type(name) is not str or len(fields) > _MAX_FIELDS or not all(map(_is_name, [short, *fields])):
            raise MalformedValue("An object has names that are none.")
        return name, short, self._map(fields, depth)

    def _make_record(self, content: Any, depth: int) -> Any:
        name, short, fields = self._fields_of(content, depth)
        known = self._own.get(name)
        if known is not None and _field_names(known) is not None:
            return _restored(known, fields)
        made: Any = object.__new__(_record_like(name, short, tuple(fields)))
        made.__dict__.update(fields)
        return made

    def _make_named(self, content: Any, depth: int) -> Any:
        name, short, fields = self._fields_of(content, depth)
        known: Any = self._own.get(name)
        if known is None or not issubclass(known, tuple):
            known = _tuple_like(name, short, tuple(fields))
        return tuple.__new__(known, [fields[field] for field in known._fields])

    def _make_enum(self, content: Any, depth: int) -> Any:
        name, short, member, value = content
        if type(name) is not str:
            raise MalformedValue("A member of an enum has names that are none.")
        known = self._own.get(name)
        if known is not None and issubclass(known, enum.Enum) and member in known.__members__:
            return known[member]
        if not _is_name(short) or not _is_name(member):
            raise MalformedValue("A member of an enum has names that are none.")
        make: Any = enum.Enum
        stand_in = make(
            short, module=_home(name)[0], qualname=_home(name)[1], names={member: self._decoded(value, depth)}
        )
        return stand_in[member]

    def _make_error(self, content: Any, depth: int) -> Any:
        name, base, arguments = content
        return error_like(name, base, self._many(arguments, depth))


def _are_plain(values: Any) -> bool:
    """Whether all of a sequence are their own JSON."""
    kinds = set(map(type, values))
    if int not in kinds or not kinds <= _ATOMS:
        return kinds <= _PLAIN
    numbers = [value for value in values if type(value) is int]
    return min(numbers) > -_SMALL and max(numbers) < _SMALL


# --- Names and classes ---------------------------------------------------------------------------


def _is_name(name: Any) -> bool:
    return (
        type(name) is str
        and len(name) <= 200
        and name.isidentifier()
        and not keyword.iskeyword(name)
        and not name.startswith("__")
    )


def _field_names(kind: type) -> list[str] | None:
    """The fields of a dataclass or pydantic model; None for other classes."""
    if hasattr(kind, "__dataclass_fields__"):
        return [field.name for field in dataclasses.fields(kind)]
    if hasattr(kind, "__pydantic_validator__"):
        return list(kind.model_fields)  # type: ignore[attr-defined]
    return None


def _restored(kind: type, fields: dict[str, Any]) -> Any:
    """An object of our own class, made by its own constructor."""
    late: dict[str, Any] = {}
    if hasattr(kind, "__dataclass_fields__"):
        known = {field.name: field for field in dataclasses.fields(kind)}
        late = {name: fields[name] for name in fields if not known[name].init}
    made = kind(**{name: value for name, value in fields.items() if name not in late})
    for name, value in late.items():
        object.__setattr__(made, name, value)
    return made


@functools.lru_cache(maxsize=512)
def _record_like(name: str, short: str, fields: tuple[str, ...]) -> type:
    """A dataclass of this name with these fields, all of them names."""
    made = dataclasses.make_dataclass(short, fields)
    made.__module__, made.__qualname__ = _home(name)
    return made


def _home(name: str) -> tuple[str, str]:
    """Module and name in it of a class of the other side; a look-alike bears them, to find back."""
    module, _, rest = name[:500].partition(":")
    return module, rest


@functools.lru_cache(maxsize=512)
def _tuple_like(name: str, short: str, fields: tuple[str, ...]) -> Any:
    made: Any = collections.namedtuple(short, fields, rename=True)  # type: ignore[misc]
    made.__module__, made.__qualname__ = _home(name)
    return made


@functools.lru_cache(maxsize=512)
def _error_class(name: str, base: Any) -> type[Exception]:
    return type(name, (base,), {"__module__": "builtins"})


def error_like(name: str, base: str, arguments: list[Any]) -> Exception:
    """Return an error of this name that is caught as ``base``, an exception of the language."""
    kind: Any = getattr(builtins, base, None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        kind = RuntimeError
    if name != kind.__name__:
        kind = _error_class(name if _is_name(name) else "Error", kind)
    try:
        made: Exception = kind(*arguments)
        str(made)
        return made
    except Exception:  # UnicodeDecodeError and others whose constructor takes more than a text
        return RuntimeError(f"{name}: {', '.join(map(_text_of, arguments))}")


def _text_of(value: Any) -> str:
    try:
        return str.__str__(str(value))
    except Exception as error:
        return f"<no text: {type(error).__name__}>"


def _brief(key: Any) -> str:
    if type(key) in (str, int, float, bool, bytes, type(None)):
        text = repr(key)
        return text if len(text) <= 60 else text[:57] + "..."
    return f"<{type(key).__name__}>"


# --- Kinds of the standard library ---------------------------------------------------------------


def _zone(value: Any) -> Any:
    """The time zone of a time or datetime: its key, or its offset at that moment."""
    if value.tzinfo is None:
        return None
    key = getattr(value.tzinfo, "key", None)
    if isinstance(key, str):
        return key
    offset = value.utcoffset()
    return None if offset is None else offset.total_seconds()


def _zone_made(zone: Any) -> Any:
    if zone is None:
        return None
    if isinstance(zone, str):
        import zoneinfo

        try:
            return zoneinfo.ZoneInfo(zone)
        except Exception:
            raise CannotCross(
                f"a time in the zone {zone[:60]!r} needs its rules; pip install tzdata"
            ) from None
    if zone == 0:
        return datetime.timezone.utc  # noqa: UP017 - 3.9 has no other
    return datetime.timezone(datetime.timedelta(seconds=zone))


def _moment(codec: Codec, value: Any, depth: int) -> Any:
    clock = [value.hour, value.minute, value.second, value.microsecond, value.fold, _zone(value)]
    if isinstance(value, datetime.time):
        return {"time": clock}
    return {"datetime": [value.year, value.month, value.day, *clock]}


def _moment_made(kind: Any) -> Callable[[Codec, Any, int], Any]:
    def make(codec: Codec, content: Any, depth: int) -> Any:
        *numbers, fold, zone = content
        return kind(*numbers, tzinfo=_zone_made(zone), fold=fold)

    return make


def _decimal(codec: Codec, content: Any, depth: int) -> decimal.Decimal:
    return decimal.Decimal(str(content))


def _fraction(parts: list[Any]) -> fractions.Fraction:
    if not all(type(part) is int for part in parts):
        raise MalformedValue("A fraction is none.")  # of text it would build giant powers
    return fractions.Fraction(*parts)


def _big(content: Any) -> int:
    if type(content) is not str or not re.fullmatch(r"-?0x[0-9a-f]+", content):
        raise MalformedValue("A number is none.")
    return int(content, 16)


def _bytes(content: Any) -> bytes:
    return base64.b64decode(content.encode("ascii"), validate=True)


def _text_bytes(value: Any) -> str:
    return base64.b64encode(value).decode("ascii")


def _simple(tag: str, make: Callable[[Any], Any]) -> Callable[[Codec, Any, int], Any]:
    """An encoder that needs nothing but the value."""

    def encode(codec: Codec, value: Any, depth: int) -> Any:
        return {tag: make(value)}

    return encode


def _several(tag: str, parts: Callable[[Any], Any] = list) -> Callable[[Codec, Any, int], Any]:
    """An encoder of something made of values."""

    def encode(codec: Codec, value: Any, depth: int) -> Any:
        return {tag: codec._items(parts(value), depth)}

    return encode


_ENCODERS: dict[type, Callable[[Codec, Any, int], Any]] = {
    list: Codec._list,
    dict: Codec._dict,
    tuple: _several("tuple"),
    set: _several("set"),
    frozenset: _several("frozenset"),
    collections.deque: _several("deque"),
    bytes: _simple("bytes", _text_bytes),
    bytearray: _simple("bytearray", _text_bytes),
    complex: _simple("complex", lambda v: [v.real, v.imag]),
    range: _several("range", lambda v: [v.start, v.stop, v.step]),
    slice: _several("slice", lambda v: [v.start, v.stop, v.step]),
    datetime.date: _simple("date", lambda v: [v.year, v.month, v.day]),
    datetime.datetime: _moment,
    datetime.time: _moment,
    datetime.timedelta: _simple("timedelta", lambda v: [v.days, v.seconds, v.microseconds]),
    decimal.Decimal: _simple("decimal", str),
    fractions.Fraction: _several("fraction", lambda v: [v.numerator, v.denominator]),
    uuid.UUID: _simple("uuid", lambda v: v.hex),
    type(...): _simple("ellipsis", lambda v: None),
}

#: Classes whose subclasses arrive as the class itself.
_BASES: tuple[tuple[type, Callable[[Codec, Any, int], Any]], ...] = (
    (dict, Codec._dict),
    (list, Codec._list),
    *[(kind, _ENCODERS[kind]) for kind in (tuple, set, frozenset, bytes, bytearray, collections.deque)],
    *[(kind, _ENCODERS[kind]) for kind in (datetime.datetime, datetime.date, datetime.time)],
    *[(kind, _ENCODERS[kind]) for kind in (datetime.timedelta, decimal.Decimal, fractions.Fraction)],
    (complex, _ENCODERS[complex]),
    (uuid.UUID, _ENCODERS[uuid.UUID]),
    (pathlib.PurePath, _simple("path", str)),
    (Exception, Codec._exception),
)


def _made(make: Callable[[Any], Any]) -> Callable[[Codec, Any, int], Any]:
    """A decoder that needs nothing but the content."""
    return lambda codec, content, depth: make(content)


def _collected(make: Callable[[list[Any]], Any]) -> Callable[[Codec, Any, int], Any]:
    """A decoder of something made of values."""
    return lambda codec, content, depth: make(codec._many(content, depth))


# --- numpy, pandas, Pillow -----------------------------------------------------------------------

_PLAIN_DTYPE = re.compile(r"[<>|=]?[?biufcSUMm]\d{0,9}(\[\d{0,4}\w{1,12}\])?")
_FRAME_DTYPE = re.compile(
    r"(bool|boolean|object|category|string|str|u?int\d+|U?Int\d+|[fF]loat\d+|complex\d+|"
    r"(datetime|timedelta)64\[\w+(, [\w/+:-]{1,60})?\]|period\[[\w-]{1,20}\])"
)


def _library(name: str, needs: str, codec: Codec) -> Any:
    module = sys.modules.get(name)
    if module is None:
        try:
            module = __import__(name)
        except ImportError:
            raise CannotCross(f"a value of {needs} cannot be used: {codec._lacking} has no {needs}") from None
    return module


def _numpy(codec: Codec, value: Any, depth: int) -> Any:
    numpy = _library("numpy", "numpy", codec)
    if isinstance(value, numpy.dtype):
        return {"dtype": _dtype_text(value, codec)}
    if isinstance(value, numpy.generic):
        if value.dtype.kind == "O" or value.dtype.names:
            raise codec._refusal(value)
        return {"scalar": [_dtype_text(value.dtype, codec), _text_bytes(value.tobytes())]}
    if not isinstance(value, numpy.ndarray):
        raise codec._refusal(value)
    shape = list(value.shape)
    if value.dtype.kind == "O":
        return {"objects": [shape, codec._items(value.ravel().tolist(), depth)]}
    if value.dtype.names:
        columns = [[name, codec._encoded(value[name], depth)] for name in value.dtype.names]
        return {"columns": [shape, columns]}
    return {"array": [_dtype_text(value.dtype, codec), shape, _text_bytes(value.tobytes())]}


def _dtype_text(dtype: Any, codec: Codec) -> str:
    text: str = dtype.str
    if not _PLAIN_DTYPE.fullmatch(text):
        raise codec._refusal(dtype, f" ({dtype})")
    return text


def _dtype_made(text: Any, codec: Codec) -> Any:
    if type(text) is not str or not _PLAIN_DTYPE.fullmatch(text):
        raise MalformedValue("An array has a type that is none.")
    return _library("numpy", "numpy", codec).dtype(text)


def _array_made(codec: Codec, content: Any, depth: int) -> Any:
    dtype, shape, data = content
    numpy = _library("numpy", "numpy", codec)
    made = _dtype_made(dtype, codec)
    if made.itemsize == 0:  # arrays of empty texts take no bytes
        return numpy.zeros(_shape(shape), made)
    return numpy.frombuffer(_bytes(data), made).reshape(_shape(shape)).copy()


def _shape(shape: Any) -> tuple[int, ...]:
    size = 1
    for length in shape:
        size *= length
        if type(length) is not int or length < 0 or size > MAX_ITEMS * 100 or len(shape) > 32:
            raise MalformedValue("An array has a shape that is none.")
    return tuple(shape)


def _scalar_made(codec: Codec, content: Any, depth: int) -> Any:
    dtype, data = content
    made = _dtype_made(dtype, codec)
    numpy = _library("numpy", "numpy", codec)
    return numpy.zeros((), made)[()] if made.itemsize == 0 else numpy.frombuffer(_bytes(data), made)[0]


def _objects_made(codec: Codec, content: Any, depth: int) -> Any:
    shape, items = content
    numpy = _library("numpy", "numpy", codec)
    values = codec._many(items, depth)
    array = numpy.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        array[index] = value
    return array.reshape(_shape(shape))


def _columns_made(codec: Codec, content: Any, depth: int) -> Any:
    shape, columns = content
    numpy = _library("numpy", "numpy", codec)
    decoded = [(name, codec._decoded(column, depth)) for name, column in columns]
    kinds = [(name, column.dtype, column.shape[len(shape) :]) for name, column in decoded]
    array = numpy.zeros(_shape(shape), dtype=kinds)
    for name, column in decoded:
        array[name] = column
    return array


def _pandas(codec: Codec, value: Any, depth: int) -> Any:
    pandas = _library("pandas", "pandas", codec)
    if value is pandas.NaT or value is pandas.NA:
        return {"missing": "NaT" if value is pandas.NaT else "NA"}
    if isinstance(value, pandas.DataFrame):
        columns = [_column(codec, value.iloc[:, i], depth) for i in range(value.shape[1])]
        labels, index = _column(codec, value.columns, depth), _column(codec, value.index, depth)
        return {"frame": [columns, labels, index]}
    if isinstance(value, pandas.Series):
        name = codec._encoded(value.name, depth)
        return {"series": [_column(codec, value, depth), name, _column(codec, value.index, depth)]}
    if isinstance(value, pandas.Index):
        return {"index": _column(codec, value, depth)}
    if isinstance(value, pandas.Timestamp):
        zone = None if value.tz is None else str(value.tz)
        return {"timestamp": [value.asm8.astype("datetime64[ns]").astype("int64").item(), zone]}
    if isinstance(value, pandas.Timedelta):
        return {"span": int(value.value)}
    raise codec._refusal(value)


def _column(codec: Codec, values: Any, depth: int) -> Any:
    """The values of a column or an index, with what is needed to build it again."""
    pandas = _library("pandas", "pandas", codec)
    if isinstance(values, pandas.RangeIndex):
        names = codec._encoded(values.name, depth)
        return {"steps": [values.start, values.stop, values.step, names]}
    if isinstance(values, pandas.MultiIndex):
        return {"levels": [codec._items(list(values), depth), codec._items(list(values.names), depth)]}
    name = codec._encoded(values.name, depth) if isinstance(values, pandas.Index) else None
    text = str(values.dtype)
    if type(values.dtype).__module__.split(".")[0] == "numpy" and text != "object":
        return {"column": [None, codec._encoded(values.to_numpy(), depth), name]}
    if not _FRAME_DTYPE.fullmatch(text):
        raise codec._refusal(values, f" (its values are {text})")
    plain = values.astype(object)
    return {"column": [text, codec._items(list(plain), depth), name]}


def _column_made(codec: Codec, content: Any, depth: int, kind: str) -> Any:
    """A Series or an Index from what :func:`_column` made."""
    pandas = _library("pandas", "pandas", codec)
    tag, parts = next(iter(content.items()))
    if tag == "steps" and kind == "Index":
        return pandas.RangeIndex(*map(int, parts[:3]), name=codec._decoded(parts[3], depth))
    if tag == "levels" and kind == "Index":
        names = codec._many(parts[1], depth)
        return pandas.MultiIndex.from_tuples(codec._many(parts[0], depth), names=names)
    dtype, values, name = parts
    if tag != "column" or not (dtype is None or _FRAME_DTYPE.fullmatch(dtype)):
        raise MalformedValue("A column has a type that is none.")
    decoded = codec._decoded(values, depth)
    made = getattr(pandas, kind)(decoded, dtype=dtype, name=codec._decoded(name, depth))
    return made if dtype is None else made.astype(dtype)


def _frame_made(codec: Codec, content: Any, depth: int) -> Any:
    columns, labels, index = content
    pandas = _library("pandas", "pandas", codec)
    made = {i: _column_made(codec, column, depth, "Series") for i, column in enumerate(columns)}
    rows = _column_made(codec, index, depth, "Index")
    for column in made.values():
        column.index = rows
    frame = pandas.DataFrame(made, index=rows)
    frame.columns = _column_made(codec, labels, depth, "Index")
    return frame


def _series_made(codec: Codec, content: Any, depth: int) -> Any:
    column, name, index = content
    series = _column_made(codec, column, depth, "Series")
    series.index = _column_made(codec, index, depth, "Index")
    series.name = codec._decoded(name, depth)
    return series


def _missing_made(codec: Codec, content: Any, depth: int) -> Any:
    pandas = _library("pandas", "pandas", codec)
    return pandas.NaT if content == "NaT" else pandas.NA


def _timestamp_made(codec: Codec, content: Any, depth: int) -> Any:
    nanoseconds, zone = content
    pandas = _library("pandas", "pandas", codec)
    made = pandas.Timestamp(int(nanoseconds), unit="ns", tz=None if zone is None else "UTC")
    return made if zone is None else made.tz_convert(str(zone)[:60])


_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
_MODE = re.compile(r"[A-Za-z0-9;]{1,8}")
_MAX_PIXELS = 100_000_000


def _image(codec: Codec, value: Any, depth: int) -> Any:
    _library("PIL", "Pillow", codec)
    from PIL import Image

    if not isinstance(value, Image.Image):
        raise codec._refusal(value)
    if value.mode not in _PNG_MODES:
        return {"pixels": [value.mode, list(value.size), _text_bytes(value.tobytes())]}
    data = io.BytesIO()
    value.save(data, "PNG", compress_level=1)
    return {"image": _text_bytes(data.getvalue())}


def _image_made(codec: Codec, content: Any, depth: int) -> Any:
    _library("PIL", "Pillow", codec)
    from PIL import Image

    with Image.open(io.BytesIO(_bytes(content)), formats=["PNG"]) as image:
        if image.width * image.height > _MAX_PIXELS:
            raise MalformedValue("An image has too many pixels.")
        image.load()
        return image.copy()


def _pixels_made(codec: Codec, content: Any, depth: int) -> Any:
    mode, (width, height), data = content
    _library("PIL", "Pillow", codec)
    from PIL import Image

    if not _MODE.fullmatch(mode) or width * height > _MAX_PIXELS:
        raise MalformedValue("An image has too many pixels.")
    return Image.frombytes(mode, (int(width), int(height)), _bytes(data))


_LIBRARIES: dict[str, Callable[[Codec, Any, int], Any]] = {"numpy": _numpy, "pandas": _pandas, "PIL": _image}


def _is_of_library(kind: type) -> bool:
    return kind.__module__.split(".")[0] in _LIBRARIES


#: Kinds whose decoding may import a library, or take long.
HEAVY_TAGS = (
    *("array", "scalar", "dtype", "objects", "columns", "image", "pixels"),
    *("frame", "series", "index", "missing", "timestamp", "span"),
)

_DECODERS: dict[str, Callable[[Codec, Any, int], Any]] = {
    "map": Codec._map,
    "dict": Codec._pairs,
    "tuple": _collected(tuple),
    "set": _collected(set),
    "frozenset": _collected(frozenset),
    "deque": _collected(collections.deque),
    "int": _made(_big),
    "bytes": _made(_bytes),
    "bytearray": _made(lambda content: bytearray(_bytes(content))),
    "complex": _made(lambda content: complex(*content)),
    "range": _collected(lambda parts: range(*parts)),
    "slice": _collected(lambda parts: slice(*parts)),
    "date": _made(lambda content: datetime.date(*content)),
    "datetime": _moment_made(datetime.datetime),
    "time": _moment_made(datetime.time),
    "timedelta": _made(lambda content: datetime.timedelta(*content)),
    "decimal": _decimal,
    "fraction": _collected(_fraction),
    "uuid": _made(uuid.UUID),
    "ellipsis": _made(lambda content: ...),
    "path": _made(pathlib.Path),
    "record": Codec._make_record,
    "named": Codec._make_named,
    "enum": Codec._make_enum,
    "error": Codec._make_error,
    "dtype": lambda codec, content, depth: _dtype_made(content, codec),
    "scalar": _scalar_made,
    "array": _array_made,
    "objects": _objects_made,
    "columns": _columns_made,
    "frame": _frame_made,
    "series": _series_made,
    "index": lambda codec, content, depth: _column_made(codec, content, depth, "Index"),
    "missing": _missing_made,
    "timestamp": _timestamp_made,
    "span": lambda codec, content, depth: _library("pandas", "pandas", codec).Timedelta(
        int(content), unit="ns"
    ),
    "image": _image_made,
    "pixels": _pixels_made,
}
