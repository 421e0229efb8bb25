"""A run can be read as a tree: while it goes on, afterwards, and from a results file; and be given away."""

from __future__ import annotations

import asyncio
import json
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands import (
    AgentError,
    CallerError,
    ChatMessage,
    CodeAgent,
    ServerError,
    TokenUsage,
    ToolCallingAgent,
    Trace,
    tool,
)
from manyhands.cli import main
from manyhands.crowd import Crowd
from manyhands.observe.export import html, markdown, terminal
from manyhands.observe.trace import TraceCall, TraceStep
from manyhands.results import ResultsFile
from manyhands.testing import FunctionModel, ScriptedModel
from tests.agents.replies import calls, code, final

if TYPE_CHECKING:
    from pathlib import Path

USAGE = TokenUsage(100, 10)
# Imported when first used, which reads files: here, and not on the loop of a test.
FORMS = (html, markdown, terminal)


@tool
async def search(query: str) -> str:
    """Search.

    Args:
        query: What for.
    """
    await asyncio.sleep(0.01)
    if query == "bad":
        raise ValueError("<b>closed</b> api_key=abcdef123456")
    return f"found {query}"


def team() -> CodeAgent:
    member = ToolCallingAgent(
        [search],
        ScriptedModel(
            [calls(("search", {"query": "moons"}), ("search", {"query": "bad"})), final("two")],
            token_usage=USAGE,
        ),
        name="astronomer",
        description="Knows the sky.",
    )
    script = [
        "Facts, and a plan.",
        code("x = search(query='mars')\nprint(astronomer('How many?'), x)"),
        code("final_answer('Two')"),
    ]
    return CodeAgent(
        [search],
        ScriptedModel(script, token_usage=USAGE, model_id="thinker"),
        name="boss",
        managed_agents=[member],
        planning_interval=5,
    )


async def finished() -> Trace:
    run = team().arun("How many moons has <Mars>?")
    await run
    return run.trace()


# --- What is in it ------------------------------------------------------------------------------------


async def test_a_trace_holds_steps_calls_with_their_times_and_the_runs_inside() -> None:
    trace = await finished()
    assert (trace.agent, trace.model, trace.status, trace.output) == ("boss", "thinker", "success", "Two")
    assert trace.tokens == TokenUsage(500, 50)
    plan, first, last = trace.steps[1:]
    assert (plan.kind, plan.text, plan.tokens) == ("plan", "Facts, and a plan.", USAGE)
    assert (first.text, first.code.splitlines()[0]) == ("Thought: next.", "x = search(query='mars')")
    found, asked = first.calls
    assert (found.name, found.arguments, found.result) == ("search", {"query": "mars"}, "found mars")
    assert found.seconds is not None and 0.005 < found.seconds < (first.seconds or 0)
    assert found.began is not None and asked.began is not None and found.began < asked.began
    inner = asked.run
    assert inner is not None and inner.agent == "astronomer" and inner.output == "two"
    good, bad = inner.steps[1].calls
    assert (good.result, bad.error) == ("found moons", "ValueError: <b>closed</b> api_key=***")
    assert "found mars" in first.observations
    assert first.model_seconds is not None and first.model_seconds <= (first.seconds or 0)
    assert last.output == "Two"
    assert trace.runs == () and trace.left_out == 0


async def test_a_run_that_goes_on_shows_the_step_it_is_in() -> None:
    started = asyncio.Event()

    @tool
    async def wait() -> str:
        """Wait."""
        started.set()
        await asyncio.Event().wait()
        return ""

    agent = ToolCallingAgent([wait], ScriptedModel([calls(("wait", {}))]))
    run = agent.arun("go")
    task = asyncio.ensure_future(run)
    await started.wait()
    trace = run.trace()
    (step,) = trace.steps[1:]
    assert trace.status == "running" and step.seconds is None and step.calls[0].seconds is None
    assert "goes on" in str(trace)
    run.cancel()
    await asyncio.wait([task])
    trace = run.trace()
    assert trace.status == "cancelled"
    assert trace.steps[1].calls[0].error.startswith("CancelledError")


