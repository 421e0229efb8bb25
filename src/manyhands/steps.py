"""The steps that a run's memory is made of, and the messages each of them becomes.

A step renders itself once and keeps its messages: every later prompt shares them. Setting a field of
a rendered step drops what it kept and counts an edit (:func:`edits`), so that a memory knows, without
looking at every step, whether the prompt it made last can still be extended.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from manyhands.errors import AgentError
from manyhands.messages import (
    ChatMessage,
    MessageRole,
    TokenUsage,
    encode_image,
    message,
    text_part,
)

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Mapping, Sequence

RETRY_HINT = (
    "Now let's retry: take care not to repeat previous errors! If you have retried several times, "
    "try a completely different approach.\n"
)


def error_text(error: AgentError) -> str:
    """Return what a model is told of an error: what failed, and to try again differently."""
    return f"Error:\n{error}\n{RETRY_HINT}"


_edits = 0


def edits() -> int:
    """Return how many fields of rendered steps have been set, in this process, so far."""
    return _edits


@dataclass(slots=True)
class Timing:
    """When something began and ended, in seconds since the epoch."""

    start_time: float
    end_time: float | None = None

    @classmethod
    def now(cls) -> Timing:
        """Return a timing that begins now."""
        return cls(time.time())

    def stop(self) -> None:
        """End the timing now."""
        self.end_time = time.time()

    @property
    def duration(self) -> float | None:
        """Seconds from beginning to end, ``None`` while it goes on."""
        return None if self.end_time is None else self.end_time - self.start_time

    def dict(self) -> dict[str, float | None]:
        """Return begin, end and duration, ready for JSON."""
        return {"start_time": self.start_time, "end_time": self.end_time, "duration": self.duration}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Timing:
        """Return the timing that :meth:`dict` gave."""
        return cls(data["start_time"], data.get("end_time"))


@dataclass(slots=True)
class ToolCall:
    """A call of a tool, as the agent makes it."""

    name: str
    arguments: Any
    id: str

    def dict(self) -> dict[str, Any]:
        """Return the call in OpenAI's form, ready for JSON."""
        function = {"name": self.name, "arguments": plain(self.arguments)}
        return {"id": self.id, "type": "function", "function": function}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ToolCall:
        """Return the call that :meth:`dict` gave."""
        return cls(data["function"]["name"], data["function"]["arguments"], data["id"])


@dataclass(slots=True)
class ToolOutput:
    """What a tool call gave.

    Attributes:
        id: The call's id.
        output: The value; ``None`` when the call failed.
        is_final_answer: Whether the call ends the run.
        observation: What the model is told.
        tool_call: The call.
        error: Why the call failed.
    """

    id: str
    output: Any
    is_final_answer: bool
    observation: str
    tool_call: ToolCall
    error: AgentError | None = None


