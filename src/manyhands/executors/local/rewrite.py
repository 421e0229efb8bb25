"""From the agent's source to a syntax tree that is safe to compile: every node is checked, some are replaced.

Deny by default: a node type without a ``visit_`` method here is refused, so new syntax of a new Python cannot slip in.
Three things are added. *Checkpoints* (``if $due: $tick()``) at loop heads, in comprehensions and at function entry let
the scheduler take the processor away and end the code. *Guards* (``$getattr(obj, "_x")``) stand wherever what is
read or built depends on the object at run time. *Brakes* behind every construct that could catch an exception
make sure that none can keep the code alive once it has to stop.

All names added hold a dollar sign: no source can spell them. Names of the module scope are declared ``global``,
which lets CPython use its cached lookups at top level, where agents write most of their loops.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from manyhands.executors.local import policy
from manyhands.executors.local.concurrency import TaskNames, is_gatherer
from manyhands.executors.local.formatting import has_wide_number, is_plain_template

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

DUE = "$due"
TICK = "$tick"
ALIVE = "$alive"
RESULT = "$result"

_LOCATION = ("lineno", "col_offset", "end_lineno", "end_col_offset")
_LITERALS = (ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Set, ast.ListComp, ast.SetComp, ast.DictComp,
             ast.GeneratorExp, ast.JoinedStr)  # fmt: skip
_MATCH_SELF = frozenset(
    ["bool", "bytearray", "bytes", "dict", "float", "frozenset", "int", "list", "set", "str", "tuple"]
)
_REPEATABLE = (ast.List, ast.Tuple, ast.ListComp, ast.JoinedStr)


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
    globals: set[str] = field(default_factory=set)


class Rewriter:
    """Checks and rewrites one module.

    Args:
        tools: Names of tools; they cannot be assigned.
        tasks: Variables that only ever hold awaitables for ``gather`` and its like.
    """

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
        method = _VISITORS.get(type(node))
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
        return ast.Name(name, ast.Load(), **where(node))

    def call(self, name: str, node: ast.AST, *args: ast.expr) -> ast.Call:
        return ast.Call(self.load(name, node), list(args), [], **where(node))

    def text(self, value: str | bool | None, node: ast.AST) -> ast.Constant:
        return ast.Constant(value, **where(node))

    def checkpoint(self, node: ast.AST) -> ast.stmt:
        """``if $due: $tick()``."""
        at = where(node)
        return ast.If(self.load(DUE, node), [ast.Expr(self.call(TICK, node), **at)], [], **at)

    def brake(self, node: ast.AST, *otherwise: ast.stmt) -> ast.stmt:
        """``if $due: if not $alive(): <otherwise>``; ``$alive`` raises when the code has to stop."""
        at = where(node)
        gone = ast.UnaryOp(ast.Not(), self.call(ALIVE, node), **at)
        return ast.If(self.load(DUE, node), [ast.If(gone, list(otherwise), [], **at)], [], **at)

    def on_time(self, node: ast.AST, then: str = TICK) -> ast.expr:
        """``not $due or $tick()``, which is always true."""
        at = where(node)
        early = ast.UnaryOp(ast.Not(), self.load(DUE, node), **at)
        return ast.BoolOp(ast.Or(), [early, self.call(then, node)], **at)

    def watched(self, node: ast.expr, *, star: bool = False) -> ast.expr:
        """An iterable on its way into one C call, which may keep every item."""
        if isinstance(node, ast.Starred):
            return self.visit_Starred(node)
        new: ast.expr = self.visit(node)
        return new if isinstance(node, _LITERALS) else self.call("$lim" if not star else "$items", node, new)

    # --- module --------------------------------------------------------------------------------

    def module(self, tree: ast.Module, *, keep_result: bool) -> ast.Module:
        """Rewrite a whole snippet."""
        body = tree.body
        if keep_result and body:
            body = body[:-1] + self._with_result(body[-1])
        new = self.body(body)
        names = sorted(self.module_names) + [DUE, TICK, ALIVE, RESULT]
        declared = ast.Global(names, lineno=1, col_offset=0, end_lineno=1, end_col_offset=0)
        return ast.Module([declared, *new], [])

    def _with_result(self, last: ast.stmt) -> list[ast.stmt]:
        at = where(last)
        target = ast.Name(RESULT, ast.Store(), **at)
        if isinstance(last, ast.Expr):
            return [ast.Assign([target], last.value, **at)]
        if isinstance(last, ast.Assign) and len(last.targets) == 1 and isinstance(last.targets[0], ast.Name):
            return [last, ast.Assign([target], self.load(last.targets[0].id, last), **at)]
        return [last]

    def expression(self, tree: ast.Expression) -> ast.Expression:
        """Rewrite the argument of ``eval``."""
        return ast.Expression(self.visit(tree.body))

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
        """The ``x.__class__`` of ``x.__class__.__name__``: of a text nothing more can be read than the text."""
        inner = node.value
        if not isinstance(inner, ast.Attribute) or inner.attr != "__class__" or node.attr != "__name__":
            return None
        return ast.Attribute(self.visit(inner.value), inner.attr, ast.Load(), **where(inner))

    def _is_mine(self, node: ast.Attribute) -> bool:
        """``self._x`` in a method: the prologue of the method has seen that ``self`` is an object of the code."""
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
            if not all(isinstance(part, ast.Constant) for part in spec.values) or _is_wide(spec):
                checked = self.call("$spec", node, spec)
                spec = ast.JoinedStr([ast.FormattedValue(checked, -1, None, **where(node))], **where(node))
        return ast.FormattedValue(self.visit(node.value), node.conversion, spec, **where(node))

    def visit_Lambda(self, node: ast.Lambda) -> ast.expr:
        args = self.arguments(node.args)
        self.scopes.append(Scope("function", me=self._still_me(node.args)))
        self._bind_arguments(node.args)
        body = self.visit(node.body)
        self._leave_nested()
        at = where(node)
        if any(map(_calls, ast.walk(node.body))):
            # A lambda that calls nothing cannot recurse, and ends by itself.
            body = ast.IfExp(self.on_time(node), body, self.text(None, node), **at)
        return ast.Lambda(args, body, **at)

    def visit_Yield(self, node: ast.Yield) -> ast.expr:
        return ast.Yield(self.maybe(node.value), **where(node))

    def visit_YieldFrom(self, node: ast.YieldFrom) -> ast.expr:
        return ast.YieldFrom(self.watched(node.value), **where(node))

    def visit_Await(self, node: ast.Await) -> ast.expr:
        value = self.visit(node.value)
        if any(scope.kind == "function" for scope in self.scopes):
            return ast.Await(self.call("$awaitable", node, value), **where(node))
        return self.call("$await", node, value)

    # --- comprehensions ------------------------------------------------------------------------

    def generators(self, node: Any) -> list[ast.comprehension]:
        """Visit the ``for`` clauses.

        Where the element calls nothing, its iterables are split into pieces with checkpoints between. Otherwise,
        and around inner clauses, each element has a checkpoint.
        """
        clauses: list[ast.comprehension] = node.generators
        calls = any(clause.is_async for clause in clauses) or _calls_per_element(node)
        new = []
        for index, clause in enumerate(clauses):
            if clause.is_async:
                self._async_here()
            source = self.visit(clause.iter)
            if not calls and not isinstance(clause.iter, _LITERALS):
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
            arguments = [self._deferred(arg) for arg in node.args]
        elif _consumes(node.func):
            keeps = _keeps_items(node.func)
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
        if isinstance(func, ast.Attribute) and func.attr == "format" and _is_harmless_format(func.value):
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
        in_function = any(scope.kind == "function" for scope in self.scopes)
        if name == "super" and not node.args:
            return node  # CPython finds class and object by itself
        if name == "type" and len(node.args) == 1 and not isinstance(node.args[0], ast.Starred):
            return self.call("$typeof", node, self.visit(node.args[0]))
        if name in ("eval", "exec") and len(node.args) == 1 and in_function:
            here = self.call("$names", node, self.call("$locals", node), self.text("locals", node))
            return ast.Call(
                node.func, [self.visit(node.args[0]), self.text(None, node), here], [], **where(node)
            )
        return None

    def _deferred(self, node: ast.expr) -> ast.expr:
        """An argument of ``gather``: calls of tools in it start there, side by side."""
        at = where(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and self._name_call(node) is None:
            arguments = [self.visit(node.func), *self.visits(node.args)]
            keywords = [ast.keyword(k.arg, self.visit(k.value), **where(k)) for k in node.keywords]
            return ast.Call(self.load("$later", node), arguments, keywords, **at)
        if isinstance(node, ast.Starred):
            return ast.Starred(self._deferred(node.value), node.ctx, **at)
        if isinstance(node, (ast.List, ast.Tuple)):
            return type(node)([self._deferred(e) for e in node.elts], node.ctx, **at)
        if isinstance(node, (ast.ListComp, ast.GeneratorExp, ast.SetComp)):
            generators = self.generators(node)
            element = self._deferred(node.elt)
            for _ in generators:
                self._leave_nested()
            return type(node)(element, generators, **at)
        new: ast.expr = self.visit(node)
        return new

    # --- simple statements ---------------------------------------------------------------------

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        return ast.Expr(self.visit(node.value), **where(node))

    def visit_Pass(self, node: ast.stmt) -> ast.stmt:
        return node

    visit_Break = visit_Continue = visit_Pass

    def visit_Assign(self, node: ast.Assign) -> ast.stmt:
        if self.tasks.active and any(self.tasks.holds(target) for target in node.targets):
            value = self._deferred(node.value)
        else:
            value = self.visit(node.value)
        return ast.Assign(self.visits(node.targets), value, **where(node))

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt:
        at = where(node)
        guard = bounded_operator(node.op, node.target, node.value)
        value = self.visit(node.value)
        if guard is None:
            if isinstance(node.op, ast.Add) and not isinstance(node.value, _LITERALS):
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
        self._async_here()
        source, target = self.visit(node.iter), self.visit(node.target)
        body = [self.checkpoint(node), *self.body(node.body)]
        return ast.AsyncFor(target, source, body, self.body(node.orelse), **where(node))

    def _async_here(self) -> None:
        if not any(scope.kind == "function" for scope in self.scopes):
            self.needs_async = True

    def visit_With(self, node: ast.With) -> list[ast.stmt]:
        return [ast.With(*self._with(node), **where(node)), self.checkpoint(node)]

    def visit_AsyncWith(self, node: ast.AsyncWith) -> list[ast.stmt]:
        self._async_here()
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
        """``except*`` trusts the ``split`` method of what it caught: before 3.13.2 without looking at its result."""
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
        """Classes in patterns with positional parts are looked at first: the pattern will read what they name."""
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
        """A dotted name or literal in a pattern: it has to stay an attribute, so only harmless names may be in it."""
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
            isinstance(cls, ast.Name) and cls.id in _MATCH_SELF and cls.id not in self.stored
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

    # --- functions and classes -----------------------------------------------------------------

    def arguments(self, args: ast.arguments) -> ast.arguments:
        """Defaults and notes belong to the scope outside."""
        for arg in _all_arguments(args):
            problem = policy.name_problem(arg.arg) if policy.is_dunder(arg.arg) or "$" in arg.arg else None
            if problem or policy.is_dunder(arg.arg):
                raise Forbidden(problem or f"Forbidden access to dunder name: {arg.arg}", arg)
        one = self._argument
        return ast.arguments(
            [one(a) for a in args.posonlyargs],
            [one(a) for a in args.args],
            one(args.vararg) if args.vararg else None,
            [one(a) for a in args.kwonlyargs],
            [self.maybe(d) for d in args.kw_defaults],
            one(args.kwarg) if args.kwarg else None,
            self.visits(args.defaults),
        )

    def _argument(self, arg: ast.arg) -> ast.arg:
        return ast.arg(arg.arg, self.maybe(arg.annotation), None, **where(arg))

    def _bind_arguments(self, args: ast.arguments) -> None:
        self.stored.update(arg.arg for arg in _all_arguments(args))

    def _still_me(self, args: ast.arguments) -> str | None:
        me = self.scope.me
        return None if any(arg.arg == me for arg in _all_arguments(args)) else me

    def _me(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
        """The name of ``self`` in a method that never gives it another value."""
        if self.scope.kind != "class":
            me = self._still_me(node.args)
        elif self.scope.guards_reads or any(_is_named(d, "staticmethod") for d in node.decorator_list):
            return None
        else:
            first = (node.args.posonlyargs + node.args.args)[:1]
            me = first[0].arg if first else None
        return None if me is None or _rebinds(node, me) else me

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Any:
        decorators = self.visits(node.decorator_list)
        outer, in_class = self.scope, self.scope.kind == "class"
        self.bind(node.name, node)
        self.scopes.append(Scope("type parameters", me=outer.me))
        parameters = self._type_parameters(node)
        args, returns = self.arguments(node.args), self.maybe(node.returns)
        self.scopes.pop()
        scope = Scope("function", is_async=isinstance(node, ast.AsyncFunctionDef), me=self._me(node))
        self.scopes.append(scope)
        self._bind_arguments(node.args)
        doc, rest = _split_docstring(node.body)
        body = self.body(rest)
        self.scopes.pop()
        if scope.uses_me and not in_class:
            outer.uses_me = True
        prologue = self._prologue(node, scope, in_class=in_class)
        if in_class and node.name == "__del__":
            body = self._finalizer(node, body)
        return type(node)(node.name, args, [*doc, *prologue, *body] or [ast.Pass(**where(node))], decorators,
                          returns, None, **parameters, **where(node))  # fmt: skip

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
        mark = ast.Attribute(self.load(scope.me, node), policy.OWN_MARK, ast.Load(), **at)
        return [first, ast.Expr(mark, **at)]

    def _finalizer(self, node: Any, body: list[ast.stmt]) -> list[ast.stmt]:
        """A finalizer that is stopped says nothing: the code around it stops at its next checkpoint."""
        at = where(node)
        handler = ast.ExceptHandler(self.load("$Stop", node), None, [ast.Pass(**at)], **at)
        return [ast.Try(body or [ast.Pass(**at)], [handler], [], [], **at)]

    def _type_parameters(self, node: Any) -> dict[str, Any]:
        parameters = getattr(node, "type_params", None)
        if parameters is None:
            return {}
        for parameter in parameters:
            self.bind(parameter.name, node)
            for part in ("bound", "default_value"):
                if getattr(parameter, part, None) is not None:
                    setattr(parameter, part, self.visit(getattr(parameter, part)))
        return {"type_params": parameters}

    def visit_TypeAlias(self, node: Any) -> Any:
        self.bind(node.name.id, node)
        self.scopes.append(Scope("type parameters"))
        parameters = self._type_parameters(node)
        value = self.visit(node.value)
        self.scopes.pop()
        return type(node)(node.name, parameters["type_params"], value, **where(node))

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.stmt:
        decorators = self.visits(node.decorator_list)
        self.bind(node.name, node)
        self.scopes.append(Scope("type parameters"))
        parameters = self._type_parameters(node)
        bases = self.visits(node.bases)
        keywords = [ast.keyword(k.arg, self.visit(k.value), **where(k)) for k in node.keywords]
        self.scopes.pop()
        guards = any(getattr(s, "name", "") == "__getattribute__" for s in node.body)
        self.scopes.append(Scope("class", owner=node.name, guards_reads=guards))
        doc, rest = _split_docstring(node.body)
        # Marked from the beginning: __init_subclass__ and enum members run before the class is complete.
        mark = ast.Name(policy.OWN_MARK, ast.Store(), **where(node))
        first = ast.Assign([mark], self.load("$mark", node), **where(node))
        body = [*doc, first, *self.body(rest)]
        self.scopes.pop()
        return ast.ClassDef(node.name, bases, keywords, body, decorators, **parameters, **where(node))


def _calls(node: ast.AST) -> bool:
    return isinstance(node, (ast.Call, ast.Await, ast.Yield, ast.YieldFrom))


def _calls_per_element(node: Any) -> bool:
    """True when evaluating one element of a comprehension calls something."""
    first, *others = node.generators
    parts = [getattr(node, name) for name in ("elt", "key", "value") if hasattr(node, name)]
    parts += [*first.ifs, *(part for clause in others for part in (clause.iter, *clause.ifs))]
    return any(_calls(inner) for part in parts for inner in ast.walk(part))


def where(node: ast.AST) -> dict[str, Any]:
    """The source position of ``node``, as keyword arguments for a new one."""
    return {
        "lineno": node.lineno,  # type: ignore[attr-defined]
        "col_offset": node.col_offset,  # type: ignore[attr-defined]
        "end_lineno": node.end_lineno,  # type: ignore[attr-defined]
        "end_col_offset": node.end_col_offset,  # type: ignore[attr-defined]
    }


def bounded_operator(op: ast.operator, left: ast.expr, right: ast.expr) -> str | None:
    """The guard that an operation needs so that one of them cannot take forever; None when it needs none."""
    if isinstance(op, ast.Pow):
        small = (
            isinstance(right, ast.Constant)
            and isinstance(right.value, (int, float))
            and abs(right.value) <= 4
        )
        return None if small else "$pow"
    if isinstance(op, ast.LShift):
        return "$lshift"
    if isinstance(op, ast.Mult):
        return "$mul" if _may_repeat(left, right) or _may_repeat(right, left) else None
    if isinstance(op, ast.Mod):
        return "$mod" if _may_format(left, right) else None
    return None


def _may_repeat(thing: ast.expr, count: ast.expr) -> bool:
    if isinstance(count, ast.Constant) and isinstance(count.value, int):
        return count.value > 10_000
    if isinstance(thing, ast.Constant):
        return isinstance(thing.value, (str, bytes))
    if isinstance(thing, ast.BinOp):
        return isinstance(thing.op, (ast.Pow, ast.LShift)) or _holds_text(thing)
    return isinstance(thing, _REPEATABLE)


def _may_format(left: ast.expr, right: ast.expr) -> bool:
    if isinstance(left, ast.Constant):
        return isinstance(left.value, (str, bytes)) and ("*" in str(left.value) or len(str(left.value)) > 200
                                                         or has_wide_number(str(left.value)))  # fmt: skip
    return isinstance(left, ast.JoinedStr) or isinstance(right, (ast.Tuple, ast.Dict)) or _holds_text(left)


def _holds_text(node: ast.expr) -> bool:
    """True for operations on literal texts and lists, such as ``"ab" + x``."""
    if isinstance(node, ast.BinOp):
        return _holds_text(node.left) or _holds_text(node.right)
    return isinstance(node, (*_REPEATABLE, ast.Constant)) and not (
        isinstance(node, ast.Constant) and not isinstance(node.value, (str, bytes))
    )


def _is_wide(spec: ast.JoinedStr) -> bool:
    return any(isinstance(p, ast.Constant) and has_wide_number(str(p.value)) for p in spec.values)


def _is_harmless_format(node: ast.expr) -> bool:
    """A literal template whose fields read no attributes and no items, and are of ordinary width."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and is_plain_template(node.value)


