"""The doors through which one looks at the server: agents, fleet, health, metrics."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from manyhands.serve import schemas
from manyhands.serve.endpoints import Call, Endpoint
from manyhands.serve.eventlog import HEARTBEAT, frame
from manyhands.serve.jsonable import encoded, jsonable
from manyhands.serve.metrics import MEDIA_TYPE as METRICS_TYPE
from manyhands.serve.metrics import exposition
from manyhands.serve.problems import reply
from manyhands.serve.sse import MEDIA_TYPE, EventStream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from manyhands.agents import MultiStepAgent
    from manyhands.serve.auth import Principal
    from manyhands.serve.service import Service

# Seconds between two looks at the fleet.
_EVERY = 0.5


async def agents(call: Call) -> Response:
    """List the agents."""
    told = [_agent(name, agent) for name, agent in call.service.agents.items()]
    return reply({"agents": told})


def _agent(name: str, agent: MultiStepAgent) -> dict[str, Any]:
    model = getattr(agent.model, "model_id", None)
    return {
        "name": name,
        "description": agent.description,
        "kind": type(agent).__name__,
        "model": model if isinstance(model, str) else None,
        "max_steps": agent.max_steps,
        "streams": agent.stream_outputs,
        "tools": [
            {
                "name": tool.name,
                "description": tool.description,
                "requires_approval": bool(tool.requires_approval),
            }
            for tool in agent.tools.values()
        ],
        "managed_agents": list(agent.managed_agents),
    }


# --- The fleet -------------------------------------------------------------------------------------------


class Lookout:
    """Looks at fleets; clients that look at the same one at the same time share what is seen.

    Args:
        service: The service.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._seen: dict[tuple[str, int], tuple[float, bytes]] = {}

    def look(self, principal: Principal, runs: int) -> bytes:
        """Return what goes on, as JSON; at most half a second old.

        Args:
            principal: Who asks.
            runs: Most runs in flight to list.
        """
        key = ("" if principal.operator else principal.tenant, runs)
        now = time.monotonic()
        at, seen = self._seen.get(key, (0.0, b""))
        if not seen or now - at > _EVERY * 0.9:
            seen = encoded(jsonable(self._service.snapshot(principal, runs)))
            if len(self._seen) > 100:
                self._seen.clear()
            self._seen[key] = (now, seen)
        return seen


async def fleet(call: Call) -> Response:
    """Show what goes on."""
    told = call.service.snapshot(call.principal, call.query.runs)
    return reply(jsonable(told))


async def fleet_events(call: Call) -> Response:
    """Stream what goes on, twice a second while something does."""
    return EventStream(_looks(call, call.query.runs))


async def _looks(call: Call, runs: int) -> AsyncGenerator[bytes, None]:
    service, principal = call.service, call.principal
    fleet = service.fleet(principal)
    lookout: Lookout = call.request.app.state.lookout
    silent = 0.0
    seen: object = None
    while not service.store.drained.is_set():
        # Also while runs only wait, so that their ages go on.
        now = (fleet.version, service.store.queued, service.store.running, service.store.draining)
        if now != seen or silent >= 4 * _EVERY and service.store.running:
            seen, silent = now, 0.0
            yield frame("fleet", lookout.look(principal, runs))
        elif silent >= service.settings.heartbeat:
            silent = 0.0
            yield HEARTBEAT
        try:
            async with asyncio.timeout(_EVERY):
                await service.store.drained.wait()
        except TimeoutError:
            silent += _EVERY


# --- The server ------------------------------------------------------------------------------------------


async def healthy(call: Call) -> Response:
    """Say that the server works."""
    return reply({"status": "ok"})


async def ready(call: Call) -> Response:
    """Say whether the server takes new runs."""
    if call.service.store.draining:
        return reply({"status": "draining"}, 503)
    return reply({"status": "ready"})


async def metrics(call: Call) -> Response:
    """Give figures for Prometheus."""
    text = exposition(call.service, call.principal, call.request.app.state.counts)
    return Response(text, 200, None, METRICS_TYPE)


ENDPOINTS = [
    Endpoint("GET", "/v1/agents", agents, "List the agents", answer=schemas.AgentList),
    Endpoint(
        "GET",
        "/v1/fleet",
        fleet,
        "What goes on: totals, runs in flight, what they wait for, limits, failures",
        query=schemas.FleetQuery,
    ),
    Endpoint(
        "GET",
        "/v1/fleet/events",
        fleet_events,
        "The same as a stream, twice a second while something goes on",
        query=schemas.FleetQuery,
        media=MEDIA_TYPE,
    ),
    Endpoint("GET", "/healthz", healthy, "Whether the server works", answer=schemas.Health, open=True),
    Endpoint(
        "GET",
        "/readyz",
        ready,
        "Whether the server takes new runs",
        answer=schemas.Health,
        answers={503: "It is about to stop."},
        answer_at=(503,),
        open=True,
    ),
    Endpoint(
        "GET",
        "/metrics",
        metrics,
        "Figures for Prometheus",
        media=METRICS_TYPE,
        operator=True,
    ),
]
