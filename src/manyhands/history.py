"""What a run keeps of its calls beside its memory: when each began and ended, and which runs it started.

It holds no value of a tool alive, only a short text of it, and of runs that have ended neither variables nor
executor. Of very many calls the first are kept and the others counted.
"""

from __future__ import annotations

import reprlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manyhands.memory import AgentMemory
    from manyhands.messages import TokenUsage
    from manyhands.run import Run
    from manyhands.steps import Timing, ToolCall

MOST_CALLS = 1000
MOST_CHARS = 500


@dataclass(slots=True, eq=False)
class CallRecord:
    """One call of a model or a tool.

    Attributes:
        kind: ``model`` or ``tool``.
        name: Of the model or the tool.
        step: The step of the run.
        arguments: Of a tool, in short; positional ones first where generated code called.
        id: Of the call in the model's reply; empty where generated code called.
        began: In seconds since the epoch.
        ended: The same; ``None`` while it goes on.
        result: What a tool gave, in short.
        error: What went wrong, if something did.
    """

    kind: str
    name: str
    step: int
    arguments: Any = None
    id: str = ""
    began: float = field(default_factory=time.time)
    ended: float | None = None
    result: str = ""
    error: str = ""

    def end(self, result: Any) -> None:
        """Note that the call gave ``result``."""
        self.ended = time.time()
        self.result = short(result)

    def fail(self, error: BaseException) -> None:
        """Note that the call failed."""
        self.ended = time.time()
        self.error = f"{type(error).__name__}: {error}"[:MOST_CHARS]


@dataclass(slots=True, eq=False)
class RunRecord:
    """A run as it is remembered by the one that started it; the fields are those of the run."""

    id: str
    agent: str
    model: str
    task: str
    status: str
    timing: Timing
    usage: TokenUsage | None
    output: Any
    error: tuple[str, str] | None
    step_number: int
    memory: AgentMemory
    history: History

    @classmethod
    def of(cls, run: Run) -> RunRecord:
        """Return what is to be remembered of ``run``, as it is now."""
        agent, error = run.agent, run.error
        return cls(
            run.id,
            agent.name or type(agent).__name__,
            getattr(agent.model, "model_id", None) or type(agent.model).__name__,
            run.task,
            run.status,
            run.timing,
            run.usage,
            run.output,
            None if error is None else (type(error).__name__, str(error)),
            run.step_number,
            run.memory,
            run.history,
        )


class History:
    """The calls of a run, and the runs it started.

    Attributes:
        calls: The calls, oldest first.
        runs: The runs by id: themselves while they go on, then what is remembered of them.
        left_out: How many calls and runs are not kept.
    """

    __slots__ = ("calls", "left_out", "runs")

    def __init__(self) -> None:
        self.calls: list[CallRecord] = []
        self.runs: dict[str, Run | RunRecord] = {}
        self.left_out = 0

    def asked(self, model: Any, step: int) -> CallRecord:
        """Note that the model is asked."""
        return self._keep(CallRecord("model", getattr(model, "model_id", None) or "", step))

    def called(self, call: ToolCall, step: int) -> CallRecord:
        """Note that a tool is called."""
        return self._keep(CallRecord("tool", call.name, step, _short_arguments(call.arguments), call.id))

    def _keep(self, record: CallRecord) -> CallRecord:
        if len(self.calls) < MOST_CALLS:
            self.calls.append(record)
        else:
            self.left_out += 1
        return record

    def started(self, run: Run) -> None:
        """Note that the run started another one."""
        if len(self.runs) < MOST_CALLS:
            self.runs[run.id] = run
        else:
            self.left_out += 1

    def ended(self, run: Run) -> None:
        """Note that a run that was started has ended."""
        if run.id in self.runs:
            self.runs[run.id] = RunRecord.of(run)


# --- In short ------------------------------------------------------------------------------------


# Their values are small, and tell what they are.
_PLAIN_MODULES = frozenset({"datetime", "decimal", "fractions", "pathlib", "uuid"})


class _Short(reprlib.Repr):
    """Shows plain values in short, and of all else only what it is: asking it may be slow, or fail."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 200
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = 20

    def repr_instance(self, x: Any, level: int) -> str:
        known = isinstance(x, int | float | str) or type(x).__module__ in _PLAIN_MODULES
        return repr(x) if x is None or known else f"<{type(x).__name__}>"


_short = _Short()


def short(value: Any) -> str:
    """Return a value as a short text: of a text its beginning, of objects their kind."""
    if isinstance(value, str):
        text = str.__str__(value)
        return text if len(text) <= MOST_CHARS else text[:MOST_CHARS] + "…"
    try:
        return _short.repr(value)[:MOST_CHARS]
    except Exception:  # a number of too many digits, a value that changes meanwhile
        return f"<{type(value).__name__}>"


def _short_arguments(arguments: Any) -> Any:
    if isinstance(arguments, dict):
        return {str(name): _kept(value) for name, value in arguments.items()}
    if isinstance(arguments, list):
        return [_short_arguments(value) if isinstance(value, dict) else _kept(value) for value in arguments]
    return _kept(arguments)


def _kept(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float) else short(value)
