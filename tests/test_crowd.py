"""One agent over many tasks: nothing mixed, nothing lost, nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import subprocess
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from manyhands import (
    ActionStep,
    AuthenticationError,
    CallerError,
    ChatMessage,
    CodeAgent,
    RateLimitError,
    ServerError,
    ToolCallingAgent,
    tool,
)
from manyhands.crowd import Crowd, MapResult, Progress, amap
from manyhands.tasks import Task
from manyhands.testing import FunctionModel, ScriptedModel
from tests.agents.replies import calls, code, final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator


def task_of(messages: list[ChatMessage]) -> str:
    return messages[1].text.removeprefix("New task:\n").partition("\nYou have been provided")[0]


async def echo(messages: list[ChatMessage]) -> ChatMessage:
    """Answers with the task in capitals, a turn of the loop later."""
    await asyncio.sleep(0)
    return final(task_of(messages).upper())


def agent_with(fn: Callable[..., Any], **options: Any) -> ToolCallingAgent:
    return ToolCallingAgent(model=FunctionModel(fn, record=False), **options)


class Gate:
    """A model that answers when it is told to, and says how many wait."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.waiting = 0
        self.changed = asyncio.Condition()

    async def __call__(self, messages: list[ChatMessage]) -> ChatMessage:
        await self._count(1)
        try:
            await self.opened.wait()
        finally:
            self.waiting -= 1
        return final(task_of(messages))

    async def _count(self, by: int) -> None:
        async with self.changed:
            self.waiting += by
            self.changed.notify_all()

    async def reached(self, number: int) -> None:
        async with self.changed:
            await asyncio.wait_for(self.changed.wait_for(lambda: self.waiting >= number), 10)


async def everything(results: AsyncIterator[MapResult]) -> list[MapResult]:
    return [result async for result in results]


# --- Answers ------------------------------------------------------------------------------------


async def test_each_of_a_thousand_tasks_gets_its_own_answer_from_one_agent() -> None:
    names = [f"task {number}" for number in range(1000)]
    results = await everything(agent_with(echo).amap(names, concurrency=200))
    assert {result.task: result.output for result in results} == {name: name.upper() for name in names}
    assert sorted(result.index for result in results) == list(range(1000))


def test_map_gives_one_result_per_task_in_order() -> None:
    results = agent_with(echo).map(["a", "b", "c"], concurrency=2)
    assert [(result.id, result.output, result.state) for result in results] == [
        (0, "A", "success"),
        (1, "B", "success"),
        (2, "C", "success"),
    ]


async def test_a_result_says_what_the_run_took() -> None:
    (result,) = await everything(amap(agent_with(echo), ["a"]))
    assert (result.ok, result.steps, result.attempts, result.error, result.run) == (True, 1, 1, None, None)
    assert result.token_usage is not None and result.token_usage.total_tokens == 15
    assert result.timing.duration is not None and result.timing.duration >= 0
    assert result.dict()["token_usage"]["total_tokens"] == 15


async def test_tasks_may_be_texts_dicts_and_values_and_carry_ids() -> None:
    tasks = ["a", {"task": "b", "id": "second"}, Task("c", id=3, expected="C")]
    results = await everything(amap(agent_with(echo), tasks, ordered=True))
    assert [(result.id, result.output, result.expected) for result in results] == [
        (0, "A", None),
        ("second", "B", None),
        (3, "C", "C"),
    ]


async def test_key_names_the_tasks() -> None:
    results = await everything(
        amap(agent_with(echo), ["a", "bb"], ordered=True, key=lambda task: len(task.task))
    )
    assert [result.id for result in results] == [1, 2]


async def test_further_keys_of_a_dict_are_variables_of_the_run_and_the_right_answer_is_not() -> None:
    async def reply(messages: list[ChatMessage]) -> str:
        assert "secret" not in messages[1].text
        return code("final_answer(width * height)")

    agent = CodeAgent(model=FunctionModel(reply))
    tasks = [{"task": "Area?", "width": width, "height": 3, "expected": "secret"} for width in range(20)]
    results = await everything(amap(agent, tasks, ordered=True))
    assert [result.output for result in results] == [width * 3 for width in range(20)]


# --- Concurrency and back-pressure ------------------------------------------------------------------


async def test_concurrency_is_reached_and_never_passed() -> None:
    gate = Gate()
    model = FunctionModel(gate, record=False)
    agent = ToolCallingAgent(model=model)
    async with Crowd(agent, [str(number) for number in range(30)], concurrency=7) as crowd:
        fetching = asyncio.create_task(everything(crowd))
        await gate.reached(7)
        assert crowd.progress.in_flight == 7
        gate.opened.set()
        assert len(await fetching) == 30
        assert model.peak_in_flight == 7


