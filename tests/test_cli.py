"""The command line, as a person uses it: real processes, real signals, a real server."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import queue
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest

from manyhands.cli import main
from manyhands.cli.building import load_tools
from manyhands.errors import CallerError
from manyhands.testing import SimulatedProvider
from manyhands.testing.simulated import ChatRequest, Reply, WireError

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).parents[1] / "examples"
COMMAND = [sys.executable, "-m", "manyhands"]


@pytest.fixture
def provider() -> Iterator[SimulatedProvider]:
    with SimulatedProvider() as running:
        yield running


def model_options(provider: SimulatedProvider) -> list[str]:
    return ["--model", "any", "--api-base", provider.base_url, "--api-key", "any"]


def map_words(provider: SimulatedProvider, tasks: Path, results: Path, *more: str) -> list[str]:
    return ["map", str(tasks), "-o", str(results), *model_options(provider), *more]


def tasks_file(folder: Path, number: int) -> Path:
    path = folder / "tasks.jsonl"
    path.write_text("".join(json.dumps({"id": n, "task": f"What is {n} + 1?"}) + "\n" for n in range(number)))
    return path


def records_in(path: Path) -> list[dict[str, Any]]:
    assert path.read_bytes()[-1:] in (b"", b"\n")
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@contextmanager
def started(words: list[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()
        sys.stderr.write(process.communicate()[1])  # shown where a test fails


def line_with(stream: IO[str] | None, words: str) -> str:
    assert stream is not None
    seen = []
    for line in stream:
        seen.append(line)
        if words in line:
            return line
    raise AssertionError(f"{words!r} was not said, but: {seen}")


class Gate:
    """A policy that answers when it is told to, and says who has come."""

    def __init__(self) -> None:
        self.arrived: queue.Queue[None] = queue.Queue()
        self.opened: Future[None] = Future()

    async def __call__(self, request: ChatRequest) -> Reply:
        self.arrived.put(None)
        await asyncio.wrap_future(self.opened)
        return Reply("<code>\nfinal_answer('let through')\n</code>")

    def wait_for(self, number: int) -> None:
        for _ in range(number):
            self.arrived.get(timeout=30)

    def open(self) -> None:
        self.opened.set_result(None)


# --- map ---------------------------------------------------------------------------------------


def test_map_writes_one_line_per_task_and_says_how_it_went(
    provider: SimulatedProvider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.jsonl"
    tools = f"{EXAMPLES / 'lookup_tools.py'}"
    words = map_words(provider, EXAMPLES / "tasks.jsonl", results, "--tools", tools, "--limit", "40")
    assert main(words) == 0
    records = records_in(results)
    assert len({record["id"] for record in records}) == 40
    assert all(record["correct"] and record["state"] == "success" for record in records)
    said = capsys.readouterr().out
    assert "Done: 40 succeeded; 0 failed." in said
    assert "Right answers: 40 of 40." in said
    assert f"Results: {results}" in said


@pytest.mark.parametrize("agent", ["code", "tools"])
def test_both_kinds_of_agents_map(provider: SimulatedProvider, tmp_path: Path, agent: str) -> None:
    (tmp_path / "t.txt").write_text("What is the capital of Peru?\n")
    words = map_words(provider, tmp_path / "t.txt", tmp_path / "r.jsonl", "--agent", agent)
    assert main([*words, "--tools", str(EXAMPLES / "lookup_tools.py")]) == 0
    assert records_in(tmp_path / "r.jsonl")[0]["output"] == "Lima"


def test_running_it_again_does_what_is_missing_and_nothing_else(
    provider: SimulatedProvider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks, results = tasks_file(tmp_path, 6), tmp_path / "r.jsonl"
    assert main(map_words(provider, tasks, results, "--limit", "4")) == 0
    asked = provider.stats.requests
    assert main(map_words(provider, tasks, results)) == 0
    assert sorted(record["id"] for record in records_in(results)) == list(range(6))
    assert provider.stats.requests == asked * 6 // 4
    assert "2 succeeded; 0 failed; 4 done before." in capsys.readouterr().out
    assert main(map_words(provider, tasks, results)) == 0
    assert provider.stats.requests == asked * 6 // 4


def test_failed_tasks_stay_failed_until_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = True

    def policy(request: ChatRequest) -> Reply:
        if broken and "What is 1 + 1?" in str(request.messages):
            raise WireError(418, "I am a teapot.")
        return Reply("<code>\nfinal_answer('yes')\n</code>")

    with SimulatedProvider(policy=policy) as provider:
        tasks, results = tasks_file(tmp_path, 3), tmp_path / "r.jsonl"
        assert main(map_words(provider, tasks, results)) == 1
        assert {record["id"]: record["state"] for record in records_in(results)}[1] == "error"
        broken = False
        asked = provider.stats.requests
        assert main(map_words(provider, tasks, results)) == 1
        assert provider.stats.requests == asked
        assert "3 done before, 1 of them failed" in capsys.readouterr().out
        assert main(map_words(provider, tasks, results, "--retry-failed")) == 0
        assert provider.stats.requests == asked + 1
    assert sorted((record["id"], record["output"]) for record in records_in(results)) == [
        (0, "yes"),
        (1, "yes"),
        (2, "yes"),
    ]


def test_bad_lines_are_named_and_the_rest_is_done(
    provider: SimulatedProvider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"task": "What is 1 + 1?"}\nnonsense\n' + "[]\n" * 30 + '{"task": "What is 2 + 2?"}\n')
    assert main(map_words(provider, tasks, tmp_path / "r.jsonl")) == 2
    said = capsys.readouterr()
    assert f"{tasks}, line 2: It is not valid JSON" in said.err
    assert len(said.err.splitlines()) == 21
    assert "31 bad lines" in said.out
    assert [record["output"] for record in records_in(tmp_path / "r.jsonl")] == [2, 4]


def test_csv_with_a_template_and_results_on_the_standard_output(
    provider: SimulatedProvider, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text("id,a\nx,3\ny,4\n")
    words = [
        "map",
        str(tmp_path / "t.csv"),
        "-o",
        "-",
        "--template",
        "What is {a} * 2?",
        *model_options(provider),
    ]
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=True)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted((record["id"], record["output"]) for record in records) == [("x", 6), ("y", 8)]
    assert "Done: 2 succeeded" in done.stderr


def test_tasks_may_come_through_a_pipe_and_are_done_as_they_come(
    provider: SimulatedProvider, tmp_path: Path
) -> None:
    words = [*COMMAND, "map", "-", "-o", "-", "--quiet", *model_options(provider)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        for number in (1, 2):
            process.stdin.write(f"What is {number} + 1?\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["output"] == number + 1
        process.stdin.close()
        assert process.wait(30) == 0


def test_a_refused_key_stops_the_work_and_is_no_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with SimulatedProvider(api_key="another") as provider:
        assert main(map_words(provider, tasks_file(tmp_path, 500), tmp_path / "r.jsonl", "-c", "5")) == 2
        assert provider.stats.requests < 100
    assert records_in(tmp_path / "r.jsonl") == []
    assert "key" in capsys.readouterr().err


# --- map, interrupted ------------------------------------------------------------------------------


def test_ctrl_c_once_finishes_what_is_in_flight(tmp_path: Path) -> None:
    gate = Gate()
    with SimulatedProvider(policy=gate) as provider:
        tasks, results = tasks_file(tmp_path, 20), tmp_path / "r.jsonl"
        with started(map_words(provider, tasks, results, "-c", "5")) as process:
            gate.wait_for(5)
            process.send_signal(signal.SIGINT)
            line_with(process.stdout, "Nothing new is started; 5 in flight are finished.")
            gate.open()
            line_with(process.stdout, "Interrupted: 5 succeeded; 0 failed; 15 left")
            assert process.wait(30) == 130
        assert sorted(record["id"] for record in records_in(results)) == [0, 1, 2, 3, 4]
        assert main(map_words(provider, tasks, results, "--quiet")) == 0
        assert sorted(record["id"] for record in records_in(results)) == list(range(20))


def test_ctrl_c_twice_stops_at_once(tmp_path: Path) -> None:
    gate = Gate()

    async def policy(request: ChatRequest) -> Reply:
        if "What is 0 + 1?" in str(request.messages):
            return Reply("<code>\nfinal_answer('quick')\n</code>")
        return await gate(request)

    with SimulatedProvider(policy=policy) as provider:
        tasks, results = tasks_file(tmp_path, 20), tmp_path / "r.jsonl"
        with started(map_words(provider, tasks, results, "-c", "5")) as process:
            gate.wait_for(5)
            process.send_signal(signal.SIGINT)
            line_with(process.stdout, "Nothing new is started")
            process.send_signal(signal.SIGINT)
            line_with(process.stdout, "Interrupted: 1 succeeded; 0 failed; 19 left")
            assert process.wait(30) == 130
        assert [record["output"] for record in records_in(results)] == ["quick"]


def test_after_kill_9_the_next_run_mends_the_file_and_does_the_rest(tmp_path: Path) -> None:
    answered = threading.Semaphore(0)

    def policy(request: ChatRequest) -> Reply:
        answered.release()
        return Reply("<code>\nfinal_answer('yes')\n</code>")

    with SimulatedProvider(policy=policy, latency=0.01) as provider:
        tasks, results = tasks_file(tmp_path, 400), tmp_path / "r.jsonl"
        with started(map_words(provider, tasks, results, "-c", "10")) as process:
            for _ in range(100):
                assert answered.acquire(timeout=30)
            process.kill()
            process.wait()
        there = len(results.read_bytes().splitlines())
        assert 0 < there < 400
        # A kill seldom tears a line; here it has.
        os.truncate(results, results.stat().st_size - 7)
        done = subprocess.run(
            [*COMMAND, *map_words(provider, tasks, results)], capture_output=True, text=True, check=True
        )
    assert "a torn last line was taken off" in done.stderr
    assert f"{there - 1} done before" in done.stdout
    assert sorted(record["id"] for record in records_in(results)) == list(range(400))


def test_two_processes_cannot_write_to_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gate = Gate()
    with SimulatedProvider(policy=gate) as provider:
        words = map_words(provider, tasks_file(tmp_path, 2), tmp_path / "r.jsonl")
        with started(words) as process:
            gate.wait_for(2)
            assert main(words) == 2
            assert "Another process is writing results to" in capsys.readouterr().err
            gate.open()
            assert process.wait(30) == 0


# --- map, watched ------------------------------------------------------------------------------------


def test_on_a_terminal_there_is_a_board(tmp_path: Path) -> None:
    gate = Gate()
    with SimulatedProvider(policy=gate) as provider:
        words = map_words(provider, tasks_file(tmp_path, 3), tmp_path / "r.jsonl")
        ours, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
        with subprocess.Popen([*COMMAND, *words], stdout=theirs, stderr=theirs, env=environment) as process:
            os.close(theirs)
            screen = _read_until(ours, "model 3")
            assert "What is 0 + 1?" in screen
            gate.open()
            screen = _read_until(ours, "Results:")
            assert process.wait(30) == 0
        os.close(ours)
    assert "3 of 3  100%" in screen
    assert "Done: 3 succeeded; 0 failed." in screen


def _read_until(terminal: int, words: str) -> str:
    screen = ""
    while words not in screen:
        screen += os.read(terminal, 65536).decode()
    return screen


def test_elsewhere_there_are_lines_of_progress(tmp_path: Path) -> None:
    gate = Gate()
    with SimulatedProvider(policy=gate) as provider:
        words = map_words(provider, tasks_file(tmp_path, 3), tmp_path / "r.jsonl")
        with started(words) as process:
            assert "0 of 3 done; 3 in flight (model 3); 0.0/s" in line_with(process.stdout, "in flight")
            gate.open()
            assert process.wait(30) == 0


def test_quiet_says_nothing(
    provider: SimulatedProvider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(map_words(provider, tasks_file(tmp_path, 2), tmp_path / "r.jsonl", "-q")) == 0
    assert capsys.readouterr() == ("", "")


# --- run -----------------------------------------------------------------------------------------------


def test_run_shows_the_steps_beside_and_the_answer_on_the_standard_output(
    provider: SimulatedProvider, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "What is 6 * 7?", *model_options(provider)]) == 0
    said = capfd.readouterr()
    assert said.out == "42\n"
    assert "Step 1" in said.err
    assert "6 * 7" in said.err


def test_run_reads_the_task_from_a_pipe_and_may_be_quiet(provider: SimulatedProvider) -> None:
    words = ["run", "-", "--quiet", "--agent", "tools", *model_options(provider)]
    words += ["--tools", str(EXAMPLES / "lookup_tools.py")]
    done = subprocess.run(
        [*COMMAND, *words],
        input="What is the capital of Ghana?\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("Accra\n", "")


def test_run_brings_its_own_provider_for_the_model_simulated(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "What is 2 ** 10?", "--model", "simulated", "--latency", "0", "-q"]) == 0
    assert capsys.readouterr().out == "1024\n"


def test_run_that_comes_to_no_answer_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with SimulatedProvider(policy=lambda request: Reply("Let me think.")) as provider:
        assert main(["run", "What?", "--max-steps", "2", "-q", *model_options(provider)]) == 1
    said = capsys.readouterr()
    assert said.out == "Let me think.\n"
    assert "used all its 2 steps" in said.err


# --- simulate and demo -----------------------------------------------------------------------------------


def test_simulate_serves_until_ctrl_c(tmp_path: Path) -> None:
    with started(["simulate", "--port", "0", "--latency", "0", "--faults", "429=1"]) as process:
        url = line_with(process.stdout, "Simulated provider at").split()[3]
        line_with(process.stdout, "Try: manyhands run")
        with urllib.request.urlopen(url.removesuffix("/v1") + "/stats", timeout=10) as reply:
            assert json.loads(reply.read())["requests"] == 0
        process.send_signal(signal.SIGINT)
        line_with(process.stdout, "0 requests, at most 0 at once")
        assert process.wait(30) == 0


def test_the_demo_computes_and_compares(tmp_path: Path) -> None:
    words = ["demo", "--examples", str(EXAMPLES), "--latency", "0.01"]
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, cwd=tmp_path, timeout=100)
    assert done.returncode == 0, done.stderr
    for part in (
        "Right answers: 316 of 316.",
        "(extrapolated)",
        "With a real provider:",
        "results-demo.jsonl",
    ):
        assert part in done.stdout
    assert len(records_in(tmp_path / "results-demo.jsonl")) == 316


# --- Bad usage --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("map none.jsonl -o r.jsonl", "There is no file none.jsonl to read tasks from."),
        ("map . -o r.jsonl", "is a folder"),
        ("map t.txt -o t.txt", "t.txt holds the tasks; name another file for the results."),
        ("map t.txt -o r.jsonl", "Which model? Give --model NAME, or --model simulated"),
        ("map t.txt -o no/r.jsonl", "There is no folder no to write r.jsonl to."),
        ("map t.csv -o r.jsonl --model simulated", 'no column "task"'),
        ("map t.txt -o r.jsonl --model simulated --template {", "template cannot be read"),
        ("run x --model simulated --tools none.py", "There is no file none.py to take tools from."),
        ("run x --model simulated --tools t.py", "t.py holds no tools"),
        ("run x --model simulated --tools bad.py", "cannot be imported: ZeroDivisionError"),
        ("run x --model simulated --tools json:no", "There is no 'no' in the module json."),
        ("run x --model simulated --tools finl_answer", "final_answer"),
        ("run x --model simulated --latency soon", "Cannot read latency 'soon'"),
        ("run x --model simulated --agent tools --imports re", "--imports is for agents"),
        ("simulate --faults 418=2", "The rate of fault '418' is 2"),
        ("demo --examples none", "There are no examples in none"),
    ],
)
def test_bad_usage_is_one_clear_sentence(
    line: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MANYHANDS_MODEL", raising=False)
    (tmp_path / "t.txt").write_text("What is 1 + 1?\n")
    (tmp_path / "t.csv").write_text("question\nWhat?\n")
    (tmp_path / "t.py").write_text("x = 1\n")
    (tmp_path / "bad.py").write_text("1 / 0\n")
    assert main(line.split()) == 2
    complaint = capsys.readouterr().err
    assert said in complaint
    assert complaint.startswith(f"manyhands {line.split()[0]}: ")
    assert "Traceback" not in complaint


@pytest.mark.parametrize(
    "words", [["map"], ["map", "a", "-o", "b", "-c", "0"], ["run", "x", "--colour"], ["dance"]]
)
def test_words_that_are_not_understood_are_too(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_debug_shows_where(tmp_path: Path) -> None:
    with pytest.raises(CallerError):
        main(["map", str(tmp_path / "none"), "-o", "r.jsonl", "--debug"])


def test_a_port_that_is_taken_is_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["simulate", "--port", str(taken.getsockname()[1])]) == 2
    assert "address already in use" in capsys.readouterr().err


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "run an agent over a file of tasks" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys, manyhands.cli.parser as p; p.make_parser().format_help(); print(sorted(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    for heavy in ("aiohttp", "asyncio", "pydantic", "rich", "yaml"):
        assert f"'{heavy}'" not in out


# --- Tools -------------------------------------------------------------------------------------------------


def test_tools_come_from_files_modules_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "helper_of_tools.py").write_text("GREETING = 'hello'\n")
    (tmp_path / "my_own_tools.py").write_text(
        "from manyhands import tool\n"
        "from helper_of_tools import GREETING\n\n"
        "@tool\n"
        "def greet() -> str:\n"
        '    """Greet."""\n'
        "    return GREETING\n\n"
        "both = [greet, greet]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (greet,) = load_tools(str(tmp_path / "my_own_tools.py"))
    assert greet() == "hello"
    assert [found.name for found in load_tools("my_own_tools:both, my_own_tools:greet")] == ["greet"] * 3
    assert load_tools(" final_answer ,,") == ["final_answer"]
    assert load_tools("") == []
