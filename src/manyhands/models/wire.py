"""Messages as OpenAI's chat-completions JSON, and back.

A conversation is sent again with every step, a little longer each time. So the JSON of a message is
made once and kept on the message; a request is put together by joining bytes. Neighbours of one role
are joined here too, by cutting their brackets away: nothing is encoded twice.
"""

from __future__ import annotations

import base64
import functools
import os
from typing import TYPE_CHECKING, Any

from manyhands.messages import (
    ChatMessage,
    ChatMessageStreamDelta,
    ChatMessageToolCall,
    ChatMessageToolCallFunction,
    ChatMessageToolCallStreamDelta,
    MessageRole,
    TokenUsage,
    encode_image,
)
from manyhands.models import codec
from manyhands.models.stopping import StopCutter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_TOOL_ROLES = {"tool-call": "assistant", "tool-response": "user"}
_TEXT_START, _TEXT_END = b',"content":"', b'"}'
_PARTS_START, _PARTS_END = b',"content":[', b"]}"


class ImageOnLoop(Exception):
    """An image has to be encoded first, which takes too long for an event loop."""


class _Form:
    """How a message was encoded: by whom, in which role, and whether neighbours may be joined to it."""

    __slots__ = ("encoder", "head", "kind", "role")

    def __init__(self, encoder: MessageEncoder, role: str, kind: str) -> None:
        self.encoder = encoder
        self.role = role
        self.kind = kind  # "text" and "parts" can be joined, "whole" cannot
        start = _TEXT_START if kind == "text" else _PARTS_START
        # Every message brings the comma before it along.
        self.head = b',{"role":' + codec.quoted(role) + start


class MessageEncoder:
    """Encodes messages for one kind of endpoint; get one from :func:`message_encoder`.

    Args:
        flatten: Send text only: images are left out, tool calls and results are written as text.
        conversions: Roles by their names at the endpoint, besides the usual ones.
    """

    def __init__(self, flatten: bool = False, conversions: Mapping[str, str] | None = None) -> None:
        self.flatten = flatten
        self.roles = {**_TOOL_ROLES, **(conversions or {})}
        # Who renames the tool roles wants no tool messages.
        self.native_tools = not flatten and not (_TOOL_ROLES.keys() & (conversions or {}).keys())
        self._forms: dict[tuple[str, str], _Form] = {}

    def encode(self, messages: Iterable[ChatMessage], *, on_loop: bool = False) -> list[bytes]:
        """Return ``messages`` as the pieces of a JSON array, without its brackets.

        Args:
            messages: The conversation.
            on_loop: Whether to give up rather than encode a picture.

        Raises:
            ImageOnLoop: There is a picture to encode, and ``on_loop`` was set.
        """
        pieces: list[bytes] = []
        last: _Form | None = None
        for message in messages:
            kept = message._encoded if type(message) is ChatMessage else None
            if kept is None or type(kept[0]) is not _Form or kept[0].encoder is not self:
                kept = self._encoded(message, on_loop)
            form, data = kept
            if last is not None and form.role == last.role and form.kind != "whole" != last.kind:
                last = self._join(pieces, last, form, data)
            else:
                pieces.append(data)
                last = form
        if pieces:
            pieces[0] = pieces[0][1:]
        return pieces

    def _encoded(self, message: ChatMessage, on_loop: bool) -> tuple[_Form, bytes]:
        message = ChatMessage.from_any(message)
        role, tail = self._role(message), b""
        if self.native_tools and message.tool_calls and role == "assistant":
            tail = b',"tool_calls":' + _encoded_calls(message.tool_calls)
        elif role == "tool":
            tail = b',"tool_call_id":' + codec.quoted(message.tool_call_id or "")
        if tail:
            content = message.text
            encoded = codec.quoted(content) if content or role == "tool" else b"null"
            start = b',{"role":' + codec.quoted(role) + b',"content":'
            kept = (self._form(role, "whole"), start + encoded + tail + b"}")
        else:
            kept = self._encoded_content(role, message, on_loop)
        message._encoded = kept
        return kept

    def _role(self, message: ChatMessage) -> str:
        if self.native_tools and message.tool_call_id and message.role == MessageRole.TOOL_RESPONSE:
            return "tool"
        role = str(message.role)
        return self.roles.get(role, role)

    def _encoded_content(self, role: str, message: ChatMessage, on_loop: bool) -> tuple[_Form, bytes]:
        if self.flatten or not isinstance(message.content, list) or _only_text(message.content):
            text = message.text
            if message.tool_calls:
                text = "\n".join(filter(None, [text, calls_as_text(message.tool_calls)]))
            form = self._form(role, "text")
            return form, form.head + codec.quoted(text)[1:-1] + _TEXT_END
        if on_loop and any(_is_heavy(part) for part in message.content):
            raise ImageOnLoop
        form = self._form(role, "parts")
        parts = codec.dumps([wire_part(part) for part in message.content])
        return form, form.head + parts[1:-1] + _PARTS_END

    def _form(self, role: str, kind: str) -> _Form:
        form = self._forms.get((role, kind))
        if form is None:
            form = self._forms[role, kind] = _Form(self, role, kind)
        return form

    def _join(self, pieces: list[bytes], last: _Form, form: _Form, data: bytes) -> _Form:
        """Append ``data`` to the message that ``pieces`` ends with; return the form of both."""
        if last.kind == form.kind == "text":
            pieces[-1] = pieces[-1][: -len(_TEXT_END)]
            pieces.append(b"\\n" + data[len(form.head) :])
            return form
        # Texts become parts when a neighbour has parts.
        if last.kind == "text":
            raise_start = _last_start(pieces, last.head)
            text = b"".join(pieces[raise_start:])[len(last.head) : -len(_TEXT_END)]
            last = self._form(last.role, "parts")
            pieces[raise_start:] = [last.head, b'{"type":"text","text":"' + text + b'"}' + _PARTS_END]
        if form.kind == "text":
            added = b'{"type":"text","text":"' + data[len(form.head) : -len(_TEXT_END)] + b'"}' + _PARTS_END
        else:
            added = data[len(form.head) :]
        pieces[-1] = pieces[-1][: -len(_PARTS_END)]
        pieces.append(b"," + added)
        return last


