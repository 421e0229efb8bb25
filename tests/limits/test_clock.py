"""The clock that jumps."""

from __future__ import annotations

import asyncio
import time

from manyhands.testing.clock import VirtualClockLoop, run_virtual


def test_hours_pass_at_once_and_timers_fire_in_order() -> None:
    fired: list[float] = []

    async def scenario() -> float:
        async def wait(seconds: float) -> None:
            await asyncio.sleep(seconds)
            fired.append(seconds)

        await asyncio.gather(*(wait(seconds) for seconds in (7200, 3600, 1, 0.001)))
        return asyncio.get_running_loop().time()

    began = time.monotonic()
    assert run_virtual(scenario()) == 7200
    assert fired == [0.001, 1, 3600, 7200]
    assert time.monotonic() - began < 5


def test_timeouts_are_exact() -> None:
    async def scenario() -> float:
        try:
            async with asyncio.timeout(30):
                await asyncio.Event().wait()
        except TimeoutError:
            return asyncio.get_running_loop().time()
        raise AssertionError

    assert run_virtual(scenario()) == 30


def test_threads_are_waited_for() -> None:
    async def scenario() -> str:
        return await asyncio.to_thread(lambda: "from a thread")

    assert run_virtual(scenario()) == "from a thread"


def test_the_clock_starts_where_it_is_told() -> None:
    loop = VirtualClockLoop(start=100)
    loop.run_until_complete(asyncio.sleep(5))
    assert loop.time() == 105
    loop.close()
