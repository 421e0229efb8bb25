"""The notebook runs from top to bottom, in a real kernel."""

from __future__ import annotations

import json
from typing import Any

from tests.examples.running import EXAMPLES
from tests.notebook import kernel


def test_every_cell_of_the_notebook_shows_what_it_promises() -> None:
    cells: list[dict[str, Any]] = json.loads((EXAMPLES / "notebook.ipynb").read_text())["cells"]
    with kernel(EXAMPLES) as run:
        shown = [run("".join(cell["source"])) for cell in cells if cell["cell_type"] == "code"]
    setup, awaited, iterated, many, ran = shown
    assert setup == ""
    assert awaited == "50"
    assert iterated.splitlines()[-1] == "FinalAnswerStep"
    assert many == "(50, 49)"
    assert "25.0" in ran


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = json.loads((EXAMPLES / "notebook.ipynb").read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
