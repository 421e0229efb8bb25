"""Retries: after what, how soon, and what is held meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from manyhands.errors import (
    AgentGenerationError,
    AgentParsingError,
    AuthenticationError,
    BadRequestError,
    ConnectionFailedError,
    ProviderError,
    RateLimitError,
    ServerError,
)
from manyhands.limits import (
    CapacityLimiter,
    LimitedModel,
    RateLimiter,
    RetryDetails,
    RetryingModel,
    RetryPolicy,
)
from manyhands.limits import is_retryable as retryable
from manyhands.testing.clock import run_virtual
from tests.limits.doubles import QUESTION, PlayedModel, streamed


class ForeignError(Exception):
    def __init__(self, status_code: int) -> None:
        super().__init__(f"status {status_code}")
        self.status_code = status_code


@pytest.mark.parametrize(
    "error",
    [
        RateLimitError("slow down", status=429),
        RateLimitError("slow down"),
        *(ServerError("failed", status=status) for status in (408, 409, 500, 502, 503, 504, 529)),
        ConnectionFailedError("no connection"),
        ConnectionResetError(),
        TimeoutError(),
        ForeignError(429),
        ForeignError(503),
    ],
    ids=repr,
)
def test_errors_that_may_pass_are_retryable(error: Exception) -> None:
    assert retryable(error)


@pytest.mark.parametrize(
    "error",
    [
        *(BadRequestError("wrong", status=status) for status in (400, 404, 422)),
        *(AuthenticationError("no", status=status) for status in (401, 403)),
        RateLimitError("no money", status=429, body={"error": {"code": "insufficient_quota"}}),
        AgentParsingError("no code"),
        AgentGenerationError("nothing"),
        ForeignError(400),
        ValueError("bug"),
    ],
    ids=repr,
)
def test_errors_that_will_not_pass_are_not(error: Exception) -> None:
    assert not retryable(error)


def test_a_failure_is_retried_until_it_passes() -> None:
    async def scenario() -> None:
        model = PlayedModel([ServerError("a", status=500), ConnectionFailedError("b"), "Paris"])
        assert (await RetryingModel(model).agenerate(QUESTION)).text == "Paris"
        assert len(model.asked) == 3

    run_virtual(scenario())


def test_a_rejected_request_is_asked_once() -> None:
    async def scenario() -> None:
        model = PlayedModel([BadRequestError("too long", status=400)])
        with pytest.raises(BadRequestError):
            await RetryingModel(model).agenerate(QUESTION)
        assert len(model.asked) == 1

    run_virtual(scenario())


def test_the_last_error_is_raised_with_the_earlier_ones_as_notes() -> None:
    async def scenario() -> None:
        model = PlayedModel(
            [ServerError("first", status=500), ConnectionFailedError("second"), ServerError("last")]
        )
        with pytest.raises(ServerError, match="last") as caught:
            await RetryingModel(model, RetryPolicy(attempts=3)).agenerate(QUESTION)
        assert caught.value.__notes__ == [
            "attempt 1: ServerError: first",
            "attempt 2: ConnectionFailedError: second",
        ]

    run_virtual(scenario())


def test_the_delay_is_any_time_up_to_a_backoff_that_doubles_to_its_limit() -> None:
    policy = RetryPolicy(first_delay=1, max_delay=10)
    assert [policy.delay(failures, lambda: 1.0) for failures in (1, 2, 3, 4, 5, 999)] == [1, 2, 4, 8, 10, 10]
    assert policy.delay(3, lambda: 0.0) == 0
    delays = {policy.delay(4) for _ in range(100)}
    assert len(delays) == 100
    assert all(0 <= delay <= 8 for delay in delays)


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"first_delay": -1}, {"patience": -1}])
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        RetryPolicy(**wrong)


def test_a_retry_after_is_waited_for() -> None:
    async def scenario() -> None:
        model = PlayedModel([RateLimitError("slow down", status=429, retry_after=20), "Paris"])
        await RetryingModel(model).agenerate(QUESTION)
        assert 20 <= model.asked[1] <= 20.5

    run_virtual(scenario())


def test_refusals_do_not_use_up_the_attempts_but_patience() -> None:
    async def scenario() -> None:
        refusal = RateLimitError("slow down", status=429, retry_after=10)
        model = PlayedModel([refusal] * 20 + ["Paris"])
        assert (await RetryingModel(model, RetryPolicy(attempts=2)).agenerate(QUESTION)).text == "Paris"
        model = PlayedModel([refusal])
        with pytest.raises(RateLimitError):
            await RetryingModel(model, RetryPolicy(patience=100)).agenerate(QUESTION)
        assert 10 <= len(model.asked) <= 12

    run_virtual(scenario())


def test_a_waiting_retry_holds_no_slot() -> None:
    async def scenario() -> None:
        slots = CapacityLimiter(1)
        failing = PlayedModel([ServerError("down", status=503, retry_after=100), "late"])
        model = RetryingModel(LimitedModel(failing, slots=slots))
        waiting = asyncio.create_task(model.agenerate(QUESTION))
        await asyncio.sleep(50)
        assert slots.held == 0
        assert await LimitedModel(PlayedModel(), slots=slots).agenerate(QUESTION)
        assert asyncio.get_running_loop().time() == 50
        assert (await waiting).text == "late"

    run_virtual(scenario())


def test_a_refusal_pauses_every_run_on_the_key_and_each_goes_again_in_turn() -> None:
    async def scenario() -> None:
        rate = RateLimiter(600, clock=asyncio.get_running_loop().time)
        refusal = RateLimitError("slow down", status=429, retry_after=30)
        model = PlayedModel([refusal] * 10 + ["Paris"], latency=2)
        retrying = RetryingModel(LimitedModel(model, rate=rate))
        await asyncio.gather(*(retrying.agenerate(QUESTION) for _ in range(100)))
        # All that were under way when the first was refused are refused with it, and nobody after.
        first_pause_ends = 2.9 + 30
        again = [at for at in model.asked if at > 2.9]
        assert min(again) >= first_pause_ends - 0.1
        assert len(model.asked) <= 100 + 30

    run_virtual(scenario())


def test_each_retry_is_told_of_before_its_wait() -> None:
    async def scenario() -> None:
        told: list[RetryDetails] = []
        error = ServerError("down", status=503)
        await RetryingModel(PlayedModel([error, "Paris"]), on_retry=told.append).agenerate(QUESTION)
        assert [(one.model_id, one.attempt, one.error) for one in told] == [("played", 1, error)]

    run_virtual(scenario())


def test_a_stream_that_fails_before_its_first_piece_is_asked_for_again() -> None:
    async def scenario() -> None:
        model = PlayedModel([ServerError("down", status=503), "!broken", "Paris"])
        assert await streamed(RetryingModel(model)) == "Paris"
        assert model.ended == 3

    run_virtual(scenario())


def test_a_stream_that_breaks_after_its_first_piece_is_not_repeated() -> None:
    async def scenario() -> None:
        model = PlayedModel(["Par!is", "London"])
        with pytest.raises(ConnectionError):
            await streamed(RetryingModel(model))
        assert len(model.asked) == 1

    run_virtual(scenario())


def test_a_stream_that_is_left_ends_the_models_own_at_once() -> None:
    async def scenario() -> None:
        model = PlayedModel(["Paris"])
        stream: Any = RetryingModel(LimitedModel(model, max_concurrency=1)).agenerate_stream(QUESTION)
        async for _ in stream:
            break
        await stream.aclose()
        assert model.ended == 1

    run_virtual(scenario())


def test_cancelling_ends_a_retry_during_its_wait() -> None:
    async def scenario() -> None:
        model = PlayedModel([ServerError("down", status=503, retry_after=100)])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await RetryingModel(model).agenerate(QUESTION)
        assert len(model.asked) == 1

    run_virtual(scenario())


def test_a_provider_error_of_no_known_kind_is_not_retried() -> None:
    assert not retryable(ProviderError("strange"))
