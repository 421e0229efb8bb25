"""How long tools may take, and on which threads they do."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import pytest

from manyhands import CallerError, CodeAgent, ToolCallingAgent, tool
from manyhands._bridge import workers
from manyhands.testing import ScriptedModel
from tests.agents.replies import calls, code, final

TIMED_OUT = {"error": "Tool timed out after 0.05s", "timeout": True}


class Door:
    """A sync tool that waits until it is let go, and says which threads it had."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.begun = threading.Semaphore(0)
        self.threads: list[str] = []

    def tool(self) -> Any:
        @tool
        def hang() -> str:
            """Wait."""
            self.threads.append(threading.current_thread().name)
            self.begun.release()
            self.release.wait(30)
            return "late"

        return hang


def agent_of(tools: list[Any], *replies: Any, **options: Any) -> ToolCallingAgent:
    return ToolCallingAgent(tools, ScriptedModel({"": list(replies)}), **options)


async def first_output(agent: Any) -> Any:
    run = agent.arun("go")
    await run
    return run.memory.steps[1].tool_outputs[0].output


@tool
async def endless() -> str:
    """Wait for ever."""
    await asyncio.Event().wait()
    return "never"


async def test_an_async_tool_that_is_too_slow_is_cancelled_and_the_run_goes_on() -> None:
    assert (
        await first_output(agent_of([endless], calls(("endless", {})), final(1), tool_timeout=0.05))
        == TIMED_OUT
    )


async def test_a_sync_tool_that_is_too_slow_is_left_alone_counted_and_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    door, before = Door(), workers.stats()["abandoned_threads"]
    agent = agent_of([door.tool()], calls(("hang", {})), final(1), tool_timeout=0.05, name="researcher")
    assert await first_output(agent) == TIMED_OUT
    assert workers.stats()["abandoned_threads"] == before + 1
    assert "Tool hang of agent researcher timed out after 0.05s" in caplog.text
    door.release.set()
    while workers.stats()["abandoned_threads"] > before:  # noqa: ASYNC110 - nothing tells when a thread ends
        await asyncio.sleep(0.001)


def test_a_sync_tool_that_is_too_slow_times_out_under_run_too() -> None:
    door = Door()
    agent = agent_of([door.tool()], calls(("hang", {})), final(1), tool_timeout=0.05, verbosity_level=-1)
    agent.run("go")
    assert agent.memory.steps[1].tool_outputs[0].output == TIMED_OUT  # type: ignore[attr-defined]
    door.release.set()


async def test_generated_code_gets_the_timeout_as_a_value() -> None:
    model = ScriptedModel([code("final_answer(endless()['timeout'])")])
    assert await CodeAgent([endless], model, tool_timeout=0.05).arun("go") is True


async def test_the_limit_of_the_tool_wins_over_the_agents() -> None:
    @tool(timeout=0.05)
    async def own() -> str:
        """Wait for ever."""
        await asyncio.Event().wait()
        return "never"

    assert await first_output(agent_of([own], calls(("own", {})), final(1), tool_timeout=60)) == TIMED_OUT


async def test_a_timeout_that_a_tool_raises_itself_is_its_error() -> None:
    @tool
    async def impatient() -> str:
        """Give up."""
        raise TimeoutError("my own")

    run = agent_of([impatient], calls(("impatient", {})), final(1), tool_timeout=5).arun("go")
    await run
    assert "my own" in str(run.memory.steps[1].error)  # type: ignore[attr-defined]


async def test_hung_tools_take_no_place_from_later_calls() -> None:
    door = Door()

    @tool
    def quick() -> str:
        """Be quick."""
        return "quick"

    hanging = calls(*[("hang", {})] * 4)
    run = agent_of([door.tool(), quick], hanging, calls(("quick", {})), final(1), tool_timeout=0.05).arun(
        "go"
    )
    await run
    assert run.memory.steps[2].tool_outputs[0].output == "quick"  # type: ignore[attr-defined]
    door.release.set()


async def test_waiting_for_a_thread_does_not_count_as_the_tools_time() -> None:
    lock = threading.Lock()

    @tool
    def brief() -> str:
        """Take a moment, one at a time."""
        with lock:
            time.sleep(0.03)
        return "done"

    agent = agent_of([brief], calls(*[("brief", {})] * 5), final(1), tool_timeout=0.09, max_tool_threads=1)
    run = agent.arun("go")
    await run
    assert [o.output for o in run.memory.steps[1].tool_outputs] == ["done"] * 5  # type: ignore[attr-defined]


async def test_threads_are_named_after_the_agent_and_at_most_two_work_for_a_run() -> None:
    door = Door()
    run = agent_of([door.tool()], calls(*[("hang", {})] * 5), final(1), name="researcher").arun("go")
    task = asyncio.create_task(run)
    await asyncio.to_thread(lambda: (door.begun.acquire(), door.begun.acquire()))
    assert len(door.threads) == 2
    door.release.set()
    await task
    assert len(door.threads) == 5
    assert all(name.startswith("tool-researcher_") for name in door.threads)


async def test_one_agent_in_many_runs_is_not_held_to_the_threads_of_one() -> None:
    everyone = threading.Barrier(20)

    @tool
    def meet() -> str:
        """Meet all other runs."""
        everyone.wait(20)
        return "met"

    agent = agent_of([meet], calls(("meet", {})), final(1))
    assert await asyncio.gather(*(agent.arun("go") for _ in range(20))) == [1] * 20


def test_a_hung_tool_does_not_delay_the_end_of_the_process() -> None:
    script = """
        import threading
        from manyhands import ToolCallingAgent, tool
        from manyhands.testing import ScriptedModel
        from tests.agents.replies import calls, final
        @tool
        def hang() -> str:
            '''Wait for ever.'''
            threading.Event().wait()
            return "never"
        agent = ToolCallingAgent([hang], ScriptedModel([calls(("hang", {})), final(1)]), tool_timeout=0.05)
        print(agent.run("go"))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        check=True,
        timeout=30,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "1"


@pytest.mark.parametrize("value", ["30", -1, 0, True])
def test_a_time_limit_that_cannot_be_one_is_refused(value: Any) -> None:
    with pytest.raises(CallerError, match="tool_timeout must be a number of seconds above 0"):
        agent_of([], tool_timeout=value)


def test_a_limit_is_shown_as_it_was_given() -> None:
    from manyhands.acting.calls import timed_out

    assert timed_out(30) == {"error": "Tool timed out after 30s", "timeout": True}
