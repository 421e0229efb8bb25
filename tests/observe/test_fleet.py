"""A fleet holds what many runs are doing, and costs next to nothing."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from typing import Any

import pytest

from manyhands import (
    AgentError,
    ChatMessage,
    CodeAgent,
    Fleet,
    RateLimitError,
    TokenUsage,
    ToolCallingAgent,
    tool,
)
from manyhands.events import ModelStart, RunEnd, RunStart, ToolEnd, ToolStart
from manyhands.limits import ConcurrencyRegistry, LimitedModel, RateLimiter, RetryingModel, RetryPolicy
from manyhands.limits.prices import Price
from manyhands.steps import ToolCall
from manyhands.testing import FunctionModel, ScriptedModel
from tests.agents.replies import calls, code, final

USAGE = TokenUsage(100, 10, cached_tokens=40)


class Door:
    """A model that answers when it is let."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.model = FunctionModel(self._reply, token_usage=USAGE, model_id="door")

    async def _reply(self, messages: list[ChatMessage]) -> ChatMessage:
        await self.opened.wait()
        return final("yes")


async def until(holds: Any) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_runs_in_flight_are_listed_with_what_they_wait_for_and_counted_when_they_end() -> None:
    fleet, door = Fleet(), Door()
    agent = ToolCallingAgent(model=door.model, name="waiter", observers=[fleet.observe], max_concurrency=2)
    runs = [asyncio.ensure_future(agent.arun(f"Task\n{number}", tenant="blue")) for number in range(3)]
    await until(lambda: fleet.dict()["waiting_on"] == {"model": 2, "slot": 1})
    now = fleet.dict()
    assert now["runs"] == {
        "in_flight": 3,
        "started": 3,
        "done": 0,
        "succeeded": 0,
        "failed": 0,
        "cancelled": 0,
    }
    row = now["in_flight"][0]
    assert (row["agent"], row["task"], row["tenant"], row["step"]) == ("waiter", "Task 0", "blue", 1)
    (wait,) = now["in_flight"][2]["waits"]
    assert wait["for"] == "slot" and wait["seconds"] >= 0
    (slots,) = [limit for limit in now["limits"] if limit["name"] == "agent waiter"]
    assert slots == {"kind": "slots", "name": "agent waiter", "limit": 2, "held": 2, "waiting": 1}
    door.opened.set()
    await asyncio.gather(*runs)
    now = fleet.dict()
    assert now["runs"]["succeeded"] == now["runs"]["done"] == 3
    assert now["in_flight"] == [] and now["waiting_on"] == {}
    assert now["tokens"] == {"input": 300, "output": 30, "cached": 120, "total": 330}
    assert [row["status"] for row in now["finished"]] == ["success"] * 3
    assert now["rate"] > 0
    assert now == json.loads(json.dumps(now))


async def test_failures_are_counted_by_kind_and_cancelled_runs_are_none() -> None:
    fleet, door = Fleet(), Door()
    broken = ToolCallingAgent(model=ScriptedModel(AgentError("x" * 9000)), observers=[fleet.observe])
    slow = ToolCallingAgent(model=door.model, observers=[fleet.observe])
    with pytest.raises(AgentError):
        await broken.arun("go")
    with pytest.raises(AgentError):
        await slow.arun("go", timeout=0.01)
    run = slow.arun("go")
    task = asyncio.ensure_future(run)
    await until(lambda: fleet.dict()["runs"]["in_flight"] == 1)
    run.cancel()
    await asyncio.wait([task])
    now = fleet.dict()
    assert now["failures"] == {"AgentError": 1, "timeout": 1}
    assert (now["runs"]["failed"], now["runs"]["cancelled"], now["runs"]["done"]) == (2, 1, 3)
    assert [row["status"] for row in now["finished"]] == ["cancelled", "timeout", "error"]
    assert len(now["finished"][2]["error"]["message"]) <= 500


