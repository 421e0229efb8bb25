"""What all rules of the rewrite share: where they are in the tree, names, and pieces of code to put in."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from manyhands.executors.local import policy
from manyhands.executors.local.tree import LITERALS, LOAD, STORE, all_arguments, located, where

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from manyhands.executors.local.concurrency import TaskNames

DUE = "$due"
TICK = "$tick"
ALIVE = "$alive"
RESULT = "$result"


_IS, _IS_NOT, _NOT, _OR = ast.Is(), ast.IsNot(), ast.Not(), ast.Or()


class Forbidden(Exception):
    """The code asks for something that is not allowed; knows the node."""

    def __init__(self, message: str, node: ast.AST | None = None) -> None:
        super().__init__(message)
        self.node = node


@dataclass(slots=True)
class Scope:
    """A module, class, function or lambda body on the way down the tree."""

    kind: str
    owner: str | None = None
    is_async: bool = False
    me: str | None = None
    uses_me: bool = False
    guards_reads: bool = False
    globals: frozenset[str] = frozenset()


class Rules:
    """The state of a rewrite, and its building blocks.

    Args:
        tools: Names of tools; they cannot be assigned.
        tasks: Variables that only ever hold awaitables for ``gather`` and its like.
    """

    visitors: ClassVar[dict[type[ast.AST], Callable[[Any, Any], Any]]] = {}

    def __init__(self, tools: frozenset[str], tasks: TaskNames) -> None:
        self.tools = tools
        self.tasks = tasks
        self.scopes = [Scope("module")]
        self.module_names: set[str] = set()
        self.stored: set[str] = set()
        self.needs_async = False
        self.future_annotations = False
        self._checked: list[ast.stmt] = []

    # --- helpers -------------------------------------------------------------------------------

    def visit(self, node: Any) -> Any:
        """Check ``node`` and return what replaces it."""
        method = self.visitors.get(type(node))
        if method is None:
            raise Forbidden(f"{type(node).__name__} is not supported.", node)
        return method(self, node)

    def visits(self, nodes: Iterable[Any]) -> list[Any]:
        return [self.visit(node) for node in nodes]

    def maybe(self, node: Any) -> Any:
        return None if node is None else self.visit(node)

    def body(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        """Visit statements; one may become several."""
        out: list[ast.stmt] = []
        for statement in statements:
            new = self.visit(statement)
            if isinstance(new, list):
                out.extend(new)
            else:
                out.append(new)
        return out

    @property
    def scope(self) -> Scope:
        return self.scopes[-1]

    def owner(self) -> str | None:
        """The class whose name mangles ``__x`` here."""
        return next((s.owner for s in reversed(self.scopes) if s.owner is not None), None)

    def check_name(self, name: str | None, node: ast.AST) -> None:
        if name is None or (name.isalnum()):
            return
        if self.scope.kind == "class" and name in policy.DEFINABLE | {"__qualname__"}:
            return
        problem = policy.name_problem(name)
        if problem:
            raise Forbidden(problem, node)

    def bind(self, name: str | None, node: ast.AST) -> None:
        """Check a name that gets a value here."""
        if name is None:
            return
        self.check_name(name, node)
        if name == "__class__":
            raise Forbidden(f"Forbidden access to dunder name: {name}", node)
        self.stored.add(name)
        scope = self.scope
        if scope.kind == "module" or name in scope.globals:
            if name in self.tools:
                raise Forbidden(
                    f"Cannot assign to name '{name}': doing this would erase the existing tool!", node
                )
            if scope.kind == "module":
                self.module_names.add(name)

    # --- building blocks -----------------------------------------------------------------------

    def load(self, name: str, node: ast.AST) -> ast.Name:
        return located(ast.Name, where(node), id=name, ctx=LOAD)

    def call(self, name: str, node: ast.AST, *args: ast.expr) -> ast.Call:
        at = where(node)
        func = located(ast.Name, at, id=name, ctx=LOAD)
        return located(ast.Call, at, func=func, args=list(args), keywords=[])

    def assign(self, name: str, value: ast.expr, node: ast.AST) -> ast.Assign:
        """``name = value``, at the place of ``node``."""
        at = where(node)
        target = located(ast.Name, at, id=name, ctx=STORE)
        return located(ast.Assign, at, targets=[target], value=value, type_comment=None)

    def text(self, value: str | bool | None, node: ast.AST) -> ast.Constant:
        return located(ast.Constant, where(node), value=value, kind=None)

    def checkpoint(self, node: ast.AST) -> ast.stmt:
        """``if $due is not None: $tick()``."""
        at = where(node)
        tick = located(ast.Expr, at, value=self.call(TICK, node))
        return located(ast.If, at, test=self._due(node, _IS_NOT), body=[tick], orelse=[])

    def brake(self, node: ast.AST, *otherwise: ast.stmt) -> ast.stmt:
        """A checkpoint with ``if not $alive(): <otherwise>``; ``$alive`` raises when the code has to stop."""
        at = where(node)
        gone = located(ast.UnaryOp, at, op=_NOT, operand=self.call(ALIVE, node))
        inner = located(ast.If, at, test=gone, body=list(otherwise), orelse=[])
        return located(ast.If, at, test=self._due(node, _IS_NOT), body=[inner], orelse=[])

    def on_time(self, node: ast.AST, then: str = TICK) -> ast.expr:
        """``$due is None or $tick()``, which is always true."""
        values = [self._due(node, _IS), self.call(then, node)]
        return located(ast.BoolOp, where(node), op=_OR, values=values)

    def _due(self, node: ast.AST, compare: ast.cmpop) -> ast.expr:
        # Compared with None, which is one instruction: from 3.13 on, the truth of a value is another one.
        none = self.text(None, node)
        return located(ast.Compare, where(node), left=self.load(DUE, node), ops=[compare], comparators=[none])

    def watched(self, node: ast.expr, *, star: bool = False) -> ast.expr:
        """An iterable on its way into one C call, which may keep every item."""
        if isinstance(node, ast.Starred):
            starred: ast.expr = self.visit(node)
            return starred
        new: ast.expr = self.visit(node)
        return new if isinstance(node, LITERALS) else self.call("$lim" if not star else "$items", node, new)

    # --- what several rules ask ----------------------------------------------------------------

    def arguments(self, args: ast.arguments) -> None:
        """Defaults and notes belong to the scope outside."""
        for arg in all_arguments(args):
            problem = policy.name_problem(arg.arg) if policy.is_dunder(arg.arg) or "$" in arg.arg else None
            if problem or policy.is_dunder(arg.arg):
                raise Forbidden(problem or f"Forbidden access to dunder name: {arg.arg}", arg)
        for arg in all_arguments(args):
            if arg.annotation is not None:
                arg.annotation = self.visit(arg.annotation)
        args.kw_defaults = [self.maybe(default) for default in args.kw_defaults]
        args.defaults = self.visits(args.defaults)

    def keywords(self, keywords: list[ast.keyword]) -> None:
        for keyword in keywords:
            keyword.value = self.visit(keyword.value)

    def bind_arguments(self, args: ast.arguments) -> None:
        self.stored.update(arg.arg for arg in all_arguments(args))

    def still_me(self, args: ast.arguments) -> str | None:
        me = self.scope.me
        return None if any(arg.arg == me for arg in all_arguments(args)) else me

    def async_here(self) -> None:
        if not self.in_function():
            self.needs_async = True

    def in_function(self) -> bool:
        return any(scope.kind == "function" for scope in self.scopes)
