"""Spans and metrics, as a collector receives them."""

from __future__ import annotations

import asyncio
import functools
import json
import subprocess
import sys
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

from manyhands import (
    CallerError,
    CodeAgent,
    Model,
    MultiStepAgent,
    RateLimitError,
    RunTimeoutError,
    TokenUsage,
    Tool,
    ToolCallingAgent,
    tool,
)
from manyhands.limits.capacity import CapacityLimiter
from manyhands.limits.retry import RetryingModel, RetryPolicy
from manyhands.observe.telemetry import Telemetry, instrument
from manyhands.testing import FunctionModel, ScriptedModel
from tests.agents.replies import calls, code, final
from tests.observe.receiver import Pipe, collecting, piping

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from manyhands import ChatMessage

ERROR = 2
CLIENT = 3
tracer = trace.get_tracer("tests")


@pytest.fixture(params=["usual", "foreign"])
async def pipe(request: pytest.FixtureRequest) -> AsyncIterator[Pipe]:
    """A way to a collector; spans made the cheap way, and made by the SDK, arrive alike."""
    async with piping(foreign=request.param == "foreign") as pipe:
        yield pipe


@pytest.fixture
async def one_pipe() -> AsyncIterator[Pipe]:
    async with piping() as pipe:
        yield pipe


@tool
async def look_up(key: str) -> str:
    """Look up what a key stands for.

    Args:
        key: The key.
    """
    return f"value of {key}"


def tool_agent(pipe: Pipe, *replies: Any, tools: Any = (look_up,), **options: Any) -> ToolCallingAgent:
    content = options.pop("capture_content", False)
    model = ScriptedModel(list(replies), token_usage=TokenUsage(7, 3))
    observers = [pipe.telemetry(content).observe]
    return ToolCallingAgent(list(tools), model, name="solver", observers=observers, **options)


def code_agent(pipe: Pipe, *replies: Any, tools: Any = (look_up,), **options: Any) -> CodeAgent:
    observers = [pipe.telemetry().observe]
    return CodeAgent(list(tools), ScriptedModel(list(replies)), name="coder", observers=observers, **options)


# --- Trees ----------------------------------------------------------------------------------------


async def test_a_tool_agent_makes_a_tree_of_its_questions_and_calls(pipe: Pipe) -> None:
    run = tool_agent(pipe, calls(("look_up", {"key": "a"})), final("b")).arun("go")
    assert await run == "b"
    found = await pipe.arrived()
    assert found.tree() == [
        "invoke_agent solver",
        "  chat scripted",
        "  execute_tool look_up",
        "  chat scripted",
        "  execute_tool final_answer",
    ]
    root, chat, call = (
        found.one("invoke_agent solver"),
        *found.named("chat scripted")[:1],
        found.one("execute_tool look_up"),
    )
    assert root.attributes == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": "ScriptedModel",
        "gen_ai.request.model": "scripted",
        "gen_ai.agent.name": "solver",
        "gen_ai.conversation.id": run.id,
        "manyhands.run.id": run.id,
        "manyhands.run.status": "success",
        "manyhands.run.steps": 2,
        "gen_ai.usage.input_tokens": 14,
        "gen_ai.usage.output_tokens": 6,
    }
    assert chat.kind == CLIENT
    assert chat.attributes["gen_ai.operation.name"] == "chat"
    assert chat.attributes["gen_ai.usage.input_tokens"] == 7
    assert chat.attributes["gen_ai.usage.output_tokens"] == 3
    assert chat.attributes["gen_ai.conversation.id"] == run.id
    assert call.attributes["gen_ai.tool.name"] == "look_up"
    assert call.attributes["gen_ai.tool.call.id"] == "id_0"
    assert call.attributes["manyhands.step"] == 1
    assert all(span.began <= span.ended for span in found.spans)
    assert [span.status for span in found.spans] == [0] * 5


async def test_tools_called_in_the_middle_of_code_are_below_the_code(pipe: Pipe) -> None:
    agent = code_agent(pipe, code("found = [look_up(key=k) for k in 'ab']\nfinal_answer(found)"))
    assert await agent.arun("go") == ["value of a", "value of b"]
    found = await pipe.arrived()
    assert found.tree() == [
        "invoke_agent coder",
        "  chat scripted",
        "  execute_tool python_interpreter",
        "    execute_tool look_up",
        "    execute_tool look_up",
        "    execute_tool final_answer",
    ]