async def test_tokens_of_managed_agents_are_counted_once() -> None:
    fleet = Fleet()
    member = ToolCallingAgent(
        model=ScriptedModel(final("low"), token_usage=USAGE), name="member", description="Knows."
    )
    script = ScriptedModel([code("print(member('Ask'))"), code("final_answer(1)")], token_usage=USAGE)
    boss = CodeAgent(model=script, name="boss", managed_agents=[member], observers=[fleet.observe])
    seen = []

    def look(run: Any, event: Any) -> None:
        if isinstance(event, ToolEnd | RunEnd):
            seen.append(fleet.dict()["tokens"]["total"])

    run = boss.arun("go")
    run.observers.append(look)
    await run
    now = fleet.dict()
    assert now["tokens"]["total"] == 330
    assert seen == sorted(seen)
    rows = {row["agent"]: row for row in now["finished"]}
    assert rows["member"]["parent_id"] == rows["boss"]["id"]
    assert (now["model_calls"], now["tool_calls"]) == (3, 3)


async def test_only_the_last_that_ended_are_kept_and_only_so_many_in_flight_are_listed() -> None:
    fleet, door = Fleet(keep=3), Door()
    door.opened.set()
    agent = ToolCallingAgent(model=door.model, observers=[fleet.observe])
    for number in range(5):
        await agent.arun(f"{number}", tenant="red" if number == 4 else "blue")
    assert [row["task"] for row in fleet.dict()["finished"]] == ["4", "3", "2"]
    assert [row["task"] for row in fleet.dict(tenant="red")["finished"]] == ["4"]
    assert fleet.dict()["runs"]["done"] == 5
    door.opened.clear()
    runs = [asyncio.ensure_future(agent.arun(f"{number}")) for number in range(4)]
    await until(lambda: fleet.dict()["runs"]["in_flight"] == 4)
    assert [row["task"] for row in fleet.dict(runs=2)["in_flight"]] == ["0", "1"]
    door.opened.set()
    await asyncio.gather(*runs)


async def test_limits_of_models_names_and_rates_are_shown_with_their_room() -> None:
    registry = ConcurrencyRegistry()
    registry.set_limit("searcher", 4)
    fleet, door = Fleet(registries=[registry]), Door()
    rate = RateLimiter(600, 90_000, name="a provider")
    model = RetryingModel(LimitedModel(door.model, max_concurrency=1, rate=rate))
    agent = ToolCallingAgent(model=model, observers=[fleet.observe])
    runs = [asyncio.ensure_future(agent.arun("go")) for _ in range(2)]
    await until(lambda: fleet.dict()["waiting_on"] == {"model": 1, "slot": 1})
    limits = {limit["name"]: limit for limit in fleet.dict()["limits"]}
    assert limits["searcher"] == {
        "kind": "slots",
        "name": "searcher",
        "limit": 4,
        "held": 0,
        "waiting": 0,
    }
    assert (limits["model door"]["held"], limits["model door"]["waiting"]) == (1, 1)
    assert limits["a provider"]["requests_per_minute"] == 600
    assert limits["a provider"]["requests_used"] == pytest.approx(1, abs=0.2)
    assert limits["a provider"]["pace"] is None
    door.opened.set()
    await asyncio.gather(*runs)


async def test_retries_and_refusals_are_counted() -> None:
    fleet = Fleet()
    script = ScriptedModel([RateLimitError("Slower.", status=429), ConnectionError("gone"), final("yes")])
    model = RetryingModel(script, RetryPolicy(first_delay=0.001))
    await ToolCallingAgent(model=model, observers=[fleet.observe]).arun("go")
    assert (fleet.dict()["retries"], fleet.dict()["refusals"]) == (2, 1)


