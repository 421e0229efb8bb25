"""What the guest changes in a snippet before it runs: very little, since nothing has to be held back.

The last value is kept. A call of a tool gives its value where it stands; where it is meant to run beside
others (``await asyncio.gather(*[tool(x) for x in xs])``, ``await tool(x)``) it is started instead, as in the
local executor. Names with a dollar sign are ours: no source can spell them.

Runs on Python 3.9 and later with nothing but the standard library.
"""

from __future__ import annotations

import ast
from typing import Any

from manyhands.executors.local.concurrency import TaskNames, is_gatherer

RESULT = "$result"
START = "$start"
AWAIT = "$await"

_Function = (ast.FunctionDef, ast.AsyncFunctionDef)


class Refused(Exception):
    """The snippet is not run.

    Args:
        message: Why.
        node: Where.
    """

    def __init__(self, message: str, node: ast.AST | None = None) -> None:
        super().__init__(message)
        self.node = node


def rewritten(source: str, filename: str, tools: frozenset[str]) -> ast.Module:
    """Return the tree of ``source`` as it is to be compiled.

    Args:
        source: The snippet.
        filename: What tracebacks call it.
        tools: Names of tools, which the module may not assign.

    Raises:
        SyntaxError: It is no Python.
        Refused: It would replace a tool.
    """
    tree = _parsed(source, filename)
    _check_stores(tree, tools)
    new = _Rewriter(tools, TaskNames(source, tree)).visit(tree)
    new.body = [*new.body[:-1], *_with_result(new.body[-1])] if new.body else []
    made: ast.Module = ast.fix_missing_locations(new)
    return made


def _parsed(source: str, filename: str) -> ast.Module:
    for _ in range(3):
        try:
            return ast.parse(source, filename, "exec")
        except SystemError:
            # A finalizer of the code ran meanwhile, failed, and its traceback was parsed: CPython 3.11
            # takes that for a mistake of its own. It does not happen twice.
            continue
    return ast.parse(source, filename, "exec")


def _with_result(last: ast.stmt) -> list[ast.stmt]:
    """The last statement, its value kept."""
    target = ast.copy_location(ast.Name(RESULT, ast.Store()), last)
    if isinstance(last, ast.Expr):
        return [ast.copy_location(ast.Assign([target], last.value), last)]
    if isinstance(last, ast.Assign) and len(last.targets) == 1 and isinstance(last.targets[0], ast.Name):
        value = ast.copy_location(ast.Name(last.targets[0].id, ast.Load()), last)
        return [last, ast.copy_location(ast.Assign([target], value), last)]
    return [last]


def _check_stores(tree: ast.AST, tools: frozenset[str]) -> None:
    """Refuse a module that assigns the name of a tool; inside functions such names are their own affair."""
    open_nodes = [tree]
    while open_nodes:
        node = open_nodes.pop()
        for name in _stored(node):
            if name in tools:
                raise Refused(
                    f"Cannot assign to name '{name}': doing this would erase the existing tool!", node
                )
        if isinstance(node, (*_Function, ast.Lambda)):
            inner = ast.walk(node)
            open_nodes.extend(n for n in inner if isinstance(n, ast.Global))
            continue
        if not isinstance(node, ast.ClassDef):
            open_nodes.extend(ast.iter_child_nodes(node))


def _stored(node: ast.AST) -> list[str]:
    """Names that ``node`` itself gives a value to, or takes it from."""
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        return [node.id]
    if isinstance(node, (*_Function, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.alias):
        return [(node.asname or node.name).split(".")[0]]
    if isinstance(node, ast.ExceptHandler) and node.name:
        return [node.name]
    if isinstance(node, ast.Global):
        return list(node.names)
    names = [getattr(node, field, None) for field in ("name", "rest")]  # of patterns, on 3.10 and later
    is_pattern = type(node).__name__.startswith("Match")
    return [name for name in names if isinstance(name, str)] if is_pattern else []


class _Rewriter(ast.NodeTransformer):
    def __init__(self, tools: frozenset[str], tasks: TaskNames) -> None:
        self._tools = tools
        self._tasks = tasks
        self._in_coroutine = False

    def visit_Assign(self, node: ast.Assign) -> Any:
        if self._tasks.active and any(self._tasks.holds(target) for target in node.targets):
            node.value = self._deferred(node.value)
            return node
        return self.generic_visit(node)

    def visit_Await(self, node: ast.Await) -> Any:
        value = self._deferred(node.value)
        node.value = ast.copy_location(ast.Call(_ours(AWAIT, node), [value], []), node)
        return node

    def visit_Call(self, node: ast.Call) -> Any:
        if self._tasks.active and (is_gatherer(node.func) or self._tasks.collects(node.func)):
            node.func = self.visit(node.func)
            node.args = [self._deferred(argument) for argument in node.args]
            node.keywords = [self.visit(keyword) for keyword in node.keywords]
            return node
        if self._in_coroutine and isinstance(node.func, ast.Name) and node.func.id in self._tools:
            # Waiting for the tool would hold up the other tasks of the code: the loop waits instead.
            return self.visit_Await(ast.copy_location(ast.Await(node), node))
        return self.generic_visit(node)

    def _deferred(self, node: Any) -> Any:
        """An expression whose own calls of tools are started and not waited for."""
        if isinstance(node, ast.Call):
            if self._tasks.active and is_gatherer(node.func):
                return self.visit_Call(node)
            node = self.generic_visit(node)
            node.func = ast.copy_location(ast.Call(_ours(START, node), [node.func], []), node)
            return node
        if isinstance(node, ast.Starred):
            node.value = self._deferred(node.value)
            return node
        if isinstance(node, (ast.List, ast.Tuple)):
            node.elts = [self._deferred(item) for item in node.elts]
            return node
        if isinstance(node, (ast.ListComp, ast.GeneratorExp, ast.SetComp)):
            node.generators = [self.visit(part) for part in node.generators]
            with _Scope(self, False):
                node.elt = self._deferred(node.elt)
            return node
        return self.visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> Any:
        return self._function(node, True)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        return self._function(node, False)

    def _function(self, node: Any, is_coroutine: bool) -> Any:
        node.decorator_list = [self.visit(item) for item in node.decorator_list]
        with _Scope(self, False):
            node.args = self.visit(node.args)
        with _Scope(self, is_coroutine):
            node.body = [self.visit(statement) for statement in node.body]
        return node

    def _plain(self, node: Any) -> Any:
        with _Scope(self, False):
            return self.generic_visit(node)

    visit_Lambda = visit_ClassDef = visit_GeneratorExp = _plain
    visit_ListComp = visit_SetComp = visit_DictComp = _plain


class _Scope:
    """Says for a while whether the code stands in a coroutine."""

    def __init__(self, rewriter: _Rewriter, is_coroutine: bool) -> None:
        self._rewriter = rewriter
        self._inner = is_coroutine
        self._outer = rewriter._in_coroutine

    def __enter__(self) -> None:
        self._rewriter._in_coroutine = self._inner

    def __exit__(self, *_: object) -> None:
        self._rewriter._in_coroutine = self._outer


def _ours(name: str, at: ast.AST) -> ast.Name:
    return ast.copy_location(ast.Name(name, ast.Load()), at)