async def test_tools_gathered_by_code_are_siblings(pipe: Pipe) -> None:
    agent = code_agent(
        pipe,
        code("import asyncio\nfound = await asyncio.gather(look_up('a'), look_up('b'))\nfinal_answer(found)"),
        additional_authorized_imports=["asyncio"],
    )
    await agent.arun("go")
    found = await pipe.arrived()
    below = {found.parent(span).name for span in found.named("execute_tool look_up")}  # type: ignore[union-attr]
    assert below == {"execute_tool python_interpreter"}


async def test_code_in_another_process_has_its_tool_calls_below_it(one_pipe: Pipe) -> None:
    agent = code_agent(one_pipe, code("final_answer([look_up(k) for k in 'ab'])"), executor_type="process")
    async with agent:
        assert await agent.arun("go") == ["value of a", "value of b"]
    assert (await one_pipe.arrived()).tree() == [
        "invoke_agent coder",
        "  chat scripted",
        "  execute_tool python_interpreter",
        "    execute_tool look_up",
        "    execute_tool look_up",
        "    execute_tool final_answer",
    ]


async def test_calls_side_by_side_are_siblings(pipe: Pipe) -> None:
    both = asyncio.Barrier(2)

    @tool
    async def meet(name: str) -> str:
        """Wait for the other one.

        Args:
            name: Who comes.
        """
        await both.wait()
        with tracer.start_as_current_span(f"inside {name}"):
            return name

    wanted = calls(("meet", {"name": "ann"}), ("meet", {"name": "bob"}))
    await tool_agent(pipe, wanted, final("x"), tools=[meet]).arun("go")
    found = await pipe.arrived()
    assert [line for line in found.tree() if "meet" in line] == ["  execute_tool meet"] * 2


async def test_spans_of_the_user_are_below_those_of_the_tool_they_are_made_in(one_pipe: Pipe) -> None:
    own = one_pipe.traces.get_tracer("user")

    @tool
    async def waits(key: str) -> str:
        """Do something.

        Args:
            key: The key.
        """
        with own.start_as_current_span("in a task"):
            await asyncio.create_task(_nested())
        return key

    async def _nested() -> None:
        with own.start_as_current_span("in a task of its own"):
            trace.get_current_span().set_attribute("mine", True)

    @tool
    def works(key: str) -> str:
        """Do something on a thread.

        Args:
            key: The key.
        """
        with own.start_as_current_span("on a thread"):
            return threading.current_thread().name

    agent = code_agent(one_pipe, code("waits('a')\nfinal_answer(works('b'))"), tools=[waits, works])
    with own.start_as_current_span("request"):
        assert (await agent.arun("go")).startswith("tool-")
    assert trace.get_current_span() is trace.INVALID_SPAN
    found = await one_pipe.arrived()
    assert found.tree() == [
        "request",
        "  invoke_agent coder",
        "    chat scripted",
        "    execute_tool python_interpreter",
        "      execute_tool waits",
        "        in a task",
        "          in a task of its own",
        "      execute_tool works",
        "        on a thread",
        "      execute_tool final_answer",
    ]


async def test_what_is_current_takes_the_users_attributes_events_and_status(pipe: Pipe) -> None:
    @tool
    async def notes(key: str) -> str:
        """Do something.

        Args:
            key: The key.
        """
        span = trace.get_current_span()
        assert span.is_recording()
        span.set_attribute("user.key", key)
        span.set_attributes({"user.list": ["a", "b"]})
        span.add_event("halfway", {"n": 1})
        span.record_exception(ValueError("only noted"))
        span.add_link(span.get_span_context(), {"why": "test"})
        span.update_name("renamed")
        span.set_status(trace.StatusCode.ERROR, "as the user says")
        return key

    await tool_agent(pipe, calls(("notes", {"key": "k"})), final("x"), tools=[notes]).arun("go")
    span = (await pipe.arrived()).one("renamed")
    assert span.attributes["user.key"] == "k"
    assert [value.string_value for value in span.attributes["user.list"].values] == ["a", "b"]
    assert span.events[0] == ("halfway", {"n": 1})
    assert span.events[1][1]["exception.message"] == "only noted"
    assert (span.status, span.said) == (ERROR, "as the user says")


