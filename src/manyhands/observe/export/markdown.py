"""A trace as Markdown. Texts of models and tools stand in fences: nothing in them is taken for Markdown."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from manyhands.observe.export.parts import (
    error_line,
    error_of,
    facts,
    heading,
    measures,
    observations,
    seconds,
    signature,
    title,
)
from manyhands.observe.words import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manyhands.observe.trace import Trace, TraceCall, TraceStep

_DEEPEST = 6


def document(trace: Trace) -> str:
    """Return a trace as Markdown."""
    return "\n".join(_run(trace, 1)).rstrip() + "\n"


def _run(trace: Trace, level: int) -> Iterator[str]:
    yield from _heading(level, _inline(heading(trace)))
    if trace.task:
        yield from _fenced(trace.task)
    yield "| | |"
    yield "|---|---|"
    for name, text in facts(trace):
        yield f"| {name} | {_inline(text)} |"
    yield ""
    for step in trace.steps:
        if step.kind != "task" or step.text.strip() != trace.task.strip():
            yield from _step(step, level + 1)
    for run in trace.runs:
        yield from _run(run, level + 1)
    yield from _end(trace, level + 1)


def _end(trace: Trace, level: int) -> Iterator[str]:
    if trace.error is not None:
        yield from _heading(level, "Error")
        yield from _fenced(error_line(trace.error))
    elif trace.output is not None:
        yield from _heading(level, "Answer")
        yield from _fenced(trace.output)
    if trace.left_out:
        yield f"{trace.left_out:,} further calls are not kept.\n"
    if trace.note:
        yield f"{_inline(trace.note)}\n"


def _step(step: TraceStep, level: int) -> Iterator[str]:
    took = measures(step)
    yield from _heading(level, _inline(title(step)) + (f" ({took})" if took else ""))
    if step.text.strip():
        yield from _fenced(step.text.strip())
    if step.code:
        yield from _fenced(step.code.strip("\n"), "python")
    for call in step.calls:
        yield from _call(call, level + 1)
    if told := observations(step):
        yield "Observations:\n"
        yield from _fenced(told)
    if step.images:
        yield f"{step.images} pictures\n"
    if wrong := error_of(step):
        yield "Error:\n"
        yield from _fenced(wrong)


def _call(call: TraceCall, level: int) -> Iterator[str]:
    took = f" ({seconds(call.seconds) or 'goes on'})" if call.began is not None else ""
    yield f"Call of {_inline(call.name)}{took}:\n"
    yield from _fenced(signature(call), "python")
    if call.run is not None:
        yield from _run(call.run, level)
    elif call.result:
        yield from _fenced(call.result)
    if call.error:
        yield from _fenced(call.error)


def _heading(level: int, text: str) -> Iterator[str]:
    yield f"{'#' * min(level, _DEEPEST)} {text}\n"


def _fenced(text: str, language: str = "text") -> Iterator[str]:
    """Fence a text with more backticks than any that stand in it."""
    words = visible(text)
    longest = max(map(len, re.findall(r"`+", words)), default=0)
    fence = "`" * max(3, longest + 1)
    yield f"{fence}{language}\n{words}\n{fence}\n"


def _inline(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|!~])", r"\\\1", " ".join(visible(text).split()))
