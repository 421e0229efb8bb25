"""Google docstrings, taken apart."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field


@dataclass(slots=True)
class Docstring:
    """What a docstring says.

    Attributes:
        description: The text before the sections.
        arguments: The words about each argument.
        returns: The words about the result.
    """

    description: str = ""
    arguments: dict[str, str] = field(default_factory=dict)
    returns: str = ""


_SECTIONS = {
    "args": "args",
    "arguments": "args",
    "parameters": "args",
    "params": "args",
    "returns": "returns",
    "return": "returns",
    "yields": "other",
    "raises": "other",
}

# `name: words` or `name (type): words`
_ARGUMENT = re.compile(r"^\*{0,2}(\w+)\s*(?:\((?:[^()]|\([^()]*\))*\))?\s*:\s*(.*)$")


def parse_docstring(text: str | None) -> Docstring:
    """Take a Google docstring apart.

    Args:
        text: The docstring; ``None`` is an empty one.
    """
    blocks: dict[str, list[str]] = {"description": [], "args": [], "returns": [], "other": []}
    section = "description"
    for line in inspect.cleandoc(text or "").splitlines():
        heading = line.rstrip().removesuffix(":").lower() if line.rstrip().endswith(":") else ""
        if heading in _SECTIONS:
            section = _SECTIONS[heading]
        else:
            blocks[section].append(line)
    return Docstring(
        description="\n".join(blocks["description"]).strip(),
        arguments=_parse_arguments(blocks["args"]),
        returns=" ".join(line.strip() for line in blocks["returns"] if line.strip()),
    )


def _parse_arguments(lines: list[str]) -> dict[str, str]:
    """Read the entries of an ``Args:`` section; what is indented deeper continues the entry above."""
    found: dict[str, list[str]] = {}
    current: list[str] | None = None
    margin: int | None = None
    for line in lines:
        if not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        margin = indent if margin is None else margin
        entry = _ARGUMENT.match(line.strip()) if indent <= margin else None
        if entry is not None:
            current = found.setdefault(entry[1], [])
            current.append(entry[2].strip())
        elif current is not None:
            current.append(line.strip())
    return {name: " ".join(part for part in parts if part) for name, parts in found.items()}
