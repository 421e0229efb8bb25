"""What a model looks like, and how any of the ways to write one is asked.

A model has four doors: ``agenerate``, ``agenerate_stream``, ``generate`` and ``generate_stream``.
A subclass writes one of them, and the others follow from it. :func:`ask` and :func:`ask_stream`
are how everything else in manyhands talks to a model: they find the door that was written, hand it
only the arguments it takes, and give back one of our messages. They also take plain functions and
the model objects of other libraries.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import json
import os
import re
import uuid
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

from manyhands._bridge import call_user, is_async_callable, iterate_sync, run_sync
from manyhands.errors import AgentParsingError, CallerError
from manyhands.messages import (
    ChatMessage,
    ChatMessageStreamDelta,
    ChatMessageToolCall,
    ChatMessageToolCallFunction,
    ChatMessageToolCallStreamDelta,
    DeltaFold,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator

# Whether whoever reads a stream understands that it may begin anew (``ChatMessageStreamDelta.restart``).
restarts_welcome: ContextVar[bool] = ContextVar("manyhands_restarts_welcome", default=False)

_DOORS = ("agenerate", "generate", "agenerate_stream", "generate_stream")
_STREAM_DOORS = ("agenerate_stream", "generate_stream")


class Model:
    """Base of all models; a subclass writes one of its four doors.

    Args:
        flatten_messages_as_text: Send message contents as plain text, parts joined.
        tool_name_key: Key of the tool's name where a model writes its calls as JSON text.
        tool_arguments_key: Key of the arguments there.
        model_id: Name of the model at its provider.
        **kwargs: Sent along with every request; they win over the arguments of a call.
    """

    # Whether the provider understands tool-call and tool-result messages; if not, they are
    # sent to it as text.
    native_tool_messages = False

    def __init__(
        self,
        flatten_messages_as_text: bool = False,
        tool_name_key: str = "name",
        tool_arguments_key: str = "arguments",
        model_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.flatten_messages_as_text = flatten_messages_as_text
        self.tool_name_key = tool_name_key
        self.tool_arguments_key = tool_arguments_key
        self.model_id = model_id
        self.kwargs = kwargs

    async def agenerate(
        self,
        messages: list[ChatMessage],
        stop_sequences: list[str] | None = None,
        response_format: dict[str, Any] | None = None,
        tools_to_call_from: list[Any] | None = None,
        **kwargs: Any,
    ) -> ChatMessage:
        """Ask for a reply.

        Args:
            messages: The conversation.
            stop_sequences: Texts at which the reply ends.
            response_format: A JSON schema that the reply must fit, in OpenAI's form.
            tools_to_call_from: Tools that the reply may call.
            **kwargs: More fields of the request.

        Returns:
            The reply.

        Raises:
            AgentGenerationError: The provider gave none.
        """
        return await ask(
            self,
            messages,
            stop_sequences=stop_sequences,
            response_format=response_format,
            tools_to_call_from=tools_to_call_from,
            **kwargs,
        )

    def agenerate_stream(
        self,
        messages: list[ChatMessage],
        stop_sequences: list[str] | None = None,
        response_format: dict[str, Any] | None = None,
        tools_to_call_from: list[Any] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatMessageStreamDelta]:
        """Ask for a reply in pieces; the arguments are those of :meth:`agenerate`."""
        return ask_stream(
            self,
            messages,
            stop_sequences=stop_sequences,
            response_format=response_format,
            tools_to_call_from=tools_to_call_from,
            **kwargs,
        )

    def generate(self, messages: list[ChatMessage], *args: Any, **kwargs: Any) -> ChatMessage:
        """Ask for a reply, from sync code; the arguments are those of :meth:`agenerate`."""
        return run_sync(self.agenerate(messages, *args, **kwargs))

    def generate_stream(
        self, messages: list[ChatMessage], *args: Any, **kwargs: Any
    ) -> Iterator[ChatMessageStreamDelta]:
        """Ask for a reply in pieces, from sync code; the arguments are those of :meth:`agenerate`."""
        return iterate_sync(self.agenerate_stream(messages, *args, **kwargs))

    def __call__(self, messages: list[ChatMessage], *args: Any, **kwargs: Any) -> ChatMessage:
        """Ask for a reply, from sync code: another name of :meth:`generate`."""
        return self.generate(messages, *args, **kwargs)

    def parse_tool_calls(self, message: ChatMessage) -> ChatMessage:
        """Give ``message`` the tool calls that its text describes, for models without native calls.

        Raises:
            AgentParsingError: The text holds no tool call.
        """
        if not message.tool_calls:
            message.tool_calls = tool_calls_from_text(
                message.text, self.tool_name_key, self.tool_arguments_key
            )
        return message

    def to_dict(self) -> dict[str, Any]:
        """Return what describes the model, ready for JSON; keys and clients stay out."""
        return {"class": type(self).__name__, "model_id": self.model_id, **_public(self.kwargs)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Model:
        """Return the model that :meth:`to_dict` described."""
        return cls(**{key: value for key, value in data.items() if key != "class"})

    async def aclose(self) -> None:
        """Release connections held on the running loop."""

    def close(self) -> None:
        """Release connections, from sync code."""
        run_sync(self.aclose())

    async def __aenter__(self) -> Model:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model_id!r})"


_SECRET_WORDS = ("key", "token", "secret", "password", "authorization", "credential")


def _public(values: dict[str, Any]) -> dict[str, Any]:
    """Return what of ``values`` may be written down: JSON values under harmless names."""
    shown = {}
    for key, value in values.items():
        if any(word in key.lower() for word in _SECRET_WORDS) and not key.lower().startswith("max"):
            continue
        with contextlib.suppress(TypeError):
            json.dumps(value)
            shown[key] = value
    return shown


def request_options(
    stop_sequences: list[str] | None,
    response_format: dict[str, Any] | None,
    tools_to_call_from: list[Any] | None,
    more: dict[str, Any],
) -> dict[str, Any]:
    """Return the arguments of a request in one mapping, to be passed on."""
    return {
        "stop_sequences": stop_sequences,
        "response_format": response_format,
        "tools_to_call_from": tools_to_call_from,
        **more,
    }


async def ask(model: Any, messages: list[ChatMessage], **options: Any) -> ChatMessage:
    """Ask any kind of model for a reply.

    Args:
        model: A :class:`Model`, another library's model, or a function from messages to a reply.
        messages: The conversation.
        **options: Arguments of :meth:`Model.agenerate`; those the model does not take, or that are
            ``None``, are not passed.

    Returns:
        The reply as one of our messages.
    """
    door = _door(model, _DOORS)
    call = _door_of(model, door)
    if door in _STREAM_DOORS:
        fold = DeltaFold()
        async for delta in ask_stream(model, messages, **options):
            fold.add(delta)
        return fold.message()
    given = accepted(call, options)
    # An async door is awaited right here: a coroutine less for each of thousands of calls that wait.
    answer = call(messages, **given) if is_async_callable(call) else call_user(call, messages, **given)
    return ChatMessage.from_any(await answer)


def ask_stream(
    model: Any, messages: list[ChatMessage], **options: Any
) -> AsyncGenerator[ChatMessageStreamDelta, None]:
    """Ask any kind of model for a reply in pieces; one that cannot stream gives it in one piece."""
    door = _door(model, _STREAM_DOORS) or _door(model, _DOORS)
    call = _door_of(model, door)
    if door == "agenerate_stream":
        deltas = call(messages, **accepted(call, options))
        if not inspect.isasyncgen(deltas):
            return _closing(deltas)
        # As they are: each hand that a piece goes through costs.
        return cast("AsyncGenerator[ChatMessageStreamDelta, None]", deltas)
    if door == "generate_stream":
        return _in_turns(call, messages, accepted(call, options))
    return _at_once(model, messages, options)


async def _closing(deltas: AsyncIterator[Any]) -> AsyncGenerator[ChatMessageStreamDelta, None]:
    try:
        async for delta in deltas:
            yield delta
    finally:
        close = getattr(deltas, "aclose", None)
        if close is not None:
            await close()


async def _in_turns(
    call: Callable[..., Any], messages: list[ChatMessage], options: dict[str, Any]
) -> AsyncGenerator[ChatMessageStreamDelta, None]:
    pieces = await call_user(call, messages, **options)
    try:
        while (delta := await call_user(next, pieces, None)) is not None:
            yield delta
    finally:
        await call_user(getattr(pieces, "close", lambda: None))


async def _at_once(
    model: Any, messages: list[ChatMessage], options: dict[str, Any]
) -> AsyncGenerator[ChatMessageStreamDelta, None]:
    yield whole_delta(await ask(model, messages, **options))


def whole_delta(message: ChatMessage) -> ChatMessageStreamDelta:
    """Return a complete message as a single stream delta."""
    calls = [
        ChatMessageToolCallStreamDelta(index, call.id, call.type, call.function)
        for index, call in enumerate(message.tool_calls or ())
    ]
    return ChatMessageStreamDelta(
        message.text or None,
        calls or None,
        message.token_usage,
        message.reasoning_content,
        message.provider_items,
        message.raw,
    )


def _door_of(model: Any, door: str) -> Callable[..., Any]:
    call: Callable[..., Any] = getattr(model, door) if door else model
    return call


def _door(model: Any, doors: tuple[str, ...]) -> str:
    """Return the door of ``model`` that its author wrote, "" if it is a plain function.

    The class nearest to the object decides: a user's class that overrides only ``generate`` of one
    of our models means that one.
    """
    for door in doors:
        if door in getattr(model, "__dict__", ()):
            return door
    kind: Any = type(model)
    door = _written(kind, doors)
    if not door and not isinstance(model, Model) and not inspect.isroutine(model):
        # Mocks make attributes up on demand; their class says nothing.
        return next((name for name in ("generate", "agenerate") if name in doors and _has(model, name)), "")
    if not door and isinstance(model, Model) and doors is _DOORS:
        raise TypeError(
            f"{type(model).__name__} writes none of {', '.join(_DOORS)}. "
            "Give it one: `async def agenerate(self, messages, stop_sequences=None)` is enough."
        )
    return door


def _has(model: Any, name: str) -> bool:
    return callable(getattr(model, name, None))


@functools.cache
def _written(kind: type, doors: tuple[str, ...]) -> str:
    for owner in kind.__mro__:
        if owner in (Model, object):
            continue
        written = [door for door in _DOORS if door in vars(owner)]
        if written:
            wanted = [door for door in doors if door in written]
            return wanted[0] if wanted else ""
    return ""


@functools.lru_cache(maxsize=512)
def _parameters(fn: Any) -> frozenset[str] | None:
    """Return the names that ``fn`` takes, ``None`` if it takes any."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(parameter.name for parameter in parameters)


