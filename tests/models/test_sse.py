"""Server-sent events come out whole, however they went in."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.models.sse import EventReader


def read(*chunks: bytes) -> list[bytes]:
    reader = EventReader()
    return [event for chunk in chunks for event in reader.feed(chunk)] + reader.end()


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_all_line_ends_count(end: bytes) -> None:
    assert read(b"data: a" + end + end + b"data: b" + end + end) == [b"a", b"b"]


def test_data_of_several_lines_is_joined() -> None:
    assert read(b"data: {\ndata:  1}\n\n") == [b"{\n 1}"]


def test_only_one_space_after_the_colon_is_left_out() -> None:
    assert read(b"data:x\n\ndata:  y\n\n") == [b"x", b" y"]


def test_comments_names_and_ids_are_passed_over() -> None:
    assert read(b": ping\n\nevent: x\nid: 3\nretry: 10\ndata: a\n\n:\n\n") == [b"a"]


def test_the_last_event_needs_no_empty_line() -> None:
    assert read(b"data: a\n\ndata: b") == [b"a", b"b"]
    assert read(b"data: a\n\ndata: b\n") == [b"a", b"b"]


def test_a_byte_order_mark_is_no_text() -> None:
    assert read(b"\xef\xbb\xbfdata: a\n\n") == [b"a"]
    assert read(b"\xef\xbb\xbf", b"data: a") == [b"a"]


def test_an_event_comes_out_as_soon_as_it_is_complete() -> None:
    reader = EventReader()
    assert reader.feed(b"data: a\r\n") == []
    assert reader.feed(b"\r") == [b"a"]
    assert reader.feed(b"\ndata: b\n\n") == [b"b"]


def test_nothing_comes_of_nothing() -> None:
    assert read() == read(b"") == read(b"\n\n\n") == []


text = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20)


@given(
    st.lists(st.lists(text, min_size=1, max_size=3), max_size=6),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.data(),
)
def test_cuts_change_nothing(payloads: list[list[str]], end: str, data: st.DataObject) -> None:
    stream = "".join("".join(f"data: {line}{end}" for line in lines) + end for lines in payloads).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert read(*chunks) == ["\n".join(lines).encode() for lines in payloads]


def test_time_grows_with_the_bytes_and_not_faster() -> None:
    def seconds(pieces: int) -> float:
        reader = EventReader()
        started = time.perf_counter()
        for _ in range(pieces):
            reader.feed(b"data: xxxxxxxxxxxxxxx" if _ == 0 else b"x" * 20)
        assert len(reader.end()[0]) >= pieces * 20 - 20
        return time.perf_counter() - started

    seconds(1000)
    # A line in 40,000 pieces: with a join for each it would take minutes.
    assert seconds(40_000) < 1.0
