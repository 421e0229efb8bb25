"""The border between sync and async."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock, MagicMock

import pytest

from manyhands import iterate_sync, run_sync, to_async
from manyhands._bridge import PerLoop, Workers, call_user, is_async_callable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


def here() -> threading.Thread:
    return threading.current_thread()


# --- is it async? ---


class AsyncCallable:
    async def __call__(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (double, True),
        (functools.partial(double, 1), True),
        (AsyncCallable(), True),
        (AsyncMock(), True),
        (here, False),
        (lambda: double(1), False),
        (MagicMock(), False),
        (functools.partial(here), False),
        (AsyncCallable, False),
    ],
)
def test_asks_the_function_whether_it_is_async(fn: Any, expected: bool) -> None:
    assert is_async_callable(fn) is expected


# --- call_user ---


async def test_async_functions_are_awaited_on_the_loop() -> None:
    assert await call_user(double, 4) == 8


async def test_sync_functions_never_run_on_the_loop() -> None:
    assert await call_user(here) is not here()


async def test_a_sync_function_that_returns_an_awaitable_is_awaited() -> None:
    assert await call_user(lambda: double(5)) == 10


async def test_context_variables_reach_worker_threads() -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name")
    name.set("ada")
    assert await call_user(name.get) == "ada"


async def test_a_sync_function_that_blocks_does_not_hold_up_the_loop() -> None:
    release = threading.Event()
    blocked = asyncio.create_task(call_user(release.wait))
    assert await double(2) == 4  # the loop goes on
    release.set()
    assert await blocked is True


async def test_an_error_of_a_sync_function_arrives_as_it_is() -> None:
    def fail() -> None:
        raise LookupError("lost")

    with pytest.raises(LookupError, match="lost"):
        await call_user(fail)


async def test_stop_iteration_of_a_sync_function_arrives_as_an_error() -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await call_user(next, iter(()))


# --- worker threads ---


async def test_threads_are_reused() -> None:
    workers = Workers()
    names = {await workers.run(lambda: here().ident) for _ in range(5)}
    assert len(names) == 1


async def test_no_more_threads_work_at_once_than_the_cap() -> None:
    workers = Workers(cap=3)
    lock, now, peak = threading.Lock(), 0, 0
    barrier = threading.Barrier(3)

    def work() -> None:
        nonlocal now, peak
        with lock:
            now += 1
            peak = max(peak, now)
        barrier.wait(10)
        with lock:
            now -= 1

    await asyncio.gather(*(workers.run(work) for _ in range(9)))
    assert peak == 3


async def test_a_cancelled_call_leaves_its_thread_alone_and_gives_its_place_away() -> None:
    workers = Workers(cap=1)
    begun, release = threading.Event(), threading.Event()

    def stuck() -> None:
        begun.set()
        release.wait()

    task = asyncio.create_task(workers.run(stuck))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert workers.abandoned == 1
    assert await workers.run(lambda: "served") == "served"
    release.set()
    while workers.abandoned:
        await workers.run(lambda: None)
    assert workers.abandoned == 0


async def test_a_call_cancelled_before_its_turn_never_runs() -> None:
    workers = Workers(cap=1)
    release, ran = threading.Event(), []
    first = asyncio.create_task(workers.run(release.wait))
    second = asyncio.create_task(workers.run(lambda: ran.append(1)))
    await asyncio.sleep(0)
    second.cancel()
    release.set()
    await first
    await workers.run(lambda: None)
    assert ran == []


def test_a_hung_tool_does_not_delay_the_end_of_the_process() -> None:
    script = """
        import asyncio, threading
        from manyhands._bridge import call_user
        async def main():
            begun = threading.Event()
            def hang():
                begun.set()
                threading.Event().wait()
            task = asyncio.create_task(call_user(hang))
            await asyncio.to_thread(begun.wait)
            task.cancel()
        asyncio.run(main())
    """
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=20)
    assert time.monotonic() - begun < 15


# --- run_sync ---


def test_runs_async_work_from_sync_code() -> None:
    assert run_sync(double(21)) == 42


def test_sync_functions_run_in_the_thread_of_the_sync_caller() -> None:
    async def work() -> threading.Thread:
        thread: threading.Thread = await call_user(here)
        return thread

    assert run_sync(work()) is here()


def test_a_sync_function_under_run_sync_may_use_asyncio_run_itself() -> None:
    async def work() -> int:
        number: int = await call_user(lambda: asyncio.run(double(3)))
        return number

    assert run_sync(work()) == 6


def test_run_sync_may_be_called_inside_itself() -> None:
    async def work(depth: int) -> int:
        if depth == 0:
            return 1
        inner: int = await call_user(lambda: run_sync(work(depth - 1)))
        return 2 * inner

    assert run_sync(work(4)) == 16


async def test_run_sync_works_where_a_loop_runs_already_and_hands_calls_to_that_thread() -> None:
    async def work() -> threading.Thread:
        thread: threading.Thread = await call_user(here)
        return thread

    assert run_sync(work()) is here()
    assert run_sync(double(4)) == 8


def test_the_loop_of_a_thread_is_kept_between_calls() -> None:
    async def which() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    assert run_sync(which()) is run_sync(which())


def test_context_variables_reach_the_work() -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")

    async def read() -> str:
        return name.get()

    run_sync(read())
    name.set("ada")
    assert run_sync(read()) == "ada"


def test_run_sync_gives_up_after_its_timeout_and_cancels_the_work() -> None:
    ended = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with pytest.raises(TimeoutError):
        run_sync(endless(), timeout=0.01)
    assert ended == [True]


def test_many_threads_may_call_at_once() -> None:
    results: list[int] = []
    threads = [threading.Thread(target=lambda i=i: results.append(run_sync(double(i)))) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [2 * i for i in range(20)]


@pytest.mark.parametrize("blocking", [True, False], ids=["in a blocking tool", "in async work"])
def test_ctrl_c_ends_the_work_at_once(blocking: bool) -> None:
    script = f"""
        import asyncio, sys, time
        from manyhands import run_sync
        from manyhands._bridge import call_user
        async def work():
            print("ready", flush=True)
            try:
                if {blocking}:
                    await call_user(time.sleep, 60)
                await asyncio.sleep(60)
            finally:
                print("closed", flush=True)
        try:
            run_sync(work())
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        async def again():
            return "again"
        print(run_sync(again()))
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert out.splitlines() == ["closed", "interrupted", "again"]


