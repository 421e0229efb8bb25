"""``manyhands serve`` as a user runs it: a process of its own, signals included."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from manyhands.cli import main
from manyhands.serve.server import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SLOW = """
import asyncio
from manyhands import ToolCallingAgent
from manyhands.testing import FunctionModel
from tests.agents.replies import final

async def answer(messages):
    if "slow" in messages[-1].text:
        await asyncio.sleep(1)
    if "endless" in messages[-1].text:
        await asyncio.sleep(3600)
    return final("done")

first = ToolCallingAgent([], FunctionModel(answer), name="first")
second = ToolCallingAgent([], FunctionModel(answer), name="second")
both = [first, second]
number = 5
"""


class Command:
    """A running ``manyhands serve``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said = ""
        assert process.stdout is not None
        for line in process.stdout:
            self.said += line
            if line.startswith("Try: "):
                break
        else:
            raise AssertionError(self.said)
        found = re.search(r"at (http://\S+)", self.said)
        assert found is not None
        self.url = found.group(1).replace("0.0.0.0", "127.0.0.1")

    def ask(self, path: str, body: Any = None, token: str = "") -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers)) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def end(self) -> str:
        """Wait for its end; return what it has said since."""
        rest, _ = self.process.communicate(timeout=60)
        return rest


@contextlib.contextmanager
def running(*words: str, cwd: Path | None = None, **environ: str) -> Iterator[Command]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("MANYHANDS_", "OPENAI_"))
    }
    root = os.getcwd()
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "manyhands", "serve", "--port", "0", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env={**kept, "PYTHONPATH": root, **environ},
    )
    try:
        yield Command(process)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def agents(tmp_path: Path) -> Path:
    (tmp_path / "agents_here.py").write_text(SLOW)
    return tmp_path


def test_the_first_command_works_without_a_key() -> None:
    with running("--latency", "0.01") as command:
        assert "simulated" in command.said
        status, run = command.ask("/v1/runs", {"task": "What is 17 * 23?", "wait": True})
        assert (status, run["output"]) == (200, 391)
        command.process.send_signal(signal.SIGINT)
        assert "Traceback" not in command.end()
    assert command.process.returncode == 0


@pytest.mark.parametrize("word", ["agents_here:both", "agents_here.py:both"])
def test_agents_are_named_by_module_or_file(agents: Path, word: str) -> None:
    with running(word, cwd=agents) as command:
        _, listed = command.ask("/v1/agents")
        assert [agent["name"] for agent in listed["agents"]] == ["first", "second"]


def test_running_runs_finish_after_sigterm_and_new_ones_are_refused(agents: Path) -> None:
    with running("agents_here:first", cwd=agents) as command:
        answers: list[tuple[int, Any]] = []

        def wait() -> None:
            answers.append(command.ask("/v1/runs", {"task": "slow", "wait": True}))

        waiting = threading.Thread(target=wait)
        waiting.start()
        while not command.ask("/v1/runs?status=running")[1]["runs"]:
            pass
        command.process.terminate()
        while command.ask("/readyz")[0] == 200:
            pass
        assert command.ask("/v1/runs", {"task": "too late"})[0] == 503
        waiting.join()
        command.end()
    status, run = answers[0]
    assert (status, run["status"]) == (200, "success")
    assert command.process.returncode == 0


@pytest.mark.parametrize("hurry", [False, True])
def test_an_endless_run_is_cancelled_at_the_deadline_or_by_a_second_signal(agents: Path, hurry: bool) -> None:
    with running("agents_here:first", "--drain", "600" if hurry else "0.2", cwd=agents) as command:
        _, run = command.ask("/v1/runs", {"task": "endless"})
        told = urllib.request.urlopen(f"{command.url}/v1/runs/{run['id']}/events")
        assert b"retry" in told.readline()
        command.process.terminate()
        if hurry:
            while command.ask("/readyz")[0] == 200:
                pass
            command.process.terminate()
        assert b'"status":"cancelled"' in told.read()
        command.end()
    assert command.process.returncode == 0


def test_beyond_this_computer_a_token_is_made_and_shown_once() -> None:
    with running("--host", "0.0.0.0", "--latency", "0") as command:
        found = re.search(r"without this token, which is shown only now: (\S+)", command.said)
        assert found is not None
        token = found.group(1)
        assert command.ask("/v1/runs")[0] == 401
        assert command.ask("/v1/runs", token=token)[0] == 200
        assert command.said.count(token) == 1
        command.process.terminate()
        assert token not in command.end()


def test_given_tokens_are_asked_for_and_never_shown() -> None:
    secret = "token-from-the-environment"
    with running("--latency", "0", MANYHANDS_SERVE_TOKENS=f"ann:{secret}") as command:
        assert command.ask("/v1/runs")[0] == 401
        assert command.ask("/v1/runs", {"task": "this"}, token=secret)[1]["tenant"] == "ann"
        command.process.terminate()
        assert secret not in command.said + command.end()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nothing:agent"], "nothing cannot be imported: ModuleNotFoundError"),
        (["nothing"], "'nothing' names nothing: write package.module:name, or path/to/file.py:name."),
        (["nothing.py:agent"], "There is no file nothing.py."),
        (["agents_here:nobody"], "There is no 'nobody' in the module agents_here."),
        (["agents_here:number"], "5 is no agent."),
        (["agents_here:first", "agents_here:first"], "Two agents have the same name"),
        (["agents_here:first", "--model", "x"], "the ones you name have theirs"),
        (["--host", "no.such.host.invalid"], "is no address of this computer"),
        (["--port", "99999"], "There is no port 99999."),
        (["--tokens-file", "nothing.toml"], "nothing.toml"),
    ],
)
def test_bad_usage_is_one_clear_sentence(
    agents: Path, words: list[str], says: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(agents)
    monkeypatch.syspath_prepend(str(agents))
    monkeypatch.delenv("MANYHANDS_MODEL", raising=False)
    assert main(["serve", *words]) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("manyhands serve: ")
    assert says in complaint
    assert complaint.count("\n") == 1


def test_a_port_that_is_taken_is_said_to_be(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.delenv("MANYHANDS_MODEL", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    assert f"127.0.0.1:{port} cannot be listened on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("a.b", False),
    ],
)
def test_only_loopback_is_this_computer(host: str, local: bool) -> None:
    assert is_loopback(host) == local
