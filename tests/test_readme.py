"""What the README shows is true: its Python runs, and its commands exist."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from manyhands.cli.parser import make_parser
from tests.pages import ROOT, blocks_of, run_page
from tests.pages import simulated_model as simulated_model

README = ROOT / "README.md"
COMMANDS = list(
    dict.fromkeys(
        line.partition("  #")[0].strip()
        for block in blocks_of(README)
        if block.language in ("sh", "bash")
        for line in block.text.replace("\\\n", " ").splitlines()
        if line.strip() and not line.startswith(("#", "export "))
    )
)


@pytest.mark.usefixtures("simulated_model")
def test_the_python_of_the_readme_runs_and_prints_what_it_says() -> None:
    assert run_page(README) >= 5


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("make ")])
def test_the_make_targets_of_the_readme_exist(command: str) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(command.split()[1:]) <= set(targets)


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("pip install")])
def test_the_extras_of_the_readme_exist(command: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = [name for group in re.findall(r"\[([\w,-]+)\]", command) for name in group.split(",")]
    assert set(named) <= set(extras)


@pytest.mark.usefixtures("simulated_model")
@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("manyhands ")])
def test_the_manyhands_commands_of_the_readme_work(command: str) -> None:
    words = shlex.split(command, comments=True)[1:]
    program = [sys.executable, "-c", "from manyhands.cli import main; raise SystemExit(main())", *words]
    kind = make_parser().parse_args(words).command
    if kind == "serve":
        serve_for_a_moment([*program, "--port", "0"])
    if kind in ("simulate", "serve", "top"):
        return  # go on until they are stopped
    finished = subprocess.run(program, capture_output=True, text=True, timeout=100)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def serve_for_a_moment(program: list[str]) -> None:
    """Start a server, and stop it as soon as it serves."""
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        assert server.stdout is not None
        said = next(line for line in server.stdout if line.startswith("Serving "))
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)
    assert "http://127.0.0.1:" in said
    assert server.returncode == 0


def test_every_command_of_the_readme_is_checked() -> None:
    known = ("make ", "pip install", "manyhands ")
    assert [line for line in COMMANDS if not line.startswith(known)] == []


def test_the_first_screen_shows_the_two_commands_and_code() -> None:
    first = "\n".join(README.read_text(encoding="utf-8").splitlines()[:60])
    assert "make demo" in first
    assert "make test" in first
    assert "```python" in first


def test_no_file_of_the_readme_is_missing() -> None:
    named = re.findall(r"`((?:examples|benchmarks|docs)/[\w./-]+)`", README.read_text(encoding="utf-8"))
    assert [name for name in named if not Path(ROOT, name).exists()] == []