# --- iterate_sync ---


async def counting(closed: list[bool], end: int = 5) -> AsyncIterator[int]:
    task = asyncio.current_task()
    try:
        for number in range(end):
            await asyncio.sleep(0)
            assert asyncio.current_task() is task, "one task from beginning to end"
            yield number
    finally:
        closed.append(True)


def test_iterates_async_items_in_order_and_closes_them() -> None:
    closed: list[bool] = []
    assert list(iterate_sync(counting(closed))) == [0, 1, 2, 3, 4]
    assert closed == [True]


def test_breaking_out_closes_the_async_iterator_before_going_on() -> None:
    closed: list[bool] = []
    for number in iterate_sync(counting(closed)):
        if number == 2:
            break
    gc.collect()
    assert closed == [True]


def test_an_error_in_the_iteration_reaches_the_sync_side() -> None:
    async def failing() -> AsyncIterator[int]:
        yield 1
        raise LookupError("lost")

    items = iterate_sync(failing())
    assert next(items) == 1
    with pytest.raises(LookupError):
        next(items)


async def test_iterates_where_a_loop_runs_already() -> None:
    closed: list[bool] = []
    assert list(iterate_sync(counting(closed))) == [0, 1, 2, 3, 4]


# --- to_async, PerLoop ---


async def test_to_async_takes_sync_and_async_functions() -> None:
    twice: Any = to_async(double)
    assert await to_async(lambda number: number + 1)(1) == 2
    assert await twice(2) == 4


class Thing:
    def __init__(self) -> None:
        self.closed_on: asyncio.AbstractEventLoop | None = None

    async def close(self) -> None:
        self.closed_on = asyncio.get_running_loop()


def test_an_object_per_loop_is_closed_with_its_loop() -> None:
    things = PerLoop(Thing, Thing.close)
    seen: list[tuple[Thing, asyncio.AbstractEventLoop]] = []

    async def use() -> None:
        seen.append((await things.get(), asyncio.get_running_loop()))
        assert await things.get() is seen[-1][0]

    asyncio.run(use())
    asyncio.run(use())
    (first, first_loop), (second, second_loop) = seen
    assert first is not second
    assert first.closed_on is first_loop
    assert second.closed_on is second_loop


async def test_an_object_per_loop_can_be_closed_early() -> None:
    things = PerLoop(Thing, Thing.close)
    first = await things.get()
    await things.aclose()
    assert first.closed_on is asyncio.get_running_loop()
    assert await things.get() is not first


def test_a_process_that_looked_up_a_name_ends_without_a_word() -> None:
    script = """
        import asyncio
        from manyhands import run_sync
        async def look_up():
            await asyncio.get_running_loop().getaddrinfo("localhost", 80)
        run_sync(look_up())
        async def nested():
            run_sync(look_up())
        asyncio.run(nested())
    """
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", textwrap.dedent(script)],
        check=True,
        timeout=30,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("", "")


async def test_no_call_is_lost_when_threads_grow_tired_of_waiting() -> None:
    """Threads that stop for want of work and calls that come at that very moment do not miss each other."""
    workers = Workers(cap=4, idle_seconds=0.0005)
    for round_ in range(400):
        calls = [workers.run(functools.partial(int, n)) for n in range(round_ % 5 + 1)]
        assert await asyncio.wait_for(asyncio.gather(*calls), 20) == list(range(round_ % 5 + 1))
        await asyncio.sleep(0.0005)
    assert workers.stats()["waiting"] == 0


async def test_a_call_that_waits_gets_the_place_of_one_that_is_abandoned() -> None:
    workers = Workers(cap=1)
    begun, release = threading.Event(), threading.Event()

    def stuck() -> None:
        begun.set()
        release.wait()

    first = asyncio.create_task(workers.run(stuck))
    await asyncio.to_thread(begun.wait)
    second = asyncio.create_task(workers.run(lambda: "served"))
    await asyncio.sleep(0)
    assert workers.stats()["waiting"] == 1
    first.cancel()
    assert await asyncio.wait_for(second, 20) == "served"
    release.set()
