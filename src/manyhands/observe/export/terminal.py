"""A trace as a tree in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.syntax import Syntax
from rich.text import Text
from rich.tree import Tree

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
    went_well,
)
from manyhands.observe.words import visible

if TYPE_CHECKING:
    from rich.console import RenderableType

    from manyhands.observe.trace import Trace, TraceCall, TraceStep

_ACCENT = "#d4b702"
# Of what a step has observed, and of what a call gave; the other forms show all of it.
_MOST_LINES, _MOST_LINES_OF_CALL = 30, 10


def tree(trace: Trace) -> Tree:
    """Return a trace as a tree that rich can draw."""
    root = Tree(_root(trace), guide_style="dim")
    for step in trace.steps:
        if step.kind != "task" or step.text.strip() != trace.task.strip():
            _add_step(root, step)
    for run in trace.runs:
        root.add(tree(run))
    if trace.error is not None:
        root.add(Text(visible(error_line(trace.error)), style="bold red"))
    elif trace.output is not None:
        root.add(Text(visible(f"Answer: {trace.output}"), style=f"bold {_ACCENT}"))
    if trace.left_out:
        root.add(Text(f"{trace.left_out:,} further calls are not kept.", style="dim"))
    if trace.note:
        root.add(Text(visible(trace.note), style="dim"))
    return root


def _root(trace: Trace) -> RenderableType:
    head = Text(visible(heading(trace)), style=f"bold {_ACCENT}")
    for name, text in facts(trace):
        style = "dim"
        if name == "status":
            style = "green" if went_well(trace) else "bold red"
        head.append(f"   {visible(text)}", style=style)
    return Group(head, Text(visible(trace.task), style="bold")) if trace.task else head


def _add_step(root: Tree, step: TraceStep) -> None:
    head = Text(visible(title(step)), style="bold")
    head.append(f"   {measures(step)}", style="dim")
    branch = root.add(head)
    if step.text.strip():
        branch.add(Text(visible(step.text.strip())))
    if step.code:
        code = visible(step.code.strip("\n"))
        branch.add(
            Syntax(code, "python", theme="ansi_dark", word_wrap=True, background_color="default", padding=0)
        )
    for call in step.calls:
        _add_call(branch, call)
    if told := observations(step):
        branch.add(Text(_first_lines(visible(told), _MOST_LINES), style="dim"))
    if step.images:
        branch.add(Text(f"{step.images} pictures", style="dim"))
    if wrong := error_of(step):
        branch.add(Text(visible(wrong), style="red"))


def _first_lines(text: str, most: int) -> str:
    lines = text.split("\n")
    if len(lines) <= most:
        return text
    return "\n".join([*lines[:most], f"… and {len(lines) - most:,} more lines"])


def _add_call(branch: Tree, call: TraceCall) -> None:
    line = Text("→ " + visible(signature(call)), style="cyan")
    if call.began is not None:
        line.append(f"   {seconds(call.seconds) or 'goes on'}", style="dim")
    below = branch.add(line)
    if call.run is not None:
        below.add(tree(call.run))
    elif call.result:
        below.add(Text(_first_lines(visible(call.result), _MOST_LINES_OF_CALL), style="dim"))
    if call.error:
        below.add(Text(visible(call.error), style="red"))
