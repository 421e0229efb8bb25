"""The capacity limiter: who is let in, in which order, and what is left when waiting ends badly."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import random
import signal
import threading
import time
from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands.limits.capacity import CapacityLimiter, SlotStats
from manyhands.testing.clock import run_virtual
from tests.limits.helpers import PATIENCE, LoopThread, in_thread, loop_threads, settled, until

# --- Taking and giving back ----------------------------------------------------------------------


async def test_no_more_than_the_limit_hold_at_once() -> None:
    limiter, now, most = CapacityLimiter(3), 0, 0

    async def hold() -> None:
        nonlocal now, most
        async with limiter:
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1

    await asyncio.gather(*(hold() for _ in range(50)))
    assert most == 3
    assert limiter.stats() == SlotStats(limit=3, held=0, waiting=0)


@pytest.mark.parametrize("limit", [0, -1, None])
async def test_unlimited_counts_its_holders(limit: int | None) -> None:
    limiter = CapacityLimiter(limit)
    for _ in range(100):
        await limiter.acquire()
    assert (limiter.limit, limiter.held) == (0, 100)


def test_an_uncontended_acquire_does_not_suspend() -> None:
    acquiring = CapacityLimiter(1).acquire()
    with pytest.raises(StopIteration):
        acquiring.send(None)


async def test_try_acquire_takes_a_free_slot_and_never_waits() -> None:
    limiter = CapacityLimiter(1)
    assert limiter.try_acquire()
    assert not limiter.try_acquire()
    limiter.release()
    assert limiter.try_acquire()


async def test_a_slot_may_be_released_by_another_task() -> None:
    limiter = CapacityLimiter(1)
    await asyncio.create_task(limiter.acquire())
    limiter.release()
    assert limiter.held == 0


async def test_a_release_too_many_is_an_error_in_the_log_and_frees_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limiter = CapacityLimiter(1, name="researcher")
    for _ in range(3):
        limiter.release()
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 3
    assert "'researcher'" in caplog.text
    assert limiter.try_acquire()
    assert not limiter.try_acquire()


def test_sync_code_takes_a_slot_with_a_plain_with() -> None:
    limiter = CapacityLimiter(1)
    with limiter:
        assert limiter.held == 1
    assert limiter.held == 0


async def test_blocking_on_a_loop_is_refused() -> None:
    with pytest.raises(RuntimeError, match="cannot be called with a running event loop"):
        CapacityLimiter(1).acquire_sync()


@pytest.mark.parametrize("limit", ["2", 2.0, True, object()])
def test_a_limit_that_is_no_whole_number_is_refused(limit: Any) -> None:
    with pytest.raises(TypeError, match="whole number"):
        CapacityLimiter(limit)
    with pytest.raises(TypeError, match="whole number"):
        CapacityLimiter(1).limit = limit


@pytest.mark.parametrize(("timeout", "error"), [("1", TypeError), (True, TypeError), (-1, ValueError)])
async def test_a_timeout_that_makes_no_sense_is_refused(timeout: Any, error: type[Exception]) -> None:  # noqa: ASYNC109
    with pytest.raises(error):
        await CapacityLimiter(1).acquire(timeout)


# --- Order -----------------------------------------------------------------------------------------


async def test_a_task_that_releases_and_acquires_again_goes_to_the_end_of_the_line() -> None:
    limiter, grants = CapacityLimiter(1), {"a": 0, "b": 0}

    async def take(name: str) -> None:
        for _ in range(200):
            async with limiter:
                grants[name] += 1
                assert abs(grants["a"] - grants["b"]) <= 1
                await asyncio.sleep(0)

    await asyncio.gather(take("a"), take("b"))


async def test_nobody_slips_in_between_release_and_the_oldest_waiter() -> None:
    limiter = CapacityLimiter(1)
    await limiter.acquire()
    waiter = asyncio.create_task(limiter.acquire())
    await settled()
    limiter.release()
    assert not limiter.try_acquire()
    await waiter


def test_tasks_threads_and_loops_are_served_first_come_first_served() -> None:
    limiter, served = CapacityLimiter(1), []
    limiter.acquire_sync()

    async def task(number: int) -> None:
        await limiter.acquire()
        served.append(number)
        limiter.release()

    def thread(number: int) -> None:
        limiter.acquire_sync()
        served.append(number)
        limiter.release()

    with loop_threads(2) as loops:
        futures: list[Any] = []
        for number in range(24):
            if number % 3 == 2:
                futures.append(in_thread(lambda number=number: thread(number)))  # type: ignore[misc]
            else:
                futures.append(loops[number % 3].start(task(number)))
            until(lambda number=number: limiter.waiting == number + 1)  # type: ignore[misc]
        limiter.release()
        for future in futures:
            future.result(PATIENCE)
    assert served == list(range(24))
    assert limiter.stats() == SlotStats(1, 0, 0)


class Reference:
    """What the limiter should do, in the plainest words."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.holders = 0
        self.line: deque[int] = deque()
        self.grants: list[int] = []

    def admit(self) -> None:
        while self.line and (self.limit <= 0 or self.holders < self.limit):
            self.grants.append(self.line.popleft())
            self.holders += 1

    def join(self, number: int) -> None:
        self.line.append(number)
        self.admit()

    def release(self) -> None:
        self.holders = max(0, self.holders - 1)
        self.admit()

    def leave(self, number: int) -> None:
        if number in self.line:
            self.line.remove(number)

    def resize(self, limit: int) -> None:
        self.limit = limit
        self.admit()


