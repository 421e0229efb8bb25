"""Reading what a client sends: bounded in bytes, time and depth, and strict about what JSON is."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect

from manyhands.serve.problems import Problem

if TYPE_CHECKING:
    from starlette.requests import Request

    from manyhands.serve.settings import Settings

MAX_DEPTH = 32
NO_BODY = object()


async def read_json(request: Request, settings: Settings) -> Any:
    """Return the JSON value of a request's body; ``NO_BODY`` where there is none.

    Raises:
        Problem: It is too large, too slow, no JSON, or not said to be JSON.
    """
    body = await _read(request, settings)
    if not body:
        return NO_BODY
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Also what keeps forms of other sites' pages out: they cannot send this type unasked.
        raise Problem(415, "The body must be JSON, with the header 'Content-Type: application/json'.")
    return parse(body)


async def _read(request: Request, settings: Settings) -> bytes:
    said = request.headers.get("content-length", "0")
    if said.isdigit() and int(said) > settings.max_body:
        raise _too_large(settings)
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings.body_seconds):
            async for piece in request.stream():
                size += len(piece)
                if size > settings.max_body:
                    raise _too_large(settings)
                pieces.append(piece)
    except TimeoutError:
        raise Problem(408, f"The body took longer than {settings.body_seconds:g} seconds.") from None
    except ClientDisconnect:
        raise Problem(400, "The client left before the body was complete.") from None
    return b"".join(pieces)


def _too_large(settings: Settings) -> Problem:
    # The rest is not read: the connection cannot be used for another request.
    return Problem(
        413, f"The body is larger than {settings.max_body} bytes.", headers={"Connection": "close"}
    )


def parse(body: bytes) -> Any:
    """Return a JSON value.

    Raises:
        Problem: It is none, or nested too deep.
    """
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_no_twins)
        _check(value)
    except UnicodeError:
        raise Problem(400, "The body is no valid UTF-8.") from None
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"The body is no JSON that can be taken: {error}.") from None
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _check(value: Any) -> None:
    """Refuse what is nested too deep, and texts that are no Unicode."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                item.encode("utf-8")
            elif isinstance(item, dict):
                below += [*item, *item.values()]
            elif isinstance(item, list):
                below += item
        level = below
