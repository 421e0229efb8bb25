"""The agent that writes Python."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from manyhands import (
    ActionOutput,
    ActionStep,
    AgentParsingError,
    CallerError,
    ChatMessage,
    CodeAgent,
    CodeOutput,
    ExecutionTimeoutError,
    FinalAnswerStep,
    InterpreterError,
    LocalPythonExecutor,
    MessageRole,
    Tool,
    ToolCall,
    ToolCallingAgent,
    tool,
)
from manyhands.testing import FunctionModel, ScriptedModel
from tests.agents.replies import code, final


@tool
async def double(number: int) -> int:
    """Double a number.

    Args:
        number: The number.
    """
    await asyncio.sleep(0)
    return 2 * number


@tool
def which_thread() -> str:
    """Tell the thread."""
    return threading.current_thread().name


def agent_of(*replies: Any, **options: Any) -> CodeAgent:
    options.setdefault("tools", [double, which_thread])
    return CodeAgent(model=ScriptedModel(list(replies)), **options)


async def steps_of(agent: CodeAgent, task: str = "go", **options: Any) -> list[ActionStep]:
    run = agent.arun(task, **options)
    await run
    return [step for step in run.memory.steps if isinstance(step, ActionStep)]


async def test_code_runs_and_the_model_sees_what_came_of_it() -> None:
    first, _ = await steps_of(agent_of(code("x = 6 * 7\nprint('x is', x)\nx + 1"), code("final_answer(x)")))
    assert first.code_action == "x = 6 * 7\nprint('x is', x)\nx + 1"
    assert first.observations == "Execution logs:\nx is 42\n\nLast output from code snippet:\n43"
    assert first.action_output == 43


async def test_variables_live_from_step_to_step_and_not_from_run_to_run() -> None:
    agent = agent_of(code("x = 1"), code("final_answer(x + 1)"), code("final_answer('x' in dir())"))
    assert await agent.arun("one") == 2
    assert await agent.arun("two") is False


async def test_a_continued_conversation_keeps_its_variables() -> None:
    agent = agent_of(code("x = 1\nfinal_answer(0)"), code("final_answer(x + 1)"))
    await agent.arun("one")
    assert await agent.arun("two", reset=False) == 2
    session = agent_of(code("y = 5\nfinal_answer(0)"), code("final_answer(y)")).session()
    await session.arun("one")
    assert await session.arun("two") == 5


async def test_events_come_in_order() -> None:
    events = [event async for event in agent_of(code("1"), code("final_answer(2)")).arun("go")]
    assert [type(event) for event in events] == [ToolCall, ActionOutput, ActionStep] * 2 + [FinalAnswerStep]
    assert events[0] == ToolCall("python_interpreter", "1", "call_1")


@pytest.mark.parametrize(
    "source",
    [
        "final_answer(double(4) + 1)",
        "final_answer(sum(double(n) for n in range(3)) + 3)",
        "final_answer(int(f'{double(4)}') + 1)",
        "final_answer(max([1, 2], key=lambda n: double(n)) + 7)",
        "import asyncio\nfinal_answer(sum(await asyncio.gather(*[double(n) for n in (1, 2)])) + 3)",
    ],
)
async def test_async_tools_are_plain_functions_to_the_code(source: str) -> None:
    assert await agent_of(code(source)).arun("go") == 9


async def test_sync_tools_never_run_on_the_loop_under_arun() -> None:
    assert await agent_of(code("final_answer(which_thread())")).arun("go") != threading.current_thread().name


def test_sync_tools_run_in_the_callers_thread_under_run() -> None:
    agent = agent_of(code("final_answer(which_thread())"), verbosity_level=-1)
    assert agent.run("go") == threading.current_thread().name


async def test_a_failing_block_tells_its_error_and_keeps_its_prints() -> None:
    first, _ = await steps_of(agent_of(code("print('so far')\nx = 1 / 0"), code("final_answer(1)")))
    assert isinstance(first.error, InterpreterError)
    assert "ZeroDivisionError" in str(first.error)
    assert first.observations == "Execution logs:\nso far\n"
    text = first.to_messages()[-1].text
    assert "so far" in text and "Now let's retry" in text


async def test_a_forbidden_import_says_what_is_allowed() -> None:
    first, _ = await steps_of(agent_of(code("import subprocess"), code("final_answer(1)")))
    assert "subprocess" in str(first.error) and "math" in str(first.error)


async def test_imports_can_be_authorized() -> None:
    agent = agent_of(
        code("import json\nfinal_answer(json.dumps([1]))"), additional_authorized_imports=["json"]
    )
    assert await agent.arun("go") == "[1]"
    assert "json" in agent.system_prompt


async def test_endless_code_ends_at_its_limit_and_the_run_goes_on() -> None:
    agent = agent_of(
        code("while True: pass"), code("final_answer('after')"), executor_kwargs={"timeout_seconds": 0.1}
    )
    first, _ = await steps_of(agent)
    assert isinstance(first.error, ExecutionTimeoutError)


async def test_cancelling_a_run_ends_its_endless_code() -> None:
    run = agent_of(code("while True: pass")).arun("go")
    task = asyncio.create_task(run)
    while run.activity != "code":  # noqa: ASYNC110 - nothing tells when code begins
        await asyncio.sleep(0)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)


async def test_a_reply_without_code_is_told_so() -> None:
    first, _ = await steps_of(agent_of("I will think about it.", code("final_answer(1)")))
    assert isinstance(first.error, AgentParsingError)


async def test_the_closing_tag_at_which_the_reply_stopped_is_put_back() -> None:
    first, _ = await steps_of(agent_of("Thought: t\n<code>\n1 + 1\n", code("final_answer(1)")))
    assert first.model_output == "Thought: t\n<code>\n1 + 1\n</code>"
    assert first.action_output == 2


async def test_code_may_stand_in_markdown() -> None:
    agent = agent_of("```python\nfinal_answer(1)\n```", code_block_tags="markdown")
    assert await agent.arun("go") == 1
    assert "```python" in agent.system_prompt


async def test_code_may_come_as_structured_output() -> None:
    reply = json.dumps({"thought": "t", "code": "final_answer(5)"})
    agent = agent_of(reply, use_structured_outputs_internally=True)
    assert await agent.arun("go") == 5
    assert '"thought"' in agent.system_prompt
    options = agent.model.calls[0].options  # type: ignore[union-attr]
    assert options["response_format"]["json_schema"]["name"] == "ThoughtAndCodeAnswer"


async def test_additional_args_are_variables_of_the_code() -> None:
    agent = agent_of(code("final_answer(rows[1] + 1)"))
    assert await agent.arun("go", additional_args={"rows": [1, 2]}) == 3


async def test_a_managed_agent_is_a_function_of_the_code() -> None:
    def work(messages: list[ChatMessage]) -> Any:
        return final(messages[1].text.split("---")[1].strip().upper())

    worker = ToolCallingAgent([], FunctionModel(work), name="worker", description="Works.")
    agent = agent_of(code("final_answer([worker(task=t) for t in ('dig', 'saw')])"), managed_agents=[worker])
    reports = await agent.arun("go")
    assert ["DIG" in reports[0], "SAW" in reports[1]] == [True, True]


async def test_an_executor_of_the_caller_is_copied_for_each_run() -> None:
    executor = LocalPythonExecutor(["json"], timeout_seconds=5)
    agent = agent_of(code("x = 1\nfinal_answer(x)"), code("final_answer('x' in dir())"), executor=executor)
    assert await agent.arun("one") == 1
    assert agent.python_executor is not executor
    assert await agent.arun("two") is False


class Notebook:
    """An executor as other libraries have them: sync, one for all, called with code."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}
        self.busy = 0
        self.cleaned = False

    def send_tools(self, tools: dict[str, Any]) -> None:
        self.tools = tools

    def send_variables(self, variables: dict[str, Any]) -> None:
        self.state.update(variables)

    def __call__(self, code: str) -> CodeOutput:
        self.busy += 1
        assert self.busy == 1, "two runs at once"
        try:
            return CodeOutput(eval(code, {}, self.state), "printed", code.startswith("'final"))
        finally:
            self.busy -= 1

    def cleanup(self) -> None:
        self.cleaned = True