def accepted(call: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return those of ``options`` that ``call`` takes and that are given."""
    given = {name: value for name, value in options.items() if value is not None}
    names = _parameters(getattr(call, "__func__", call))
    return given if names is None else {name: value for name, value in given.items() if name in names}


def tool_calls_from_text(
    text: str, name_key: str = "name", arguments_key: str = "arguments"
) -> list[ChatMessageToolCall]:
    """Return the tool calls that a model wrote as JSON in its text: one object each, wherever they stand.

    So one object, several, a list of them, and blocks such as ``<tool_call>`` are all read alike, and what
    else the text says is passed over. It takes time in proportion to the text.

    Args:
        text: The reply.
        name_key: Key of a tool's name.
        arguments_key: Key of its arguments.

    Raises:
        AgentParsingError: There is no JSON object, or none with a tool name.
    """
    objects = _json_objects(text)
    written = [each.get("function") if name_key not in each else each for each in objects]
    named = [each for each in written if isinstance(each, dict) and each.get(name_key)]
    # Something else may have a name, too: with arguments it is surely a call.
    calls = [each for each in named if arguments_key in each] or named
    if not calls:
        raise AgentParsingError(f'The tool call has no "{name_key}". Its keys are: {sorted(objects[0])}.')
    return [_written_call(str(each[name_key]), each.get(arguments_key)) for each in calls]


def _written_call(name: str, arguments: Any) -> ChatMessageToolCall:
    with contextlib.suppress(ValueError):
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    return ChatMessageToolCall(ChatMessageToolCallFunction(arguments or {}, name), str(uuid.uuid4()))


def _json_objects(text: str) -> list[dict[str, Any]]:
    """Return the outermost JSON objects in a text, at least one."""
    found: list[dict[str, Any]] = []
    broken: list[ValueError] = []
    begins = _OPENING.search(text)
    while begins is not None and len(broken) < _MOST_BROKEN:
        try:
            value, end = _JSON.raw_decode(text, begins.start())
            found.append(value)
        except json.JSONDecodeError as error:
            # What was read up to here belongs to the broken object: nothing is read twice.
            broken.append(error)
            end = max(begins.end(), error.pos)
        except RecursionError:
            broken.append(ValueError("it is nested too deeply"))
            break
        begins = _OPENING.search(text, end)
    if found:
        return found
    if "{" not in text:
        raise AgentParsingError(f"The reply holds no JSON object that could be a tool call. It was:\n{text}")
    reason = broken[0] if broken else "no key follows the brace"
    raise AgentParsingError(f"The tool call is not valid JSON ({reason}). It was:\n{text}")


_JSON = json.JSONDecoder(strict=False)
_OPENING = re.compile(r'\{\s*["}]')
# Each error looks through the whole text for its line: who has written so many means no call.
_MOST_BROKEN = 100


def check_model(model: Any) -> Any:
    """Return ``model`` if it can be asked: a model, another library's model, or a function.

    Raises:
        CallerError: It is none of these.
    """
    if callable(model) or any(hasattr(model, door) for door in _DOORS):
        return model
    raise CallerError(
        f"{model!r} cannot be a model: pass a Model, a function from messages to a reply, or a model's name."
    )


def choose_model(name: str | None) -> Model:
    """Return the model that ``name`` means.

    Args:
        name: A model's name at an OpenAI-compatible endpoint, or one with its provider before a slash
            (see :mod:`manyhands.models.presets`); ``None`` for the name in the environment variable
            ``MANYHANDS_MODEL``.

    Raises:
        CallerError: No name is given anywhere.
    """
    name = name or os.environ.get("MANYHANDS_MODEL")
    if not name:
        raise CallerError(
            "An agent needs a model. Pass one, as in model=OpenAIModel('gpt-5-mini'), or put a model's name "
            "into the environment variable MANYHANDS_MODEL."
        )
    model: Model = importlib.import_module("manyhands.models.presets").model_of(name)
    return model