@pytest.mark.parametrize("ordered", [False, True])
async def test_a_slow_consumer_slows_the_reading(ordered: bool) -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield f"task {taken}"

    results = amap(agent_with(echo), endless(), concurrency=5, ordered=ordered)
    async with contextlib.aclosing(results):
        for _ in range(20):
            await anext(results)
        for _ in range(2000):  # whoever can go on has every chance to
            await asyncio.sleep(0)
    # Fetched, waiting to be fetched, in flight, and read ahead by the thread.
    assert taken <= 20 + 5 * 4 + 5 + 128


async def test_in_order_a_slow_task_holds_back_a_bounded_number_of_others() -> None:
    gate = Gate()

    async def reply(messages: list[ChatMessage]) -> ChatMessage:
        return await (gate(messages) if task_of(messages) == "0" else echo(messages))

    names = [str(number) for number in range(200)]
    async with Crowd(agent_with(reply), names, concurrency=10, ordered=True) as crowd:
        fetching = asyncio.create_task(everything(crowd))
        await gate.reached(1)
        for _ in range(2000):
            await asyncio.sleep(0)
        assert crowd.progress.done == 39
        gate.opened.set()
        assert [result.task for result in await fetching] == names


async def test_sync_tools_of_many_runs_work_side_by_side_under_map() -> None:
    together = threading.Barrier(8, timeout=20)

    @tool
    def meet() -> str:
        """Wait for all the others."""
        together.wait()
        return "met"

    async def reply(messages: list[ChatMessage]) -> ChatMessage:
        return final("done") if len(messages) > 2 else calls(("meet", {}))

    agent = agent_with(reply, tools=[meet])
    results = await asyncio.to_thread(agent.map, [str(number) for number in range(8)], keep_runs=True)
    steps = [result.run.memory.steps[1] for result in results if result.run is not None]
    assert [step.observations for step in steps if isinstance(step, ActionStep)] == ["met"] * 8


# --- Where tasks come from ---------------------------------------------------------------------------


async def test_a_generator_that_blocks_does_not_block_the_runs() -> None:
    answered = threading.Event()

    def tasks() -> Iterator[str]:
        yield "first"
        assert answered.wait(20), "the first task was never answered while the generator waited"
        yield "second"

    outputs = []
    async for result in amap(agent_with(echo), tasks()):
        outputs.append(result.output)
        answered.set()
    assert outputs == ["FIRST", "SECOND"]


async def test_tasks_may_come_from_an_async_iterator_which_is_closed_early_too() -> None:
    closed = asyncio.Event()

    async def tasks() -> AsyncIterator[str]:
        try:
            for number in range(1000):
                yield str(number)
        finally:
            closed.set()

    results = amap(agent_with(echo), tasks(), concurrency=3)
    async with contextlib.aclosing(results):
        assert (await anext(results)).output == "0"
    assert closed.is_set()


async def test_a_generator_is_closed_when_nobody_wants_more() -> None:
    closed = threading.Event()

    def tasks() -> Iterator[str]:
        try:
            while True:
                yield "again"
        finally:
            closed.set()

    results = amap(agent_with(echo), tasks(), concurrency=3)
    async with contextlib.aclosing(results):
        await anext(results)
    assert closed.wait(10)


async def test_an_error_of_the_source_comes_after_the_results_of_what_it_gave() -> None:
    def tasks() -> Iterator[str]:
        yield from ["a", "b"]
        raise OSError("the disk is gone")

    async with Crowd(agent_with(echo), tasks()) as crowd:
        assert {(await anext(crowd)).output, (await anext(crowd)).output} == {"A", "B"}
        with pytest.raises(OSError, match="the disk is gone"):
            await anext(crowd)


# --- Failures ----------------------------------------------------------------------------------------


async def test_a_failure_is_a_result_and_sinks_no_other() -> None:
    async def reply(messages: list[ChatMessage]) -> ChatMessage:
        if task_of(messages) == "bad":
            raise ServerError("The provider fell over.", status=500)
        return await echo(messages)

    tasks: list[Any] = ["a", "bad", 17, {"id": "x"}, "", "b"]
    results = await everything(amap(agent_with(reply), tasks, ordered=True))
    assert [result.state for result in results] == ["success", "error", "error", "error", "error", "success"]
    assert [result.failure for result in results] == ["", "ServerError", *["CallerError"] * 3, ""]
    assert str(results[1].error) == "The provider fell over."
    assert "this is int" in str(results[2].error)
    assert 'no "task"' in str(results[3].error)


