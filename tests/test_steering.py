"""Steering a run while it goes on: pausing it, talking to it, changing its limits."""

from __future__ import annotations

import asyncio
import math
import threading
from typing import TYPE_CHECKING, Any

import pytest

from manyhands import (
    ActionStep,
    AgentMemory,
    Budget,
    BudgetExceededError,
    CallerError,
    CodeAgent,
    MessageRole,
    PlanningStep,
    RunTimeoutError,
    TaskStep,
    ToolCallingAgent,
    UserMessageStep,
    tool,
)
from manyhands.events import LimitsChanged, MessageInjected, RunPaused, RunResumed, StepEnd
from manyhands.testing import FunctionModel
from tests.agents.replies import calls, code, final
from tests.models.waiting import until

if TYPE_CHECKING:
    from manyhands import ChatMessage, Run


@tool
async def look() -> str:
    """Look around."""
    return "nothing new"


class Mind:
    """A model that answers when it is let to, and keeps what it was shown.

    Args:
        replies: Its replies, in order; the last one is repeated.
    """

    def __init__(self, *replies: Any) -> None:
        self.replies = replies
        self.shown: list[list[ChatMessage]] = []
        self.asked = asyncio.Semaphore(0)
        self.may_answer = asyncio.Semaphore(0)
        self.model = FunctionModel(self.answer)

    async def answer(self, messages: list[ChatMessage]) -> Any:
        self.shown.append(list(messages))
        self.asked.release()
        await self.may_answer.acquire()
        return self.replies[min(len(self.shown), len(self.replies)) - 1]

    async def question(self) -> None:
        """Wait until it is asked for the next reply."""
        await asyncio.wait_for(self.asked.acquire(), 20)

    def let(self, times: int = 1) -> None:
        """Let it answer."""
        for _ in range(times):
            self.may_answer.release()

    def texts(self, number: int) -> list[str]:
        return [message.text for message in self.shown[number]]


def looking(mind: Mind, **options: Any) -> ToolCallingAgent:
    return ToolCallingAgent([look], mind.model, **options)


LOOK = calls(("look", {}))


class Notes(list[Any]):
    def __call__(self, run: Run, event: Any) -> None:
        self.append(event)

    def of(self, *kinds: type) -> list[Any]:
        return [event for event in self if isinstance(event, kinds)]


async def pausing(run: Run) -> None:
    """Wait until a run stands still."""
    await until(lambda: run.activity == "pause")


class TestPause:
    async def test_a_paused_run_finishes_its_step_and_takes_no_other(self) -> None:
        mind, notes = Mind(LOOK, final("done")), Notes()
        run = looking(mind, observers=[notes]).arun("go")
        work = asyncio.create_task(run)
        await mind.question()
        assert not run.paused
        assert run.pause()
        assert run.paused
        mind.let(2)
        await pausing(run)
        assert len(notes.of(StepEnd)) == 1
        assert len(mind.shown) == 1
        assert run.resume()
        assert not run.paused
        assert await work == "done"
        assert [type(event) for event in notes.of(RunPaused, RunResumed)] == [RunPaused, RunResumed]

    async def test_pausing_twice_is_pausing_once_and_so_is_resuming(self) -> None:
        mind, notes = Mind(final("done")), Notes()
        run = looking(mind, observers=[notes]).arun("go")
        work = asyncio.create_task(run)
        await mind.question()
        assert [run.resume(), run.pause(), run.pause(), run.resume(), run.resume()] == [
            False,
            True,
            True,
            True,
            False,
        ]
        mind.let()
        await work
        assert len(notes.of(RunPaused, RunResumed)) == 2

    async def test_a_run_may_begin_paused(self) -> None:
        mind = Mind(final("done"))
        run = looking(mind).arun("go")
        assert run.pause()
        work = asyncio.create_task(run)
        await pausing(run)
        assert not mind.shown
        mind.let()
        run.resume()
        assert await work == "done"

    async def test_a_pause_ends_with_the_run(self) -> None:
        run = looking(Mind(final("done"))).arun("go")
        run.pause()
        work = asyncio.create_task(run)
        await pausing(run)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert not run.paused
        assert not run.resume()

    async def test_the_time_limit_of_a_run_counts_pauses(self) -> None:
        run = looking(Mind(final("done")), timeout=0.1).arun("go")
        run.pause()
        with pytest.raises(RunTimeoutError):
            await run

    async def test_runs_that_it_started_pause_with_it(self) -> None:
        mind = Mind(LOOK, final("done"))
        worker = looking(mind, name="worker", description="Works.")
        boss_mind = Mind(code("final_answer(worker(task='look'))"))
        boss_mind.let()
        boss = CodeAgent([], boss_mind.model, managed_agents=[worker])
        working_runs: list[Run] = []
        worker.observers = [lambda run, event: working_runs.append(run)]
        run = boss.arun("go")
        work = asyncio.create_task(run)
        await mind.question()
        run.pause()
        mind.let(2)
        working = working_runs[0]
        await pausing(working)
        assert len(mind.shown) == 1
        run.resume()
        assert "done" in await work

    async def test_it_works_from_other_threads(self) -> None:
        mind, notes = Mind(LOOK, final("done")), Notes()
        run = looking(mind, observers=[notes]).arun("go")
        work = asyncio.create_task(run)
        await mind.question()
        assert await asyncio.to_thread(run.pause)
        mind.let(2)
        await pausing(run)
        assert await asyncio.to_thread(run.resume)
        assert await work == "done"
        assert len(notes.of(RunPaused, RunResumed)) == 2