async def test_a_run_that_failed_shows_what_it_did_and_why_it_failed() -> None:
    model = ScriptedModel([calls(("nothing", {})), ServerError("It fell.", status=500)])
    with pytest.raises(AgentError) as failure:
        await ToolCallingAgent(model=model).arun("go")
    trace = failure.value.run.trace()
    assert trace.status == "error"
    assert trace.error is not None and "It fell." in trace.error["message"]
    assert trace.steps[1].error is not None and "Unknown tool 'nothing'" in trace.steps[1].error["message"]
    assert trace.steps[1].calls[0].name == "nothing"
    assert "Unknown tool" in str(trace) and "It fell." in str(trace)


async def test_a_trace_keeps_no_value_of_a_tool_and_only_so_many_calls() -> None:
    @tool
    def make(size: int) -> Any:
        """Make something large.

        Args:
            size: How large.
        """
        return "x" * size

    source = "for i in range(1005):\n    make(3)\nmake(9000)\nfinal_answer(1)"
    run = CodeAgent([make], ScriptedModel(code(source))).arun("go")
    await run
    trace = run.trace()
    assert len(trace.steps[1].calls) == 999 and trace.left_out == 8
    assert trace.steps[1].calls[0].result == "xxx"
    run = CodeAgent([make], ScriptedModel(code("make(9000)\nfinal_answer(1)"))).arun("go")
    await run
    assert len(run.trace().steps[1].calls[0].result) < 600


async def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", "a-value-nobody-knows")
    answer = "sk-abcdefghijklmnop and a-value-nobody-knows"
    run = CodeAgent(model=ScriptedModel(code(f"print({answer!r})\nfinal_answer({answer!r})"))).arun(answer)
    await run
    trace = run.trace()
    for form in (str(trace), trace.markdown(), trace.html(), json.dumps(trace.dict())):
        assert "nobody-knows" not in form and "abcdefgh" not in form and "***" in form


async def test_dict_and_back_is_the_same_trace() -> None:
    trace = await finished()
    assert Trace.from_dict(json.loads(json.dumps(trace.dict()))) == trace
    assert Trace.of(trace.dict()) == trace


async def test_results_have_traces_too() -> None:
    model = ScriptedModel([calls(("search", {"query": "bad"})), final("two")], token_usage=USAGE)
    run = ToolCallingAgent([search], model).arun("How many?", return_full_result=True)
    result = await run
    trace = result.trace()
    assert (trace.task, trace.status, trace.output) == ("How many?", "success", "two")
    assert trace.steps[1].error is not None
    assert trace.steps[1].error["type"] == "AgentToolExecutionError"
    assert Trace.of(json.loads(json.dumps(result.dict()))).steps == trace.steps


@pytest.mark.parametrize("source", [None, 3, {}, {"state": 1, "steps": [3]}, {"status": "x", "steps": 3}])
def test_what_is_no_run_is_refused_in_a_sentence(source: Any) -> None:
    with pytest.raises(CallerError):
        Trace.of(source)


# --- Forms --------------------------------------------------------------------------------------------


async def test_the_text_shows_the_tree() -> None:
    text = str(await finished())
    for part in (
        "boss   success",
        "How many moons has <Mars>?",
        "├── Plan",
        '→ search(query="mars")',
        "│   │   └── astronomer   success",
        "ValueError: <b>closed</b>",
        "└── Answer: Two",
    ):
        assert part in text, text
    assert "\x1b" not in text


