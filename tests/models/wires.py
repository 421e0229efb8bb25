"""Providers as they are documented: each writes the same replies in its own wire format.

Nothing here is shared with the package: the formats are written down a second time, from the providers'
documentation, so that a mistake in one of them shows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from manyhands.messages import TokenUsage
from manyhands.models.anthropic import AnthropicModel
from manyhands.models.azure import AzureOpenAIModel
from manyhands.models.openai import OpenAIModel
from manyhands.models.responses import OpenAIResponsesModel
from tests.models.servers import CHUNKED, http

if TYPE_CHECKING:
    from collections.abc import Iterable

    from manyhands.models.remote import RemoteModel

KEY = "sk-conform-123"


@dataclass(frozen=True)
class Turn:
    """What a model says: text, and calls as name, arguments and id."""

    text: str | None = None
    calls: tuple[tuple[str, dict[str, Any], str], ...] = ()
    thought: str | None = None
    # Of the prompt, of the reply, cached ones among the first, reasoning among the second.
    usage: tuple[int, int, int, int] = (20, 9, 8, 3)


@dataclass(frozen=True)
class Asked:
    """What a request says, whatever its format."""

    model: str
    system: str
    said: list[tuple[str, str]]  # role and text
    tools: list[str]
    stops: list[str] = field(default_factory=list)


def pieces(text: str, size: int = 3) -> Iterable[str]:
    return (text[at : at + size] for at in range(0, len(text), size))


def event(data: Any, name: str = "") -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data)}\n\n".encode()


class Wire:
    """One provider's format."""

    name = ""
    stops_itself = True
    # What has to be installed to ask in it.
    library = ""
    # What it is known to warn of, by itself.
    warnings: tuple[str, ...] = ()
    # How a streamed answer begins.
    head = CHUNKED
    path = ""
    # Whether a refusal is told with its status, and the fault in a stream as whose it is.
    names_status = True
    blames_in_streams = True
    # Whether a stream that ends too soon, but in good order, is noticed.
    notices_the_end = True
    # How a call is described that took too long, and one whose connection was closed.
    late = r"0\.05 s"
    dropped = "closed before an answer came"
    # What a request shows of the key.
    credential = KEY
    # Stop sequences that are sent of any number.
    most_stops: int | None = 4

    def model(self, base: str, model_id: str = "tiny", **settings: Any) -> RemoteModel:
        raise NotImplementedError

    def plain(self, turn: Turn) -> bytes:
        raise NotImplementedError

    def stream(self, turn: Turn) -> list[bytes]:
        """The events of a reply; without the last one it is not complete."""
        raise NotImplementedError

    def error(self, kind: str, message: str) -> Any:
        return {"error": {"message": message, "type": kind, "param": None, "code": None}}

    def error_event(self, kind: str, message: str) -> bytes:
        return event(self.error(kind, message))

    def read(self, request: dict[str, Any]) -> Asked:
        raise NotImplementedError

    def counted(self, turn: Turn) -> TokenUsage:
        """What is told of the tokens of a reply."""
        return TokenUsage(*turn.usage)

    def schema(self, request: dict[str, Any]) -> Any:
        """The schema that a request binds its reply to."""
        found = request["response_format"]
        assert found["type"] == "json_schema"
        return found["json_schema"]["schema"]

    def answer(self, turn: Turn) -> bytes:
        return http(self.plain(turn))


# --- https://platform.openai.com/docs/api-reference/chat -----------------------------------------


