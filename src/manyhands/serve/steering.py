"""The doors to runs that go on: cancel, pause, resume, tell them something, change their limits, approve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyhands.serve import schemas
from manyhands.serve.endpoints import Call, Endpoint
from manyhands.serve.jsonable import jsonable
from manyhands.serve.problems import Problem, reply
from manyhands.serve.runs import found

if TYPE_CHECKING:
    from starlette.responses import Response

    from manyhands.approvals import ApprovalRequest
    from manyhands.run import Run
    from manyhands.serve.record import Record

_OK = {"ok": True}
_MISSING = {404: "There is no such run."}
_CONFLICT = {**_MISSING, 409: "The run has ended, or is not in the state for this."}


async def cancel(call: Call) -> Response:
    """Cancel a run, in the queue or at work."""
    record = found(call)
    if not record.cancel(call.body.reason):
        raise _ended(record)
    return reply(_OK)


def _at_work(call: Call) -> Run:
    record = found(call)
    if record.run is None:
        raise _ended(record)
    return record.run


def _ended(record: Record) -> Problem:
    return Problem(409, f"The run has ended already: {record.status}.")


def _taken(call: Call, taken: bool) -> Response:
    if not taken:
        raise Problem(409, "The run has just ended.")
    return reply(_OK)


async def pause(call: Call) -> Response:
    """Let a run stop before its next step."""
    return _taken(call, _at_work(call).pause())


async def resume(call: Call) -> Response:
    """Let a paused run go on."""
    if not _at_work(call).resume():
        raise Problem(409, "The run is not paused.")
    return reply(_OK)


async def inject(call: Call) -> Response:
    """Tell a run something."""
    return _taken(call, _at_work(call).inject(call.body.text))


async def limits(call: Call) -> Response:
    """Change the limits of a run."""
    asked = call.body.model_dump(exclude_none=True)
    given = {name: limit for name, limit in asked.items() if limit != {}}
    run = _at_work(call)
    return _taken(call, not given or run.set_limit(**given))


# --- Approvals ----------------------------------------------------------------------------------------


async def approvals(call: Call) -> Response:
    """List what waits for people."""
    store = call.service.store
    records = [record for record in store.active() if call.principal.sees(record.tenant)]
    return reply({"approvals": [told for record in records for told in _pending(record)]})


async def approvals_of_run(call: Call) -> Response:
    """List what one run waits for people with."""
    return reply({"approvals": _pending(found(call))})


def _pending(record: Record) -> list[dict[str, Any]]:
    return [
        {**jsonable(request.dict()), "root_run_id": record.id}
        for request in list(record.pending.values())
        if not request.answered
    ]


async def decide(call: Call) -> Response:
    """Answer a request; the first answer counts."""
    record = found(call)
    request = record.pending.get(call.path("approval_id"))
    if request is None:
        raise Problem(404, "The run has no such request, or it was answered and is gone.")
    if not _decided(request, call.body):
        raise Problem(409, "The request was answered already.")
    return reply(_OK)


def _decided(request: ApprovalRequest, body: schemas.DecisionRequest) -> bool:
    if (body.arguments is not None) != (body.decision == "change"):
        raise Problem(422, "`arguments` go with the decision `change`, and with no other.")
    if (body.text is not None) != (body.decision == "answer"):
        raise Problem(422, "`text` goes with the decision `answer`, and with no other.")
    if body.reason and body.decision != "deny":
        raise Problem(422, "`reason` goes with the decision `deny`, and with no other.")
    if body.decision == "approve":
        return request.approve()
    if body.decision == "deny":
        return request.deny(body.reason)
    if body.decision == "change":
        return request.change(body.arguments or {})
    return request.answer(body.text or "")


def _door(name: str, handler: Any, summary: str, body: Any = None, needed: bool = True) -> Endpoint:
    return Endpoint(
        "POST",
        f"/v1/runs/{{id}}/{name}",
        handler,
        summary,
        body=body,
        body_needed=needed,
        answer=schemas.Done,
        answers=_CONFLICT,
    )


ENDPOINTS = [
    _door("cancel", cancel, "Cancel a run", schemas.CancelRequest, needed=False),
    _door("pause", pause, "Let a run stop before its next step"),
    _door("resume", resume, "Let a paused run go on"),
    _door("inject", inject, "Tell a run something", schemas.InjectRequest),
    _door("limits", limits, "Change the limits of a run", schemas.LimitsRequest),
    Endpoint(
        "GET",
        "/v1/approvals",
        approvals,
        "List what waits for people",
        answer=schemas.ApprovalList,
    ),
    Endpoint(
        "GET",
        "/v1/runs/{id}/approvals",
        approvals_of_run,
        "List what one run waits for people with",
        answer=schemas.ApprovalList,
        answers=_MISSING,
    ),
    Endpoint(
        "POST",
        "/v1/runs/{id}/approvals/{approval_id}",
        decide,
        "Approve a call, deny it or change its arguments, or answer a question",
        body=schemas.DecisionRequest,
        answer=schemas.Done,
        answers={404: "There is no such run or request.", 409: "It was answered already."},
    ),
]
