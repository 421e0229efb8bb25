"""Streams that break after the first piece: a run begins the reply anew, and tells those who watch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from manyhands import CodeAgent
from manyhands.events import Retry
from manyhands.limits import Budget, FallbackModel, RetryingModel, RetryPolicy
from manyhands.messages import ChatMessage, ChatMessageStreamDelta, DeltaFold, MessageRole, TokenUsage
from manyhands.models.openai import OpenAIModel
from manyhands.serve.events import Narrator
from manyhands.testing import SimulatedProvider
from tests.limits.doubles import PlayedModel, streamed

if TYPE_CHECKING:
    from manyhands.run import Run

AT_ONCE = RetryPolicy(attempts=3, first_delay=0)
ANSWER = "<code>\nfinal_answer('Paris')\n</code>"
BROKEN = "<code>\nfinal_answer('Lon!"


def whole(text: str) -> ChatMessage:
    return ChatMessage(MessageRole.ASSISTANT, text, token_usage=TokenUsage(10, 5))


def run_of(model: Any, **options: Any) -> Run:
    return CodeAgent([], model, stream_outputs=True).arun("What is the capital of France?", **options)


async def seen_by_reader(run: Run) -> list[Any]:
    return [event async for event in run]


async def test_a_run_asks_for_the_whole_reply_again() -> None:
    model = PlayedModel([BROKEN, BROKEN, whole(ANSWER)])
    run = run_of(RetryingModel(model, AT_ONCE))
    told: list[Any] = []
    run.observers.append(lambda run, event: told.append(event))
    events = await seen_by_reader(run)
    assert run.output == "Paris"
    assert len(model.asked) == model.ended == 3
    deltas = [event for event in events if isinstance(event, ChatMessageStreamDelta)]
    assert sum(delta.restart for delta in deltas) == 2
    fold = DeltaFold()
    for delta in deltas:
        fold.add(delta)
    assert fold.message().content == ANSWER
    assert run.usage == TokenUsage(10, 5)
    assert [event.attempt for event in told if isinstance(event, Retry)] == [1, 2]
    narrator = Narrator()
    pieces = [one for event in told for one in narrator.tell(run, event) if one["type"] == "delta"]
    last = max(at for at, piece in enumerate(pieces) if piece.get("restart"))
    assert "".join(piece["content"] for piece in pieces[last + 1 :]) == ANSWER
    # Those who only watch are told in time: each broken reply is void before the next begins.
    assert [delta.restart for delta in told if isinstance(delta, ChatMessageStreamDelta)].count(True) == 2


async def test_it_does_not_ask_for_ever() -> None:
    model = PlayedModel([BROKEN])
    run = run_of(RetryingModel(model, AT_ONCE))
    with pytest.raises(Exception, match="the stream broke") as caught:
        await run
    assert len(model.asked) == AT_ONCE.attempts
    assert "attempt 2" in str(caught.value.__cause__.__notes__)  # type: ignore[union-attr]


async def test_whoever_reads_a_stream_of_a_model_gets_no_piece_twice() -> None:
    model = PlayedModel(["Par!", whole("Paris")])
    with pytest.raises(ConnectionError):
        await streamed(RetryingModel(model, AT_ONCE))
    assert len(model.asked) == 1


async def test_another_model_may_take_over_in_the_middle() -> None:
    model = FallbackModel([PlayedModel([BROKEN]), PlayedModel([whole(ANSWER)])])
    assert await run_of(model) == "Paris"


async def test_what_was_streamed_before_it_broke_is_paid_for() -> None:
    once, twice = Budget(tokens=100_000), Budget(tokens=100_000)
    await run_of(PlayedModel([whole(ANSWER)]), budget=once)
    await run_of(RetryingModel(PlayedModel([BROKEN, whole(ANSWER)]), AT_ONCE), budget=twice)
    assert once.spent("tokens") == 15
    assert twice.spent("tokens") > 15 + len(BROKEN) / 8
    assert twice.spent("requests") == 1


@pytest.mark.parametrize("fault", ["truncate", "reset"])
async def test_a_provider_that_breaks_off_is_asked_again_by_models_as_they_are(fault: str) -> None:
    faults = [fault, None, fault, None, None]
    async with SimulatedProvider(faults=faults) as provider:
        model = OpenAIModel("any", api_base=provider.base_url, retry=RetryPolicy(first_delay=0))
        agent = CodeAgent([], model, stream_outputs=True)
        assert await agent.arun("What is 17 * 23?") == 391
        await model.aclose()
