"""Slots, tenants, budgets and the size of a team: what the runs of an agent are held to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from manyhands import CallerError, ConcurrencyRegistry, RunTimeoutError, TokenUsage, ToolCallingAgent, tool
from manyhands.limits import Budget, BudgetExceededError, QueueFullError
from manyhands.testing import FunctionModel, ScriptedModel
from tests.agents.replies import calls, final


class Gauge:
    """A model that counts how many ask it at once."""

    def __init__(self) -> None:
        self.model = FunctionModel(self._reply, record=False)

    async def _reply(self, messages: Any) -> Any:
        for _ in range(3):
            await asyncio.sleep(0)
        return final(1)

    @property
    def peak(self) -> int:
        return self.model.peak_in_flight


async def test_no_more_runs_go_on_at_once_than_the_agent_allows() -> None:
    gauge = Gauge()
    agent = ToolCallingAgent([], gauge.model, max_concurrency=3)
    assert await asyncio.gather(*(agent.arun(f"{n}") for n in range(20))) == [1] * 20
    assert gauge.peak == 3


async def test_a_registry_limits_runs_by_the_agents_name() -> None:
    registry, gauge = ConcurrencyRegistry(), Gauge()
    registry.set_limit("researcher", 2)
    agents = [ToolCallingAgent([], gauge.model, name="researcher", registry=registry) for _ in range(3)]
    await asyncio.gather(*(agent.arun("go") for agent in agents for _ in range(4)))
    assert gauge.peak == 2
    assert registry.held("researcher") == 0


async def test_a_run_that_waits_for_a_slot_says_so_and_its_time_has_not_begun() -> None:
    entered, release = asyncio.Event(), asyncio.Event()

    async def slow(messages: Any) -> Any:
        entered.set()
        await release.wait()
        return final(1)

    agent = ToolCallingAgent([], FunctionModel(slow), max_concurrency=1)
    first = asyncio.create_task(agent.arun("one"))
    await entered.wait()
    waiting = agent.arun("two", timeout=5)
    second = asyncio.create_task(waiting)
    await asyncio.sleep(0.01)
    assert waiting.activity == "slot"
    release.set()
    assert [await first, await second] == [1, 1]


async def test_a_cancelled_waiter_leaks_no_slot() -> None:
    entered, release = asyncio.Event(), asyncio.Event()

    async def slow(messages: Any) -> Any:
        entered.set()
        await release.wait()
        return final(1)

    agent = ToolCallingAgent([], FunctionModel(slow), max_concurrency=1)
    first = asyncio.create_task(agent.arun("one"))
    await entered.wait()
    second = asyncio.create_task(agent.arun("two"))
    await asyncio.sleep(0.01)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    release.set()
    assert await first == 1
    assert await agent.arun("three") == 1
    assert agent.limits is not None
    assert agent.limits.slots.held() == 0


async def test_a_flood_of_one_tenant_delays_another_by_one_run_at_most() -> None:
    order: list[str] = []
    entered, release = asyncio.Event(), asyncio.Event()

    async def note(messages: Any) -> Any:
        order.append(messages[1].text.split()[-1])
        entered.set()
        await release.wait()
        return final(1)

    agent = ToolCallingAgent([], FunctionModel(note), max_concurrency=1)
    flood = [asyncio.create_task(agent.arun(f"flood{n}", tenant="big")) for n in range(50)]
    await entered.wait()
    late = agent.arun("small", tenant="little")
    last = asyncio.create_task(late)
    while late.activity != "slot":  # noqa: ASYNC110 - nothing tells of a run in line
        await asyncio.sleep(0)
    release.set()
    await asyncio.gather(*flood, last)
    assert order.index("small") <= 2


async def test_too_long_a_queue_is_refused_with_a_clear_error() -> None:
    gauge = Gauge()
    agent = ToolCallingAgent([], gauge.model, max_concurrency=1, max_queued=2)
    results = await asyncio.gather(*(agent.arun("x") for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(result, QueueFullError) for result in results) == 2


async def test_an_agent_that_calls_itself_does_not_wait_for_its_own_slot() -> None:
    agent: ToolCallingAgent

    @tool
    async def again() -> int:
        """Ask the same agent."""
        answer: int = await agent.arun("inner")
        return answer

    def reply(messages: Any) -> Any:
        if "inner" in messages[1].text:
            return final(5)
        return final(6) if len(messages) > 2 else calls(("again", {}))

    agent = ToolCallingAgent([again], FunctionModel(reply), max_concurrency=1)
    assert await asyncio.wait_for(agent.arun("outer"), 5) == 6


# --- budgets ---


def spender(**options: Any) -> ToolCallingAgent:
    @tool
    async def look() -> str:
        """Look."""
        return "nothing"

    model = ScriptedModel({"": [calls(("look", {}))] * 50}, token_usage=TokenUsage(90, 10))
    return ToolCallingAgent([look], model, max_steps=50, **options)


@pytest.mark.parametrize(
    ("budget", "steps"),
    [({"requests": 3}, 3), ({"steps": 2}, 2), ({"tool_calls": 4}, 4)],
    ids=lambda value: str(value),
)
async def test_a_run_ends_when_its_budget_is_used_up_and_keeps_what_it_did(budget: Any, steps: int) -> None:
    run = spender(budget=budget).arun("go")
    with pytest.raises(BudgetExceededError) as caught:
        await run
    assert run.status == "budget_exceeded"
    assert caught.value.run is run
    done = [step for step in run.memory.steps if step.dict().get("observations") == "nothing"]
    assert len(done) == steps


async def test_tokens_are_reserved_before_a_call_so_that_a_run_never_uses_more() -> None:
    run = spender(budget={"tokens": 6000}).arun("go")
    with pytest.raises(BudgetExceededError, match="tokens"):
        await run
    assert run.usage is not None
    assert 100 <= run.usage.total_tokens <= 6000


async def test_each_run_has_a_budget_of_its_own() -> None:
    agent = spender(budget={"requests": 2})
    results = await asyncio.gather(agent.arun("a"), agent.arun("b"), return_exceptions=True)
    assert all(isinstance(result, BudgetExceededError) for result in results)
    assert isinstance(agent.model, ScriptedModel)
    assert len(agent.model.calls) == 4


async def test_runs_may_share_one_budget_and_never_overshoot_it() -> None:
    agent, shared = spender(), Budget(requests=7)
    results = await asyncio.gather(
        *(agent.arun("x", budget=shared) for _ in range(5)), return_exceptions=True
    )
    assert all(isinstance(result, BudgetExceededError) for result in results)
    assert isinstance(agent.model, ScriptedModel)
    assert len(agent.model.calls) == 7


async def test_a_budget_around_runs_counts_for_them() -> None:
    agent = spender()
    with Budget(requests=1).active(), pytest.raises(BudgetExceededError):
        await agent.arun("x")


async def test_a_run_and_the_runs_it_starts_share_one_budget() -> None:
    worker = spender(name="worker", description="Works.")
    boss = ToolCallingAgent(
        [],
        ScriptedModel([calls(("worker", {"task": "dig"})), final(1)]),
        managed_agents=[worker],
        budget={"requests": 4},
    )
    with pytest.raises(BudgetExceededError):
        await boss.arun("go")
    assert isinstance(worker.model, ScriptedModel)
    assert len(worker.model.calls) == 3


# --- trees ---


async def test_more_sub_agents_at_once_than_allowed_are_refused_and_the_model_is_told() -> None:
    gate = asyncio.Event()

    async def work(messages: Any) -> Any:
        await gate.wait()
        return final("dug")

    worker = ToolCallingAgent([], FunctionModel(work), name="worker", description="Works.")
    asked = calls(*[("worker", {"task": "dig"})] * 3)

    def release(run: Any, event: Any) -> None:
        if type(event).__name__ == "ToolOutput":
            gate.set()

    boss = ToolCallingAgent([], ScriptedModel([asked, final(1)]), managed_agents=[worker], max_breadth=2)
    run = boss.arun("go")
    run.observers.append(release)
    assert await run == 1
    outputs = run.memory.steps[1].tool_outputs  # type: ignore[attr-defined]
    assert [output.error is None for output in outputs] == [True, True, False]
    assert "2 sub-agents are at work already" in str(outputs[2].error)


async def test_sub_agents_of_sub_agents_are_limited_in_depth() -> None:
    leaf = ToolCallingAgent([], ScriptedModel([final("leaf")]), name="leaf", description="d")
    middle_model = ScriptedModel([calls(("leaf", {"task": "t"})), final("alone")])
    middle = ToolCallingAgent([], middle_model, name="middle", description="d", managed_agents=[leaf])
    boss_model = ScriptedModel([calls(("middle", {"task": "t"})), final(1)])
    boss = ToolCallingAgent([], boss_model, managed_agents=[middle], max_depth=1)
    assert await boss.arun("go") == 1
    assert "the limit is 1" in middle_model.calls[1].messages[-1].text


@pytest.mark.parametrize(
    "options", [{"max_concurrency": "2"}, {"budget": {"cakes": 1}}, {"budget": {"tokens": -1}}]
)
def test_limits_that_cannot_be_are_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(CallerError):
        spender(**options)


async def test_a_timeout_of_a_waiting_run_does_not_count_while_it_waits() -> None:
    agent = ToolCallingAgent([], FunctionModel(lambda messages: final(1), latency=0.03), max_concurrency=1)
    assert await asyncio.gather(*(agent.arun("x", timeout=0.5) for _ in range(20))) == [1] * 20
    with pytest.raises(RunTimeoutError):
        await agent.arun("x", timeout=0.001)