class Page(HTMLParser):
    """The elements and texts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


async def test_the_page_needs_nothing_else_and_shows_everything() -> None:
    page = Page((await finished()).html())
    assert not {"script", "link", "img", "iframe", "object", "button"} & set(page.tags)
    assert {name for name, _ in page.attributes} <= {
        "charset",
        "class",
        "content",
        "http-equiv",
        "lang",
        "name",
        "open",
        "style",
    }
    for part in ("How many moons has <Mars>?", "found moons", "astronomer", "Two", "thinker"):
        assert part in page.text
    assert page.tags.count("details") >= 7


TAGS = {"html", "head", "meta", "title", "style", "body", "main", "footer", "section", "h1", "h2", "pre"}
TAGS |= {"dl", "div", "dt", "dd", "details", "summary", "span", "b", "i", "code", "p"}
TEXT = st.text(alphabet=st.characters(), max_size=60) | st.sampled_from(
    ["</pre><script>alert(1)</script>", "```\n# no", "'\"><img src=x onerror=y>", "\x1b[2J", "|a|`b`|"]
)


def outside_of_fences(markdown: str) -> set[str]:
    """The lines that are Markdown, as a reader of Markdown finds them."""
    fence, outside = "", set()
    for line in markdown.splitlines():
        ticks = line[: len(line) - len(line.lstrip("`"))]
        if not fence and len(ticks) >= 3:
            fence = ticks
        elif fence and line.strip() == ticks and len(ticks) >= len(fence):
            fence = ""
        elif not fence:
            outside.add(line)
    assert not fence, "a fence has no end"
    return outside


@settings(deadline=None)
@given(TEXT, TEXT, TEXT)
def test_no_text_can_break_out_of_the_page_or_out_of_markdown(one: str, two: str, three: str) -> None:
    call = TraceCall(one or "x", {one: two}, result=three, error=one, began=1.0, seconds=1.0)
    step = TraceStep(
        "action", 1, two, one, (call,), three, {"type": two, "message": one}, began=1.0, seconds=2.0
    )
    trace = Trace(one, two, three, one, two, three, None, 1.0, 3.0, USAGE, (step,), note=one)
    page = Page(trace.html())
    assert set(page.tags) <= TAGS
    assert "\x1b" not in trace.html() + trace.markdown() + str(trace)
    assert outside_of_fences(trace.markdown()).isdisjoint({"# no", "<script>"})
    trace.html().encode()
    trace.markdown().encode()


async def test_markdown_fences_hold_whatever_stands_in_them() -> None:
    trace = Trace(task="```\n# not a heading\n````", agent="a*b", status="success", output="x")
    text = trace.markdown()
    assert "`````text\n```\n# not a heading\n````\n`````" in text
    assert text.startswith("# a\\*b\n")


# --- manyhands show -----------------------------------------------------------------------------------


async def results(path: Path, keep: bool) -> Path:
    async def reply(messages: list[ChatMessage]) -> Any:
        task = messages[1].text
        if "fail" in task:
            raise ServerError("It fell [over].", status=500)
        return code(f"final_answer('answer to ' + {task[-3:]!r})")

    agent = CodeAgent(model=FunctionModel(reply))
    tasks: list[dict[str, Any]] = [{"id": f"t{number}", "task": f"Task {number:03}"} for number in range(20)]
    tasks.append({"id": 7, "task": "fail"})

    def write(batch: list[Any]) -> None:
        with ResultsFile(path) as file:
            file.write(batch)

    async with Crowd(agent, tasks, keep_runs=keep) as crowd:
        while batch := await crowd.batch():
            await asyncio.to_thread(write, batch)
    return path


@pytest.mark.parametrize("keep", [True, False])
async def test_one_result_is_shown_with_its_steps_if_they_were_kept(
    keep: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = await results(tmp_path / "results.jsonl", keep)
    assert await asyncio.to_thread(main, ["show", f"{path}#t11"]) == 0
    shown = capsys.readouterr().out
    assert "Task 011" in shown and "Answer: answer to 011" in shown
    assert ("final_answer('answer to ' + '011')" in shown) == keep
    assert ("--keep-steps" in shown) != keep
    assert await asyncio.to_thread(main, ["show", f"{path}#7"]) == 1
    assert "It fell [over]." in capsys.readouterr().out


async def test_the_results_are_listed_with_the_failures_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = await results(tmp_path / "results.jsonl", True)
    assert await asyncio.to_thread(main, ["show", str(path), "--limit", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "21 results: 20 succeeded, 1 failed (ServerError 1)."
    rows = [line.split()[0] for line in lines if line.strip()][3:6]
    assert rows[0] == "7" and len(set(rows)) == 3
    assert any("18 more" in line for line in lines)


async def test_a_later_line_of_a_task_counts_instead_of_an_earlier(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = await results(tmp_path / "results.jsonl", False)
    line: dict[str, Any] = {
        "id": 7,
        "task": "fail",
        "output": "after all",
        "state": "success",
        "attempts": 1,
        "steps": 1,
    }
    with path.open("a") as file:
        file.write(json.dumps(line) + '\n{"id": "torn')
    assert await asyncio.to_thread(main, ["show", f"{path}#7"]) == 0
    assert "after all" in capsys.readouterr().out
    assert await asyncio.to_thread(main, ["show", str(path)]) == 0
    shown = capsys.readouterr()
    assert "21 results: 21 succeeded, 0 failed." in shown.out
    assert "1 lines of" in shown.err


async def test_a_result_is_written_as_a_page_and_as_markdown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = await results(tmp_path / "results#1.jsonl", True)
    page, text = tmp_path / "t.html", tmp_path / "t.md"
    words = ["show", f"{path}#t3", "--html", str(page), "--markdown", str(text)]
    assert await asyncio.to_thread(main, ["show", str(path)]) == 0  # a # in the name of a file is no id
    (tmp_path / "results.jsonl").write_bytes(path.read_bytes())
    words[1] = f"{tmp_path / 'results.jsonl'}#t3"
    assert await asyncio.to_thread(main, words) == 0
    assert page.read_text().startswith("<!DOCTYPE html>") and "answer to 003" in page.read_text()
    assert text.read_text().startswith("# CodeAgent\n")
    assert await asyncio.to_thread(main, [*words[:2], "--markdown", "-"]) == 0
    assert capsys.readouterr().out.endswith(text.read_text() + "\n")


async def test_a_file_of_one_result_needs_no_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = await finished()
    path = tmp_path / "trace.json"
    for indent in (None, 2):
        path.write_text(json.dumps(trace.dict(), indent=indent))
        assert await asyncio.to_thread(main, ["show", str(path)]) == 0
        assert "Answer: Two" in capsys.readouterr().out


def test_what_cannot_be_shown_is_said_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = tmp_path / "words.txt"
    words.write_text("no JSON\n")
    two = tmp_path / "two.jsonl"
    two.write_text('{"id": 1, "state": "success", "attempts": 1}\n' * 2)
    for arguments, said in (
        ([str(tmp_path / "none.jsonl")], "There is no file"),
        ([str(tmp_path)], "is a folder"),
        ([str(words)], "holds no results"),
        ([f"{two}#2"], "There is no result of '2' among the 2"),
        ([str(two), "--html", "-"], "say which one"),
        ([f"{two}#1", "--html", str(tmp_path / "no" / "t.html")], "cannot be written"),
    ):
        assert main(["show", *arguments]) == 2
        assert said in capsys.readouterr().err


def test_map_keeps_steps_where_it_is_asked_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks, kept = tmp_path / "tasks.jsonl", tmp_path / "results.jsonl"
    tasks.write_text('{"id": "sum", "task": "What is 20 + 22?"}\n')
    options = ["--model", "simulated", "--latency", "0.001", "-q", "-o", str(kept)]
    assert main(["map", str(tasks), *options, "--keep-steps"]) == 0
    assert main(["show", f"{kept}#sum"]) == 0
    shown = capsys.readouterr().out
    assert "final_answer(42)" in shown and "Answer: 42" in shown
    kept.unlink()
    assert main(["map", str(tasks), *options]) == 0
    assert "trace" not in json.loads(kept.read_text())


async def test_a_manager_plans_with_its_team_in_view() -> None:
    run = team().arun("How many moons has Mars?")
    assert await run == "Two"
    assert run.trace().steps[1].kind == "plan"


async def test_long_results_are_cut_in_the_terminal_and_folded_on_the_page() -> None:
    call = TraceCall("read", {}, result="line\n" * 60, began=1.0, seconds=1.0)
    step = TraceStep("action", 1, code="read()", calls=(call,), observations="seen\n" * 60)
    trace = Trace(task="t", status="success", steps=(step,))
    assert "… and 51 more lines" in str(trace) and "… and 30 more lines" in str(trace)
    assert trace.html().count("line\n") == 60
    assert trace.html().count('<details class="long" >') == 2
    assert trace.markdown().count("line\n") == 60
