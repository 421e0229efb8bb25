"""The rules for statements: simple ones, imports, compound ones, patterns."""

from __future__ import annotations

import ast
from typing import Any

from manyhands.executors.local import policy
from manyhands.executors.local.expressions import Expressions
from manyhands.executors.local.rules import ALIVE, Forbidden
from manyhands.executors.local.tree import MATCH_SELF, bounded_operator, located, where


class Statements(Expressions):
    """Rules for everything that has no value, but for definitions."""

    # --- simple statements ---------------------------------------------------------------------

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        node.value = self.visit(node.value)
        return node

    def visit_Pass(self, node: ast.stmt) -> ast.stmt:
        return node

    visit_Break = visit_Continue = visit_Pass

    def visit_Assign(self, node: ast.Assign) -> ast.stmt:
        if self.tasks.active and any(self.tasks.holds(target) for target in node.targets):
            node.value = self.deferred(node.value)
        else:
            node.value = self.visit(node.value)
        node.targets = self.visits(node.targets)
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt:
        guard = bounded_operator(node.op, node.target, node.value)
        value = self.visit(node.value)
        if guard is None:
            if isinstance(node.op, ast.Add) and isinstance(node.value, ast.Call):
                value = self.call("$lim", node, value)
        elif isinstance(node.target, ast.Name):
            self.bind(node.target.id, node)
            new = self.call(guard + "=", node, self.load(node.target.id, node), value)
            return located(ast.Assign, where(node), targets=[node.target], value=new, type_comment=None)
        else:
            value = self.call("$right", node, value)
        node.target, node.value = self.visit(node.target), value
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt | list[ast.stmt]:
        target = node.target
        if self.scope.kind == "class" and isinstance(target, ast.Name):
            problem = policy.field_problem(target.id) if target.id not in policy.DEFINABLE else None
            if problem:
                raise Forbidden(problem, node)
            self.bind(target.id, node)
            node.annotation = self.visit(node.annotation)
            node.value = self.maybe(node.value)
            return node
        # CPython evaluates the note of a variable at module level only.
        at = where(node)
        note = located(ast.Expr, at, value=self.visit(node.annotation))
        notes: list[ast.stmt] = [note] if self.scope.kind == "module" and not self.future_annotations else []
        if node.value is None:
            return notes or [located(ast.Pass, at)]
        plain = located(ast.Assign, at, targets=[target], value=node.value, type_comment=None)
        return [self.visit_Assign(plain), *notes]

    def visit_Delete(self, node: ast.Delete) -> ast.stmt:
        node.targets = self.visits(node.targets)
        return node

    def visit_Return(self, node: ast.Return) -> ast.stmt:
        node.value = self.maybe(node.value)
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.stmt:
        node.exc, node.cause = self.maybe(node.exc), self.maybe(node.cause)
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.stmt:
        node.test, node.msg = self.visit(node.test), self.maybe(node.msg)
        return node

    def visit_Global(self, node: ast.Global) -> list[ast.stmt]:
        for name in node.names:
            self.check_name(name, node)
            self.scope.globals |= {name}
        # At module level the statement says nothing new, and the rewrite has declared the names already.
        return [] if self.scope.kind == "module" else [node]

    def visit_Nonlocal(self, node: ast.Nonlocal) -> ast.stmt:
        for name in node.names:
            self.check_name(name, node)
        return node

    # --- imports -------------------------------------------------------------------------------

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        new: list[ast.stmt] = []
        for alias in node.names:
            name = alias.asname or alias.name.split(".")[0]
            leaf = self.text(alias.asname is not None, node)
            value = self.call("$import", node, self.text(alias.name, node), leaf)
            new.append(self._bound(name, value, node))
        return new

    def visit_ImportFrom(self, node: ast.ImportFrom) -> list[ast.stmt]:
        if node.module == "__future__":
            self.future_annotations |= any(alias.name == "annotations" for alias in node.names)
            return []
        if node.level:
            raise Forbidden("Relative imports are not allowed: the code is no part of a package.", node)
        module = self.text(node.module, node)
        if node.names[0].name == "*":
            return [located(ast.Expr, where(node), value=self.call("$importstar", node, module))]
        new: list[ast.stmt] = []
        for alias in node.names:
            if alias.name.startswith("_"):
                raise Forbidden(f"Forbidden access to private name: {alias.name}", node)
            value = self.call("$importfrom", node, module, self.text(alias.name, node))
            new.append(self._bound(alias.asname or alias.name, value, node))
        return new

    def _bound(self, name: str, value: ast.expr, node: ast.AST) -> ast.stmt:
        if name not in self.tools:
            self.bind(name, node)
        else:
            raise Forbidden(
                f"Cannot assign to name '{name}': doing this would erase the existing tool!", node
            )
        return self.assign(name, value, node)

    # --- compound statements -------------------------------------------------------------------

    def visit_If(self, node: ast.If) -> ast.stmt:
        node.test = self.visit(node.test)
        node.body, node.orelse = self.body(node.body), self.body(node.orelse)
        return node

    def visit_While(self, node: ast.While) -> ast.stmt:
        node.test = self.visit(node.test)
        node.body = [self.checkpoint(node), *self.body(node.body)]
        node.orelse = self.body(node.orelse)
        return node

    def visit_For(self, node: ast.For | ast.AsyncFor) -> ast.stmt:
        node.iter, node.target = self.visit(node.iter), self.visit(node.target)
        node.body = [self.checkpoint(node), *self.body(node.body)]
        node.orelse = self.body(node.orelse)
        return node

    def visit_AsyncFor(self, node: ast.AsyncFor) -> ast.stmt:
        self.async_here()
        return self.visit_For(node)

    def visit_With(self, node: ast.With | ast.AsyncWith) -> list[ast.stmt]:
        for item in node.items:
            item.context_expr = self.visit(item.context_expr)
            item.optional_vars = self.maybe(item.optional_vars)
        node.body = self.body(node.body)
        return [node, self.checkpoint(node)]

    def visit_AsyncWith(self, node: ast.AsyncWith) -> list[ast.stmt]:
        self.async_here()
        return self.visit_With(node)

    def visit_Try(self, node: ast.Try | ast.TryStar) -> ast.stmt:
        node.body = self.body(node.body)
        for handler in node.handlers:
            self._handler(handler)
        node.orelse = self.body(node.orelse)
        if node.finalbody:
            first = node.finalbody[0]
            at, test = where(first), self.on_time(first, ALIVE)
            node.finalbody = [located(ast.If, at, test=test, body=self.body(node.finalbody), orelse=[])]
        return node

    def visit_TryStar(self, node: ast.TryStar) -> Any:
        """``except*`` trusts the ``split`` method of what it caught.

        Before 3.13.2 without looking at its result.
        """
        new: Any = self.visit_Try(node)
        at = where(node)
        name = f"$group{at['lineno']}"
        if self.scope.kind == "module":
            self.module_names.add(name)
        checked = self.call("$checkgroup", node, self.load(name, node))
        check: list[ast.stmt] = [
            located(ast.Expr, at, value=checked),
            located(ast.Raise, at, exc=None, cause=None),
        ]
        handler = ast.ExceptHandler(self.load("$groups", node), name, check, **at)
        new.body = [ast.Try(new.body, [handler], [], [], **at)]
        return new

    def _handler(self, node: ast.ExceptHandler) -> None:
        node.type = self.maybe(node.type)
        self.bind(node.name, node)
        first = self.brake(node, located(ast.Raise, where(node), exc=None, cause=None))
        node.body = [first, *self.body(node.body)]

    # --- match ---------------------------------------------------------------------------------

    def visit_Match(self, node: ast.Match) -> list[ast.stmt]:
        """Classes in patterns with positional parts are looked at first.

        The pattern will read what they name.
        """
        node.subject = self.visit(node.subject)
        before: list[ast.stmt] = []
        outer, self._checked = self._checked, before
        for case in node.cases:
            case.pattern = self.visit(case.pattern)
            self._checked = outer
            case.guard, case.body = self.maybe(case.guard), self.body(case.body)
            self._checked = before
        self._checked = outer
        return [*before, node]

    def _checked_class(self, cls: ast.expr, node: ast.AST) -> ast.expr:
        """A name of its own for the class of a pattern, bound before the ``match``."""
        at = where(node)
        name = f"$class{len(self._checked)}_{at['lineno']}"
        empty = ast.arguments([], [], None, [], [], None, [])
        found = cls if self.scope.kind == "class" else located(ast.Lambda, at, args=empty, body=cls)
        if self.scope.kind == "module":
            self.module_names.add(name)
        self._checked.append(self.assign(name, self.call("$matchable", node, found), node))
        return self.load(name, node)

    def _pattern_value(self, node: ast.expr) -> ast.expr:
        """A dotted name or literal in a pattern.

        It has to stay an attribute, so only harmless names may be in it.
        """
        for part in ast.walk(node):
            if isinstance(part, ast.Name):
                self.check_name(part.id, part)
            elif isinstance(part, ast.Attribute):
                if part.attr.startswith("_") or part.attr in policy.INNER_NAMES:
                    raise Forbidden(f"Forbidden access to attribute in a pattern: {part.attr}", node)
            elif not isinstance(part, (ast.Constant, ast.UnaryOp, ast.BinOp, ast.operator, ast.unaryop,
                                       ast.expr_context)):  # fmt: skip
                raise Forbidden(f"{type(part).__name__} is not supported in a pattern.", node)
        return node

    def visit_MatchValue(self, node: ast.MatchValue) -> ast.pattern:
        node.value = self._pattern_value(node.value)
        return node

    def visit_MatchSingleton(self, node: ast.MatchSingleton) -> ast.pattern:
        return node

    def visit_MatchSequence(self, node: ast.MatchSequence) -> ast.pattern:
        node.patterns = self.visits(node.patterns)
        return node

    def visit_MatchMapping(self, node: ast.MatchMapping) -> ast.pattern:
        self.bind(node.rest, node)
        node.keys = [self._pattern_value(key) for key in node.keys]
        node.patterns = self.visits(node.patterns)
        return node

    def visit_MatchClass(self, node: ast.MatchClass) -> ast.pattern:
        for name in node.kwd_attrs:
            if name.startswith("_") or name in policy.INNER_NAMES or name in ("format", "format_map", "mro"):
                raise Forbidden(f"Forbidden access to attribute in a pattern: {name}", node)
        node.patterns, node.kwd_patterns = self.visits(node.patterns), self.visits(node.kwd_patterns)
        node.cls = cls = self._pattern_value(node.cls)
        if node.patterns and not (
            isinstance(cls, ast.Name) and cls.id in MATCH_SELF and cls.id not in self.stored
        ):
            node.cls = self._checked_class(cls, node)
        return node

    def visit_MatchStar(self, node: ast.MatchStar) -> ast.pattern:
        self.bind(node.name, node)
        return node

    def visit_MatchAs(self, node: ast.MatchAs) -> ast.pattern:
        self.bind(node.name, node)
        node.pattern = self.maybe(node.pattern)
        return node

    def visit_MatchOr(self, node: ast.MatchOr) -> ast.pattern:
        node.patterns = self.visits(node.patterns)
        return node