class Chat(Wire):
    name = "chat"
    path = "/v1/chat/completions"

    def model(self, base: str, model_id: str = "tiny", **settings: Any) -> RemoteModel:
        return OpenAIModel(model_id, **{"api_base": f"{base}/v1", "api_key": KEY, **settings})

    def _usage(self, turn: Turn) -> dict[str, Any]:
        prompt, reply, cached, reasoning = turn.usage
        return {
            "prompt_tokens": prompt,
            "completion_tokens": reply,
            "total_tokens": prompt + reply,
            "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        }

    def plain(self, turn: Turn) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": turn.text, "refusal": None}
        if turn.thought:
            message["reasoning_content"] = turn.thought
        if turn.calls:
            message["tool_calls"] = [
                {"id": i, "type": "function", "function": {"name": n, "arguments": json.dumps(a)}}
                for n, a, i in turn.calls
            ]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._reason(turn)}
        return json.dumps(
            {**self._head("chat.completion"), "choices": [choice], "usage": self._usage(turn)}
        ).encode()

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": "chatcmpl-1",
            "object": kind,
            "created": 1,
            "model": "tiny-1",
            "system_fingerprint": "fp",
        }

    def _reason(self, turn: Turn) -> str:
        return "tool_calls" if turn.calls else "stop"

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return event({**self._head("chat.completion.chunk"), "choices": [choice], "usage": None})

    def stream(self, turn: Turn) -> list[bytes]:
        found = [self._chunk({"role": "assistant", "content": "" if turn.text else None})]
        found += [self._chunk({"reasoning_content": piece}) for piece in pieces(turn.thought or "")]
        found += [self._chunk({"content": piece}) for piece in pieces(turn.text or "")]
        for index, (name, _, call_id) in enumerate(turn.calls):
            first = {"index": index, "id": call_id, "type": "function"}
            found.append(
                self._chunk({"tool_calls": [{**first, "function": {"name": name, "arguments": ""}}]})
            )
        for index, (_, arguments, _) in enumerate(turn.calls):
            for piece in pieces(json.dumps(arguments)):
                found.append(
                    self._chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
                )
        found.append(self._chunk({}, self._reason(turn)))
        usage = {**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage(turn)}
        return [b"".join(found[:-1]), found[-1] + event(usage) + b"data: [DONE]\n\n"]

    def read(self, request: dict[str, Any]) -> Asked:
        said = [(entry["role"], _text(entry.get("content"))) for entry in request["messages"]]
        return Asked(
            request["model"],
            "\n".join(text for role, text in said if role == "system"),
            [(role, text) for role, text in said if role != "system"],
            [tool["function"]["name"] for tool in request.get("tools", ())],
            request.get("stop", []),
        )


def _text(content: Any) -> str:
    if isinstance(content, str) or content is None:
        return content or ""
    return "".join(part.get("text", "") for part in content)


class Azure(Chat):
    """https://learn.microsoft.com/azure/ai-foundry/openai/latest"""

    name = "azure"
    path = "/openai/v1/chat/completions"

    def model(self, base: str, model_id: str = "tiny", **settings: Any) -> RemoteModel:
        return AzureOpenAIModel(
            model_id, **{"azure_endpoint": base, "api_key": KEY, "api_version": "v1", **settings}
        )

    def error(self, kind: str, message: str) -> Any:
        return {"error": {"code": kind, "message": message}}


class DatedAzure(Azure):
    """https://learn.microsoft.com/azure/ai-foundry/openai/reference"""

    name = "azure-dated"
    path = "/openai/deployments/tiny/chat/completions?api-version=2024-10-21"

    def model(self, base: str, model_id: str = "tiny", **settings: Any) -> RemoteModel:
        return super().model(base, model_id, **{"api_version": "2024-10-21", **settings})


# --- https://platform.openai.com/docs/api-reference/responses ---------------------------------------