def plain(value: Any) -> Any:
    """Return ``value`` as JSON values; what JSON does not know becomes its text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return str(value)


class Prefix:
    """The first messages of a list that only grows: what a step was shown, without a copy."""

    __slots__ = ("_length", "_messages")

    def __init__(self, messages: list[ChatMessage], length: int) -> None:
        self._messages = messages
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        return self._messages[: self._length][index]

    def __iter__(self) -> Any:
        return iter(self._messages[: self._length])

    def __repr__(self) -> str:
        return f"<{self._length} messages>"


@dataclass(eq=False, slots=True)
class MemoryStep:
    """Base of all steps."""

    _messages: list[ChatMessage] | None = field(default=None, init=False, repr=False)

    def __setattr__(self, name: str, value: Any, _set: Any = object.__setattr__) -> None:
        global _edits
        _set(self, name, value)
        try:
            if self._messages is None or name == "_messages":
                return
        except AttributeError:  # a copy in the making
            return
        _set(self, "_messages", None)
        _edits += 1

    def dict(self) -> builtins.dict[str, Any]:
        """Return the step as JSON values."""
        return {"type": type(self).__name__, **self._fields()}

    def _fields(self) -> builtins.dict[str, Any]:
        return {}

    def to_messages(self, summary_mode: bool = False) -> list[ChatMessage]:
        """Return the messages that tell a model of this step.

        Args:
            summary_mode: Leave out what would steer a planner: the agent's own words and plans.
        """
        if summary_mode:
            return self._summary()
        kept: list[ChatMessage] | None = getattr(self, "_messages", None)
        if kept is None:
            kept = self._render()
            object.__setattr__(self, "_messages", kept)
        return kept

    def _render(self) -> list[ChatMessage]:
        return []

    def _summary(self) -> list[ChatMessage]:
        return self._render()


@dataclass(eq=False, slots=True)
class SystemPromptStep(MemoryStep):
    """The system prompt, before everything else."""

    system_prompt: str

    def _fields(self) -> builtins.dict[str, Any]:
        return {"system_prompt": self.system_prompt}

    def _render(self) -> list[ChatMessage]:
        return [message(MessageRole.SYSTEM, self.system_prompt)]

    def _summary(self) -> list[ChatMessage]:
        return []


@dataclass(eq=False, slots=True)
class TaskStep(MemoryStep):
    """A task given by the user, perhaps with images."""

    task: str
    task_images: list[Any] | None = None

    def _fields(self) -> builtins.dict[str, Any]:
        return {"task": self.task, "task_images": _image_texts(self.task_images)}

    def _render(self) -> list[ChatMessage]:
        return [message(MessageRole.USER, f"New task:\n{self.task}", self.task_images or ())]


@dataclass(eq=False, slots=True)
class UserMessageStep(MemoryStep):
    """Something the user said to the run while it went on."""

    text: str
    timing: Timing

    def _fields(self) -> builtins.dict[str, Any]:
        return {"text": self.text, "timing": self.timing.dict()}

    def _render(self) -> list[ChatMessage]:
        return [message(MessageRole.USER, self.text)]


@dataclass(eq=False, slots=True)
class PlanningStep(MemoryStep):
    """A plan, made before acting or on the way."""

    model_input_messages: Sequence[ChatMessage] | Prefix
    model_output_message: ChatMessage
    plan: str
    timing: Timing
    token_usage: TokenUsage | None = None

    def _fields(self) -> builtins.dict[str, Any]:
        return {
            "model_output_message": self.model_output_message.dict(),
            "plan": self.plan,
            "timing": self.timing.dict(),
            "token_usage": self.token_usage.dict() if self.token_usage else None,
        }

    def _render(self) -> list[ChatMessage]:
        return [
            message(MessageRole.ASSISTANT, self.plan.strip()),
            message(MessageRole.USER, "Now proceed and carry out this plan."),
        ]

    def _summary(self) -> list[ChatMessage]:
        return []


@dataclass(eq=False, slots=True)
class ActionStep(MemoryStep):
    """One round of asking the model and acting on its reply.

    Attributes:
        step_number: Counted from 1 within a run.
        timing: When it began and ended.
        model_input_messages: What the model was shown.
        tool_calls: What it called; for a code agent, one call of ``python_interpreter``.
        error: What failed, if something did.
        model_output_message: Its reply.
        model_output: The reply's text.
        code_action: The code that was run.
        observations: What came of it, as the model is told.
        observations_images: Pictures among that.
        action_output: The value of the action.
        token_usage: What the reply cost.
        is_final_answer: Whether the run ends here.
        tool_outputs: What each tool call gave, in call order.
    """

    step_number: int
    timing: Timing
    model_input_messages: Sequence[ChatMessage] | Prefix | None = None
    tool_calls: list[ToolCall] | None = None
    error: AgentError | None = None
    model_output_message: ChatMessage | None = None
    model_output: str | list[builtins.dict[str, Any]] | None = None
    code_action: str | None = None
    observations: str | None = None
    observations_images: list[Any] | None = None
    action_output: Any = None
    token_usage: TokenUsage | None = None
    is_final_answer: bool = False
    tool_outputs: Sequence[ToolOutput] = ()

    def __init__(
        self,
        step_number: int,
        timing: Timing,
        model_input_messages: Sequence[ChatMessage] | Prefix | None = None,
        tool_calls: list[ToolCall] | None = None,
        error: AgentError | None = None,
        model_output_message: ChatMessage | None = None,
        model_output: str | list[builtins.dict[str, Any]] | None = None,
        code_action: str | None = None,
        observations: str | None = None,
        observations_images: list[Any] | None = None,
        action_output: Any = None,
        token_usage: TokenUsage | None = None,
        is_final_answer: bool = False,
        tool_outputs: Sequence[ToolOutput] = (),
    ) -> None:
        # Past __setattr__, which takes twice as long: what is not rendered yet needs no watching.
        put = object.__setattr__
        put(self, "_messages", None)
        put(self, "step_number", step_number)
        put(self, "timing", timing)
        put(self, "model_input_messages", model_input_messages)
        put(self, "tool_calls", tool_calls)
        put(self, "error", error)
        put(self, "model_output_message", model_output_message)
        put(self, "model_output", model_output)
        put(self, "code_action", code_action)
        put(self, "observations", observations)
        put(self, "observations_images", observations_images)
        put(self, "action_output", action_output)
        put(self, "token_usage", token_usage)
        put(self, "is_final_answer", is_final_answer)
        put(self, "tool_outputs", tool_outputs)

    def _fields(self) -> builtins.dict[str, Any]:
        reply = self.model_output_message
        return {
            "step_number": self.step_number,
            "timing": self.timing.dict(),
            "tool_calls": [call.dict() for call in self.tool_calls or ()],
            "error": self.error.dict() if self.error else None,
            "model_output_message": reply.dict() if reply else None,
            "model_output": self.model_output,
            "code_action": self.code_action,
            "observations": self.observations,
            "observations_images": _image_texts(self.observations_images),
            "action_output": plain(self.action_output),
            "token_usage": self.token_usage.dict() if self.token_usage else None,
            "is_final_answer": self.is_final_answer,
        }

    def _render(self) -> list[ChatMessage]:
        reply = self.model_output_message
        if reply is not None and reply.tool_calls and self.tool_calls:
            return [reply, *self._tool_results()]
        return [*self._words(reply), *self._outcome()]

    def _words(self, reply: ChatMessage | None) -> list[ChatMessage]:
        text = self.output_text.strip()
        if not text:
            return []
        if reply is not None and _is_bare(reply, text):
            return [reply]  # as it came: it need not be made again
        return [message(MessageRole.ASSISTANT, text)]

    def _summary(self) -> list[ChatMessage]:
        calls = self._calls_as_text() if self.tool_calls else []
        return [*calls, *self._outcome()]

    @property
    def output_text(self) -> str:
        """The reply's text, also where it came in parts."""
        if isinstance(self.model_output, list):
            return "\n".join(part.get("text", "") for part in self.model_output)
        return self.model_output or ""

    def _calls_as_text(self) -> list[ChatMessage]:
        calls = str([call.dict() for call in self.tool_calls or ()])
        return [message(MessageRole.TOOL_CALL, f"Calling tools:\n{calls}")]

    def _tool_results(self) -> list[ChatMessage]:
        """One message per call, so that a provider finds each call answered."""
        told = {output.id: output.observation for output in self.tool_outputs}
        if self.observations is not None and self.observations != joined(self.tool_outputs):
            # Somebody rewrote the observations (to shorten them, say): that is what counts.
            told = {call.id: "(see the first result)" for call in self.tool_calls or ()}
            told[(self.tool_calls or [])[0].id] = self.observations
        missing = str(self.error) if self.error else "No result."
        results = [
            ChatMessage(
                MessageRole.TOOL_RESPONSE,
                [text_part(f"Observation:\n{told.get(call.id, missing)}")],
                tool_call_id=call.id,
            )
            for call in self.tool_calls or ()
        ]
        extra = self._error_parts() + self._image_parts()
        return [*results, ChatMessage(MessageRole.USER, extra)] if extra else results

    def _outcome(self) -> list[ChatMessage]:
        parts = []
        if self.observations is not None:
            parts.append(text_part(f"Observation:\n{self.observations}"))
        parts += self._error_parts() + self._image_parts()
        return [ChatMessage(MessageRole.TOOL_RESPONSE, parts)] if parts else []

    def _error_parts(self) -> list[builtins.dict[str, Any]]:
        told = any(output.error is self.error for output in self.tool_outputs)
        return [text_part(error_text(self.error))] if self.error and not told else []

    def _image_parts(self) -> list[builtins.dict[str, Any]]:
        return [{"type": "image", "image": image} for image in self.observations_images or ()]


