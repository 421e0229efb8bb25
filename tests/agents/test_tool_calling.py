"""The agent that calls tools."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from PIL import Image

from manyhands import (
    ActionStep,
    AgentExecutionError,
    AgentParsingError,
    AgentToolCallError,
    AgentToolExecutionError,
    CallerError,
    ChatMessage,
    MessageRole,
    ToolCallingAgent,
    tool,
)
from manyhands.testing import FunctionModel, ScriptedModel
from tests.agents.replies import calls, final


@tool
async def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: One.
        b: The other.
    """
    return a + b


@tool
def fail(why: str) -> str:
    """Fail.

    Args:
        why: What to say.
    """
    raise LookupError(why)


@tool
def which_thread() -> str:
    """Tell the thread."""
    return threading.current_thread().name


def agent_of(
    *replies: Any, tools: tuple[Any, ...] = (add, fail, which_thread), **options: Any
) -> ToolCallingAgent:
    return ToolCallingAgent(tools, ScriptedModel({"": list(replies)}), **options)


async def steps_of(agent: ToolCallingAgent, task: str = "go", **options: Any) -> list[ActionStep]:
    run = agent.arun(task, **options)
    await run
    return [step for step in run.memory.steps if isinstance(step, ActionStep)]


async def test_results_stand_in_call_order_whatever_finishes_first() -> None:
    gate = asyncio.Event()

    @tool
    async def slow() -> str:
        """Wait."""
        await gate.wait()
        return "slow"

    @tool
    async def quick() -> str:
        """Open the gate."""
        gate.set()
        return "quick"

    first, _ = await steps_of(agent_of(calls(("slow", {}), ("quick", {})), final(1), tools=(slow, quick)))
    assert [output.output for output in first.tool_outputs] == ["slow", "quick"]
    assert first.observations == "slow\nquick"


async def test_one_failing_call_loses_no_other_result() -> None:
    first, _ = await steps_of(
        agent_of(
            calls(("add", {"a": 1, "b": 2}), ("fail", {"why": "gone"}), ("add", {"a": 3, "b": 4})), final(1)
        )
    )
    assert [output.output for output in first.tool_outputs] == [3, None, 7]
    assert isinstance(first.error, AgentToolExecutionError)
    assert "LookupError: gone" in first.to_messages()[2].text


@pytest.mark.parametrize("ids", [["", "", ""], ["x", "x", "x"], ["call_1", "", "call_1"]])
async def test_empty_and_repeated_ids_are_told_apart(ids: list[str]) -> None:
    reply = calls(*[("add", {"a": number, "b": 0}) for number in range(3)], ids=ids)
    first, _ = await steps_of(agent_of(reply, final(1)))
    answered = [message.tool_call_id for message in first.to_messages()[1:]]
    assert len(set(answered)) == 3
    assert [output.output for output in first.tool_outputs] == [0, 1, 2]
    native = first.model_output_message.tool_calls or []  # type: ignore[union-attr]
    assert [call.id for call in native] == answered


async def test_an_unknown_tool_is_told_to_the_model_with_what_there_is() -> None:
    first, _ = await steps_of(agent_of(calls(("ad", {"a": 1, "b": 2})), final(1)))
    assert isinstance(first.error, AgentToolCallError)
    assert "Unknown tool 'ad', should be one of: add, fail, final_answer" in str(first.error)


async def test_arguments_that_do_not_fit_are_told_to_the_model() -> None:
    first, _ = await steps_of(agent_of(calls(("add", {"a": "one", "b": 2})), final(1)))
    assert isinstance(first.error, AgentToolCallError)
    assert "'a'" in str(first.error)


async def test_arguments_may_come_as_json_text() -> None:
    first, _ = await steps_of(agent_of(calls(("add", '{"a": 1, "b": 2}')), final(1)))
    assert first.tool_outputs[0].output == 3


async def test_an_answer_beside_other_calls_is_not_taken() -> None:
    reply = calls(("add", {"a": 1, "b": 2}), ("final_answer", {"answer": "guessed"}))
    agent = agent_of(reply, final("seen"))
    run = agent.arun("go")
    assert await run == "seen"
    first = run.memory.steps[1]
    assert isinstance(first, ActionStep)
    assert isinstance(first.error, AgentExecutionError)
    assert "please do not perform any other tool calls" in str(first.error)
    assert first.tool_outputs[0].output == 3


async def test_a_reply_without_a_call_is_told_so_and_the_run_goes_on() -> None:
    first, _ = await steps_of(agent_of("I would rather talk.", final(1)))
    assert isinstance(first.error, AgentParsingError)


async def test_calls_written_as_text_are_read_and_stay_text() -> None:
    text = 'I add. {"name": "add", "arguments": {"a": 1, "b": 2}}'
    first, _ = await steps_of(agent_of(text, final(1)))
    assert first.tool_outputs[0].output == 3
    assert [message.role for message in first.to_messages()] == [
        MessageRole.ASSISTANT,
        MessageRole.TOOL_RESPONSE,
    ]
    assert first.to_messages()[1].tool_call_id is None


async def test_sync_tools_never_run_on_the_loop_under_arun() -> None:
    first, _ = await steps_of(agent_of(calls(("which_thread", {})), final(1)))
    assert first.tool_outputs[0].output != threading.current_thread().name


def test_a_sync_tool_runs_in_the_callers_thread_under_run() -> None:
    agent = agent_of(calls(("which_thread", {})), final(1), verbosity_level=-1)
    agent.run("go")
    assert agent.memory.steps[1].tool_outputs[0].output == threading.current_thread().name  # type: ignore[attr-defined]


