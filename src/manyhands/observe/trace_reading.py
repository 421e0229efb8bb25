"""Makes traces: of runs, whether they go on or have ended, and of results."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from manyhands.errors import CallerError
from manyhands.history import RunRecord, short
from manyhands.messages import TokenUsage
from manyhands.observe.trace import ACTION, MESSAGE, PLAN, TASK, Trace, TraceCall, TraceStep
from manyhands.steps import (
    ActionStep,
    FinalAnswerStep,
    PlanningStep,
    TaskStep,
    UserMessageStep,
    step_from_dict,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from manyhands.history import CallRecord
    from manyhands.run import Run
    from manyhands.steps import MemoryStep

_CODE_BEGINS = re.compile(r"<code>|```(?:python|py)?[ \t]*\n")


# --- From a run -------------------------------------------------------------------------------------


def trace_of_run(record: RunRecord, mask: Callable[[str], str]) -> Trace:
    """Return the trace of a run."""
    ended = record.timing.end_time
    # What was put into the history meanwhile, on the loop, is for the next trace.
    calls, inner = list(record.history.calls), _Inner(record.history.runs, mask)
    steps = _steps(list(record.memory.steps), calls, inner, mask)
    running = record.status in ("created", "running")
    if running and any(call.step == record.step_number for call in calls):
        steps += _unfinished(record, steps, calls, inner, mask)
    return Trace(
        id=record.id,
        agent=record.agent,
        model=record.model,
        task=mask(record.task),
        status=record.status,
        output=None if record.output is None else mask(_text(record.output)),
        error=_error(record.error, mask),
        began=record.timing.start_time,
        seconds=(ended or time.time()) - record.timing.start_time,
        tokens=record.usage,
        steps=tuple(steps),
        runs=inner.left(),
        left_out=record.history.left_out,
    )


class _Inner:
    """The runs that a run started, each waiting to be put below the call that did it."""

    def __init__(self, runs: Mapping[str, Run | RunRecord], mask: Callable[[str], str]) -> None:
        self._waiting = [one if isinstance(one, RunRecord) else RunRecord.of(one) for one in runs.values()]
        self._mask = mask

    def below(self, call: CallRecord) -> Trace | None:
        """Return the run that a call started, once: its name and its time are those of the call."""
        until = call.ended or float("inf")
        for record in self._waiting:
            if record.agent == call.name and call.began <= record.timing.start_time <= until:
                self._waiting.remove(record)
                return trace_of_run(record, self._mask)
        return None

    def left(self) -> tuple[Trace, ...]:
        """Return the others."""
        return tuple(trace_of_run(record, self._mask) for record in self._waiting)


def _steps(
    steps: Sequence[MemoryStep], calls: Sequence[CallRecord], inner: _Inner, mask: Callable[[str], str]
) -> list[TraceStep]:
    found = []
    for step in steps:
        made = _step(step, mask)
        if made is None:
            continue
        within = [call for call in calls if _is_within(call, made)]
        found.append(_with_calls(made, within, inner, mask) if within else made)
    return found


def _is_within(call: CallRecord, step: TraceStep) -> bool:
    if step.began is None or step.seconds is None:
        return False
    # Both clocks are the same, but a step may be stopped in the very moment its last call ends.
    return step.began - 0.001 <= call.began <= step.began + step.seconds


def _with_calls(
    step: TraceStep, records: Sequence[CallRecord], inner: _Inner, mask: Callable[[str], str]
) -> TraceStep:
    """Return a step with what the history knows of its calls, in place of what the step itself told."""
    told = {call.name: call for call in step.calls}
    made = []
    for record in records:
        if record.kind != "tool":
            continue
        known = told.get(record.name)
        made.append(
            TraceCall(
                name=record.name,
                arguments=_masked(record.arguments, mask),
                result=mask(record.result),
                error=mask(record.error),
                began=record.began,
                seconds=None if record.ended is None else record.ended - record.began,
                run=inner.below(record),
            )
        )
        if known is not None:
            told.pop(record.name)
    waited = sum((one.ended or time.time()) - one.began for one in records if one.kind == "model")
    # A call that was refused, of a tool that there is not, say, was never made.
    return replace(step, calls=(*made, *told.values()), model_seconds=waited)


def _unfinished(
    record: RunRecord,
    steps: Sequence[TraceStep],
    calls: Sequence[CallRecord],
    inner: _Inner,
    mask: Callable[[str], str],
) -> list[TraceStep]:
    """Return the step that a run is in the middle of."""
    since = max(((step.began or 0) + (step.seconds or 0) for step in steps), default=0.0)
    now = [call for call in calls if call.began >= since]
    if not now:
        return []
    step = TraceStep(ACTION, record.step_number, began=now[0].began)
    return [_with_calls(step, now, inner, mask)]


def _step(step: MemoryStep, mask: Callable[[str], str], error_type: str = "") -> TraceStep | None:
    if isinstance(step, TaskStep):
        return TraceStep(TASK, text=mask(step.task), images=len(step.task_images or ()))
    if isinstance(step, PlanningStep):
        text = step.model_output_message.text or step.plan
        timing = step.timing
        return TraceStep(
            PLAN,
            text=mask(text.strip()),
            began=timing.start_time,
            seconds=timing.duration,
            tokens=step.token_usage,
        )
    if isinstance(step, ActionStep):
        return _action(step, mask, error_type)
    if isinstance(step, UserMessageStep):
        return TraceStep(MESSAGE, text=mask(step.text), began=step.timing.start_time, seconds=0.0)
    return None if isinstance(step, FinalAnswerStep) else TraceStep(type(step).__name__)


def _action(step: ActionStep, mask: Callable[[str], str], error_type: str) -> TraceStep:
    error = None
    if step.error is not None:
        error = (error_type or type(step.error).__name__, str(step.error))
    return TraceStep(
        ACTION,
        step.step_number,
        text=mask(_thought(step)),
        code=mask(step.code_action or ""),
        calls=tuple(_told_calls(step, mask)),
        observations=mask(step.observations or ""),
        error=_error(error, mask),
        output=mask(_text(step.action_output)) if step.is_final_answer else "",
        began=step.timing.start_time,
        seconds=step.timing.duration,
        tokens=step.token_usage,
        images=len(step.observations_images or ()),
    )


def _told_calls(step: ActionStep, mask: Callable[[str], str]) -> Iterable[TraceCall]:
    outputs = {output.id: output for output in step.tool_outputs}
    for call in step.tool_calls or ():
        if call.name == "python_interpreter" and step.code_action:
            continue
        output = outputs.get(call.id)
        failed = output.error if output is not None else None
        yield TraceCall(
            call.name,
            _masked(call.arguments, mask),
            result=mask(short(output.output)) if output is not None and failed is None else "",
            error=mask(f"{type(failed).__name__}: {failed}") if failed is not None else "",
        )


def _thought(step: ActionStep) -> str:
    """Return what the model said beside its code."""
    text = step.output_text.strip()
    if not step.code_action:
        return text
    if text.startswith("{"):
        try:
            return str(json.loads(text)["thought"])
        except (ValueError, KeyError, TypeError):
            pass
    code = _CODE_BEGINS.search(text)
    return text[: code.start()].strip() if code else ("" if text == step.code_action else text)


def _error(error: tuple[str, str] | None, mask: Callable[[str], str]) -> dict[str, str] | None:
    return None if error is None else {"type": error[0], "message": mask(error[1])}


def _text(value: Any) -> str:
    try:
        return value if isinstance(value, str) else str(value)
    except Exception:
        return f"<{type(value).__name__} that cannot be shown>"


def _masked(value: Any, mask: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, dict):
        return {str(name): _masked(item, mask) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(item, mask) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else mask(short(value))


# --- From a result ------------------------------------------------------------------------------------


def trace_of_result(data: Mapping[str, Any], mask: Callable[[str], str]) -> Trace:
    """Return the trace of a result, or of a line of a results file, as far as it kept steps."""
    try:
        if isinstance(data.get("trace"), dict):
            kept = Trace.from_dict(data["trace"])
            return replace(kept, id=str(data.get("id", kept.id)), note=_attempts(data))
        steps = data.get("steps")
        timing = data.get("timing") or {}
        usage = data.get("token_usage") or data.get("usage")
        made = _steps_from(steps, mask) if isinstance(steps, list) else ()
        error = data.get("error")
        return Trace(
            id=str(data.get("run_id") or data.get("id", "")),
            task=mask(str(data.get("task") or _task_of(made))),
            status=str(data["state"]),
            output=None if data.get("output") is None else mask(_text(data["output"])),
            error=_error((str(error["type"]), str(error["message"])), mask) if error else None,
            began=timing.get("start_time"),
            seconds=timing.get("duration"),
            tokens=TokenUsage.from_dict(usage) if usage else None,
            steps=made,
            note=_attempts(data) or ("" if isinstance(steps, list) else _not_kept(steps)),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CallerError(f"This is no result of a run: {type(error).__name__}: {error}") from error


def _steps_from(steps: Sequence[Any], mask: Callable[[str], str]) -> tuple[TraceStep, ...]:
    made = (
        _step(step_from_dict(step), mask, (step.get("error") or {}).get("type", "") if step else "")
        for step in steps
    )
    return tuple(step for step in made if step is not None)


def _task_of(steps: Sequence[TraceStep]) -> str:
    return next((step.text for step in steps if step.kind == TASK), "")


def _attempts(data: Mapping[str, Any]) -> str:
    attempts = data.get("attempts") or 1
    return f"This is the last of {attempts} attempts." if attempts > 1 else ""


def _not_kept(steps: Any) -> str:
    took = f"It took {steps} steps. " if isinstance(steps, int) else ""
    return f"{took}They were not kept: give manyhands map --keep-steps to have them in the results."
