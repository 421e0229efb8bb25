"""Messages in the form of Amazon Bedrock's Converse, and back.

Converse is strict where others are not: two roles that take turns, no empty text, tool calls and results
only in requests that offer tools, and results in the very next message. What a conversation holds beyond
that is brought into this form here, never refused.
"""

from __future__ import annotations

import base64
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
    text_part,
)
from manyhands.models import codec, keeping
from manyhands.models.cleaning import tool_role_conversions
from manyhands.models.media import data_url, file_name, file_url, sound, split_data_url
from manyhands.models.stopping import StopCutter
from manyhands.models.wire import calls_as_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Block = dict[str, Any]
_BAD_IN_ID = re.compile(r"[^a-zA-Z0-9_-]")
_LONGEST_ID = 64
_BAD_IN_NAME = re.compile(r"[^a-zA-Z0-9\-()\[\]]+")
_THOUGHT = "bedrock.reasoning"
# What documents are called by those who send them, and by Converse.
_DOCUMENTS = {
    "plain": "txt",
    "markdown": "md",
    "msword": "doc",
    "vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "vnd.ms-excel": "xls",
    "vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
}


# --- Going out ---------------------------------------------------------------------------------


class ConverseEncoder:
    """Writes a conversation as a request's ``system`` and ``messages``.

    Args:
        conversions: Roles by the roles that replace them, besides the usual ones.
        text_only: Leave images out.
        native: Write tool calls and results as such, else as text.
    """

    def __init__(self, conversions: Mapping[str, str], text_only: bool, native: bool) -> None:
        usual = {str(role): str(other) for role, other in tool_role_conversions.items()}
        self._roles = {**usual, **conversions}
        self._text_only = text_only
        self._native = native

    def encode(self, messages: Iterable[ChatMessage]) -> tuple[list[Block], list[dict[str, Any]]]:
        """Return the system blocks and the messages.

        Raises:
            ValueError: An image is an address on the web, which Bedrock does not fetch.
        """
        system: list[Block] = []
        turns: list[dict[str, Any]] = []
        for given in messages:
            message = ChatMessage.from_any(given)
            role = self._roles.get(str(message.role), str(message.role))
            blocks = self._blocks(message)
            if role == "system":
                system += blocks
            elif turns and turns[-1]["role"] == role:
                turns[-1]["content"] += blocks
            elif blocks:
                turns.append({"role": role, "content": blocks})
        return system, [{**turn, "content": _results_first(turn["content"])} for turn in turns]

    def _blocks(self, message: ChatMessage) -> list[Block]:
        if self._native and message.tool_call_id and message.role == MessageRole.TOOL_RESPONSE:
            content = self._content(message.content) or [{"text": "(nothing)"}]
            return [{"toolResult": {"toolUseId": call_id(message.tool_call_id), "content": content}}]
        blocks = self._content(message.content)
        if not message.tool_calls:
            return blocks
        if not self._native:
            return [*blocks, {"text": calls_as_text(message.tool_calls)}]
        # A model that thought before it called wants to see the signed thought again, in its place.
        return [block for part in keeping.in_order(message) for block in self._part_of_reply(part)]

    def _part_of_reply(self, part: str | dict[str, Any] | ChatMessageToolCall) -> list[Block]:
        if isinstance(part, str):
            return self._content(part)
        return [_tool_use(part)] if isinstance(part, ChatMessageToolCall) else _thought_block(part)

    def _content(self, content: str | Sequence[Mapping[str, Any]] | None) -> list[Block]:
        parts = [text_part(content)] if isinstance(content, str) else content or []
        blocks: list[Block] = []
        for part in parts:
            if part.get("type") == "text":
                blocks += [{"text": part["text"]}] if part["text"].strip() else []
            elif not self._text_only:
                blocks.append(_media_block(part))
        return blocks


def _results_first(blocks: list[Block]) -> list[Block]:
    return sorted(blocks, key=lambda block: "toolResult" not in block)


def call_id(given: str) -> str:
    """Return a call's id as Bedrock takes it; ids of other providers may hold more, or be longer."""
    return _BAD_IN_ID.sub("_", given)[-_LONGEST_ID:] or "call"


def _tool_use(call: ChatMessageToolCall) -> Block:
    arguments = call.function.arguments
    if isinstance(arguments, str):
        try:
            arguments = codec.loads(arguments or "{}")
        except ValueError:
            arguments = {"text": arguments}
    if not isinstance(arguments, dict):
        arguments = {} if arguments is None else {"value": arguments}
    return {"toolUse": {"toolUseId": call_id(call.id), "name": call.function.name, "input": arguments}}


