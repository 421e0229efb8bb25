"""The doors of the chat face: models, and chat completions, whole or in pieces."""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

from manyhands.run import MAX_STEPS, SUCCESS
from manyhands.serve.chat import schemas
from manyhands.serve.chat.history import run_of
from manyhands.serve.endpoints import Call, Endpoint
from manyhands.serve.eventlog import HEARTBEAT
from manyhands.serve.jsonable import encoded
from manyhands.serve.problems import Problem, reply
from manyhands.serve.sse import MEDIA_TYPE, EventStream, unless_left

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from starlette.responses import Response

    from manyhands.serve.record import Record

_REASONS = {SUCCESS: "stop", MAX_STEPS: "length"}
_KINDS = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded", 504: "timeout"}


def problem_in_openais_form(problem: Problem) -> Response:
    """Return the answer to a refused request as OpenAI's clients read it."""
    # What does not fit has the status 400 there.
    status = 400 if problem.status == 422 else problem.status
    return reply(_error(problem), status, problem.headers)


def _error(problem: Problem) -> dict[str, Any]:
    where = problem.details[0]["where"].removeprefix("body.") if problem.details else None
    told = {
        "message": problem.message,
        "type": "server_error" if problem.status >= 500 else "invalid_request_error",
        "param": where,
        "code": _KINDS.get(problem.status),
    }
    return {"error": told}


# --- Models ------------------------------------------------------------------------------------------


def _card(call: Call, name: str) -> dict[str, Any]:
    created = int(call.service.created_at)
    return {"id": name, "object": "model", "created": created, "owned_by": "manyhands"}


async def models(call: Call) -> Response:
    """List the agents as models."""
    return reply({"object": "list", "data": [_card(call, name) for name in call.service.agents]})


async def model(call: Call) -> Response:
    """Show one agent as a model."""
    name, _ = call.service.choose(call.path("name"))
    return reply(_card(call, name))


# --- Chat --------------------------------------------------------------------------------------------


async def complete(call: Call) -> Response:
    """Let an agent go on with a conversation."""
    asked: schemas.ChatRequest = call.body
    name, agent = call.service.choose(asked.model)
    call.service.store.check(call.principal)
    run = run_of(agent, asked.messages)
    record = call.service.take_on(run, name, call.principal, cancel_on_disconnect=True)
    answer = _Answer(record, asked)
    if asked.stream:
        return EventStream(answer.pieces(call.service.settings.heartbeat), {"X-Run-Id": record.id})
    record.join()
    try:
        await unless_left(call.request.receive, record.ended.wait)
    finally:
        record.leave(0)
    failure = answer.failure()
    if failure is not None:
        raise failure
    return reply(answer.whole(), 200, {"X-Run-Id": record.id})


class _Answer:
    """What a run has to say to a chat client.

    Args:
        record: The run.
        asked: What the client asked for.
    """

    def __init__(self, record: Record, asked: schemas.ChatRequest) -> None:
        self._record = record
        self._asked = asked
        self._created = int(time.time())

    def failure(self) -> Problem | None:
        """Return why there is no answer, if there is none."""
        told = self._record.summary()
        if told["status"] in _REASONS:
            return None
        message = (told["error"] or {}).get("message") or f"The run ended: {told['status']}."
        status = 504 if told["status"] == "timeout" else 500
        # The agent has tried what can be tried, so the client need not.
        return Problem(status, message, headers={"X-Should-Retry": "false", "X-Run-Id": self._record.id})

    def _text(self) -> str:
        output = self._record.output()
        text = "" if output is None else output if isinstance(output, str) else json.dumps(output)
        stops = [self._asked.stop] if isinstance(self._asked.stop, str) else self._asked.stop or []
        return text[: min((at for at in map(text.find, stops) if at >= 0), default=len(text))]

    def _usage(self) -> dict[str, int]:
        used = self._record.summary()["token_usage"] or {}
        sent, written = used.get("input_tokens", 0), used.get("output_tokens", 0)
        return {"prompt_tokens": sent, "completion_tokens": written, "total_tokens": sent + written}

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self._record.id}",
            "object": kind,
            "created": self._created,
            "model": self._record.agent,
        }

    def _reason(self) -> str:
        return _REASONS[self._record.status]

    def whole(self) -> dict[str, Any]:
        """Return the answer in one piece."""
        message = {"role": "assistant", "content": self._text()}
        choice = {"index": 0, "message": message, "finish_reason": self._reason()}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self._usage()}

    # --- In pieces ------------------------------------------------------------------------------

    async def pieces(self, heartbeat: float) -> AsyncGenerator[bytes, None]:
        """Give the answer in pieces: what the model writes on the way as reasoning, then the answer."""
        record = self._record
        record.join()
        try:
            yield self._piece({"role": "assistant", "content": ""})
            async with contextlib.aclosing(record.log.follow(0, heartbeat)) as chunks:
                async for chunk in chunks:
                    told = b"".join(self._thoughts(chunk))
                    if told or chunk == HEARTBEAT:
                        yield told or chunk
            await record.ended.wait()
            for piece in self._end():
                yield piece
        finally:
            # There is no way to come back to an answer of this kind.
            record.leave(0)

    def _thoughts(self, chunk: bytes) -> Iterator[bytes]:
        for line in chunk.split(b"\n"):
            if line.startswith(b'data: {"type":"delta"'):
                event = json.loads(line.removeprefix(b"data: "))
                if event["run_id"] == self._record.id:
                    said = event.get("reasoning", "") + event.get("content", "")
                    if said:  # else the reply begins anew, for which this form has no word
                        yield self._piece({"reasoning_content": said})

    def _end(self) -> Iterator[bytes]:
        failure = self.failure()
        if failure is not None:
            yield b"data: %b\n\n" % encoded(_error(failure))
            return
        yield self._piece({"content": self._text()})
        yield self._piece({}, self._reason())
        options = self._asked.stream_options
        if options is not None and options.include_usage:
            yield self._framed({"choices": [], "usage": self._usage()})
        yield b"data: [DONE]\n\n"

    def _piece(self, delta: dict[str, Any], reason: str | None = None) -> bytes:
        return self._framed({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

    def _framed(self, content: dict[str, Any]) -> bytes:
        return b"data: %b\n\n" % encoded({**self._head("chat.completion.chunk"), **content})


def _door(method: str, path: str, handler: Any, summary: str, **more: Any) -> Endpoint:
    return Endpoint(
        method,
        path,
        handler,
        summary,
        problem=problem_in_openais_form,
        problem_model=schemas.ChatProblem,
        **more,
    )


_MISSING = {404: "There is no such agent."}

ENDPOINTS = [
    _door("GET", "/v1/models", models, "List the agents as models", answer=schemas.ModelList),
    _door(
        "GET",
        "/v1/models/{name}",
        model,
        "Get an agent as a model",
        answer=schemas.ModelCard,
        answers=_MISSING,
    ),
    _door(
        "POST",
        "/v1/chat/completions",
        complete,
        "Let an agent go on with a conversation",
        body=schemas.ChatRequest,
        answer=schemas.ChatCompletion,
        answers={**_MISSING, 504: "The run ran out of time."},
        also=(MEDIA_TYPE,),
    ),
]