class Responses(Wire):
    name = "responses"
    path = "/v1/responses"
    stops_itself = False

    def schema(self, request: dict[str, Any]) -> Any:
        found = request["text"]["format"]
        assert found["type"] == "json_schema"
        return found["schema"]

    def model(self, base: str, model_id: str = "tiny", **settings: Any) -> RemoteModel:
        return OpenAIResponsesModel(model_id, **{"api_base": f"{base}/v1", "api_key": KEY, **settings})

    def _output(self, turn: Turn) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        if turn.thought:
            summary = [{"type": "summary_text", "text": turn.thought}]
            found.append(
                {"id": "rs_1", "type": "reasoning", "summary": summary, "encrypted_content": "gAAA="}
            )
        if turn.text is not None:
            part = {"type": "output_text", "text": turn.text, "annotations": [], "logprobs": []}
            found.append(
                {
                    "id": "msg_1",
                    "type": "message",
                    "status": "completed",
                    "role": "assistant",
                    "content": [part],
                }
            )
        found += [
            {
                "id": f"fc_{i}",
                "type": "function_call",
                "status": "completed",
                "call_id": i,
                "name": n,
                "arguments": json.dumps(a),
            }
            for n, a, i in turn.calls
        ]
        return found

    def _response(self, turn: Turn, status: str = "completed") -> dict[str, Any]:
        prompt, reply, cached, reasoning = turn.usage
        done = status == "completed"
        usage = {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
            "output_tokens": reply,
            "output_tokens_details": {"reasoning_tokens": reasoning},
            "total_tokens": prompt + reply,
        }
        return {
            "id": "resp_1",
            "object": "response",
            "created_at": 1,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "model": "tiny-1",
            "output": self._output(turn) if done else [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": usage if done else None,
        }

    def plain(self, turn: Turn) -> bytes:
        return json.dumps(self._response(turn)).encode()

    def stream(self, turn: Turn) -> list[bytes]:
        numbered: list[dict[str, Any]] = []

        def add(kind: str, **fields: Any) -> None:
            numbered.append({"type": kind, "sequence_number": len(numbered), **fields})

        add("response.created", response=self._response(turn, "in_progress"))
        add("response.in_progress", response=self._response(turn, "in_progress"))
        for place, item in enumerate(self._output(turn)):
            self._item(add, place, item)
        add("response.completed", response=self._response(turn))
        named = [event(data, data["type"]) for data in numbered]
        return [b"".join(named[:-1]), named[-1]]

    def _item(self, add: Any, place: int, item: dict[str, Any]) -> None:
        at = {"item_id": item["id"], "output_index": place}
        if item["type"] == "reasoning":
            add("response.output_item.added", output_index=place, item={**item, "summary": []})
            for piece in pieces(item["summary"][0]["text"]):
                add("response.reasoning_summary_text.delta", **at, summary_index=0, delta=piece)
        elif item["type"] == "message":
            add("response.output_item.added", output_index=place, item={**item, "content": []})
            for piece in pieces(item["content"][0]["text"]):
                add("response.output_text.delta", **at, content_index=0, delta=piece, logprobs=[])
            add("response.output_text.done", **at, content_index=0, text=item["content"][0]["text"])
        else:
            add("response.output_item.added", output_index=place, item={**item, "arguments": ""})
            for piece in pieces(item["arguments"]):
                add("response.function_call_arguments.delta", **at, delta=piece)
            add("response.function_call_arguments.done", **at, arguments=item["arguments"])
        add("response.output_item.done", output_index=place, item=item)

    def error_event(self, kind: str, message: str) -> bytes:
        return event({"type": "error", "sequence_number": 9, "code": kind, "message": message, "param": None})

    def read(self, request: dict[str, Any]) -> Asked:
        said = []
        for item in request["input"]:
            kind = item.get("type", "message")
            role = {"function_call": "assistant", "function_call_output": "tool"}.get(
                kind, item.get("role", kind)
            )
            said.append((role, _text(item.get("content", item.get("output", "")))))
        tools = [tool["name"] for tool in request.get("tools", ())]
        return Asked(request["model"], request.get("instructions", ""), said, tools)


# --- https://docs.claude.com/en/api/messages --------------------------------------------------------


class Anthropic(Wire):
    name = "anthropic"
    path = "/v1/messages"
    most_stops = None

    def schema(self, request: dict[str, Any]) -> Any:
        found = request["output_config"]["format"]
        assert found["type"] == "json_schema"
        return found["schema"]

    def model(self, base: str, model_id: str = "tiny", **settings: Any) -> RemoteModel:
        return AnthropicModel(model_id, **{"api_base": base, "api_key": KEY, **settings})

    def _usage(self, turn: Turn) -> dict[str, Any]:
        prompt, reply, cached, reasoning = turn.usage
        return {
            "input_tokens": prompt - cached - 2,
            "cache_creation_input_tokens": 2,
            "cache_read_input_tokens": cached,
            "output_tokens": reply,
            "output_tokens_details": {"thinking_tokens": reasoning},
        }

    def _blocks(self, turn: Turn) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        if turn.thought:
            found.append({"type": "thinking", "thinking": turn.thought, "signature": "EqQB="})
        if turn.text is not None:
            found.append({"type": "text", "text": turn.text})
        return found + [{"type": "tool_use", "id": i, "name": n, "input": a} for n, a, i in turn.calls]

    def _message(self, turn: Turn, **fields: Any) -> dict[str, Any]:
        reason = "tool_use" if turn.calls else "end_turn"
        head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "tiny-1"}
        end = {"stop_reason": reason, "stop_sequence": None, "usage": self._usage(turn)}
        return {**head, "content": self._blocks(turn), **end, **fields}

    def plain(self, turn: Turn) -> bytes:
        return json.dumps(self._message(turn)).encode()

    def stream(self, turn: Turn) -> list[bytes]:
        usage = self._usage(turn)
        begun = self._message(turn, content=[], stop_reason=None, usage={**usage, "output_tokens": 1})
        found: list[dict[str, Any]] = [{"type": "message_start", "message": begun}, {"type": "ping"}]
        for index, block in enumerate(self._blocks(turn)):
            found += self._block(index, block)
        reason = {"stop_reason": self._message(turn)["stop_reason"], "stop_sequence": None}
        end = {"output_tokens": turn.usage[1], "output_tokens_details": usage["output_tokens_details"]}
        found.append({"type": "message_delta", "delta": reason, "usage": end})
        found.append({"type": "message_stop"})
        named = [event(data, data["type"]) for data in found]
        return [b"".join(named[:-2]), b"".join(named[-2:])]

    def _block(self, index: int, block: dict[str, Any]) -> list[dict[str, Any]]:
        kind = block["type"]
        forms: dict[str, tuple[str, dict[str, Any], str]] = {
            "text": ("text", {"text": ""}, block.get("text", "")),
            "thinking": ("thinking", {"thinking": "", "signature": ""}, block.get("thinking", "")),
            "tool_use": ("partial_json", {"input": {}}, json.dumps(block.get("input"))),
        }
        field_, empty, text = forms[kind]
        name = "input_json_delta" if kind == "tool_use" else f"{kind}_delta"
        deltas = [{"type": name, field_: piece} for piece in (["", *pieces(text)] if text != "{}" else [])]
        if kind == "thinking":
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
        return [
            {"type": "content_block_start", "index": index, "content_block": {**block, **empty}},
            *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
            {"type": "content_block_stop", "index": index},
        ]

    def error(self, kind: str, message: str) -> Any:
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}

    def read(self, request: dict[str, Any]) -> Asked:
        assert request["max_tokens"] > 0
        said = []
        for entry in request["messages"]:
            for block in entry["content"]:
                role = "tool" if block["type"] == "tool_result" else entry["role"]
                said.append((role, _text(block["content"]) if role == "tool" else block.get("text", "")))
        return Asked(
            request["model"],
            "\n".join(block["text"] for block in request.get("system", ())),
            said,
            [tool["name"] for tool in request.get("tools", ())],
            request.get("stop_sequences", []),
        )


WIRES: list[Wire] = [Chat(), Azure(), DatedAzure(), Responses(), Anthropic()]