async def test_a_span_takes_as_many_attributes_as_the_sdk_allows(pipe: Pipe) -> None:
    @tool
    async def notes() -> str:
        """Note a lot."""
        for number in range(200):
            trace.get_current_span().set_attribute(f"user.{number}", number)
        return "noted"

    await tool_agent(pipe, calls(("notes", {})), final("x"), tools=[notes]).arun("go")
    attributes = (await pipe.arrived()).one("execute_tool notes").attributes
    assert len(attributes) == 128
    assert attributes["user.199"] == 199


async def test_a_processor_that_comes_later_gets_what_ends_from_then_on(one_pipe: Pipe) -> None:
    late = InMemorySpanExporter()

    @tool
    async def adds() -> str:
        """Add a processor."""
        one_pipe.traces.add_span_processor(SimpleSpanProcessor(late))
        return "added"

    await tool_agent(one_pipe, calls(("adds", {})), final("x"), tools=[adds]).arun("go")
    seen = {span.name: span for span in late.get_finished_spans()}
    assert [*seen] == [
        "execute_tool adds",
        "chat scripted",
        "execute_tool final_answer",
        "invoke_agent solver",
    ]
    root, chat = seen["invoke_agent solver"], seen["chat scripted"]
    assert chat.parent == root.context
    assert json.loads(chat.to_json())["parent_id"] == f"0x{root.context.span_id:016x}"
    assert chat.instrumentation_scope.name == "manyhands"  # type: ignore[union-attr]
    assert len((await one_pipe.arrived()).spans) == 5


async def test_a_managed_agent_is_below_the_call_of_it(pipe: Pipe) -> None:
    worker = ToolCallingAgent([], ScriptedModel([final("dug")]), name="worker", description="Works.")
    boss = tool_agent(pipe, calls(("worker", {"task": "dig"})), final("x"), managed_agents=[worker])
    run = boss.arun("go")
    await run
    found = await pipe.arrived()
    assert found.tree() == [
        "invoke_agent solver",
        "  chat scripted",
        "  execute_tool worker",
        "    invoke_agent worker",
        "      chat scripted",
        "      execute_tool final_answer",
        "  chat scripted",
        "  execute_tool final_answer",
    ]
    child = found.one("invoke_agent worker")
    assert child.attributes["manyhands.run.parent_id"] == run.id
    assert child.attributes["gen_ai.agent.description"] == "Works."


def test_a_run_of_sync_code_has_the_callers_span_around_it_and_tools_in_the_callers_thread() -> None:
    async def scenario() -> None:
        async with piping() as pipe:
            await asyncio.get_running_loop().run_in_executor(None, work, pipe)
            found = await pipe.arrived()
            assert found.tree() == [
                "script",
                "  invoke_agent solver",
                "    chat scripted",
                "    execute_tool thread",
                "      inside",
                "    chat scripted",
                "    execute_tool final_answer",
            ]

    def work(pipe: Pipe) -> None:
        own = pipe.traces.get_tracer("user")

        @tool
        def thread() -> int:
            """Tell the thread."""
            with own.start_as_current_span("inside"):
                return threading.get_ident()

        agent = tool_agent(pipe, calls(("thread", {})), final("x"), tools=[thread], verbosity_level=-1)
        with own.start_as_current_span("script"):
            agent.run("go")
        assert agent.memory.steps[1].tool_outputs[0].output == threading.get_ident()  # type: ignore[attr-defined]

    asyncio.run(scenario())


async def test_a_stream_is_one_question_with_the_time_of_its_first_piece(pipe: Pipe) -> None:
    agent = tool_agent(pipe, final("x" * 50), stream_outputs=True)
    async for _ in agent.arun("go"):
        pass
    found = await pipe.arrived()
    chat = found.one("chat scripted")
    assert chat.attributes["gen_ai.request.stream"] is True
    assert chat.attributes["gen_ai.response.time_to_first_chunk"] > 0
    assert found.total("gen_ai.client.operation.time_to_first_chunk") == 1


async def test_turns_of_a_session_share_a_conversation(one_pipe: Pipe) -> None:
    model = ScriptedModel([final("a"), final("b")], latency=0.01)
    session = ToolCallingAgent([], model, name="solver", observers=[one_pipe.telemetry().observe]).session()
    first, second = session.arun("one"), session.arun("two")
    await asyncio.gather(first, second)
    found = await one_pipe.arrived()
    roots = found.named("invoke_agent solver")
    assert {root.attributes["manyhands.run.id"] for root in roots} == {first.id, second.id}
    assert len({root.attributes["gen_ai.conversation.id"] for root in roots}) == 1
    assert found.one("wait queue").attributes["manyhands.wait.key"] == "session"


