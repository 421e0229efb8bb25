"""The rules for expressions: names, attributes, operators, comprehensions, calls."""

from __future__ import annotations

import ast
from typing import Any

from manyhands.executors.local import policy
from manyhands.executors.local.concurrency import is_gatherer
from manyhands.executors.local.rules import RESULT, Forbidden, Rules, Scope
from manyhands.executors.local.tree import (
    LITERALS,
    below,
    bounded_operator,
    calls_inside,
    calls_per_element,
    consumes,
    is_harmless_format,
    is_wide,
    keeps_items,
    located,
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
        node.value = self.visit(node.value)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if not isinstance(node.ctx, ast.Load):
            return self._attribute_target(node)
        value = self._class_of(node) or self.visit(node.value)
        if policy.attribute_is_free(node.attr) or self._is_mine(node):
            node.value = value
            return node
        name = policy.mangle(node.attr, self.owner())
        return self.call("$getattr", node, value, self.text(name, node))

    def _class_of(self, node: ast.Attribute) -> ast.expr | None:
        """The ``x.__class__`` of ``x.__class__.__name__``.

        Of a text nothing more can be read than the text.
        """
        inner = node.value
        if not isinstance(inner, ast.Attribute) or inner.attr != "__class__" or node.attr != "__name__":
            return None
        inner.value = self.visit(inner.value)
        return inner

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
            node.value = value
            return node
        name = policy.mangle(node.attr, self.owner())
        slot = self.call("$slot", node, value, self.text(name, node))
        return located(ast.Attribute, where(node), value=slot, attr="v", ctx=node.ctx)

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        node.value, node.slice = self.visit(node.value), self.visit(node.slice)
        return node

    def visit_Slice(self, node: ast.Slice) -> ast.expr:
        node.lower, node.upper = self.maybe(node.lower), self.maybe(node.upper)
        node.step = self.maybe(node.step)
        return node

    def visit_Starred(self, node: ast.Starred) -> ast.expr:
        if not isinstance(node.ctx, ast.Load):
            node.value = self.visit(node.value)
        else:
            node.value = self.watched(node.value, star=True)
        return node

    def visit_Tuple(self, node: ast.Tuple | ast.List | ast.Set) -> ast.expr:
        node.elts = self.visits(node.elts)
        return node

    visit_List = visit_Set = visit_Tuple

    def visit_Dict(self, node: ast.Dict) -> ast.expr:
        node.keys, node.values = [self.maybe(key) for key in node.keys], self.visits(node.values)
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        node.values = self.visits(node.values)
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        node.operand = self.visit(node.operand)
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        guard = bounded_operator(node.op, node.left, node.right)
        left, right = self.visit(node.left), self.visit(node.right)
        if guard is not None:
            return self.call(guard, node, left, right)
        node.left, node.right = left, right
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        node.left, node.comparators = self.visit(node.left), self.visits(node.comparators)
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        node.test = self.visit(node.test)
        node.body, node.orelse = self.visit(node.body), self.visit(node.orelse)
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.expr:
        node.values = self.visits(node.values)
        return node

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.expr:
        spec = node.format_spec
        if isinstance(spec, ast.JoinedStr):
            spec = self.visit(spec)
            if not all(isinstance(part, ast.Constant) for part in spec.values) or is_wide(spec):
                at, checked = where(node), self.call("$spec", node, spec)
                value = located(ast.FormattedValue, at, value=checked, conversion=-1, format_spec=None)
                spec = located(ast.JoinedStr, at, values=[value])
        node.value, node.format_spec = self.visit(node.value), spec
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.expr:
        # A lambda that calls nothing cannot recurse, and ends by itself.
        ends = not calls_inside(node.body)
        self.arguments(node.args)
        self.scopes.append(Scope("function", me=self.still_me(node.args)))
        self.bind_arguments(node.args)
        node.body = self.visit(node.body)
        self._leave_nested()
        if not ends:
            test, other = self.on_time(node), self.text(None, node)
            node.body = located(ast.IfExp, where(node), test=test, body=node.body, orelse=other)
        return node

    def visit_Yield(self, node: ast.Yield) -> ast.expr:
        node.value = self.maybe(node.value)
        return node

    def visit_YieldFrom(self, node: ast.YieldFrom) -> ast.expr:
        node.value = self.watched(node.value)
        return node

    def visit_Await(self, node: ast.Await) -> ast.expr:
        value = self.visit(node.value)
        if self.in_function():
            node.value = self.call("$awaitable", node, value)
            return node
        return self.call("$await", node, value)

    # --- comprehensions ------------------------------------------------------------------------

    def generators(self, node: Any) -> None:
        """Visit the ``for`` clauses.

        Where the element calls nothing, its iterables are split into pieces with checkpoints between.
        Otherwise,
        and around inner clauses, each element has a checkpoint.
        """
        clauses: list[ast.comprehension] = node.generators
        calls = any(clause.is_async for clause in clauses) or calls_per_element(node)
        for index, clause in enumerate(clauses):
            if clause.is_async:
                self.async_here()
            source = self.visit(clause.iter)
            if not calls and not isinstance(clause.iter, LITERALS):
                source = self.call("$lim", clause.iter, source)
            self.scopes.append(Scope("comprehension", me=self._still_me_after(clause.target)))
            clause.target = self.visit(clause.target)
            clause.ifs = self.visits(clause.ifs)
            if calls or index < len(clauses) - 1:
                clause.ifs.insert(0, self.on_time(clause.iter))
            clause.iter = source

    def _still_me_after(self, target: ast.expr) -> str | None:
        me = self.scope.me
        if me is None or any(isinstance(n, ast.Name) and n.id == me for n in below(target)):
            return None
        return me

    def _comprehension(self, node: Any, *parts: str) -> ast.expr:
        self.generators(node)
        for part in parts:
            setattr(node, part, self.visit(getattr(node, part)))
        for _ in node.generators:
            self._leave_nested()
        made: ast.expr = node
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
            node.args = [self.deferred(arg) for arg in node.args]
        elif consumes(node.func):
            keeps = keeps_items(node.func)
            node.args = [self.watched(arg, star=keeps) for arg in node.args]
        else:
            node.args = self.visits(node.args)
        self.keywords(node.keywords)
        for keyword in node.keywords:
            if keyword.arg is not None and "$" in keyword.arg:
                raise Forbidden(f"The name '{keyword.arg}' is reserved.", node)
        func = node.func
        if not (isinstance(func, ast.Attribute) and func.attr == "format" and is_harmless_format(func.value)):
            node.func = self.visit(func)
        return node

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
            node.args = [self.visit(node.args[0]), self.text(None, node), here]
            return node
        return None

    def deferred(self, node: ast.expr) -> ast.expr:
        """An argument of ``gather``: calls of tools in it start there, side by side."""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            special = self._name_call(node)
            if special is not None:
                return special
            node.args = [self.visit(node.func), *self.visits(node.args)]
            self.keywords(node.keywords)
            node.func = self.load("$later", node)
            return node
        if isinstance(node, ast.Starred):
            node.value = self.deferred(node.value)
            return node
        if isinstance(node, (ast.List, ast.Tuple)):
            node.elts = [self.deferred(element) for element in node.elts]
            return node
        if isinstance(node, (ast.ListComp, ast.GeneratorExp, ast.SetComp)):
            self.generators(node)
            node.elt = self.deferred(node.elt)
            for _ in node.generators:
                self._leave_nested()
            return node
        new: ast.expr = self.visit(node)
        return new
