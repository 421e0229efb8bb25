"""What a run tells those who watch it.

Two kinds. A *stream event* is what iterating a run gives, in the types smolagents' users know. A
*lifecycle event* says that something began or ended; it goes only to observers (displays, tracers),
and costs nothing when there are none.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

from manyhands.messages import ChatMessageStreamDelta, ChatMessageToolCall
from manyhands.steps import (
    ActionStep,
    FinalAnswerStep,
    PlanningStep,
    ToolCall,
    ToolOutput,
    UserMessageStep,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from manyhands.messages import ChatMessage
    from manyhands.run import Run
    from manyhands.steps import MemoryStep

_Event = TypeVar("_Event")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def event(*, eq: bool = True) -> Callable[[type[_Event]], type[_Event]]:
    """Make a dataclass of events that only type checkers hold to be frozen.

    A step makes eight of them where somebody watches, and frozen ones take three times as long to make.

    Args:
        eq: Whether events with the same fields are equal.
    """
    return dataclass(slots=True, eq=eq, unsafe_hash=eq)


current_run: ContextVar[Run | None] = ContextVar("manyhands_run", default=None)


@dataclass(slots=True)
class ActionOutput:
    """What an action gave.

    Attributes:
        output: Its value.
        is_final_answer: Whether the run ends with it.
    """

    output: Any
    is_final_answer: bool


StreamEvent = (
    ChatMessageStreamDelta
    | ChatMessageToolCall
    | ActionOutput
    | ToolCall
    | ToolOutput
    | UserMessageStep
    | PlanningStep
    | ActionStep
    | FinalAnswerStep
)


@event()
class Lifecycle:
    """Base of lifecycle events.

    Attributes:
        run_id: The run that tells.
    """

    run_id: str


@event()
class RunStart(Lifecycle):
    """A run began; ``parent_id`` is the run that called it, if one did."""

    agent: str
    task: str
    parent_id: str | None


@event()
class RunEnd(Lifecycle):
    """A run ended; ``status`` says how."""

    status: str
    error: BaseException | None


@event()
class StepStart(Lifecycle):
    """A step began."""

    step_number: int


@event()
class StepEnd(Lifecycle):
    """A step ended and is in memory: an action, a plan, or the final answer."""

    step: MemoryStep


@event()
class ModelStart(Lifecycle):
    """The model is asked; ``conversation`` is what it is asked, before plugins change it."""

    model_id: str | None
    messages: int
    conversation: Sequence[ChatMessage] = field(default=(), repr=False)


@event()
class ModelEnd(Lifecycle):
    """The model has answered, or failed."""

    reply: ChatMessage | None
    error: BaseException | None


@event()
class ToolStart(Lifecycle):
    """A tool is called, by the loop or from generated code."""

    call: ToolCall


@event()
class ToolEnd(Lifecycle):
    """A tool has answered, or failed."""

    call: ToolCall
    output: Any
    error: BaseException | None


@event()
class CodeStart(Lifecycle):
    """Code of the model begins to run."""

    code: str


@event()
class CodeEnd(Lifecycle):
    """Code of the model has run, or failed."""

    output: Any
    logs: str
    error: BaseException | None


@event()
class WaitStart(Lifecycle):
    """The run, or one of its calls, begins to wait.

    Attributes:
        what: ``slot``, ``rate limit``, ``queue``, ``retry`` or ``approval``.
        key: For which one: the name of a limiter, a model or a tool; may be empty.
    """

    what: str
    key: str


@event()
class WaitEnd(Lifecycle):
    """A wait is over, or was given up; told in the same task as its start, with the same words."""

    what: str
    key: str


@event()
class Retry(Lifecycle):
    """Something failed, and is about to be tried again.

    Attributes:
        what: ``model`` or ``tool``.
        key: Which one.
        attempt: Which attempt failed, counted from 1.
        delay: Seconds until the next one; 0 where a rate limiter decides.
        error: Why it failed.
    """

    what: str
    key: str
    attempt: int
    delay: float
    error: BaseException | None


@event()
class ConcurrencyChanged(Lifecycle):
    """A call of the run made an adaptive limiter allow more calls at once, or fewer.

    Attributes:
        key: Which one: the name of a limiter or a model.
        before: How many it allowed.
        after: How many it allows now.
    """

    key: str
    before: int
    after: int


@event()
class ApprovalEnd(Lifecycle):
    """A request to a person (:class:`~manyhands.approvals.ApprovalRequest`) is open no more.

    Attributes:
        request_id: The request.
        decision: ``approved``, ``changed`` (approved with other arguments), ``denied``, ``answered``, or
            ``cancelled`` where the run did not wait any longer.
        reason: Why; may be empty.
        arguments: The other arguments, where they were changed.
    """

    request_id: str
    decision: str
    reason: str = ""
    arguments: dict[str, Any] | None = None


@event()
class RunPaused(Lifecycle):
    """Somebody asked the run to pause; it stops before its next step."""


@event()
class RunResumed(Lifecycle):
    """Somebody let the run go on."""


@event()
class MessageInjected(Lifecycle):
    """Somebody said something to the run; its model sees it at the next step."""

    text: str


@event()
class LimitsChanged(Lifecycle):
    """Somebody changed what the run may use up.

    Attributes:
        limits: What was changed: ``max_steps``, ``timeout``, ``budget``.
    """

    limits: dict[str, Any]


class waiting:  # in lower case like contextlib.suppress: it reads as a function
    """Tells those who watch the current run that it waits, for the time of a ``with``.

    For waits on the loop only, and for those that really happen: who gets through at once has not waited.

    Args:
        what: See :class:`WaitStart`; also what the run's ``activity`` says meanwhile.
        key: For which one.
    """

    __slots__ = ("_before", "_key", "_run", "_what")

    def __init__(self, what: str, key: str = "") -> None:
        self._what = what
        self._key = key
        self._before = ""
        self._run: Run | None = None

    def __enter__(self) -> None:
        run = current_run.get()
        if run is None or not run.is_here:
            return
        self._run, self._before = run, run.activity
        run.activity = self._what
        if run.observers:
            run.tell(WaitStart(run.id, self._what, self._key))

    def __exit__(self, *_: object) -> None:
        run = self._run
        if run is None:
            return
        if run.activity == self._what:
            run.activity = self._before
        if run.observers:
            run.tell(WaitEnd(run.id, self._what, self._key))


def tell_retry(what: str, key: str, attempt: int, delay: float, error: BaseException | None) -> None:
    """Tell those who watch the current run that something is tried again; see :class:`Retry`."""
    run = current_run.get()
    if run is not None and run.observers and run.is_here:
        run.tell(Retry(run.id, what, key, attempt, delay, error))


def tell_concurrency(key: str, before: int, after: int) -> None:
    """Tell those who watch the current run that a limit has moved; see :class:`ConcurrencyChanged`."""
    run = current_run.get()
    if run is not None and run.observers and run.is_here:
        run.tell(ConcurrencyChanged(run.id, key, before, after))
