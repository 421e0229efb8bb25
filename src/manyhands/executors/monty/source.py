"""What can be told from a block of code before it runs: which calls of tools wait, and which names it has.

A plain ``tool(x)`` gives its value. Behind ``await``, or on its way to ``asyncio.gather``, the same call has
to begin without being waited for. Both are told apart by their places in the source, which Monty reports
with every call.
"""

from __future__ import annotations

import ast
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from manyhands.errors import InterpreterError
from manyhands.executors.local import explain, policy
from manyhands.executors.local.concurrency import TaskNames, is_gatherer

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

#: The modules that Monty has.
MODULES = frozenset(
    {
        *("asyncio", "base64", "binascii", "bisect", "collections", "copy", "csv", "dataclasses", "datetime"),
        *("decimal", "functools", "hashlib", "itertools", "json", "math", "os", "pathlib", "posixpath"),
        *("random", "re", "sys", "time", "tomllib", "typing", "unicodedata"),
    }
)

# Functions of the language that call back, and cannot wait meanwhile; these can. ``parallel`` is ours.
_PREFIX = "_manyhands_"
HELPERS = {
    "parallel": """
def parallel(function, items):
    import asyncio
    async def one(item):
        value = function(item)
        if str(type(value)) == "<class 'coroutine'>":
            return await value
        return value
    async def every():
        return await asyncio.gather(*[one(item) for item in items])
    return asyncio.run(every())
""",
    "sorted": """
def _manyhands_sorted(items, key=None, reverse=False):
    items = list(items)
    keys = items if key is None else [key(item) for item in items]
    return [items[i] for i in sorted(range(len(items)), key=lambda i: keys[i], reverse=reverse)]
""",
    "sort": """
def _manyhands_sort(items, key=None, reverse=False):
    keys = items if key is None else [key(item) for item in items]
    items[:] = [items[i] for i in sorted(range(len(items)), key=lambda i: keys[i], reverse=reverse)]
""",
    "map": """
def _manyhands_map(function, *columns):
    return iter([function(*row) for row in zip(*columns)])
""",
    "filter": """
def _manyhands_filter(function, items):
    return iter([item for item in items if function(item)])
""",
    "min": """
def _manyhands_min(*items, key, **rest):
    items = list(items[0]) if len(items) == 1 else items
    if not items:
        return min(items, **rest)
    keys = [key(item) for item in items]
    return items[min(range(len(items)), key=lambda i: keys[i])]
""",
    "max": """
def _manyhands_max(*items, key, **rest):
    items = list(items[0]) if len(items) == 1 else items
    if not items:
        return max(items, **rest)
    keys = [key(item) for item in items]
    return items[max(range(len(items)), key=lambda i: keys[i])]
""",
}

Span = tuple[int, int]

_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, *_COMPREHENSIONS)


@dataclass
class Source:
    """One block of code, read.

    Attributes:
        text: What Monty is given; its lines are those of the code.
        code: The code as it was written.
        together: Places of calls that begin without being waited for.
        handed: Places of calls that hand over a function, and its text.
        helpers: Helpers that the text uses.
        loads: Names that it reads.
        binds: Names that it binds at the top.
        definitions: The source of each function, class and import at the top, by name.
        callers: Names of its functions that call a tool.
        imports: Modules that it imports, outside of ``try``.
    """

    text: str
    code: str
    together: frozenset[Span] = frozenset()
    handed: dict[Span, str] = field(default_factory=dict)
    helpers: frozenset[str] = frozenset()
    loads: frozenset[str] = frozenset()
    binds: frozenset[str] = frozenset()
    definitions: dict[str, str] = field(default_factory=dict)
    callers: frozenset[str] = frozenset()
    imports: tuple[str, ...] = ()


def read(code: str, tools: Collection[str], callers: Collection[str] = ()) -> Source:
    """Read a block of code.

    Args:
        code: The code.
        tools: Names of tools, which it may not bind.
        callers: Names of functions of earlier blocks that call tools.

    Raises:
        InterpreterError: It cannot be parsed, or binds the name of a tool.
    """
    code = code.replace("\r\n", "\n").replace("\r", "\n")
    tree = parse(code)
    _refuse_overwriting(code, tree, tools)
    reaching = _callers(tree, tools, callers)
    edits = _Edits(code, tree, reaching, tools)
    text = edits.text()
    if text != code:
        tree = parse(text)
    places = _Places(text, tree, {*tools, *reaching})
    return Source(
        # Monty counts its sources, and so do we; it does not count an empty one.
        text + _last_value(tree) if text.strip() else "None",
        code,
        frozenset(places.together()),
        places.handed(),
        frozenset(edits.helpers),
        frozenset(n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)),
        frozenset(_bound(tree.body)),
        dict(_definitions(code, tree)),
        frozenset(reaching - set(tools)),
        tuple(_imports(tree.body)),
    )


