"""What goes to a model and what comes back: messages, tool calls, stream deltas, token counts.

A message that has been sent is shared by everyone who holds it (memory, prompts, steps), so its
encoded form is kept with it: sending it again costs a look-up. Setting a field drops that form.
"""

from __future__ import annotations

import base64
import io
import json
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class MessageRole(StrEnum):
    """Who speaks."""

    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"
    TOOL_CALL = "tool-call"
    TOOL_RESPONSE = "tool-response"

    @classmethod
    def roles(cls) -> list[str]:
        """Return all roles as strings."""
        return [role.value for role in cls]


@dataclass(slots=True)
class TokenUsage:
    """Tokens that a model call, a step or a run used.

    Attributes:
        input_tokens: Tokens of the prompt, cached ones included.
        output_tokens: Tokens of the reply, reasoning included.
        cached_tokens: Those of the prompt that the provider read from its cache.
        reasoning_tokens: Those of the reply that were reasoning.
    """

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Tokens of prompt and reply."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: TokenUsage) -> TokenUsage:
        return TokenUsage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )

    def dict(self) -> dict[str, int]:
        """Return the counts, ready for JSON."""
        return {**asdict(self), "total_tokens": self.total_tokens}

    @classmethod
    def from_dict(cls, data: Mapping[str, int]) -> TokenUsage:
        """Return the counts that :meth:`dict` gave."""
        return cls(**{f.name: data.get(f.name, 0) for f in fields(cls)})


@dataclass(slots=True)
class ChatMessageToolCallFunction:
    """The function of a tool call.

    Attributes:
        arguments: A mapping, or the text that the model wrote.
        name: The tool's name.
        description: Seldom given.
    """

    arguments: Any
    name: str
    description: str | None = None


@dataclass(slots=True)
class ChatMessageToolCall:
    """One tool call of a reply."""

    function: ChatMessageToolCallFunction
    id: str
    type: str = "function"

    def __str__(self) -> str:
        return f"Call: {self.id}: Calling {self.function.name} with arguments: {self.function.arguments}"

    @classmethod
    def from_any(cls, call: Any) -> ChatMessageToolCall:
        """Return ``call`` (a mapping or any object with the same fields) as a tool call."""
        if isinstance(call, cls):
            return call
        function = _get(call, "function")
        return cls(
            function=ChatMessageToolCallFunction(
                arguments=_get(function, "arguments"),
                name=_get(function, "name") or "",
                description=_get(function, "description"),
            ),
            id=_get(call, "id") or "",
            type=_get(call, "type") or "function",
        )


def _own_calls(calls: Iterable[Any] | None) -> list[ChatMessageToolCall] | None:
    return [ChatMessageToolCall.from_any(call) for call in calls] if calls else None


def _get(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, dict) else getattr(holder, name, None)


