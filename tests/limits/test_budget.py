"""Budgets that hold while many spend from them at once."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands.errors import AgentError, MissingExtraError, ServerError
from manyhands.limits import Budget, BudgetedModel, BudgetExceededError, Price, RetryingModel, current_budget
from manyhands.limits.prices import cost
from manyhands.messages import TokenUsage
from manyhands.testing.clock import run_virtual
from tests.limits.doubles import QUESTION, PlayedModel, reply, streamed
from tests.limits.helpers import PATIENCE, in_thread, loop_threads, settled

PRICES = {"played": Price(input=10.0, output=30.0, cached_input=1.0)}


async def test_what_does_not_fit_is_refused_and_the_error_tells_why() -> None:
    budget = Budget(requests=2, tokens=1000)
    for _ in range(2):
        (await budget.reserve(requests=1, tokens=100)).settle(tokens=90)
    with pytest.raises(
        BudgetExceededError, match="budget of 2 requests is used up: 2 spent and 1 more"
    ) as caught:
        await budget.reserve(requests=1, tokens=100)
    error = caught.value
    assert isinstance(error, AgentError)
    assert (error.kind, error.limit, error.spent, error.wanted) == ("requests", 2, 2, 1)
    assert budget.spent("tokens") == 180
    assert budget.remaining("tokens") == 820


async def test_settling_twice_counts_once() -> None:
    budget = Budget(tokens=1000)
    hold = await budget.reserve(tokens=100)
    hold.settle(tokens=50)
    hold.settle(tokens=500)
    hold.cancel()
    assert budget.spent("tokens") == 50


async def test_a_cancelled_hold_gives_everything_back() -> None:
    budget = Budget(tokens=100, requests=1)
    (await budget.reserve(tokens=100, requests=1)).cancel()
    await budget.reserve(tokens=100, requests=1)


async def test_a_call_that_may_still_fit_waits_for_those_under_way_to_settle() -> None:
    budget = Budget(tokens=100)
    first = await budget.reserve(tokens=80)
    second = asyncio.create_task(budget.reserve(tokens=80))
    await settled()
    assert not second.done()
    first.settle(tokens=20)
    (await second).settle(tokens=70)
    third = asyncio.create_task(budget.reserve(tokens=20))
    await settled()
    with pytest.raises(BudgetExceededError):
        await third


async def test_a_cancelled_waiter_takes_nothing_and_lets_the_next_try() -> None:
    budget = Budget(tokens=100)
    first = await budget.reserve(tokens=80)
    large, small = (asyncio.create_task(budget.reserve(tokens=tokens)) for tokens in (100, 20))
    await settled()
    assert not small.done()  # first come, first served
    large.cancel()
    await small
    first.settle()
    assert budget.stats()["tokens"] == {"limit": 100, "spent": 80, "reserved": 20}


@given(
    st.integers(1, 2000),
    st.lists(st.tuples(st.integers(1, 300), st.floats(0, 1), st.floats(0, 3)), min_size=1, max_size=60),
)
@settings(max_examples=100, deadline=None)
def test_runs_side_by_side_never_spend_more_than_the_budget(
    limit: int, calls: list[tuple[int, float, float]]
) -> None:
    async def scenario() -> None:
        budget = Budget(tokens=limit)
        spent = 0

        async def call(reserve: int, share: float, seconds: float) -> None:
            nonlocal spent
            hold = await budget.reserve(tokens=reserve)
            await asyncio.sleep(seconds)
            hold.settle(tokens=int(reserve * share))
            spent += int(reserve * share)
            assert budget.spent("tokens") + budget._pots["tokens"].reserved <= limit

        results = await asyncio.gather(*(call(*one) for one in calls), return_exceptions=True)
        assert all(result is None or isinstance(result, BudgetExceededError) for result in results)
        assert budget.spent("tokens") == spent <= limit
        assert budget._pots["tokens"].reserved == 0
        assert budget._gate.waiting == 0
        refused = [one for one, result in zip(calls, results, strict=True) if result is not None]
        assert all(spent + reserve > limit for reserve, _, _ in refused if reserve <= limit) or refused

    run_virtual(scenario())


def test_a_child_spends_from_its_parent_and_obeys_its_own_limit() -> None:
    async def scenario() -> None:
        batch = Budget(tokens=1000, steps=10)
        runs = [batch.child(tokens=400) for _ in range(3)]
        (await runs[0].reserve(tokens=400)).settle()
        with pytest.raises(BudgetExceededError, match="400 tokens"):
            await runs[0].reserve(tokens=1)
        sub = runs[1].child(tokens=10_000)
        (await sub.reserve(tokens=350)).settle()
        assert (sub.spent("tokens"), runs[1].spent("tokens"), batch.spent("tokens")) == (350, 350, 750)
        assert sub.remaining("tokens") == 50
        with pytest.raises(BudgetExceededError, match="budget of 1000 tokens"):
            await runs[2].reserve(tokens=300)
        assert runs[2].spent("tokens") == 0
        sub.charge(steps=10)
        with pytest.raises(BudgetExceededError, match="steps"):
            runs[2].charge(steps=1)

    run_virtual(scenario())


async def test_steps_and_tool_calls_are_charged_at_once() -> None:
    budget = Budget(steps=2, tool_calls=3)
    budget.charge(steps=1, tool_calls=3)
    with pytest.raises(BudgetExceededError, match="3 tool calls"):
        budget.charge(steps=1, tool_calls=1)
    assert budget.spent("steps") == 1
    budget.charge(steps=1)


def test_time_counts_from_the_first_use_and_ends_everything() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        budget = Budget(seconds=60, clock=loop.time)
        await asyncio.sleep(100)
        budget.charge(steps=1)
        await asyncio.sleep(59)
        assert budget.child().remaining_seconds == pytest.approx(1)
        budget.check()
        await asyncio.sleep(1)
        with pytest.raises(BudgetExceededError, match="60 seconds") as caught:
            await budget.child().reserve(requests=1)
        assert caught.value.kind == "seconds"

    run_virtual(scenario())


def test_a_wait_for_others_ends_when_time_is_up() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        budget = Budget(tokens=100, seconds=60, clock=loop.time)
        await budget.reserve(tokens=100)
        with pytest.raises(BudgetExceededError, match="seconds"):
            await budget.reserve(tokens=50)
        assert loop.time() == pytest.approx(60)

    run_virtual(scenario())


def test_loops_and_threads_share_one_budget() -> None:
    budget = Budget(requests=500)
    served = 0

    async def tasks() -> int:
        count = 0
        while True:
            try:
                hold = await budget.reserve(requests=1)
            except BudgetExceededError:
                return count
            await asyncio.sleep(0)
            hold.settle()
            count += 1

    def thread() -> int:
        count = 0
        while True:
            try:
                budget.reserve_sync(requests=1).settle()
            except BudgetExceededError:
                return count
            count += 1

    with loop_threads(2) as loops:
        futures = [loop.start(tasks()) for loop in loops] + [in_thread(thread) for _ in range(2)]
        served = sum(future.result(PATIENCE) for future in futures)
    assert served == budget.spent("requests") == 500


def test_the_active_budget_is_that_of_all_that_is_started_inside() -> None:
    async def scenario() -> None:
        budget = Budget(tokens=10)
        assert current_budget() is None
        with budget.active():
            assert await asyncio.create_task(_current()) is budget
            with budget.child().active() as inner:
                assert current_budget() is inner
        assert current_budget() is None

    run_virtual(scenario())


async def _current() -> Budget | None:
    return current_budget()


@pytest.mark.parametrize(("limit", "error"), [("10", TypeError), (True, TypeError), (-1, ValueError)])
def test_a_budget_that_makes_no_sense_is_refused(limit: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Budget(tokens=limit)
    with pytest.raises(error):
        Budget(seconds=limit)


# --- A model that spends -------------------------------------------------------------------------------


def test_a_model_pays_for_what_it_used() -> None:
    async def scenario() -> None:
        budget = Budget(tokens=10_000, requests=10, money=1.0, prices=PRICES)
        model = BudgetedModel(PlayedModel([reply(used=TokenUsage(1000, 100, cached_tokens=400))]), budget)
        await model.agenerate(QUESTION)
        assert budget.spent("tokens") == 1100
        assert budget.spent("requests") == 1
        assert budget.spent("money") == pytest.approx((600 * 10 + 400 * 1 + 100 * 30) / 1e6)

    run_virtual(scenario())


def test_a_model_is_not_asked_when_the_budget_is_used_up() -> None:
    async def scenario() -> None:
        inner = PlayedModel([reply(used=TokenUsage(10, 10))])
        model = BudgetedModel(inner, Budget(requests=2))
        for _ in range(2):
            await model.agenerate(QUESTION)
        with pytest.raises(BudgetExceededError):
            await model.agenerate(QUESTION)
        with pytest.raises(BudgetExceededError):
            await streamed(model)
        assert len(inner.asked) == 2

    run_virtual(scenario())


def test_a_hundred_runs_at_once_overshoot_by_no_more_than_one_reservation() -> None:
    async def scenario() -> None:
        budget = Budget(tokens=20_000)
        inner = PlayedModel([reply(used=TokenUsage(300, 200))], latency=1)
        model = BudgetedModel(inner, budget)
        results = await asyncio.gather(
            *(model.agenerate(QUESTION) for _ in range(100)), return_exceptions=True
        )
        refused = sum(isinstance(result, BudgetExceededError) for result in results)
        assert budget.spent("tokens") <= 20_000 + 500
        assert budget.spent("tokens") > 19_000
        assert refused + len(inner.asked) == 100

    run_virtual(scenario())


def test_a_stream_that_is_left_pays_for_what_was_seen() -> None:
    async def scenario() -> None:
        budget = Budget(tokens=1000)
        stream: Any = BudgetedModel(PlayedModel(["a long answer " * 10]), budget).agenerate_stream(QUESTION)
        async for _ in stream:
            break
        await stream.aclose()
        assert 10 < budget.spent("tokens") < 40
        assert budget.stats()["tokens"]["reserved"] == 0

    run_virtual(scenario())


def test_a_failed_request_gives_its_tokens_back_and_a_retry_is_the_same_request() -> None:
    async def scenario() -> None:
        budget = Budget(tokens=1000, requests=5)
        down = ServerError("down", status=500)
        with pytest.raises(ServerError):
            await BudgetedModel(PlayedModel([down]), budget).agenerate(QUESTION)
        assert (budget.spent("tokens"), budget.spent("requests")) == (0, 1)
        await BudgetedModel(RetryingModel(PlayedModel([down, "Paris"])), budget).agenerate(QUESTION)
        assert budget.spent("requests") == 2

    run_virtual(scenario())


def test_without_a_budget_of_its_own_a_model_spends_from_the_active_one() -> None:
    async def scenario() -> None:
        model = BudgetedModel(PlayedModel([reply(used=TokenUsage(3, 4))]))
        await model.agenerate(QUESTION)
        with Budget(tokens=1000).active() as budget:
            await model.agenerate(QUESTION)
            await streamed(model)
        assert budget.spent("tokens") == 14

    run_virtual(scenario())


def test_a_price_that_is_not_known_is_an_error_before_the_call() -> None:
    async def scenario() -> None:
        inner = PlayedModel(model_id="unknown")
        with pytest.raises(KeyError, match="'unknown'.*played"):
            await BudgetedModel(inner, Budget(money=1, prices=PRICES)).agenerate(QUESTION)
        assert inner.asked == []

    run_virtual(scenario())


def test_without_a_table_or_the_price_package_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    with pytest.raises(MissingExtraError, match=r"manyhands\[prices\]"):
        cost("gpt-4o", TokenUsage(1, 1))


def test_the_price_package_is_asked_when_it_is_there() -> None:
    pytest.importorskip("genai_prices")
    assert cost("gpt-4o", TokenUsage(1_000_000, 0)) == pytest.approx(2.5)
    with pytest.raises(KeyError, match="no-such-model"):
        cost("no-such-model", TokenUsage(1, 1))
