"""The rules for functions and classes."""

from __future__ import annotations

import ast
from typing import Any

from manyhands.executors.local import policy
from manyhands.executors.local.rules import Rules, Scope
from manyhands.executors.local.tree import LOAD, is_named, located, rebinds, split_docstring, where


class Definitions(Rules):
    """Rules for what makes a scope."""

    # --- functions and classes -----------------------------------------------------------------

    def _me(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
        """The name of ``self`` in a method that never gives it another value."""
        if self.scope.kind != "class":
            me = self.still_me(node.args)
        elif self.scope.guards_reads or any(is_named(d, "staticmethod") for d in node.decorator_list):
            return None
        else:
            first = (node.args.posonlyargs + node.args.args)[:1]
            me = first[0].arg if first else None
        return None if me is None or rebinds(node, me) else me

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Any:
        decorators = self.visits(node.decorator_list)
        outer, in_class = self.scope, self.scope.kind == "class"
        self.bind(node.name, node)
        self.scopes.append(Scope("type parameters", me=outer.me))
        self._type_parameters(node)
        self.arguments(node.args)
        node.returns = self.maybe(node.returns)
        self.scopes.pop()
        scope = Scope("function", is_async=isinstance(node, ast.AsyncFunctionDef), me=self._me(node))
        self.scopes.append(scope)
        self.bind_arguments(node.args)
        doc, rest = split_docstring(node.body)
        body = self.body(rest)
        self.scopes.pop()
        if scope.uses_me and not in_class:
            outer.uses_me = True
        prologue = self._prologue(node, scope, in_class=in_class)
        if in_class and node.name == "__del__":
            body = self._finalizer(node, body)
        node.decorator_list = decorators
        node.body = [*doc, *prologue, *body]
        return node

    visit_AsyncFunctionDef = visit_FunctionDef

    def _prologue(self, node: Any, scope: Scope, *, in_class: bool) -> list[ast.stmt]:
        """The checkpoint of a function; for methods also the proof that ``self`` is an object of the code."""
        at = where(node)
        first: ast.stmt = self.checkpoint(node)
        if in_class and node.name in ("__del__", "__repr__", "__str__", "__format__"):
            me = (node.args.posonlyargs + node.args.args)[:1]
            faded = self.call("$faded", node, self.load(me[0].arg, node)) if me else None
            first = self.brake(node, ast.Return(faded if node.name != "__del__" else None, **at))
        if not (in_class and scope.uses_me and scope.me):
            return [first]
        me_here = self.load(scope.me, node)
        mark = located(ast.Attribute, at, value=me_here, attr=policy.OWN_MARK, ctx=LOAD)
        return [first, located(ast.Expr, at, value=mark)]

    def _finalizer(self, node: Any, body: list[ast.stmt]) -> list[ast.stmt]:
        """A finalizer that is stopped says nothing: the code around it stops at its next checkpoint."""
        at = where(node)
        handler = ast.ExceptHandler(self.load("$Stop", node), None, [ast.Pass(**at)], **at)
        return [ast.Try(body or [ast.Pass(**at)], [handler], [], [], **at)]

    def _type_parameters(self, node: Any) -> None:
        for parameter in getattr(node, "type_params", ()):
            self.bind(parameter.name, node)
            for part in ("bound", "default_value"):
                if getattr(parameter, part, None) is not None:
                    setattr(parameter, part, self.visit(getattr(parameter, part)))

    def visit_TypeAlias(self, node: Any) -> Any:
        self.bind(node.name.id, node)
        self.scopes.append(Scope("type parameters"))
        self._type_parameters(node)
        node.value = self.visit(node.value)
        self.scopes.pop()
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.stmt:
        decorators = self.visits(node.decorator_list)
        self.bind(node.name, node)
        self.scopes.append(Scope("type parameters"))
        self._type_parameters(node)
        node.bases = self.visits(node.bases)
        self.keywords(node.keywords)
        self.scopes.pop()
        guards = any(getattr(s, "name", "") == "__getattribute__" for s in node.body)
        self.scopes.append(Scope("class", owner=node.name, guards_reads=guards))
        doc, rest = split_docstring(node.body)
        # Marked from the beginning: __init_subclass__ and enum members run before the class is complete.
        first = self.assign(policy.OWN_MARK, self.load("$mark", node), node)
        node.body = [*doc, first, *self.body(rest)]
        self.scopes.pop()
        node.decorator_list = decorators
        return node