# --- What goes wrong --------------------------------------------------------------------------------


async def test_a_tool_that_raises_is_an_error_of_its_span_alone(pipe: Pipe) -> None:
    @tool
    async def breaks(key: str) -> str:
        """Fail.

        Args:
            key: The key.
        """
        raise LookupError("no such key; token=abcdefghijk")

    await tool_agent(pipe, calls(("breaks", {"key": "a"})), final("x"), tools=[breaks]).arun("go")
    found = await pipe.arrived()
    span = found.one("execute_tool breaks")
    assert (span.status, span.said) == (ERROR, "LookupError: no such key; token=***")
    assert span.attributes["error.type"] == "LookupError"
    ((name, described),) = span.events
    assert name == "exception"
    assert described["exception.type"] == "LookupError"
    assert "in breaks" in described["exception.stacktrace"]
    assert "abcdefghijk" not in str(described)
    root = found.one("invoke_agent solver")
    assert root.status == 0
    assert [event for event, _ in root.events] == ["step failed"]


async def test_a_model_that_fails_ends_the_run_with_an_error(pipe: Pipe) -> None:
    run = tool_agent(pipe, RateLimitError("slow down", status=429)).arun("go")
    with pytest.raises(RateLimitError):
        await run
    found = await pipe.arrived()
    for name in ("chat scripted", "invoke_agent solver"):
        assert found.one(name).status == ERROR
        assert found.one(name).attributes["error.type"] == "RateLimitError"
    assert found.total("manyhands.rate_limited") == 1
    assert found.numbers("manyhands.runs.active") == {(("gen_ai.agent.name", "solver"),): 0}


async def test_what_the_model_wrote_is_in_no_error_unless_content_is_wanted(pipe: Pipe) -> None:
    await code_agent(pipe, code("private_word + 1"), code("final_answer(1)")).arun("go")
    found = await pipe.arrived()
    failed = found.named("execute_tool python_interpreter")[0]
    assert (failed.status, failed.attributes["error.type"]) == (ERROR, "InterpreterError")
    assert "private_word" not in str(found.spans)


async def test_a_tool_out_of_time_is_an_error_and_the_run_goes_on(pipe: Pipe) -> None:
    @tool
    async def hangs() -> str:
        """Never return."""
        await asyncio.Event().wait()
        return ""

    await tool_agent(pipe, calls(("hangs", {})), final("x"), tools=[hangs], tool_timeout=0.01).arun("go")
    span = (await pipe.arrived()).one("execute_tool hangs")
    assert (span.status, span.attributes["error.type"]) == (ERROR, "timeout")


async def test_cancelling_ends_every_span_once_and_is_no_error(pipe: Pipe) -> None:
    inside = asyncio.Event()

    @tool
    async def hangs() -> str:
        """Never return."""
        inside.set()
        await asyncio.Event().wait()
        return ""

    run = code_agent(pipe, code("hangs()"), tools=[hangs]).arun("go")
    task = asyncio.create_task(run)
    await inside.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    found = await pipe.arrived()
    assert found.tree() == [
        "invoke_agent coder",
        "  chat scripted",
        "  execute_tool python_interpreter",
        "    execute_tool hangs",
    ]
    assert [span.status for span in found.spans] == [0] * 4
    assert found.one("invoke_agent coder").attributes["manyhands.run.status"] == "cancelled"
    assert found.one("execute_tool hangs").attributes["manyhands.cancelled"] is True


async def test_a_run_out_of_time_while_it_asks_its_model(pipe: Pipe) -> None:
    async def never(messages: list[ChatMessage]) -> str:
        await asyncio.Event().wait()
        return ""

    agent = ToolCallingAgent(
        [], FunctionModel(never), name="slow", timeout=0.01, observers=[pipe.telemetry().observe]
    )
    with pytest.raises(RunTimeoutError):
        await agent.arun("go")
    found = await pipe.arrived()
    assert found.one("chat function").attributes["manyhands.cancelled"] is True
    assert found.one("invoke_agent slow").attributes["error.type"] == "RunTimeoutError"


async def test_leaving_a_stream_early_ends_every_span_once(pipe: Pipe) -> None:
    agent = tool_agent(pipe, final("x" * 500), stream_outputs=True)
    run = agent.arun("go")
    async for _ in run:
        break
    await run.aclose()
    found = await pipe.arrived()
    assert found.tree() == ["invoke_agent solver", "  chat scripted"]