@dataclass(slots=True)
class ChatMessage:
    """One message of a conversation.

    Attributes:
        role: Who speaks.
        content: Text, or a list of parts ``{"type": "text", "text": ...}`` and
            ``{"type": "image", "image": ...}``; ``None`` in a reply that only calls tools.
        tool_calls: The calls that an assistant message makes.
        raw: What the provider sent, for programs that want more.
        token_usage: What the reply cost.
        tool_call_id: On a tool response, the call that it answers.
        reasoning_content: What a reasoning model thought, where the provider tells.
        provider_items: What the provider wants to see again as it was, in its own form: signed or
            encrypted reasoning, ids of sounds. Each provider picks out what is its own.
    """

    # (encoder, bytes): kept by whoever encodes the message; any other assignment drops it.
    _encoded: tuple[Any, Any] | None = field(default=None, init=False, repr=False, compare=False)
    role: MessageRole | str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[ChatMessageToolCall] | None = None
    raw: Any = field(default=None, repr=False)
    token_usage: TokenUsage | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    provider_items: list[dict[str, Any]] | None = field(default=None, repr=False)

    def __init__(
        self,
        role: MessageRole | str,
        content: str | list[dict[str, Any]] | None = None,
        tool_calls: Iterable[Any] | None = None,
        raw: Any = None,
        token_usage: TokenUsage | None = None,
        tool_call_id: str | None = None,
        reasoning_content: str | None = None,
        provider_items: list[dict[str, Any]] | None = None,
    ) -> None:
        # Past __setattr__, which takes twice as long: of a new message nothing is kept that could be dropped.
        put = object.__setattr__
        put(self, "_encoded", None)
        put(self, "role", role)
        put(self, "content", content)
        put(self, "tool_calls", _own_calls(tool_calls))
        put(self, "raw", raw)
        put(self, "token_usage", token_usage)
        put(self, "tool_call_id", tool_call_id)
        put(self, "reasoning_content", reasoning_content)
        put(self, "provider_items", provider_items)

    def __setattr__(self, name: str, value: Any, _set: Any = object.__setattr__) -> None:
        _set(self, name, value)
        if self._encoded is not None and name != "_encoded":
            _set(self, "_encoded", None)

    @property
    def text(self) -> str:
        """All text of the message, its parts joined by line ends."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part["text"] for part in self.content or [] if part.get("type") == "text")

    def dict(self) -> dict[str, Any]:
        """Return the message as plain JSON values; images as base64 PNG, ``raw`` left out."""
        data: dict[str, Any] = {"role": str(self.role), "content": _plain_content(self.content)}
        if self.tool_calls:
            data["tool_calls"] = [asdict(call) for call in self.tool_calls]
        if self.token_usage:
            data["token_usage"] = self.token_usage.dict()
        if self.tool_call_id is not None:
            data["tool_call_id"] = self.tool_call_id
        if self.reasoning_content is not None:
            data["reasoning_content"] = self.reasoning_content
        if self.provider_items:
            data["provider_items"] = self.provider_items
        return data

    def model_dump_json(self) -> str:
        """Return :meth:`dict` as JSON text."""
        return json.dumps(self.dict(), ensure_ascii=False)

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], raw: Any = None, token_usage: TokenUsage | None = None
    ) -> ChatMessage:
        """Return the message that :meth:`dict` described, or one in a provider's JSON form."""
        usage = data.get("token_usage")
        return cls(
            role=_role(data.get("role", "assistant")),
            content=data.get("content"),
            tool_calls=data.get("tool_calls"),
            raw=raw,
            token_usage=token_usage or (TokenUsage.from_dict(usage) if usage else None),
            tool_call_id=data.get("tool_call_id"),
            reasoning_content=data.get("reasoning_content"),
            provider_items=data.get("provider_items"),
        )

    @classmethod
    def from_any(cls, message: Any) -> ChatMessage:
        """Return ``message`` as ours: a string, a mapping, or another library's message object.

        Args:
            message: The foreign value; what it lacks is left empty.
        """
        if isinstance(message, cls):
            return message
        if isinstance(message, str):
            return cls(MessageRole.ASSISTANT, message)
        if isinstance(message, dict):
            return cls.from_dict(message)
        usage = getattr(message, "token_usage", None)
        return cls(
            role=_role(getattr(message, "role", "assistant")),
            content=getattr(message, "content", None),
            tool_calls=getattr(message, "tool_calls", None),
            raw=getattr(message, "raw", None),
            token_usage=TokenUsage(usage.input_tokens, usage.output_tokens) if usage else None,
        )

    def render_as_markdown(self) -> str:
        """Return text and tool calls for a person to read."""
        rendered = self.text
        if self.tool_calls:
            calls = [
                {"tool": call.function.name, "arguments": call.function.arguments} for call in self.tool_calls
            ]
            rendered += json.dumps(calls, default=str, ensure_ascii=False)
        return rendered


def _role(role: Any) -> MessageRole | str:
    text = getattr(role, "value", role)
    return MessageRole(text) if text in MessageRole.roles() else str(text)


def text_part(text: str) -> dict[str, Any]:
    """Return ``text`` as one part of a message."""
    return {"type": "text", "text": text}


def message(role: MessageRole, text: str, images: Iterable[Any] = ()) -> ChatMessage:
    """Return a message of one text and perhaps images."""
    return ChatMessage(role, [text_part(text), *({"type": "image", "image": image} for image in images)])