async def test_open_requests_are_listed_until_they_are_answered() -> None:
    @tool(requires_approval=True)
    def erase(path: str) -> str:
        """Erase a file.

        Args:
            path: The file.
        """
        return f"{path} is gone"

    fleet = Fleet()
    agent = ToolCallingAgent(
        [erase],
        ScriptedModel([calls(("erase", {"path": "/tmp/x"})), final("done")]),
        observers=[fleet.observe],
    )
    run = agent.arun("go")
    task = asyncio.ensure_future(run)
    await until(lambda: fleet.dict()["approvals"])
    (request,) = fleet.dict()["approvals"]
    assert (request["tool"], request["arguments"]) == ("erase", {"path": "/tmp/x"})
    assert request["age"] >= 0
    assert fleet.dict()["waiting_on"] == {"approval": 1}
    assert fleet.dict(tenant="another")["approvals"] == []
    run.pending[request["id"]].approve()
    assert await task == "done"
    assert fleet.dict()["approvals"] == []


async def test_money_is_told_where_prices_are_known() -> None:
    fleet, door = Fleet(prices={"door": Price(input=2.0, output=10.0, cached_input=1.0)}), Door()
    door.opened.set()
    await ToolCallingAgent(model=door.model, observers=[fleet.observe]).arun("go")
    cents = (60 * 2 + 40 * 1 + 10 * 10) / 1e6
    assert fleet.dict()["money"] == pytest.approx(cents)
    assert fleet.dict()["finished"][0]["money"] == pytest.approx(cents)
    unpriced = Fleet(prices={})
    await ToolCallingAgent(model=door.model, observers=[unpriced.observe]).arun("go")
    assert unpriced.dict()["money"] is None


async def test_a_fleet_may_watch_the_whole_process() -> None:
    fleet, door = Fleet(), Door()
    door.opened.set()
    fleet.watch()
    try:
        await ToolCallingAgent(model=door.model).arun("seen")
    finally:
        fleet.leave()
    await ToolCallingAgent(model=door.model).arun("unseen")
    assert [row["task"] for row in fleet.dict()["finished"]] == ["seen"]


async def test_changes_are_given_as_they_come() -> None:
    fleet, door = Fleet(), Door()
    agent = ToolCallingAgent(model=door.model, observers=[fleet.observe])
    looks = fleet.changes(every=0.01)
    assert (await anext(looks))["runs"]["in_flight"] == 0
    run = asyncio.ensure_future(agent.arun("go"))
    async with asyncio.timeout(20):
        while (await anext(looks))["runs"]["in_flight"] != 1:
            pass
        door.opened.set()
        while (await anext(looks))["runs"]["succeeded"] != 1:
            pass
    await looks.aclose()  # type: ignore[attr-defined]
    assert await run == "yes"


def test_a_run_whose_loop_was_closed_in_the_middle_is_not_kept_in_flight() -> None:
    fleet = Fleet()
    loop = asyncio.new_event_loop()

    async def begin() -> None:
        agent = ToolCallingAgent(model=Door().model, observers=[fleet.observe])
        task = asyncio.ensure_future(agent.arun("go"))
        await until(lambda: fleet.dict()["runs"]["in_flight"] == 1)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        for other in asyncio.all_tasks():
            other._log_destroy_pending = False  # type: ignore[attr-defined]

    loop.run_until_complete(begin())
    loop.close()
    gc.collect()
    assert fleet.dict()["runs"]["in_flight"] == 0


def test_an_event_costs_next_to_nothing() -> None:
    fleet = Fleet()
    agent = ToolCallingAgent(model=ScriptedModel(final(1)))
    run = agent.arun("go")
    fleet.observe(run, RunStart(run.id, "agent", "go", None))
    told = [ModelStart(run.id, "m", 1, []), ToolStart(run.id, ToolCall("t", {}, "1")), object()]
    best = min(_seconds(fleet, run, told) for _ in range(5))
    run.close()
    # Measured: 0.3 µs an event.
    assert best / 30_000 < 10e-6


def _seconds(fleet: Fleet, run: Any, told: list[Any]) -> float:
    began = time.perf_counter()
    for _ in range(10_000):
        for event in told:
            fleet.observe(run, event)
    return time.perf_counter() - began