# --- Many at once -----------------------------------------------------------------------------------


async def test_two_hundred_runs_at_once_mix_up_no_parents(pipe: Pipe) -> None:
    count, here = 200, asyncio.Event()
    arrived = 0

    @tool
    async def meet(key: str) -> str:
        """Wait until all are here.

        Args:
            key: Whose call it is.
        """
        nonlocal arrived
        arrived += 1
        if arrived == count:
            here.set()
        await here.wait()
        trace.get_current_span().set_attribute("who", key)
        return key

    def reply(messages: list[ChatMessage]) -> Any:
        name = messages[1].text.split("task-")[1].split()[0]
        return code(f"final_answer([meet(k) for k in ['{name}']])")

    agent = CodeAgent([meet], FunctionModel(reply), observers=[pipe.telemetry(True).observe])
    with pipe.traces.get_tracer("user").start_as_current_span("batch"):
        results = [result async for result in agent.amap([f"task-{n} now" for n in range(count)], count)]
    assert all(result.output == [f"{result.index}"] for result in results)
    found = await pipe.arrived()
    assert Counter(span.name for span in found.spans) == {
        "batch": 1,
        "invoke_agent CodeAgent": count,
        "chat function": count,
        "execute_tool python_interpreter": count,
        "execute_tool meet": count,
        "execute_tool final_answer": count,
    }
    assert len({span.id for span in found.spans}) == len(found.spans)
    by_id = {span.id: span for span in found.spans}
    for span in found.named("execute_tool meet"):
        running = by_id[span.parent]
        root = by_id[running.parent]
        assert running.name == "execute_tool python_interpreter"
        assert f"task-{span.attributes['who']} now" in root.attributes["gen_ai.input.messages"]
        assert by_id[root.parent].name == "batch"
    assert found.total("manyhands.runs.active") == 0
    assert found.total("manyhands.steps") == count


# --- Waits --------------------------------------------------------------------------------------------


async def test_waits_for_slots_are_spans_and_are_counted_while_they_last(pipe: Pipe) -> None:
    inside, go_on = asyncio.Event(), asyncio.Event()

    @tool
    async def holds() -> str:
        """Wait for a sign."""
        inside.set()
        await go_on.wait()
        return "held"

    replies = [calls(("holds", {})), final("a"), calls(("holds", {})), final("b")]
    agent = tool_agent(pipe, *replies, tools=[holds], max_concurrency=1)
    first, second = asyncio.create_task(agent.arun("1")), asyncio.create_task(agent.arun("2"))
    await inside.wait()
    await asyncio.sleep(0)
    slot = (("manyhands.wait.for", "slot"),)
    assert (await pipe.arrived()).numbers("manyhands.waiting") == {slot: 1}
    go_on.set()
    await asyncio.gather(first, second)
    found = await pipe.arrived()
    assert found.numbers("manyhands.waiting") == {slot: 0}
    assert found.numbers("manyhands.wait.duration") == {slot: 1}
    wait = found.one("wait slot")
    assert found.parent(wait).name == "invoke_agent solver"  # type: ignore[union-attr]


async def test_a_wait_inside_a_tool_is_below_the_tool_and_ends_when_cancelled(pipe: Pipe) -> None:
    limiter = CapacityLimiter(1, name="database")

    @tool
    async def asks() -> str:
        """Take a slot."""
        async with limiter:
            return "asked"

    await limiter.acquire()
    agent = tool_agent(pipe, calls(("asks", {})), final("x"), tools=[asks], tool_timeout=0.05)
    await agent.arun("go")
    limiter.release()
    found = await pipe.arrived()
    wait = found.one("wait slot")
    assert wait.attributes["manyhands.wait.key"] == "database"
    assert found.parent(wait).name == "execute_tool asks"  # type: ignore[union-attr]
    assert found.total("manyhands.waiting") == 0


async def test_a_wait_for_a_person_comes_before_the_call_that_it_is_about(pipe: Pipe) -> None:
    @tool(requires_approval=True)
    async def erase(key: str) -> str:
        """Erase a key.

        Args:
            key: The key.
        """
        return f"{key} is gone"

    async def boss(request: Any) -> bool:
        return True

    agent = code_agent(pipe, code("final_answer(erase('a') + '!')"), tools=[erase], approvals=boss)
    assert await agent.arun("go") == "a is gone!"
    found = await pipe.arrived()
    wait = found.one("wait approval")
    assert wait.attributes["manyhands.wait.key"] == "erase"
    assert [line.strip() for line in found.tree()[2:5]] == [
        "execute_tool python_interpreter",
        "wait approval",
        "execute_tool erase",
    ]


