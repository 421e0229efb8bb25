"""What a client is told when something is wrong: a status, a word for programs, a sentence for people."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from manyhands.serve.jsonable import encoded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import ValidationError

JSON_TYPE = "application/json"

# The word for each status, unless a problem has a better one.
_TYPES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    409: "conflict",
    413: "too_large",
    415: "unsupported_media_type",
    421: "wrong_host",
    422: "invalid",
    429: "overloaded",
    500: "internal_error",
    503: "unavailable",
}


class Problem(Exception):
    """A request that is refused.

    Args:
        status: HTTP status.
        message: One sentence on what is wrong and what to do.
        details: More for programs: which field, and why.
        headers: Headers of the answer.
        retry_after: Seconds after which to come again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        details: list[dict[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.details = details
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))

    def response(self) -> Response:
        """Return the answer."""
        error: dict[str, Any] = {"type": _TYPES.get(self.status, "error"), "message": self.message}
        if self.details is not None:
            error["details"] = self.details
        return reply({"error": error}, self.status, self.headers)


def invalid(error: ValidationError, where: str) -> Problem:
    """Return the problem of a body or a query that does not fit.

    Args:
        error: What pydantic says.
        where: ``body`` or ``query``.
    """
    details = [
        {"where": ".".join([where, *map(str, one["loc"])]), "message": one["msg"]}
        for one in error.errors(include_url=False, include_input=False, include_context=False)[:20]
    ]
    first = details[0]
    return Problem(422, f"{first['where']}: {first['message']}.", details=details)


def reply(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer in JSON."""
    return Response(encoded(content), status, headers, JSON_TYPE)
