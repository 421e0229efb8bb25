"""Messages as the items of OpenAI's Responses API, and back.

The format: https://platform.openai.com/docs/api-reference/responses. A message's items are encoded once
and kept on it.
"""

from __future__ import annotations

import functools
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
from manyhands.models import codec, keeping
from manyhands.models.media import (
    HeavyOnLoop,
    data_url,
    file_name,
    file_url,
    is_heavy,
    only_text,
    sound,
)
from manyhands.models.stopping import StopCutter
from manyhands.models.wire import arguments_text, calls_as_text, named_roles, new_call_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_ROLES = {"tool-call": "assistant", "tool-response": "user"}
# What the system prompt turns into where it does not stand first.
_ORDERS = "developer"


class _Mark:
    """How a message was encoded: by whom, and whether it gives instructions."""

    __slots__ = ("encoder", "is_system")

    def __init__(self, encoder: ItemEncoder, is_system: bool) -> None:
        self.encoder = encoder
        self.is_system = is_system


class ItemEncoder:
    """Encodes messages; get one from :func:`item_encoder`.

    Args:
        flatten: Send text only: images are left out, tool calls and results are written as text.
        conversions: Roles by other names, besides the usual ones.
    """

    def __init__(self, flatten: bool = False, conversions: Mapping[str, str] | None = None) -> None:
        self.flatten = flatten
        self.roles = {**_ROLES, **(conversions or {})}
        self.native_tools = not flatten and not (_ROLES.keys() & (conversions or {}).keys())
        self._marks = {kind: _Mark(self, kind) for kind in (False, True)}

    def encode(
        self, messages: Iterable[ChatMessage], *, on_loop: bool = False
    ) -> tuple[list[bytes], list[bytes]]:
        """Return the instructions, as the inside of a JSON text, and the other messages as items.

        Args:
            messages: The conversation; system messages at its beginning are the instructions.
            on_loop: Whether to give up rather than encode a picture.

        Raises:
            HeavyOnLoop: There is a picture to encode, and ``on_loop`` was set.
        """
        instructions: list[bytes] = []
        items: list[bytes] = []
        for message in messages:
            kept = message._encoded if type(message) is ChatMessage else None
            if kept is None or type(kept[0]) is not _Mark or kept[0].encoder is not self:
                kept = self._encoded(message, on_loop)
            mark, data = kept
            if not data:
                continue
            if not mark.is_system:
                items += (b",", data)
            elif items:
                items.append(b',{"role":"%b","content":"%b"}' % (_ORDERS.encode(), data))
            else:
                instructions += (b"\\n", data)
        if items:
            items[0] = items[0][1:]
        return instructions[1:], items

    def _encoded(self, message: ChatMessage, on_loop: bool) -> tuple[_Mark, bytes]:
        message = ChatMessage.from_any(message)
        parts = message.content if isinstance(message.content, list) and not self.flatten else ()
        if on_loop and any(is_heavy(part) for part in parts):
            raise HeavyOnLoop
        role = self.roles.get(str(message.role), str(message.role))
        is_system = role == "system"
        if is_system:
            data = codec.quoted(message.text)[1:-1]
        else:
            data = codec.dumps(self._items(role, message))[1:-1]
        kept = (self._marks[is_system], data)
        message._encoded = kept
        return kept

    def _items(self, role: str, message: ChatMessage) -> list[Mapping[str, Any]]:
        if self.native_tools and message.role == MessageRole.TOOL_RESPONSE and message.tool_call_id:
            output = {"type": "function_call_output", "call_id": message.tool_call_id}
            return [{**output, "output": self._content(message)}]
        if role != "assistant":
            return [{"role": role, "content": self._content(message)}]
        if not self.native_tools:
            written = calls_as_text(message.tool_calls) if message.tool_calls else ""
            return _said("\n".join(filter(None, [message.text, written])))
        found: list[Mapping[str, Any]] = []
        for part in keeping.in_order(message):
            if isinstance(part, str):
                found += _said(part)
            elif isinstance(part, ChatMessageToolCall):
                found.append(_call(part))
            elif is_kept(part):
                found.append(part)
        return found

    def _content(self, message: ChatMessage) -> str | list[Mapping[str, Any]]:
        content = message.content
        if self.flatten or not isinstance(content, list) or only_text(content):
            return message.text
        return [input_part(part) for part in content]


def _said(text: str) -> list[Mapping[str, Any]]:
    return [{"role": "assistant", "content": text}] if text else []


def _call(call: ChatMessageToolCall) -> dict[str, Any]:
    arguments = arguments_text(call.function.arguments)
    return {"type": "function_call", "call_id": call.id, "name": call.function.name, "arguments": arguments}


def is_kept(item: Mapping[str, Any]) -> bool:
    """Return whether an item has to be sent back as it was."""
    return item.get("type") in ("reasoning", "compaction")


@functools.lru_cache(maxsize=64)
def _shared_encoder(flatten: bool, conversions: tuple[tuple[str, str], ...]) -> ItemEncoder:
    return ItemEncoder(flatten, dict(conversions))


