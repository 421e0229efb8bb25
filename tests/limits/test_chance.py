"""A single refusal by chance, without a limit behind it, costs little; one with a limit is obeyed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from manyhands.errors import RateLimitError
from manyhands.limits import LimitedModel, RateLimiter, RetryingModel
from manyhands.messages import ChatMessage, MessageRole, TokenUsage
from manyhands.models.base import Model
from manyhands.models.openai import OpenAIModel
from manyhands.testing import SimulatedProvider
from manyhands.testing.clock import run_virtual
from tests.limits.doubles import QUESTION


class Moody(Model):
    """Takes two seconds for a reply; refuses calls of these numbers, and asks for a second of rest."""

    def __init__(self, *moods: int) -> None:
        super().__init__(model_id="moody")
        self.moods = moods
        self.calls = 0
        self.served: list[float] = []

    async def agenerate(self, messages: list[ChatMessage], **options: Any) -> ChatMessage:  # type: ignore[override]
        self.calls += 1
        if self.calls in self.moods:
            await asyncio.sleep(0.2)
            raise RateLimitError("not now", status=429, retry_after=1)
        await asyncio.sleep(2)
        self.served.append(asyncio.get_running_loop().time())
        return ChatMessage(MessageRole.ASSISTANT, "ok", token_usage=TokenUsage(80, 20))


def served_after(*moods: int, seconds: float) -> float:
    """The share of its usual work that comes through a model in some seconds after its first bad mood."""

    async def scenario() -> float:
        clock = asyncio.get_running_loop().time
        moody = Moody(*moods)
        model = RetryingModel(LimitedModel(moody, rate=RateLimiter(clock=clock)))

        async def work() -> None:
            while True:
                await model.agenerate(QUESTION)

        workers = [asyncio.create_task(work()) for _ in range(40)]  # 20 calls a second
        await asyncio.sleep(300)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        began = moods[0] / 20
        return sum(began <= at < began + seconds for at in moody.served) / (20 * seconds)

    return run_virtual(scenario())


def test_a_refusal_by_chance_costs_a_few_seconds() -> None:
    assert served_after(2000, seconds=30) > 0.8
    assert served_after(2000, seconds=60) > 0.9


def test_refusals_that_come_again_are_taken_seriously() -> None:
    once, twice = (served_after(*moods, seconds=60) for moods in ([2000], [2000, 2200]))
    assert twice < once - 0.05


@pytest.mark.retries
@pytest.mark.parametrize("streams", [False, True])
async def test_models_on_our_client_know_a_chance_too(streams: bool) -> None:
    faults = [*[None] * 10, "429", *[None] * 100]
    async with SimulatedProvider(
        policy=lambda _: "Hi", faults=faults, retry_after=0.01, latency=0.2
    ) as provider:
        model = OpenAIModel("any", api_base=provider.base_url, api_key="chance")

        async def ask() -> None:
            if streams:
                assert [delta async for delta in model.agenerate_stream(QUESTION)]
            else:
                await model.agenerate(QUESTION)

        await asyncio.gather(*(ask() for _ in range(30)))
        assert provider.stats.requests == 31
        ramp = model.limited.rate._ramp
        assert ramp is None or (ramp.refused == 1 and ramp.served >= 20)
        await model.aclose()