Deed = st.one_of(
    st.tuples(st.just("join"), st.just(0)),
    st.tuples(st.just("release"), st.just(0)),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(st.just("resize"), st.integers(-1, 5)),
)


@given(st.integers(-1, 4), st.lists(Deed, max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_history_of_joins_releases_cancels_and_resizes_matches_the_reference(
    limit: int, deeds: list[tuple[str, int]]
) -> None:
    async def scenario() -> None:
        limiter, reference = CapacityLimiter(limit), Reference(limit)
        grants: list[int] = []
        tasks: list[asyncio.Task[None]] = []

        async def hold(number: int) -> None:
            await limiter.acquire()
            grants.append(number)

        for deed, value in deeds:
            if deed == "join":
                tasks.append(asyncio.create_task(hold(len(tasks))))
                reference.join(len(tasks) - 1)
            elif deed == "release" and reference.holders:
                limiter.release()
                reference.release()
            elif deed == "cancel" and value < len(tasks):
                tasks[value].cancel()
                reference.leave(value)
            elif deed == "resize":
                limiter.limit = value
                reference.resize(value)
            await settled()
            assert grants == reference.grants
            assert (limiter.held, limiter.waiting) == (reference.holders, len(reference.line))
        for task in tasks:
            task.cancel()

    run_virtual(scenario())


# --- Waiting that ends badly -----------------------------------------------------------------------


async def test_a_cancelled_waiter_leaves_the_line_and_the_next_is_served() -> None:
    limiter = CapacityLimiter(1)
    await limiter.acquire()
    first, second = (asyncio.create_task(limiter.acquire()) for _ in range(2))
    await settled()
    first.cancel()
    await settled()
    assert limiter.waiting == 1
    limiter.release()
    await second
    assert limiter.held == 1


async def test_a_waiter_cancelled_just_after_it_was_served_hands_its_slot_on() -> None:
    limiter = CapacityLimiter(1)
    await limiter.acquire()
    first, second = (asyncio.create_task(limiter.acquire()) for _ in range(2))
    await settled()
    limiter.release()
    first.cancel()  # the slot is its own already, though it has not run since
    await second
    assert first.cancelled()
    assert limiter.stats() == SlotStats(1, 1, 0)


def test_a_timed_out_waiter_leaves_the_line_after_exactly_its_time() -> None:
    async def scenario() -> None:
        limiter, loop = CapacityLimiter(1, name="researcher"), asyncio.get_running_loop()
        await limiter.acquire()
        with pytest.raises(TimeoutError, match=r"'researcher' came free within 2.5s \(1 held, limit 1"):
            await limiter.acquire(timeout=2.5)
        assert loop.time() == 2.5
        with pytest.raises(TimeoutError):
            await limiter.acquire(timeout=0)
        assert loop.time() == 2.5
        assert limiter.waiting == 0
        limiter.release()
        await limiter.acquire(timeout=math.inf)

    run_virtual(scenario())


def test_a_slot_that_comes_in_time_is_kept() -> None:
    async def scenario() -> None:
        limiter, loop = CapacityLimiter(1), asyncio.get_running_loop()
        await limiter.acquire()
        loop.call_later(1, limiter.release)
        await limiter.acquire(timeout=2)
        await asyncio.sleep(10)
        assert limiter.held == 1

    run_virtual(scenario())


def test_a_thread_that_times_out_leaves_the_line() -> None:
    limiter = CapacityLimiter(1)
    limiter.acquire_sync()
    with pytest.raises(TimeoutError):
        limiter.acquire_sync(timeout=0.01)
    assert limiter.waiting == 0
    limiter.release()
    assert limiter.try_acquire()


def test_ctrl_c_gets_a_blocked_thread_out_and_leaks_nothing() -> None:
    limiter = CapacityLimiter(1)
    limiter.acquire_sync()
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        until(lambda: limiter.waiting == 1)
        signal.pthread_kill(main, signal.SIGINT)

    interrupting = in_thread(interrupt)
    with pytest.raises(KeyboardInterrupt):
        limiter.acquire_sync()
    interrupting.result(PATIENCE)
    assert limiter.waiting == 0
    limiter.release()
    assert limiter.try_acquire()


def test_a_loop_closed_with_waiters_poisons_nothing() -> None:
    limiter = CapacityLimiter(1)
    limiter.acquire_sync()
    dead = asyncio.new_event_loop()
    waiter = dead.create_task(limiter.acquire())
    dead.run_until_complete(asyncio.sleep(0))
    assert limiter.waiting == 1
    dead.close()
    assert limiter.waiting == 0
    thread = in_thread(limiter.acquire_sync)
    until(lambda: limiter.waiting == 1)
    limiter.release()
    thread.result(PATIENCE)
    limiter.release()
    assert limiter.stats() == SlotStats(1, 0, 0)
    waiter.get_coro().close()
    assert limiter.stats() == SlotStats(1, 0, 0)


def test_a_loop_that_dies_with_a_slot_on_the_way_to_it_gives_the_slot_to_the_next() -> None:
    limiter = CapacityLimiter(1)
    limiter.acquire_sync()
    dying = LoopThread()
    lost = dying.start(limiter.acquire())
    until(lambda: limiter.waiting == 1)
    reached, leave = threading.Event(), threading.Event()

    def end_soon() -> None:
        dying.loop.stop()  # after this turn of the loop, whatever comes in meanwhile
        reached.set()
        leave.wait(PATIENCE)

    dying.loop.call_soon_threadsafe(end_soon)
    assert reached.wait(PATIENCE)
    next_in_line = in_thread(limiter.acquire_sync)
    until(lambda: limiter.waiting == 2)
    limiter.release()  # handed to the loop, which will never hear of it
    leave.set()
    dying._thread.join(PATIENCE)
    assert not next_in_line.done()
    dying.loop.close()
    next_in_line.result(PATIENCE)
    assert limiter.stats() == SlotStats(1, 1, 0)
    assert not lost.done()


def test_a_loop_at_rest_is_passed_over_and_served_when_it_runs_again() -> None:
    limiter = CapacityLimiter(1)
    limiter.acquire_sync()
    resting = asyncio.new_event_loop()
    early = resting.create_task(limiter.acquire())
    resting.run_until_complete(asyncio.sleep(0))
    late = in_thread(limiter.acquire_sync)
    until(lambda: limiter.waiting == 2)
    limiter.release()
    late.result(PATIENCE)
    limiter.release()
    assert limiter.stats() == SlotStats(1, 0, 1)
    assert limiter.try_acquire()  # nobody who could hear waits
    limiter.release()
    resting.run_until_complete(asyncio.wait_for(early, PATIENCE))
    assert limiter.stats() == SlotStats(1, 1, 0)
    resting.close()


def test_a_waiter_collected_as_garbage_leaves_the_line() -> None:
    limiter = CapacityLimiter(1)
    limiter.acquire_sync()
    loop = asyncio.new_event_loop()

    async def wait() -> None:
        await limiter.acquire()

    waiting = wait()
    asyncio._set_running_loop(loop)
    waiting.send(None)
    asyncio._set_running_loop(None)
    assert limiter.waiting == 1
    del waiting
    gc.collect()
    assert limiter.waiting == 0
    loop.close()


def test_a_finalizer_may_release_while_its_own_thread_holds_the_lock() -> None:
    limiter = CapacityLimiter(2)
    limiter.acquire_sync()
    with limiter._lock:
        limiter.release()  # as from __del__, run by the garbage collector at any moment
        assert limiter.held == 1
    assert limiter.try_acquire()
    assert limiter.held == 1


# --- Resizing ----------------------------------------------------------------------------------------


async def test_raising_the_limit_lets_in_as_many_as_fit() -> None:
    limiter = CapacityLimiter(1)
    await limiter.acquire()
    waiters = [asyncio.create_task(limiter.acquire()) for _ in range(5)]
    await settled()
    limiter.limit = 3
    await settled()
    assert [waiter.done() for waiter in waiters] == [True, True, False, False, False]
    limiter.limit = 0
    await asyncio.gather(*waiters)
    assert limiter.held == 6


async def test_lowering_the_limit_lets_nobody_in_until_enough_are_done() -> None:
    limiter = CapacityLimiter(3)
    for _ in range(3):
        await limiter.acquire()
    limiter.limit = 1
    waiter = asyncio.create_task(limiter.acquire())
    await settled()
    for _ in range(2):
        limiter.release()
        await settled()
        assert not waiter.done()
    limiter.release()
    await waiter
    assert limiter.stats() == SlotStats(1, 1, 0)


async def test_setting_the_same_limit_again_strands_nobody_and_admits_nobody() -> None:
    limiter = CapacityLimiter(2)
    await limiter.acquire()
    await limiter.acquire()
    waiter = asyncio.create_task(limiter.acquire())
    await settled()
    limiter.limit = 2
    await settled()
    assert not waiter.done()
    limiter.release()
    await waiter


# --- Load --------------------------------------------------------------------------------------------


def test_many_loops_and_threads_with_cancels_timeouts_and_resizing_leak_nothing() -> None:
    limiter, guard = CapacityLimiter(4), threading.Lock()
    holding = most = 0

    def count(change: int) -> None:
        nonlocal holding, most
        with guard:
            holding += change
            most = max(most, holding)

    async def task(dice: random.Random) -> None:
        try:
            await limiter.acquire(timeout=dice.choice([None, 0.0005, 0.01]))
        except TimeoutError:
            return
        count(1)
        try:
            await asyncio.sleep(dice.choice([0, 0, 0.0005]))
        finally:
            count(-1)
            limiter.release()

    async def tasks(seed: int) -> None:
        dice = random.Random(seed)
        running = [asyncio.create_task(task(dice)) for _ in range(400)]
        for one in running:
            if dice.random() < 0.3:
                await asyncio.sleep(0)
                one.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def thread(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(150):
            try:
                limiter.acquire_sync(timeout=dice.choice([None, 0.0005, 0.01]))
            except TimeoutError:
                continue
            count(1)
            count(-1)
            limiter.release()

    with loop_threads(3) as loops:
        futures: list[Any] = [loop.start(tasks(seed)) for seed, loop in enumerate(loops)]
        futures += [in_thread(lambda seed=seed: thread(seed)) for seed in range(4)]  # type: ignore[misc]
        dice = random.Random(0)
        while not all(future.done() for future in futures):
            limiter.limit = dice.randint(1, 8)
            time.sleep(0.001)
        for future in futures:
            future.result()
    assert limiter.held == limiter.waiting == holding == 0
    assert 1 <= most <= 8


async def test_a_thousand_waiting_tasks_use_no_cpu() -> None:
    limiter = CapacityLimiter(1)
    await limiter.acquire()
    waiters = [asyncio.create_task(limiter.acquire()) for _ in range(1000)]
    await settled()
    before = time.thread_time()
    await asyncio.sleep(0.3)
    assert time.thread_time() - before < 0.05
    for waiter in waiters:
        waiter.cancel()
    await asyncio.gather(*waiters, return_exceptions=True)
    assert limiter.waiting == 0


@pytest.mark.parametrize("jobs", [200])
def test_jobs_through_a_limit_of_one_take_the_ideal_time(jobs: int) -> None:
    async def scenario() -> float:
        limiter = CapacityLimiter(1)

        async def job() -> None:
            async with limiter:
                await asyncio.sleep(0.001)

        await asyncio.gather(*(job() for _ in range(jobs)))
        return asyncio.get_running_loop().time()

    assert run_virtual(scenario()) == pytest.approx(jobs * 0.001)


def test_one_limiter_serves_asyncio_run_twice() -> None:
    limiter = CapacityLimiter(1)

    async def contended() -> None:
        async def hold() -> None:
            async with limiter:
                await asyncio.sleep(0)

        await asyncio.gather(hold(), hold(), hold())

    asyncio.run(contended())
    asyncio.run(contended())
    assert limiter.held == 0
