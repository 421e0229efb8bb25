"""Logs that know their run."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider

from manyhands import CallerError, CodeAgent, ToolCallingAgent, tool
from manyhands.observe.logs import JsonFormatter, RunFilter, configure
from manyhands.observe.masking import Masker
from manyhands.observe.telemetry import Telemetry
from manyhands.testing import FunctionModel, ScriptedModel
from tests.agents.replies import calls, code, final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manyhands import ChatMessage

logger = logging.getLogger("manyhands.tests")


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    with configure(level="DEBUG", stream=stream):
        yield stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@tool
async def says(word: str) -> str:
    """Log a word.

    Args:
        word: The word.
    """
    logger.info("in a task: %s", word)
    return word


@tool
def shouts(word: str) -> str:
    """Log a word on a thread.

    Args:
        word: The word.
    """
    logger.warning("on a thread: %s", word)
    return word


async def test_records_say_which_run_and_agent_they_are_about(written: io.StringIO) -> None:
    agent = CodeAgent(
        [says, shouts], ScriptedModel(code("says('a')\nshouts('b')\nfinal_answer(1)")), name="loud"
    )
    run = agent.arun("go")
    logger.info("before")
    await run
    before, *during = lines(written)
    assert "run_id" not in before
    assert [(line["message"], line["level"], line["run_id"], line["agent"]) for line in during] == [
        ("in a task: a", "INFO", run.id, "loud"),
        ("on a thread: b", "WARNING", run.id, "loud"),
    ]
    assert all(line["logger"] == "manyhands.tests" and line["time"].endswith("Z") for line in during)


async def test_two_hundred_runs_at_once_log_as_themselves(written: io.StringIO) -> None:
    both = asyncio.Barrier(200)

    @tool
    async def meet(word: str) -> str:
        """Wait for all others, and log.

        Args:
            word: The task.
        """
        await both.wait()
        logger.info("met", extra={"word": word})
        return word

    def reply(messages: list[ChatMessage]) -> Any:
        word = messages[1].text.split("task-")[1].strip()
        return final(word) if len(messages) > 2 else calls(("meet", {"word": word}))

    agent = ToolCallingAgent([meet], FunctionModel(reply), name="many")
    runs = {str(number): agent.arun(f"task-{number}") for number in range(200)}
    await asyncio.gather(*runs.values())
    told = {line["word"]: line["run_id"] for line in lines(written)}
    assert told == {word: run.id for word, run in runs.items()}


async def test_records_hold_the_ids_of_the_current_span(written: io.StringIO) -> None:
    telemetry = Telemetry(TracerProvider(shutdown_on_exit=False))
    agent = ToolCallingAgent(
        [says],
        ScriptedModel([calls(("says", {"word": "a"})), final("x")]),
        observers=[telemetry.observe],
    )
    await agent.arun("go")
    (line,) = lines(written)
    assert (len(line["trace_id"]), len(line["span_id"])) == (32, 16)


def test_an_exception_is_part_of_its_line_and_extras_are_fields(written: io.StringIO) -> None:
    try:
        raise LookupError("gone")
    except LookupError:
        logger.exception("It failed", extra={"attempt": 2, "where": {"city": "Paris"}, "none": None})
    (line,) = lines(written)
    assert line["exception"].startswith("Traceback (most recent call last):")
    assert line["exception"].endswith("LookupError: gone")
    assert (line["attempt"], line["where"], line["none"]) == (2, '{"city": "Paris"}', None)


SECRETS = (
    "sk-proj-abcdefghijklmnop",
    "hf_abcdefghijklmnopqrst",
    "AKIAABCDEFGHIJKLMNOP",
    "ghp_abcdefghijklmnopqrstuvwxyz",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
)


@pytest.mark.parametrize("secret", SECRETS)
def test_keys_are_masked_wherever_they_stand(written: io.StringIO, secret: str) -> None:
    try:
        raise ValueError(f"401 for {secret}")
    except ValueError:
        logger.exception("key %s", secret, extra={"sent": {"header": secret}})
    assert secret not in written.getvalue()
    assert "***" in lines(written)[0]["message"]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("api_key='abcdef123' and more", "api_key='***' and more"),
        ('{"authorization": "Bearer abcdefgh"}', '{"authorization": "Bearer ***"}'),
        ("password: hunter22", "password: ***"),
        ("redis://user:pass-word@host/0", "redis://user:***@host/0"),
        ("max_tokens=4096000 and total_tokens: 1234567", "max_tokens=4096000 and total_tokens: 1234567"),
        ("the token is gone", "the token is gone"),
    ],
)
def test_what_is_called_a_secret_is_masked_and_nothing_else(said: str, shown: str) -> None:
    assert Masker({})(said) == shown


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=8), st.text(), st.text())
def test_values_of_secret_variables_are_masked_in_any_text(secret: str, before: str, after: str) -> None:
    masked = Masker({"SERVICE_API_KEY": secret, "SERVICE_NAME": "harmless-name"})(before + secret + after)
    assert secret not in masked.replace("***", "\0")
    assert Masker({"SERVICE_NAME": "harmless-name"})("a harmless-name") == "a harmless-name"


def test_text_is_for_people() -> None:
    stream = io.StringIO()

    async def work() -> str:
        agent = ToolCallingAgent(
            [says], ScriptedModel([calls(("says", {"word": "a"})), final("x")]), name="a"
        )
        run = agent.arun("go")
        await run
        return run.id

    with configure(json=False, stream=stream):
        run_id = asyncio.run(work())
    assert stream.getvalue().endswith(f"INFO    manyhands.tests [a {run_id[:8]}]: in a task: a\n")


def test_configuring_again_replaces_and_stopping_leaves_all_as_it_was() -> None:
    root = logging.getLogger("manyhands")
    before = (root.level, root.propagate, list(root.handlers))
    first, second = io.StringIO(), io.StringIO()
    configure(stream=first)
    with configure(level=logging.WARNING, stream=second):
        logger.info("not this")
        logger.warning("this")
    assert first.getvalue() == ""
    assert [line["message"] for line in lines(second)] == ["this"]
    assert (root.level, root.propagate, list(root.handlers)) == before


def test_a_level_that_does_not_exist_is_refused_and_changes_nothing() -> None:
    before = list(logging.getLogger("manyhands").handlers)
    with pytest.raises(CallerError, match="level='LOUD' is no level of logging"):
        configure(level="LOUD")
    assert list(logging.getLogger("manyhands").handlers) == before


def test_filter_and_formatter_serve_handlers_of_ones_own() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(RunFilter())
    handler.setFormatter(JsonFormatter())
    own = logging.getLogger("an_application")
    own.addHandler(handler)
    try:
        own.error("Something\nover two lines")
    finally:
        own.removeHandler(handler)
    (line,) = lines(stream)
    assert (line["logger"], line["message"]) == ("an_application", "Something\nover two lines")
