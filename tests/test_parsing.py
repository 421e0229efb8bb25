"""From what a model wrote to the code it means."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.errors import AgentParsingError
from manyhands.parsing import (
    MARKDOWN_TAGS,
    extract_code,
    extract_structured_code,
    rename_final_answer_variable,
)


def test_finds_the_code_between_the_tags() -> None:
    assert extract_code("Thought: x\n<code>\nx = 1\n</code>") == "x = 1"


def test_joins_all_blocks_of_a_reply() -> None:
    assert extract_code("<code>a = 1</code> then <code>b = 2</code>") == "a = 1\n\nb = 2"


@pytest.mark.parametrize("fence", ["```python\nx = 1\n```", "```py\nx = 1\n```"])
def test_takes_a_markdown_fence_where_the_tags_are_missing(fence: str) -> None:
    assert extract_code(f"Thought: x\n{fence}") == "x = 1"


def test_markdown_fences_can_be_the_tags() -> None:
    assert extract_code("```python\nx = 1\n```", MARKDOWN_TAGS) == "x = 1"


def test_takes_a_reply_that_is_python_throughout() -> None:
    assert extract_code("x = 1\nprint(x)") == "x = 1\nprint(x)"


def test_a_reply_without_code_is_told_how_code_should_look() -> None:
    with pytest.raises(AgentParsingError, match=r"(?s)<code>.*# Your Python code here.*</code>"):
        extract_code("I think we should look it up.")


def test_a_reply_with_an_answer_in_words_is_told_how_to_give_it() -> None:
    with pytest.raises(AgentParsingError, match="final_answer\\("):
        extract_code("The final answer is 42, surely.")


def test_reads_structured_code() -> None:
    assert extract_structured_code('{"thought": "t", "code": "x = \\"{}\\""}') == 'x = "{}"'
    assert extract_structured_code('{"thought": "t", "code": "<code>x = 1</code>"}') == "x = 1"


@pytest.mark.parametrize("reply", ["", "no json", "{}", '{"code": 1', "[1]"])
def test_a_reply_that_is_no_structured_code_says_so(reply: str) -> None:
    with pytest.raises(AgentParsingError, match="one JSON object"):
        extract_structured_code(reply)


def test_a_variable_named_like_the_tool_is_renamed_and_the_call_is_not() -> None:
    code = "s = 'é'; final_answer = 3\nfinal_answer(final_answer + 1)"
    assert rename_final_answer_variable(code) == (
        "s = 'é'; final_answer_variable = 3\nfinal_answer(final_answer_variable + 1)"
    )


@pytest.mark.parametrize(
    "code", ["final_answer(1)", "x = 1", "final_answer = (", "print('final_answer = 3')"]
)
def test_other_code_is_left_alone(code: str) -> None:
    assert rename_final_answer_variable(code) == code


@given(st.text())
def test_any_text_gives_code_or_a_parsing_error(text: str) -> None:
    try:
        extract_code(text)
    except AgentParsingError as error:
        assert "<code>" in str(error)


@given(st.text(alphabet="final_answer =()\n;1é"))
def test_renaming_keeps_code_that_parses_parsing(code: str) -> None:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError):
        return
    ast.parse(rename_final_answer_variable(code))
