"""Rates: never above the limit in any minute, first come first served, and settled to what was used."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands.limits.bucket import Bucket
from manyhands.limits.rate import RateLimiter, SharedRates, current_reservation, observe_headers, rate_key
from manyhands.testing.clock import run_virtual
from tests.limits.helpers import PATIENCE, in_thread, loop_threads, settled


def now() -> float:
    return asyncio.get_running_loop().time()


def limiter_here(requests: float | None = None, tokens: float | None = None, **more: Any) -> RateLimiter:
    return RateLimiter(requests, tokens, clock=asyncio.get_running_loop().time, **more)


def most_in_a_minute(uses: list[tuple[float, float]]) -> float:
    """Return the most that was used in any minute; ``uses`` are times and amounts, in order."""
    return max(
        sum(amount for at, amount in uses[index:] if at < start + 60 - 1e-6)
        for index, (start, _) in enumerate(uses)
    )


# --- How fast ----------------------------------------------------------------------------------------


def test_requests_go_out_at_even_distances() -> None:
    async def scenario() -> list[float]:
        limiter, times = limiter_here(requests=60), []
        for _ in range(4):
            await limiter.reserve()
            times.append(now())
        return times

    assert run_virtual(scenario()) == pytest.approx([0, 1, 2, 3])


def test_a_burst_goes_at_once_and_the_minute_still_holds_no_more_than_the_limit() -> None:
    async def scenario() -> list[tuple[float, float]]:
        limiter, uses = limiter_here(requests=60, burst=30), []
        for _ in range(200):
            await limiter.reserve()
            uses.append((now(), 1.0))
        return uses

    uses = run_virtual(scenario())
    assert uses[29][0] == 0
    assert most_in_a_minute(uses) <= 60
    assert uses[-1][0] < 200


@given(
    st.lists(st.tuples(st.floats(0, 30), st.integers(0, 400), st.floats(0, 1.0)), min_size=1, max_size=80),
    st.integers(1, 100),
    st.integers(200, 2000),
    st.integers(1, 20),
)
@settings(max_examples=80, deadline=None)
def test_no_minute_holds_more_than_the_limits_whatever_comes(
    calls: list[tuple[float, int, float]], requests: int, tokens: int, burst: int
) -> None:
    async def scenario() -> tuple[list[tuple[float, float]], list[int], float]:
        limiter = limiter_here(requests, tokens, burst=burst)
        uses: list[tuple[float, float]] = []
        order: list[int] = []

        async def call(number: int, amount: int, share: float) -> None:
            reservation = await limiter.reserve(min(amount, tokens))
            uses.append((now(), reservation.tokens))
            order.append(number)
            reservation.settle(int(reservation.tokens * share))

        running = []
        for number, (pause, amount, share) in enumerate(calls):
            await asyncio.sleep(pause if number % 7 == 0 else 0)
            running.append(asyncio.create_task(call(number, amount, share)))
            await settled()
        await asyncio.gather(*running)
        spent = sum(int(min(amount, tokens) * share) for _, amount, share in calls)
        assert limiter._tokens.spent == pytest.approx(spent)
        return uses, order, spent

    uses, order, _ = run_virtual(scenario())
    assert order == sorted(order)
    assert most_in_a_minute([(at, 1.0) for at, _ in uses]) <= requests + 1e-6


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(1, 900)), min_size=1, max_size=80))
@settings(max_examples=150, deadline=None)
def test_a_bucket_never_gives_more_than_its_limit_in_any_minute(uses: list[tuple[float, int]]) -> None:
    bucket, clock, given_out = Bucket(1000, 500, 0.0), 0.0, []
    for pause, amount in uses:
        clock += pause
        while (wait := bucket.wait_for(amount, clock)) > 0:
            clock += wait
        bucket.take(amount, clock)
        given_out.append((clock, float(amount)))
    assert most_in_a_minute(given_out) <= 1000
    for start in range(len(given_out)):
        for end in range(start, len(given_out)):
            span = given_out[end][0] - given_out[start][0]
            total = sum(amount for _, amount in given_out[start : end + 1])
            # Evenly filled: a burst, one request that may be paid for afterwards, and what came in.
            assert total <= 500 + 900 + 1000 / 60 * (span + 0.1) + 1e-6


def test_a_request_larger_than_the_bucket_is_served_and_paid_for_afterwards() -> None:
    async def scenario() -> None:
        limiter = limiter_here(tokens=600)
        await limiter.reserve(600)
        assert now() == 0
        await limiter.reserve(1)
        assert now() == pytest.approx(60)

    run_virtual(scenario())


def test_a_request_larger_than_the_limit_goes_alone_in_its_minute() -> None:
    async def scenario() -> None:
        limiter = limiter_here(tokens=600)
        await limiter.reserve(10)
        await limiter.reserve(5000)
        assert now() == pytest.approx(60)

    run_virtual(scenario())


def test_a_large_request_is_never_starved_by_small_ones() -> None:
    async def scenario() -> None:
        limiter, served = limiter_here(tokens=600), []

        async def call(name: str, tokens: int) -> None:
            await limiter.reserve(tokens)
            served.append(name)

        async def small_ones() -> None:
            for number in range(500):
                task = asyncio.create_task(call(f"small {number}", 10))
                tasks.append(task)
                await asyncio.sleep(0.5)

        tasks: list[asyncio.Task[None]] = []
        flood = asyncio.create_task(small_ones())
        await asyncio.sleep(40)
        began = now()
        before = len(tasks)
        await call("large", 400)
        assert served.index("large") <= before
        assert now() - began < 90
        flood.cancel()
        for task in tasks:
            task.cancel()

    run_virtual(scenario())


def test_both_buckets_have_to_have_it() -> None:
    async def scenario() -> None:
        limiter = limiter_here(requests=60, tokens=600)
        await limiter.reserve(300)
        await limiter.reserve(100)
        assert now() == pytest.approx(10)  # the tokens' turn, later than the requests'

    run_virtual(scenario())


# --- Settling ------------------------------------------------------------------------------------------


def test_tokens_not_used_are_there_for_the_next_at_once() -> None:
    async def scenario() -> None:
        limiter = limiter_here(tokens=600)
        first = await limiter.reserve(600)
        waiter = asyncio.create_task(limiter.reserve(300))
        await asyncio.sleep(1)
        assert not waiter.done()
        first.settle(100)
        await waiter
        assert now() < 11

    run_virtual(scenario())


def test_tokens_used_beyond_the_estimate_are_paid_for_by_the_next() -> None:
    async def scenario() -> None:
        limiter = limiter_here(tokens=600)
        (await limiter.reserve(100)).settle(500)
        await limiter.reserve(300)
        assert now() == pytest.approx(60)
        assert limiter.stats().tokens_used == 300

    run_virtual(scenario())


def test_a_cancelled_reservation_gives_back_its_request_too() -> None:
    async def scenario() -> None:
        limiter = limiter_here(requests=60, tokens=600)
        (await limiter.reserve(100)).cancel()
        await limiter.reserve(300)
        assert now() == 0
        assert limiter.stats().requests_used == 1

    run_virtual(scenario())


# --- Waiting -------------------------------------------------------------------------------------------


def test_a_cancelled_waiter_leaves_the_line_and_uses_nothing() -> None:
    async def scenario() -> None:
        limiter = limiter_here(requests=60)
        await limiter.reserve()
        first, second = (asyncio.create_task(limiter.reserve()) for _ in range(2))
        await asyncio.sleep(0.5)
        first.cancel()
        await second
        assert now() == pytest.approx(1)
        assert limiter.stats().waiting == 0

    run_virtual(scenario())


def test_a_waiter_that_runs_out_of_time_uses_nothing() -> None:
    async def scenario() -> None:
        limiter = limiter_here(requests=60, name="openai")
        await limiter.reserve()
        with pytest.raises(TimeoutError, match="'openai' lets no request through within 0.25s"):
            await limiter.reserve(timeout=0.25)
        assert now() == 0.25
        assert limiter.stats().requests_used == 1
        await limiter.reserve()
        assert now() == pytest.approx(1)

    run_virtual(scenario())


def test_a_thousand_waiters_go_first_come_first_served() -> None:
    async def scenario() -> list[int]:
        limiter, served = limiter_here(requests=6000), []

        async def call(number: int) -> None:
            await limiter.reserve()
            served.append(number)

        await asyncio.gather(*(call(number) for number in range(1000)))
        assert now() == pytest.approx(9.99, abs=0.1)
        return served

    assert run_virtual(scenario()) == list(range(1000))


def test_ten_threads_at_ten_a_second_take_nine_tenths_of_a_second() -> None:
    limiter = RateLimiter(requests_per_minute=600)
    began = time.monotonic()
    for future in [in_thread(limiter.throttle) for _ in range(10)]:
        future.result(PATIENCE)
    assert 0.85 <= time.monotonic() - began < 2


def test_loops_and_threads_share_one_rate() -> None:
    limiter, uses = RateLimiter(requests_per_minute=12_000), []

    async def tasks() -> None:
        for _ in range(20):
            await limiter.athrottle()
            uses.append(time.monotonic())

    def thread() -> None:
        for _ in range(20):
            limiter.throttle()
            uses.append(time.monotonic())

    began = time.monotonic()
    with loop_threads(2) as loops:
        futures: list[Any] = [loop.start(tasks()) for loop in loops] + [in_thread(thread) for _ in range(2)]
        for future in futures:
            future.result(PATIENCE)
    # 80 requests, 200 a second; what a quiet moment may save up is a few.
    assert len(uses) == 80
    assert max(uses) - began > 0.35


def test_a_loop_closed_during_its_wait_does_not_hold_up_the_others() -> None:
    limiter = RateLimiter(requests_per_minute=600)
    limiter.throttle()
    dead = asyncio.new_event_loop()
    task = dead.create_task(limiter.reserve())
    dead.run_until_complete(asyncio.sleep(0))
    waiting = in_thread(limiter.throttle)
    dead.close()
    waiting.result(PATIENCE)
    task.get_coro().close()


async def test_throttling_on_a_loop_with_the_sync_face_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"throttle\(\) cannot be called with a running event loop"):
        RateLimiter(60).throttle()


async def test_try_reserve_never_waits() -> None:
    limiter = RateLimiter(60)
    assert limiter.try_reserve() is not None
    assert limiter.try_reserve() is None


@pytest.mark.parametrize(
    ("limit", "error"), [(-5, ValueError), (0, ValueError), ("60", TypeError), (True, TypeError)]
)
def test_a_rate_that_makes_no_sense_is_refused_at_once(limit: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        RateLimiter(requests_per_minute=limit)
    with pytest.raises(error):
        RateLimiter(tokens_per_minute=limit)


async def test_without_limits_nothing_waits_and_everything_counts() -> None:
    limiter = RateLimiter()
    for _ in range(100):
        await limiter.reserve(1000)
    stats = limiter.stats()
    assert (stats.requests_used, stats.tokens_used) == (100, 100_000)
    assert stats.requests_per_minute == math.inf


# --- What the provider says ----------------------------------------------------------------------------


def test_a_retry_after_holds_everyone_on_the_key_once() -> None:
    async def scenario() -> None:
        limiter = limiter_here(requests=600)
        calls = [await limiter.reserve() for _ in range(600)]
        began = now()
        for call in calls[-5:]:  # all five were under way, and all are refused
            call.refused(20)
        assert limiter.stats().paused_for == pytest.approx(20)
        await limiter.reserve()
        assert now() == pytest.approx(began + 20)
        assert limiter.stats().pace == pytest.approx(5)  # halved once, not five times

    run_virtual(scenario())


def test_a_later_refusal_of_the_same_moment_may_prolong_the_pause() -> None:
    async def scenario() -> None:
        limiter = limiter_here(requests=600)
        first, second = await limiter.reserve(), await limiter.reserve()
        began = now()
        first.refused(5)
        second.refused(20)
        await limiter.reserve()
        assert now() == pytest.approx(began + 20)

    run_virtual(scenario())


def test_after_a_pause_calls_come_out_slowly_at_first_and_then_faster() -> None:
    async def scenario() -> list[float]:
        limiter, times = limiter_here(requests=600), []
        calls = [await limiter.reserve() for _ in range(600)]
        calls[-1].refused(60)
        began = now() + 60
        for _ in range(600):
            await limiter.reserve()
            times.append(now() - began)
        assert limiter.stats().pace == math.inf
        return times

    times = run_virtual(scenario())
    gaps = [late - early for early, late in zip(times, times[1:], strict=False)]
    assert times[0] == pytest.approx(0)
    assert gaps[0] == pytest.approx(0.2)
    assert gaps[-1] == pytest.approx(0.1)
    assert all(late <= early + 0.021 for early, late in zip(gaps, gaps[1:], strict=False))
    assert times[-1] < 60 * 1.1  # what the ramp costs


def test_a_limiter_without_a_limit_ramps_up_after_a_refusal_too() -> None:
    async def scenario() -> int:
        limiter = limiter_here()
        calls = [await limiter.reserve() for _ in range(600)]
        calls[0].refused(10)
        waiting = [asyncio.create_task(limiter.reserve()) for _ in range(600)]
        await asyncio.sleep(11)
        passed = sum(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        return passed

    assert 3 <= run_virtual(scenario()) <= 10  # half of 600 a minute


def test_refusals_one_after_the_other_find_the_pace_that_the_provider_takes() -> None:
    async def scenario() -> tuple[int, int]:
        limiter = limiter_here()
        level, updated, refused, served = 300.0, now(), 0, 0  # 300 a minute, which nobody told us

        async def call() -> None:
            nonlocal level, updated, refused, served
            while True:
                reservation = await limiter.reserve()
                level, updated = min(300.0, level + (now() - updated) * 5), now()
                if level >= 1:
                    level -= 1
                    served += 1
                    return
                refused += 1
                reservation.refused(1)

        calls = [asyncio.create_task(call()) for _ in range(6000)]
        await asyncio.sleep(60)
        before = refused, served
        await asyncio.sleep(600)
        for task in calls:
            task.cancel()
        return refused - before[0], served - before[1]

    refused, served = run_virtual(scenario())
    assert served > 0.9 * 3000
    assert refused < 0.02 * served


def test_headers_lower_the_limit_to_what_the_provider_grants() -> None:
    async def scenario() -> None:
        limiter = limiter_here(requests=6000)
        call = await limiter.reserve()
        call.observe({"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "0"})
        assert limiter.stats().requests_per_minute == 60
        await limiter.reserve()
        assert now() == pytest.approx(1)
        call.observe({"x-ratelimit-limit-requests": "9000"})
        assert limiter.stats().requests_per_minute == 6000  # configured; never above it

    run_virtual(scenario())


def test_headers_correct_what_is_left_less_what_was_used_since() -> None:
    async def scenario() -> None:
        limiter = limiter_here(tokens=6000)
        call = await limiter.reserve(100)
        await limiter.reserve(200)
        await asyncio.sleep(1)
        # When the first call arrived, another process had used most of it.
        call.observe({"x-ratelimit-limit-tokens": "6000", "x-ratelimit-remaining-tokens": "500"})
        assert limiter._tokens.level == pytest.approx(500 + 100 - 200)

    run_virtual(scenario())


@pytest.mark.parametrize(
    "headers", [{}, {"x-ratelimit-limit-requests": "many"}, {"x-ratelimit-limit-tokens": "-1"}]
)
async def test_headers_that_say_nothing_change_nothing(headers: dict[str, str]) -> None:
    limiter = RateLimiter(60, 600)
    before = limiter.stats()
    limiter.observe(headers)
    assert limiter.stats() == before


async def test_headers_reach_the_call_that_this_task_makes() -> None:
    limiter = RateLimiter()
    observe_headers({"x-ratelimit-limit-requests": "60"})  # nobody is calling
    current_reservation.set(await limiter.reserve())
    observe_headers({"x-ratelimit-limit-requests": "60"})
    assert limiter.stats().requests_per_minute == 60


def test_a_new_limit_takes_effect_on_those_who_wait() -> None:
    async def scenario() -> None:
        limiter = limiter_here(requests=1)
        await limiter.reserve()
        waiter = asyncio.create_task(limiter.reserve())
        await asyncio.sleep(1)
        limiter.configure(requests_per_minute=60)
        await waiter
        assert now() < 2.1

    run_virtual(scenario())


# --- One limiter per key -------------------------------------------------------------------------------


def test_the_same_key_shares_one_limiter_and_the_strictest_limit_holds() -> None:
    rates = SharedRates()
    key = rate_key("https://api.example.com", "sk-secret", "gpt")
    first = rates.get(key, requests_per_minute=100)
    assert rates.get(key, requests_per_minute=50, tokens_per_minute=1000) is first
    assert rates.get(key) is first
    assert rates.stats()[key].requests_per_minute == 50
    assert rates.stats()[key].tokens_per_minute == 1000
    assert rates.get(rate_key("https://api.example.com", "sk-other", "gpt")) is not first


def test_a_key_shows_no_secret() -> None:
    assert "sk-secret" not in rate_key("https://api.example.com", "sk-secret", "gpt")


def test_a_limiter_that_nobody_holds_is_forgotten() -> None:
    rates = SharedRates()
    limiter = rates.get("key", 1)
    del limiter
    assert rates.stats() == {}
