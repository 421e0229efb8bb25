"""How much a server takes on, and how long it keeps what it has done."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from manyhands.errors import CallerError

_WHOLE = {"max_runs", "max_queued", "max_sessions", "max_body", "keep_runs", "keep_events", "keep_bytes"}
_MAY_BE_ZERO = {"max_queued", "drain_seconds", "disconnect_grace"}


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits of a server.

    Attributes:
        max_runs: Most runs at work at once; more wait in a queue that tenants share fairly.
        max_queued: Most runs that wait; more are refused with 429.
        max_sessions: Most conversations at once.
        session_seconds: How long a conversation is kept without a new turn.
        max_body: Most bytes of a request's body.
        body_seconds: Most seconds that a body may take to arrive.
        keep_runs: Most finished runs that are kept.
        keep_seconds: How long they are kept.
        keep_bytes: Most bytes of their events and results.
        keep_events: Most events of one run that are kept for those who come back.
        heartbeat: Seconds of silence after which a stream sends a comment.
        disconnect_grace: Seconds that a client has to come back to the stream of a run that is to be
            cancelled when it leaves.
        drain_seconds: Seconds that running runs have to finish when the server is to stop.

    Raises:
        CallerError: A limit cannot be.
    """

    max_runs: int = 100
    max_queued: int = 1000
    max_sessions: int = 10_000
    session_seconds: float = 3600.0
    max_body: int = 4 * 2**20
    body_seconds: float = 30.0
    keep_runs: int = 10_000
    keep_seconds: float = 3600.0
    keep_bytes: int = 256 * 2**20
    keep_events: int = 2000
    heartbeat: float = 15.0
    disconnect_grace: float = 3.0
    drain_seconds: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            _check(field.name, getattr(self, field.name))


def _check(name: str, value: object) -> None:
    kinds = int if name in _WHOLE else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
        raise CallerError(f"{name} must be a {'whole ' if name in _WHOLE else ''}number, not {value!r}.")
    least = 0 if name in _MAY_BE_ZERO else 1 if name in _WHOLE else None
    if value < 0 or (least is None and value == 0) or (least is not None and value < least):
        raise CallerError(f"{name} cannot be {value!r}.")
