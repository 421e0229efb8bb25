"""Values cross as JSON and come out as they were; what is no value is told."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import decimal
import enum
import fractions
import json
import math
import pathlib
import uuid
import zoneinfo
from typing import Any, NamedTuple

import numpy
import pandas  # type: ignore[import-untyped, unused-ignore]
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from manyhands.executors.isolated.values import CannotCross, Codec, MalformedValue

zones = (
    st.none()
    | st.just(datetime.UTC)
    | st.sampled_from(
        [datetime.timezone(datetime.timedelta(hours=-3, minutes=-30)), zoneinfo.ZoneInfo("Europe/Berlin")]
    )
)
plain = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**200), 10**200)
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text(st.characters(codec=None))
    | st.binary()
    | st.dates()
    | st.datetimes(timezones=zones)
    | st.times()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.uuids()
    | st.builds(range, st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 3))
    | st.just(...)
    | st.just(pathlib.Path("a/b.txt"))
)
keys = st.integers() | st.text() | st.binary() | st.tuples(st.integers(), st.text()) | st.none() | st.dates()
values = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text(), inner)
        | st.dictionaries(keys, inner)
        | st.sets(keys)
        | st.frozensets(keys)
        | st.lists(inner).map(collections.deque)
    ),
    max_leaves=20,
)


KINDS = (
    *(
        "map",
        "dict",
        "tuple",
        "set",
        "int",
        "bytes",
        "complex",
        "range",
        "date",
        "datetime",
        "time",
        "decimal",
    ),
    *("fraction", "uuid", "path", "record", "named", "enum", "error", "dtype", "scalar", "array", "objects"),
    *("columns", "frame", "series", "index", "image", "pixels", "slice", "timestamp", "span", "missing"),
)


def across(value: Any) -> Any:
    """``value`` on the other side, over real JSON text."""
    return Codec().decode(json.loads(json.dumps(Codec().encode(value))))


def same(one: Any, other: Any) -> bool:
    """Equal and of the same types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple, collections.deque)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


@given(values)
@settings(max_examples=150, deadline=None)
def test_plain_values_come_out_as_they_were(value: Any) -> None:
    assert same(across(value), value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(KINDS) | st.text(),
                inner,
                max_size=1,
            )
        ),
        max_leaves=20,
    )
)
@settings(max_examples=250, deadline=None)
def test_json_that_no_codec_made_is_a_value_or_an_error(forged: Any) -> None:
    with contextlib.suppress(MalformedValue, CannotCross):
        Codec().decode(forged)


def test_floats_that_json_lacks() -> None:
    assert math.isnan(across(math.nan))
    assert across([math.inf, -math.inf, -0.0]) == [math.inf, -math.inf, 0.0]
    assert across(decimal.Decimal("NaN")).is_nan()
    assert across(10**5000) == 10**5000


@dataclasses.dataclass
class Point:
    x: int
    y: Any = None
    total: int = dataclasses.field(init=False, default=0)

    def __post_init__(self) -> None:
        self.total = self.x + 1


class Pair(NamedTuple):
    a: int
    b: str


class Color(enum.Enum):
    RED = 1
    BLUE = (2, 3)


class Order(pydantic.BaseModel):
    item: str
    count: int = 1


def test_objects_arrive_as_look_alikes_and_come_home_as_themselves() -> None:
    host, guest = Codec("enter"), Codec("leave")
    for value in (Point(1, [Point(2)]), Pair(1, "b"), Color.BLUE, Order(item="tea", count=2)):
        there = guest.decode(host.encode(value))
        assert type(there) is not type(value)
        home = host.decode(guest.encode(there))
        assert (type(home), home) == (type(value), value)
    there = guest.decode(host.encode(Point(1, 2)))
    assert (there.x, there.y, type(there).__name__) == (1, 2, "Point")
    assert dataclasses.asdict(there) == {"x": 1, "y": 2, "total": 2}
    assert repr(there) == "Point(x=1, y=2, total=2)"
    assert guest.decode(host.encode(Pair(1, "b")))._asdict() == {"a": 1, "b": "b"}
    assert guest.decode(host.encode(Color.RED)).name == "RED"


def test_classes_that_were_not_sent_are_not_found() -> None:
    forged = {"record": ["pathlib:Path", "Path", {"x": 1}]}
    assert not isinstance(Codec().decode(forged), pathlib.Path)
    for name in ("__class__", "class", "a b", "x.y", ""):
        with pytest.raises(MalformedValue):
            Codec().decode({"record": ["m:A", "A", {name: 1}]})


def test_subclasses_of_plain_types_arrive_as_the_plain_type() -> None:
    class Text(str):
        __slots__ = ()

    class Level(enum.IntEnum):
        HIGH = 3

    got = across([Text("a"), True, Level.HIGH, collections.OrderedDict(a=1), collections.Counter("aa")])
    assert got == ["a", True, 3, {"a": 1}, {"a": 2}]
    assert [type(item) for item in got] == [str, bool, int, dict, dict]


def test_errors_keep_name_kind_and_text() -> None:
    class QuotaError(KeyError):
        pass

    error = across(QuotaError("left", 3))
    assert isinstance(error, KeyError)
    assert (type(error).__name__, error.args) == ("QuotaError", ("left", 3))
    assert "ordinal not in range" in str(across(_raised(lambda: "é".encode("ascii"))))


def _raised(act: Any) -> Exception:
    try:
        act()
    except Exception as error:
        return error
    raise AssertionError("it raised nothing")


