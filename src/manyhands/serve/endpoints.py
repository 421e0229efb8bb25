"""From a request to a handler: who asks, what exactly, and what is answered when it cannot be.

Routes and the OpenAPI document are made from the same list of endpoints, so that they cannot differ.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Route

from manyhands.errors import CallerError
from manyhands.serve.bodies import NO_BODY, read_json
from manyhands.serve.problems import Problem, invalid
from manyhands.serve.schemas import ProblemView

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Mapping

    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    from manyhands.serve.auth import Principal
    from manyhands.serve.service import Service

logger = logging.getLogger("manyhands.serve")


@dataclass(slots=True)
class Call:
    """One request, checked.

    Attributes:
        service: What is served.
        request: The request as it came.
        principal: Who asks.
        body: The body, as the model that the endpoint names.
        query: The query, likewise.
    """

    service: Service
    request: Request
    principal: Principal
    body: Any = None
    query: Any = None

    def path(self, name: str) -> str:
        """Return a part of the path."""
        return str(self.request.path_params[name])


Handler = Callable[[Call], Awaitable["Response"]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A door of the API.

    Attributes:
        method: HTTP method.
        path: Its path, with ``{names}``.
        handler: What answers.
        summary: One line on what it does.
        body: The model of the body; ``None`` if there is none.
        body_needed: Whether there must be one.
        query: The model of the query; ``None`` if there is none.
        answer: The model of the answer; ``None`` if it is no JSON.
        answers: What else it may answer than 200 and the common problems: status and description.
        media: Type of the answer.
        also: Further types that it may have.
        open: Whether it needs no token.
        operator: Whether it is for operators only.
        headers: Request headers that it reads: name and description.
        problem: Makes the answer to a request that is refused.
        problem_model: The model of that answer.
        answer_at: Further statuses whose answer has the form of a good one.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    body: type[BaseModel] | None = None
    body_needed: bool = True
    query: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    answers: Mapping[int, str] = field(default_factory=dict)
    media: str = "application/json"
    also: tuple[str, ...] = ()
    open: bool = False
    operator: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    problem: Callable[[Problem], Response] = Problem.response
    problem_model: type[BaseModel] = ProblemView
    answer_at: tuple[int, ...] = ()

    async def respond(self, service: Service, request: Request) -> Response:
        """Answer a request."""
        try:
            return await self.handler(await self._call(service, request))
        except Problem as problem:
            return self.problem(problem)
        except CallerError as error:
            return self.problem(Problem(422, str(error)))
        except ClientDisconnect:
            raise
        except Exception:
            logger.exception("%s %s failed", self.method, self.path)
            return self.problem(Problem(500, "The server failed; its log says why."))

    async def _call(self, service: Service, request: Request) -> Call:
        principal = service.doorkeeper.admit(request) if not self.open else _NOBODY
        if self.operator and not principal.operator:
            raise Problem(403, "This is for operators: a token of a tenant does not do.")
        call = Call(service, request, principal)
        if self.query is not None:
            call.query = _checked(self.query, _single(request), "query")
        elif request.query_params and not self.open:
            raise Problem(422, "This takes no query.")
        if self.body is not None:
            value = await read_json(request, service.settings)
            if value is NO_BODY:
                if self.body_needed:
                    raise Problem(400, "This needs a body in JSON.")
                value = {}
            call.body = _checked(self.body, value, "body")
        return call


def _nobody() -> Principal:
    from manyhands.serve.auth import Principal

    return Principal("", operator=False)


_NOBODY = _nobody()


def _checked(model: type[BaseModel], value: Any, where: str) -> BaseModel:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise invalid(error, where) from None


def _single(request: Request) -> dict[str, str]:
    pairs = request.query_params.multi_items()
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Problem(422, "A parameter of the query stands there twice.")
    return found


class Path:
    """All endpoints of one path, as an ASGI app: it knows which methods there are.

    Args:
        service: What is served.
        endpoints: The endpoints by method.
        counts: Where answers are counted, by method, path and status.
    """

    def __init__(
        self, service: Service, endpoints: Mapping[str, Endpoint], counts: Counter[tuple[str, str, int]]
    ) -> None:
        self._service = service
        self._endpoints = endpoints
        self._counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        endpoint = self._endpoints.get(request.method)
        if endpoint is None:
            allowed = ", ".join(sorted(self._endpoints))
            response = Problem(405, f"This takes {allowed}.", headers={"Allow": allowed}).response()
        else:
            try:
                response = await endpoint.respond(self._service, request)
            except ClientDisconnect:
                return  # nobody is there to be answered
            self._counts[endpoint.method, endpoint.path, response.status_code] += 1
        await response(scope, receive, send)


def routes(
    service: Service, endpoints: Iterable[Endpoint], counts: Counter[tuple[str, str, int]]
) -> list[Route]:
    """Return the routes of the endpoints."""
    by_path: dict[str, dict[str, Endpoint]] = {}
    for endpoint in endpoints:
        by_path.setdefault(endpoint.path, {})[endpoint.method] = endpoint
    return [Route(path, Path(service, methods, counts)) for path, methods in by_path.items()]
