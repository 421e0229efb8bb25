"""Runs the Python of a Markdown page as its reader would: block after block, in one namespace.

A block that cannot run by itself says so in its first line, where the reader sees it too::

    # Fragment: needs an account at the provider.

A ``text`` block right after a Python block (or after the one word "prints") is what that block prints. In it
``...`` stands for anything, and long lines may be wrapped.
A block may await at its top level, as in ``python -m asyncio`` or a notebook.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import doctest
import inspect
import io
import re
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from manyhands.testing import SimulatedProvider

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_FRAGMENT = re.compile(r"# Fragment: \w+")


@pytest.fixture
def simulated_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SimulatedProvider]:
    """A folder with the examples in it, and a simulated provider behind every model that is named."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    with SimulatedProvider() as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", provider.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "simulated")
        monkeypatch.setenv("MANYHANDS_MODEL", "gpt-5-mini")
        yield provider


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        language: What it is marked as.
        text: What stands in it.
        line: Line of the page at which its text begins.
        start: Where it begins in the page.
        end: Where it ends in the page.
    """

    language: str
    text: str
    line: int
    start: int
    end: int

    @property
    def is_fragment(self) -> bool:
        return _FRAGMENT.match(self.text) is not None


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    content = page.read_text(encoding="utf-8")
    return [
        Block(
            language=found.group(2),
            text=textwrap.dedent(found.group(3)).strip() + "\n",
            line=content.count("\n", 0, found.start()) + 2,
            start=found.start(),
            end=found.end(),
        )
        for found in _BLOCK.finditer(content)
    ]


def run_page(page: Path) -> int:
    """Run the Python blocks of a page; return how many ran."""
    blocks = blocks_of(page)
    content = page.read_text(encoding="utf-8")
    program = ModuleType("__main__")
    python = [block for block in blocks if block.language == "python"]
    with asyncio.Runner() as runner, _as_main(program):
        for block in python:
            code = _compiled(block, page)
            if block.is_fragment:
                continue
            printed = _printed_by(code, program, runner)
            expected = _expected_after(block, blocks, content)
            if expected is not None:
                _compare(printed, expected, f"{page.name}:{block.line}")
    return sum(not block.is_fragment for block in python)


def _compiled(block: Block, page: Path) -> object:
    # The empty lines make a traceback point into the page.
    source = "\n" * (block.line - 1) + block.text
    return compile(source, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@contextlib.contextmanager
def _as_main(program: ModuleType) -> Iterator[None]:
    before = sys.modules["__main__"]
    sys.modules["__main__"] = program
    try:
        yield
    finally:
        sys.modules["__main__"] = before


def _printed_by(code: object, program: ModuleType, runner: asyncio.Runner) -> str:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        result = eval(code, program.__dict__)  # type: ignore[arg-type]
        if inspect.iscoroutine(result):
            runner.run(result)
    return shown.getvalue()


def _expected_after(block: Block, blocks: list[Block], content: str) -> str | None:
    """Return the text block that follows with nothing in between, or the word "prints"."""
    for other in blocks:
        if other.language == "text" and other.start > block.end:
            between = content[block.end : other.start].strip()
            return other.text if between in ("", "prints", "prints:") else None
    return None


def _compare(printed: str, expected: str, where: str) -> None:
    allowed = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    same = doctest.OutputChecker().check_output(expected, printed, allowed)
    assert same, f"{where} says that this is printed:\n{expected}\nIt was:\n{printed}"
