"""Which calls in a snippet are meant to run side by side: ``asyncio.gather(*[tool(x) for x in xs])``.

A plain ``tool(x)`` gives its value. Written as an argument of ``gather``, ``create_task`` and their like, or
into a
variable that is used for nothing else, the same call has to start without being waited for. Both forms can
be told
apart by looking at the source, which is what this file does.
"""

from __future__ import annotations

import ast

_GATHERERS = frozenset(
    {
        "gather",
        "create_task",
        "ensure_future",
        "wait_for",
        "wait",
        "as_completed",
        "shield",
        "run_until_complete",
    }
)


def is_gatherer(func: ast.expr) -> bool:
    """True for ``asyncio.gather``, ``tg.create_task`` and the other callables that take awaitables."""
    if isinstance(func, ast.Attribute):
        return func.attr in _GATHERERS
    return isinstance(func, ast.Name) and func.id in _GATHERERS


class TaskNames:
    """The variables of a snippet that only ever hold awaitables on their way to ``gather``."""

    def __init__(self, source: str, tree: ast.AST) -> None:
        self.active = any(name in source for name in _GATHERERS)
        self.names = _task_names(tree) if self.active else frozenset[str]()

    def holds(self, target: ast.expr) -> bool:
        """True when assigning to ``target`` fills such a variable."""
        return isinstance(target, ast.Name) and target.id in self.names

    def collects(self, func: ast.expr) -> bool:
        """True for ``tasks.append``."""
        return isinstance(func, ast.Attribute) and func.attr == "append" and self.holds(func.value)


def _task_names(tree: ast.AST) -> frozenset[str]:
    given: set[str] = set()
    fine: dict[str, int] = {}
    loads: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            loads[node.id] = loads.get(node.id, 0) + 1
        elif isinstance(node, ast.Call):
            for name in _uses(node, given):
                fine[name] = fine.get(name, 0) + 1
    return frozenset(name for name in given if loads.get(name) == fine.get(name))


def _uses(node: ast.Call, given: set[str]) -> list[str]:
    """Names that this call uses in a way that fits a collection of awaitables."""
    if is_gatherer(node.func):
        bare = [arg.value if isinstance(arg, ast.Starred) else arg for arg in node.args]
        parts = [e for arg in bare for e in (arg.elts if isinstance(arg, (ast.List, ast.Tuple)) else [arg])]
        names = [part.id for part in parts if isinstance(part, ast.Name)]
        given.update(names)
        return names
    if (
        isinstance(node.func, ast.Attribute)
        and node.func.attr == "append"
        and isinstance(node.func.value, ast.Name)
    ):
        return [node.func.value.id]
    if isinstance(node.func, ast.Name) and node.func.id == "len":
        return [arg.id for arg in node.args if isinstance(arg, ast.Name)]
    return []