class TestInject:
    async def test_the_model_sees_what_was_said_at_its_next_step_in_order(self) -> None:
        mind, notes = Mind(LOOK, LOOK, final("done")), Notes()
        run = looking(mind, observers=[notes]).arun("go")
        work = asyncio.create_task(run)
        await mind.question()
        assert run.inject("look left")
        assert run.inject("then look right")
        mind.let(3)
        assert await work == "done"
        said = [message for message in mind.shown[1] if message.text in ("look left", "then look right")]
        assert [message.text for message in said] == ["look left", "then look right"]
        assert {message.role for message in said} == {MessageRole.USER}
        assert "look left" not in mind.texts(0)
        assert mind.texts(2)[: len(mind.texts(1))] == mind.texts(1)
        assert [event.text for event in notes.of(MessageInjected)] == ["look left", "then look right"]

    async def test_it_is_a_step_that_is_told_kept_and_read_back(self) -> None:
        mind = Mind(LOOK, final("done"))
        heard: list[Any] = []
        agent = looking(mind, step_callbacks={UserMessageStep: heard.append})
        run = agent.arun("go")
        events: list[Any] = []

        async def follow() -> None:
            events.extend([event async for event in run])

        work = asyncio.create_task(follow())
        await mind.question()
        run.inject("look left")
        mind.let(2)
        await work
        kinds = [type(step) for step in run.memory.steps]
        assert kinds == [TaskStep, ActionStep, UserMessageStep, ActionStep]
        step = run.memory.steps[2]
        assert heard == [step]
        assert step in events
        again = AgentMemory.from_dict(run.memory.dict())
        assert again.steps[2].dict() == step.dict()
        assert again.steps[2].to_messages()[0].text == mind.texts(1)[-1] == "look left"

    async def test_during_a_plan_the_step_after_it_sees_it(self) -> None:
        mind = Mind("a plan", final("done"))
        run = looking(mind, planning_interval=1).arun("go")
        work = asyncio.create_task(run)
        await mind.question()
        run.inject("hurry")
        mind.let(2)
        await work
        assert [type(step) for step in run.memory.steps][1:3] == [PlanningStep, UserMessageStep]
        assert mind.texts(1)[-1] == "hurry"

    async def test_what_was_said_in_the_last_step_is_in_the_final_question(self) -> None:
        mind = Mind(LOOK, "what I know")
        run = looking(mind, max_steps=1).arun("go")
        work = asyncio.create_task(run)
        await mind.question()
        run.inject("be brief")
        mind.let(2)
        assert await work == "what I know"
        assert "be brief" in mind.texts(1)

    async def test_what_came_too_late_is_kept_for_the_continuation(self) -> None:
        mind = Mind(final("done"))
        agent = looking(mind)
        run = agent.arun("go")
        work = asyncio.create_task(run)
        await mind.question()
        assert run.inject("and tidy up")
        mind.let(2)
        assert await work == "done"
        assert run.memory.steps[-1].dict()["text"] == "and tidy up"
        await agent.arun("go on", reset=False)
        assert "and tidy up" in mind.texts(1)

    async def test_said_to_a_paused_run_it_waits(self) -> None:
        mind = Mind(final("done"))
        run = looking(mind).arun("go")
        run.pause()
        work = asyncio.create_task(run)
        await pausing(run)
        threading.Thread(target=run.inject, args=("first this",)).start()
        await until(lambda: run.steering is not None and run.steering.said)
        run.resume()
        mind.let()
        await work
        assert mind.texts(0)[-1] == "first this"

    @pytest.mark.parametrize("wrong", ["", "  ", None, 7])
    async def test_what_is_no_text_is_refused(self, wrong: Any) -> None:
        run = looking(Mind(final("done"))).arun("go")
        with pytest.raises(CallerError, match="What is said to a run is a text"):
            run.inject(wrong)
        run.close()


