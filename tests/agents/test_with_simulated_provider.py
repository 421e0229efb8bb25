"""Agents and the simulated provider together, over real HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from manyhands import CodeAgent, OpenAIModel, ToolCallingAgent
from manyhands.testing import SimulatedProvider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def model() -> AsyncIterator[OpenAIModel]:
    async with SimulatedProvider() as provider:
        yield OpenAIModel("simulated", api_base=provider.base_url, api_key="none")


async def test_follow_up_questions_use_the_answer_before(model: Any) -> None:
    session = CodeAgent([], model).session()
    assert await session.arun("What is 6 * 7?") == 42
    answer = await session.arun("Multiply that by 10.")
    assert (answer, type(answer)) == (420, int)


@pytest.mark.parametrize("kind", [CodeAgent, ToolCallingAgent])
@pytest.mark.parametrize("stream_outputs", [False, True])
async def test_both_agents_solve_the_same_task_streamed_or_not(
    model: Any, kind: type[CodeAgent | ToolCallingAgent], stream_outputs: bool
) -> None:
    agent = kind(["python_interpreter"], model, stream_outputs=stream_outputs, planning_interval=3)
    result = await agent.arun("What is 17 * 23 + 4?", return_full_result=True)
    assert str(result.output) == "395"
    assert result.token_usage.input_tokens > 100