def _last_start(pieces: list[bytes], head: bytes) -> int:
    """Return the index of the piece that the last message begins with."""
    return next(index for index in range(len(pieces) - 1, -1, -1) if pieces[index].startswith(head))


@functools.lru_cache(maxsize=64)
def _shared_encoder(flatten: bool, conversions: tuple[tuple[str, str], ...]) -> MessageEncoder:
    return MessageEncoder(flatten, dict(conversions))


def message_encoder(flatten: bool = False, conversions: Mapping[Any, Any] | None = None) -> MessageEncoder:
    """Return the encoder for these settings; models with the same settings share it and its work."""
    named = tuple((str(role), str(other)) for role, other in (conversions or {}).items())
    return _shared_encoder(bool(flatten), named)


# --- Parts and tool calls, going out -----------------------------------------------------------


def _only_text(parts: Sequence[Mapping[str, Any]]) -> bool:
    return all(part.get("type") == "text" for part in parts)


def _is_heavy(part: Mapping[str, Any]) -> bool:
    return part.get("type") == "image" and not isinstance(part.get("image"), str)


def wire_part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return one part of a message as OpenAI wants it; all but images are that already."""
    if part.get("type") != "image":
        return part
    return {"type": "image_url", "image_url": {"url": data_url(part["image"])}}


def data_url(image: Any) -> str:
    """Return the address of an image: its own if it has one, else one that holds the image.

    Args:
        image: A PIL image, bytes of an image file, base64 text, or an ``http(s)`` or ``data`` URL.
    """
    if isinstance(image, str) and image.startswith(("http://", "https://", "data:")):
        return image
    if isinstance(image, bytes):
        return f"data:{_media_type(image)};base64,{base64.b64encode(image).decode()}"
    return f"data:image/png;base64,{encode_image(image)}"


def _media_type(image: bytes) -> str:
    if image.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if image.startswith(b"GIF8"):
        return "image/gif"
    return "image/webp" if image.startswith(b"RIFF") and image[8:12] == b"WEBP" else "image/png"


def _encoded_calls(calls: Iterable[ChatMessageToolCall]) -> bytes:
    return codec.dumps([_call_as_dict(call, arguments_text(call.function.arguments)) for call in calls])


def _call_as_dict(call: ChatMessageToolCall, arguments: Any) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call.id, "type": call.type or "function", "function": function}


def arguments_text(arguments: Any) -> str:
    """Return the arguments of a call as the JSON text that goes over the wire."""
    if isinstance(arguments, str):
        return arguments or "{}"
    return "{}" if arguments is None else codec.dumps(arguments).decode()


def calls_as_text(calls: Iterable[ChatMessageToolCall]) -> str:
    """Return tool calls as text, for models that take no tool messages."""
    described = [_call_as_dict(call, call.function.arguments) for call in calls]
    return f"Calling tools:\n{described}"


class ToolEncoder:
    """Encodes sets of tools, each once.

    A set is known by the identity of its schemas, which are kept with its bytes: a tool that makes a
    new schema is encoded anew.
    """

    def __init__(self, keep: int = 256) -> None:
        self._keep = keep
        self._known: dict[tuple[int, ...], tuple[list[Any], bytes]] = {}

    def encode(self, tools: Iterable[Any]) -> bytes:
        """Return the JSON array of the tools' schemas; a schema given as a mapping is taken as it is."""
        schemas = [tool if isinstance(tool, dict) else tool.json_schema() for tool in tools]
        key = tuple(map(id, schemas))
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= self._keep:
                self._known.clear()
            known = self._known[key] = (schemas, codec.dumps(schemas))
        return known[1]