async def test_a_failed_task_is_tried_again_and_the_attempts_are_counted() -> None:
    tries: dict[str, int] = {}

    async def reply(messages: list[ChatMessage]) -> ChatMessage:
        task = task_of(messages)
        tries[task] = tries.get(task, 0) + 1
        if tries[task] <= int(task):
            raise ServerError("Try again.", status=503)
        return final(task)

    tasks = ["0", "1", "2", "3"]
    async with Crowd(agent_with(reply), tasks, ordered=True, retries=2, retry_delay=0) as crowd:
        results = await everything(crowd)
        assert crowd.progress.retried == 5
    assert [(result.state, result.attempts) for result in results] == [
        ("success", 1),
        ("success", 2),
        ("success", 3),
        ("error", 3),
    ]


async def test_tokens_of_all_attempts_are_counted() -> None:
    model = ScriptedModel([calls(("final_answer", {"wrong": 1})), ServerError("No."), final("yes")])
    agent = ToolCallingAgent(model=model)
    (result,) = await everything(amap(agent, ["a"], retries=1, retry_delay=0))
    assert (result.output, result.attempts) == ("yes", 2)
    assert result.token_usage is not None and result.token_usage.total_tokens == 30


async def test_what_cannot_get_better_is_not_tried_again() -> None:
    async def reply(messages: list[ChatMessage]) -> ChatMessage:
        raise AuthenticationError("The key is wrong.", status=401)

    (result,) = await everything(amap(agent_with(reply), ["a"], retries=5, retry_delay=0))
    assert result.attempts == 1


async def test_a_retry_waits_as_long_as_the_provider_asks() -> None:
    times = []

    async def reply(messages: list[ChatMessage]) -> ChatMessage:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 1:
            raise RateLimitError("Slow down.", status=429, retry_after=0.2)
        return final("yes")

    (result,) = await everything(amap(agent_with(reply), ["a"], retries=1, retry_delay=0))
    assert result.ok
    assert times[1] - times[0] >= 0.2


async def test_a_run_over_its_time_is_a_timeout_and_others_go_on() -> None:
    async def reply(messages: list[ChatMessage]) -> ChatMessage:
        if task_of(messages) == "slow":
            await asyncio.Event().wait()
        return await echo(messages)

    results = await everything(amap(agent_with(reply), ["slow", "quick"], ordered=True, timeout=0.05))
    assert [result.state for result in results] == ["timeout", "success"]
    assert results[0].failure == "timeout"


async def test_an_agent_out_of_steps_gives_its_guess_and_is_no_success() -> None:
    async def reply(messages: list[ChatMessage]) -> ChatMessage | str:
        return calls(("nothing", {})) if "tools" in messages[0].text else "a guess"

    (result,) = await everything(amap(agent_with(reply), ["a"], max_steps=2))
    assert (result.state, result.ok, result.failure) == ("max_steps_error", False, "max_steps_error")


async def test_one_run_may_be_cancelled_without_the_others() -> None:
    gate = Gate()
    async with Crowd(agent_with(gate), ["a", "b"], retries=3) as crowd:
        fetching = asyncio.create_task(everything(crowd))
        await gate.reached(2)
        run = crowd.progress.flights[0].run
        assert run is not None and run.cancel()
        await asyncio.sleep(0)
        gate.opened.set()
        states = {result.task: (result.state, result.attempts) for result in await fetching}
    assert states == {"a": ("cancelled", 1), "b": ("success", 1)}


async def test_interrupting_the_agent_ends_the_runs_and_not_the_crowd() -> None:
    gate = Gate()
    agent = agent_with(gate)
    async with Crowd(agent, ["a", "b"], retries=3) as crowd:
        fetching = asyncio.create_task(everything(crowd))
        await gate.reached(2)
        agent.interrupt()
        assert {result.state for result in await fetching} == {"interrupted"}


# --- The end -------------------------------------------------------------------------------------------


async def test_leaving_the_iteration_ends_everything_at_once() -> None:
    gate = Gate()

    async def reply(messages: list[ChatMessage]) -> ChatMessage:
        return await (echo(messages) if task_of(messages) == "0" else gate(messages))

    async for result in amap(agent_with(reply), [str(number) for number in range(50)], concurrency=20):
        assert result.output == "0"
        await gate.reached(20)
        break
    gc.collect()
    await asyncio.wait_for(_until(lambda: gate.waiting == 0), 10)


async def _until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 - turns of the loop, not time
        await asyncio.sleep(0)


async def test_cancelling_whoever_fetches_ends_everything() -> None:
    gate = Gate()
    fetching = asyncio.create_task(everything(amap(agent_with(gate), ["a", "b", "c"])))
    await gate.reached(3)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    assert gate.waiting == 0


