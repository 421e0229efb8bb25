"""Agents that work for agents."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from manyhands import CallerError, ChatMessage, TokenUsage, ToolCallingAgent
from manyhands.events import RunStart
from manyhands.testing import FunctionModel, ScriptedModel
from tests.agents.replies import calls, final


def worker(reply: Any = None, **options: Any) -> ToolCallingAgent:
    model = FunctionModel(
        reply or (lambda messages: final(f"done: {messages[1].text.split('---')[1].strip()}"))
    )
    return ToolCallingAgent([], model, name="worker", description="Works.", **options)


def manager(team: list[ToolCallingAgent], *replies: Any, **options: Any) -> ToolCallingAgent:
    return ToolCallingAgent([], ScriptedModel(list(replies)), managed_agents=team, **options)


async def test_a_managed_agent_is_called_like_a_tool_and_reports() -> None:
    boss = manager([worker()], calls(("worker", {"task": "dig"})), final(1))
    run = boss.arun("go")
    await run
    report = run.memory.steps[1].observations  # type: ignore[attr-defined]
    assert report.startswith("Here is the final answer from your managed agent 'worker':")
    assert "done: dig" in report
    assert "worker: Works." in boss.system_prompt


async def test_parallel_calls_of_one_managed_agent_each_get_their_own_answer() -> None:
    both = asyncio.Barrier(2)

    async def reply(messages: list[ChatMessage]) -> Any:
        await both.wait()
        return final(f"done: {messages[1].text.split('---')[1].strip()}")

    boss = manager([worker(reply)], calls(("worker", {"task": "dig"}), ("worker", {"task": "saw"})), final(1))
    run = boss.arun("go")
    await run
    outputs = run.memory.steps[1].tool_outputs  # type: ignore[attr-defined]
    assert ["done: dig" in outputs[0].output, "done: saw" in outputs[1].output] == [True, True]


async def test_a_report_may_hold_a_summary_of_the_work() -> None:
    boss = manager([worker(provide_run_summary=True)], calls(("worker", {"task": "dig"})), final(1))
    run = boss.arun("go")
    await run
    assert "<summary_of_work>" in run.memory.steps[1].observations  # type: ignore[attr-defined]


async def test_additional_args_reach_the_managed_agent() -> None:
    seen: list[Any] = []

    def reply(messages: list[ChatMessage]) -> Any:
        seen.append(messages[1].text)
        return final(1)

    boss = manager(
        [worker(reply)], calls(("worker", {"task": "dig", "additional_args": {"depth": 3}})), final(1)
    )
    await boss.arun("go")
    assert "{'depth': 3}" in seen[0]


async def test_usage_of_the_team_counts_for_the_run_that_called_it() -> None:
    boss = manager([worker()], calls(("worker", {"task": "dig"})), final(1))
    result = await boss.arun("go", return_full_result=True)
    assert result.token_usage == TokenUsage(30, 15)


async def test_ending_a_run_ends_the_runs_it_started() -> None:
    asked = asyncio.Event()
    ended = []

    async def hang(messages: Any) -> Any:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    run = manager([worker(hang)], calls(("worker", {"task": "dig"}))).arun("go")
    task = asyncio.create_task(run)
    await asked.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]


async def test_a_failing_managed_agent_is_told_to_its_manager() -> None:
    def broken(messages: Any) -> Any:
        raise ConnectionError("no line")

    boss = manager([worker(broken)], calls(("worker", {"task": "dig"})), final("alone"))
    run = boss.arun("go")
    assert await run == "alone"
    assert "no line" in run.memory.steps[1].observations  # type: ignore[attr-defined]


async def test_whoever_watches_a_run_watches_the_runs_it_starts() -> None:
    starts: list[RunStart] = []
    run = manager([worker()], calls(("worker", {"task": "dig"})), final(1)).arun("go")
    run.observers.append(lambda _, event: starts.append(event) if isinstance(event, RunStart) else None)
    await run
    assert [start.agent for start in starts] == ["ToolCallingAgent", "worker"]
    assert [start.parent_id for start in starts] == [None, run.id]


def test_an_agent_called_as_a_function_reports() -> None:
    agent = worker(verbosity_level=-1)
    assert "done: dig" in agent("dig")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"name": None, "description": "d"}, "needs a name and a description"),
        ({"name": "w", "description": None}, "needs a name and a description"),
        ({"name": "not a name", "description": "d"}, "must be a Python identifier"),
        ({"name": "final_answer", "description": "d"}, "used twice"),
    ],
)
def test_a_member_that_cannot_be_called_is_refused(options: dict[str, Any], why: str) -> None:
    member = ToolCallingAgent([], ScriptedModel([]), **options)
    with pytest.raises(CallerError, match=why):
        manager([member])


def test_a_member_may_not_share_its_managers_name() -> None:
    with pytest.raises(CallerError, match="used twice"):
        manager([worker()], name="worker")
