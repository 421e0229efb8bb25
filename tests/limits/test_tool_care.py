"""A cap, retries and a circuit breaker around one tool, over all agents."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from manyhands import CallerError, ToolCallingAgent, tool
from manyhands.errors import AgentToolExecutionError
from manyhands.limits.tools import CircuitBreaker, ToolCare
from manyhands.testing import ScriptedModel
from tests.agents.replies import calls, final


def agent_of(made: Any, times: int = 1, **options: Any) -> ToolCallingAgent:
    replies = [calls(*[(made.name, {})] * times), final(1)]
    return ToolCallingAgent([made], ScriptedModel({"": replies}), **options)


def hurried(made: Any) -> None:
    made.care.first_delay = 0.001


async def outputs(agent: ToolCallingAgent) -> list[Any]:
    run = agent.arun("go")
    await run
    return run.memory.steps[1].tool_outputs  # type: ignore[attr-defined, no-any-return]


async def test_a_tool_is_never_called_more_often_at_once_than_its_cap_by_all_agents() -> None:
    now, peak = 0, 0

    @tool(max_concurrency=3)
    async def query() -> str:
        """Query."""
        nonlocal now, peak
        now += 1
        peak = max(peak, now)
        for _ in range(3):
            await asyncio.sleep(0)
        now -= 1
        return "rows"

    agents = [agent_of(query, times=4) for _ in range(10)]
    await asyncio.gather(*(agent.arun("go") for agent in agents))
    assert peak == 3


async def test_a_call_is_made_again_after_an_error_declared_retryable() -> None:
    tried = []

    @tool(retries=2, retry_on=ConnectionError)
    async def flaky() -> str:
        """Fail twice."""
        tried.append(1)
        if len(tried) < 3:
            raise ConnectionResetError("again")
        return "worked"

    hurried(flaky)
    assert (await outputs(agent_of(flaky)))[0].output == "worked"
    assert len(tried) == 3


async def test_a_call_is_not_made_again_after_any_other_error() -> None:
    tried = []

    @tool(retries=5, retry_on=(ConnectionError,))
    async def broken() -> str:
        """Fail."""
        tried.append(1)
        raise ValueError("no")

    (output,) = await outputs(agent_of(broken))
    assert "ValueError: no" in str(output.error)
    assert len(tried) == 1


async def test_an_idempotent_tool_is_called_again_when_it_ran_out_of_time() -> None:
    tried = []

    @tool(retries=1, idempotent=True, timeout=0.02)
    async def slow_once() -> str:
        """Be slow the first time."""
        tried.append(1)
        if len(tried) == 1:
            await asyncio.Event().wait()
        return "quick"

    hurried(slow_once)
    assert (await outputs(agent_of(slow_once)))[0].output == "quick"


def test_retries_without_a_word_on_when_they_are_safe_are_refused() -> None:
    with pytest.raises(CallerError, match="idempotent"):

        @tool(retries=3)
        async def pay() -> str:
            """Pay."""
            return "paid"


@pytest.mark.parametrize(
    "options", [{"max_concurrency": "3"}, {"retries": -1}, {"timeout": "30"}, {"timeout": 0}]
)
def test_parameters_that_cannot_be_right_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(CallerError):

        @tool(**options)
        async def anything() -> str:
            """Do."""
            return "done"


# --- the breaker ---


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> CircuitBreaker:
    breaker = CircuitBreaker(2, 10, clock=clock)
    breaker.failed()
    assert breaker.state == "closed"
    breaker.failed()
    assert breaker.state == "open"
    return breaker


def test_an_open_breaker_refuses_and_says_until_when() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now = 4
    with pytest.raises(AgentToolExecutionError, match="tried again in 6 seconds"):
        breaker.enter("The tool")


def test_a_half_open_breaker_lets_one_probe_through_and_closes_when_it_works() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now = 10
    assert breaker.state == "half open"
    breaker.enter("The tool")
    for _ in range(20):
        with pytest.raises(AgentToolExecutionError):
            breaker.enter("The tool")
    breaker.succeeded()
    assert breaker.state == "closed"


def test_a_probe_that_fails_opens_it_for_as_long_again() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now = 10
    breaker.enter("The tool")
    breaker.failed()
    assert breaker.state == "open"
    clock.now = 20
    assert breaker.state == "half open"


async def test_a_cancelled_probe_leaves_the_place_to_another() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now = 10
    care = ToolCare(circuit_breaker=breaker)
    probe = asyncio.create_task(care.call("The tool", asyncio.Event().wait))
    await asyncio.sleep(0)
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)

    async def works() -> str:
        return "back"

    assert await care.call("The tool", works) == "back"
    assert breaker.state == "closed"


async def test_of_twenty_calls_at_once_one_reaches_a_service_that_is_down() -> None:
    clock = Clock()
    care = ToolCare(circuit_breaker=opened(clock))
    clock.now = 10
    reached = []

    async def attempt() -> None:
        reached.append(1)
        await asyncio.sleep(0)
        raise ConnectionError

    results = await asyncio.gather(
        *(care.call("The tool", attempt) for _ in range(20)), return_exceptions=True
    )
    assert len(reached) == 1
    assert sum(isinstance(result, AgentToolExecutionError) for result in results) == 19


async def test_an_agent_is_told_that_a_tool_is_out_of_service() -> None:
    @tool(circuit_breaker=1)
    async def down() -> str:
        """Be down."""
        raise ConnectionError("refused")

    agent = agent_of(down)
    assert "refused" in str((await outputs(agent))[0].error)
    assert "out of service" in str((await outputs(agent))[0].error)