def encode_image(image: Any) -> str:
    """Return an image as base64 PNG.

    Args:
        image: A PIL image, PNG bytes, or text that is base64 already.
    """
    if isinstance(image, str):
        return image
    if not isinstance(image, bytes):
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        image = buffer.getvalue()
    return base64.b64encode(image).decode()


def _plain_content(content: str | list[dict[str, Any]] | None) -> str | list[dict[str, Any]] | None:
    if not isinstance(content, list):
        return content
    return [
        {**part, "image": encode_image(part["image"])} if part.get("type") == "image" else part
        for part in content
    ]


@dataclass(slots=True)
class ChatMessageToolCallStreamDelta:
    """A piece of a tool call; the pieces of one call share ``index``."""

    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: ChatMessageToolCallFunction | None = None


@dataclass(slots=True)
class ChatMessageStreamDelta:
    """A piece of a streamed reply: text, pieces of tool calls, or the token count at the end.

    The last piece also holds what belongs to the whole reply: ``provider_items`` and ``raw``, as in
    :class:`ChatMessage`. A piece with ``restart`` says that the stream broke, and the reply begins anew: what
    came of it so far is void. Only streams of runs are begun anew.
    """

    content: str | None = None
    tool_calls: list[ChatMessageToolCallStreamDelta] | None = None
    token_usage: TokenUsage | None = None
    reasoning_content: str | None = None
    provider_items: list[dict[str, Any]] | None = field(default=None, repr=False, compare=False)
    raw: Any = field(default=None, repr=False, compare=False)
    restart: bool = field(default=False, repr=False)


class DeltaFold:
    """Folds stream deltas into the message they make, in time linear in their number."""

    def __init__(self) -> None:
        self._usage: TokenUsage | None = None
        self._begin()

    def _begin(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, _CallFold] = {}
        self._items: list[dict[str, Any]] | None = None
        self._raw: Any = None

    def add(self, delta: ChatMessageStreamDelta) -> None:
        """Take one delta."""
        if delta.restart:
            self._begin()
        if delta.content:
            self._text.append(delta.content)
        if delta.reasoning_content:
            self._reasoning.append(delta.reasoning_content)
        for piece in delta.tool_calls or ():
            index = piece.index if piece.index is not None else len(self._calls)
            self._calls.setdefault(index, _CallFold()).add(piece)
        if delta.token_usage is not None:
            used = delta.token_usage
            self._usage = used if self._usage is None else self._usage + used
        self._items = delta.provider_items or self._items
        self._raw = delta.raw or self._raw

    def message(self, role: MessageRole = MessageRole.ASSISTANT) -> ChatMessage:
        """Return the message so far."""
        calls = [self._calls[index].call() for index in sorted(self._calls)]
        return ChatMessage(
            role=role,
            content="".join(self._text) if self._text or not calls else None,
            tool_calls=calls or None,
            raw=self._raw,
            token_usage=self._usage,
            reasoning_content="".join(self._reasoning) or None,
            provider_items=self._items,
        )


class _CallFold:
    """One tool call in the making."""

    def __init__(self) -> None:
        self.id = ""
        self.type = "function"
        self.name = ""
        self.arguments: list[str] = []
        self.whole: Any = None

    def add(self, piece: ChatMessageToolCallStreamDelta) -> None:
        self.id = piece.id or self.id
        self.type = piece.type or self.type
        if piece.function is None:
            return
        self.name = piece.function.name or self.name
        if isinstance(piece.function.arguments, str):
            self.arguments.append(piece.function.arguments)
        elif piece.function.arguments is not None:
            self.whole = piece.function.arguments

    def call(self) -> ChatMessageToolCall:
        arguments = self.whole if self.whole is not None else "".join(self.arguments)
        return ChatMessageToolCall(ChatMessageToolCallFunction(arguments, self.name), self.id, self.type)


def agglomerate_stream_deltas(
    stream_deltas: Iterable[ChatMessageStreamDelta], role: MessageRole = MessageRole.ASSISTANT
) -> ChatMessage:
    """Fold stream deltas into one message.

    Args:
        stream_deltas: The deltas, in order; several token counts are added up.
        role: Role of the message.
    """
    fold = DeltaFold()
    for delta in stream_deltas:
        fold.add(delta)
    return fold.message(role)
