"""A run as a readable tree: its steps with thoughts, code, calls and their times, and the runs inside of it.

A trace is a value: made from a run, whether it goes on, has ended or has failed, from a result, or from the
JSON values that :meth:`Trace.dict` gave. Secrets are masked when it is made, so it can be shown to anyone who
may see the task.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from manyhands.errors import CallerError
from manyhands.history import RunRecord, short
from manyhands.messages import TokenUsage
from manyhands.observe.masking import Masker
from manyhands.run import Run, RunResult

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Mapping

    from rich.console import RenderableType

TASK, PLAN, ACTION, MESSAGE = "task", "plan", "action", "message"


@dataclass(frozen=True, slots=True)
class TraceCall:
    """One call of a tool, or of a managed agent.

    Attributes:
        name: Of the tool.
        arguments: In short, as JSON values; positional ones first where generated code called.
        result: What it gave, in short.
        error: What went wrong; empty if nothing did.
        began: In seconds since the epoch; ``None`` if it was not kept.
        seconds: How long it took; ``None`` if it goes on, or it was not kept.
        run: The run that it started.
    """

    name: str
    arguments: Any
    result: str = ""
    error: str = ""
    began: float | None = None
    seconds: float | None = None
    run: Trace | None = None


@dataclass(frozen=True, slots=True)
class TraceStep:
    """One step.

    Attributes:
        kind: ``action``, ``plan``, ``task``: what was asked, or ``message``: what was said meanwhile.
        number: Of an action, counted from 1.
        text: The thought of an action, the plan, or the task.
        code: The code that was run.
        calls: The calls of tools, in order.
        observations: What came of it, as the model was told.
        error: What went wrong, as ``{"type": ..., "message": ...}``.
        output: The value of the action, where it is the answer.
        began: In seconds since the epoch.
        seconds: How long it took; ``None`` while it goes on.
        model_seconds: How much of that the model took; ``None`` if it was not kept.
        tokens: What its reply cost.
        images: How many pictures came of it.
    """

    kind: str
    number: int = 0
    text: str = ""
    code: str = ""
    calls: tuple[TraceCall, ...] = ()
    observations: str = ""
    error: dict[str, str] | None = None
    output: str = ""
    began: float | None = None
    seconds: float | None = None
    model_seconds: float | None = None
    tokens: TokenUsage | None = None
    images: int = 0


@dataclass(frozen=True, slots=True)
class Trace:
    """A run as a tree; ``str()`` gives it as text.

    Attributes:
        id: The run, or the task of a batch.
        agent: Name of the agent.
        model: Name of its model.
        task: What was asked.
        status: ``running``, or how it ended (see ``RunResult.state``).
        output: The answer as text.
        error: What ended it, as ``{"type": ..., "message": ...}``.
        began: In seconds since the epoch; ``None`` if nothing tells.
        seconds: How long it took, so far if it goes on.
        tokens: Those of the run and of the runs it started.
        steps: The steps, in order.
        runs: Runs it started that belong to no call that is kept.
        left_out: How many calls and runs were not kept.
        note: What a reader should know, such as that steps were not kept.
    """

    id: str = ""
    agent: str = ""
    model: str = ""
    task: str = ""
    status: str = ""
    output: str | None = None
    error: builtins.dict[str, str] | None = None
    began: float | None = None
    seconds: float | None = None
    tokens: TokenUsage | None = None
    steps: tuple[TraceStep, ...] = ()
    runs: tuple[Trace, ...] = ()
    left_out: int = 0
    note: str = field(default="", compare=False)

    # --- Making one -------------------------------------------------------------------------------

    @classmethod
    def of(cls, source: Any, mask: Callable[[str], str] | None = None) -> Trace:
        """Return the trace of a run or of its result.

        Args:
            source: A :class:`~manyhands.run.Run`, a :class:`~manyhands.run.RunResult`, one of many results
                (:class:`~manyhands.crowd.MapResult`), or what ``dict()`` of one of these, or of a trace,
                gave: also a line of a results file.
            mask: Masks secrets in a text; by default what looks like a key, and the values of variables
                of the environment that are called so.

        Raises:
            CallerError: It is none of these.
        """
        from manyhands.observe.trace_reading import trace_of_result, trace_of_run

        mask = mask or Masker()
        run = getattr(source, "run", None)
        if isinstance(run, Run) and hasattr(source, "attempts"):
            return replace(trace_of_run(RunRecord.of(run), mask), id=str(source.id))
        if isinstance(source, Run):
            return trace_of_run(RunRecord.of(source), mask)
        data = source.dict() if isinstance(source, RunResult) or hasattr(source, "attempts") else source
        if not isinstance(data, dict) or not {"state", "status"} & data.keys():
            raise CallerError(f"A trace is made of a run or of a result, not of {short(source)}.")
        return cls.from_dict(data) if "status" in data else trace_of_result(data, mask)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Trace:
        """Return the trace that :meth:`dict` gave.

        Raises:
            CallerError: These are no values of a trace.
        """
        try:
            return _trace_from(data)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CallerError(f"This is no trace: {type(error).__name__}: {error}") from error

    # --- Showing it -------------------------------------------------------------------------------

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(file=io.StringIO(), width=100, color_system=None, force_terminal=False)
        console.print(self)
        text: str = console.file.getvalue()  # type: ignore[attr-defined]
        return "\n".join(line.rstrip() for line in text.splitlines())

    def __rich__(self) -> RenderableType:
        from manyhands.observe.export.terminal import tree

        return tree(self)

    def markdown(self) -> str:
        """Return the trace as Markdown."""
        from manyhands.observe.export.markdown import document

        return document(self)

    def html(self) -> str:
        """Return the trace as a page of HTML that needs no other file and runs no script."""
        from manyhands.observe.export.html import document

        return document(self)

    def dict(self) -> builtins.dict[str, Any]:
        """Return the trace as JSON values."""
        return {
            "id": self.id,
            "agent": self.agent,
            "model": self.model,
            "task": self.task,
            "status": self.status,
            "output": self.output,
            "error": self.error,
            "began": self.began,
            "seconds": self.seconds,
            "tokens": self.tokens.dict() if self.tokens else None,
            "steps": [_step_dict(step) for step in self.steps],
            "runs": [run.dict() for run in self.runs],
            "left_out": self.left_out,
        }


# --- To JSON values and back ---------------------------------------------------------------------------


def _step_dict(step: TraceStep) -> dict[str, Any]:
    values = {name: getattr(step, name) for name in TraceStep.__dataclass_fields__}
    values["calls"] = [_call_dict(call) for call in step.calls]
    values["tokens"] = step.tokens.dict() if step.tokens else None
    return {name: value for name, value in values.items() if value not in ("", None, 0, [])}


def _call_dict(call: TraceCall) -> dict[str, Any]:
    values = {name: getattr(call, name) for name in TraceCall.__dataclass_fields__}
    values["run"] = call.run.dict() if call.run else None
    return {name: value for name, value in values.items() if name == "arguments" or value not in ("", None)}


def _trace_from(data: Mapping[str, Any]) -> Trace:
    known = {name: data[name] for name in Trace.__dataclass_fields__ if name in data}
    known["tokens"] = _tokens_from(data)
    known["steps"] = tuple(_step_from(step) for step in data.get("steps") or ())
    known["runs"] = tuple(_trace_from(run) for run in data.get("runs") or ())
    return Trace(**known)


def _step_from(data: Mapping[str, Any]) -> TraceStep:
    known = {name: data[name] for name in TraceStep.__dataclass_fields__ if name in data}
    known["tokens"] = _tokens_from(data)
    known["calls"] = tuple(_call_from(call) for call in data.get("calls") or ())
    return TraceStep(**known)


def _call_from(data: Mapping[str, Any]) -> TraceCall:
    known = {name: data[name] for name in TraceCall.__dataclass_fields__ if name in data}
    known["run"] = _trace_from(data["run"]) if data.get("run") else None
    return TraceCall(**known)


def _tokens_from(data: Mapping[str, Any]) -> TokenUsage | None:
    return TokenUsage.from_dict(data["tokens"]) if data.get("tokens") else None