def _media_block(part: Mapping[str, Any]) -> Block:
    """Return a part with a picture, sound or file as a block; what is a block already stays as it is.

    Raises:
        ValueError: It is an address on the web.
    """
    kind = part.get("type")
    if kind in ("image", "image_url"):
        form, data = _from_url(data_url(part["image"] if kind == "image" else part["image_url"]["url"]))
        return {"image": {"format": form, "source": {"bytes": data}}}
    if kind == "audio":
        heard = sound(part)
        return {"audio": {"format": heard["format"], "source": {"bytes": base64.b64decode(heard["data"])}}}
    if kind == "file":
        form, data = _from_url(file_url(part))
        name = _BAD_IN_NAME.sub(" ", file_name(part).rpartition(".")[0] or file_name(part)).strip() or "file"
        return {"document": {"format": form, "name": name, "source": {"bytes": data}}}
    return dict(part)


def _from_url(url: str) -> tuple[str, bytes]:
    found = split_data_url(url)
    if found is None:
        raise ValueError(f"Bedrock takes images and files as bytes, not from an address such as {url[:80]}.")
    form = found[0].rpartition("/")[2].lower()
    return {"jpg": "jpeg", **_DOCUMENTS}.get(form, form), base64.b64decode(found[1])


def tool_config(tools: Iterable[Any], choice: Any) -> dict[str, Any]:
    """Return the tools of a request and how free the model is to use them.

    Args:
        tools: Tools, or their schemas in OpenAI's form.
        choice: ``tool_choice`` in OpenAI's form; ``None`` leaves it to the model.
    """
    config: dict[str, Any] = {"tools": [_tool_spec(tool) for tool in tools]}
    if isinstance(choice, dict):
        named = choice.get("function", {}).get("name")
        config["toolChoice"] = {"tool": {"name": named}} if named else choice
    elif choice in ("required", "any"):
        config["toolChoice"] = {"any": {}}
    elif choice == "auto":
        config["toolChoice"] = {"auto": {}}
    return config


def _tool_spec(tool: Any) -> dict[str, Any]:
    schema = tool if isinstance(tool, dict) else tool.json_schema()
    if "toolSpec" in schema or "function" not in schema:
        return schema
    function = schema["function"]
    spec = {
        "name": function["name"],
        "inputSchema": {"json": function.get("parameters") or {"type": "object", "properties": {}}},
    }
    if function.get("description"):
        spec["description"] = function["description"]
    return {"toolSpec": spec}


def output_config(wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a response format in OpenAI's form as Converse's, ``None`` if it has no schema."""
    described = wanted.get("json_schema")
    if not described:
        return None
    schema = {"name": described.get("name") or "reply", "schema": codec.dumps(described["schema"]).decode()}
    return {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": schema}}}


# --- Coming in ---------------------------------------------------------------------------------


def reply_message(response: Mapping[str, Any]) -> ChatMessage:
    """Return Converse's response as a message."""
    blocks = response.get("output", {}).get("message", {}).get("content") or []
    texts = [block["text"] for block in blocks if "text" in block]
    calls = [_call(block["toolUse"]) for block in blocks if "toolUse" in block]
    thoughts = [block["reasoningContent"] for block in blocks if "reasoningContent" in block]
    return ChatMessage(
        MessageRole.ASSISTANT,
        "".join(texts) if texts or not calls else None,
        calls or None,
        {name: value for name, value in response.items() if name != "ResponseMetadata"},
        token_usage(response.get("usage")),
        reasoning_content="".join(each.get("reasoningText", {}).get("text", "") for each in thoughts) or None,
        provider_items=_kept(blocks),
    )


def _call(use: Mapping[str, Any]) -> ChatMessageToolCall:
    arguments = codec.dumps(use.get("input") or {}).decode()
    return ChatMessageToolCall(ChatMessageToolCallFunction(arguments, use["name"]), use["toolUseId"])


def _kept(blocks: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]] | None:
    """Return what the provider wants to see again, as JSON values."""
    parts = []
    for block in blocks:
        if "text" in block:
            parts.append(keeping.text_mark(block["text"]))
        elif "toolUse" in block:
            parts.append(keeping.call_mark(block["toolUse"]["toolUseId"]))
        elif "reasoningContent" in block:
            thought = dict(block["reasoningContent"])
            if isinstance(thought.get("redactedContent"), bytes):
                thought["redactedContent"] = base64.b64encode(thought["redactedContent"]).decode()
            parts.append({"type": _THOUGHT, **thought})
    return keeping.kept(parts)


