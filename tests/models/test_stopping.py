"""Stop sequences: who takes them, and where a text is cut for those who do not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.models.stopping import (
    StopCutter,
    remove_content_after_stop_sequences,
    supports_stop_parameter,
)


@pytest.mark.parametrize(
    "model_id",
    ["o3", "o3-mini", "o4-mini-2025-04-16", "openai/o3", "gpt-5", "gpt-5.1", "gpt-5-mini", "azure/gpt-5-nano"]
    + ["grok-4", "xai/grok-3-mini", "oci/xai.grok-4", "GPT-5"],
)
def test_reasoning_models_take_no_stop_sequences(model_id: str) -> None:
    assert not supports_stop_parameter(model_id)


@pytest.mark.parametrize(
    "model_id",
    [
        "gpt-4o",
        "gpt-4.1",
        "o1",
        "Qwen/Qwen3-32B",
        "llama-3",
        "meta/o3x",
        "my-gpt-5-clone",
        "gpt-50k/base",
        "",
        None,
    ],
)
def test_all_others_do(model_id: str | None) -> None:
    assert supports_stop_parameter(model_id)


def test_the_first_stop_sequence_in_the_text_ends_it() -> None:
    assert remove_content_after_stop_sequences("a STOP b END", ["END", "STOP"]) == "a "
    assert remove_content_after_stop_sequences("STOP", ["STOP"]) == ""
    assert remove_content_after_stop_sequences("a", ["", "x"]) == "a"
    assert remove_content_after_stop_sequences("a", None) == "a"
    assert remove_content_after_stop_sequences(None, ["x"]) is None


words = st.text("abx", max_size=30)


@given(words, st.lists(st.text("abx", min_size=1, max_size=4), max_size=3), st.data())
def test_a_streamed_text_is_cut_like_a_whole_one(text: str, stops: list[str], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    cutter = StopCutter(stops)
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert "".join(map(cutter.feed, pieces)) + cutter.end() == (
        remove_content_after_stop_sequences(text, stops) or ""
    )


def test_text_that_begins_no_stop_sequence_is_not_held_back() -> None:
    cutter = StopCutter(["Observation:"])
    assert cutter.feed("Look. Obs") == "Look. "
    assert cutter.feed("cure") == "Obscure"
    assert cutter.end() == ""
