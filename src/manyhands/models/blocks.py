"""Messages as the blocks of Anthropic's Messages API, and back.

The format: https://docs.claude.com/en/api/messages. A message's blocks are encoded once and kept on it;
neighbours of one role are one message there, so that a request is its blocks, joined.
"""

from __future__ import annotations

import functools
import re
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
    split_data_url,
)
from manyhands.models.stopping import StopCutter
from manyhands.models.wire import calls_as_text, named_roles, new_call_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_ROLES = {"tool-call": "assistant", "tool-response": "user", "developer": "system"}
_TURN_END = b"]}"
_NO_ID = re.compile(r"[^a-zA-Z0-9_-]")


class _Mark:
    """How a message was encoded: by whom, in which role, and what begins a message of that role."""

    __slots__ = ("encoder", "head", "role")

    def __init__(self, encoder: BlockEncoder, role: str) -> None:
        self.encoder = encoder
        self.role = role
        self.head = _TURN_END + b',{"role":' + codec.quoted(role) + b',"content":['


class BlockEncoder:
    """Encodes messages; get one from :func:`block_encoder`.

    Args:
        flatten: Send text only: images are left out, tool calls and results are written as text.
        conversions: Roles by other names, besides the usual ones.
    """

    def __init__(self, flatten: bool = False, conversions: Mapping[str, str] | None = None) -> None:
        self.flatten = flatten
        self.roles = {**_ROLES, **(conversions or {})}
        self.native_tools = not flatten and not ({"tool-call", "tool-response"} & (conversions or {}).keys())
        self._marks: dict[str, _Mark] = {}

    def encode(
        self, messages: Iterable[ChatMessage], *, on_loop: bool = False
    ) -> tuple[list[bytes], list[bytes]]:
        """Return the system prompt and the other messages, as pieces of two JSON arrays without brackets.

        Args:
            messages: The conversation; system messages count wherever they stand.
            on_loop: Whether to give up rather than encode a picture.

        Returns:
            The pieces. The last piece of the system prompt, and the last but one of the messages, are
            blocks.

        Raises:
            HeavyOnLoop: There is a picture to encode, and ``on_loop`` was set.
        """
        system: list[bytes] = []
        turns: list[bytes] = []
        last = ""
        for message in messages:
            kept = message._encoded if type(message) is ChatMessage else None
            if kept is None or type(kept[0]) is not _Mark or kept[0].encoder is not self:
                kept = self._encoded(message, on_loop)
            mark, data = kept
            if not data:
                continue
            if mark.role == last:
                turns += (b",", data)
            elif mark.role == "system":
                system += (b",", data)
            else:
                turns += (mark.head, data)
                last = mark.role
        if turns:
            turns[0] = turns[0][len(_TURN_END) + 1 :]
            turns.append(_TURN_END)
        return system[1:], turns

    def _encoded(self, message: ChatMessage, on_loop: bool) -> tuple[_Mark, bytes]:
        message = ChatMessage.from_any(message)
        parts = message.content if isinstance(message.content, list) and not self.flatten else ()
        if on_loop and any(is_heavy(part) for part in parts):
            raise HeavyOnLoop
        role = self.roles.get(str(message.role), str(message.role))
        mark = self._marks.get(role)
        if mark is None:
            mark = self._marks[role] = _Mark(self, role)
        blocks = self._blocks(role, message)
        kept = (mark, codec.dumps(blocks)[1:-1])
        message._encoded = kept
        return kept

    def _blocks(self, role: str, message: ChatMessage) -> list[Mapping[str, Any]]:
        if self.native_tools and message.role == MessageRole.TOOL_RESPONSE and message.tool_call_id:
            result: dict[str, Any] = {"type": "tool_result", "tool_use_id": _call_id(message.tool_call_id)}
            return [{**result, "content": self._content(message)}]
        if role != "assistant" or not (message.tool_calls or message.provider_items):
            return self._content(message)
        if not self.native_tools:
            written = calls_as_text(message.tool_calls) if message.tool_calls else ""
            return _texts("\n".join(filter(None, [message.text, written])))
        found: list[Mapping[str, Any]] = []
        for part in keeping.in_order(message):
            if isinstance(part, str):
                found += _texts(part)
            elif isinstance(part, ChatMessageToolCall):
                found.append(_use(part))
            elif is_kept(part):
                found.append(part)
        return found

    def _content(self, message: ChatMessage) -> list[Mapping[str, Any]]:
        content = message.content
        if self.flatten or not isinstance(content, list):
            return _texts(message.text)
        blocks = [block_of(part) for part in content]
        return [block for block in blocks if block.get("type") != "text" or str(block["text"]).strip()]


def _texts(text: str) -> list[Mapping[str, Any]]:
    # Blank text is refused.
    return [{"type": "text", "text": text}] if text.strip() else []


def _call_id(call_id: str) -> str:
    """Return a call's id with the letters only that are let in; other providers have more."""
    return _NO_ID.sub("_", call_id)


