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
)
from manyhands.models import codec
from manyhands.models.media import (
    HeavyOnLoop,
    file_name,
    file_url,
    is_heavy,
    only_text,
    sound,
)
from manyhands.models.media import data_url as data_url
from manyhands.models.stopping import StopCutter
from manyhands.models.thinking import ThinkSplitter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

_TOOL_ROLES = {"tool-call": "assistant", "tool-response": "user"}
_TEXT_START, _TEXT_END = b',"content":"', b'"}'
_PARTS_START, _PARTS_END = b',"content":[', b"]}"


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
        reasoning: The field in which the endpoint wants to see again what led to a tool call.
    """

    def __init__(
        self,
        flatten: bool = False,
        conversions: Mapping[str, str] | None = None,
        reasoning: str | None = None,
    ) -> None:
        self.flatten = flatten
        self.reasoning = reasoning
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
            HeavyOnLoop: There is a picture to encode, and ``on_loop`` was set.
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
            tail = self._encoded_reasoning(message) + b',"tool_calls":' + _encoded_calls(message)
        elif role == "assistant" and (spoken := _kept(message, "audio")):
            tail = b',"audio":' + codec.dumps({"id": spoken[0]["id"]})
        elif role == "tool":
            tail = b',"tool_call_id":' + codec.quoted(message.tool_call_id or "")
        if tail:
            content = "" if tail.startswith(b',"audio"') else message.text
            encoded = codec.quoted(content) if content or role == "tool" else b"null"
            start = b',{"role":' + codec.quoted(role) + b',"content":'
            kept = (self._form(role, "whole"), start + encoded + tail + b"}")
        else:
            kept = self._encoded_content(role, message, on_loop)
        message._encoded = kept
        return kept

    def _encoded_reasoning(self, message: ChatMessage) -> bytes:
        if self.reasoning is None:
            return b""
        if self.reasoning == DETAILS:
            details = [item for item in message.provider_items or () if item["type"].startswith("reasoning.")]
            return b',"reasoning_details":' + codec.dumps(details) if details else b""
        # Missed where it is left out because the model thought nothing.
        return b"," + codec.quoted(self.reasoning) + b":" + codec.quoted(message.reasoning_content or "")

    def _role(self, message: ChatMessage) -> str:
        if self.native_tools and message.tool_call_id and message.role == MessageRole.TOOL_RESPONSE:
            return "tool"
        role = str(message.role)
        return self.roles.get(role, role)

    def _encoded_content(self, role: str, message: ChatMessage, on_loop: bool) -> tuple[_Form, bytes]:
        if self.flatten or not isinstance(message.content, list) or only_text(message.content):
            text = message.text
            if message.tool_calls:
                text = "\n".join(filter(None, [text, calls_as_text(message.tool_calls)]))
            form = self._form(role, "text")
            return form, form.head + codec.quoted(text)[1:-1] + _TEXT_END
        if on_loop and any(is_heavy(part) for part in message.content):
            raise HeavyOnLoop
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


# The field of endpoints that take their reasoning back as a list, each part as it was.
DETAILS = "reasoning_details"


@functools.lru_cache(maxsize=64)
def _shared_encoder(
    flatten: bool, conversions: tuple[tuple[str, str], ...], reasoning: str | None
) -> MessageEncoder:
    return MessageEncoder(flatten, dict(conversions), reasoning)


def named_roles(conversions: Mapping[Any, Any] | None) -> tuple[tuple[str, str], ...]:
    """Return role conversions as texts, for encoders to be known by."""
    return tuple((str(role), str(other)) for role, other in (conversions or {}).items())


def message_encoder(
    flatten: bool = False, conversions: Mapping[Any, Any] | None = None, reasoning: str | None = None
) -> MessageEncoder:
    """Return the encoder for these settings; models with the same settings share it and its work."""
    return _shared_encoder(bool(flatten), named_roles(conversions), reasoning)


# --- Parts and tool calls, going out -----------------------------------------------------------


def wire_part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return one part of a message as OpenAI wants it; parts that are in its form already stay so."""
    kind = part.get("type")
    if kind == "image":
        return {"type": "image_url", "image_url": {"url": data_url(part["image"])}}
    if kind == "audio":
        return {"type": "input_audio", "input_audio": sound(part)}
    if kind == "file" and not isinstance(part["file"], dict):
        return {"type": "file", "file": {"filename": file_name(part), "file_data": file_url(part)}}
    return part


def _kept(message: ChatMessage, kind: str) -> list[dict[str, Any]]:
    return [item for item in message.provider_items or () if item["type"] == kind]


