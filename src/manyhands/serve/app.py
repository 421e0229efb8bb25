"""The app: all doors, behind one door with a lock."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from manyhands.serve import chat, lookout, pages, runs, steering, talks
from manyhands.serve.endpoints import Call, Endpoint, routes
from manyhands.serve.openapi import document
from manyhands.serve.problems import Problem, reply
from manyhands.serve.service import Service
from manyhands.serve.sse import STRAIGHT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from manyhands.agents import MultiStepAgent
    from manyhands.serve.auth import Token
    from manyhands.serve.settings import Settings

_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", pages.POLICY.encode()),
]
_NO_STORE = (b"cache-control", b"no-store")


def create_app(
    agents: MultiStepAgent | Iterable[MultiStepAgent] | Mapping[str, MultiStepAgent],
    *,
    tokens: Iterable[Token] = (),
    open_to_all: bool = False,
    settings: Settings | None = None,
) -> Starlette:
    """Make an app that serves agents over HTTP.

    Run it with any ASGI server, or mount it in another app. An app that mounts it enters
    ``app.state.service`` in its own lifespan, so that runs are ended with it. Without tokens it answers
    only programs on its own computer.

    Args:
        agents: One agent, several, or a mapping from name to agent.
        tokens: What lets clients in; see :func:`manyhands.serve.read_tokens`.
        open_to_all: Ask nobody for a token, because something in front does.
        settings: Limits of the server.

    Returns:
        The app; ``app.state.service`` is the :class:`~manyhands.serve.service.Service` behind it.

    Raises:
        CallerError: The agents cannot be served.
    """
    tokens = list(tokens)
    service = Service(agents, tokens, open_to_all=open_to_all, settings=settings)
    counts: Counter[tuple[str, str, int]] = Counter()
    endpoints = [*_API, Endpoint("GET", "/openapi.json", _describe, "This document", open=True)]
    app = Starlette(
        routes=routes(service, endpoints, counts),
        lifespan=_lifespan,
        exception_handlers={HTTPException: _http_problem},
    )
    app.state.service = service
    app.state.counts = counts
    app.state.lookout = lookout.Lookout(service)
    app.state.secured = bool(tokens)
    app.state.endpoints = endpoints
    app.add_middleware(SecurityHeaders)
    return app


_API = [
    *runs.ENDPOINTS,
    *steering.ENDPOINTS,
    *talks.ENDPOINTS,
    *lookout.ENDPOINTS,
    *chat.ENDPOINTS,
    *pages.ENDPOINTS,
]


async def _describe(call: Call) -> Response:
    app = call.request.app
    prefix = call.request.scope.get("root_path", "")
    return reply(document(app.state.endpoints, app.state.secured, prefix))


@contextlib.asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    async with app.state.service:
        yield


async def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = "There is nothing here; GET /openapi.json lists what there is."
    return Problem(error.status_code, message if error.status_code == 404 else str(error.detail)).response()


class SecurityHeaders:
    """Puts on every answer what tells a browser to be careful.

    Args:
        app: What answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        scope[STRAIGHT] = send

        async def careful(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = _with_headers(message.get("headers", ()))
            await send(message)

        await self._app(scope, receive, careful)


def _with_headers(headers: Any) -> list[tuple[bytes, bytes]]:
    own = list(headers)
    said = {name.lower() for name, _ in own}
    own += [header for header in _HEADERS if header[0] not in said]
    return own if b"cache-control" in said else [*own, _NO_STORE]
