"""The doors to conversations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyhands.serve import schemas
from manyhands.serve.endpoints import Call, Endpoint
from manyhands.serve.problems import Problem, reply
from manyhands.serve.runs import started

if TYPE_CHECKING:
    from starlette.responses import Response

    from manyhands.serve.sessions import Conversation

_MISSING = {404: "There is no such conversation."}


async def begin(call: Call) -> Response:
    """Begin a conversation."""
    service = call.service
    if service.store.draining:
        raise Problem(503, "The server is about to stop.", retry_after=5)
    name, agent = service.choose(call.body.agent)
    return reply(service.conversations.begin(agent, name, call.principal).dict(), 201)


def _found(call: Call) -> Conversation:
    return call.service.conversations.get(call.path("id"), call.principal)


async def listed(call: Call) -> Response:
    """List conversations."""
    page: list[dict[str, Any]] = []
    for one in call.service.conversations.newest(call.principal, call.query.after):
        if len(page) == call.query.limit:
            return reply({"sessions": page, "next": page[-1]["id"]})
        page.append(one.dict())
    return reply({"sessions": page, "next": None})


async def shown(call: Call) -> Response:
    """Show a conversation."""
    return reply(_found(call).dict())


async def ended(call: Call) -> Response:
    """Delete a conversation, and cancel its turns."""
    call.service.conversations.end(_found(call))
    return reply({"ok": True})


async def turn(call: Call) -> Response:
    """Run a turn; turns queue behind each other."""
    record = call.service.start_turn(_found(call), call.body, call.principal)
    return await started(call, record)


ENDPOINTS = [
    Endpoint(
        "POST",
        "/v1/sessions",
        begin,
        "Begin a conversation",
        body=schemas.SessionRequest,
        body_needed=False,
        answer=schemas.SessionView,
        answers={201: "It has begun.", 404: "There is no such agent."},
    ),
    Endpoint(
        "GET",
        "/v1/sessions",
        listed,
        "List conversations, the newest first",
        query=schemas.PageQuery,
        answer=schemas.SessionList,
        answers={404: "There is no conversation `after`."},
    ),
    Endpoint(
        "GET",
        "/v1/sessions/{id}",
        shown,
        "Get a conversation",
        answer=schemas.SessionView,
        answers=_MISSING,
    ),
    Endpoint(
        "DELETE",
        "/v1/sessions/{id}",
        ended,
        "Delete a conversation, and cancel its turns",
        answer=schemas.Done,
        answers=_MISSING,
    ),
    Endpoint(
        "POST",
        "/v1/sessions/{id}/runs",
        turn,
        "Run a turn of a conversation",
        body=schemas.TurnRequest,
        answer=schemas.RunView,
        answers={202: "The turn has been started.", **_MISSING},
    ),
]
