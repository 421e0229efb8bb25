"""Runs an example the way a user does: as a program of its own, against the simulated provider."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).parents[2] / "examples"
_MODEL_SETTINGS = ("MANYHANDS_MODEL", "MANYHANDS_API_BASE", "OPENAI_API_KEY", "OPENAI_BASE_URL")


def run_example(name: str) -> subprocess.CompletedProcess[str]:
    """Run an example to its end; it must succeed."""
    finished = subprocess.run(_command(name), env=_environment(), capture_output=True, text=True, timeout=90)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished


def shown_by(name: str) -> str:
    """Return what an example prints; it must succeed without a warning or a complaint."""
    finished = run_example(name)
    assert finished.stderr == ""
    return finished.stdout


@contextlib.contextmanager
def serving(name: str) -> Iterator[str]:
    """Run an example that is a server; gives its address, and stops it with Ctrl-C."""
    port = _free_port()
    server = subprocess.Popen(
        _command(name),
        env=_environment(PORT=str(port)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert server.stdout is not None
    try:
        said = []
        for line in server.stdout:
            said.append(line)
            if "running on http" in line.lower():
                break
        else:
            raise AssertionError("".join(said))
        yield f"http://127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGINT)
        rest, _ = server.communicate(timeout=30)
    assert "Traceback" not in rest, rest


def _command(name: str) -> list[str]:
    return [sys.executable, "-u", "-W", "error", str(EXAMPLES / f"{name}.py")]


def _environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _MODEL_SETTINGS}
    return {**kept, "COLUMNS": "100", "NO_COLOR": "1", **more}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
