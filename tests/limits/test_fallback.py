"""Falling back from one model to the next."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from manyhands.errors import (
    AgentParsingError,
    AuthenticationError,
    BadRequestError,
    ConnectionFailedError,
    RateLimitError,
    ServerError,
)
from manyhands.limits import AllModelsFailedError, FallbackModel, is_retryable
from manyhands.testing.clock import run_virtual
from tests.limits.doubles import QUESTION, PlayedModel, streamed

CONTEXT_OVERFLOW = BadRequestError("context_length_exceeded", status=400)


@pytest.mark.parametrize(
    "error",
    [
        ServerError("down", status=500),
        RateLimitError("slow down", status=429),
        CONTEXT_OVERFLOW,
        ConnectionFailedError("gone"),
        AuthenticationError("no", status=401),
        ValueError("a bug in a model of one's own"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_after_an_error_the_next_model_is_asked(error: Exception) -> None:
    told: list[tuple[Any, Exception]] = []
    first, second = PlayedModel([error]), PlayedModel(["from b"])
    model = FallbackModel([first, second], on_fallback=lambda failed, why: told.append((failed, why)))
    assert (await model.agenerate(QUESTION)).text == "from b"
    assert told == [(first, error)]


async def test_an_error_that_another_model_cannot_help_is_raised() -> None:
    second = PlayedModel()
    with pytest.raises(AgentParsingError):
        await FallbackModel([PlayedModel([AgentParsingError("no")]), second]).agenerate(QUESTION)
    assert second.asked == []


async def test_when_all_fail_the_error_tells_of_each() -> None:
    errors = (ServerError("a failed", status=500), CONTEXT_OVERFLOW)
    with pytest.raises(AllModelsFailedError, match="a failed.*context_length") as caught:
        await FallbackModel([PlayedModel([error]) for error in errors]).agenerate(QUESTION)
    assert caught.value.errors == errors
    assert caught.value.__cause__ is CONTEXT_OVERFLOW
    assert is_retryable(caught.value)


async def test_a_single_model_raises_its_own_error() -> None:
    with pytest.raises(ServerError):
        await FallbackModel([PlayedModel([ServerError("down")])]).agenerate(QUESTION)


async def test_a_stream_falls_back_before_its_first_piece() -> None:
    first = PlayedModel(["!"])
    assert await streamed(FallbackModel([first, PlayedModel(["London"])])) == "London"
    assert first.ended == 1


async def test_a_stream_that_has_begun_does_not_fall_back() -> None:
    second = PlayedModel()
    with pytest.raises(ConnectionError):
        await streamed(FallbackModel([PlayedModel(["Par!is"]), second]))
    assert second.asked == []


def test_a_model_that_named_a_time_is_passed_over_until_then() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        first = PlayedModel([RateLimitError("slow down", status=429, retry_after=30), "from a"])
        model = FallbackModel([first, PlayedModel(["from b"])], clock=loop.time)
        for _ in range(3):
            assert (await model.agenerate(QUESTION)).text == "from b"
        assert len(first.asked) == 1
        await asyncio.sleep(30)
        assert (await model.agenerate(QUESTION)).text == "from a"

    run_virtual(scenario())


def test_without_models_there_is_nothing_to_fall_back_to() -> None:
    with pytest.raises(ValueError, match="at least one"):
        FallbackModel([])


def test_tool_messages_are_sent_natively_only_if_all_models_understand_them() -> None:
    native, plain = PlayedModel(), PlayedModel()
    native.native_tool_messages = True
    assert FallbackModel([native]).native_tool_messages
    assert not FallbackModel([native, plain]).native_tool_messages
