"""Questions about syntax trees that need nothing but the tree."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any, TypeVar

from manyhands.executors.local import policy
from manyhands.executors.local.formatting import has_wide_number, is_plain_template

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LITERALS = (ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Set, ast.ListComp, ast.SetComp, ast.DictComp,
             ast.GeneratorExp, ast.JoinedStr)  # fmt: skip
MATCH_SELF = frozenset(
    ["bool", "bytearray", "bytes", "dict", "float", "frozenset", "int", "list", "set", "str", "tuple"]
)
REPEATABLE = (ast.List, ast.Tuple, ast.ListComp, ast.JoinedStr)

N = TypeVar("N", bound=ast.AST)

LOAD = ast.Load()
STORE = ast.Store()

#: Nodes that give a value to what stands in their field ``name``.
_NAMED = (ast.MatchAs, ast.MatchStar, ast.ExceptHandler, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def calls(node: ast.AST) -> bool:
    return isinstance(node, (ast.Call, ast.Await, ast.Yield, ast.YieldFrom))


def calls_inside(node: ast.AST) -> bool:
    """True when evaluating ``node`` calls something."""
    return any(map(calls, below(node)))


def calls_per_element(node: Any) -> bool:
    """True when evaluating one element of a comprehension calls something."""
    first, *others = node.generators
    parts = [getattr(node, name) for name in ("elt", "key", "value") if hasattr(node, name)]
    parts += [*first.ifs, *(part for clause in others for part in (clause.iter, *clause.ifs))]
    return any(map(calls_inside, parts))


def below(node: ast.AST) -> list[ast.AST]:
    """``node`` and all nodes in it, in no order; ``ast.walk`` is three times as slow."""
    found = [node]
    for one in found:  # which grows meanwhile
        for value in one.__dict__.values():
            if isinstance(value, ast.AST):
                found.append(value)
            elif type(value) is list:
                found += [item for item in value if isinstance(item, ast.AST)]
    return found


def where(node: ast.AST) -> dict[str, Any]:
    """The source position of ``node``, as keyword arguments for a new one."""
    return {
        "lineno": node.lineno,  # type: ignore[attr-defined]
        "col_offset": node.col_offset,  # type: ignore[attr-defined]
        "end_lineno": node.end_lineno,  # type: ignore[attr-defined]
        "end_col_offset": node.end_col_offset,  # type: ignore[attr-defined]
    }


def located(kind: type[N], at: dict[str, Any], /, **fields: Any) -> N:
    """A new node at a position; three times as fast as calling ``kind``, which looks at each field.

    Args:
        kind: The class of the node.
        at: The position, from :func:`where`.
        **fields: All fields of the node.
    """
    node = kind.__new__(kind)
    fields.update(at)
    node.__dict__ = fields
    return node


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
        return "$mul" if may_repeat(left, right) or may_repeat(right, left) else None
    if isinstance(op, ast.Mod):
        return "$mod" if may_format(left, right) else None
    return None


def may_repeat(thing: ast.expr, count: ast.expr) -> bool:
    if isinstance(count, ast.Constant) and isinstance(count.value, int):
        return count.value > 10_000
    if isinstance(thing, ast.Constant):
        return isinstance(thing.value, (str, bytes))
    if isinstance(thing, ast.BinOp):
        return isinstance(thing.op, (ast.Pow, ast.LShift)) or holds_text(thing)
    return isinstance(thing, REPEATABLE)


def may_format(left: ast.expr, right: ast.expr) -> bool:
    if isinstance(left, ast.Constant):
        return isinstance(left.value, (str, bytes)) and ("*" in str(left.value) or len(str(left.value)) > 200
                                                         or has_wide_number(str(left.value)))  # fmt: skip
    return isinstance(left, ast.JoinedStr) or isinstance(right, (ast.Tuple, ast.Dict)) or holds_text(left)


def holds_text(node: ast.expr) -> bool:
    """True for operations on literal texts and lists, such as ``"ab" + x``."""
    if isinstance(node, ast.BinOp):
        return holds_text(node.left) or holds_text(node.right)
    return isinstance(node, (*REPEATABLE, ast.Constant)) and not (
        isinstance(node, ast.Constant) and not isinstance(node.value, (str, bytes))
    )


def is_wide(spec: ast.JoinedStr) -> bool:
    return any(isinstance(p, ast.Constant) and has_wide_number(str(p.value)) for p in spec.values)


def is_harmless_format(node: ast.expr) -> bool:
    """A literal template whose fields read no attributes and no items, and are of ordinary width."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and is_plain_template(node.value)


def consumes(func: ast.expr) -> bool:
    if isinstance(func, ast.Name):
        return func.id in policy.CONSUMERS
    return isinstance(func, ast.Attribute) and (
        func.attr in policy.CONSUMER_METHODS or func.attr in policy.CONSUMERS
    )


def keeps_items(func: ast.expr) -> bool:
    return (func.id if isinstance(func, ast.Name) else getattr(func, "attr", "")) not in policy.REDUCERS


def is_named(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def all_arguments(args: ast.arguments) -> list[ast.arg]:
    stars = [arg for arg in (args.vararg, args.kwarg) if arg is not None]
    return args.posonlyargs + args.args + args.kwonlyargs + stars


def split_docstring(body: list[ast.stmt]) -> tuple[list[ast.stmt], list[ast.stmt]]:
    first = body[0] if body else None
    if (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    ):
        return [first], body[1:]
    return [], body


def rebinds(function: ast.AST, name: str) -> bool:
    """True when anything inside gives ``name`` another value."""
    for node in below(function):
        bound = _BOUND.get(type(node))
        if bound is not None and node is not function and name in bound(node):
            return True
    return False


#: For each kind of node that gives a value to names: to which.
_BOUND: dict[type[ast.AST], Callable[[Any], Sequence[str | None]]] = {
    ast.Name: lambda node: () if isinstance(node.ctx, ast.Load) else (node.id,),
    ast.alias: lambda node: (node.asname or node.name,),
    ast.MatchMapping: lambda node: (node.rest,),
    **dict.fromkeys((ast.Global, ast.Nonlocal), lambda node: node.names),
    **dict.fromkeys(_NAMED, lambda node: (node.name,)),
}
