"""JSON comes out the same with and without orjson."""

from __future__ import annotations

import datetime
import enum
import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.models import codec

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_what_goes_out_comes_back(value: Any) -> None:
    try:
        expected = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return
    assert codec.dumps(value) == expected
    assert codec.loads(expected) == value


@given(st.text())
def test_any_text_becomes_a_valid_json_string(text: str) -> None:
    assert json.loads(codec.quoted(text)) == text.encode("utf-8", "replace").decode()


def test_half_characters_become_question_marks() -> None:
    assert codec.dumps({"a": "x\ud800"}) == b'{"a":"x?"}'
    assert codec.quoted("\udfff") == b'"?"'


class Colour(enum.StrEnum):
    RED = "red"


@dataclass
class Point:
    x: int

    def __str__(self) -> str:
        return "a point"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Point(1), b'"a point"'),
        (Colour.RED, b'"red"'),
        (datetime.date(2030, 1, 2), b'"2030-01-02"'),
        ({1: "a"}, b'{"1":"a"}'),
        (2**70, str(2**70).encode()),
        ((1, 2), b"[1,2]"),
        ({"a": {3}}, b'{"a":[3]}'),
    ],
)
def test_what_json_lacks_is_written_as_something_it_has(value: Any, expected: bytes) -> None:
    assert codec.dumps(value) == expected


def test_replies_are_read_generously() -> None:
    assert codec.loads(b'\xef\xbb\xbf{"a":1}') == {"a": 1}
    assert codec.loads(b'{"a":"\xff"}') == {"a": "\ufffd"}
    assert codec.loads('{"a":"b"}') == {"a": "b"}
    assert codec.loads(b'{"a":"line\nend"}') == {"a": "line\nend"}


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(ValueError, match="Expecting"):
        codec.loads(b"<html>")
