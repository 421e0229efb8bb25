"""The referee: each program runs here and in plain CPython; value, prints and exception have to agree."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import io
import re
from typing import Any

import pytest

from manyhands.errors import InterpreterError
from manyhands.executors.local import LocalPythonExecutor

from .corpus import IMPORTS, PROGRAMS

_ADDRESS = re.compile(r"0x[0-9a-f]+")


def in_cpython(source: str) -> tuple[str, str, str | None]:
    """Value, prints and error of a program without us."""
    tree = ast.parse(source)
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        tree.body[-1] = ast.copy_location(
            ast.Assign([ast.Name("_result", ast.Store())], tree.body[-1].value), tree.body[-1]
        )
    names: dict[str, Any] = {"__name__": "__main__"}
    code = compile(
        ast.fix_missing_locations(tree),
        "<cpython>",
        "exec",
        ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        dont_inherit=True,
    )
    out = io.StringIO()
    error = None
    with contextlib.redirect_stdout(out):
        try:
            pending = eval(code, names)
            if pending is not None:
                asyncio.run(pending)
        except BaseException as raised:
            error = f"{type(raised).__name__}: {raised}"
    return _ADDRESS.sub("0x", repr(names.get("_result"))), _ADDRESS.sub("0x", out.getvalue()), error


def in_executor(source: str) -> tuple[str, str, str | None]:
    """The same in the executor."""
    executor = LocalPythonExecutor(IMPORTS)
    try:
        result = executor(source + "\n" if _ends_in_expression(source) else source + "\nNone")
    except InterpreterError as error:
        text = str(error)
        found = re.search(
            r"due to: (\w+: .*?)(?:\. Did you mean: '[^']*'\?)?(?:\n\(in .*)?$", text, re.DOTALL
        )
        return repr(None), _ADDRESS.sub("0x", error.logs), found.group(1) if found else text
    value = executor.state.get("$shown") or repr_in(executor, result.output)
    return _ADDRESS.sub("0x", value), _ADDRESS.sub("0x", result.logs), None


def _ends_in_expression(source: str) -> bool:
    body = ast.parse(source).body
    return bool(body) and isinstance(body[-1], ast.Expr)


def repr_in(executor: LocalPythonExecutor, value: Any) -> str:
    """``repr`` by the code itself: its classes do not answer outside."""
    executor.send_variables({"value_to_show": value})
    return str(executor("repr(value_to_show)").output)


@pytest.mark.parametrize("source", PROGRAMS, ids=range(len(PROGRAMS)))
def test_as_in_cpython(source: str) -> None:
    """A program gives the value, the prints and the error that CPython gives."""
    assert in_executor(source) == in_cpython(source)
