"""The console shows runs as people know it, in order and unmixed, and holds nobody up."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import re
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from manyhands import (
    ActionStep,
    AgentLogger,
    AgentParsingError,
    ChatMessage,
    CodeAgent,
    LogLevel,
    Monitor,
    Timing,
    TokenUsage,
    ToolCallingAgent,
    tool,
)
from manyhands.observe.words import visible
from manyhands.steps import PlanningStep
from manyhands.testing import FunctionModel, ScriptedModel
from tests.agents.replies import calls, code, final

if TYPE_CHECKING:
    from pathlib import Path

USAGE = TokenUsage(1234, 56)


def paper(width: int = 100) -> Console:
    return Console(file=io.StringIO(), width=width, highlight=False)


def written(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def shown(level: int, *replies: Any, kind: Any = ToolCallingAgent, **options: Any) -> str:
    console = paper()
    script = ScriptedModel(list(replies), token_usage=USAGE)
    agent = kind(model=script, logger=AgentLogger(level, console), **options)
    agent.run("What is [bold]it[/bold]?")
    return written(console)


@tool
def look(where: str) -> str:
    """Look at something.

    Args:
        where: Where.
    """
    return f"[red]a tree[/red] {where}"


# --- What is shown ------------------------------------------------------------------------------------


def test_a_code_agent_is_shown_with_task_plan_code_observations_tokens_and_answer() -> None:
    text = shown(
        LogLevel.INFO,
        "My plan: [i]look[/i].",
        code("print(look('up'))"),
        code("final_answer('42')"),
        kind=CodeAgent,
        tools=[look],
        planning_interval=5,
        name="finder",
    )
    order = [
        "New run - finder",
        "What is [bold]it[/bold]?",
        "ScriptedModel - scripted",
        "Plan",
        "My plan: [i]look[/i].",
        "Step 1",
        "Executing parsed code:",
        "print(look('up'))",
        "Execution logs:",
        "[red]a tree[/red] up",
        "Input tokens: 1,234 | Output tokens: 56",
        "Step 2",
        "Final answer: 42",
    ]
    assert_in_order(text, order)


def assert_in_order(text: str, parts: list[str]) -> None:
    place = 0
    for part in parts:
        place = text.find(part, place)
        assert place >= 0, f"{part!r} is missing, or too early, in {text}"


def test_a_tool_calling_agent_is_shown_with_calls_and_the_results_of_each() -> None:
    replies = [calls(("look", {"where": "up"}), ("look", {"where": "down"})), final(1)]
    text = shown(LogLevel.INFO, *replies, tools=[look])
    assert 'Calling tool: \'look\' with arguments: {"where": "up"}' in text
    assert "Observations of look: [red]a tree[/red] down" in text
    assert "Final answer: 1" in text


def test_more_is_shown_the_higher_the_level() -> None:
    replies = ["No code.", code("final_answer(1)")]
    texts = {level: shown(level, *replies, kind=CodeAgent) for level in (0, 1, 2)}
    assert "Step 1" not in texts[LogLevel.ERROR]
    assert "Your code snippet is invalid" in texts[LogLevel.ERROR]
    assert "Output message of the LLM:" not in texts[LogLevel.INFO]
    assert "Output message of the LLM:" in texts[LogLevel.DEBUG]
    assert "system: " in texts[LogLevel.DEBUG]
    assert len(texts[0]) < len(texts[1]) < len(texts[2])


@pytest.mark.parametrize(
    "options", [{"verbosity_level": LogLevel.OFF}, {"logger": AgentLogger(LogLevel.OFF, paper())}]
)
def test_nobody_watches_at_off(options: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    observers = []
    agent = ToolCallingAgent(
        model=ScriptedModel([final(1), final(2)]),
        step_callbacks=[lambda step, agent: observers.append(list(agent._shown_run().observers))],
        **options,
    )
    assert (agent.run("one"), asyncio.run(agent.arun("two"))) == (1, 2)
    assert observers == [[], []]
    assert capsys.readouterr().out == ""


def test_what_a_tool_prints_stands_where_it_was_printed(capsys: pytest.CaptureFixture[str]) -> None:
    @tool
    def talk() -> str:
        """Say something."""
        print("I am the tool.")  # noqa: T201
        return "said"

    ToolCallingAgent([talk], ScriptedModel([calls(("talk", {})), final(1)])).run("go")
    print("I am the program.")  # noqa: T201
    text = capsys.readouterr().out
    parts = [
        "Calling tool: 'talk'",
        "I am the tool.",
        "Observations: said",
        "Final answer",
        "I am the program.",
    ]
    assert_in_order(text, parts)


async def test_what_is_printed_after_an_awaited_run_stands_below_its_answer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    agent = ToolCallingAgent(model=ScriptedModel(final(1)), verbosity_level=1)
    print("program", await agent.arun("go"))  # noqa: T201
    assert re.search(r"Final answer: 1\s+program 1\s*$", capsys.readouterr().out)


async def test_a_run_that_fails_or_is_cancelled_says_so() -> None:
    console = paper()
    logger = AgentLogger(1, console)
    with pytest.raises(AgentParsingError):
        await ToolCallingAgent(model=ScriptedModel(_ends_run()), logger=logger).arun("go")
    started = asyncio.Event()

    async def wait(messages: list[ChatMessage]) -> str:
        started.set()
        await asyncio.Event().wait()
        return ""

    run = ToolCallingAgent(model=FunctionModel(wait), logger=logger).arun("go")
    task = asyncio.ensure_future(run)
    await started.wait()
    run.cancel()
    await asyncio.wait([task])
    await asyncio.to_thread(logger.flush)
    text = written(console)
    assert "The run ended: AgentParsingError: [b]out[/b]" in text
    assert "The run was cancelled." in text


def _ends_run() -> AgentParsingError:
    error = AgentParsingError("[b]out[/b]")
    error.ends_run = True  # type: ignore[misc]
    return error


# --- Nothing in a text steers the terminal ------------------------------------------------------------


def test_control_characters_of_models_and_tools_are_shown_and_do_nothing() -> None:
    evil = "\x1b]0;title\x07\x1b[2J\x9b31m\rover\u202eback\ud800"
    text = shown(LogLevel.DEBUG, code(f"print({evil!r})\nfinal_answer({evil!r})"), kind=CodeAgent, name=None)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert "␛" in text
    text.encode()


def test_visible_leaves_ordinary_text_alone() -> None:
    for text in ("", "plain", "zwei\tTabs\nund Zeilen", "日本語 и עברית 🙂"):
        assert visible(text) == text
    assert visible("a\r\nb\rc") == "a\nb␍c"


@pytest.mark.parametrize("stream", [False, True])
def test_a_pipe_gets_plain_text(stream: bool, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        "from manyhands import CodeAgent\n"
        "from manyhands.testing import ScriptedModel\n"
        "model = ScriptedModel(['Thought: x\\n<code>\\nfinal_answer(7)\\n</code>'])\n"
        f"print(CodeAgent(model=model, stream_outputs={stream}).run('go'))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout
    assert "Final answer: 7\n7\n" in done.stdout
    assert ("Output message of the LLM:" in done.stdout) == stream


# --- Several at once ----------------------------------------------------------------------------------


async def test_runs_side_by_side_are_told_apart_by_their_names() -> None:
    console = paper()
    gate = asyncio.Barrier(3)

    async def reply(messages: list[ChatMessage]) -> str:
        await gate.wait()
        task = messages[1].text.removeprefix("New task:\n")
        return code(f"final_answer('{task} is done')")

    logger = AgentLogger(1, console)
    agent = CodeAgent(model=FunctionModel(reply), name="worker", logger=logger)
    runs = [agent.arun(f"task {number}") for number in range(3)]
    await asyncio.gather(*runs)
    await asyncio.to_thread(logger.flush)
    for number, run in enumerate(runs):
        assert f"worker {run.id[:4]} │ Final answer: task {number} is done" in written(console)


def test_a_managed_agent_is_shown_inside_of_its_manager_and_once() -> None:
    console = paper()
    member = ToolCallingAgent(
        model=ScriptedModel(final("low")),
        name="member",
        description="Knows.",
        logger=AgentLogger(1, console),
    )
    boss = CodeAgent(
        model=ScriptedModel([code("print(member('Ask'))"), code("final_answer(1)")]),
        name="boss",
        managed_agents=[member],
        logger=AgentLogger(1, console),
    )
    boss.run("go")
    text = written(console)
    assert text.count("member · Step 1") == 1
    assert text.count("│ Final answer: low") == 1
    assert "\nFinal answer: 1" in text


# --- Nobody is held up --------------------------------------------------------------------------------


async def test_runs_go_on_while_the_terminal_takes_nothing() -> None:
    reader, writer = os.pipe()
    console = Console(file=os.fdopen(writer, "w"), width=100, highlight=False)
    logger = AgentLogger(1, console)
    long = code(f"print('{'x' * 30000}')\nfinal_answer(1)")
    agent = CodeAgent(model=ScriptedModel({"go": [long]}), logger=logger)
    # Many times what the pipe holds: nobody reads until all runs are over.
    assert await asyncio.gather(*(agent.arun("go") for _ in range(20))) == [1] * 20
    drained: list[bytes] = []
    thread = threading.Thread(target=lambda: drained.extend(iter(lambda: os.read(reader, 65536), b"")))
    thread.start()
    assert await asyncio.to_thread(logger.flush, 30)
    await asyncio.to_thread(console.file.close)
    await asyncio.to_thread(thread.join)
    os.close(reader)
    assert b"".join(drained).count(b"Final answer: 1") == 20


async def test_a_reader_that_has_gone_ends_the_showing_and_not_the_run() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    file = os.fdopen(writer, "w")
    logger = AgentLogger(1, Console(file=file, width=100))
    agent = ToolCallingAgent(model=ScriptedModel(final(1)), logger=logger)
    assert await agent.arun("go") == 1
    await asyncio.to_thread(logger.flush, 10)
    assert await agent.arun("again") == 1
    with pytest.raises(BrokenPipeError):
        await asyncio.to_thread(file.close)


def test_the_last_block_is_drawn_before_the_process_ends() -> None:
    script = (
        "import asyncio\n"
        "from manyhands import ToolCallingAgent\n"
        "from manyhands.testing import ScriptedModel\n"
        "agent = ToolCallingAgent(model=ScriptedModel(RuntimeError('x' * 50)), verbosity_level=1)\n"
        "try: asyncio.run(agent.arun('go'))\n"
        "except Exception: pass\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "The run ended: AgentGenerationError" in done.stdout
    assert done.stderr == ""


def test_ctrl_c_in_the_middle_of_a_stream_gives_the_cursor_back(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        "import asyncio, itertools\n"
        "from manyhands import ChatMessageStreamDelta, Model, ToolCallingAgent\n"
        "class Endless(Model):\n"
        "    async def agenerate_stream(self, messages, **options):\n"
        "        for number in itertools.count():\n"
        "            yield ChatMessageStreamDelta(f'word{number} ')\n"
        "            await asyncio.sleep(0.01)\n"
        "ToolCallingAgent(model=Endless(), stream_outputs=True).run('go')\n"
    )
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, script], stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    )
    os.close(slave)
    try:
        seen = b""
        while b"word9 " not in seen:
            seen += os.read(master, 65536)
        assert b"\x1b[?25l" in seen  # the cursor is hidden while it is written
        process.send_signal(2)
        seen += _rest(master)
        process.wait(20)
    finally:
        process.kill()
        process.wait()
        os.close(master)
    assert seen.rfind(b"\x1b[?25h") > seen.rfind(b"\x1b[?25l")
    assert b"The run was cancelled." in seen


def _rest(master: int) -> bytes:
    found = b""
    try:
        while piece := os.read(master, 65536):
            found += piece
    except OSError:  # the other side is closed
        pass
    return found


# --- Afterwards ---------------------------------------------------------------------------------------


def test_replay_and_visualize_show_what_was() -> None:
    console = paper()
    agent = ToolCallingAgent(
        [look], ScriptedModel([calls(("look", {"where": "up"})), final(1)]), logger=AgentLogger(1, console)
    )
    agent.run("go")
    console.file.seek(0)
    console.file.truncate()
    agent.replay()
    agent.visualize()
    text = written(console)
    for part in (
        "Replaying the agent's steps",
        "Step 1",
        'Tool call: look({"where": "up"})',
        "look: Look at",
    ):
        assert part in text, text


def test_the_monitor_adds_up_tokens_and_durations() -> None:
    agent = CodeAgent(
        model=ScriptedModel(
            ["a plan", code("1 + 1"), code("final_answer(1)")], token_usage=TokenUsage(100, 10)
        ),
        planning_interval=5,
        verbosity_level=-1,
    )
    assert agent.monitor.step_durations == []
    agent.run("go")
    monitor = agent.monitor
    assert len(monitor.step_durations) == 2 and all(seconds > 0 for seconds in monitor.step_durations)
    assert monitor.get_total_token_counts() == TokenUsage(300, 30)
    assert (monitor.total_input_token_count, monitor.total_output_token_count) == (300, 30)


def test_a_monitor_may_be_a_step_callback() -> None:
    console = paper()
    monitor = Monitor(logger=AgentLogger(1, console))
    agent = ToolCallingAgent(
        model=ScriptedModel(final(1), token_usage=TokenUsage(100, 10)),
        step_callbacks={ActionStep: monitor.update_metrics, PlanningStep: monitor.update_metrics},
        verbosity_level=-1,
    )
    agent.run("go")
    assert monitor.get_total_token_counts() == TokenUsage(100, 10)
    assert "| Input tokens: 100 | Output tokens: 10]" in written(console)
    monitor.reset()
    monitor.update_metrics(ActionStep(1, Timing(0, 2)))
    assert monitor.step_durations == [2.0]


# --- Observers that want to be waited for -------------------------------------------------------------


async def test_what_an_observer_returns_for_a_stream_event_is_waited_for() -> None:
    seen: list[str] = []

    def observe(run: Any, event: Any) -> Any:
        name = type(event).__name__
        seen.append(name)
        return note_later() if name == "FinalAnswerStep" else name

    async def note_later() -> None:
        await asyncio.sleep(0)
        seen.append("waited")

    assert await ToolCallingAgent(model=ScriptedModel(final(1)), observers=[observe]).arun("go") == 1
    assert seen[-3:] == ["FinalAnswerStep", "waited", "RunEnd"]
