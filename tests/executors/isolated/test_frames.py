"""Frames come apart the same way however they are cut, and what is no frame is told."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.executors.isolated.frames import FrameError, FrameReader, pack, unpack

messages = st.lists(
    st.dictionaries(st.text(), st.integers() | st.text(st.characters(codec=None)), max_size=4)
)


@given(messages, st.lists(st.integers(1, 40)))
def test_messages_come_out_however_the_stream_is_cut(sent: list[dict[str, object]], cuts: list[int]) -> None:
    stream = b"".join(pack(message) for message in sent)
    reader, got = FrameReader(), []
    for cut in [*cuts, len(stream)]:
        got += [unpack(body) for body in reader.feed(stream[:cut])]
        stream = stream[cut:]
    got += [unpack(body) for body in reader.feed(stream)]
    assert got == sent
    assert reader.pending == 0


@given(st.lists(st.binary(max_size=50)))
def test_garbage_is_an_error_or_waits_for_more(pieces: list[bytes]) -> None:
    reader = FrameReader(limit=1000)
    try:
        for piece in pieces:
            for body in reader.feed(piece):
                unpack(body)
    except FrameError:
        return
    assert reader.pending <= 1004


def test_a_frame_beyond_the_limit_is_refused_by_its_head() -> None:
    with pytest.raises(FrameError, match="at most 100 "):
        FrameReader(limit=100).feed((101).to_bytes(4, "big"))
    with pytest.raises(FrameError, match="longer than 100"):
        pack({"text": "x" * 200}, limit=100)


@pytest.mark.parametrize(
    "body", [b"", b"[1]", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 10_000]
)
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(FrameError):
        unpack(body)


def test_a_large_frame_in_small_pieces_costs_linear_time() -> None:
    stream = pack({"text": "x" * 8_000_000})
    reader = FrameReader()
    start = time.perf_counter()
    bodies = [body for i in range(0, len(stream), 4096) for body in reader.feed(stream[i : i + 4096])]
    assert len(bodies) == 1
    assert time.perf_counter() - start < 5