@pytest.mark.retries
async def test_retries_are_events_of_the_question_and_their_waits_below_it(pipe: Pipe) -> None:
    errors = [RateLimitError("slow down", status=429, retry_after=0.01), ConnectionError("gone")]
    scripted = ScriptedModel([*errors, final("x")])
    model = RetryingModel(scripted, RetryPolicy(first_delay=0.001))
    agent = ToolCallingAgent([], model, name="patient", observers=[pipe.telemetry().observe])
    assert await agent.arun("go") == "x"
    found = await pipe.arrived()
    chat = found.one("chat scripted")
    assert [(name, told["manyhands.attempt"], told["error.type"]) for name, told in chat.events] == [
        ("retry", 1, "RateLimitError"),
        ("retry", 2, "ConnectionError"),
    ]
    assert {found.parent(wait).name for wait in found.named("wait retry")} == {"chat scripted"}  # type: ignore[union-attr]
    assert found.total("manyhands.retries") == 2
    assert found.total("manyhands.rate_limited") == 1


# --- Content ------------------------------------------------------------------------------------------


async def test_content_is_left_out_unless_asked_for(pipe: Pipe) -> None:
    await tool_agent(pipe, calls(("look_up", {"key": "swordfish"})), final("sesame")).arun("open up")
    shown = str((await pipe.arrived()).spans)
    assert not any(word in shown for word in ("swordfish", "sesame", "open up"))


async def test_content_is_messages_arguments_and_results_without_secrets(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_SERVICE_API_KEY", "correct-horse-battery")
    wanted = calls(("look_up", {"key": "swordfish correct-horse-battery"}))
    agent = tool_agent(pipe, wanted, final("sesame"), capture_content=True)
    await agent.arun("open up with sk-1234567890abcdefgh")
    found = await pipe.arrived()
    root, chat = found.one("invoke_agent solver"), found.named("chat scripted")[1]
    asked = json.loads(root.attributes["gen_ai.input.messages"])
    assert asked == [{"role": "user", "parts": [{"type": "text", "content": "open up with ***"}]}]
    assert "sesame" in root.attributes["gen_ai.output.messages"]
    messages = json.loads(chat.attributes["gen_ai.input.messages"])
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert messages[2]["parts"][0]["type"] == "tool_call_response"
    assert json.loads(chat.attributes["gen_ai.system_instructions"])[0]["type"] == "text"
    (reply,) = json.loads(chat.attributes["gen_ai.output.messages"])
    assert reply["finish_reason"] == "tool_call"
    call = found.one("execute_tool look_up")
    assert json.loads(call.attributes["gen_ai.tool.call.arguments"]) == {"key": "swordfish ***"}
    assert call.attributes["gen_ai.tool.call.result"] == "value of swordfish ***"
    assert "battery" not in str(found.spans)
    assert "1234567890" not in str(found.spans)


async def test_long_content_is_cut(pipe: Pipe) -> None:
    @tool
    async def talks() -> str:
        """Talk a lot."""
        return "x" * 1_000_000

    await tool_agent(pipe, calls(("talks", {})), final("y"), tools=[talks], capture_content=True).arun("go")
    found = await pipe.arrived()
    assert max(len(str(value)) for span in found.spans for value in span.attributes.values()) < 60_000
    assert "characters left out" in found.one("execute_tool talks").attributes["gen_ai.tool.call.result"]


# --- Metrics --------------------------------------------------------------------------------------------


async def test_metrics_have_the_units_and_attributes_of_the_conventions(one_pipe: Pipe) -> None:
    await tool_agent(one_pipe, calls(("look_up", {"key": "a"})), final("b")).arun("go")
    found = await one_pipe.arrived()
    model = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "ScriptedModel",
        "gen_ai.request.model": "scripted",
    }
    assert found.numbers("gen_ai.client.token.usage") == {
        tuple(sorted({**model, "gen_ai.token.type": kind}.items())): 2 for kind in ("input", "output")
    }
    assert found.numbers("gen_ai.client.operation.duration") == {
        tuple(sorted(model.items())): 2,
        (("gen_ai.agent.name", "solver"), ("gen_ai.operation.name", "invoke_agent")): 1,
    }
    assert found.total("gen_ai.execute_tool.duration") == 2
    assert {name: found.units[name] for name in sorted(found.units)} == {
        "gen_ai.client.operation.duration": "s",
        "gen_ai.client.token.usage": "{token}",
        "gen_ai.execute_tool.duration": "s",
        "manyhands.runs.active": "{run}",
        "manyhands.steps": "{step}",
    }


