"""The rules for expressions: names, attributes, operators, comprehensions, calls."""

from __future__ import annotations

import ast
from typing import Any

from manyhands.executors.local import policy
from manyhands.executors.local.concurrency import is_gatherer
from manyhands.executors.local.rules import RESULT, Forbidden, Rules, Scope
from manyhands.executors.local.tree import (
    LITERALS,
    bounded_operator,
    calls,
    calls_per_element,
    consumes,
    is_harmless_format,
    is_wide,
    keeps_items,
    where,
)


class Expressions(Rules):
    """Rules for everything that has a value."""

    # --- expressions ---------------------------------------------------------------------------

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if isinstance(node.ctx, ast.Load):
            self.check_name(node.id, node)
            if node.id == "super" and "super" not in self.stored:
                return self.load("$super", node)
        elif node.id != RESULT:
            self.bind(node.id, node)
        return node

    def visit_NamedExpr(self, node: ast.NamedExpr) -> ast.expr:
        self.bind(node.target.id, node)
        outside = next(s for s in reversed(self.scopes) if s.kind != "comprehension")
        if outside.kind == "module" and node.target.id in self.tools:
            raise Forbidden(f"Cannot assign to name '{node.target.id}': it is a tool.", node)
        return ast.NamedExpr(node.target, self.visit(node.value), **where(node))

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if not isinstance(node.ctx, ast.Load):
            return self._attribute_target(node)
        value = self._class_of(node) or self.visit(node.value)
        if policy.attribute_is_free(node.attr) or self._is_mine(node):
            return ast.Attribute(value, node.attr, node.ctx, **where(node))
        name = policy.mangle(node.attr, self.owner())
        return self.call("$getattr", node, value, self.text(name, node))

    def _class_of(self, node: ast.Attribute) -> ast.expr | None:
        """The ``x.__class__`` of ``x.__class__.__name__``.

        Of a text nothing more can be read than the text.
        """
        inner = node.value
        if not isinstance(inner, ast.Attribute) or inner.attr != "__class__" or node.attr != "__name__":
            return None
        return ast.Attribute(self.visit(inner.value), inner.attr, ast.Load(), **where(inner))

    def _is_mine(self, node: ast.Attribute) -> bool:
        """``self._x`` in a method.

        The prologue of the method has seen that ``self`` is an object of the code.
        """
        scope = self.scope
        if scope.me is None or not isinstance(node.value, ast.Name) or node.value.id != scope.me:
            return False
        if policy.is_dunder(node.attr) or (
            node.attr in policy.GUARDED_NAMES and isinstance(node.ctx, ast.Load)
        ):
            return False
        scope.uses_me = True
        return True

    def _attribute_target(self, node: ast.Attribute) -> ast.expr:
        value = self.visit(node.value)
        if self._is_mine(node):
            return ast.Attribute(value, node.attr, node.ctx, **where(node))
        name = policy.mangle(node.attr, self.owner())
        slot = self.call("$slot", node, value, self.text(name, node))
        return ast.Attribute(slot, "v", node.ctx, **where(node))

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        return ast.Subscript(self.visit(node.value), self.visit(node.slice), node.ctx, **where(node))

    def visit_Slice(self, node: ast.Slice) -> ast.expr:
        return ast.Slice(self.maybe(node.lower), self.maybe(node.upper), self.maybe(node.step), **where(node))

    def visit_Starred(self, node: ast.Starred) -> ast.expr:
        if not isinstance(node.ctx, ast.Load):
            return ast.Starred(self.visit(node.value), node.ctx, **where(node))
        return ast.Starred(self.watched(node.value, star=True), node.ctx, **where(node))

    def visit_Tuple(self, node: ast.Tuple) -> ast.expr:
        return ast.Tuple(self.visits(node.elts), node.ctx, **where(node))

    def visit_List(self, node: ast.List) -> ast.expr:
        return ast.List(self.visits(node.elts), node.ctx, **where(node))

    def visit_Set(self, node: ast.Set) -> ast.expr:
        return ast.Set(self.visits(node.elts), **where(node))

    def visit_Dict(self, node: ast.Dict) -> ast.expr:
        return ast.Dict([self.maybe(key) for key in node.keys], self.visits(node.values), **where(node))

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        return ast.BoolOp(node.op, self.visits(node.values), **where(node))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        return ast.UnaryOp(node.op, self.visit(node.operand), **where(node))

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        guard = bounded_operator(node.op, node.left, node.right)
        left, right = self.visit(node.left), self.visit(node.right)
        if guard is not None:
            return self.call(guard, node, left, right)
        return ast.BinOp(left, node.op, right, **where(node))

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        return ast.Compare(self.visit(node.left), node.ops, self.visits(node.comparators), **where(node))

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        return ast.IfExp(self.visit(node.test), self.visit(node.body), self.visit(node.orelse), **where(node))

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.expr:
        return ast.JoinedStr(self.visits(node.values), **where(node))

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.expr:
        spec = node.format_spec
        if isinstance(spec, ast.JoinedStr):
            spec = self.visit(spec)
            if not all(isinstance(part, ast.Constant) for part in spec.values) or is_wide(spec):
                checked = self.call("$spec", node, spec)
                spec = ast.JoinedStr([ast.FormattedValue(checked, -1, None, **where(node))], **where(node))
        return ast.FormattedValue(self.visit(node.value), node.conversion, spec, **where(node))

    def visit_Lambda(self, node: ast.Lambda) -> ast.expr:
        args = self.arguments(node.args)
        self.scopes.append(Scope("function", me=self.still_me(node.args)))
        self.bind_arguments(node.args)
        body = self.visit(node.body)
        self._leave_nested()
        at = where(node)
        if any(map(calls, ast.walk(node.body))):
            # A lambda that calls nothing cannot recurse, and ends by itself.
            body = ast.IfExp(self.on_time(node), body, self.text(None, node), **at)
        return ast.Lambda(args, body, **at)

    def visit_Yield(self, node: ast.Yield) -> ast.expr:
        return ast.Yield(self.maybe(node.value), **where(node))

    def visit_YieldFrom(self, node: ast.YieldFrom) -> ast.expr:
        return ast.YieldFrom(self.watched(node.value), **where(node))

    def visit_Await(self, node: ast.Await) -> ast.expr:
        value = self.visit(node.value)
        if self.in_function():
            return ast.Await(self.call("$awaitable", node, value), **where(node))
        return self.call("$await", node, value)

    # --- comprehensions ------------------------------------------------------------------------

    def generators(self, node: Any) -> list[ast.comprehension]:
        """Visit the ``for`` clauses.

        Where the element calls nothing, its iterables are split into pieces with checkpoints between.
        Otherwise,
        and around inner clauses, each element has a checkpoint.
        """
        clauses: list[ast.comprehension] = node.generators
        calls = any(clause.is_async for clause in clauses) or calls_per_element(node)
        new = []
        for index, clause in enumerate(clauses):
            if clause.is_async:
                self.async_here()
            source = self.visit(clause.iter)
            if not calls and not isinstance(clause.iter, LITERALS):
                source = self.call("$lim", clause.iter, source)
            self.scopes.append(Scope("comprehension", me=self.scope.me))
            target = self.visit(clause.target)
            if any(isinstance(n, ast.Name) and n.id == self.scope.me for n in ast.walk(clause.target)):
                self.scopes[-1].me = None
            ifs = self.visits(clause.ifs)
            if calls or index < len(clauses) - 1:
                ifs.insert(0, self.on_time(clause.iter))
            new.append(ast.comprehension(target, source, ifs, clause.is_async))
        return new

    def _comprehension(self, node: Any, *parts: str) -> ast.expr:
        generators = self.generators(node)
        values = [self.visit(getattr(node, part)) for part in parts]
        for _ in generators:
            self._leave_nested()
        made: ast.expr = type(node)(*values, generators, **where(node))
        return made

    def visit_ListComp(self, node: ast.ListComp) -> ast.expr:
        return self._comprehension(node, "elt")

    visit_SetComp = visit_GeneratorExp = visit_ListComp

    def visit_DictComp(self, node: ast.DictComp) -> ast.expr:
        return self._comprehension(node, "key", "value")

    def _leave_nested(self) -> None:
        left = self.scopes.pop()
        if left.uses_me:
            self.scope.uses_me = True

    # --- calls ---------------------------------------------------------------------------------

    def visit_Call(self, node: ast.Call) -> ast.expr:
        special = self._name_call(node) if isinstance(node.func, ast.Name) else None
        if special is not None:
            return special
        gathers = self.tasks.active and (is_gatherer(node.func) or self.tasks.collects(node.func))
        if gathers:
            arguments = [self.deferred(arg) for arg in node.args]
        elif consumes(node.func):
            keeps = keeps_items(node.func)
            arguments = [self.watched(arg, star=keeps) for arg in node.args]
        else:
            arguments = self.visits(node.args)
        keywords = [ast.keyword(k.arg, self.visit(k.value), **where(k)) for k in node.keywords]
        for keyword in node.keywords:
            if keyword.arg is not None and "$" in keyword.arg:
                raise Forbidden(f"The name '{keyword.arg}' is reserved.", node)
        return ast.Call(self._callee(node), arguments, keywords, **where(node))

    def _callee(self, node: ast.Call) -> ast.expr:
        func = node.func
        if isinstance(func, ast.Attribute) and func.attr == "format" and is_harmless_format(func.value):
            return ast.Attribute(func.value, "format", ast.Load(), **where(func))
        new: ast.expr = self.visit(func)
        return new

    def _name_call(self, node: ast.Call) -> ast.expr | None:
        """Builtins that look at the frame of their caller."""
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name in self.stored or node.keywords:
            return None
        if name in ("locals", "vars", "dir") and not node.args:
            return self.call("$names", node, self.call("$locals", node), self.text(name, node))
        if name == "super" and not node.args:
            return node  # CPython finds class and object by itself
        if name == "type" and len(node.args) == 1 and not isinstance(node.args[0], ast.Starred):
            return self.call("$typeof", node, self.visit(node.args[0]))
        if name in ("eval", "exec") and len(node.args) == 1 and self.in_function():
            here = self.call("$names", node, self.call("$locals", node), self.text("locals", node))
            return ast.Call(
                node.func, [self.visit(node.args[0]), self.text(None, node), here], [], **where(node)
            )
        return None

    def deferred(self, node: ast.expr) -> ast.expr:
        """An argument of ``gather``: calls of tools in it start there, side by side."""
        at = where(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and self._name_call(node) is None:
            arguments = [self.visit(node.func), *self.visits(node.args)]
            keywords = [ast.keyword(k.arg, self.visit(k.value), **where(k)) for k in node.keywords]
            return ast.Call(self.load("$later", node), arguments, keywords, **at)
        if isinstance(node, ast.Starred):
            return ast.Starred(self.deferred(node.value), node.ctx, **at)
        if isinstance(node, (ast.List, ast.Tuple)):
            return type(node)([self.deferred(e) for e in node.elts], node.ctx, **at)
        if isinstance(node, (ast.ListComp, ast.GeneratorExp, ast.SetComp)):
            generators = self.generators(node)
            element = self.deferred(node.elt)
            for _ in generators:
                self._leave_nested()
            return type(node)(element, generators, **at)
        new: ast.expr = self.visit(node)
        return new