def _thought_block(item: Mapping[str, Any]) -> list[Block]:
    if item.get("type") != _THOUGHT:
        return []  # another provider's
    thought = {name: value for name, value in item.items() if name != "type"}
    if "redactedContent" in thought:
        thought["redactedContent"] = base64.b64decode(thought["redactedContent"])
    return [{"reasoningContent": thought}]


def token_usage(usage: Mapping[str, Any] | None) -> TokenUsage | None:
    """Return the token counts; Bedrock's ``inputTokens`` leave out what came from the cache or went there."""
    if not usage:
        return None
    read = usage.get("cacheReadInputTokens") or 0
    written = usage.get("cacheWriteInputTokens") or 0
    return TokenUsage((usage.get("inputTokens") or 0) + read + written, usage.get("outputTokens") or 0, read)


class StreamedReply:
    """Reads the events of a streamed reply.

    Args:
        stop_sequences: Where to cut the text, for models that do not stop there themselves.

    Attributes:
        finished: Whether Bedrock said that the reply is complete.
    """

    def __init__(self, stop_sequences: Iterable[str] | None = None) -> None:
        self.finished = False
        self._raw: dict[str, Any] = {}
        self._calls: dict[int, int] = {}  # place among the blocks: place among the calls
        self._blocks: dict[int, dict[str, Any]] = {}  # by their places, as in a whole reply
        self._cutter = StopCutter(stop_sequences) if stop_sequences else None

    def take(self, event: Mapping[str, Any]) -> ChatMessageStreamDelta | None:
        """Take one event; return what it adds to the reply, if anything."""
        if "contentBlockDelta" in event:
            return self._delta(event["contentBlockDelta"])
        if "contentBlockStart" in event:
            return self._start(event["contentBlockStart"])
        if "messageStop" in event:
            self.finished = True
            self._raw |= event["messageStop"]
        elif "metadata" in event:
            self._raw |= event["metadata"]
        return None

    def _start(self, block: Mapping[str, Any]) -> ChatMessageStreamDelta | None:
        use = block.get("start", {}).get("toolUse")
        if not use:
            return None
        index = self._calls.setdefault(block["contentBlockIndex"], len(self._calls))
        self._blocks[block["contentBlockIndex"]] = {"toolUse": use}
        function = ChatMessageToolCallFunction("", use["name"])
        piece = ChatMessageToolCallStreamDelta(index, use["toolUseId"], "function", function)
        return ChatMessageStreamDelta(tool_calls=[piece])

    def _delta(self, block: Mapping[str, Any]) -> ChatMessageStreamDelta | None:
        delta, place = block["delta"], block["contentBlockIndex"]
        if "text" in delta:
            whole = self._blocks.setdefault(place, {"text": ""})
            whole["text"] += delta["text"]
            text = self._cutter.feed(delta["text"]) if self._cutter else delta["text"]
            return ChatMessageStreamDelta(text) if text else None
        if "toolUse" in delta:
            function = ChatMessageToolCallFunction(delta["toolUse"]["input"], "")
            piece = ChatMessageToolCallStreamDelta(self._calls.get(place, 0), function=function)
            return ChatMessageStreamDelta(tool_calls=[piece])
        if "reasoningContent" in delta:
            return self._think(delta["reasoningContent"], place)
        return None

    def _think(self, thought: Mapping[str, Any], place: int) -> ChatMessageStreamDelta | None:
        kept = self._blocks.setdefault(place, {"reasoningContent": {}})["reasoningContent"]
        for name, value in thought.items():
            if name == "redactedContent":
                kept[name] = kept.get(name, b"") + value
            else:
                part = kept.setdefault("reasoningText", {"text": ""})
                part[name] = part.get(name, "") + value
        return ChatMessageStreamDelta(reasoning_content=thought["text"]) if thought.get("text") else None

    def end(self) -> ChatMessageStreamDelta:
        """Return what is still due when the stream has ended: held text, token counts, signed thoughts."""
        rest = self._cutter.end() if self._cutter else ""
        return ChatMessageStreamDelta(
            rest or None,
            token_usage=token_usage(self._raw.get("usage")),
            provider_items=_kept(self._blocks.values()),
            raw=self._raw or None,
        )
