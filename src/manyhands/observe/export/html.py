"""A trace as one page of HTML: no other file, no script, no network; dark and light, and on paper.

Every text is escaped. The page forbids scripts and addresses to the browser as well, should anything slip by.
"""

from __future__ import annotations

import functools
import time
from html import escape
from typing import TYPE_CHECKING

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

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
from manyhands.observe.export.style import SHEET
from manyhands.observe.words import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manyhands.observe.trace import Trace, TraceCall, TraceStep

# Texts of more lines are folded away until somebody asks.
_LONG_LINES = 24
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def document(trace: Trace) -> str:
    """Return a trace as a page."""
    name = _text(" ".join(trace.task.split())[:80] or heading(trace))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{name}</title>
<style>{_style()}</style>
</head>
<body>
<main>
{"".join(_run(trace, _Clock(trace)))}
</main>
<footer>{_began(trace)}</footer>
</body>
</html>
"""


@functools.cache
def _style() -> str:
    light = HtmlFormatter(style="xcode").get_style_defs(".code")  # type: ignore[no-untyped-call]
    dark = HtmlFormatter(style="github-dark").get_style_defs(".code")  # type: ignore[no-untyped-call]
    return f"{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n{SHEET}"


class _Clock:
    """Where on the page's line of time something stands: from the run's beginning to its end.

    Args:
        trace: The outermost run.
    """

    def __init__(self, trace: Trace) -> None:
        self._began = trace.began or min((step.began for step in trace.steps if step.began), default=0.0)
        self._seconds = max(trace.seconds or 0.0, 1e-9)

    def bar(self, began: float | None, lasted: float | None, kind: str, part: float | None = None) -> str:
        """Return a bar; ``part`` of its seconds are drawn in another color."""
        if began is None or lasted is None or not self._began:
            return '<span class="bar"></span>'
        left = min(99.5, max(0.0, 100 * (began - self._began) / self._seconds))
        width = min(100 - left, max(0.5, 100 * lasted / self._seconds))
        inner = ""
        if part is not None and lasted > 0:
            inner = f'<i style="width:{min(100.0, 100 * part / lasted):.2f}%"></i>'
        where = f"left:{left:.2f}%;width:{width:.2f}%"
        return f'<span class="bar"><b class="{kind}" style="{where}">{inner}</b></span>'


def _run(trace: Trace, clock: _Clock) -> Iterator[str]:
    yield f'<section class="run"><h1>{_text(heading(trace))}</h1>'
    if trace.task:
        yield f'<pre class="task">{_text(trace.task)}</pre>'
    yield "<dl>"
    for name, text in facts(trace):
        kind = ("good" if went_well(trace) else "bad") if name == "status" else ""
        yield f'<div><dt>{name}</dt><dd class="{kind}">{_text(text)}</dd></div>'
    yield "</dl>"
    for step in trace.steps:
        if step.kind != "task" or step.text.strip() != trace.task.strip():
            yield from _step(step, clock)
    for run in trace.runs:
        yield from _run(run, clock)
    yield from _end(trace)
    yield "</section>"


def _end(trace: Trace) -> Iterator[str]:
    if trace.error is not None:
        yield f'<div class="end bad"><h2>Error</h2><pre>{_text(error_line(trace.error))}</pre></div>'
    elif trace.output is not None:
        yield f'<div class="end"><h2>Answer</h2><pre>{_text(trace.output)}</pre></div>'
    if trace.left_out:
        yield f"<p class=note>{trace.left_out:,} further calls are not kept.</p>"
    if trace.note:
        yield f"<p class=note>{_text(trace.note)}</p>"


def _step(step: TraceStep, clock: _Clock) -> Iterator[str]:
    kind = "bad" if step.error is not None else ""
    bar = clock.bar(step.began, step.seconds, "whole", step.model_seconds)
    yield (
        f'<details class="step {kind}" open><summary><span class="name">{_text(title(step))}</span>'
        f'<span class="took">{_text(measures(step))}</span>{bar}</summary>'
    )
    if step.text.strip():
        yield f'<pre class="words">{_text(step.text.strip())}</pre>'
    if step.code:
        yield f'<pre class="code">{_code(step.code)}</pre>'
    for call in step.calls:
        yield from _call(call, clock)
    if told := observations(step):
        yield from _long("observations", told)
    if step.images:
        yield f"<p class=note>{step.images} pictures</p>"
    if wrong := error_of(step):
        yield f'<pre class="error">{_text(wrong)}</pre>'
    yield "</details>"


def _call(call: TraceCall, clock: _Clock) -> Iterator[str]:
    took = (seconds(call.seconds) or "goes on") if call.began is not None else ""
    bar = clock.bar(call.began, call.seconds, "part")
    kind = "bad" if call.error else ""
    yield (
        f'<details class="call {kind}" open><summary><code class="name">{_text(signature(call))}</code>'
        f'<span class="took">{_text(took)}</span>{bar}</summary>'
    )
    if call.run is not None:
        yield from _run(call.run, clock)
    elif call.result.count("\n") >= _LONG_LINES:
        yield from _long("result", call.result)
    elif call.result:
        yield f'<pre class="result">{_text(call.result)}</pre>'
    if call.error:
        yield f'<pre class="error">{_text(call.error)}</pre>'
    yield "</details>"


def _long(name: str, text: str) -> Iterator[str]:
    lines = text.count("\n") + 1
    unfolded = "open" if lines <= _LONG_LINES else ""
    yield (
        f'<details class="long" {unfolded}><summary>{name}, {lines:,} {"line" if lines == 1 else "lines"}'
        f"</summary><pre>{_text(text)}</pre></details>"
    )


def _code(code: str) -> str:
    formatter = HtmlFormatter(nowrap=True)
    found: str = highlight(visible(code.strip("\n")), PythonLexer(stripnl=False), formatter)
    return found


def _text(text: str) -> str:
    return escape(visible(text))


def _began(trace: Trace) -> str:
    if trace.began is None:
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(trace.began))