ARRAYS = [
    numpy.arange(12).reshape(3, 4)[:, ::2],
    numpy.array(3.5),
    numpy.zeros((0, 3), dtype="float32"),
    numpy.array([True, False]),
    numpy.array(["a", "ünï"]),
    numpy.array([b"xy", b"z"]),
    numpy.array(["2020-01-01", "NaT"], dtype="datetime64[D]"),
    numpy.array([1, 2], dtype="timedelta64[ns]"),
    numpy.array([1 + 2j]),
    numpy.array([1, "a", None, {"k": (1, 2)}], dtype=object),
    numpy.array([(1, 2.5, "ab")], dtype=[("a", "i4"), ("b", "f8"), ("c", "U2")]),
    numpy.array([1, 2], dtype=">i2"),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: str(array.dtype))
def test_arrays_come_out_as_they_were(array: Any) -> None:
    got = across(array)
    assert (got.dtype, got.shape) == (array.dtype, array.shape)
    numpy.testing.assert_array_equal(got, array)


@pytest.mark.parametrize("scalar", [numpy.float32(1.5), numpy.int64(7), numpy.bool_(True), numpy.str_("é")])
def test_scalars_of_numpy_stay_scalars_of_numpy(scalar: Any) -> None:
    got = across([scalar])[0]
    assert got == scalar
    assert type(got) in (type(scalar), str)


FRAMES = [
    pandas.DataFrame({"a": [1, 2], "b": ["x", None], "c": [1.5, math.nan]}),
    pandas.DataFrame(),
    pandas.DataFrame({"t": pandas.to_datetime(["2020-01-01", None]), "n": [True, False]}, index=["p", "q"]),
    pandas.DataFrame({"z": pandas.to_datetime(["2020-01-01"]).tz_localize("Europe/Berlin")}),
    pandas.DataFrame(
        {"i": pandas.array([1, None], dtype="Int64"), "s": pandas.array(["a", None], dtype="string")}
    ),
    pandas.DataFrame([[1, 2], [3, 4]], columns=["same", "same"]),
    pandas.DataFrame(
        {("a", 1): [1], ("b", 2): [2]}, index=pandas.MultiIndex.from_tuples([("x", 1)], names=["k", "l"])
    ),
    pandas.DataFrame({"o": [[1, 2], {"k": 1}]}, index=pandas.date_range("2020-01-01", periods=2, name="day")),
]


@pytest.mark.parametrize("frame", FRAMES, ids=range(len(FRAMES)))
def test_frames_come_out_as_they_were(frame: pandas.DataFrame) -> None:
    pandas.testing.assert_frame_equal(across(frame), frame, check_freq=False)


def test_series_and_moments_of_pandas() -> None:
    series = pandas.Series([1.5, None], index=["a", "b"], name="s")
    pandas.testing.assert_series_equal(across(series), series)
    category = pandas.Series(["a", "b", "a"], dtype="category")
    pandas.testing.assert_series_equal(across(category), category)
    for moment in (pandas.Timestamp("2020-01-02 03:04", tz="Europe/Berlin"), pandas.Timedelta("1 day")):
        assert across(moment) == moment
    assert across(pandas.NaT) is pandas.NaT


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "1", "P", "CMYK", "F", "I;16"])
def test_images_come_out_as_they_were(mode: str) -> None:
    image = Image.new(mode, (7, 5), 1)
    got = across(image)
    assert (got.mode, got.size, got.tobytes()) == (image.mode, image.size, image.tobytes())


def test_what_cannot_cross_is_told_by_type_and_place() -> None:
    class Plan:
        pass

    cycle: list[Any] = []
    cycle.append({"again": cycle})
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]
    cases = {
        r"a value of type Plan cannot leave": Plan(),
        r"type Plan at \['a'\]\[3\] cannot leave": {"a": [0, 1, 2, Plan()]},
        r"type Plan at \.y\['k'\] cannot leave": Point(1, {"k": Plan()}),
        r"type module at \[0\] cannot": [json],
        r"type function cannot": _raised,
        r"holds itself at \[0\]\['again'\]": cycle,
        r"deeper than 64": deep,
        r"more than 1,000 parts": [[] for _ in range(1_001)],
    }
    for text, value in cases.items():
        with pytest.raises(CannotCross, match=text):
            Codec("leave", max_items=1000).encode(value)


BOMBS = [
    {"fraction": ["1e999999999", 1]},
    {"array": ["<f8", [1 << 60], ""]},
    {"array": ["|O", [1], "AAAAAAAAAAA="]},
    {"array": ["V8,i4", [1], ""]},
    {"objects": [[10**9], []]},
    {"pixels": ["RGB", [10**6, 10**6], ""]},
    {"int": "0x" + "f" * 10 + "z"},
    {"error": ["SystemExit", "SystemExit", [1]]},
    {"uuid": 5},
    {"set": [{"map": {}}]},
    {"unknown": 1},
    {"map": {}, "dict": []},
    {"frame": [[], {"column": ["eval(1)", [], None]}, {"steps": [0, 0, 1, None]}]},
]


@pytest.mark.parametrize("forged", BOMBS, ids=range(len(BOMBS)))
def test_forged_values_are_refused_at_once(forged: Any) -> None:
    try:
        value = Codec().decode(forged)
    except (MalformedValue, CannotCross):
        return
    assert isinstance(value, Exception)  # an error of any name is caught like any error


def test_nesting_is_bounded() -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(MalformedValue, match="nested"):
        Codec().decode(deep)


def test_uuid_and_fraction() -> None:
    assert across(uuid.UUID(int=5)) == uuid.UUID(int=5)
    assert across(fractions.Fraction(1, 3)) == fractions.Fraction(1, 3)