async def test_an_executor_that_cannot_be_copied_serves_one_run_after_the_other() -> None:
    notebook = Notebook()
    model = ScriptedModel({"": [code("1 + rows"), code("1 / 0"), code("'final'")]})
    agent = CodeAgent([], model, executor=notebook)
    runs = [agent.arun("go", additional_args={"rows": n}, return_full_result=True) for n in range(5)]
    results = await asyncio.gather(*runs)
    assert [result.steps[1]["action_output"] for result in results] == [1, 2, 3, 4, 5]
    assert "ZeroDivisionError" in results[0].steps[2]["error"]["message"]
    assert not notebook.cleaned
    await agent.acleanup()
    assert notebook.cleaned


def test_something_that_is_no_executor_is_refused_at_once() -> None:
    with pytest.raises(CallerError, match="cannot be an executor"):
        agent_of(executor=print)


def test_an_unknown_executor_type_says_what_there_is() -> None:
    with pytest.raises(CallerError, match="local"):
        agent_of(executor_type="cloud")


async def test_an_own_final_answer_tool_takes_its_own_inputs() -> None:
    class Verdict(Tool):
        name = "final_answer"
        description = "Give the verdict."
        inputs = {
            "yes": {"type": "boolean", "description": "Whether it is so."},
            "why": {"type": "string", "description": "The reason."},
        }
        output_type = "object"

        async def forward(self, yes: bool, why: str) -> Any:
            return {"yes": yes, "why": why}

    agent = agent_of(code("final_answer(yes=True, why='seen')"), tools=[Verdict()])
    assert await agent.arun("go") == {"yes": True, "why": "seen"}


async def test_many_code_agents_at_once_are_not_mixed() -> None:
    """A thousand runs of one agent: code, variables, prints and tools of each stay its own."""

    def reply(messages: list[ChatMessage]) -> Any:
        number = int(messages[1].text.split("task ")[1].split("\n")[0])
        if messages[-1].role != MessageRole.TOOL_RESPONSE:
            return code(f"mine = double({number}) + secret\nprint('I am', {number})")
        assert f"I am {number}\n" in messages[-1].text
        return code("final_answer(mine)")

    agent = CodeAgent([double], FunctionModel(reply, record=False))
    runs = [agent.arun(f"task {n}", additional_args={"secret": 7 * n}) for n in range(1000)]
    assert await asyncio.gather(*runs) == [9 * n for n in range(1000)]


async def test_giant_output_is_cut_in_the_middle() -> None:
    first, _ = await steps_of(agent_of(code("'a' * 100_000"), code("final_answer(1)")))
    assert first.observations is not None
    assert len(first.observations) < 30_000
    assert "truncated" in first.observations