def parse(code: str) -> ast.Module:
    """Parse ``code``.

    Raises:
        InterpreterError: It is no Python, or too much of it.
    """
    if len(code) > policy.MAX_SOURCE:
        raise InterpreterError(f"The code is longer than {policy.MAX_SOURCE:,} characters.")
    try:
        code.encode()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a code whose warnings nobody sees
            tree = ast.parse(code, explain.FILENAME)
            compile(tree, explain.FILENAME, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    except SyntaxError as error:
        raise InterpreterError(explain.syntax_text(error)) from error
    except (RecursionError, MemoryError):
        raise InterpreterError("The code is nested too deeply.") from None
    except ValueError as error:
        raise InterpreterError(f"The code cannot be parsed: {error}") from None
    return tree


def _last_value(tree: ast.Module) -> str:
    """What to append so that the value of a last assignment is the value of the block."""
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Assign) and len(last.targets) == 1 and isinstance(last.targets[0], ast.Name):
        return f"\n{last.targets[0].id}"
    return ""


# --- Names ---------------------------------------------------------------------------------------


def _stored(node: ast.AST) -> Iterator[str]:
    """Names that this one node binds."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del)):
        yield node.id
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, ast.alias):
        yield node.asname or node.name.partition(".")[0]
    elif isinstance(node, ast.ExceptHandler) and node.name:
        yield node.name
    elif isinstance(node, (ast.Global, ast.Nonlocal)):
        yield from node.names
    elif isinstance(node, (ast.MatchAs, ast.MatchStar)) and node.name:
        yield node.name


def _refuse_overwriting(code: str, tree: ast.Module, tools: Collection[str]) -> None:
    for node in tree.body:
        for name, where in _bound_by(node):
            if name in tools:
                message = f"Cannot assign to name '{name}': doing this would erase the existing tool!"
                raise InterpreterError(explain.refused_text(message, code, where))


def _bound(body: list[ast.stmt]) -> Iterator[str]:
    """Names bound at the top: not those of functions, classes and comprehensions themselves."""
    for node in body:
        yield from (name for name, _ in _bound_by(node))


def _bound_by(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, _SCOPES):
        yield from ((name, node) for name in _stored(node))
        yield from _escaping(node)
        return
    yield from ((name, node) for name in _stored(node))
    for child in ast.iter_child_nodes(node):
        yield from _bound_by(child)


def _escaping(scope: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Names that it binds outside of itself: by ``global``, or ``:=`` in a comprehension."""
    comprehension = isinstance(scope, _COMPREHENSIONS)
    for node in ast.walk(scope):
        if isinstance(node, ast.Global):
            yield from ((name, node) for name in node.names)
        elif comprehension and isinstance(node, ast.NamedExpr):
            yield node.target.id, node


def _definitions(code: str, tree: ast.Module) -> Iterator[tuple[str, str]]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
    for node in tree.body:
        if isinstance(node, kinds):
            for name in _bound([node]):
                yield name, ast.unparse(node)


def _imports(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]
        elif not isinstance(node, ast.Try):
            for part in ("body", "orelse"):
                yield from _imports(getattr(node, part, []))


def _callers(tree: ast.Module, tools: Collection[str], callers: Collection[str]) -> set[str]:
    """Names whose call may call a tool: tools, and functions that use such a name."""
    known = {*tools, *callers}
    functions = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    lambdas = [
        (n.targets[0].id, n.value)
        for n in ast.walk(tree)
        if isinstance(n, ast.Assign)
        and isinstance(n.targets[0], ast.Name)
        and isinstance(n.value, ast.Lambda)
    ]
    named: list[tuple[str, ast.AST]] = [*((f.name, f) for f in functions), *lambdas]
    while True:
        more = {name for name, node in named if name not in known and _uses(node, known)}
        if not more:
            return known
        known |= more


def _uses(node: ast.AST, names: Collection[str]) -> bool:
    return any(isinstance(part, ast.Name) and part.id in names for part in ast.walk(node))


# --- Changes to the text ------------------------------------------------------------------------


