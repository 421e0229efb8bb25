"""The guest program runs where nothing of ours is: any Python from 3.9 on."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from manyhands.executors.isolated.bundle import CONFINING, GUEST, guest_command, guest_source
from manyhands.executors.isolated.frames import FrameReader, pack, unpack


@pytest.mark.parametrize("module", [*GUEST, *CONFINING])
def test_modules_of_the_guest_are_written_for_old_pythons_and_the_standard_library(module: str) -> None:
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 9))
    assert "from __future__ import annotations" in source
    checking = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    ]
    left_out = {id(inner) for node in checking for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in left_out:
            name = node.module or ""
            ours = [f"{name}.{alias.name}" if name in PACKAGES else name for alias in node.names]
            known = {*GUEST, *CONFINING} | sys.stdlib_module_names | {"PIL"}
            assert all(n in known or n.split(".")[0] in known for n in ours), ast.unparse(node)


PACKAGES = {"manyhands.executors.isolated", "manyhands.executors.local"}


def test_the_command_runs_the_guest_and_leaves_our_names_free() -> None:
    assert len(guest_command()[-1]) < 100_000  # longer ones cannot be started
    code = "import sys\n[n for n in sys.modules if n.startswith('manyhands')]"
    sent = pack({"t": "run", "step": 1, "code": code, "tools": []})
    command = guest_command(sys.executable)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as guest:
        assert guest.stdin is not None and guest.stdout is not None
        guest.stdin.write(sent)
        guest.stdin.flush()
        reader = FrameReader()
        got: list[str] = []
        while "done" not in got:
            messages = [unpack(body) for body in reader.feed(guest.stdout.read1(65536))]  # type: ignore[attr-defined]
            got += [message["t"] for message in messages]
        guest.stdin.close()
    assert got == ["ready", "done"]
    assert messages[-1]["value"] == []


def test_the_program_holds_no_path_of_this_computer() -> None:
    assert str(Path(__file__).parents[3]) not in guest_source()