async def test_the_number_of_series_is_bounded_whatever_agents_are_called(one_pipe: Pipe) -> None:
    observer = one_pipe.telemetry().observe
    for number in range(150):
        model = ScriptedModel(final("x"))
        await ToolCallingAgent([], model, name=f"agent_{number}", observers=[observer]).arun("go")
    found = await one_pipe.arrived()
    names = [dict(key)["gen_ai.agent.name"] for key in found.numbers("manyhands.steps")]
    assert len(names) == 101
    assert dict(found.numbers("manyhands.steps"))[(("gen_ai.agent.name", "_OTHER"),)] == 50


async def test_the_lag_of_a_loop_is_measured_while_runs_go_on(one_pipe: Pipe) -> None:
    @tool
    async def waits() -> str:
        """Wait a little."""
        await asyncio.sleep(0.8)
        return "waited"

    await tool_agent(one_pipe, calls(("waits", {})), final("x"), tools=[waits]).arun("go")
    found = await one_pipe.arrived()
    assert found.total("manyhands.loop.lag") >= 1
    assert found.units["manyhands.loop.lag"] == "s"


async def test_runs_on_several_loops_are_counted_together() -> None:
    async with piping() as pipe:
        observer = pipe.telemetry().observe

        def work() -> None:
            agent = ToolCallingAgent([], ScriptedModel(final("x")), name="a", observers=[observer])
            agent.map(["1", "2", "3"])

        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(None, work) for _ in range(4)))
        found = await pipe.arrived()
        assert found.total("manyhands.steps") == 12
        assert found.total("manyhands.runs.active") == 0
        assert found.tree() == ["invoke_agent a", "  chat scripted", "  execute_tool final_answer"] * 12


async def test_nothing_is_lost_where_many_values_come_in_on_several_threads() -> None:
    async with piping() as pipe:
        observer = pipe.telemetry().observe

        def work() -> None:
            model = ScriptedModel(final("x"), token_usage=TokenUsage(7, 3))
            agent = ToolCallingAgent([], model, name="a", observers=[observer])
            agent.map(["go"] * 150)

        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(None, work) for _ in range(3)))
        found = await pipe.arrived()
        assert found.total("manyhands.steps") == 450
        assert found.total("gen_ai.execute_tool.duration") == 450
        assert found.total("gen_ai.client.operation.duration") == 900
        assert found.total("gen_ai.client.token.usage") == 900
        assert found.sum("gen_ai.client.token.usage") == 4_500


# --- Turning it on and off --------------------------------------------------------------------------------


async def test_instrument_watches_all_runs_until_it_is_stopped(one_pipe: Pipe) -> None:
    agent = ToolCallingAgent([], ScriptedModel(final("x")), name="any")
    await agent.arun("before")
    telemetry = instrument(one_pipe.traces, one_pipe.meters)
    assert instrument(one_pipe.traces, one_pipe.meters) is telemetry
    await agent.arun("meanwhile")
    await telemetry.astop()
    await agent.arun("after")
    found = await one_pipe.arrived()
    assert len(found.named("invoke_agent any")) == 1


async def test_stopping_waits_for_the_exporters_without_blocking_the_loop(one_pipe: Pipe) -> None:
    agent = ToolCallingAgent([], ScriptedModel(final("x")), name="any")
    async with Telemetry(one_pipe.traces, one_pipe.meters):
        await agent.arun("go")
    assert len(one_pipe.collector.named("invoke_agent any")) == 1


async def test_flush_refuses_to_block_a_loop_and_stop_does_not_block_it(one_pipe: Pipe) -> None:
    telemetry = instrument(one_pipe.traces, one_pipe.meters)
    with pytest.raises(RuntimeError, match="await aflush"):
        telemetry.flush()
    telemetry.stop()
    assert await telemetry.aflush()


