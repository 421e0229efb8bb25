"""What goes out over the wire: a reply cut to the request's limits, as one JSON body or as stream events.

The fixed parts are written once as text with holes and filled by formatting: about six times cheaper
than building a dictionary and encoding it, which matters at thousands of answers a second.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import count
from time import time
from typing import TYPE_CHECKING

from manyhands.testing.wire import CHARACTERS_PER_TOKEN, estimate_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manyhands.testing.wire import Call, ChatRequest, Reply

_quote = json.JSONEncoder().encode
_numbers = count(1)

_COMPLETION = (
    '{"id":"chatcmpl-sim%08x","object":"chat.completion","created":%d,"model":%s,"choices":[{"index":0,'
    '"message":{"role":"assistant","content":%s,"refusal":null%s},"logprobs":null,"finish_reason":%s}],'
    '"usage":%s,"service_tier":"default","system_fingerprint":"fp_simulated"}'
)
_USAGE = (
    '{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,'
    '"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},'
    '"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,'
    '"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}'
)
_CALL = '{"id":%s,"type":"function","function":{"name":%s,"arguments":%s}}'
_CHUNK_HEAD = (
    'data: {"id":"chatcmpl-sim%08x","object":"chat.completion.chunk","created":%d,"model":%s,'
    '"service_tier":"default","system_fingerprint":"fp_simulated","choices":['
)
_CHOICE = '{"index":0,"delta":%s,"logprobs":null,"finish_reason":%s}'
DONE = b"data: [DONE]\n\n"


@dataclass(slots=True)
class Answer:
    """A reply after stop sequences and ``max_tokens``, with its size.

    Attributes:
        text: Content, or ``None`` when there are only tool calls.
        calls: ``(id, name, arguments)`` of each tool call.
        finish_reason: ``"stop"``, ``"length"``, ``"tool_calls"`` or what the policy said.
        prompt_tokens: Estimate for the request.
        completion_tokens: Estimate for this answer.
    """

    text: str | None
    calls: list[tuple[str, str, str]]
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int

    @property
    def usage(self) -> str:
        """The usage object as JSON text."""
        total = self.prompt_tokens + self.completion_tokens
        return _USAGE % (self.prompt_tokens, self.completion_tokens, total)


def finish(reply: Reply, request: ChatRequest) -> Answer:
    """Cut a reply to what the request allows.

    Args:
        reply: What the policy said.
        request: Whose ``stop`` and ``max_tokens`` hold.

    Returns:
        The answer to send.
    """
    text, reason = reply.text, "stop"
    if text and request.stop:
        text = cut_at_stop(text, request.stop)
    if text and request.max_tokens is not None and len(text) > request.max_tokens * CHARACTERS_PER_TOKEN:
        text, reason = text[: request.max_tokens * CHARACTERS_PER_TOKEN], "length"
    calls = _with_ids(reply.calls)
    if calls:
        reason = "tool_calls"
    elif text is None:
        text = ""
    size = len(text or "") + sum(len(name) + len(arguments) for _, name, arguments in calls)
    return Answer(text, calls, reply.finish_reason or reason, request.prompt_tokens, estimate_tokens(size))


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """Return the text before the earliest stop sequence."""
    ends = [end for item in stop if (end := text.find(item)) >= 0]
    return text[: min(ends)] if ends else text


def completion(answer: Answer, model: str) -> bytes:
    """Return the body of a plain answer.

    Args:
        answer: What to send.
        model: Model id, as the client named it.

    Returns:
        JSON.
    """
    calls = ""
    if answer.calls:
        listed = ",".join(_CALL % tuple(map(_quote, call)) for call in answer.calls)
        calls = f',"tool_calls":[{listed}]'
    content = "null" if answer.text is None else _quote(answer.text)
    fields = (_quote(model), content, calls, _quote(answer.finish_reason), answer.usage)
    return (_COMPLETION % (next(_numbers), time(), *fields)).encode()


def stream_events(answer: Answer, model: str, include_usage: bool) -> list[bytes]:
    """Return the server-sent events of a streamed answer, one token of text in each, without ``[DONE]``.

    Args:
        answer: What to send.
        model: Model id, as the client named it.
        include_usage: Whether to end with the usage chunk.

    Returns:
        Events in order: role, content pieces, tool call pieces, finish reason, usage.
    """
    head = _CHUNK_HEAD % (next(_numbers), time(), _quote(model))
    # With usage asked for, OpenAI puts a null in each chunk but the last.
    tail = '],"usage":null}\n\n' if include_usage else "]}\n\n"
    deltas = _deltas(answer)
    events = [f"{head}{_CHOICE % (delta, 'null')}{tail}".encode() for delta in deltas]
    events.append(f"{head}{_CHOICE % ('{}', _quote(answer.finish_reason))}{tail}".encode())
    if include_usage:
        events.append(f'{head}],"usage":{answer.usage}}}\n\n'.encode())
    return events


def _deltas(answer: Answer) -> list[str]:
    first = "null" if answer.text is None else '""'
    deltas = [f'{{"role":"assistant","content":{first},"refusal":null}}']
    deltas += [f'{{"content":{_quote(piece)}}}' for piece in pieces(answer.text or "")]
    for index, (call_id, name, arguments) in enumerate(answer.calls):
        opened = _CALL % (_quote(call_id), _quote(name), '""')
        deltas.append(f'{{"tool_calls":[{{"index":{index},{opened[1:]}]}}')
        deltas += [
            f'{{"tool_calls":[{{"index":{index},"function":{{"arguments":{_quote(piece)}}}}}]}}'
            for piece in pieces(arguments)
        ]
    return deltas


def pieces(text: str) -> list[str]:
    """Split text into pieces of one token."""
    return [text[start : start + CHARACTERS_PER_TOKEN] for start in range(0, len(text), CHARACTERS_PER_TOKEN)]


def _with_ids(calls: Sequence[Call]) -> list[tuple[str, str, str]]:
    return [
        (f"call_sim{next(_numbers):08x}" if call.id is None else call.id, call.name, call.arguments_json())
        for call in calls
    ]
