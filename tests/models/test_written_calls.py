"""Tool calls that models write as text."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.errors import AgentParsingError
from manyhands.models.base import tool_calls_from_text


def read(text: str, **keys: str) -> list[tuple[str, Any]]:
    return [(call.function.name, call.function.arguments) for call in tool_calls_from_text(text, **keys)]


LOOK = '{"name": "look", "arguments": {"at": "é {x}"}}'
HEAR = '{"name": "hear", "arguments": {"far": [1, {"name": "inner"}]}}'
BOTH = [("look", {"at": "é {x}"}), ("hear", {"far": [1, {"name": "inner"}]})]


@pytest.mark.parametrize(
    "text",
    [
        f"[{LOOK}, {HEAR}]",
        f"{LOOK}\n{HEAR}",
        f"I do both.\n<tool_call>\n{LOOK}\n</tool_call>\n<tool_call>{HEAR}</tool_call> Done.",
        f"```json\n[{LOOK},\n{HEAR}]\n```",
        f"Thought: use {{look}} and {{'hear'}}.\nAction: {LOOK} then {HEAR}",
        f'{{"tool_calls": 2}} {LOOK} {{"name": "no call"}} {HEAR}',
        f'[{{"id": "1", "type": "function", "function": {LOOK}}}, {{"function": {HEAR}}}]',
        f'{LOOK}{HEAR}{{"name": "cut off", "argum',
    ],
)
def test_all_calls_of_a_reply_are_read(text: str) -> None:
    assert read(text) == BOTH


def test_a_single_call_may_take_many_forms() -> None:
    assert read('{"name": "look"}') == [("look", {})]
    assert read('{"name": "look", "arguments": null}') == [("look", {})]
    assert read('{"name": "look", "arguments": "{\\"at\\": 1}"}') == [("look", {"at": 1})]
    assert read('{"name": "look", "arguments": "at noon"}') == [("look", "at noon")]
    assert read('{"name": "look", "arguments": {"at": "two\nlines"}}') == [("look", {"at": "two\nlines"})]
    assert read('{"tool": "look", "given": {}}', name_key="tool", arguments_key="given") == [("look", {})]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("I look.", "no JSON object"),
        ('{"name": "look", "arguments": {"at": "b"', "not valid JSON"),
        ("{look}", "not valid JSON"),
        ('{"tool": "look"}', "no \"name\". Its keys are: .'tool'."),
        ("{" * 100_000, "not valid JSON"),
        ('{"a":' * 100_000, "not valid JSON"),
    ],
)
def test_a_reply_without_a_call_says_what_it_lacks(text: str, told: str) -> None:
    with pytest.raises(AgentParsingError, match=told):
        tool_calls_from_text(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.text(st.characters(categories=["L", "N"]), min_size=1)
WORDS = st.text(st.characters(exclude_characters="{"), max_size=20)


@given(st.lists(st.tuples(NAMES, st.dictionaries(st.text(), VALUES, max_size=3), WORDS), min_size=1))
def test_calls_between_words_come_back_as_they_were_written(calls: list[Any]) -> None:
    text = "".join(
        words + json.dumps({"name": name, "arguments": arguments}) for name, arguments, words in calls
    )
    assert read(text) == [(name, arguments) for name, arguments, _ in calls]


def seconds(text: str) -> float:
    began = time.perf_counter()
    with suppress(AgentParsingError):
        tool_calls_from_text(text)
    return time.perf_counter() - began


@pytest.mark.parametrize("piece", [LOOK, '{"a":[', '{"', "{", '{"a', '[{"name":', '{"a":"\\', '{"a":1,'])
def test_reading_takes_time_in_proportion_to_the_reply(piece: str) -> None:
    # Were it quadratic, a text of a few million characters would take minutes.
    assert seconds(piece * (2_000_000 // len(piece))) < 20
