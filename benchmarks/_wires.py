"""The same reply in each provider's format, whole and as a stream."""

from __future__ import annotations

import json
from typing import Any

DELTAS = 200
_WORD = "word, "


def _event(data: Any, name: str = "") -> bytes:
    return (f"event: {name}\n" if name else "").encode() + b"data: " + json.dumps(data).encode() + b"\n\n"


def _chat() -> tuple[Any, list[bytes]]:
    usage = {"prompt_tokens": 400, "completion_tokens": DELTAS, "total_tokens": 400 + DELTAS}
    head = {"id": "chatcmpl-1", "created": 1, "model": "bench", "system_fingerprint": "fp_1"}
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": _WORD * DELTAS},
        "finish_reason": "stop",
    }
    part = {**head, "object": "chat.completion.chunk"}

    def chunk(delta: Any, reason: str | None = None) -> bytes:
        return _event({**part, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

    events = [chunk({"content": _WORD})] * DELTAS
    events += [chunk({}, "stop"), _event({**part, "choices": [], "usage": usage}), b"data: [DONE]\n\n"]
    return {**head, "object": "chat.completion", "choices": [choice], "usage": usage}, events


def _responses() -> tuple[Any, list[bytes]]:
    part = {"type": "output_text", "text": _WORD * DELTAS, "annotations": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "content": [part]}
    usage = {"input_tokens": 400, "output_tokens": DELTAS, "total_tokens": 400 + DELTAS}
    whole = {"id": "resp_1", "object": "response", "status": "completed", "model": "bench"}
    whole |= {"output": [item], "usage": usage}
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    kind = "response.output_text.delta"
    events = [
        _event({"type": kind, "sequence_number": number, **at, "delta": _WORD}, kind)
        for number in range(DELTAS)
    ]
    return whole, [*events, _event({"type": "response.completed", "response": whole}, "response.completed")]


def _messages() -> tuple[Any, list[bytes]]:
    usage = {"input_tokens": 400, "output_tokens": DELTAS}
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "bench"}
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    begun = {**head, "content": [], "usage": usage}
    events = [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *[{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": _WORD}}]
        * DELTAS,
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": end, "usage": usage},
        {"type": "message_stop"},
    ]
    whole = {**head, "content": [{"type": "text", "text": _WORD * DELTAS}], **end, "usage": usage}
    return whole, [_event(data, str(data["type"])) for data in events]


TEXT = _WORD * DELTAS
_FORMATS = {"chat": _chat, "responses": _responses, "messages": _messages}


def whole(wire: str) -> bytes:
    """Return the reply in one piece."""
    return json.dumps(_FORMATS[wire]()[0]).encode()


def answers() -> dict[str, list[bytes]]:
    """Return the HTTP answers by their names, as the pieces in which they are written."""
    found = {}
    for wire, made in _FORMATS.items():
        body, events = json.dumps(made()[0]).encode(), made()[1]
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        found[wire] = [head % len(body) + body]
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunks = [b"%x\r\n%b\r\n" % (len(event), event) for event in events]
        found[f"{wire}-stream"] = [head, *chunks, b"0\r\n\r\n"]
    return found
