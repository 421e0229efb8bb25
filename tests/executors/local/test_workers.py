"""Code of one run after another runs in the same greenlets: nothing of one is left for the next."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import threading
import weakref
from typing import Any

import pytest
from greenlet import greenlet

from manyhands.errors import ExecutionTimeoutError, InterpreterError
from manyhands.executors.local import LocalPythonExecutor

DEPTH = (
    "def down(n):\n    return down(n - 1) if n else 0\nlast = 0\nfor n in range(10, 3000, 10):\n    try:\n"
    "        down(n)\n    except RecursionError:\n        break\n    last = n\nlast"
)


class Thing:
    """Something of the host that a tool hands out."""


async def brief(x: Any) -> Any:
    """Waits for the next iteration of the loop."""
    await asyncio.sleep(0)
    return x


def greenlets() -> int:
    """How many there are in the process."""
    gc.collect()
    return sum(isinstance(found, greenlet) for found in gc.get_objects())


def executor_with(**tools: Any) -> LocalPythonExecutor:
    """An executor that has these tools."""
    executor = LocalPythonExecutor()
    executor.send_tools({"brief": brief, **tools})
    return executor


async def some_runs(count: int = 20) -> list[Any]:
    """Runs that wait at the same time, so that each needs a greenlet."""
    codes = [f"x = brief({number})\nx + brief(1)" for number in range(count)]
    results = await asyncio.gather(*(executor_with().acall(code) for code in codes))
    return [result.output for result in results]


async def test_values_of_a_run_are_gone_with_it() -> None:
    thing = Thing()
    gone = weakref.ref(thing)
    held = [thing]
    executor = executor_with(fetch=lambda: held[0])
    result = await executor.acall("thing = brief(fetch())\nthing")
    assert result.output is thing
    del result, thing, executor
    held.clear()
    gc.collect()
    assert gone() is None


async def test_variables_of_a_context_are_gone_with_it() -> None:
    word: contextvars.ContextVar[Any] = contextvars.ContextVar("word")
    thing = Thing()
    gone = weakref.ref(thing)

    async def said() -> Any:
        return word.get()

    async def run(value: Any) -> Any:
        word.set(value)
        return (await executor_with(said=said).acall("brief(1)\nsaid()")).output

    assert await asyncio.create_task(run(thing)) is thing
    assert await asyncio.gather(*(run(number) for number in range(20))) == list(range(20))
    del thing
    gc.collect()
    assert gone() is None


async def test_runs_that_fail_leave_nothing_to_those_after_them() -> None:
    """Errors, time limits and cancellation between runs that are fine."""

    async def one(number: int) -> Any:
        executor = executor_with()
        executor.timeout_seconds = 0.05 if number % 5 == 1 else 30
        code = [
            f"x = brief({number})\nx",
            "brief(1)\nwhile True: pass",
            "try:\n    brief(1 / 0)\nfinally:\n    brief(2)",
            "try:\n    while True: brief(1)\nfinally:\n    brief(2)",
            "def g():\n    yield brief(1)\n    yield brief(2)\nh = g()\nnext(h)",
        ][number % 5]
        task = asyncio.create_task(executor.acall(code))
        if number % 5 == 3:
            await asyncio.sleep(0.01)
            task.cancel()
        try:
            return (await task).output
        except (InterpreterError, ExecutionTimeoutError, asyncio.CancelledError) as error:
            return type(error)

    for _ in range(3):
        outcomes = await asyncio.gather(*(one(number) for number in range(50)))
        assert outcomes[0::5] == list(range(0, 50, 5))
        assert outcomes[1::5] == [ExecutionTimeoutError] * 10
        assert outcomes[2::5] == [InterpreterError] * 10
        assert outcomes[3::5] == [asyncio.CancelledError] * 10
        assert outcomes[4::5] == [1] * 10


async def test_code_is_outside_after_its_run_while_others_use_its_greenlet() -> None:
    """Neither the host nor the code of another run can call what a run has left behind."""
    kept = (await executor_with().acall("def f():\n    return brief(1)\nf")).output
    with pytest.raises(RuntimeError, match="belongs to the code of an agent"):
        kept()
    with pytest.raises(InterpreterError, match="belongs to the code of an agent"):
        await executor_with(call=lambda: kept()).acall("brief(1)\ncall()")
    assert await some_runs() == [number + 1 for number in range(20)]


async def test_greenlets_without_work_end_soon() -> None:
    before = greenlets()
    assert await some_runs(40) == [number + 1 for number in range(40)]
    for _ in range(100):
        if greenlets() <= before:
            return
        await asyncio.sleep(0.05)
    pytest.fail("some are still there")


def test_no_greenlet_outlives_its_loop() -> None:
    """Neither where a thread runs one loop after another, nor where each thread has a loop of its own."""
    asyncio.run(some_runs())
    before = greenlets()
    for _ in range(20):
        asyncio.run(some_runs())
        thread = threading.Thread(target=lambda: asyncio.run(some_runs()))
        thread.start()
        thread.join()
    # One may be left for each thread that ended: the outermost greenlet, which is the thread itself.
    assert greenlets() <= before + 2


def test_a_loop_may_run_in_one_thread_after_another() -> None:
    loop = asyncio.new_event_loop()
    found: list[Any] = []

    def work() -> None:
        found.append(loop.run_until_complete(some_runs()))

    for _ in range(10):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        work()
    loop.close()
    assert found == [[number + 1 for number in range(20)]] * 20


def test_code_has_its_whole_depth_after_a_run_that_began_deep_in_the_stack() -> None:
    with asyncio.Runner() as runner:

        def reach() -> int:
            return int(runner.run(LocalPythonExecutor().acall(DEPTH)).output)

        def at_depth(frames: int) -> int:
            return at_depth(frames - 1) if frames else reach()

        room = sys.getrecursionlimit() // 2
        deep = at_depth(room)
        assert reach() >= deep + room // 2