def _use(call: ChatMessageToolCall) -> dict[str, Any]:
    arguments = call.function.arguments
    if isinstance(arguments, str):
        try:
            arguments = codec.loads(arguments) if arguments.strip() else {}
        except ValueError:
            arguments = {"arguments": arguments}
    given = (
        arguments if isinstance(arguments, dict) else {} if arguments is None else {"arguments": arguments}
    )
    return {"type": "tool_use", "id": _call_id(call.id), "name": call.function.name, "input": given}


def is_kept(block: Mapping[str, Any]) -> bool:
    """Return whether a block has to be sent back as it was: thoughts, tools that ran over there."""
    kind = str(block.get("type"))
    return kind in ("thinking", "redacted_thinking", "server_tool_use", "mcp_tool_use", "compaction") or (
        kind.endswith("_tool_result")
    )


@functools.lru_cache(maxsize=64)
def _shared_encoder(flatten: bool, conversions: tuple[tuple[str, str], ...]) -> BlockEncoder:
    return BlockEncoder(flatten, dict(conversions))


def block_encoder(flatten: bool = False, conversions: Mapping[Any, Any] | None = None) -> BlockEncoder:
    """Return the encoder for these settings; models with the same settings share it and its work."""
    return _shared_encoder(bool(flatten), named_roles(conversions))


def block_of(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return one part of a message as a block; parts that are blocks already stay so."""
    kind = part.get("type")
    if kind == "image" and "image" in part:
        return {"type": "image", "source": _source(data_url(part["image"]))}
    if kind == "image_url":
        return {"type": "image", "source": _source(part["image_url"]["url"])}
    if kind == "file":
        return _document(part)
    return part


def _document(part: Mapping[str, Any]) -> dict[str, Any]:
    file = part["file"]
    if not isinstance(file, dict):
        return {"type": "document", "source": _source(file_url(part)), "title": file_name(part)}
    if "file_id" in file:
        return {"type": "document", "source": {"type": "file", "file_id": file["file_id"]}}
    named = {"title": file["filename"]} if file.get("filename") else {}
    return {"type": "document", "source": _source(file["file_data"]), **named}


def _source(url: str) -> dict[str, Any]:
    found = split_data_url(url)
    if found is None:
        return {"type": "url", "url": url}
    return {"type": "base64", "media_type": found[0], "data": found[1]}


def tool_definition(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a tool's schema, which comes in OpenAI's form, as Anthropic wants it."""
    function = schema.get("function")
    if function is None:
        return schema
    definition = {"name": function["name"], "description": function.get("description") or ""}
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    strict = {"strict": True} if function.get("strict") else {}
    return {**definition, "input_schema": parameters, **strict}


# --- Replies, coming in ------------------------------------------------------------------------


def reply_message(answer: Mapping[str, Any]) -> ChatMessage:
    """Return an answer, which has content, as a message."""
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ChatMessageToolCall] = []
    marks: list[dict[str, Any]] = []
    for block in answer["content"]:
        kind = block.get("type")
        if kind == "text":
            texts.append(block.get("text") or "")
            marks.append(keeping.text_mark(texts[-1]))
        elif kind == "tool_use":
            call_id = block.get("id") or new_call_id()
            arguments = codec.dumps(block.get("input") or {}).decode()
            calls.append(
                ChatMessageToolCall(ChatMessageToolCallFunction(arguments, block.get("name") or ""), call_id)
            )
            marks.append(keeping.call_mark(call_id))
        elif is_kept(block):
            thoughts.append(block.get("thinking") or "")
            marks.append(block)
    return ChatMessage(
        MessageRole.ASSISTANT,
        "".join(texts) if texts or not calls else None,
        calls or None,
        raw_of(answer),
        token_usage(answer.get("usage")),
        None,
        "".join(thoughts) or None,
        keeping.kept(marks),
    )