async def test_unsampled_traces_export_nothing_and_are_counted_all_the_same() -> None:
    async with piping() as pipe:
        off = trace.NonRecordingSpan(trace.SpanContext(1, 2, False, trace.TraceFlags(0)))
        with trace.use_span(off):
            await tool_agent(pipe, final("x")).arun("go")
        found = await pipe.arrived()
        assert found.spans == []
        assert found.total("manyhands.steps") == 1


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize(("share", "names"), [(0.0, []), (1.0, ["invoke_agent solver", "  chat scripted"])])
async def test_the_sampler_decides_about_whole_traces(share: float, names: list[str], foreign: bool) -> None:
    async with piping(foreign, ParentBasedTraceIdRatio(share)) as pipe:
        seen: list[trace.SpanContext] = []

        async def reply(messages: list[ChatMessage]) -> Any:
            seen.append(trace.get_current_span().get_span_context())
            return final("x")

        observers = [pipe.telemetry().observe]
        agent = ToolCallingAgent(
            [], FunctionModel(reply, model_id="scripted"), name="solver", observers=observers
        )
        await agent.arun("go")
        found = await pipe.arrived()
        assert found.tree()[:2] == names
        assert seen[0].is_valid
        assert seen[0].trace_flags.sampled == bool(share)
        assert found.total("manyhands.steps") == 1


def test_a_provider_that_is_none_is_refused() -> None:
    with pytest.raises(CallerError, match=r"is no provider of OpenTelemetry: it has no get_tracer\(\)"):
        Telemetry("console")  # type: ignore[arg-type]


SCRIPT = """
import asyncio, sys
sys.modules.update({blocked})
from manyhands import ToolCallingAgent
from manyhands.testing import ScriptedModel
import manyhands.observe.telemetry
assert not any(name.startswith("opentelemetry.") for name in sys.modules), "imported before it is wanted"
reply = '{{"name": "final_answer", "arguments": {{"answer": "done"}}}}'
agent = ToolCallingAgent([], ScriptedModel(reply), name="env", verbosity_level=-1)
print(agent.run("go"))
"""


def run_script(blocked: str = "{}", **environment: str) -> subprocess.CompletedProcess[str]:
    script = SCRIPT.format(blocked=blocked)
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )


async def test_the_environment_turns_it_on_and_says_where_to() -> None:
    async with collecting() as collector:
        done = await asyncio.to_thread(
            run_script,
            MANYHANDS_TELEMETRY="1",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.address,
            OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT="true",
        )
    assert (done.stdout, done.stderr) == ("done\n", "")
    assert collector.tree() == ["invoke_agent env", "  chat scripted", "  execute_tool final_answer"]
    assert "go" in collector.one("invoke_agent env").attributes["gen_ai.input.messages"]
    assert collector.total("manyhands.steps") == 1


def test_an_exporter_that_is_not_installed_is_named() -> None:
    done = run_script(MANYHANDS_TELEMETRY="1", OTEL_TRACES_EXPORTER="carrier_pigeon")
    assert (
        "OTEL_TRACES_EXPORTER asks for the exporter 'carrier_pigeon', which is not installed" in done.stderr
    )


def test_without_opentelemetry_the_extra_is_named_and_nothing_else_is_missed() -> None:
    assert run_script("{'opentelemetry': None}").stdout == "done\n"
    done = run_script("{'opentelemetry': None}", MANYHANDS_TELEMETRY="1")
    assert (
        'Telemetry needs an optional package. Install it: pip install "manyhands[telemetry]"' in done.stderr
    )


# --- Seams that others patch --------------------------------------------------------------------------


def test_the_methods_that_instrumentation_of_others_wraps_are_the_ones_that_are_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []

    class Mine(Model):
        def generate(self, messages: Any, stop_sequences: Any = None, **kwargs: Any) -> Any:
            return code("final_answer(look_up(key='a'))")

    def wrap(owner: type, name: str) -> None:
        inner = getattr(owner, name)

        @functools.wraps(inner)
        def outer(*args: Any, **kwargs: Any) -> Any:
            seen.append(f"{owner.__name__}.{name}")
            return inner(*args, **kwargs)

        async def aouter(*args: Any, **kwargs: Any) -> Any:
            return await outer(*args, **kwargs)

        monkeypatch.setattr(owner, name, aouter if name.startswith("a") else outer)

    wrap(MultiStepAgent, "run")
    wrap(Mine, "generate")
    wrap(Tool, "acall")
    agent = CodeAgent([look_up], Mine(), verbosity_level=-1)
    assert agent.run("go") == "value of a"
    assert seen == ["MultiStepAgent.run", "Mine.generate", "Tool.acall", "Tool.acall"]
