"""Asking through a client object of the user's: anything shaped like ``openai.AsyncOpenAI``.

Sync clients, gateways' own clients and test doubles count as well; what they give back may be the
SDK's objects, plain dictionaries, or anything with the same attributes.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from manyhands._bridge import call_user
from manyhands.models import codec
from manyhands.models.endpoint import Timeouts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_END = object()
# The attributes that are read from an object that is no dictionary and cannot become one.
_FIELDS: dict[str, Any] = {
    "id": None,
    "model": None,
    "error": None,
    "choices": {
        "finish_reason": None,
        "message": "message",
        "delta": "message",
    },
    "usage": {
        "prompt_tokens": None,
        "completion_tokens": None,
        "prompt_tokens_details": {"cached_tokens": None},
        "completion_tokens_details": {"reasoning_tokens": None},
    },
}
_MESSAGE: dict[str, Any] = {
    "role": None,
    "content": None,
    "reasoning_content": None,
    "tool_calls": {
        "index": None,
        "id": None,
        "type": None,
        "function": {"name": None, "arguments": None},
    },
}


async def create(
    client: Any,
    pieces: Sequence[bytes],
    *,
    headers: Mapping[str, str] | None,
    extra: Mapping[str, Any] | None,
    door: str = "chat.completions.create",
    seconds: Any = None,
) -> Any:
    """Ask ``client`` with the request that ``pieces`` hold and return its answer as it gives it.

    Args:
        client: It has the method that ``door`` names, sync or async.
        pieces: The request as JSON.
        headers: Headers to add.
        extra: Fields that the client might not know by name.
        door: Where requests go in at the client.
        seconds: Time limit of this call: in our forms, of which a client knows one number only, or
            in one of its own.
    """
    request = codec.loads(b"".join(pieces))
    if headers:
        request["extra_headers"] = dict(headers)
    if extra:
        request["extra_body"] = dict(extra)
    if seconds is not None:
        known = isinstance(seconds, (int, float, dict, Timeouts))
        request["timeout"] = Timeouts.of(seconds).total if known else seconds
    return await call_user(functools.reduce(getattr, door.split("."), client), **request)


class SdkStream:
    """The chunks of a streamed answer, taken from a client's sync or async iterator.

    Args:
        chunks: What the client gave.
    """

    done = False

    def __init__(self, chunks: Any) -> None:
        self._chunks = chunks
        self._async = hasattr(type(chunks), "__aiter__")
        self._items = chunks.__aiter__() if self._async else iter(chunks)

    async def next(self) -> list[dict[str, Any]] | None:
        """Return the next chunk, ``None`` at the end."""
        if self._async:
            chunk = await anext(self._items, _END)
        else:
            chunk = await call_user(next, self._items, _END)
        # Its iterator says itself when it was all.
        self.done = chunk is _END
        return None if self.done else [as_dict(chunk)]

    async def finish(self) -> None:
        """Nothing: its iterator says itself when it was all."""

    async def aclose(self) -> None:
        """Close the client's stream in whichever way it can be closed."""
        for name in ("aclose", "close"):
            close = getattr(self._chunks, name, None) or getattr(self._items, name, None)
            if close is not None:
                await call_user(close)
                return


def as_dict(answer: Any) -> dict[str, Any]:
    """Return a client's answer or chunk as the dictionary that it stands for."""
    if isinstance(answer, dict):
        return answer
    dump = getattr(answer, "model_dump", None)
    dumped = dump() if callable(dump) else None
    return dumped if isinstance(dumped, dict) else _read(answer, _FIELDS)


def _read(holder: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, inner in fields.items():
        value = holder.get(name) if isinstance(holder, dict) else getattr(holder, name, None)
        shape = _MESSAGE if inner == "message" else inner
        if shape is None:
            # Mocks make up attributes; only plain values were really given.
            found[name] = value if isinstance(value, (str, int, float, list, dict)) else None
        elif isinstance(value, (list, tuple)):
            found[name] = [_read(item, shape) for item in value]
        elif value is not None and name not in ("choices", "tool_calls"):
            found[name] = _read(value, shape)
    return found