def response_format(wanted: Any) -> Any:
    """Return the response format of a request: a pydantic class stands for the schema it makes."""
    if not isinstance(wanted, type) or not hasattr(wanted, "model_json_schema"):
        return wanted
    schema = {"name": wanted.__name__, "schema": wanted.model_json_schema()}
    return {"type": "json_schema", "json_schema": schema}


# --- Replies, coming in ------------------------------------------------------------------------

_KNOWN = frozenset({"object", "usage", "choices"})
_KNOWN_OF_MESSAGE = frozenset(
    {"role", "content", "tool_calls", "function_call", "reasoning_content", "reasoning"}
)


def reply_message(answer: Mapping[str, Any]) -> ChatMessage:
    """Return a chat completion, which has at least one choice, as a message.

    Calls without an id are given one.
    """
    choice = answer["choices"][0]
    message = choice.get("message") or {}
    calls = message.get("tool_calls") or _old_call(message)
    return ChatMessage(
        MessageRole.ASSISTANT,
        content_text(message.get("content")),
        [_reply_call(call) for call in calls] if calls else None,
        _raw(answer, choice, message),
        token_usage(answer.get("usage")),
        None,
        reasoning_text(message),
    )


def _reply_call(call: Mapping[str, Any]) -> ChatMessageToolCall:
    function = call.get("function") or {}
    arguments = function.get("arguments")
    if arguments in (None, ""):
        arguments = "{}"
    return ChatMessageToolCall(
        ChatMessageToolCallFunction(arguments, function.get("name") or ""),
        call.get("id") or new_call_id(),
        call.get("type") or "function",
    )


def new_call_id() -> str:
    """Return an id for a tool call whose provider gave none."""
    return f"call_{os.urandom(12).hex()}"


def _old_call(message: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """Return the call of a server that still writes ``function_call``."""
    call = message.get("function_call")
    return [{"function": call}] if call else None


def content_text(content: Any) -> str | None:
    """Return the content of a reply as text; some servers send it in parts."""
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_part_text(part) for part in content)
    return str(content)


def _part_text(part: Any) -> str:
    if isinstance(part, dict):
        return part.get("text") or "" if part.get("type", "text") == "text" else ""
    return str(part)


def reasoning_text(message: Mapping[str, Any]) -> str | None:
    """Return what a reasoning model thought, under either of its usual names."""
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    return reasoning if isinstance(reasoning, str) else None


