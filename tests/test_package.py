"""The package as users get it: a wheel, installed into an empty environment."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

HELLO = """
from manyhands import CodeAgent, tool
from manyhands.testing import ScriptedModel

@tool
async def double(number: int) -> int:
    '''Double a number.

    Args:
        number: The number.
    '''
    return 2 * number

model = ScriptedModel(["<code>final_answer(double(21))</code>"])
print(CodeAgent([double], model, verbosity_level=-1).run("Double 21"))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(command, check=True)
    return next(folder.glob("manyhands-*.whl"))


def test_the_wheel_holds_types_and_prompts_and_nothing_of_the_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "manyhands/py.typed" in names
    assert "manyhands/prompts/code_agent.yaml" in names
    assert not [name for name in names if name.startswith(("tests/", "examples/", "benchmarks/"))]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_wheel_works_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    bin_folder = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    python = str(bin_folder / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(wheel)], check=True)
    hello = subprocess.run([python, "-W", "error", "-c", HELLO], capture_output=True, text=True, check=True)
    assert hello.stdout.strip() == "42"
    command = [str(bin_folder / "manyhands"), "--version"]
    version = subprocess.run(command, capture_output=True, text=True, check=True)
    assert version.stdout.split()[-1][0].isdigit()