def test_sync_tools_of_one_reply_run_side_by_side_under_run_too() -> None:
    both = threading.Barrier(2)

    @tool
    def meet() -> str:
        """Meet the other call."""
        both.wait(10)
        return "met"

    agent = agent_of(calls(("meet", {}), ("meet", {})), final(1), tools=(meet,), verbosity_level=-1)
    agent.run("go")
    assert agent.memory.steps[1].observations == "met\nmet"  # type: ignore[attr-defined]


async def test_no_more_calls_of_a_reply_run_at_once_than_allowed() -> None:
    now, peak = 0, 0

    @tool
    async def work() -> str:
        """Work."""
        nonlocal now, peak
        now += 1
        peak = max(peak, now)
        await asyncio.sleep(0)
        now -= 1
        return "done"

    await steps_of(agent_of(calls(*[("work", {})] * 6), final(1), tools=(work,), max_concurrent_tools=2))
    assert peak == 2


async def test_breaking_out_in_the_middle_of_parallel_calls_ends_them_all() -> None:
    ended = []

    @tool
    async def wait(name: str) -> str:
        """Wait for ever.

        Args:
            name: Who waits.
        """
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)
        return name

    @tool
    async def quick() -> str:
        """Be done."""
        return "quick"

    reply = calls(("wait", {"name": "a"}), ("quick", {}), ("wait", {"name": "b"}))
    run = agent_of(reply, tools=(wait, quick)).arun("go")
    async for event in run:
        if type(event).__name__ == "ToolOutput":
            break
    await run.aclose()
    assert sorted(ended) == ["a", "b"]
    step = run.memory.steps[-1]
    assert isinstance(step, ActionStep)
    assert [output.output for output in step.tool_outputs] == ["quick"], "partial results stay readable"


async def test_pictures_that_tools_return_can_be_passed_on_by_name() -> None:
    picture = Image.new("RGB", (3, 4))

    @tool
    def draw() -> Any:
        """Draw.

        Returns:
            The picture.
        """
        return picture

    @tool
    def measure(image: Any) -> str:
        """Measure a picture.

        Args:
            image: The picture.
        """
        return str(image.size)

    replies = (calls(("draw", {})), calls(("measure", {"image": "image.png"})), final(1))
    steps = await steps_of(agent_of(*replies, tools=(draw, measure)))
    assert steps[0].observations == "Stored 'image.png' in memory."
    assert steps[1].observations == "(3, 4)"


async def test_additional_args_are_told_and_can_be_passed_by_name() -> None:
    steps = await steps_of(
        agent_of(calls(("add", {"a": "first", "b": 1})), final(1)), additional_args={"first": 41}
    )
    assert steps[0].tool_outputs[0].output == 42


async def test_images_of_the_task_are_sent_once() -> None:
    model = ScriptedModel([calls(("add", {"a": 1, "b": 2})), final(1)])
    await ToolCallingAgent([add], model).arun("look", images=[Image.new("RGB", (1, 1))])
    for call in model.calls:
        parts = [
            part for message in call.messages for part in message.content or [] if isinstance(part, dict)
        ]
        assert sum(part["type"] == "image" for part in parts) == 1


async def test_the_model_is_offered_the_tools() -> None:
    model = ScriptedModel([final(1)])
    await ToolCallingAgent([add], model).arun("go")
    assert [offered.name for offered in model.calls[0].tools] == ["add", "final_answer"]
    assert model.calls[0].stop_sequences == ["Observation:", "Calling tools:"]


async def test_many_runs_of_one_agent_are_not_mixed() -> None:
    """A thousand runs at once, each with its own task, arguments and tool results."""

    @tool
    async def mine(number: int, secret: int) -> int:
        """Combine.

        Args:
            number: A number.
            secret: A state variable.
        """
        await asyncio.sleep(0)
        return number * 10_000 + secret

    def reply(messages: list[ChatMessage]) -> Any:
        number = int(messages[1].text.split("task ")[1].split("\n")[0])
        seen = [message for message in messages if message.role == MessageRole.TOOL_RESPONSE]
        if not seen:
            return calls(("mine", {"number": number, "secret": "secret"}))
        return final(seen[-1].text.removeprefix("Observation:\n"))

    agent = ToolCallingAgent([mine], FunctionModel(reply, record=False))
    runs = [agent.arun(f"task {n}", additional_args={"secret": 7 * n}) for n in range(1000)]
    answers = await asyncio.gather(*runs)
    assert answers == [str(n * 10_000 + 7 * n) for n in range(1000)]
    assert len({run.id for run in runs}) == 1000
    assert all(run.state == {"secret": 7 * n} for n, run in enumerate(runs))


def test_one_agent_may_run_in_many_threads_at_once() -> None:
    def reply(messages: list[ChatMessage]) -> Any:
        time.sleep(0.001)
        return final(messages[1].text)

    agent = ToolCallingAgent([], FunctionModel(reply), verbosity_level=-1)
    answers: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda n=n: answers.__setitem__(n, agent.run(f"task {n}"))) for n in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: f"New task:\ntask {n}" for n in range(16)}


@pytest.mark.parametrize("number", [0, -1])
def test_a_cap_on_tool_calls_must_be_positive(number: int) -> None:
    with pytest.raises(CallerError, match="max_tool_threads must be at least 1"):
        ToolCallingAgent(model=ScriptedModel([]), max_tool_threads=number)