def raw_of(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an answer says beyond its blocks; blocks with more than text are kept."""
    raw = {name: value for name, value in answer.items() if value is not None and name != "content"}
    rich = [block for block in answer.get("content") or () if block.get("citations") or _is_foreign(block)]
    return {**raw, "content": rich} if rich else raw


def _is_foreign(block: Mapping[str, Any]) -> bool:
    return block.get("type") not in ("text", "tool_use") and not is_kept(block)


def token_usage(usage: Any) -> TokenUsage | None:
    """Return the token counts of an answer, ``None`` if it tells none.

    Anthropic counts what it read from its cache, or wrote to it, apart; here the prompt is all of it.
    """
    if not isinstance(usage, dict) or not usage:
        return None
    cached = usage.get("cache_read_input_tokens") or 0
    written = usage.get("cache_creation_input_tokens") or 0
    details = usage.get("output_tokens_details") or {}
    return TokenUsage(
        (usage.get("input_tokens") or 0) + cached + written,
        usage.get("output_tokens") or 0,
        cached,
        details.get("thinking_tokens") or 0,
    )


_PIECES = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
    "input_json_delta": "partial_json",
}


class StreamedBlocks:
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
        self._usage: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._pieces: dict[int, list[str]] = {}  # of the field that a block is made of
        self._calls: dict[int, int] = {}  # block: number of the call

    def take(self, chunk: Mapping[str, Any]) -> ChatMessageStreamDelta | None:
        """Take one event; return what it adds to the reply, if anything."""
        kind = chunk.get("type")
        if kind == "content_block_delta":
            return self._piece(chunk["index"], chunk["delta"])
        if kind == "content_block_start":
            return self._start(chunk["index"], dict(chunk["content_block"]))
        if kind == "content_block_stop":
            return self._stop(chunk["index"])
        if kind == "message_start":
            self._begin(chunk["message"])
        elif kind == "message_delta":
            self._answer.update({name: value for name, value in chunk["delta"].items() if value is not None})
            self._count(chunk.get("usage"))
            self.finished = self.finished or bool(chunk["delta"].get("stop_reason"))
        elif kind == "message_stop":
            self.finished = self.over = True
        elif kind == "message":
            return self._whole(chunk)
        return None

    def _begin(self, message: Mapping[str, Any]) -> None:
        self._answer = {name: value for name, value in message.items() if name not in ("content", "usage")}
        self._count(message.get("usage"))

    def _count(self, usage: Mapping[str, Any] | None) -> None:
        # Counts are those of the whole reply so far, and what was told before may be left out.
        self._usage.update({name: value for name, value in (usage or {}).items() if value is not None})

    def _whole(self, message: Mapping[str, Any]) -> ChatMessageStreamDelta | None:
        """Take the answer of a server that does not stream."""
        self._begin(message)
        self.finished = self.over = True
        deltas = []
        for index, block in enumerate(message.get("content") or ()):
            deltas += [self._start(index, dict(block)), self._stop(index)]
        found = [delta for delta in deltas if delta is not None]
        return ChatMessageStreamDelta(
            "".join(delta.content or "" for delta in found) or None,
            [call for delta in found for call in delta.tool_calls or ()] or None,
            None,
            "".join(delta.reasoning_content or "" for delta in found) or None,
        )

    def _start(self, index: int, block: dict[str, Any]) -> ChatMessageStreamDelta | None:
        self._blocks[index] = block
        self._pieces[index] = []
        kind = block.get("type")
        if kind == "tool_use":
            number = self._calls[index] = len(self._calls)
            block["id"] = block.get("id") or new_call_id()
            function = ChatMessageToolCallFunction("", block.get("name") or "")
            call = ChatMessageToolCallStreamDelta(number, block["id"], "function", function)
            return ChatMessageStreamDelta(None, [call])
        for piece, field in (("text_delta", "text"), ("thinking_delta", "thinking")):
            if block.get(field):
                return self._piece(index, {"type": piece, field: block[field]})
        return None

    def _piece(self, index: int, delta: Mapping[str, Any]) -> ChatMessageStreamDelta | None:
        kind = delta.get("type") or ""
        field = _PIECES.get(kind)
        if kind == "citations_delta":
            block = self._blocks[index]
            block["citations"] = block.get("citations") or []
            block["citations"].append(delta["citation"])
        piece = delta.get(field) if field else None
        if not piece:
            return None
        if kind == "signature_delta":
            self._blocks[index]["signature"] = piece
            return None
        self._pieces[index].append(piece)
        if kind == "text_delta":
            text = piece if self._cutter is None else self._cutter.feed(piece)
            return ChatMessageStreamDelta(text) if text else None
        if kind == "thinking_delta":
            return ChatMessageStreamDelta(reasoning_content=piece)
        return self._arguments(index, piece)

    def _arguments(self, index: int, piece: str) -> ChatMessageStreamDelta | None:
        if index not in self._calls:
            return None  # of a tool that runs over there
        function = ChatMessageToolCallFunction(piece, "")
        return ChatMessageStreamDelta(
            None, [ChatMessageToolCallStreamDelta(self._calls[index], function=function)]
        )

    def _stop(self, index: int) -> ChatMessageStreamDelta | None:
        block, pieces = self._blocks[index], self._pieces[index]
        kind, text = block.get("type"), "".join(pieces)
        if kind in ("text", "thinking"):
            block[kind] = text
        elif "input" in block and pieces:
            block["input"] = codec.loads(text) if kind != "tool_use" else {}
        elif kind == "tool_use":
            return self._arguments(index, codec.dumps(block.get("input") or {}).decode())
        return None

    def end(self) -> ChatMessageStreamDelta | None:
        """Return what is still due when the stream has ended: held text, token counts, the rest."""
        rest = self._cutter.end() if self._cutter is not None else ""
        marks: list[dict[str, Any]] = []
        for block in self._blocks.values():
            if block.get("type") == "text":
                marks.append(keeping.text_mark(block.get("text") or ""))
            elif block.get("type") == "tool_use":
                marks.append(keeping.call_mark(block["id"]))
            elif is_kept(block):
                marks.append(block)
        raw = raw_of({**self._answer, "usage": self._usage, "content": list(self._blocks.values())})
        usage = token_usage(self._usage)
        return ChatMessageStreamDelta(rest or None, None, usage, None, keeping.kept(marks), raw)
