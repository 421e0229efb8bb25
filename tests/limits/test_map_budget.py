"""One budget for many tasks: what it does not reach is told, and done next time."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from manyhands import ToolCallingAgent
from manyhands.cli import main
from manyhands.limits import Budget, BudgetExceededError
from manyhands.testing import FunctionModel, SimulatedProvider
from manyhands.testing.clock import run_virtual
from tests.agents.replies import final

if TYPE_CHECKING:
    from pathlib import Path


def quick(**options: Any) -> ToolCallingAgent:
    return ToolCallingAgent([], FunctionModel(lambda _: final("done")), **options)


@pytest.mark.parametrize("concurrency", [1, 7])
def test_a_map_ends_when_its_budget_is_used_up_and_nothing_is_lost(concurrency: int) -> None:
    agent = quick()
    results = agent.map([f"task {n}" for n in range(50)], concurrency, budget=Budget(requests=20), retries=3)
    assert [result.index for result in results] == list(range(50))
    done = [result for result in results if result.ok]
    rest = [result for result in results if not result.ok]
    assert len(done) == 20
    assert {result.state for result in rest} == {"budget_exceeded"}
    assert all(isinstance(result.error, BudgetExceededError) for result in rest)
    # Those in flight when it was used up have tried once; nobody else was started.
    assert sum(result.attempts for result in rest) <= concurrency
    assert sum(result.attempts == 0 for result in rest) >= 30 - concurrency


def test_time_ends_what_is_in_flight_and_what_has_not_begun() -> None:
    async def scenario() -> None:
        async def reply(messages: Any) -> Any:
            await asyncio.sleep(4)
            return final("done")

        agent = ToolCallingAgent([], FunctionModel(reply, record=False))
        budget = Budget(seconds=10, clock=asyncio.get_running_loop().time)
        results = [result async for result in agent.amap(map(str, range(9)), concurrency=2, budget=budget)]
        assert asyncio.get_running_loop().time() == pytest.approx(10)
        assert [result.state for result in results].count("success") == 4
        assert [result.state for result in results].count("budget_exceeded") == 5

    run_virtual(scenario())


def test_the_own_budget_of_one_run_ends_that_run_alone() -> None:
    agent = quick(budget={"requests": 0})
    results = agent.map(["a", "b"], budget=Budget(requests=10))
    assert [result.attempts for result in results] == [1, 1], "each was tried, and ended for itself"


# --- The command -------------------------------------------------------------------------------------


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def words(tmp_path: Path) -> Any:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text("".join(json.dumps({"task": f"What is {n} + 1?", "id": n}) + "\n" for n in range(12)))
    with SimulatedProvider() as provider:
        yield [
            "map", str(tasks), "-o", str(tmp_path / "r.jsonl"), "-c", "3",
            "--model", "any", "--api-base", provider.base_url, "--api-key", "k",
        ]  # fmt: skip


def test_the_command_stops_at_its_budget_and_goes_on_from_there(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--budget-requests", "5"]) == 1
    told = capsys.readouterr().out
    assert "budget_exceeded" in told
    assert "The budget of 5 requests is used up" in told
    assert "the same command does the rest" in told
    assert "--retry-failed" not in told
    first = records(tmp_path / "r.jsonl")
    assert len(first) == 12
    assert {record["state"] for record in first} == {"success", "budget_exceeded"}

    assert main([*words, "--budget-tokens", "1000000", "--budget-seconds", "600"]) == 0
    assert "Done: " in capsys.readouterr().out
    second = records(tmp_path / "r.jsonl")
    assert sorted(record["id"] for record in second) == list(range(12))
    assert {record["state"] for record in second} == {"success"}


def test_a_budget_of_money_needs_a_price(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("genai_prices")
    assert main([*words, "--budget-money", "1"]) == 2
    assert "--budget-money cannot be kept: No price for the model 'any'" in capsys.readouterr().err
