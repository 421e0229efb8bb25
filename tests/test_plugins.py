"""Plugins: what their hooks may do, and that the set of them may change at any time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from manyhands import (
    AgentGenerationError,
    CallerError,
    ChatMessage,
    CodeAgent,
    FinalAnswerStep,
    MessageRole,
    RunTimeoutError,
    TokenUsage,
    ToolCallingAgent,
    plugins,
    tool,
)
from manyhands.errors import RefusedError, ToolRefusedError
from manyhands.events import ToolEnd
from manyhands.plugins import FunctionPlugin, Plugin, Refuse, Replace, plugin
from manyhands.testing import FunctionModel, ModelCall, ScriptedModel
from tests.agents.replies import calls, code, final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def forget_plugins() -> Iterator[None]:
    yield
    for known in plugins.list_plugins():
        plugins.unregister(known["name"])


@tool
async def greet(name: str, loud: bool = False) -> str:
    """Greet.

    Args:
        name: Whom.
        loud: Whether to shout.
    """
    return f"hello {name}".upper() if loud else f"hello {name}"


def greeter(*around: Plugin, tools: Any = (greet,), **options: Any) -> ToolCallingAgent:
    """An agent that greets Ann and is done."""
    model = ScriptedModel({"": [calls(("greet", {"name": "Ann"})), final("done")]})
    return ToolCallingAgent(tools, model, plugins=around, **options)


async def greeting(agent: Any) -> Any:
    """What the call of ``greet`` in a run came to: its output, or its error."""
    run = agent.arun("go")
    assert await run == "done"
    output = run.memory.steps[1].tool_outputs[0]
    return output.error or output.output


def only_for(name: str, do: Callable[..., Any]) -> Callable[..., Any]:
    """A tool hook that leaves all tools but one alone."""
    return lambda run, call, *result: do(run, call, *result) if call.name == name else None


def on_greet(name: str = "test", **hooks: Callable[..., Any]) -> FunctionPlugin:
    only: dict[str, Any] = {hook: only_for("greet", do) for hook, do in hooks.items()}
    return FunctionPlugin(name, **only)


def with_hook(hook: str, do: Callable[..., Any], name: str = "test") -> FunctionPlugin:
    hooks: dict[str, Any] = {hook: do}
    return FunctionPlugin(name, **hooks)


def asked(agent: Any) -> list[ModelCall]:
    """What the model of an agent was asked."""
    questions: list[ModelCall] = agent.model.calls
    return questions


class Diary(Plugin):
    """Writes down which of its hooks were called."""

    def __init__(self, name: str = "diary") -> None:
        self.name = name
        self.said: list[Any] = []

    def before_run(self, run: Any) -> None:
        self.said.append("before_run")

    def after_run(self, run: Any, result: Any) -> None:
        self.said.append(("after_run", result.state, result.output))

    async def before_step(self, run: Any, step: Any) -> None:
        self.said.append(("before_step", step.step_number))

    async def after_step(self, run: Any, step: Any) -> None:
        self.said.append(("after_step", step.step_number))

    def before_model(self, run: Any, messages: Any, options: Any) -> None:
        self.said.append(("before_model", len(messages)))

    def after_model(self, run: Any, reply: Any) -> None:
        self.said.append("after_model")

    async def before_tool(self, run: Any, call: Any) -> None:
        self.said.append(("before_tool", call.name, call.arguments))

    async def after_tool(self, run: Any, call: Any, result: Any) -> None:
        self.said.append(("after_tool", call.name, result))


# --- All hooks -----------------------------------------------------------------------------------


async def test_hooks_are_called_around_runs_steps_questions_and_tools() -> None:
    diary = Diary()
    await greeting(greeter(diary))
    assert diary.said == [
        "before_run",
        ("before_step", 1),
        ("before_model", 2),
        "after_model",
        ("before_tool", "greet", {"name": "Ann"}),
        ("after_tool", "greet", "hello Ann"),
        ("after_step", 1),
        ("before_step", 2),
        ("before_model", 4),
        "after_model",
        ("before_tool", "final_answer", {"answer": "done"}),
        ("after_tool", "final_answer", "done"),
        ("after_step", 2),
        ("after_run", "success", "done"),
    ]


def test_hooks_are_called_under_run_too_sync_ones_in_the_thread_of_the_caller() -> None:
    threads = set()
    noting = FunctionPlugin("noting", before_tool=lambda run, call: threads.add(threading.get_ident()))
    assert greeter(noting, verbosity_level=-1).run("go") == "done"
    assert threads == {threading.get_ident()}


async def test_sync_hooks_are_never_called_on_the_loop() -> None:
    threads = set()
    noting = FunctionPlugin("noting", before_run=lambda run: threads.add(threading.current_thread()))
    await greeter(noting).arun("go")
    (thread,) = threads
    assert thread.ident != threading.get_ident()
    assert thread.name.startswith("plugin-noting_")


async def test_in_generated_code_a_call_has_its_arguments_by_name() -> None:
    diary = Diary()
    model = ScriptedModel({"": [code("final_answer(greet('Bo', loud=True))")]})
    assert await CodeAgent([greet], model, plugins=[diary]).arun("go") == "HELLO BO"
    assert ("before_tool", "greet", {"name": "Bo", "loud": True}) in diary.said


@pytest.mark.parametrize("call", ["greet('Bo', True, 3)", "greet('Bo', name='Al')"])
async def test_in_generated_code_a_call_that_cannot_be_is_still_an_error(call: str) -> None:
    model = ScriptedModel({"": [code(call), code("final_answer(1)")]})
    run = CodeAgent([greet], model, plugins=[Diary()]).arun("go")
    assert await run == 1
    assert "The tool 'greet'" in str(run.memory.steps[1].error)  # type: ignore[attr-defined]


async def test_a_dict_of_all_arguments_is_unpacked_as_tools_unpack_it() -> None:
    diary = Diary()
    model = ScriptedModel({"": [code("final_answer(greet({'name': 'Bo'}))")]})
    assert await CodeAgent([greet], model, plugins=[diary]).arun("go") == "hello Bo"
    assert ("before_tool", "greet", {"name": "Bo"}) in diary.said


# --- Tools ---------------------------------------------------------------------------------------


async def test_each_plugin_sees_the_change_of_the_one_before() -> None:
    def add(letter: str) -> Callable[..., Any]:
        return lambda run, call: {"name": call.arguments["name"] + letter}

    agent = greeter(*(on_greet(letter, before_tool=add(letter)) for letter in "abc"))
    assert await greeting(agent) == "hello Annabc"


async def test_what_a_plugin_changes_is_not_what_the_model_asked_for() -> None:
    def shout(run: Any, call: Any) -> Any:
        call.arguments["loud"] = True
        return call

    run = greeter(on_greet(before_tool=shout)).arun("go")
    await run
    step: Any = run.memory.steps[1]
    assert step.tool_calls[0].arguments == {"name": "Ann"}
    assert step.tool_outputs[0].output == "HELLO ANN"


async def test_after_hooks_are_asked_from_the_inside_out() -> None:
    def add(letter: str) -> Callable[..., Any]:
        return lambda run, call, result: result + letter

    agent = greeter(*(on_greet(letter, after_tool=add(letter)) for letter in "abc"))
    assert await greeting(agent) == "hello Anncba"


async def test_a_replaced_call_is_not_made_and_only_plugins_outside_hear_of_it() -> None:
    made: list[str] = []

    @tool
    def greet(name: str) -> str:
        """Greet.

        Args:
            name: Whom.
        """
        made.append(name)
        return name

    outer, inner = Diary("outer"), Diary("inner")
    cache = on_greet("cache", before_tool=lambda run, call: Replace("cached"))
    assert await greeting(greeter(outer, cache, inner, tools=[greet])) == "cached"
    assert made == []
    assert ("after_tool", "greet", "cached") in outer.said
    assert not [said for said in inner.said if said[1] == "greet"]


@pytest.mark.parametrize("value", [None, 0, Refuse])
async def test_replace_gives_any_value(value: Any) -> None:
    agent = greeter(on_greet(after_tool=lambda run, call, result: Replace(value)))
    assert await greeting(agent) == value


@pytest.mark.parametrize("hook", ["before_tool", "after_tool"])
async def test_the_model_is_told_why_a_call_was_refused(hook: str) -> None:
    agent = greeter(on_greet("guard", **{hook: lambda *_: Refuse("Ann is busy")}))
    error = await greeting(agent)
    assert isinstance(error, ToolRefusedError)
    assert (error.plugin, error.reason) == ("guard", "Ann is busy")
    told = asked(agent)[1].messages[-1].text
    assert "Plugin 'guard' refused the call of 'greet': Ann is busy" in told


async def test_a_refusal_may_be_raised_from_deep_within() -> None:
    def check(run: Any, call: Any) -> None:
        raise Refuse("Ann is busy")

    assert "Ann is busy" in str(await greeting(greeter(on_greet(before_tool=check))))


async def test_generated_code_is_told_of_a_refusal_as_an_exception() -> None:
    source = "try:\n    greet('Bo')\nexcept Exception as error:\n    final_answer(str(error))"
    guard = on_greet("guard", before_tool=lambda run, call: Refuse("no"))
    agent = CodeAgent([greet], ScriptedModel({"": [code(source)]}), plugins=[guard])
    assert await agent.arun("go") == "Plugin 'guard' refused the call of 'greet': no"


async def test_a_before_hook_that_fails_refuses_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def check(run: Any, call: Any) -> None:
        raise ValueError("broken guard")

    error = await greeting(greeter(on_greet(before_tool=check)))
    assert isinstance(error, ToolRefusedError)
    assert "ValueError: broken guard" in str(error)
    assert isinstance(error.__cause__, ValueError)
    assert "Plugin test failed before the call of 'greet'" in caplog.text


@pytest.mark.parametrize("said", [True, False, "Bo", ["Bo"]])
async def test_a_before_hook_that_returns_what_it_cannot_refuses(said: Any) -> None:
    error = await greeting(greeter(on_greet(before_tool=lambda run, call: said)))
    assert "should return None, the arguments as a dict, Replace(...) or Refuse(...)" in str(error)


async def test_an_after_hook_that_fails_is_logged_and_the_result_stays(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def check(run: Any, call: Any, result: Any) -> None:
        raise ValueError("broken")

    diary = Diary()
    assert await greeting(greeter(diary, on_greet(after_tool=check))) == "hello Ann"
    assert ("after_tool", "greet", "hello Ann") in diary.said
    assert "Plugin test failed after the call of 'greet'" in caplog.text


async def test_observers_see_a_refused_call_end_with_its_error() -> None:
    ends: list[ToolEnd] = []
    agent = greeter(
        on_greet(before_tool=lambda run, call: Refuse("no")),
        observers=[lambda run, event: ends.append(event) if isinstance(event, ToolEnd) else None],
    )
    await agent.arun("go")
    assert isinstance(ends[0].error, ToolRefusedError)


async def test_the_final_answer_is_a_tool_call_and_can_be_refused_or_changed() -> None:
    refusals = iter([Refuse("say please"), None])

    def check(run: Any, call: Any) -> Any:
        return next(refusals) if call.name == "final_answer" else None

    model = ScriptedModel({"": [final("42"), final("42, please")]})
    assert await ToolCallingAgent([], model, plugins=[FunctionPlugin("x", before_tool=check)]).arun("go") == (
        "42, please"
    )


async def test_a_managed_agent_is_a_tool_to_the_plugins_of_its_manager() -> None:
    worker = ToolCallingAgent([], ScriptedModel({"": [final(7)]}), name="worker", description="Works.")
    model = ScriptedModel({"": [calls(("worker", {"task": "count"})), final("done")]})
    diary = Diary()
    await ToolCallingAgent([], model, managed_agents=[worker], plugins=[diary]).arun("go")
    assert ("before_tool", "worker", {"task": "count"}) in diary.said
    assert [said for said in diary.said if said == "before_run"] == ["before_run"]


@pytest.mark.parametrize("count", [4, 400])
async def test_calls_at_once_all_pass_a_slow_sync_hook(count: int) -> None:
    def slow(run: Any, call: Any) -> None:
        time.sleep(0.01)

    wanted = calls(*[("greet", {"name": str(number)}) for number in range(count)])
    model = ScriptedModel({"": [wanted, final("done")]})
    run = ToolCallingAgent([greet], model, plugins=[FunctionPlugin("slow", before_tool=slow)]).arun("go")
    await run
    outputs = run.memory.steps[1].tool_outputs  # type: ignore[attr-defined]
    assert [output.output for output in outputs] == [f"hello {number}" for number in range(count)]


# --- Time ----------------------------------------------------------------------------------------


async def test_a_hook_that_is_too_slow_refuses() -> None:
    class Slow(Plugin):
        timeout = 0.02

        async def before_tool(self, run: Any, call: Any) -> None:
            if call.name == "greet":
                await asyncio.Event().wait()

    assert "its hook failed: TimeoutError: it took longer than 0.02s" in str(await greeting(greeter(Slow())))


async def test_a_sync_hook_that_is_too_slow_is_left_alone_and_refuses() -> None:
    release = threading.Event()

    class Slow(Plugin):
        timeout = 0.02

        def before_tool(self, run: Any, call: Any) -> None:
            if call.name == "greet":
                release.wait(30)

    assert "it took longer than 0.02s" in str(await greeting(greeter(Slow())))
    release.set()


def test_a_sync_hook_that_is_too_slow_refuses_under_run_too() -> None:
    release = threading.Event()

    class Slow(Plugin):
        timeout = 0.02

        def before_run(self, run: Any) -> None:
            release.wait(30)

    with pytest.raises(RefusedError, match="longer than 0.02s"):
        greeter(Slow(), verbosity_level=-1).run("go")
    release.set()


async def test_a_hooks_own_timeout_error_is_its_failure() -> None:
    class Impatient(Plugin):
        timeout = 30

        async def before_run(self, run: Any) -> None:
            raise TimeoutError("my own")

    with pytest.raises(RefusedError, match="my own"):
        await greeter(Impatient()).arun("go")


async def test_the_time_of_a_hook_is_not_the_tools() -> None:
    async def slow(run: Any, call: Any) -> None:
        await asyncio.sleep(0.05)

    assert await greeting(greeter(on_greet(before_tool=slow), tool_timeout=0.04)) == "hello Ann"


async def test_the_time_of_a_run_counts_its_hooks() -> None:
    async def hang(run: Any) -> None:
        await asyncio.Event().wait()

    with pytest.raises(RunTimeoutError):
        await greeter(FunctionPlugin("hang", before_run=hang)).arun("go", timeout=0.02)


# --- Runs ----------------------------------------------------------------------------------------


async def test_a_run_can_be_given_another_task() -> None:
    agent = ToolCallingAgent(
        [],
        ScriptedModel({"polite": [final("of course")]}),
        plugins=[FunctionPlugin("x", before_run=lambda run: f"{run.task}, polite")],
    )
    run = agent.arun("go")
    assert await run == "of course"
    assert run.memory.steps[0].task == "go, polite"  # type: ignore[attr-defined]


async def test_a_run_can_be_answered_without_being_worked_on() -> None:
    agent = greeter(FunctionPlugin("cache", before_run=lambda run: Replace("known")))
    run = agent.arun("go", return_full_result=True)
    events = [event async for event in run]
    assert [event.output for event in events if isinstance(event, FinalAnswerStep)] == ["known"]
    assert (run.output, run.status) == ("known", "success")
    assert asked(agent) == []


async def test_a_refused_run_ends_with_the_reason_and_its_run() -> None:
    outer, agent = Diary("outer"), None
    agent = greeter(outer, FunctionPlugin("guard", before_run=lambda run: Refuse("closed today")), Diary())
    with pytest.raises(RefusedError, match="Plugin 'guard' refused the run: closed today") as caught:
        await agent.arun("go")
    assert (caught.value.plugin, caught.value.reason) == ("guard", "closed today")
    assert caught.value.run.status == "error"
    assert outer.said == ["before_run", ("after_run", "error", None)]


async def test_a_run_whose_guard_fails_is_refused() -> None:
    async def check(run: Any) -> None:
        raise ValueError("broken guard")

    with pytest.raises(RefusedError, match="ValueError: broken guard"):
        await greeter(FunctionPlugin("guard", before_run=check)).arun("go")


async def test_a_run_can_be_given_another_answer_that_everyone_sees() -> None:
    def double(run: Any, result: Any) -> Any:
        return result.output * 2

    agent = greeter(FunctionPlugin("a", after_run=double), FunctionPlugin("b", after_run=double))
    run = agent.arun("go")
    events = [event async for event in run]
    assert isinstance(events[-1], FinalAnswerStep)
    assert events[-1].output == "done" * 4
    assert run.output == "done" * 4


async def test_after_run_may_refuse_the_answer_and_the_others_hear_of_it() -> None:
    outer = Diary("outer")
    guard = FunctionPlugin("guard", after_run=lambda run, result: Refuse("not for you"))
    with pytest.raises(RefusedError, match="not for you"):
        await greeter(outer, guard).arun("go")
    assert outer.said[-1] == ("after_run", "error", "done")


async def test_after_run_is_called_however_a_run_ends() -> None:
    waits = asyncio.Event()

    async def hang(messages: Any) -> str:
        waits.set()
        await asyncio.Event().wait()
        return ""

    diary = Diary()
    broken = ToolCallingAgent([], ScriptedModel({"": [AgentGenerationError("down")]}), plugins=[diary])
    with pytest.raises(AgentGenerationError):
        await broken.arun("go")
    hanging = ToolCallingAgent([], FunctionModel(hang), plugins=[diary])
    with pytest.raises(RunTimeoutError):
        await hanging.arun("go", timeout=0.02)
    waits.clear()
    task = asyncio.create_task(hanging.arun("go"))
    await waits.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    ends = [said for said in diary.said if said[0] == "after_run"]
    assert ends == [("after_run", state, None) for state in ("error", "timeout", "cancelled")]


async def test_what_after_run_says_cannot_mend_a_failed_run() -> None:
    mend = FunctionPlugin("mend", after_run=lambda run, result: Replace("fine"))
    broken = ToolCallingAgent([], ScriptedModel({"": [AgentGenerationError("down")]}), plugins=[mend])
    run = broken.arun("go")
    with pytest.raises(AgentGenerationError):
        await run
    assert run.output is None


async def test_each_turn_of_a_session_is_a_run_to_plugins() -> None:
    diary = Diary()
    session = ToolCallingAgent([], ScriptedModel({"": [final(1)]}), plugins=[diary]).session()
    await asyncio.gather(session.arun("a"), session.arun("b"))
    whole = [said if isinstance(said, str) else said[0] for said in diary.said]
    assert whole == [*whole[: len(whole) // 2]] * 2
    assert whole[0] == "before_run"
    assert whole[-1] == "after_run"


# --- Steps ---------------------------------------------------------------------------------------


async def test_a_step_can_be_refused_which_ends_the_run() -> None:
    def check(run: Any, step: Any) -> Any:
        return Refuse("enough") if step.step_number == 2 else None

    run = greeter(FunctionPlugin("guard", before_step=check)).arun("go")
    with pytest.raises(RefusedError, match="refused step 2: enough"):
        await run
    assert isinstance(run.memory.steps[-1].error, RefusedError)  # type: ignore[attr-defined]


@pytest.mark.parametrize("hook", ["before_step", "after_step"])
async def test_a_step_can_be_made_the_last_one(hook: str) -> None:
    agent = greeter(with_hook(hook, lambda run, step: Replace("early")))
    run = agent.arun("go")
    assert await run == "early"
    step: Any = run.memory.steps[-1]
    assert (step.step_number, step.action_output, step.is_final_answer) == (1, "early", True)


async def test_a_step_can_be_changed_before_it_is_remembered() -> None:
    def redact(run: Any, step: Any) -> Any:
        step.observations = (step.observations or "").replace("Ann", "***")
        return step

    agent = CodeAgent(
        [greet],
        ScriptedModel({"": [code("print(greet('Ann'))"), code("final_answer(1)")]}),
        plugins=[FunctionPlugin("redact", after_step=redact)],
    )
    await agent.arun("go")
    shown = asked(agent)[1].messages[-1].text
    assert "hello ***" in shown
    assert "Ann" not in shown


async def test_after_step_hears_of_an_error_that_the_model_can_mend() -> None:
    errors = []
    noting = FunctionPlugin("noting", after_step=lambda run, step: errors.append(step.error))
    model = ScriptedModel({"": [code("1 / 0"), code("final_answer(1)")]})
    assert await CodeAgent([], model, plugins=[noting]).arun("go") == 1
    assert [type(error).__name__ for error in errors] == ["InterpreterError", "NoneType"]


async def test_a_step_hook_that_returns_what_it_cannot_refuses() -> None:
    with pytest.raises(RefusedError, match=r"should return None, Replace\(answer\)"):
        await greeter(FunctionPlugin("x", before_step=lambda run, step: True)).arun("go")


# --- Questions to the model ----------------------------------------------------------------------


async def test_the_question_can_be_changed_and_the_memory_is_not() -> None:
    def hint(run: Any, messages: Any, options: Any) -> Any:
        return [*messages, ChatMessage(MessageRole.USER, "be brief")]

    def cool(run: Any, messages: Any, options: Any) -> Any:
        return messages, {**options, "temperature": 0}

    agent = greeter(FunctionPlugin("hint", before_model=hint), FunctionPlugin("cool", before_model=cool))
    run = agent.arun("go")
    await run
    for call in asked(agent):
        assert call.messages[-1].text == "be brief"
        assert call.options["temperature"] == 0
    assert "be brief" not in str(run.memory.dict())


async def test_a_reply_can_be_given_without_asking() -> None:
    def know(run: Any, messages: Any, options: Any) -> Any:
        return Replace(code("final_answer('known')"))

    agent = CodeAgent([], ScriptedModel({}), plugins=[FunctionPlugin("cache", before_model=know)])
    run = agent.arun("go")
    assert await run == "known"
    assert run.usage is None


async def test_a_reply_can_be_replaced_and_what_it_cost_is_counted() -> None:
    kept = ChatMessage(MessageRole.ASSISTANT, code("final_answer('safe')"))
    model = ScriptedModel({"": [code("final_answer('rude')")]}, token_usage=TokenUsage(3, 4))
    soften = FunctionPlugin("soften", after_model=lambda run, reply: kept)
    run = CodeAgent([], model, plugins=[soften]).arun("go")
    assert await run == "safe"
    assert run.usage == TokenUsage(3, 4)
    assert kept.token_usage is None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("hook", ["before_model", "after_model"])
async def test_a_refused_question_ends_the_run(hook: str, stream: bool) -> None:
    agent = greeter(with_hook(hook, lambda *_: Refuse("secret")), stream_outputs=stream)
    with pytest.raises(RefusedError, match="refused the question to the model: secret"):
        await agent.arun("go")
    assert len(asked(agent)) == (hook == "after_model")


@pytest.mark.parametrize("said", [True, "text", ([],), ([], [])])
async def test_a_model_hook_that_returns_what_it_cannot_refuses(said: Any) -> None:
    with pytest.raises(RefusedError, match="a list of messages, or a pair"):
        await greeter(FunctionPlugin("x", before_model=lambda *_: said)).arun("go")


async def test_an_after_model_hook_that_returns_what_it_cannot_changes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await greeter(FunctionPlugin("x", after_model=lambda run, reply: True)).arun("go")
    assert "it returned True" in caplog.text


# --- Writing plugins -----------------------------------------------------------------------------


async def test_a_function_becomes_a_plugin_by_its_name_or_by_the_hook_that_is_named() -> None:
    @plugin(name="first", version="1.0")
    def before_tool(run: Any, call: Any) -> Any:
        """Changes names.

        All of them.
        """
        return {"name": "Bo"} if call.name == "greet" else None

    @plugin("after_tool")
    async def shouting(run: Any, call: Any, result: Any) -> Any:
        return result.upper()

    @plugin
    def before_run(run: Any) -> None:
        pass

    assert (before_tool.name, before_tool.version, before_tool.description) == (
        "first",
        "1.0",
        "Changes names.",
    )
    assert (shouting.name, before_run.name) == ("shouting", "before_run")
    run = greeter(before_tool, shouting, before_run).arun("go")
    assert await run == "DONE"
    assert run.memory.steps[1].tool_outputs[0].output == "HELLO BO"  # type: ignore[attr-defined]


def test_a_class_is_named_after_itself_unless_it_says_otherwise() -> None:
    class Named(Plugin):
        name = "other"

    class Child(Named):
        pass

    assert (Named().name, Child().name) == ("other", "Child")
    assert repr(Named()) == "<Named 'other'>"


@pytest.mark.parametrize(
    "write",
    [
        lambda: type("Typo", (Plugin,), {"before_tools": lambda self, run, call: None}),
        lambda: FunctionPlugin("typo", before_tools=print),
        lambda: plugin("before_tools")(print),
    ],
)
def test_a_hook_that_does_not_exist_is_an_error_at_once(write: Callable[[], Any]) -> None:
    with pytest.raises(CallerError, match="There is no hook 'before_tools'; did you mean 'before_tool'?"):
        write()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (Diary, "Give an instance of it"),
        (print, "A plugin is a Plugin or a FunctionPlugin"),
        (FunctionPlugin(""), "needs a name"),
        (FunctionPlugin("x", timeout=-1), "timeout of plugin 'x' must be a number of seconds above 0"),
        (FunctionPlugin("x", before_run="no"), "is not a function"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_a_plugin_is_refused(given: Any, why: str) -> None:
    with pytest.raises(CallerError, match=why):
        plugins.register(given)
    with pytest.raises(CallerError, match=why):
        greeter(given)


def test_plugins_of_an_agent_are_a_list_of_different_names() -> None:
    with pytest.raises(CallerError, match="must be a list"):
        ToolCallingAgent([], ScriptedModel([]), plugins=Diary())
    with pytest.raises(CallerError, match="Two plugins are named 'diary'"):
        greeter(Diary(), Diary())


# --- Which ones there are ------------------------------------------------------------------------


def test_plugins_are_registered_listed_enabled_disabled_and_forgotten() -> None:
    plugins.register(FunctionPlugin("a", version="1", description="First."))
    plugins.register(FunctionPlugin("b"), enabled=False)
    assert plugins.list_plugins() == [
        {"name": "a", "version": "1", "description": "First.", "enabled": True},
        {"name": "b", "version": "", "description": "", "enabled": False},
    ]
    plugins.enable()
    assert plugins.is_enabled("b")
    plugins.disable("b")
    plugins.disable(["a"])
    assert not plugins.is_enabled("a")
    plugins.enable(["a", "b"])
    plugins.disable()
    assert [known["enabled"] for known in plugins.list_plugins()] == [False, False]
    plugins.unregister("a")
    assert not plugins.is_enabled("a")
    assert [known["name"] for known in plugins.list_plugins()] == ["b"]


def test_an_unknown_name_is_an_error_that_changes_nothing() -> None:
    plugins.register(FunctionPlugin("audit"), enabled=False)
    with pytest.raises(CallerError, match="no plugin named 'audti'; did you mean 'audit'?"):
        plugins.enable(["audit", "audti"])
    assert not plugins.is_enabled("audit")
    for forget in (plugins.disable, plugins.unregister):
        with pytest.raises(CallerError, match="Registered are: audit"):
            forget("other")


def test_a_name_stands_for_one_plugin() -> None:
    first = plugins.register(Diary())
    assert plugins.register(first) is first
    with pytest.raises(CallerError, match="registered already"):
        plugins.register(Diary())


async def test_registered_plugins_are_around_all_runs_those_of_an_agent_around_its_own() -> None:
    everywhere, own = Diary("everywhere"), Diary("own")
    plugins.register(everywhere)
    await greeter(own, everywhere).arun("go")
    await greeter().arun("go")
    assert Counter(str(said) for said in everywhere.said)["before_run"] == 2
    assert Counter(str(said) for said in own.said)["before_run"] == 1


async def test_a_call_keeps_the_plugins_it_began_with() -> None:
    said: list[str] = []

    def leave(run: Any, call: Any) -> None:
        said.append("before")
        plugins.disable("leaving")

    leaving = on_greet("leaving", before_tool=leave, after_tool=lambda *_: said.append("after"))
    late = on_greet("late", after_tool=lambda *_: said.append("late"))
    plugins.register(late, enabled=False)
    plugins.register(leaving)
    await greeter().arun("go")
    assert said == ["before", "after"]
    await greeter().arun("go")
    assert said == ["before", "after"]


async def test_the_set_may_change_at_any_time_from_any_thread_and_no_call_is_half_wired() -> None:
    counts: Counter[str] = Counter()
    lock = threading.Lock()

    def counting(name: str) -> FunctionPlugin:
        def count(word: str) -> None:
            with lock:
                counts[f"{name} {word}"] += 1

        async def before(run: Any, call: Any) -> None:
            count("before")
            await asyncio.sleep(0)

        return FunctionPlugin(name, before_tool=before, after_tool=lambda *_: count("after"))

    names = [f"plugin {number}" for number in range(5)]
    for name in names:
        plugins.register(counting(name))
    plugins.register(counting("steady"))
    over = threading.Event()

    def switch(name: str) -> None:
        while not over.is_set():
            plugins.disable(name)
            plugins.list_plugins()
            plugins.enable(name)

    def run_many() -> None:
        async def many() -> None:
            await asyncio.gather(*(greeter().arun("go") for _ in range(20)))

        asyncio.run(many())

    with ThreadPoolExecutor(8) as pool:
        switching = [pool.submit(switch, name) for name in names]
        running = [pool.submit(run_many) for _ in range(3)]
        await asyncio.gather(*map(asyncio.wrap_future, running))
        over.set()
        await asyncio.gather(*map(asyncio.wrap_future, switching))
    assert all(map(plugins.is_enabled, names))
    for name in names:
        assert counts[f"{name} before"] == counts[f"{name} after"]
    assert counts["steady before"] == counts["steady after"] == 120


def test_registering_from_many_threads_at_once_loses_nothing() -> None:
    def register(number: int) -> None:
        plugins.register(FunctionPlugin(f"plugin {number}"))
        plugins.list_plugins()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(register, range(200)))
    assert len(plugins.list_plugins()) == 200
    assert all(known["enabled"] for known in plugins.list_plugins())
