"""The limits that a model carries: rates, slots and retries as parameters of its constructor."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from manyhands import OpenAIModel, RateLimitError, ServerError, ToolCallingAgent
from manyhands.messages import ChatMessage, MessageRole
from manyhands.testing import SimulatedProvider

HELLO = [ChatMessage(MessageRole.USER, "Hello!")]


def model_at(provider: SimulatedProvider, **options: Any) -> OpenAIModel:
    return OpenAIModel("simulated", api_base=provider.base_url, api_key="none", **options)


@pytest.mark.retries
@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_asks_again_after_errors_that_may_pass(stream: bool) -> None:
    async with SimulatedProvider(faults=["503", "reset", "429", None], retry_after=0.05) as provider:
        model = model_at(provider)
        if stream:
            text = "".join([delta.content or "" async for delta in model.agenerate_stream(HELLO)])
        else:
            text = (await model.agenerate(HELLO)).text
        assert text
        assert provider.stats.requests == 4


@pytest.mark.retries
async def test_a_model_with_retries_switched_off_fails_at_once() -> None:
    async with SimulatedProvider(faults=["503", None]) as provider:
        with pytest.raises(ServerError):
            await model_at(provider, retry=False).agenerate(HELLO)
        assert provider.stats.requests == 1


@pytest.mark.retries
async def test_a_refusal_holds_everyone_on_the_key_once() -> None:
    """Of many calls at once a few are refused; then all wait as long as the provider asks, and none fails."""
    async with SimulatedProvider(requests_per_minute=6000, burst=0.2, retry_after=0.2) as provider:
        models = [model_at(provider) for _ in range(4)]
        replies = await asyncio.gather(*(models[n % 4].agenerate(HELLO) for n in range(120)))
        assert len(replies) == 120
        refused = provider.stats.by_status.get(429, 0)
        assert refused <= 120, "each was refused at most once"


async def test_no_more_requests_are_under_way_than_the_model_allows() -> None:
    async with SimulatedProvider(latency=0.01) as provider:
        model = model_at(provider, max_concurrency=3)
        await asyncio.gather(*(model.agenerate(HELLO) for _ in range(12)))
        assert provider.stats.peak_in_flight <= 3


async def test_models_with_one_key_share_its_rate() -> None:
    async with SimulatedProvider() as provider:
        models = [model_at(provider, requests_per_minute=1200) for _ in range(2)]
        began = time.monotonic()
        await asyncio.gather(*(models[n % 2].agenerate(HELLO) for n in range(12)))
        # 1,200 a minute is one every 50 ms; a burst of one.
        assert time.monotonic() - began >= 0.5


async def test_a_refusal_reaches_the_caller_where_nothing_is_tried_again() -> None:
    async with SimulatedProvider(faults=["429"], retry_after=7) as provider:
        with pytest.raises(RateLimitError) as caught:
            await model_at(provider, retry=False).agenerate(HELLO)
        assert caught.value.retry_after == 7


@pytest.mark.retries
async def test_an_agent_gets_through_a_provider_that_fails_now_and_then() -> None:
    faults = {"500": 0.05, "reset": 0.05, "bad_json": 0.05}
    async with SimulatedProvider(faults=faults, retry_after=0.05, seed=1) as provider:
        agent = ToolCallingAgent(["python_interpreter"], model_at(provider))
        answers = await asyncio.gather(*(agent.arun(f"What is {n} * 7?") for n in range(40)))
        assert [int(answer) for answer in answers] == [7 * n for n in range(40)]


def test_the_limits_do_not_show_in_what_is_sent_or_written_down() -> None:
    model = OpenAIModel("m", api_key="k", requests_per_minute=5, retry=False)
    assert "requests_per_minute" not in model.to_dict()
    assert "requests_per_minute" not in model.kwargs