class _Edits:
    """Puts our helpers in the place of built-in functions that would have to wait for a tool."""

    def __init__(
        self, code: str, tree: ast.Module, reaching: Collection[str], tools: Collection[str]
    ) -> None:
        self._bytes = code.encode()
        self._starts = _line_starts(self._bytes)
        self._reaching = reaching
        self.helpers: set[str] = set()
        bound = set(_bound(tree.body))
        self._changes: list[tuple[int, int, bytes]] = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                self._look_at(node, bound)
            elif isinstance(node, ast.Name) and node.id == "parallel" and not {"parallel"} & {*bound, *tools}:
                self.helpers.add("parallel")

    def text(self) -> str:
        """The code with its changes."""
        data = self._bytes
        for start, end, new in sorted(self._changes, reverse=True):
            data = data[:start] + new + data[end:]
        return data.decode()

    def _look_at(self, call: ast.Call, bound: Collection[str]) -> None:
        func = call.func
        if isinstance(func, ast.Name) and func.id in HELPERS and func.id not in bound:
            first = call.args[:1] if func.id in ("map", "filter") else []
            if func.id not in ("parallel", "sort") and self._waits(first, call.keywords):
                self._change(func.id, *_span(self._starts, func))
        elif isinstance(func, ast.Attribute) and func.attr == "sort" and self._waits([], call.keywords):
            self._change_sort(call, func)

    def _waits(self, functions: list[ast.expr], keywords: list[ast.keyword]) -> bool:
        keys = [word.value for word in keywords if word.arg == "key"]
        return any(
            isinstance(node, (ast.Name, ast.Lambda)) and _uses(node, self._reaching)
            for node in [*functions, *keys]
        )

    def _change(self, name: str, start: int, end: int) -> None:
        self.helpers.add(name)
        self._changes.append((start, end, f"{_PREFIX}{name}".encode()))

    def _change_sort(self, call: ast.Call, func: ast.Attribute) -> None:
        """``items.sort(key=f)`` becomes ``_manyhands_sort(items, key=f)``."""
        start, end = _span(self._starts, func.value)
        opening = self._bytes.index(b"(", _span(self._starts, func)[1]) + 1
        self._change("sort", start, start)
        self._changes[-1] = (start, start, f"{_PREFIX}sort(".encode())
        self._changes.append((end, opening, b", "))


def _line_starts(data: bytes) -> list[int]:
    starts = [0]
    for line in data.split(b"\n"):
        starts.append(starts[-1] + len(line) + 1)
    return starts


def _span(starts: list[int], node: ast.expr) -> Span:
    end_line, end_column = node.end_lineno or node.lineno, node.end_col_offset or 0
    return starts[node.lineno - 1] + node.col_offset, starts[end_line - 1] + end_column


# --- Places of calls -----------------------------------------------------------------------------


class _Places:
    """Where the calls are that begin without being waited for, and those that hand over a function."""

    def __init__(self, text: str, tree: ast.Module, functions: Collection[str]) -> None:
        self._starts = _line_starts(text.encode())
        self._tree = tree
        self._tasks = TaskNames(text, tree)
        self._functions = {
            *functions,
            *(n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))),
        }

    def together(self) -> Iterator[Span]:
        """Calls that begin without being waited for."""
        for node in ast.walk(self._tree):
            for value in self._awaited_by(node):
                for call in _calls_in(value):
                    yield _span(self._starts, call)

    def _awaited_by(self, node: ast.AST) -> list[ast.expr]:
        if isinstance(node, ast.Await):
            return [node.value]
        if isinstance(node, ast.Assign) and any(map(self._tasks.holds, node.targets)):
            return [node.value]
        if not isinstance(node, ast.Call):
            return []
        if is_gatherer(node.func) or self._tasks.collects(node.func):
            return list(node.args)
        if isinstance(node.func, ast.Name) and node.func.id == "parallel":
            return [arg.body for arg in node.args if isinstance(arg, ast.Lambda)]
        return []

    def handed(self) -> dict[Span, str]:
        """Calls with an argument that is a function."""
        found = {}
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Call):
                for arg in [*node.args, *(word.value for word in node.keywords)]:
                    if isinstance(arg, ast.Lambda) or (
                        isinstance(arg, ast.Name) and arg.id in self._functions
                    ):
                        found[_span(self._starts, node)] = ast.unparse(arg)
        return found


def _calls_in(node: ast.expr) -> Iterator[ast.Call]:
    """The calls whose values ``node`` consists of."""
    if isinstance(node, ast.Call):
        yield node
    elif isinstance(node, ast.Starred):
        yield from _calls_in(node.value)
    elif isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        for item in node.elts:
            yield from _calls_in(item)
    elif isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp)):
        yield from _calls_in(node.elt)
    elif isinstance(node, ast.IfExp):
        yield from _calls_in(node.body)
        yield from _calls_in(node.orelse)