def test_ctrl_c_ends_map_and_all_its_runs() -> None:
    script = """
import asyncio, sys
from manyhands import ToolCallingAgent
from manyhands.testing import FunctionModel
here = []
async def wait(messages):
    here.append(1)
    if len(here) == 20:
        print("all here", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        here.pop()
try:
    ToolCallingAgent(model=FunctionModel(wait)).map([str(n) for n in range(50)], concurrency=20)
except KeyboardInterrupt:
    print("interrupted with", len(here), "left", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "all here\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted with 0 left\n"
        assert process.wait(20) == 0


async def test_draining_finishes_what_is_in_flight_and_starts_nothing() -> None:
    gate = Gate()
    async with Crowd(agent_with(gate), [str(number) for number in range(50)], concurrency=4) as crowd:
        fetching = asyncio.create_task(everything(crowd))
        await gate.reached(4)
        crowd.drain()
        gate.opened.set()
        assert sorted(result.output for result in await fetching) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("ordered", [False, True])
async def test_stopping_ends_what_is_in_flight_and_keeps_what_is_done(ordered: bool) -> None:
    gate = Gate()

    async def reply(messages: list[ChatMessage]) -> ChatMessage:
        return await (gate(messages) if task_of(messages) == "0" else echo(messages))

    async with Crowd(agent_with(reply), ["0", "1", "2"], ordered=ordered) as crowd:
        crowd._start()
        await gate.reached(1)
        await _until(lambda: crowd.progress.done == 2)
        crowd.stop()
        assert sorted([result.output async for result in crowd]) == ["1", "2"]
    assert gate.waiting == 0


async def test_a_closed_crowd_has_no_results() -> None:
    crowd = Crowd(agent_with(echo), ["a"])
    await crowd.aclose()
    assert await everything(crowd) == []
    assert await crowd.batch() == []


async def test_no_tasks_no_results() -> None:
    assert await everything(amap(agent_with(echo), [])) == []
    assert await everything(amap(agent_with(echo), iter([]))) == []


# --- Memory ------------------------------------------------------------------------------------------


async def test_a_result_holds_no_run_unless_asked_for() -> None:
    runs: list[weakref.ref[Any]] = []

    async def reply(messages: list[ChatMessage]) -> ChatMessage:
        if task_of(messages) == "bad":
            raise ServerError("No.") from ValueError("why")
        return await echo(messages)

    agent = agent_with(reply, observers=[lambda run, event: runs.append(weakref.ref(run))])
    results = await everything(amap(agent, ["bad", "good", "last"], concurrency=1))
    gc.collect()
    last = agent._last_run
    assert {run() for run in runs} == {None, last}
    error = results[0].error
    assert error is not None and error.__traceback__ is None
    assert (str(error), str(error.__cause__)) == ("No.", "why")
    kept = await everything(amap(agent, ["bad"], keep_runs=True))
    assert kept[0].run is not None and kept[0].run.status == "error"
    assert kept[0].error.run is kept[0].run  # type: ignore[union-attr]


# --- Progress ----------------------------------------------------------------------------------------


async def test_progress_is_told_after_each_result_and_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[tuple[int, int | None]] = []

    def watch(progress: Progress) -> None:
        seen.append((progress.done, progress.total))
        if progress.done == 2:
            raise ValueError("a broken watcher")

    results = await everything(amap(agent_with(echo), ["a", "b", "c"], on_progress=watch))
    assert len(results) == 3
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert "on_progress failed" in caplog.text


async def test_progress_counts_kinds_of_failures_and_tokens_of_runs_in_flight() -> None:
    gate = Gate()

    async def reply(messages: list[ChatMessage]) -> ChatMessage:
        if task_of(messages) == "bad":
            raise ServerError("No.")
        return calls(("nothing", {})) if len(messages) == 2 else await gate(messages)

    async with Crowd(agent_with(reply), ["bad", "good"]) as crowd:
        fetching = asyncio.create_task(everything(crowd))
        await gate.reached(1)
        progress = crowd.progress
        await _until(lambda: progress.done == 1)
        assert (progress.failed, progress.succeeded, dict(progress.failures)) == (1, 0, {"ServerError": 1})
        assert progress.tokens() == (10, 5)
        assert [flight.activity for flight in progress.flights.values()] == ["model"]
        gate.opened.set()
        await fetching
        assert progress.tokens() == (20, 10)


# --- Arguments -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tasks", "options", "said"),
    [
        ("one task", {}, "this is one str"),
        ({"task": "a"}, {}, "this is one dict"),
        (17, {}, "this is int"),
        (["a"], {"concurrency": 0}, "concurrency must be at least 1"),
        (["a"], {"retries": -1}, "retries must be at least 0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_at_once(
    tasks: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(CallerError, match=said):
        agent_with(echo).amap(tasks, **options)
