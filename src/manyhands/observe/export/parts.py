"""What all forms of a trace say in the same words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from manyhands.history import MOST_CHARS
from manyhands.observe.snapshot import duration
from manyhands.run import SUCCESS

if TYPE_CHECKING:
    from manyhands.messages import TokenUsage
    from manyhands.observe.trace import Trace, TraceCall, TraceStep


def heading(trace: Trace) -> str:
    """Return who worked: agent and model, as far as they are known."""
    return trace.agent or "run"


def facts(trace: Trace) -> list[tuple[str, str]]:
    """Return what is known of a run as a whole, as names and texts."""
    found = [
        ("status", trace.status),
        ("time", seconds(trace.seconds)),
        ("tokens", tokens(trace.tokens)),
        ("model", trace.model),
        ("id", trace.id),
    ]
    return [(name, text) for name, text in found if text]


def went_well(trace: Trace) -> bool:
    """Return whether a run ended with an answer of its own."""
    return trace.status == SUCCESS


def title(step: TraceStep) -> str:
    """Return what a step is called."""
    if step.kind == "action":
        return f"Step {step.number}"
    return {"task": "Task", "plan": "Plan", "message": "Said by the user"}.get(step.kind, step.kind)


def measures(step: TraceStep) -> str:
    """Return what a step took, in a line."""
    if step.kind in ("task", "message"):
        return ""
    took = "goes on" if step.seconds is None else seconds(step.seconds)
    if took and step.model_seconds is not None:
        took += f" (model {seconds(step.model_seconds)})"
    return "   ".join(part for part in (took, tokens(step.tokens)) if part)


def seconds(number: float | None) -> str:
    """Return seconds as people read them; empty if they are not known."""
    if number is None:
        return ""
    return f"{1000 * number:.0f} ms" if number < 1 else duration(number)


def tokens(usage: TokenUsage | None) -> str:
    """Return tokens as people read them; empty if they are not known."""
    return "" if usage is None else f"{usage.input_tokens:,} in, {usage.output_tokens:,} out"


def signature(call: TraceCall) -> str:
    """Return a call as it would be written in code."""
    arguments = call.arguments
    if isinstance(arguments, list) and arguments and isinstance(arguments[-1], dict):
        *positional, named = arguments  # as generated code calls
    elif isinstance(arguments, dict):
        positional, named = [], arguments
    else:
        positional, named = ([] if arguments is None else [arguments]), {}
    parts = [_literal(value) for value in positional]
    parts += [f"{name}={_literal(value)}" for name, value in named.items()]
    return f"{call.name}({', '.join(parts)})"


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def error_line(error: dict[str, str]) -> str:
    """Return an error in a line or more."""
    return f"{error.get('type', 'Error')}: {error.get('message', '')}"


def observations(step: TraceStep) -> str:
    """Return what came of a step, unless its calls tell all of it already."""
    told = step.observations.strip()
    if step.code or not step.calls:
        return told
    whole = all(call.began is not None and len(call.result) < MOST_CHARS for call in step.calls)
    return "" if whole else told


def error_of(step: TraceStep) -> str:
    """Return what went wrong in a step, unless one of its calls tells it already."""
    if step.error is None:
        return ""
    message = step.error.get("message", "")
    told = any(call.error and call.error in message for call in step.calls)
    return "" if told else error_line(step.error)