def _encoded_calls(message: ChatMessage) -> bytes:
    calls = message.tool_calls or ()
    encoded = [_call_as_dict(call, arguments_text(call.function.arguments)) for call in calls]
    if message.provider_items:
        extra = {item["id"]: item["extra_content"] for item in _kept(message, "extra_content")}
        encoded = [
            {**call, "extra_content": extra[call["id"]]} if call["id"] in extra else call for call in encoded
        ]
    return codec.dumps(encoded)


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

    Args:
        convert: Brings a schema from OpenAI's form into another one.
        keep: How many sets to remember.
    """

    def __init__(
        self, convert: Callable[[dict[str, Any]], dict[str, Any]] | None = None, keep: int = 256
    ) -> None:
        self._convert = convert
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
            converted = schemas if self._convert is None else [self._convert(schema) for schema in schemas]
            known = self._known[key] = (schemas, codec.dumps(converted))
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
    {"role", "content", "tool_calls", "function_call", "reasoning_content", "reasoning", "reasoning_details"}
)


def reply_message(answer: Mapping[str, Any], strip_thinking: bool = False) -> ChatMessage:
    """Return a chat completion, which has at least one choice, as a message.

    Calls without an id are given one.

    Args:
        answer: The chat completion.
        strip_thinking: Take a ``<think>`` block at the beginning of the text for reasoning.
    """
    choice = answer["choices"][0]
    message = choice.get("message") or {}
    given = message.get("tool_calls") or _old_call(message)
    calls = [_reply_call(call) for call in given] if given else None
    text, reasoning = content_text(message.get("content")), reasoning_text(message)
    audio = message.get("audio")
    if text is None and audio:
        text = audio.get("transcript")
    if strip_thinking and text:
        splitter = ThinkSplitter()
        pieces = splitter.feed(text), splitter.end()
        text = pieces[0][0] + pieces[1][0]
        reasoning = (reasoning or "") + pieces[0][1] + pieces[1][1] or None
    return ChatMessage(
        MessageRole.ASSISTANT,
        text,
        calls,
        _raw(answer, choice, message),
        token_usage(answer.get("usage")),
        None,
        reasoning,
        _provider_items(message.get("reasoning_details"), audio, given, calls),
    )


def _provider_items(
    details: Any, audio: Any, given: Sequence[Mapping[str, Any]] | None, calls: Any
) -> list[dict[str, Any]] | None:
    """Return what the provider wants to see again as it was."""
    items = [detail for detail in details or () if str(detail.get("type")).startswith("reasoning.")]
    if audio and audio.get("id"):
        items.append({"type": "audio", "id": audio["id"]})
    for theirs, ours in zip(given or (), calls or (), strict=True):
        if theirs.get("extra_content"):
            items.append({"type": "extra_content", "id": ours.id, "extra_content": theirs["extra_content"]})
    return items or None


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
    """Return what a reasoning model thought, under any of its usual names."""
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if reasoning is None and isinstance(message.get("content"), list):
        # Mistral writes its thoughts among the parts of the text.
        parts = [part for part in message["content"] if isinstance(part, dict)]
        thoughts = [part for part in parts if part.get("type") == "thinking"]
        reasoning = "".join(content_text(part.get("thinking")) or "" for part in thoughts)
    return reasoning if reasoning and isinstance(reasoning, str) else None


def _raw(answer: Mapping[str, Any], choice: Mapping[str, Any], message: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the answer says beyond the message, in its own shape: thousands of them are kept."""
    raw = _told(answer)
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
        strip_thinking: Take a ``<think>`` block at the beginning of the text for reasoning.

    Attributes:
        finished: Whether the provider said that the reply is complete.
        over: Whether nothing more can come; that is for the stream to say.
        usage: The last token counts seen: servers that send some with every chunk count upwards.
    """

    over = False

    def __init__(self, stop_sequences: Iterable[str] | None = None, strip_thinking: bool = False) -> None:
        self.finished = False
        self.usage: TokenUsage | None = None
        self._calls = _CallPieces()
        self._cutter = StopCutter(stop_sequences) if stop_sequences else None
        self._thoughts = ThinkSplitter() if strip_thinking else None
        self._as_is = self._cutter is None and self._thoughts is None
        self._told: dict[str, Any] | None = None
        self._reason: Any = None
        self._extras = _Extras()

    def take(self, chunk: Mapping[str, Any]) -> ChatMessageStreamDelta | None:
        """Take one chunk; return what it adds to the reply, if anything."""
        usage = chunk.get("usage")
        if usage:
            self.usage = token_usage(usage) or self.usage
        if self._told is None:
            self._told = _told(chunk)
        choices = chunk.get("choices")
        if not choices:
            return None
        choice = choices[0]
        if choice.get("index"):
            return None  # of a second reply, which nobody can tell from the first here
        if choice.get("finish_reason") or "message" in choice:
            self.finished = True
            self._reason = choice.get("finish_reason")
        logprobs = choice.get("logprobs")
        if logprobs:
            self._extras.take_logprobs(logprobs)
        delta = choice.get("delta") or choice.get("message")
        return self._delta(delta) if delta else None

    def _delta(self, delta: Mapping[str, Any]) -> ChatMessageStreamDelta | None:
        content = delta.get("content")
        if content and len(delta) == 1 and type(content) is str and self._as_is:
            return ChatMessageStreamDelta(content)  # a piece of text and nothing else, as nearly all are
        content = content_text(content)
        calls = delta.get("tool_calls")
        reasoning = reasoning_text(delta)
        if not delta.keys() <= _ORDINARY:
            content = self._extras.take(delta) if content is None else content
        if content and self._thoughts is not None:
            content, thought = self._thoughts.feed(content)
            reasoning = (reasoning or "") + thought
        if content and self._cutter is not None:
            content = self._cutter.feed(content)
        if not (content or calls or reasoning):
            return None
        pieces = [self._piece(call) for call in calls] if calls else None
        return ChatMessageStreamDelta(content or None, pieces, None, reasoning or None)

    def _piece(self, call: Mapping[str, Any]) -> ChatMessageToolCallStreamDelta:
        piece = self._calls.piece(call)
        if call.get("extra_content"):
            self._extras.take_call(self._calls.id_of(piece), call["extra_content"])
        return piece

    def end(self) -> ChatMessageStreamDelta | None:
        """Return what is still due when the stream has ended: held text, token counts, the rest."""
        rest, thought = self._thoughts.end() if self._thoughts is not None else ("", "")
        if self._cutter is not None:
            rest = self._cutter.feed(rest) + self._cutter.end()
        items = self._extras.items()
        if not (rest or thought or self.usage or items or self._extras):
            return None
        choice = {"index": 0, "finish_reason": self._reason, **self._extras.fields()}
        raw = {**(self._told or {}), "choices": [choice]}
        return ChatMessageStreamDelta(rest or None, None, self.usage, thought or None, items, raw)


_ORDINARY = frozenset({"role", "content", "tool_calls", "reasoning_content", "reasoning", "refusal"})


def _told(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an answer, or a chunk of one, says of itself."""
    return {name: value for name, value in answer.items() if value is not None and name not in _KNOWN}


