"""The rules for statements: simple ones, imports, compound ones, patterns."""

from __future__ import annotations

import ast
from typing import Any

from manyhands.executors.local import policy
from manyhands.executors.local.expressions import Expressions
from manyhands.executors.local.rules import ALIVE, Forbidden
from manyhands.executors.local.tree import LITERALS, MATCH_SELF, bounded_operator, where


class Statements(Expressions):
    """Rules for everything that has no value, but for definitions."""

    # --- simple statements ---------------------------------------------------------------------

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        return ast.Expr(self.visit(node.value), **where(node))

    def visit_Pass(self, node: ast.stmt) -> ast.stmt:
        return node

    visit_Break = visit_Continue = visit_Pass

    def visit_Assign(self, node: ast.Assign) -> ast.stmt:
        if self.tasks.active and any(self.tasks.holds(target) for target in node.targets):
            value = self.deferred(node.value)
        else:
            value = self.visit(node.value)
        return ast.Assign(self.visits(node.targets), value, **where(node))

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt:
        at = where(node)
        guard = bounded_operator(node.op, node.target, node.value)
        value = self.visit(node.value)
        if guard is None:
            if isinstance(node.op, ast.Add) and not isinstance(node.value, LITERALS):
                value = self.call("$lim", node, value) if isinstance(node.value, ast.Call) else value
            return ast.AugAssign(self.visit(node.target), node.op, value, **at)
        if isinstance(node.target, ast.Name):
            self.bind(node.target.id, node)
            new = self.call(guard + "=", node, self.load(node.target.id, node), value)
            return ast.Assign([node.target], new, **at)
        return ast.AugAssign(self.visit(node.target), node.op, self.call("$right", node, value), **at)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt | list[ast.stmt]:
        at = where(node)
        target = node.target
        if self.scope.kind == "class" and isinstance(target, ast.Name):
            problem = policy.field_problem(target.id) if target.id not in policy.DEFINABLE else None
            if problem:
                raise Forbidden(problem, node)
            self.bind(target.id, node)
            note = self.visit(node.annotation)
            return ast.AnnAssign(target, note, self.maybe(node.value), node.simple, **at)
        # CPython evaluates the note of a variable at module level only.
        note = ast.Expr(self.visit(node.annotation), **at)
        notes: list[ast.stmt] = [note] if self.scope.kind == "module" and not self.future_annotations else []
        if node.value is None:
            return notes or [ast.Pass(**at)]
        return [self.visit_Assign(ast.Assign([target], node.value, **at)), *notes]

    def visit_Delete(self, node: ast.Delete) -> ast.stmt:
        return ast.Delete(self.visits(node.targets), **where(node))

    def visit_Return(self, node: ast.Return) -> ast.stmt:
        return ast.Return(self.maybe(node.value), **where(node))

    def visit_Raise(self, node: ast.Raise) -> ast.stmt:
        return ast.Raise(self.maybe(node.exc), self.maybe(node.cause), **where(node))

    def visit_Assert(self, node: ast.Assert) -> ast.stmt:
        return ast.Assert(self.visit(node.test), self.maybe(node.msg), **where(node))

    def visit_Global(self, node: ast.Global) -> list[ast.stmt]:
        for name in node.names:
            self.check_name(name, node)
            self.scope.globals.add(name)
        # At module level the statement says nothing new, and the rewrite has declared the names already.
        return [] if self.scope.kind == "module" else [node]

    def visit_Nonlocal(self, node: ast.Nonlocal) -> ast.stmt:
        for name in node.names:
            self.check_name(name, node)
        return node

    # --- imports -------------------------------------------------------------------------------

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        new = []
        for alias in node.names:
            name = alias.asname or alias.name.split(".")[0]
            leaf = self.text(alias.asname is not None, node)
            new.append(
                self._assign(name, self.call("$import", node, self.text(alias.name, node), leaf), node)
            )
        return new

    def visit_ImportFrom(self, node: ast.ImportFrom) -> list[ast.stmt]:
        if node.module == "__future__":
            self.future_annotations |= any(alias.name == "annotations" for alias in node.names)
            return []
        if node.level:
            raise Forbidden("Relative imports are not allowed: the code is no part of a package.", node)
        module = self.text(node.module, node)
        if node.names[0].name == "*":
            return [ast.Expr(self.call("$importstar", node, module), **where(node))]
        new = []
        for alias in node.names:
            if alias.name.startswith("_"):
                raise Forbidden(f"Forbidden access to private name: {alias.name}", node)
            value = self.call("$importfrom", node, module, self.text(alias.name, node))
            new.append(self._assign(alias.asname or alias.name, value, node))
        return new

    def _assign(self, name: str, value: ast.expr, node: ast.AST) -> ast.stmt:
        target = ast.Name(name, ast.Store(), **where(node))
        if name not in self.tools:
            self.bind(name, node)
        else:
            raise Forbidden(
                f"Cannot assign to name '{name}': doing this would erase the existing tool!", node
            )
        return ast.Assign([target], value, **where(node))

    # --- compound statements -------------------------------------------------------------------

    def visit_If(self, node: ast.If) -> ast.stmt:
        return ast.If(self.visit(node.test), self.body(node.body), self.body(node.orelse), **where(node))

    def visit_While(self, node: ast.While) -> ast.stmt:
        test = self.visit(node.test)
        body = [self.checkpoint(node), *self.body(node.body)]
        return ast.While(test, body, self.body(node.orelse), **where(node))

    def visit_For(self, node: ast.For) -> ast.stmt:
        source, target = self.visit(node.iter), self.visit(node.target)
        body = [self.checkpoint(node), *self.body(node.body)]
        return ast.For(target, source, body, self.body(node.orelse), **where(node))

    def visit_AsyncFor(self, node: ast.AsyncFor) -> ast.stmt:
        self.async_here()
        source, target = self.visit(node.iter), self.visit(node.target)
        body = [self.checkpoint(node), *self.body(node.body)]
        return ast.AsyncFor(target, source, body, self.body(node.orelse), **where(node))

    def visit_With(self, node: ast.With) -> list[ast.stmt]:
        return [ast.With(*self._with(node), **where(node)), self.checkpoint(node)]

    def visit_AsyncWith(self, node: ast.AsyncWith) -> list[ast.stmt]:
        self.async_here()
        return [ast.AsyncWith(*self._with(node), **where(node)), self.checkpoint(node)]

    def _with(self, node: ast.With | ast.AsyncWith) -> tuple[list[ast.withitem], list[ast.stmt]]:
        items = [ast.withitem(self.visit(i.context_expr), self.maybe(i.optional_vars)) for i in node.items]
        return items, self.body(node.body)

    def visit_Try(self, node: ast.Try | ast.TryStar) -> ast.stmt:
        body = self.body(node.body)
        handlers = [self._handler(handler) for handler in node.handlers]
        orelse, final = self.body(node.orelse), self.body(node.finalbody)
        if final:
            at = where(node.finalbody[0])
            final = [ast.If(self.on_time(node.finalbody[0], ALIVE), final, [], **at)]
        return type(node)(body, handlers, orelse, final, **where(node))

    def visit_TryStar(self, node: ast.TryStar) -> Any:
        """``except*`` trusts the ``split`` method of what it caught.

        Before 3.13.2 without looking at its result.
        """
        new: Any = self.visit_Try(node)
        at = where(node)
        name = f"$group{at['lineno']}"
        if self.scope.kind == "module":
            self.module_names.add(name)
        check: list[ast.stmt] = [
            ast.Expr(self.call("$checkgroup", node, self.load(name, node)), **at),
            ast.Raise(None, None, **at),
        ]
        handler = ast.ExceptHandler(self.load("$groups", node), name, check, **at)
        new.body = [ast.Try(new.body, [handler], [], [], **at)]
        return new

    def _handler(self, node: ast.ExceptHandler) -> ast.ExceptHandler:
        kind = self.maybe(node.type)
        self.bind(node.name, node)
        first = self.brake(node, ast.Raise(None, None, **where(node)))
        return ast.ExceptHandler(kind, node.name, [first, *self.body(node.body)], **where(node))

    # --- match ---------------------------------------------------------------------------------

    def visit_Match(self, node: ast.Match) -> list[ast.stmt]:
        """Classes in patterns with positional parts are looked at first.

        The pattern will read what they name.
        """
        subject = self.visit(node.subject)
        before: list[ast.stmt] = []
        outer, self._checked = self._checked, before
        cases = []
        for case in node.cases:
            pattern = self.visit(case.pattern)
            self._checked = outer
            cases.append(ast.match_case(pattern, self.maybe(case.guard), self.body(case.body)))
            self._checked = before
        self._checked = outer
        return [*before, ast.Match(subject, cases, **where(node))]

    def _checked_class(self, cls: ast.expr, node: ast.AST) -> ast.expr:
        """A name of its own for the class of a pattern, bound before the ``match``."""
        at = where(node)
        name = f"$class{len(self._checked)}_{at['lineno']}"
        empty = ast.arguments([], [], None, [], [], None, [])
        found = cls if self.scope.kind == "class" else ast.Lambda(empty, cls, **at)
        if self.scope.kind == "module":
            self.module_names.add(name)
        value = self.call("$matchable", node, found)
        self._checked.append(ast.Assign([ast.Name(name, ast.Store(), **at)], value, **at))
        return ast.Name(name, ast.Load(), **at)

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
        return ast.MatchValue(self._pattern_value(node.value), **where(node))

    def visit_MatchSingleton(self, node: ast.MatchSingleton) -> ast.pattern:
        return node

    def visit_MatchSequence(self, node: ast.MatchSequence) -> ast.pattern:
        return ast.MatchSequence(self.visits(node.patterns), **where(node))

    def visit_MatchMapping(self, node: ast.MatchMapping) -> ast.pattern:
        self.bind(node.rest, node)
        keys = [self._pattern_value(key) for key in node.keys]
        return ast.MatchMapping(keys, self.visits(node.patterns), node.rest, **where(node))

    def visit_MatchClass(self, node: ast.MatchClass) -> ast.pattern:
        for name in node.kwd_attrs:
            if name.startswith("_") or name in policy.INNER_NAMES or name in ("format", "format_map", "mro"):
                raise Forbidden(f"Forbidden access to attribute in a pattern: {name}", node)
        patterns, keywords = self.visits(node.patterns), self.visits(node.kwd_patterns)
        cls = self._pattern_value(node.cls)
        if patterns and not (
            isinstance(cls, ast.Name) and cls.id in MATCH_SELF and cls.id not in self.stored
        ):
            cls = self._checked_class(cls, node)
        return ast.MatchClass(cls, patterns, node.kwd_attrs, keywords, **where(node))

    def visit_MatchStar(self, node: ast.MatchStar) -> ast.pattern:
        self.bind(node.name, node)
        return node

    def visit_MatchAs(self, node: ast.MatchAs) -> ast.pattern:
        self.bind(node.name, node)
        return ast.MatchAs(self.maybe(node.pattern), node.name, **where(node))

    def visit_MatchOr(self, node: ast.MatchOr) -> ast.pattern:
        return ast.MatchOr(self.visits(node.patterns), **where(node))