def item_encoder(flatten: bool = False, conversions: Mapping[Any, Any] | None = None) -> ItemEncoder:
    """Return the encoder for these settings; models with the same settings share it and its work."""
    return _shared_encoder(bool(flatten), named_roles(conversions))


def input_part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return one part of a message as the Responses API wants it, also one in chat completions' form."""
    kind = part.get("type")
    if kind == "text":
        return {"type": "input_text", "text": part["text"]}
    if kind == "image":
        return {"type": "input_image", "image_url": data_url(part["image"])}
    if kind == "image_url":
        given = part["image_url"]
        detail = {"detail": given["detail"]} if "detail" in given else {}
        return {"type": "input_image", "image_url": given["url"], **detail}
    if kind == "audio":
        return {"type": "input_audio", "input_audio": sound(part)}
    if kind != "file":
        return part
    if isinstance(part["file"], dict):
        return {"type": "input_file", **part["file"]}
    url = file_url(part)
    if not url.startswith("data:"):
        return {"type": "input_file", "file_url": url}
    return {"type": "input_file", "filename": file_name(part), "file_data": url}


def tool_definition(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a tool's schema, which comes in chat completions' form, as the Responses API wants it."""
    function = schema.get("function")
    # Unless told so, it would take every schema for a strict one, and refuse most.
    return schema if function is None else {"type": "function", "strict": False, **function}


def text_format(wanted: Any) -> Any:
    """Return a response format, which comes in chat completions' form, as the Responses API wants it."""
    if isinstance(wanted, dict) and isinstance(wanted.get("json_schema"), dict):
        return {"type": "json_schema", **wanted["json_schema"]}
    return wanted


# --- Replies, coming in ------------------------------------------------------------------------

_ECHOED = frozenset({"object", "output", "usage", "instructions", "tools", "text", "error"})


def reply_message(answer: Mapping[str, Any]) -> ChatMessage:
    """Return an answer, which has output, as a message."""
    found = _Output(answer["output"])
    return ChatMessage(
        MessageRole.ASSISTANT,
        found.text if found.text or not found.calls else None,
        found.calls or None,
        raw_of(answer),
        token_usage(answer.get("usage")),
        None,
        found.thoughts or None,
        found.kept,
    )


class _Output:
    """What the items of an answer come to."""

    def __init__(self, items: Iterable[dict[str, Any]]) -> None:
        texts: list[str] = []
        thoughts: list[str] = []
        marks: list[dict[str, Any]] = []
        self.calls: list[ChatMessageToolCall] = []
        for item in items:
            kind = item.get("type")
            if kind == "message":
                texts.append(_message_text(item))
                marks.append(keeping.text_mark(texts[-1]))
            elif kind == "function_call":
                call_id = item.get("call_id") or item.get("id") or new_call_id()
                function = ChatMessageToolCallFunction(item.get("arguments") or "{}", item.get("name") or "")
                self.calls.append(ChatMessageToolCall(function, call_id))
                marks.append(keeping.call_mark(call_id))
            elif is_kept(item):
                thoughts.append(_thought(item))
                marks.append(_sendable(item))
        self.text = "".join(texts)
        self.thoughts = "\n\n".join(filter(None, thoughts))
        self.kept = keeping.kept(marks)


def _message_text(item: Mapping[str, Any]) -> str:
    parts = item.get("content") or ()
    if isinstance(parts, str):
        return parts
    return "".join(part.get("text") or "" for part in parts if part.get("type") == "output_text")


def _thought(item: Mapping[str, Any]) -> str:
    parts = [*(item.get("content") or ()), *(item.get("summary") or ())]
    return "\n\n".join(part["text"] for part in parts if part.get("text"))


def _sendable(item: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in item.items()
        if name != "status" and (value is not None or name == "summary")
    }


def raw_of(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an answer says beyond its text, calls and reasoning, in its own shape."""
    raw = {name: value for name, value in answer.items() if value is not None and name not in _ECHOED}
    rich = [item for item in answer.get("output") or () if not _is_ordinary(item)]
    return {**raw, "output": rich} if rich else raw


def _is_ordinary(item: Mapping[str, Any]) -> bool:
    if item.get("type") != "message":
        return item.get("type") == "function_call" or is_kept(item)
    parts = [part for part in item.get("content") or () if isinstance(part, dict)]
    return all(
        part.get("type") == "output_text" and not part.get("annotations") and not part.get("logprobs")
        for part in parts
    )


def token_usage(usage: Any) -> TokenUsage | None:
    """Return the token counts of an answer, ``None`` if it tells none."""
    if not isinstance(usage, dict):
        return None
    cached = (usage.get("input_tokens_details") or {}).get("cached_tokens")
    reasoning = (usage.get("output_tokens_details") or {}).get("reasoning_tokens")
    return TokenUsage(
        usage.get("input_tokens") or 0, usage.get("output_tokens") or 0, cached or 0, reasoning or 0
    )


_ENDS = ("response.completed", "response.incomplete", "response.failed")
_THOUGHTS = ("response.reasoning_summary_text.delta", "response.reasoning_text.delta")


class StreamedItems:
    """Reads the events of a streamed answer.

    Args:
        stop_sequences: Where to cut the text.

    Attributes:
        finished: Whether the provider said that the reply is complete.
        over: Whether nothing more can come.
    """

    def __init__(self, stop_sequences: Iterable[str] | None = None) -> None:
        self.finished = False
        self.over = False
        self._cutter = StopCutter(stop_sequences) if stop_sequences else None
        self._answer: dict[str, Any] = {}
        self._items: dict[int, dict[str, Any]] = {}  # those that are complete
        self._calls: dict[int, int] = {}  # place in the output: number of the call
        self._written: set[int] = set()  # places of what came in pieces
        self._last_thought: tuple[Any, ...] | None = None

    def take(self, chunk: Mapping[str, Any]) -> ChatMessageStreamDelta | None:
        """Take one event; return what it adds to the reply, if anything."""
        kind = chunk.get("type")
        if kind == "response.output_text.delta":
            self._written.add(chunk.get("output_index", 0))
            return self._text(chunk["delta"])
        if kind == "response.function_call_arguments.delta":
            place = chunk["output_index"]
            self._written.add(place)
            return self._arguments(place, chunk["delta"])
        if kind in _THOUGHTS:
            return self._thought(chunk)
        if kind == "response.output_item.added":
            return self._begin(chunk["output_index"], chunk["item"])
        if kind == "response.output_item.done":
            return self._done(chunk["output_index"], chunk["item"])
        if kind in _ENDS:
            self._end(chunk["response"])
        elif chunk.get("object") == "response":
            return self._whole(dict(chunk))
        return None

    def _text(self, text: str) -> ChatMessageStreamDelta | None:
        text = text if self._cutter is None else self._cutter.feed(text)
        return ChatMessageStreamDelta(text) if text else None

    def _thought(self, chunk: Mapping[str, Any]) -> ChatMessageStreamDelta | None:
        place = chunk.get("output_index", 0)
        self._written.add(place)
        part = (place, chunk.get("type"), chunk.get("summary_index"), chunk.get("content_index"))
        gap = "\n\n" if self._last_thought not in (None, part) else ""
        self._last_thought = part
        return ChatMessageStreamDelta(reasoning_content=gap + chunk["delta"])

    def _begin(self, place: int, item: dict[str, Any]) -> ChatMessageStreamDelta | None:
        if item.get("type") != "function_call":
            return None
        number = self._calls[place] = len(self._calls)
        call_id = item.get("call_id") or item.get("id") or new_call_id()
        function = ChatMessageToolCallFunction("", item.get("name") or "")
        call = ChatMessageToolCallStreamDelta(number, call_id, "function", function)
        return ChatMessageStreamDelta(None, [call])

    def _arguments(self, place: int, text: str) -> ChatMessageStreamDelta | None:
        function = ChatMessageToolCallFunction(text, "")
        return ChatMessageStreamDelta(
            None, [ChatMessageToolCallStreamDelta(self._calls[place], function=function)]
        )

    def _done(self, place: int, item: dict[str, Any]) -> ChatMessageStreamDelta | None:
        """Take a complete item; say of it what has not been said in pieces."""
        self._items[place] = item
        if place in self._written:
            return None
        kind = item.get("type")
        if kind == "message":
            return self._text(_message_text(item))
        if kind == "function_call":
            begun = None if place in self._calls else self._begin(place, item)
            written = self._arguments(place, item.get("arguments") or "{}")
            if begun is not None and begun.tool_calls and written is not None:
                begun.tool_calls += written.tool_calls or []
            return begun or written
        thought = _thought(item) if is_kept(item) else ""
        return ChatMessageStreamDelta(reasoning_content=thought) if thought else None

    def _end(self, response: dict[str, Any]) -> None:
        self._answer = response
        self.finished = self.over = True

    def _whole(self, response: dict[str, Any]) -> ChatMessageStreamDelta:
        """Take the answer of a server that does not stream."""
        self._end(response)
        found = [self._done(place, item) for place, item in enumerate(response.get("output") or ())]
        deltas = [delta for delta in found if delta is not None]
        return ChatMessageStreamDelta(
            "".join(delta.content or "" for delta in deltas) or None,
            [call for delta in deltas for call in delta.tool_calls or ()] or None,
            None,
            "\n\n".join(delta.reasoning_content for delta in deltas if delta.reasoning_content) or None,
        )

    def end(self) -> ChatMessageStreamDelta | None:
        """Return what is still due when the stream has ended: held text, token counts, the rest."""
        rest = self._cutter.end() if self._cutter is not None else ""
        items = self._answer.get("output") or [self._items[place] for place in sorted(self._items)]
        return ChatMessageStreamDelta(
            rest or None,
            None,
            token_usage(self._answer.get("usage")),
            None,
            _Output(items).kept,
            raw_of({**self._answer, "output": items}),
        )
