"""Budgets of time: whoever hangs is ended when time is up, wherever it is."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands import CodeAgent, RunTimeoutError, ToolCallingAgent, tool
from manyhands.limits import Budget, BudgetExceededError
from manyhands.testing import FunctionModel, ScriptedModel
from manyhands.testing.clock import run_virtual
from tests.agents.replies import calls, final

if TYPE_CHECKING:
    from manyhands.run import Run


@tool
async def hang() -> str:
    """Wait for ever."""
    await asyncio.Event().wait()
    return "never"


@tool
async def look() -> str:
    """Look."""
    return "seen"


def stuck(where: str = "tool", **options: Any) -> ToolCallingAgent:
    """An agent that takes one step, and never gets to the end of the next."""

    async def reply(messages: Any) -> Any:
        if len(messages) < 3:
            return calls(("look", {}))
        if where == "tool":
            return calls(("hang", {}))
        return await asyncio.Event().wait()

    return ToolCallingAgent([look, hang], FunctionModel(reply, record=False), **options)


async def ended(run: Run) -> tuple[BudgetExceededError, float]:
    """How a run ends that its budget ends, and when, on the loop's clock."""
    with pytest.raises(BudgetExceededError) as caught:
        await run
    assert run.status == "budget_exceeded"
    assert caught.value.run is run
    assert caught.value.kind == "seconds"
    return caught.value, asyncio.get_running_loop().time()


def on_virtual_clock(**limits: Any) -> Budget:
    return Budget(**limits, clock=asyncio.get_running_loop().time)


@pytest.mark.parametrize("where", ["tool", "model"])
def test_a_run_that_hangs_ends_at_its_budget_with_what_it_has_done(where: str) -> None:
    async def scenario() -> None:
        run = stuck(where).arun("go", budget=on_virtual_clock(seconds=30))
        error, at = await ended(run)
        assert at == pytest.approx(30)
        assert error.limit == 30
        assert error.spent == pytest.approx(30)
        assert "seen" in str(run.result().steps)

    run_virtual(scenario())


async def test_it_works_on_the_clock_on_the_wall_and_for_budgets_of_agents() -> None:
    began = time.monotonic()
    error, _ = await ended(stuck(budget={"seconds": 0.1}).arun("go"))
    assert 0.1 <= time.monotonic() - began < 5
    assert str(error).startswith("The budget of 0.1 seconds is used up: 0.1")


async def test_code_that_never_ends_is_ended_too() -> None:
    model = ScriptedModel(["<code>\nwhile True:\n    pass\n</code>"])
    await ended(CodeAgent([], model).arun("go", budget=Budget(seconds=0.1)))


def test_a_sync_tool_is_left_behind_in_its_thread() -> None:
    free = threading.Event()

    @tool
    def hold() -> str:
        """Wait in a thread."""
        free.wait(60)
        return "freed"

    async def scenario() -> None:
        agent = ToolCallingAgent([hold], ScriptedModel([calls(("hold", {}))]))
        await ended(agent.arun("go", budget=Budget(seconds=0.1)))

    try:
        asyncio.run(scenario())
    finally:
        free.set()


@settings(max_examples=30, deadline=None)
@given(
    seconds=st.floats(0.5, 100),
    starts=st.lists(st.floats(0, 150), min_size=1, max_size=6),
    own=st.one_of(st.none(), st.floats(0.5, 100)),
)
def test_runs_that_share_a_budget_all_end_when_its_time_is_up(
    seconds: float, starts: list[float], own: float | None
) -> None:
    async def scenario() -> None:
        agent, shared = stuck(), on_virtual_clock(seconds=seconds)
        shared.begin()

        async def one(start: float) -> tuple[float, float]:
            await asyncio.sleep(start)
            budget = shared.child(seconds=own)
            return start, (await ended(agent.arun("go", budget=budget)))[1]

        for start, end in await asyncio.gather(*map(one, starts)):
            due = min(seconds, start + (own or float("inf")))
            assert end == pytest.approx(max(start, due), abs=1e-6)

    run_virtual(scenario())


def test_a_run_ends_with_those_it_has_started() -> None:
    async def scenario() -> None:
        worker = stuck(name="worker", description="Works.")
        boss = ToolCallingAgent(
            [], ScriptedModel([calls(("worker", {"task": "dig"}))]), managed_agents=[worker]
        )
        budget = on_virtual_clock(seconds=20)
        seen: list[Run] = []
        run = boss.arun("go", budget=budget)
        run.observers.append(lambda run, event: seen.append(run))
        _, at = await ended(run)
        assert at == pytest.approx(20)
        # The one whose alarm rings first takes the other along.
        assert len({run.id for run in seen}) == 2
        assert {run.status for run in seen} <= {"budget_exceeded", "cancelled"}
        assert not budget._watchers

    run_virtual(scenario())


def test_the_limit_that_comes_first_says_how_a_run_ends() -> None:
    async def scenario() -> None:
        with pytest.raises(RunTimeoutError):
            await stuck().arun("go", budget=on_virtual_clock(seconds=30), timeout=20)
        await ended(stuck().arun("go", budget=on_virtual_clock(seconds=30), timeout=40))

    run_virtual(scenario())


@pytest.mark.parametrize(("changed", "end"), [(50, 50), (15, 15), (5, 10)])
def test_time_can_be_changed_while_a_run_goes_on(changed: float, end: float) -> None:
    async def scenario() -> None:
        budget = on_virtual_clock(seconds=30)
        run = asyncio.create_task(ended(stuck().arun("go", budget=budget.child())))
        await asyncio.sleep(10)
        budget.set_limit(seconds=changed)
        assert (await run)[1] == pytest.approx(end)

    run_virtual(scenario())


async def test_a_run_without_a_budget_can_be_given_one() -> None:
    run = stuck().arun("go")
    task = asyncio.create_task(ended(run))
    await asyncio.sleep(0)
    assert run.set_limit(budget={"seconds": 0.05})
    await task


async def test_a_run_that_is_done_in_time_leaves_nothing_behind() -> None:
    budget = Budget(seconds=1000)
    agent = ToolCallingAgent([], ScriptedModel([final(1)]))
    assert await agent.arun("go", budget=budget) == 1
    assert not budget._watchers


async def test_no_time_at_all_is_no_run() -> None:
    run = stuck().arun("go", budget=Budget(seconds=0))
    await ended(run)
    assert not [step for step in run.result().steps if "step_number" in step]