def _consumes(func: ast.expr) -> bool:
    if isinstance(func, ast.Name):
        return func.id in policy.CONSUMERS
    return isinstance(func, ast.Attribute) and (
        func.attr in policy.CONSUMER_METHODS or func.attr in policy.CONSUMERS
    )


def _keeps_items(func: ast.expr) -> bool:
    return (func.id if isinstance(func, ast.Name) else getattr(func, "attr", "")) not in policy.REDUCERS


def _is_named(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _all_arguments(args: ast.arguments) -> list[ast.arg]:
    stars = [arg for arg in (args.vararg, args.kwarg) if arg is not None]
    return args.posonlyargs + args.args + args.kwonlyargs + stars


def _split_docstring(body: list[ast.stmt]) -> tuple[list[ast.stmt], list[ast.stmt]]:
    first = body[0] if body else None
    if (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    ):
        return [first], body[1:]
    return [], body


def _rebinds(function: ast.AST, name: str) -> bool:
    """True when anything inside gives ``name`` another value."""
    for node in ast.walk(function):
        if isinstance(node, ast.Name):
            if node.id == name and not isinstance(node.ctx, ast.Load):
                return True
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            if name in node.names:
                return True
        elif isinstance(node, (ast.MatchAs, ast.MatchStar, ast.ExceptHandler)):
            if node.name == name:
                return True
        elif isinstance(node, ast.MatchMapping):
            if node.rest == name:
                return True
        elif isinstance(node, ast.alias):
            if (node.asname or node.name) == name:
                return True
        elif node is not function and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if node.name == name:
                return True
    return False


_VISITORS: dict[type[ast.AST], Callable[[Rewriter, Any], Any]] = {
    getattr(ast, name.removeprefix("visit_")): method
    for name, method in vars(Rewriter).items()
    if name.startswith("visit_") and hasattr(ast, name.removeprefix("visit_"))
}
