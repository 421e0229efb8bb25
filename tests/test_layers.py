"""The house rules that no reader should have to check by hand."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import manyhands

ROOT = Path(manyhands.__file__).parent

# The floor of each room; a file imports only from its own floor or from below.
FLOORS = [
    {"errors", "messages", "steps", "memory", "events", "history", "schema", "_lazy", "settings"},
    {"_bridge"},
    {
        "tools.base",
        "tools.definition",
        "tools.setup",
        "models.base",
        "executors.base",
        "callbacks",
        "plugins",
        "prompts",
        "parsing",
    },
    {"models", "executors", "tools", "limits", "approvals", "terminal"},
    {"run", "steering", "asking", "planning", "acting", "loop"},
    {"session", "team", "agents"},
    {"crowd", "tasks", "results"},
    {"observe", "testing", "cli", "serve"},
]


def modules() -> list[str]:
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted(ROOT.rglob("*.py"))
        if path != ROOT / "__init__.py" and path.name != "__main__.py"
    ]


def floor(module: str) -> int:
    for number, rooms in enumerate(FLOORS):
        if any(module == room for room in rooms):
            return number
    for number, rooms in enumerate(FLOORS):
        if any(module.startswith(f"{room}.") for room in rooms):
            return number
    raise AssertionError(f"{module} stands on no floor; give it one in FLOORS")


def runtime_imports(module: str) -> set[str]:
    """Modules of ours that are imported when ``module`` is: not those in functions or for types."""
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("manyhands"):
            base = (node.module or "").removeprefix("manyhands").removeprefix(".")
            names = {f"{base}.{alias.name}".removeprefix(".") for alias in node.names}
            found |= names & set(modules()) or {base}
    return found - {""}


@pytest.mark.parametrize("module", modules())
def test_imports_go_down(module: str) -> None:
    upward = [name for name in runtime_imports(module) if floor(name) > floor(module)]
    assert not upward, f"{module} imports from above: {upward}"


def test_imports_have_no_cycles() -> None:
    graph = {module: runtime_imports(module) for module in modules()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"cycle: {' -> '.join((*path, module))}"
        if module not in done:
            for name in graph.get(module, ()):
                visit(name, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_public_names_are_sorted_and_all_there() -> None:
    assert list(manyhands.__all__) == sorted(manyhands.__all__)
    for name in manyhands.__all__:
        assert getattr(manyhands, name) is not None
    assert set(manyhands.__all__) <= set(dir(manyhands))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'CodeAgnet'"):
        manyhands.CodeAgnet  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = "aiohttp pydantic jinja2 rich yaml greenlet asyncio"
    script = f"import sys, manyhands; print([name for name in {heavy.split()!r} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_an_agent_can_be_made_without_the_http_and_schema_libraries() -> None:
    script = """
import sys
from manyhands import CodeAgent, Model, ToolCallingAgent
class Quiet(Model):
    async def agenerate(self, messages): ...
CodeAgent(model=Quiet()), ToolCallingAgent(model=Quiet())
print([name for name in ("aiohttp", "pydantic", "jinja2", "rich", "yaml") if name in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
