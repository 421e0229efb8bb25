"""One limit shared fairly by tenants."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands.limits import FairLimiter, QueueFullError, SlotStats
from manyhands.testing.clock import run_virtual
from tests.limits.helpers import PATIENCE, in_thread, loop_threads, settled, until


async def queue_up(limiter: FairLimiter, tenants: str, served: list[str]) -> list[asyncio.Task[None]]:
    """Let one task of each tenant wait, in this order."""

    async def work(tenant: str) -> None:
        async with limiter.slot(tenant):
            served.append(tenant)
            await asyncio.sleep(1)

    tasks = []
    for tenant in tenants:
        tasks.append(asyncio.create_task(work(tenant)))
        await settled()
    return tasks


def order_of(tenants: str, weights: dict[str, float] | None = None, limit: int = 1) -> str:
    """Return the order in which waiting tenants are served."""

    async def scenario() -> str:
        limiter, served = FairLimiter(limit, weights=weights), list[str]()
        for _ in range(limit):
            await limiter.acquire("first")
        tasks = await queue_up(limiter, tenants, served)
        for _ in range(limit):
            limiter.release("first")
        await asyncio.gather(*tasks)
        assert (limiter.held(), limiter.waiting(), limiter.stats()) == (0, 0, {})
        return "".join(served)

    return run_virtual(scenario())


def test_a_flood_of_one_tenant_delays_anothers_next_run_by_one_slot_at_most() -> None:
    assert order_of("aaaaaaaab") == "abaaaaaaa"


def test_a_tenant_that_comes_during_a_flood_is_served_after_one_slot_at_most() -> None:
    async def scenario() -> None:
        limiter, served = FairLimiter(1), list[str]()
        flood = await queue_up(limiter, "a" * 50, served)
        await asyncio.sleep(10.5)
        before = len(served)
        (late,) = await queue_up(limiter, "b", served)
        await late
        assert served[before:].index("b") <= 1
        await asyncio.gather(*flood)

    run_virtual(scenario())


def test_tenants_take_turns() -> None:
    assert order_of("aaabbbccc") == "abcabcabc"


def test_turns_follow_the_weights() -> None:
    served = order_of("a" * 40 + "b" * 40, weights={"a": 3})
    counts = Counter(served[:40])
    assert (counts["a"], counts["b"]) == (30, 10)
    assert all(served[start : start + 8].count("b") >= 1 for start in range(30))


def test_one_tenant_alone_has_everything() -> None:
    assert order_of("aaaa", limit=2) == "aaaa"


def test_who_was_away_saves_up_no_turns() -> None:
    async def scenario() -> None:
        limiter, served = FairLimiter(1), list[str]()
        await queue_up(limiter, "a" * 20, served)
        await asyncio.sleep(10.5)
        tasks = await queue_up(limiter, "b" * 10, served)
        before = len(served)
        await asyncio.sleep(10)
        assert 4 <= served[before:].count("b") <= 6
        await asyncio.gather(*tasks)

    run_virtual(scenario())


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=60), st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_each_tenants_own_are_served_in_order_and_none_waits_longer_than_a_round(
    tenants: list[str], limit: int
) -> None:
    served = order_of("".join(tenants), limit=limit)
    assert Counter(served) == Counter(tenants)
    for tenant in set(tenants):
        places = [place for place, one in enumerate(served) if one == tenant]
        others = len(set(tenants)) - 1
        assert places[0] <= others
        for early, late in zip(places, places[1:], strict=False):
            assert late - early <= others + 1


async def test_too_many_waiting_of_one_tenant_are_refused_and_others_are_not() -> None:
    limiter = FairLimiter(1, max_queued=2)
    await limiter.acquire("a")
    waiting = [asyncio.create_task(limiter.acquire(tenant)) for tenant in "aab"]
    await settled()
    with pytest.raises(QueueFullError, match="Tenant 'a' has 2 waiting already") as caught:
        await limiter.acquire("a")
    assert (caught.value.tenant, caught.value.waiting) == ("a", 2)
    assert limiter.stats() == {"a": SlotStats(1, 1, 2), "b": SlotStats(1, 0, 1)}
    for tenant in "aba":
        limiter.release(tenant) if limiter.held(tenant) else None
        await settled()
    for task in waiting:
        task.cancel()


async def test_a_queue_of_none_refuses_whoever_would_wait() -> None:
    limiter = FairLimiter(1, max_queued=0)
    await limiter.acquire("a")
    with pytest.raises(QueueFullError):
        await limiter.acquire("a")
    limiter.release("a")
    await limiter.acquire("b")


async def test_a_release_of_a_tenant_that_holds_nothing_frees_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limiter = FairLimiter(1)
    await limiter.acquire("a")
    limiter.release("b")
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert not limiter.try_acquire("b")


def test_cancelled_and_timed_out_waiters_leak_nothing() -> None:
    async def scenario() -> None:
        limiter = FairLimiter(1)
        await limiter.acquire("a")
        waiters = [asyncio.create_task(limiter.acquire("b", timeout=1)) for _ in range(5)]
        await settled()
        waiters[0].cancel()
        results = await asyncio.gather(*waiters, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError] + [TimeoutError] * 4
        assert limiter.waiting("b") == 0
        limiter.release("a")
        await limiter.acquire("b")
        assert limiter.stats() == {"b": SlotStats(1, 1, 0)}

    run_virtual(scenario())


async def test_resizing_and_reweighting_take_effect_while_tenants_wait() -> None:
    limiter, served = FairLimiter(1), list[str]()
    await limiter.acquire("a")
    waiters = [asyncio.create_task(limiter.acquire("b")) for _ in range(3)]
    await settled()
    limiter.set_weight("b", 2)
    limiter.limit = 4
    await asyncio.gather(*waiters)
    assert limiter.held() == 4
    assert served == []


def test_tenants_of_loops_and_threads_share_one_limit() -> None:
    limiter = FairLimiter(2)

    async def tasks(seed: int) -> None:
        dice = random.Random(seed)

        async def work() -> None:
            async with limiter.slot(dice.choice("abc"), timeout=dice.choice([None, 0.002])):
                await asyncio.sleep(0)

        running = [asyncio.create_task(work()) for _ in range(200)]
        for one in running[::5]:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def thread(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(100):
            tenant = dice.choice("abc")
            limiter.acquire_sync(tenant)
            limiter.release(tenant)

    with loop_threads(2) as loops:
        futures: list[Any] = [loop.start(tasks(seed)) for seed, loop in enumerate(loops)]
        futures += [in_thread(lambda seed=seed: thread(seed)) for seed in range(2)]  # type: ignore[misc]
        for future in futures:
            future.result(PATIENCE)
    assert (limiter.held(), limiter.waiting(), limiter.stats()) == (0, 0, {})


def test_a_tenant_on_a_loop_at_rest_does_not_hold_up_the_others() -> None:
    limiter = FairLimiter(1)
    limiter.acquire_sync("a")
    resting = asyncio.new_event_loop()
    early = resting.create_task(limiter.acquire("b"))
    resting.run_until_complete(asyncio.sleep(0))
    late = in_thread(lambda: limiter.acquire_sync("c"))
    until(lambda: limiter.waiting() == 2)
    limiter.release("a")
    late.result(PATIENCE)
    limiter.release("c")
    resting.run_until_complete(asyncio.wait_for(early, PATIENCE))
    assert limiter.stats() == {"b": SlotStats(1, 1, 0)}
    resting.close()


async def test_a_blocking_acquire_on_a_loop_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"acquire_sync\('acme'\)"):
        FairLimiter(1).acquire_sync("acme")


@pytest.mark.parametrize("wrong", [{"weights": {"a": 0}}, {"weights": {"a": -1}}, {"max_queued": -1}])
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"above 0|cannot be"):
        FairLimiter(1, **wrong)