def _raw(answer: Mapping[str, Any], choice: Mapping[str, Any], message: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the answer says beyond the message, in its own shape: thousands of them are kept."""
    raw = {name: value for name, value in answer.items() if value is not None and name not in _KNOWN}
    kept = {name: value for name, value in choice.items() if value is not None and name != "message"}
    extra = {name: value for name, value in message.items() if value and name not in _KNOWN_OF_MESSAGE}
    if extra:
        kept["message"] = extra
    others = answer["choices"][1:]
    raw["choices"] = [kept, *others]
    return raw


def token_usage(usage: Any) -> TokenUsage | None:
    """Return the token counts of an answer, ``None`` if it tells none."""
    if not isinstance(usage, dict):
        return None
    prompt, reply = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if prompt is None and reply is None:
        return None
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
    if cached is None:
        cached = usage.get("prompt_cache_hit_tokens")  # DeepSeek's name
    return TokenUsage(prompt or 0, reply or 0, cached or 0, reasoning or 0)


class StreamedReply:
    """Reads the chunks of a streamed chat completion.

    Args:
        stop_sequences: Where to cut the text, for models that do not stop there themselves.

    Attributes:
        finished: Whether the provider said that the reply is complete.
        usage: The last token counts seen: servers that send some with every chunk count upwards.
    """

    def __init__(self, stop_sequences: Iterable[str] | None = None) -> None:
        self.finished = False
        self.usage: TokenUsage | None = None
        self._calls = _CallPieces()
        self._cutter = StopCutter(stop_sequences) if stop_sequences else None

    def take(self, chunk: Mapping[str, Any]) -> ChatMessageStreamDelta | None:
        """Take one chunk; return what it adds to the reply, if anything."""
        usage = chunk.get("usage")
        if usage:
            self.usage = token_usage(usage) or self.usage
        choices = chunk.get("choices")
        if not choices:
            return None
        choice = choices[0]
        if choice.get("finish_reason") or "message" in choice:
            self.finished = True
        delta = choice.get("delta") or choice.get("message")
        return self._delta(delta) if delta else None

    def _delta(self, delta: Mapping[str, Any]) -> ChatMessageStreamDelta | None:
        content = content_text(delta.get("content"))
        if content and self._cutter is not None:
            content = self._cutter.feed(content)
        calls = delta.get("tool_calls")
        reasoning = reasoning_text(delta)
        if not (content or calls or reasoning):
            return None
        pieces = [self._calls.piece(call) for call in calls] if calls else None
        return ChatMessageStreamDelta(content or None, pieces, None, reasoning)

    def end(self) -> ChatMessageStreamDelta | None:
        """Return what is still due when the stream has ended: held text, token counts."""
        rest = self._cutter.end() if self._cutter is not None else ""
        if not rest and self.usage is None:
            return None
        return ChatMessageStreamDelta(rest or None, None, self.usage)


class _CallPieces:
    """Says which call a piece belongs to, whatever its server leaves out or repeats."""

    def __init__(self) -> None:
        self._ids: list[str] = []  # of our calls, by their index
        self._ours: dict[Any, int] = {}  # index at the server: the call it means now

    def piece(self, call: Mapping[str, Any]) -> ChatMessageToolCallStreamDelta:
        """Return a piece of a call with its index, and its id if it is the first."""
        index, new = self._index(call)
        function = call.get("function") or {}
        return ChatMessageToolCallStreamDelta(
            index,
            self._ids[index] if new else None,
            call.get("type") or ("function" if new else None),
            ChatMessageToolCallFunction(function.get("arguments"), function.get("name") or ""),
        )

    def _index(self, call: Mapping[str, Any]) -> tuple[int, bool]:
        theirs, given = call.get("index"), call.get("id")
        if given and given in self._ids:
            return self._ids.index(given), False
        known = self._ours.get(theirs)
        starts = bool(given) or (theirs is None and bool((call.get("function") or {}).get("name")))
        if known is not None and not starts:
            return known, False
        # A new id at a used index is a new call: some servers number all of them 0.
        self._ids.append(given or new_call_id())
        self._ours[theirs] = len(self._ids) - 1
        return self._ours[theirs], True
