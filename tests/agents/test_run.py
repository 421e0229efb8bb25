"""A run: awaited, iterated, given to asyncio, ended in every way."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from manyhands import (
    ActionOutput,
    ActionStep,
    AgentGenerationError,
    AgentInterruptedError,
    CallerError,
    FinalAnswerStep,
    Run,
    RunTimeoutError,
    ToolCall,
    ToolCallingAgent,
    ToolOutput,
    tool,
)
from manyhands.events import (
    Lifecycle,
    ModelEnd,
    ModelStart,
    RunEnd,
    RunStart,
    StepEnd,
    StepStart,
    ToolEnd,
    ToolStart,
)
from manyhands.testing import FunctionModel, ScriptedModel
from tests.agents.replies import calls, final

if TYPE_CHECKING:
    from collections.abc import Callable


@tool
async def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: One.
        b: The other.
    """
    return a + b


def adding() -> ToolCallingAgent:
    return ToolCallingAgent([add], ScriptedModel({"": [calls(("add", {"a": 1, "b": 2})), final(3)]}))


class Stuck:
    """A model that never answers, and knows whether its call was ended."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.cancelled = False

    async def __call__(self, messages: Any) -> Any:
        self.asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


def stuck() -> tuple[ToolCallingAgent, Stuck]:
    model = Stuck()
    return ToolCallingAgent([add], FunctionModel(model)), model


# --- awaited ---


async def test_awaiting_a_run_gives_the_answer() -> None:
    assert await adding().arun("1 + 2") == 3


async def test_a_full_result_tells_steps_usage_and_timing() -> None:
    result = await adding().arun("1 + 2", return_full_result=True)
    assert (result.output, result.state, result.error) == (3, "success", None)
    assert [step["type"] for step in result.steps] == ["TaskStep", "ActionStep", "ActionStep"]
    assert result.token_usage.total_tokens == 30
    assert result.timing.duration > 0
    assert result.dict()["output"] == 3


@pytest.mark.parametrize("stream_outputs", [False, True])
async def test_a_full_result_knows_usage_when_streaming_too(stream_outputs: bool) -> None:
    agent = adding()
    agent.stream_outputs = stream_outputs
    run = agent.arun("1 + 2", stream=True)
    async for _ in run:
        pass
    assert run.result().token_usage is not None
    assert run.result().token_usage.total_tokens == 30  # type: ignore[union-attr]


async def test_a_run_can_be_awaited_again() -> None:
    run = adding().arun("1 + 2")
    assert await run == 3
    assert await run == 3


async def test_asyncio_takes_a_run_as_it_takes_a_coroutine() -> None:
    agent = adding()
    assert await asyncio.create_task(agent.arun("a")) == 3
    assert list(await asyncio.gather(agent.arun("a"), agent.arun("b"))) == [3, 3]
    assert await asyncio.wait_for(agent.arun("a"), 10) == 3
    async with asyncio.TaskGroup() as group:
        task = group.create_task(agent.arun("a"))
    assert task.result() == 3


def test_asyncio_run_takes_a_run() -> None:
    assert asyncio.run(adding().arun("a")) == 3


def test_a_run_that_nobody_awaits_says_so() -> None:
    with pytest.warns(RuntimeWarning, match="never awaited"):
        adding().arun("a")
        gc.collect()


# --- iterated ---


async def test_iterating_a_run_gives_its_events_in_order() -> None:
    run = adding().arun("1 + 2")
    events = [event async for event in run]
    kinds = [ToolCall, ToolOutput, ActionOutput, ActionStep] * 2 + [FinalAnswerStep]
    assert [type(event) for event in events] == kinds
    assert events[-1] == events[-1] and events[-1].output == 3  # type: ignore[union-attr]
    assert await run == 3


async def test_breaking_out_ends_the_run_and_keeps_what_it_did() -> None:
    run = adding().arun("1 + 2")
    async for event in run:
        if isinstance(event, ActionStep):
            break
    await run.aclose()
    assert run.status == "cancelled"
    assert [step.dict()["type"] for step in run.memory.steps] == ["TaskStep", "ActionStep"]


async def test_nothing_happens_behind_the_event_at_which_the_consumer_stopped() -> None:
    called = []

    @tool
    def effect() -> str:
        """Have an effect."""
        called.append(1)
        return "done"

    agent = ToolCallingAgent([effect], ScriptedModel({"": [calls(("effect", {})), final(1)]}))
    async for event in agent.arun("go"):
        assert isinstance(event, ToolCall)
        break
    gc.collect()
    for _ in range(5):
        await asyncio.sleep(0)
    assert called == []


async def test_a_run_cannot_be_iterated_twice_at_once() -> None:
    run = adding().arun("a")
    first = aiter(run)
    await anext(first)
    with pytest.raises(CallerError, match="iterated already"):
        await anext(aiter(run))
    await run.aclose()


async def test_a_run_that_was_started_elsewhere_can_be_watched() -> None:
    agent = adding()
    run = agent.arun("a")
    task = asyncio.create_task(run)
    events = [event async for event in run]
    assert isinstance(events[-1], FinalAnswerStep)
    assert await task == 3


async def test_an_error_ends_the_iteration_with_it() -> None:
    agent = ToolCallingAgent([], ScriptedModel([LookupError("no model")]))
    with pytest.raises(AgentGenerationError, match="no model"):
        async for _ in agent.arun("a"):
            pass


# --- cancelled ---


async def test_cancelling_the_awaiting_task_cancels_the_model_call() -> None:
    agent, model = stuck()
    task = asyncio.create_task(agent.arun("a"))
    await model.asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert model.cancelled


async def test_cancel_ends_a_run_from_outside() -> None:
    agent, model = stuck()
    run = agent.arun("a")
    task = asyncio.create_task(run)
    await model.asked.wait()
    assert run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (run.status, model.cancelled) == ("cancelled", True)
    assert run.memory.steps
    assert not run.cancel()


async def test_cancel_works_from_another_thread() -> None:
    agent, model = stuck()
    run = agent.arun("a")
    task = asyncio.create_task(run)
    await model.asked.wait()
    await asyncio.to_thread(run.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancel_while_iterating_ends_the_iteration() -> None:
    run = adding().arun("a")
    seen = []
    async for event in run:
        seen.append(event)
        run.cancel()
    assert len(seen) == 1
    assert run.status == "cancelled"


async def test_a_run_cancelled_before_it_began_never_begins() -> None:
    agent = adding()
    run = agent.arun("a")
    assert run.cancel()
    with pytest.raises(CallerError, match="cancelled before it began"):
        await run


async def test_interrupt_takes_effect_at_once_and_says_why() -> None:
    agent, model = stuck()
    run = agent.arun("a")
    task = asyncio.create_task(run)
    await model.asked.wait()
    agent.interrupt("The user left.")
    with pytest.raises(AgentInterruptedError, match="The user left") as caught:
        await task
    assert caught.value.run is run
    assert run.status == "interrupted"
    assert model.cancelled


async def test_interrupt_ends_a_run_stuck_in_a_sync_tool() -> None:
    begun, release = threading.Event(), threading.Event()

    @tool
    def hang() -> str:
        """Hang."""
        begun.set()
        release.wait(30)
        return "late"

    agent = ToolCallingAgent([hang], ScriptedModel([calls(("hang", {}))]))
    task = asyncio.create_task(agent.arun("a"))
    await asyncio.to_thread(begun.wait)
    agent.interrupt()
    with pytest.raises(AgentInterruptedError, match=r"Agent interrupted\."):
        await task
    release.set()


async def test_a_cancellation_that_comes_with_an_interrupt_stays_a_cancellation() -> None:
    agent, model = stuck()
    task = asyncio.create_task(agent.arun("a"))
    await model.asked.wait()
    agent.interrupt()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# --- timed out ---


async def test_a_run_ends_at_its_time_limit_with_what_it_has() -> None:
    agent, model = stuck()
    run = agent.arun("a", timeout=0.02)
    with pytest.raises(RunTimeoutError, match="limit of 0.02 seconds") as caught:
        await run
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.run is run
    assert (run.status, model.cancelled) == ("timeout", True)


async def test_the_time_limit_of_the_agent_counts_where_the_run_has_none() -> None:
    agent, _ = stuck()
    agent.timeout = 0.01
    with pytest.raises(RunTimeoutError):
        await agent.arun("a")


async def test_a_timeout_around_a_run_is_the_callers() -> None:
    agent, model = stuck()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await agent.arun("a")
    assert model.cancelled


# --- failed ---


async def test_a_failed_run_carries_its_partial_memory_and_usage() -> None:
    model = ScriptedModel([calls(("add", {"a": 1, "b": 2})), ConnectionError("gone")])
    with pytest.raises(AgentGenerationError, match="ConnectionError: gone") as caught:
        await ToolCallingAgent([add], model).arun("a")
    run = caught.value.run
    assert isinstance(run, Run)
    assert run.status == "error"
    assert run.usage is not None
    assert [type(step).__name__ for step in run.memory.steps] == ["TaskStep", "ActionStep", "ActionStep"]
    assert isinstance(caught.value.__cause__, ConnectionError)


# --- sync ---


def test_run_gives_the_answer_to_sync_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert adding().run("1 + 2") == 3
    assert "Final answer: 3" in capsys.readouterr().out


def test_run_streams_the_same_events_to_sync_code() -> None:
    agent = adding()
    agent.verbosity_level = -1
    kinds = [type(event) for event in agent.run("1 + 2", stream=True)]  # type: ignore[union-attr]
    assert kinds == [ToolCall, ToolOutput, ActionOutput, ActionStep] * 2 + [FinalAnswerStep]


def test_leaving_a_sync_stream_early_ends_the_run() -> None:
    agent = adding()
    agent.verbosity_level = -1
    for _ in agent.run("1 + 2", stream=True):  # type: ignore[union-attr]
        break
    gc.collect()
    assert agent._last_run is not None
    assert agent._last_run.status == "cancelled"


# --- watched ---


async def test_observers_are_told_what_begins_and_ends() -> None:
    seen: list[Any] = []
    agent = adding()
    run = agent.arun("1 + 2")
    run.observers.append(lambda _, event: seen.append(event))
    await run
    kinds = [type(event) for event in seen if isinstance(event, Lifecycle)]
    step = [StepStart, ModelStart, ModelEnd, ToolStart, ToolEnd, StepEnd]
    assert kinds == [RunStart, *step, *step, StepEnd, RunEnd]
    assert all(event.run_id == run.id for event in seen if isinstance(event, Lifecycle))


async def test_an_observer_that_fails_does_not_break_the_run(caplog: pytest.LogCaptureFixture) -> None:
    def broken(run: Run, event: Any) -> None:
        raise ValueError("cannot draw")

    run = adding().arun("1 + 2")
    run.observers.append(broken)
    assert await run == 3
    assert "cannot draw" in caplog.text


async def test_a_run_says_what_it_is_doing() -> None:
    activities = []
    run = adding().arun("1 + 2")
    run.observers.append(lambda run, event: activities.append(run.activity))
    await run
    assert "model" in activities
    assert "tool add" in activities
    assert run.activity == ""


@pytest.mark.parametrize("name", ["cancel", "interrupt"])
async def test_ending_a_run_that_is_over_does_nothing(name: str) -> None:
    run = adding().arun("a")
    await run
    ending: Callable[[], Any] = getattr(run, name)
    ending()
    await asyncio.sleep(0)
    assert run.status == "success"


@pytest.mark.parametrize("how", ["awaited", "gathered", "iterated"])
async def test_a_run_that_nobody_holds_is_gone_at_once_without_the_garbage_collector(how: str) -> None:
    agent = adding()
    gc.disable()
    try:
        run = agent.arun("1 + 2")
        held = weakref.ref(run)
        if how == "awaited":
            await run
        elif how == "gathered":
            await asyncio.gather(run)
        else:
            async for event in run:
                del event
        await agent.arun("the last run is remembered by its agent")
        del run
        await asyncio.sleep(0)
        assert held() is None
    finally:
        gc.enable()
