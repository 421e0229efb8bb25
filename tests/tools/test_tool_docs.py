"""The page about tools: its code runs and prints what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

PAGE = Path(__file__).parents[2] / "docs" / "tools.md"


def test_code_of_the_page_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {"__name__": "tools_page"}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    printed = capsys.readouterr().out
    for promised in re.findall(r"^print\(.*\)  # (.*)$", text, re.MULTILINE):
        assert promised in printed
    (refusal,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    assert " ".join(refusal.split()) in printed