class _Extras:
    """What a stream brings besides text and calls: likelihoods, sound, reasoning to be sent back."""

    def __init__(self) -> None:
        self._logprobs: dict[str, list[Any]] = {}
        self._details: dict[tuple[Any, Any], dict[str, Any]] = {}
        self._audio: dict[str, Any] = {}
        self._sound: list[bytes] = []
        self._transcript: list[str] = []
        self._calls: dict[str, Any] = {}
        self._others: dict[str, Any] = {}

    def __bool__(self) -> bool:
        return bool(self._logprobs or self._audio or self._others)

    def take(self, delta: Mapping[str, Any]) -> str | None:
        """Take an unusual piece; return the text in it, if it is spoken."""
        for detail in delta.get("reasoning_details") or ():
            self._take_detail(detail)
        for name in delta.keys() - _ORDINARY - {"audio", "reasoning_details", "function_call"}:
            if delta[name]:
                self._others[name] = delta[name]
        audio = delta.get("audio")
        if not audio:
            return None
        self._audio.update({name: value for name, value in audio.items() if value is not None})
        # Each piece is base64 of its own: joined as text they would not be.
        self._sound.append(base64.b64decode(audio.get("data") or ""))
        self._transcript.append(audio.get("transcript") or "")
        return str(audio.get("transcript") or "")

    def _take_detail(self, detail: dict[str, Any]) -> None:
        """Take a piece of a part of the reasoning; pieces of one part share their index."""
        key = (detail.get("type"), detail.get("index"))
        known = self._details.setdefault(key, {})
        for name, value in detail.items():
            if name in ("text", "summary", "data") and isinstance(value, str):
                known.setdefault(name, []).append(value)
            elif value is not None or name not in known:
                known[name] = value

    def take_logprobs(self, logprobs: Mapping[str, Any]) -> None:
        """Take likelihoods of tokens."""
        for name, tokens in logprobs.items():
            if isinstance(tokens, list):
                self._logprobs.setdefault(name, []).extend(tokens)

    def take_call(self, call_id: str, extra: Any) -> None:
        """Take what belongs to a call."""
        self._calls[call_id] = extra

    def items(self) -> list[dict[str, Any]] | None:
        """Return what the provider wants to see again."""
        details = [
            {name: "".join(value) if isinstance(value, list) else value for name, value in detail.items()}
            for detail in self._details.values()
        ]
        calls = [{"id": call_id, "extra_content": extra} for call_id, extra in self._calls.items()]
        known = _provider_items(details, self._audio, None, None) or []
        return [*known, *({"type": "extra_content", **call} for call in calls)] or None

    def fields(self) -> dict[str, Any]:
        """Return the rest, as a plain reply has it."""
        message = dict(self._others)
        if self._audio:
            sound_ = base64.b64encode(b"".join(self._sound)).decode()
            message["audio"] = {**self._audio, "data": sound_, "transcript": "".join(self._transcript)}
        fields: dict[str, Any] = {"logprobs": self._logprobs} if self._logprobs else {}
        return {**fields, "message": message} if message else fields


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

    def id_of(self, piece: ChatMessageToolCallStreamDelta) -> str:
        """Return the id of the call that a piece belongs to."""
        return self._ids[piece.index or 0]

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