class TestLimits:
    async def test_more_steps(self) -> None:
        mind, notes = Mind(LOOK, LOOK, final("done")), Notes()
        run = looking(mind, max_steps=1, observers=[notes]).arun("go")
        work = asyncio.create_task(run)
        await mind.question()
        assert run.set_limit(max_steps=3)
        mind.let(3)
        assert await work == "done"
        assert notes.of(LimitsChanged)[0].limits == {"max_steps": 3}
        assert run.agent.max_steps == 1

    async def test_fewer_steps(self) -> None:
        mind = Mind(LOOK, LOOK, "what I know")
        run = looking(mind).arun("go")
        work = asyncio.create_task(run)
        await mind.question()
        run.set_limit(max_steps=2)
        mind.let(3)
        assert await work == "what I know"
        assert run.status == "max_steps_error"

    async def test_less_time(self) -> None:
        mind = Mind(LOOK)
        run = looking(mind, timeout=1000).arun("go")
        work = asyncio.create_task(run)
        await mind.question()
        await asyncio.to_thread(run.set_limit, timeout=0.01)
        with pytest.raises(RunTimeoutError, match=r"0\.01 seconds"):
            await asyncio.wait_for(work, 20)

    @pytest.mark.parametrize("more", [1000, math.inf])
    async def test_more_time(self, more: float) -> None:
        mind = Mind(final("done"))
        run = looking(mind, timeout=0.5).arun("go")
        work = asyncio.create_task(run)
        await mind.question()
        run.set_limit(timeout=more)
        await asyncio.sleep(0.7)
        mind.let()
        assert await work == "done"

    async def test_a_time_limit_where_there_was_none(self) -> None:
        mind = Mind(LOOK)
        run = looking(mind).arun("go")
        work = asyncio.create_task(run)
        await mind.question()
        run.set_limit(timeout=0.01)
        with pytest.raises(RunTimeoutError):
            await asyncio.wait_for(work, 20)

    async def test_limits_set_before_it_begins_count(self) -> None:
        mind = Mind(LOOK)
        run = looking(mind).arun("go")
        run.set_limit(timeout=0.05)
        with pytest.raises(RunTimeoutError):
            await asyncio.wait_for(run, 20)

    async def test_a_smaller_budget_ends_the_run_and_a_larger_one_lets_it_go_on(self) -> None:
        mind = Mind(LOOK, LOOK, final("done"))
        mind.let(9)
        budget = Budget(steps=1)
        run = looking(mind).arun("go", budget=budget)
        run.set_limit(budget={"steps": 3})
        assert await run == "done"
        assert budget.spent("steps") == 3
        run = looking(mind).arun("go", budget=Budget(steps=100))
        run.set_limit(budget={"steps": 0})
        with pytest.raises(BudgetExceededError):
            await run

    async def test_a_run_without_a_budget_gets_one_that_counts_from_now(self) -> None:
        mind = Mind(LOOK)
        run = looking(mind).arun("go")
        work = asyncio.create_task(run)
        await mind.question()
        run.set_limit(budget={"steps": 2})
        mind.let(9)
        with pytest.raises(BudgetExceededError):
            await work
        assert len(mind.shown) == 3

    async def test_a_budget_of_seconds_ends_a_run_that_is_waiting(self) -> None:
        mind = Mind(LOOK)
        run = looking(mind).arun("go")
        work = asyncio.create_task(run)
        await mind.question()
        run.set_limit(budget={"seconds": 0.05})
        with pytest.raises(BudgetExceededError):
            await asyncio.wait_for(work, 20)

    @pytest.mark.parametrize(
        "limits",
        [
            {},
            {"max_steps": 0},
            {"max_steps": 1.5},
            {"timeout": -1},
            {"timeout": math.nan},
            {"budget": {"tokens": -1}},
            {"budget": {"coins": 3}},
            {"budget": {"tokens": "many"}},
            {"max_steps": 5, "budget": {"coins": 3}},
        ],
    )
    async def test_limits_that_make_no_sense_change_nothing(self, limits: dict[str, Any]) -> None:
        run = looking(Mind(final("done"))).arun("go", budget=Budget(tokens=5), timeout=3)
        before = run.options.max_steps, run.options.timeout
        with pytest.raises(CallerError):
            run.set_limit(**limits)
        assert (run.options.max_steps, run.options.timeout) == before
        assert run.budget is not None
        assert run.budget.remaining("tokens") == 5
        run.close()


async def test_a_run_that_has_ended_cannot_be_steered() -> None:
    mind = Mind(final("done"))
    mind.let()
    run = looking(mind).arun("go")
    await run
    assert not run.pause()
    assert not run.resume()
    assert not run.inject("too late")
    assert not run.set_limit(max_steps=9)
    assert not run.paused
    assert len(run.memory.steps) == 2


async def test_a_run_on_another_loop_is_steered_from_here() -> None:
    asked, steered = threading.Event(), threading.Event()
    mind, notes, runs = Mind(LOOK, final("done")), Notes(), []

    async def go() -> Any:
        run = looking(mind, observers=[notes]).arun("go")
        runs.append(run)
        work = asyncio.create_task(run)
        await mind.question()
        asked.set()
        await asyncio.to_thread(steered.wait, 20)
        mind.let(2)
        return await work

    work = asyncio.create_task(asyncio.to_thread(asyncio.run, go()))
    assert await asyncio.to_thread(asked.wait, 20)
    (run,) = runs
    assert run.pause()
    assert run.inject("from afar")
    steered.set()
    await pausing(run)
    assert run.resume()
    assert await asyncio.wait_for(work, 20) == "done"
    assert mind.texts(1)[-1] == "from afar"
    told = [type(event) for event in notes.of(RunPaused, MessageInjected, RunResumed)]
    assert told == [RunPaused, MessageInjected, RunResumed]
