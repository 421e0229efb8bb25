"""The doors to runs: start one, list them, get one, stream one."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from manyhands.serve import schemas
from manyhands.serve.endpoints import Call, Endpoint
from manyhands.serve.problems import JSON_TYPE, Problem, reply
from manyhands.serve.record import PAUSED, QUEUED, RUNNING
from manyhands.serve.sse import MEDIA_TYPE, EventStream, unless_left

if TYPE_CHECKING:
    from manyhands.serve.record import Record

_ACTIVE = (QUEUED, RUNNING, PAUSED)
_RETRY = b"retry: 1000\n\n"


async def start(call: Call) -> Response:
    """Start a run; answer at once, or at its end."""
    record = call.service.start(call.body, call.principal)
    return await started(call, record)


async def started(call: Call, record: Record) -> Response:
    """Answer for a run that has just been started."""
    where = {"Location": f"{call.request.scope.get('root_path', '')}/v1/runs/{record.id}"}
    if not call.body.wait:
        return Response(record.view(), 202, where, JSON_TYPE)
    record.join()
    try:
        await unless_left(call.request.receive, record.ended.wait)
    finally:
        # Who has left cannot come back to this answer, so there is no grace.
        record.leave(0)
    return Response(record.view(), 200, where, JSON_TYPE)


async def listed(call: Call) -> Response:
    """List runs."""
    query: schemas.RunsQuery = call.query

    def wanted(record: Record) -> bool:
        return (
            _fits(record, query.status)
            and query.agent in (None, record.agent)
            and query.session in (None, record.session)
        )

    page: list[dict[str, Any]] = []
    for record in call.service.store.newest(call.principal, wanted, query.after):
        if len(page) == query.limit:
            return reply({"runs": page, "next": page[-1]["id"]})
        page.append(record.summary())
    return reply({"runs": page, "next": None})


def _fits(record: Record, status: str | None) -> bool:
    if status is None:
        return True
    if status in ("active", "ended"):
        return (record.status in _ACTIVE) == (status == "active")
    return record.status == status


async def shown(call: Call) -> Response:
    """Show a run, perhaps after its end."""
    record = found(call)
    seconds = call.query.wait
    if seconds and not record.ended.is_set():
        record.join()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await unless_left(call.request.receive, record.ended.wait)
        finally:
            record.leave(call.service.settings.disconnect_grace)
    return Response(record.view(call.query.steps), 200, None, JSON_TYPE)


def found(call: Call) -> Record:
    """Return the run that the path names."""
    return call.service.store.get(call.path("id"), call.principal)


async def streamed(call: Call) -> Response:
    """Stream the events of a run, from its beginning or from where the client was."""
    record = found(call)
    after = _after(call)
    if record.log.ended and after is not None and after >= record.log.last:
        return Response(None, 204)  # a browser that comes back is told that there is no more
    settings = call.service.settings
    chunks = record.log.follow(after or 0, settings.heartbeat, _RETRY)
    return EventStream(chunks, meanwhile=record.watched(settings.disconnect_grace))


def _after(call: Call) -> int | None:
    said = call.request.headers.get("last-event-id")
    if said is None or said == "":
        after: int | None = call.query.after
        return after
    if not said.isascii() or not said.isdigit() or len(said) > 16:
        raise Problem(400, "Last-Event-ID must be the id of an event of this run, which is a number.")
    return int(said)


ENDPOINTS = [
    Endpoint(
        "POST",
        "/v1/runs",
        start,
        "Start a run",
        body=schemas.RunRequest,
        answer=schemas.RunView,
        answers={
            202: "The run has been started.",
            404: "There is no such agent or conversation.",
            409: "The conversation is one of another agent.",
        },
    ),
    Endpoint(
        "GET",
        "/v1/runs",
        listed,
        "List runs, newest first",
        query=schemas.RunsQuery,
        answer=schemas.RunList,
        answers={404: "There is no run `after`."},
    ),
    Endpoint(
        "GET",
        "/v1/runs/{id}",
        shown,
        "Get a run: its state, and its result",
        query=schemas.RunQuery,
        answer=schemas.RunView,
        answers={404: "There is no such run."},
    ),
    Endpoint(
        "GET",
        "/v1/runs/{id}/events",
        streamed,
        "Stream the events of a run",
        query=schemas.EventsQuery,
        answers={
            204: "The run has ended, and the client knows all of it.",
            400: "`Last-Event-ID` is no number.",
            404: "There is no such run.",
        },
        media=MEDIA_TYPE,
        headers={"Last-Event-ID": "Number of the last event known, as sent by browsers that come back."},
    ),
]
