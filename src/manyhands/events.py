"""What a run tells those who watch it.

Two kinds. A *stream event* is what iterating a run gives, in the types smolagents' users know. A
*lifecycle event* says that something began or ended; it goes only to observers (displays, tracers),
and costs nothing when there are none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from manyhands.messages import ChatMessageStreamDelta, ChatMessageToolCall
from manyhands.steps import (
    ActionStep,
    FinalAnswerStep,
    PlanningStep,
    ToolCall,
    ToolOutput,
)

if TYPE_CHECKING:
    from manyhands.messages import ChatMessage
    from manyhands.steps import MemoryStep


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
    | PlanningStep
    | ActionStep
    | FinalAnswerStep
)


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """Base of lifecycle events.

    Attributes:
        run_id: The run that tells.
    """

    run_id: str


@dataclass(frozen=True, slots=True)
class RunStart(Lifecycle):
    """A run began; ``parent_id`` is the run that called it, if one did."""

    agent: str
    task: str
    parent_id: str | None


@dataclass(frozen=True, slots=True)
class RunEnd(Lifecycle):
    """A run ended; ``status`` says how."""

    status: str
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class StepStart(Lifecycle):
    """A step began."""

    step_number: int


@dataclass(frozen=True, slots=True)
class StepEnd(Lifecycle):
    """A step ended and is in memory: an action, a plan, or the final answer."""

    step: MemoryStep


@dataclass(frozen=True, slots=True)
class ModelStart(Lifecycle):
    """The model is asked."""

    model_id: str | None
    messages: int


@dataclass(frozen=True, slots=True)
class ModelEnd(Lifecycle):
    """The model has answered, or failed."""

    reply: ChatMessage | None
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class ToolStart(Lifecycle):
    """A tool is called, by the loop or from generated code."""

    call: ToolCall


@dataclass(frozen=True, slots=True)
class ToolEnd(Lifecycle):
    """A tool has answered, or failed."""

    call: ToolCall
    output: Any
    error: BaseException | None
