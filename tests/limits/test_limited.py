"""Models with limits around them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from manyhands import ToolCallingAgent
from manyhands.errors import BadRequestError, RateLimitError, ServerError
from manyhands.events import ConcurrencyChanged
from manyhands.limits import (
    AdaptiveLimiter,
    BudgetedModel,
    FallbackModel,
    LimitedModel,
    RateLimiter,
    RetryingModel,
    RetryPolicy,
    observe_headers,
    with_limits,
)
from manyhands.limits.estimate import Estimator, estimate_prompt
from manyhands.messages import ChatMessage, MessageRole, TokenUsage
from manyhands.models.base import Model, ask
from manyhands.models.openai import OpenAIModel
from manyhands.testing.clock import run_virtual
from tests.limits.doubles import QUESTION, PlayedModel, reply, streamed


def rate_here(requests: float | None = None, tokens: float | None = None) -> RateLimiter:
    return RateLimiter(requests, tokens, clock=asyncio.get_running_loop().time)


def test_no_more_calls_than_max_concurrency_are_under_way() -> None:
    async def scenario() -> None:
        model = PlayedModel(latency=1)
        limited = LimitedModel(model, max_concurrency=3)
        await asyncio.gather(*(limited.agenerate(QUESTION) for _ in range(9)))
        assert model.most == 3
        assert asyncio.get_running_loop().time() == pytest.approx(3)

    run_virtual(scenario())


def test_requests_keep_the_rate_and_tokens_settle_to_what_was_used() -> None:
    async def scenario() -> None:
        model = PlayedModel([reply(used=TokenUsage(100, 50))])
        limited = LimitedModel(model, rate=rate_here(60, 6000))
        for _ in range(3):
            await limited.agenerate(QUESTION)
        assert model.asked == pytest.approx([0, 1, 2])
        assert limited.rate.stats().tokens_used == 450

    run_virtual(scenario())


def test_a_stream_holds_its_slot_until_its_last_piece_and_settles_at_its_end() -> None:
    async def scenario() -> None:
        model = PlayedModel([reply("Paris", TokenUsage(10, 5))], latency=1)
        limited = LimitedModel(model, max_concurrency=1, rate=rate_here())
        both = await asyncio.gather(streamed(limited), streamed(limited))
        assert list(both) == ["Paris", "Paris"]
        assert model.most == 1
        assert limited.slots.held == 0
        assert limited.rate.stats().tokens_used == 30

    run_virtual(scenario())


@pytest.mark.parametrize("error", [BadRequestError("no", status=400), RateLimitError("no", status=429)])
def test_a_rejected_call_gives_its_slot_and_its_tokens_back(error: Exception) -> None:
    async def scenario() -> None:
        limited = LimitedModel(PlayedModel([error]), max_concurrency=1, rate=rate_here(tokens=10_000))
        with pytest.raises(type(error)):
            await limited.agenerate(QUESTION)
        assert limited.slots.held == 0
        assert limited.rate.stats().tokens_used == 0

    run_virtual(scenario())


def test_a_call_cancelled_in_line_for_the_rate_gives_its_slot_back() -> None:
    async def scenario() -> None:
        limited = LimitedModel(PlayedModel(), max_concurrency=1, rate=rate_here(requests=1))
        await limited.agenerate(QUESTION)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await limited.agenerate(QUESTION)
        assert limited.slots.held == 0
        assert limited.rate.stats().requests_used == 1

    run_virtual(scenario())


def test_headers_seen_during_a_call_reach_its_limiter() -> None:
    class Server(Model):
        async def agenerate(self, messages: list[ChatMessage]) -> ChatMessage:  # type: ignore[override]
            observe_headers({"x-ratelimit-limit-requests": "60"})
            return reply()

    async def scenario() -> None:
        limited = LimitedModel(Server())
        await limited.agenerate(QUESTION)
        assert limited.rate.stats().requests_per_minute == 60

    run_virtual(scenario())


def test_models_of_one_key_share_one_rate_and_others_do_not() -> None:
    def limited(model_id: str = "gpt", api_key: str = "sk-1", **rate: Any) -> LimitedModel:
        return LimitedModel(
            OpenAIModel(model_id, api_base="https://api.example.com/v1", api_key=api_key), **rate
        )

    first, second = limited(requests_per_minute=60), limited(requests_per_minute=30)
    assert first.rate is second.rate
    assert first.rate.stats().requests_per_minute == 30
    assert limited(api_key="sk-2").rate is not first.rate
    assert limited(model_id="other").rate is not first.rate
    assert "sk-1" not in repr(first.rate)
    assert LimitedModel(PlayedModel()).rate is not LimitedModel(PlayedModel()).rate


def test_a_wrapper_shows_the_face_of_its_model() -> None:
    model = PlayedModel(model_id="gpt", flatten_messages_as_text=True, temperature=0.5)
    model.native_tool_messages = True
    for wrapper in (LimitedModel(model), RetryingModel(model), BudgetedModel(model), FallbackModel([model])):
        assert (wrapper.model_id, wrapper.flatten_messages_as_text) == ("gpt", True)
        assert wrapper.native_tool_messages is True
        assert wrapper.kwargs == {"temperature": 0.5}
        assert wrapper.latency == 0.0
        assert wrapper.to_dict() == model.to_dict()
        assert "PlayedModel('gpt')" in repr(wrapper)
        with pytest.raises(AttributeError):
            wrapper.no_such_thing  # noqa: B018


def test_options_go_through_all_wrappers_and_only_what_was_given() -> None:
    async def scenario() -> None:
        model = PlayedModel()
        wrapped = BudgetedModel(FallbackModel([with_limits(model)]))
        await ask(wrapped, QUESTION, stop_sequences=["x"], temperature=1)
        assert model.options == [{"stop_sequences": ["x"], "temperature": 1}]

    run_virtual(scenario())


def test_a_user_model_with_a_narrow_sync_generate_can_be_limited() -> None:
    class Narrow(Model):
        def generate(self, messages, stop_sequences=None):  # type: ignore[no-untyped-def]
            return reply("narrow")

    limited = with_limits(Narrow(), max_concurrency=1, requests_per_minute=6000)
    assert limited.generate(QUESTION, tools_to_call_from=[]).text == "narrow"
    assert limited.model.slots.held == 0


def test_with_limits_stacks_retries_outside_of_limits() -> None:
    retrying = with_limits(PlayedModel(), max_concurrency=4, adaptive=True)
    assert isinstance(retrying, RetryingModel)
    assert isinstance(retrying.model, LimitedModel)
    assert isinstance(retrying.model.slots, AdaptiveLimiter)
    assert retrying.model.slots.ceiling == 4
    assert isinstance(with_limits(PlayedModel(), retry=False), LimitedModel)


# --- Adaptive concurrency ------------------------------------------------------------------------------


def test_the_limit_climbs_by_one_a_round_while_all_goes_well() -> None:
    limiter = AdaptiveLimiter(floor=2, ceiling=4)
    for _ in range(20):
        for _ in range(limiter.limit):
            limiter.try_acquire()
        for _ in range(limiter.held):
            limiter.succeeded()
            limiter.release()
    assert limiter.limit == 4


def test_the_limit_does_not_climb_while_nobody_reaches_it() -> None:
    limiter = AdaptiveLimiter(floor=10)
    for _ in range(1000):
        limiter.try_acquire()
        limiter.succeeded()
        limiter.release()
    assert limiter.limit == 10


def test_congestion_lowers_the_limit_once_for_all_calls_that_were_under_way() -> None:
    clock = iter(range(100))
    changes: list[tuple[int, int]] = []
    limiter = AdaptiveLimiter(
        1, 100, 90, on_change=lambda old, new: changes.append((old, new)), clock=lambda: next(clock)
    )
    began = limiter.clock()
    for _ in range(5):
        limiter.congested(began)
    assert changes == [(90, 60)]
    limiter.congested(limiter.clock())
    assert changes == [(90, 60), (60, 40)]


def test_the_limit_never_leaves_its_bounds() -> None:
    clock = iter(range(1000))
    limiter = AdaptiveLimiter(3, 5, clock=lambda: next(clock))
    for _ in range(10):
        limiter.congested(limiter.clock())
    assert limiter.limit == 3


@pytest.mark.parametrize("bounds", [(0, 5, None), (5, 3, None), (2, 5, 6), (2, 5, 1)])
def test_bounds_that_make_no_sense_are_refused(bounds: tuple[int, int, int | None]) -> None:
    with pytest.raises(ValueError, match="floor <= start <= ceiling"):
        AdaptiveLimiter(*bounds)


CALL = '{"name": "final_answer", "arguments": {"answer": "Paris"}}'


async def test_observers_of_a_run_are_told_how_its_calls_move_the_limit() -> None:
    refusal = RateLimitError("slow down", status=429, retry_after=0)
    answers: list[str | Exception | ChatMessage] = ["no json", refusal, CALL]
    slots = AdaptiveLimiter(1, 256, name="played")
    model = LimitedModel(PlayedModel(answers), slots=slots)
    run = ToolCallingAgent([], RetryingModel(model, RetryPolicy(first_delay=0))).arun("Go.")
    told: list[Any] = []
    run.observers.append(lambda run, event: told.append(event))
    assert await run == "Paris"
    moves = [(event.before, event.after) for event in told if isinstance(event, ConcurrencyChanged)]
    assert moves == [(1, 2), (2, 1), (1, 2)]
    assert {event.key for event in told if isinstance(event, ConcurrencyChanged)} == {"played"}
    assert slots.limit == 2


def test_adaptive_concurrency_finds_what_a_provider_can_take() -> None:
    async def scenario() -> None:
        class Server(PlayedModel):
            async def agenerate(  # type: ignore[override]
                self, messages: list[ChatMessage], **options: Any
            ) -> ChatMessage:
                if self.now >= 20:
                    raise ServerError("overloaded", status=529)
                return await super().agenerate(messages, **options)

        slots = AdaptiveLimiter(1, 256, clock=asyncio.get_running_loop().time)
        rate = rate_here()
        server = Server(latency=1)
        model = RetryingModel(LimitedModel(server, slots=slots, rate=rate))
        await asyncio.gather(*(model.agenerate(QUESTION) for _ in range(2000)))
        assert 10 <= slots.limit <= 21
        ideal = 2000 / 20
        assert asyncio.get_running_loop().time() < ideal * 1.5

    run_virtual(scenario())


# --- Guessing -------------------------------------------------------------------------------------------


def test_a_guess_counts_text_and_pictures() -> None:
    text = ChatMessage(MessageRole.USER, "x" * 4000)
    parts = ChatMessage(
        MessageRole.USER, [{"type": "text", "text": "x" * 4000}, {"type": "image", "image": "-"}]
    )
    assert estimate_prompt([text]) == 1005
    assert estimate_prompt([parts]) == 1805
    assert estimate_prompt([ChatMessage(MessageRole.ASSISTANT, None)]) == 5


def test_a_guess_learns_from_replies_and_heeds_a_limit_on_them() -> None:
    estimator = Estimator()
    first = estimator.guess(QUESTION, {})
    for _ in range(100):  # also from many calls that were guessed before any of them was over
        estimator.learn(first, TokenUsage(100, 1000))
    usage = estimator.guess(QUESTION, {}).usage
    assert (usage.input_tokens, usage.output_tokens) == pytest.approx((100, 1000), rel=0.05)
    assert estimator.guess(QUESTION, {"max_tokens": 50}).usage.output_tokens == 50


def test_the_most_that_a_call_may_use_is_large_until_something_is_known() -> None:
    estimator = Estimator()
    guess = estimator.guess(QUESTION, {})
    assert guess.most.output_tokens == 16_384
    assert estimator.guess(QUESTION, {"max_completion_tokens": 500}).most.output_tokens == 500
    estimator.learn(guess, TokenUsage(10, 1000))
    assert estimator.guess(QUESTION, {}).most.output_tokens == 1500


def test_tools_count_as_part_of_the_prompt() -> None:
    estimator = Estimator()
    with_tools = estimator.guess(QUESTION, {"tools_to_call_from": [object()] * 3})
    assert with_tools.counted == estimator.guess(QUESTION, {}).counted + 300