def _is_bare(reply: ChatMessage, text: str) -> bool:
    """Whether a reply of the model is ``text`` and nothing else."""
    return (
        reply.content == text
        and reply.role == MessageRole.ASSISTANT
        and not (reply.tool_calls or reply.provider_items)
    )


def joined(outputs: Sequence[ToolOutput]) -> str:
    """Return the observations of several calls as one text."""
    return "\n".join(output.observation for output in outputs)


@dataclass(eq=False, slots=True)
class FinalAnswerStep(MemoryStep):
    """The answer, as the last event of a run."""

    output: Any

    def _fields(self) -> dict[str, Any]:
        return {"output": plain(self.output)}


def _image_texts(images: list[Any] | None) -> list[str] | None:
    return [encode_image(image) for image in images] if images else None


_KINDS: dict[str, type[MemoryStep]] = {
    kind.__name__: kind
    for kind in (SystemPromptStep, TaskStep, UserMessageStep, PlanningStep, ActionStep, FinalAnswerStep)
}
_READERS: dict[str, Callable[[Any], Any]] = {
    "timing": Timing.from_dict,
    "token_usage": TokenUsage.from_dict,
    "model_output_message": ChatMessage.from_dict,
    "tool_calls": lambda calls: [ToolCall.from_dict(call) for call in calls],
    "error": lambda data: AgentError(data["message"]),
}


def step_from_dict(data: Mapping[str, Any]) -> MemoryStep:
    """Return the step that :meth:`MemoryStep.dict` described.

    Raises:
        ValueError: ``data["type"]`` is no step.
    """
    kind = _KINDS.get(data.get("type", ""))
    if kind is None:
        raise ValueError(f"{data.get('type')!r} is no kind of step; known are {', '.join(_KINDS)}.")
    values = {
        key: _READERS[key](value) if key in _READERS and value else value
        for key, value in data.items()
        if key != "type"
    }
    if kind is PlanningStep:
        values["model_input_messages"] = ()
    return kind(**values)
