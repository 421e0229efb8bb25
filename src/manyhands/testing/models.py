"""Models without a provider: they answer from a script or from a function, at once or as slowly as wished.

Both may be asked by any number of runs at a time, and both write down what they were asked.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from manyhands._bridge import call_user
from manyhands.errors import AgentGenerationError
from manyhands.messages import (
    ChatMessage,
    ChatMessageStreamDelta,
    ChatMessageToolCallFunction,
    ChatMessageToolCallStreamDelta,
    MessageRole,
    TokenUsage,
)
from manyhands.models.base import Model, accepted, whole_delta

# What may stand in a script: text, a message, an error to raise, or a function of the messages that
# returns one of these.
Reply = str | ChatMessage | BaseException | Callable[..., Any]
Script = Sequence[Reply] | Mapping[str, Any] | Callable[[str], Any]

_TASK_MARK = "New task:\n"


class ScriptEndedError(AgentGenerationError):
    """A scripted model was asked more often than its script has replies."""


@dataclass(slots=True)
class ModelCall:
    """One question to a test model.

    Attributes:
        messages: The conversation as it was sent.
        options: The other arguments that were given, by name.
        reply: What was answered: a message or the error that was raised; ``None`` while it waits.
    """

    messages: list[ChatMessage]
    options: dict[str, Any] = field(default_factory=dict)
    reply: ChatMessage | BaseException | None = None

    @property
    def stop_sequences(self) -> list[str]:
        """The stop sequences that were given."""
        return self.options.get("stop_sequences") or []

    @property
    def tools(self) -> list[Any]:
        """The tools that the reply might call."""
        return self.options.get("tools_to_call_from") or []


class _TestModel(Model):
    """What both test models share: waiting, writing down, streaming."""

    def __init__(
        self,
        *,
        latency: float | Callable[[], float] = 0.0,
        piece_size: int = 5,
        token_usage: TokenUsage | None = None,
        native_tool_messages: bool = True,
        record: bool = True,
        model_id: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(model_id=model_id, **kwargs)
        self.native_tool_messages = native_tool_messages
        self.latency = latency
        self.piece_size = piece_size
        self.token_usage = token_usage or TokenUsage(10, 5)
        self.record = record
        self.calls: list[ModelCall] = []
        self.in_flight = 0
        self.peak_in_flight = 0

    async def agenerate(self, messages: list[ChatMessage], *args: Any, **kwargs: Any) -> ChatMessage:
        """Answer; the arguments are those of :meth:`Model.agenerate`."""
        call = ModelCall(list(messages), _named(args, kwargs))
        if self.record:
            self.calls.append(call)
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            await self._wait()
            call.reply = await self._settled(await self._answer(call), call)
        except Exception as error:
            call.reply = error
            raise
        finally:
            self.in_flight -= 1
        return call.reply

    async def agenerate_stream(
        self, messages: list[ChatMessage], *args: Any, **kwargs: Any
    ) -> AsyncIterator[ChatMessageStreamDelta]:
        """Answer in pieces of ``piece_size`` characters; the last one holds the token counts."""
        message = await self.agenerate(messages, *args, **kwargs)
        for piece in _pieces(message, self.piece_size):
            yield piece
        yield ChatMessageStreamDelta(token_usage=message.token_usage)

    async def _wait(self) -> None:
        seconds = self.latency() if callable(self.latency) else self.latency
        if seconds:
            await asyncio.sleep(seconds)

    async def _answer(self, call: ModelCall) -> Any:
        raise NotImplementedError

    async def _settled(self, reply: Any, call: ModelCall) -> ChatMessage:
        """Return ``reply`` as a message of its own, or raise it."""
        if _is_error(reply):
            raise reply
        if callable(reply) and not isinstance(reply, ChatMessage):
            taken = accepted(reply, call.options)
            return await self._settled(await call_user(reply, call.messages, **taken), call)
        given = ChatMessage.from_any(reply)
        # Runs share the script, never a message.
        return ChatMessage(
            given.role,
            given.content,
            given.tool_calls,
            given.raw,
            given.token_usage or self.token_usage,
            None,
            given.reasoning_content,
        )


class ScriptedModel(_TestModel):
    """A model that answers from a script.

    Args:
        replies: The replies in the order of the calls, whoever makes them. Or replies per task, for
            many runs at a time: a mapping from a task (or any part of its text) to its replies, or
            a function from the task's text to them. A run's place in its script is then read off
            its own conversation, so any number of runs of one task each get all replies in order. A
            single reply stands for itself, time after time. A reply is text, a message, an error to
            raise, or a sync or async function of the messages that returns one of these.
        latency: Seconds before each answer, or a function that gives them.
        piece_size: Characters in each piece of a streamed reply.
        token_usage: What each reply costs, unless it says so itself.
        native_tool_messages: Whether agents send it tool calls and results as such, else as text.
        record: Whether to keep what was asked in ``calls``.
        model_id: Its name.
        **kwargs: Taken and kept, as by any model.

    Attributes:
        calls: What was asked, in order.
        peak_in_flight: How many calls were waiting at once at most.
    """

    def __init__(
        self,
        replies: Script | Reply,
        *,
        latency: float | Callable[[], float] = 0.0,
        piece_size: int = 5,
        token_usage: TokenUsage | None = None,
        native_tool_messages: bool = True,
        record: bool = True,
        model_id: str = "scripted",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            latency=latency,
            piece_size=piece_size,
            token_usage=token_usage,
            native_tool_messages=native_tool_messages,
            record=record,
            model_id=model_id,
            **kwargs,
        )
        self._script = replies
        self._next = itertools.count()
        # Errors already raised, by conversation and place: they are no part of the conversation.
        self._raised: dict[tuple[int, int], tuple[ChatMessage, int]] = {}

    async def _answer(self, call: ModelCall) -> Any:
        if isinstance(self._script, Mapping) or callable(self._script):
            return await self._answer_for_task(call)
        if isinstance(self._script, (str, ChatMessage, BaseException)):
            return self._script
        place = next(self._next)
        if place >= len(self._script):
            raise ScriptEndedError(
                f"ScriptedModel was asked {place + 1} times and has {len(self._script)} replies."
            )
        return self._script[place]

    async def _answer_for_task(self, call: ModelCall) -> Any:
        at = _task_index(call.messages)
        task = call.messages[at].text
        name, replies = await self._replies_for(task)
        if isinstance(replies, (str, ChatMessage, BaseException)) or callable(replies):
            return replies
        answered = sum(1 for message in call.messages[at:] if message.role == MessageRole.ASSISTANT)
        errors, reply = _place(list(replies), answered)
        raised = self._count_error(call.messages[at], answered) if errors else 0
        if raised < len(errors):
            return errors[raised]
        if reply is None:
            raise ScriptEndedError(
                f"ScriptedModel has {len(replies)} replies for {name!r}, and was asked for one more."
            )
        return reply

    async def _replies_for(self, task: str) -> tuple[str, Any]:
        if callable(self._script):
            bare = task.partition(_TASK_MARK)[2] or task
            return bare, await call_user(self._script, bare)
        assert isinstance(self._script, Mapping)
        # The longest name decides, so that "add 1" does not answer for "add 12".
        named = max((name for name in self._script if name in task), key=len, default=None)
        if named is None:
            raise ScriptEndedError(
                f"ScriptedModel knows none of its tasks in: {task!r}. It knows {list(self._script)}."
            )
        return named, self._script[named]

    def _count_error(self, message: ChatMessage, answered: int) -> int:
        """Return how many errors this conversation has met at this place, and count one more."""
        key = (id(message), answered)
        _, raised = self._raised.get(key, (message, 0))
        self._raised[key] = (message, raised + 1)  # the message is kept so that its id stays its own
        return raised


def _is_error(reply: Any) -> bool:
    return isinstance(reply, BaseException) or (isinstance(reply, type) and issubclass(reply, BaseException))


def _task_index(messages: Sequence[ChatMessage]) -> int:
    """Return the index of the message that sets the task: the last new task, else the first of a user."""
    users = [index for index, message in enumerate(messages) if message.role == MessageRole.USER]
    marked = [index for index in users if messages[index].text.startswith(_TASK_MARK)]
    return marked[-1] if marked else next(iter(users), 0)


def _place(replies: list[Any], answered: int) -> tuple[list[Any], Any]:
    """Return the errors before the reply after ``answered`` others, and that reply, ``None`` at the end."""
    errors: list[Any] = []
    for reply in replies:
        if _is_error(reply):
            errors.append(reply)
        elif answered == 0:
            return errors, reply
        else:
            answered -= 1
            errors = []
    return errors, None


class FunctionModel(_TestModel):
    """A model that a function answers for.

    Args:
        fn: A sync or async function of the messages, and of those other arguments of
            :meth:`Model.agenerate` that it names. It returns text or a message, or raises. A sync
            one runs on a worker thread, as all sync code of users does under async calls.
        latency: Seconds before each answer, or a function that gives them.
        piece_size: Characters in each piece of a streamed reply.
        token_usage: What each reply costs, unless it says so itself.
        native_tool_messages: Whether agents send it tool calls and results as such, else as text.
        record: Whether to keep what was asked in ``calls``.
        model_id: Its name.
        **kwargs: Taken and kept, as by any model.

    Attributes:
        calls: What was asked, in order.
        peak_in_flight: How many calls were waiting at once at most.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        latency: float | Callable[[], float] = 0.0,
        piece_size: int = 5,
        token_usage: TokenUsage | None = None,
        native_tool_messages: bool = True,
        record: bool = True,
        model_id: str = "function",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            latency=latency,
            piece_size=piece_size,
            token_usage=token_usage,
            native_tool_messages=native_tool_messages,
            record=record,
            model_id=model_id,
            **kwargs,
        )
        self._fn = fn

    async def _answer(self, call: ModelCall) -> Any:
        return self._fn


_ARGUMENTS = tuple(inspect.signature(Model.agenerate).parameters)[2:-1]


def _named(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by name."""
    return {**dict(zip(_ARGUMENTS, args, strict=False)), **kwargs}


def _pieces(message: ChatMessage, size: int) -> Iterable[ChatMessageStreamDelta]:
    """Return a message as a provider would stream it."""
    if message.reasoning_content:
        yield ChatMessageStreamDelta(reasoning_content=message.reasoning_content)
    text = message.text
    for start in range(0, len(text), size):
        yield ChatMessageStreamDelta(text[start : start + size])
    for whole in whole_delta(message).tool_calls or ():
        function = whole.function
        if function is None or not isinstance(function.arguments, str):
            yield ChatMessageStreamDelta(tool_calls=[whole])
            continue
        first = ChatMessageToolCallFunction("", function.name)
        yield ChatMessageStreamDelta(
            tool_calls=[ChatMessageToolCallStreamDelta(whole.index, whole.id, whole.type, first)]
        )
        for start in range(0, len(function.arguments), size):
            part = ChatMessageToolCallFunction(function.arguments[start : start + size], "")
            yield ChatMessageStreamDelta(
                tool_calls=[ChatMessageToolCallStreamDelta(whole.index, function=part)]
            )
