"""The concurrency registry: named limits, and every way in which such registries are known to fail."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import threading
import time
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from hypothesis.strategies import integers, sampled_from

from manyhands.limits import ConcurrencyRegistry, SlotStats, get_concurrency_registry
from manyhands.testing.clock import run_virtual
from tests.limits.helpers import PATIENCE, in_thread, loop_threads, settled, until

REFUSAL = (
    "acquire_sync('researcher') cannot be called with a running event loop; "
    "use async acquire() in async contexts."
)


def limited(limit: int, name: str = "researcher") -> ConcurrencyRegistry:
    registry = ConcurrencyRegistry()
    registry.set_limit(name, limit)
    return registry


# --- Limits by name ------------------------------------------------------------------------------


def test_a_name_without_a_limit_follows_the_default() -> None:
    registry = ConcurrencyRegistry(default_limit=3)
    assert registry.get_limit("writer") == 3
    registry.set_limit("writer", 5)
    assert registry.get_limit("writer") == 5
    registry.remove_limit("writer")
    assert registry.get_limit("writer") == 3
    registry.default_limit = 0
    assert registry.get_limit("writer") == registry.default_limit == 0


@pytest.mark.parametrize("limit", [0, -5, None])
def test_a_limit_of_none_zero_or_less_is_unlimited(limit: int | None) -> None:
    registry = ConcurrencyRegistry(default_limit=1)
    registry.set_limit("writer", limit)
    for _ in range(20):
        registry.acquire_sync("writer")
    assert registry.get_limit("writer") == 0
    assert registry.held("writer") == 20


@pytest.mark.parametrize("limit", ["2", 1.5, True])
def test_a_limit_that_is_no_whole_number_is_refused(limit: Any) -> None:
    with pytest.raises(TypeError):
        ConcurrencyRegistry(default_limit=limit)
    with pytest.raises(TypeError):
        ConcurrencyRegistry().set_limit("writer", limit)


@pytest.mark.parametrize("name", [None, 3, b"writer"])
async def test_a_name_that_is_no_string_is_refused(name: Any) -> None:
    registry = ConcurrencyRegistry()
    with pytest.raises(TypeError):
        registry.set_limit(name, 1)
    with pytest.raises(TypeError):
        await registry.acquire(name)
    with pytest.raises(TypeError):
        registry.release(name)
    with pytest.raises(TypeError):
        registry.throttle(name)


async def test_names_do_not_share_slots() -> None:
    registry = ConcurrencyRegistry(default_limit=1)
    await registry.acquire("a")
    await registry.acquire("b")
    assert not registry.try_acquire("a")


def test_the_process_has_one_registry_whoever_asks() -> None:
    futures = [in_thread(get_concurrency_registry) for _ in range(8)]
    assert {id(future.result(PATIENCE)) for future in futures} == {id(get_concurrency_registry())}


async def test_stats_show_limit_holders_and_waiters_of_each_name() -> None:
    registry = limited(1)
    registry.set_limit("idle", 4)
    async with registry.throttle("researcher"), registry.throttle("free"):
        waiter = asyncio.create_task(registry.acquire("researcher"))
        await settled()
        assert registry.stats() == {
            "researcher": SlotStats(1, 1, 1),
            "idle": SlotStats(4, 0, 0),
            "free": SlotStats(0, 1, 0),
        }
        assert (registry.held("researcher"), registry.waiting("researcher")) == (1, 1)
    await waiter


async def test_names_that_nobody_uses_any_more_are_forgotten() -> None:
    registry = ConcurrencyRegistry(default_limit=1)
    for number in range(1000):
        async with registry.throttle(f"user-{number}"):
            with pytest.raises(TimeoutError):
                await registry.acquire(f"user-{number}", timeout=0)
    assert registry.stats() == {}
    assert len(registry._entries) < 500


# --- Sync and async --------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [None, 1])
async def test_acquire_sync_on_a_running_loop_is_refused_with_or_without_a_limit(limit: int | None) -> None:
    registry = ConcurrencyRegistry()
    if limit:
        registry.set_limit("researcher", limit)
    with pytest.raises(RuntimeError) as caught:
        registry.acquire_sync("researcher")
    assert str(caught.value) == REFUSAL
    with pytest.raises(RuntimeError) as caught, registry.throttle_sync("researcher"):
        pass
    assert str(caught.value) == REFUSAL
    assert registry.held("researcher") == 0


def test_throttle_holds_a_slot_inside_in_sync_and_in_async_code() -> None:
    registry = limited(1)
    with registry.throttle_sync("researcher"):
        assert registry.held("researcher") == 1
        assert not registry.try_acquire("researcher")

    async def scenario() -> None:
        async with registry.throttle("researcher"):
            with pytest.raises(TimeoutError):
                async with registry.throttle("researcher", timeout=3):
                    pass
        assert asyncio.get_running_loop().time() == 3

    run_virtual(scenario())
    assert registry.held("researcher") == 0


def test_throttle_gives_its_slot_back_when_the_body_raises() -> None:
    registry = limited(1)
    with pytest.raises(ZeroDivisionError), registry.throttle_sync("researcher"):
        raise ZeroDivisionError
    assert registry.try_acquire("researcher")


def test_sync_acquire_with_a_timeout_gives_up() -> None:
    registry = limited(1)
    registry.acquire_sync("researcher")
    with pytest.raises(TimeoutError, match="researcher"):
        registry.acquire_sync("researcher", timeout=0.01)
    assert registry.waiting("researcher") == 0


# --- What goes wrong elsewhere ---------------------------------------------------------------------


def test_eight_threads_under_a_limit_of_two_never_hold_three() -> None:
    registry, lock = limited(2), threading.Lock()
    now = most = 0

    def work() -> None:
        nonlocal now, most
        for _ in range(100):
            with registry.throttle_sync("researcher"):
                with lock:
                    now += 1
                    most = max(most, now)
                time.sleep(0)
                with lock:
                    now -= 1

    for future in [in_thread(work) for _ in range(8)]:
        future.result(PATIENCE)
    assert most == 2


def test_a_thread_that_waits_is_woken_by_a_release_on_a_loop() -> None:
    registry = limited(1)
    with loop_threads(1) as (loop,):
        loop.start(registry.acquire("researcher")).result(PATIENCE)
        thread = in_thread(lambda: registry.acquire_sync("researcher"))
        until(lambda: registry.waiting("researcher") == 1)
        loop.loop.call_soon_threadsafe(registry.release, "researcher")
        thread.result(PATIENCE)


def test_two_loops_contend_without_being_bound_to_one() -> None:
    registry = limited(1)

    async def work() -> int:
        for _ in range(50):
            async with registry.throttle("researcher"):
                await asyncio.sleep(0)
        return 50

    with loop_threads(2) as loops:
        assert [loop.start(work()).result(PATIENCE) for loop in loops] == [50, 50]
    assert asyncio.run(work()) == asyncio.run(work()) == 50


async def test_set_limit_while_held_strands_no_waiter_and_forgets_no_holder() -> None:
    registry = limited(1)
    await registry.acquire("researcher")
    waiters = [asyncio.create_task(registry.acquire("researcher")) for _ in range(3)]
    await settled()
    registry.set_limit("researcher", 1)
    await settled()
    assert registry.held("researcher") == 1
    registry.set_limit("researcher", 2)
    await settled()
    assert (registry.held("researcher"), registry.waiting("researcher")) == (2, 2)
    for _ in range(2):
        registry.release("researcher")
    await asyncio.gather(*waiters)


async def test_setting_the_same_limit_again_does_not_admit_more() -> None:
    registry, now, most = limited(2), 0, 0

    async def work() -> None:
        nonlocal now, most
        registry.set_limit("researcher", 2)
        async with registry.throttle("researcher"):
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1

    await asyncio.gather(*(work() for _ in range(8)))
    assert most == 2


async def test_release_without_acquire_is_logged_and_admits_nobody(caplog: pytest.LogCaptureFixture) -> None:
    registry = limited(1)
    for _ in range(3):
        registry.release("researcher")
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 3
    assert registry.try_acquire("researcher")
    assert not registry.try_acquire("researcher")


def test_a_loop_that_dies_waiting_does_not_poison_the_name() -> None:
    registry = limited(1)
    registry.acquire_sync("researcher")
    dead = asyncio.new_event_loop()
    task = dead.create_task(registry.acquire("researcher"))
    dead.run_until_complete(asyncio.sleep(0))
    dead.close()
    registry.release("researcher")
    registry.acquire_sync("researcher", timeout=1)
    registry.release("researcher")
    task.get_coro().close()
    del task
    gc.collect()
    assert registry.stats() == {"researcher": SlotStats(1, 0, 0)}


async def test_a_task_that_releases_and_acquires_again_does_not_barge() -> None:
    registry, grants = limited(1), {"a": 0, "b": 0}

    async def work(name: str) -> None:
        for _ in range(100):
            await registry.acquire("researcher")
            grants[name] += 1
            assert abs(grants["a"] - grants["b"]) <= 1
            await asyncio.sleep(0)
            registry.release("researcher")

    await asyncio.gather(work("a"), work("b"))


async def test_runs_begun_while_unlimited_count_under_a_limit_set_later() -> None:
    registry = ConcurrencyRegistry()
    await registry.acquire("researcher")
    await registry.acquire("researcher")
    registry.set_limit("researcher", 1)
    waiter = asyncio.create_task(registry.acquire("researcher"))
    await settled()
    registry.release("researcher")
    await settled()
    assert not waiter.done()
    registry.release("researcher")
    await waiter
    assert registry.held("researcher") == 1


async def test_remove_limit_with_a_holder_falls_back_to_the_default_for_everyone() -> None:
    registry = ConcurrencyRegistry(default_limit=1)
    registry.set_limit("researcher", 2)
    await registry.acquire("researcher")
    await registry.acquire("researcher")
    registry.remove_limit("researcher")
    assert registry.get_limit("researcher") == 1
    assert not registry.try_acquire("researcher")
    registry.release("researcher")
    assert not registry.try_acquire("researcher")
    registry.release("researcher")
    assert registry.try_acquire("researcher")


async def test_release_remove_and_set_again_never_let_two_hold_under_one() -> None:
    registry = limited(1)
    await registry.acquire("researcher")
    waiter = asyncio.create_task(registry.acquire("researcher"))
    await settled()
    registry.release("researcher")
    registry.remove_limit("researcher")
    registry.set_limit("researcher", 1)
    await waiter
    assert not registry.try_acquire("researcher")
    assert registry.held("researcher") == 1


class RegistryMachine(RuleBasedStateMachine):
    """Any history of calls from sync code, against plain counting."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = ConcurrencyRegistry()
        self.limits: dict[str, int] = {}
        self.default = 0
        self.held: dict[str, int] = {}

    def limit(self, name: str) -> int:
        return self.limits.get(name, self.default)

    @rule(name=sampled_from("abc"), limit=integers(-1, 3))
    def set_limit(self, name: str, limit: int) -> None:
        self.registry.set_limit(name, limit)
        self.limits[name] = max(0, limit)

    @rule(name=sampled_from("abc"))
    def remove_limit(self, name: str) -> None:
        self.registry.remove_limit(name)
        self.limits.pop(name, None)

    @rule(limit=integers(-1, 3))
    def set_default(self, limit: int) -> None:
        self.registry.default_limit = limit
        self.default = max(0, limit)

    @rule(name=sampled_from("abc"))
    def try_acquire(self, name: str) -> None:
        held, limit = self.held.get(name, 0), self.limit(name)
        assert self.registry.try_acquire(name) == (limit == 0 or held < limit)
        if limit == 0 or held < limit:
            self.held[name] = held + 1

    @rule(name=sampled_from("abc"))
    def release(self, name: str) -> None:
        self.registry.release(name)
        self.held[name] = max(0, self.held.get(name, 0) - 1)

    @invariant()
    def counts_agree(self) -> None:
        for name in "abc":
            assert self.registry.get_limit(name) == self.limit(name)
            assert self.registry.held(name) == self.held.get(name, 0)
            assert self.registry.waiting(name) == 0


RegistryMachine.TestCase.settings = settings(max_examples=60, deadline=None, stateful_step_count=30)
TestRegistryMachine = RegistryMachine.TestCase


def test_loops_and_threads_over_many_names_with_cancels_leave_nothing_behind() -> None:
    registry = ConcurrencyRegistry(default_limit=2)

    async def tasks(seed: int) -> None:
        dice = random.Random(seed)

        async def work() -> None:
            async with registry.throttle(f"name-{dice.randrange(5)}", timeout=dice.choice([None, 0.002])):
                await asyncio.sleep(0)

        running = [asyncio.create_task(work()) for _ in range(300)]
        for one in running:
            if dice.random() < 0.3:
                await asyncio.sleep(0)
                one.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def thread(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(200):
            with registry.throttle_sync(f"name-{dice.randrange(5)}"):
                pass

    with loop_threads(2) as loops:
        futures: list[Any] = [loop.start(tasks(seed)) for seed, loop in enumerate(loops)]
        futures += [in_thread(lambda seed=seed: thread(seed)) for seed in range(3)]  # type: ignore[misc]
        for future in futures:
            future.result(PATIENCE)
    assert registry.stats() == {}
