"""Waits end when their time is up, each at its own, and nobody else's cancel is swallowed."""

from __future__ import annotations

import asyncio

import pytest

from manyhands.models.patience import Patience


def patience(seconds: float | None) -> Patience:
    return Patience(seconds, asyncio.get_running_loop())


async def test_a_wait_that_is_too_long_ends_with_a_timeout() -> None:
    limit = patience(0.01)
    with pytest.raises(TimeoutError), limit.limit():
        await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_a_wait_that_ends_in_time_is_left_alone() -> None:
    limit = patience(0.01)
    with limit.limit():
        await asyncio.sleep(0)
    await asyncio.sleep(0.03)


async def test_each_wait_has_its_own_time() -> None:
    limit = patience(0.05)
    loop = asyncio.get_running_loop()
    ended: list[float] = []

    async def wait(after: float) -> None:
        await asyncio.sleep(after)
        began = loop.time()
        with pytest.raises(TimeoutError), limit.limit():
            await asyncio.Event().wait()
        ended.append(loop.time() - began)

    await asyncio.gather(wait(0), wait(0.01), wait(0.03))
    assert all(0.05 <= seconds < 0.5 for seconds in ended)


async def test_waits_in_time_do_not_save_the_others() -> None:
    limit = patience(0.02)

    async def quick() -> None:
        with limit.limit():
            await asyncio.sleep(0)

    async def slow() -> None:
        with limit.limit():
            await asyncio.Event().wait()

    results = await asyncio.gather(quick(), slow(), quick(), slow(), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), TimeoutError, type(None), TimeoutError]


async def test_a_cancel_from_outside_stays_a_cancel() -> None:
    limit = patience(5)
    inside = asyncio.Event()

    async def wait() -> None:
        with limit.limit():
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancel_at_the_same_time_wins() -> None:
    limit = patience(0.01)

    async def wait() -> None:
        task = asyncio.current_task()
        assert task is not None
        with limit.limit():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                task.cancel()
                raise

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(wait())


async def test_without_a_limit_nothing_is_timed() -> None:
    with patience(None).limit():
        await asyncio.sleep(0)


async def test_other_errors_pass_through() -> None:
    with pytest.raises(KeyError), patience(1).limit():
        raise KeyError
