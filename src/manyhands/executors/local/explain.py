"""Failures of the code, told so that a model can repair it.

The line, the type, the reason, the nearest name.
"""

from __future__ import annotations

import ast
import builtins
import difflib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import FrameType, TracebackType

FILENAME = "<agent code>"
_MAX_LINE = 200


def failure_text(error: BaseException, source: str, names: Iterable[str]) -> str:
    """The sentence for a failure while the code ran."""
    frames = [
        (frame, line) for frame, line in _frames(error.__traceback__) if frame.f_code.co_filename == FILENAME
    ]
    top = next((line for frame, line in frames if frame.f_code.co_name == "<module>"), None)
    segment = statement_at(source, top) if top else first_line(source)
    text = f"Code execution failed at line '{segment}' due to: {kind_of(error)}: {_message(error)}"
    hint = _hint(error, frames, names)
    inner = _inner(frames, source)
    return text + (f". {hint}" if hint else "") + inner


def kind_of(error: BaseException) -> str:
    """The name of the error's type; refusals by the guards carry the name of the executor's own error."""
    return "InterpreterError" if getattr(type(error), "is_refusal", False) else type(error).__name__


def syntax_text(error: SyntaxError) -> str:
    """The sentence for code that cannot be parsed, with the caret below the place."""
    line = (error.text or "").rstrip("\n")
    caret = " " * max((error.offset or 1) - 1, 0) + "^"
    return (
        f"Code parsing failed on line {error.lineno} due to: {type(error).__name__}: "
        f"{error.msg}\n{line}\n{caret}"
    )


def refused_text(message: str, source: str, node: ast.AST | None) -> str:
    """The sentence for code that is refused before it runs."""
    line = getattr(node, "lineno", None)
    segment = statement_at(source, line) if line else first_line(source)
    return f"Code execution failed at line '{segment}' due to: InterpreterError: {message}"


def first_line(source: str) -> str:
    """The first line of the code."""
    return source.strip().split("\n", 1)[0][:_MAX_LINE]


def statement_at(source: str, line: int) -> str:
    """The innermost statement at ``line``; of a compound one, its first line."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return first_line(source)
    found: ast.stmt | None = None
    for node in ast.walk(tree):
        holds = isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno)
        if isinstance(node, ast.stmt) and holds and (found is None or node.lineno >= found.lineno):
            found = node
    segment = ast.get_source_segment(source, found) if found is not None else None
    if segment is None:
        lines = source.split("\n")
        return lines[line - 1].strip()[:_MAX_LINE] if 0 < line <= len(lines) else first_line(source)
    if hasattr(found, "body") or len(segment) > _MAX_LINE:
        segment = segment.split("\n", 1)[0][:_MAX_LINE]
    return segment


def _frames(traceback: TracebackType | None) -> Iterable[tuple[FrameType, int]]:
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as inner:
        return f"<no text: {type(inner).__name__}>"


def _inner(frames: list[tuple[FrameType, int]], source: str) -> str:
    """Where inside a function it happened."""
    if not frames or frames[-1][0].f_code.co_name == "<module>":
        return ""
    frame, line = frames[-1]
    lines = source.split("\n")
    name = frame.f_code.co_name
    if frame.f_globals.get("$source") != source and not 0 < line <= len(lines):
        return f"\n(in {name}, line {line})"
    return (
        f"\n(in {name}, line {line}: '{lines[line - 1].strip()[:_MAX_LINE]}')"
        if 0 < line <= len(lines)
        else ""
    )


def _hint(error: BaseException, frames: list[tuple[FrameType, int]], names: Iterable[str]) -> str:
    """``Did you mean: 'x'?`` for misspelt names, attributes and keys."""
    if isinstance(error, KeyError) and error.args:
        return _closest(error.args[0], [key for d in _dicts(frames) for key in d])
    name = getattr(error, "name", None)
    if not isinstance(name, str) or "Did you mean" in _message(error):
        return ""
    if isinstance(error, NameError):
        local = list(frames[-1][0].f_locals) if frames else []
        return _closest(name, [*local, *names])
    if isinstance(error, AttributeError) and error.obj is not None and not name.startswith("_"):
        return _closest(name, [n for n in object.__dir__(error.obj) if not n.startswith("_")])
    return ""


def _dicts(frames: list[tuple[FrameType, int]]) -> list[Mapping[Any, Any]]:
    values = list(frames[-1][0].f_locals.values())[:1000] if frames else []
    return [value for value in values if type(value) is dict and len(value) < 1000]


def _closest(name: object, names: Iterable[object]) -> str:
    if not isinstance(name, str):
        return ""
    known = [n for n in names if type(n) is str and "$" not in n and n != name]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return f"Did you mean: '{near[0]}'?" if near else ""


def is_builtin_exception(cls: type) -> bool:
    """True for exception classes of the language itself."""
    return getattr(builtins, cls.__name__, None) is cls
