"""What a crowd is doing right now, in figures: read from its runs a few times a second.

Nothing is told of by the runs, so that a thousand of them cost nothing between two looks.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from manyhands._bridge import call_in_thread
from manyhands.errors import MissingExtraError
from manyhands.limits.prices import Price, cost
from manyhands.messages import TokenUsage
from manyhands.observe.headroom import headroom

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manyhands.crowd import Flight, Progress

# Seconds back over which the rate is taken.
_RATE_WINDOW = 30.0


@dataclass(frozen=True, slots=True)
class Row:
    """One task in flight."""

    id: str
    task: str
    age: float
    step: int
    activity: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A look at a crowd.

    Attributes:
        elapsed: Seconds since the first task was taken.
        total: Tasks in all, those of earlier times included; ``None`` while unknown.
        earlier: Tasks done at an earlier time.
        succeeded: Tasks that succeeded now.
        failed: Tasks that failed now.
        bad: Lines of the input that are no tasks.
        in_flight: Tasks being worked on.
        rate: Results per second, lately.
        eta: Seconds until all is done; ``None`` while unknown.
        retried: Attempts beyond the first ones.
        input_tokens: Tokens sent.
        output_tokens: Tokens received.
        money: US dollars for them; ``None`` where the price is not known.
        limits: How much room each limit leaves, in words.
        activities: What those in flight do or wait for, the most common first.
        failures: Failures by kind, the most common first.
        last_failure: What the latest failure said.
        slowest: The tasks in flight that have been so the longest.
        note: A line for the user.
    """

    elapsed: float
    total: int | None
    earlier: int
    succeeded: int
    failed: int
    bad: int
    in_flight: int
    rate: float
    eta: float | None
    retried: int
    input_tokens: int
    output_tokens: int
    money: float | None
    limits: tuple[str, ...]
    activities: tuple[tuple[str, int], ...]
    failures: tuple[tuple[str, int], ...]
    last_failure: str
    slowest: tuple[Row, ...]
    note: str

    @property
    def done(self) -> int:
        """Tasks that need no more work, of this and of earlier times."""
        return self.earlier + self.succeeded + self.failed + self.bad

    @property
    def left(self) -> int | None:
        """Tasks that are neither done nor in flight; ``None`` while unknown."""
        return None if self.total is None else max(0, self.total - self.done - self.in_flight)


class Meter:
    """Takes snapshots of a crowd's progress.

    Args:
        progress: The progress.
        agents: The agents at work, whose limits and prices are shown.

    Attributes:
        total: Tasks in all, where the progress does not know; may be set later.
        earlier: Tasks done at an earlier time.
        bad: Lines of the input that are no tasks.
        note: A line for the user.
    """

    def __init__(self, progress: Progress, agents: Sequence[Any] = ()) -> None:
        self.progress = progress
        self._agents = agents
        self._price: Price | None = None
        self.total: int | None = progress.total
        self.earlier = 0
        self.bad = 0
        self.note = ""
        self._seen: deque[tuple[float, int]] = deque()

    def read(self, rows: int = 0) -> Snapshot:
        """Return what is going on; call it on the loop.

        Args:
            rows: How many of the slowest tasks to show.
        """
        progress = self.progress
        now = time.monotonic()
        sent, received = progress.tokens()
        rate = self._rate(now)
        return Snapshot(
            elapsed=0.0 if progress.began is None else now - progress.began,
            total=self.total,
            earlier=self.earlier,
            succeeded=progress.succeeded,
            failed=progress.failed,
            bad=self.bad,
            in_flight=progress.in_flight,
            rate=rate,
            eta=self._eta(rate),
            retried=progress.retried,
            input_tokens=sent,
            output_tokens=received,
            money=None if self._price is None else self._price.of(TokenUsage(sent, received)),
            limits=tuple(map(room, headroom(self._agents))),
            activities=_activities(progress),
            failures=tuple(progress.failures.most_common()),
            last_failure=_last_failure(progress),
            slowest=tuple(_row(flight, now) for flight in islice(progress.flights.values(), rows)),
            note=self.note,
        )

    async def learn_price(self) -> None:
        """Look up what the tokens cost, once: reading a table of prices is no work for an event loop."""
        self._price = await call_in_thread(lambda: _price_of(self._agents), label="prices")

    def _rate(self, now: float) -> float:
        if self.progress.began is None:
            return 0.0
        seen = self._seen
        seen.append((now, self.progress.done))
        while len(seen) > 2 and now - seen[0][0] > _RATE_WINDOW:
            seen.popleft()
        then, done = seen[0] if now - seen[0][0] >= _RATE_WINDOW else (self.progress.began, 0)
        return (self.progress.done - done) / (now - then) if now > then else 0.0

    def _eta(self, rate: float) -> float | None:
        if self.total is None or not rate:
            return None
        return max(0, self.total - self.earlier - self.bad - self.progress.done) / rate


def _price_of(agents: Sequence[Any]) -> Price | None:
    """Return the price of the one model that all these agents and their teams ask."""
    models = {getattr(agent.model, "model_id", None) for agent in _with_teams(agents)}
    if len(models) != 1:
        return None
    (model,) = models
    try:
        # For a thousand: some prices grow with the length of one prompt.
        sent, received = (cost(model, usage) for usage in (TokenUsage(1000, 0), TokenUsage(0, 1000)))
        return Price(1000 * sent, 1000 * received)
    except (KeyError, MissingExtraError):
        return None


def _with_teams(agents: Sequence[Any]) -> list[Any]:
    found = list(agents)
    for agent in found:  # it grows while it is read
        found += [member for member in agent.managed_agents.values() if member not in found]
    return found


def _activities(progress: Progress) -> tuple[tuple[str, int], ...]:
    return tuple(Counter(flight.activity for flight in progress.flights.values()).most_common())


def _row(flight: Flight, now: float) -> Row:
    step = flight.run.step_number if flight.run is not None else 0
    return Row(str(flight.id), flight.task, now - flight.began, step, flight.activity, flight.attempt)


def _last_failure(progress: Progress) -> str:
    last = progress.last_failure
    if last is None:
        return ""
    reason = str(last.error) if last.error is not None else "no answer within its steps"
    return f"{last.id}: {reason}"


# --- In words ------------------------------------------------------------------------------------


def duration(seconds: float | None) -> str:
    """Return seconds as a person would write them: ``4.2s``, ``3:07``, ``2:03:07``."""
    if seconds is None:
        return "?"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def counts(pairs: tuple[tuple[str, int], ...]) -> str:
    """Return counts by name as text: ``model 61, tool look_up 12``."""
    return ", ".join(f"{name} {number:,}" for name, number in pairs)


def money(dollars: float | None) -> str:
    """Return US dollars as text, with a gap before it; empty if they are not known."""
    if dollars is None:
        return ""
    return f"   ${dollars:,.2f}" if dollars >= 1 or not dollars else f"   ${dollars:.4f}"


def room(limit: dict[str, Any]) -> str:
    """Return how much room a limit leaves, in words.

    Args:
        limit: A row of :func:`manyhands.observe.headroom.headroom`.
    """
    waiting = f", {limit['waiting']:,} wait" if limit.get("waiting") else ""
    if limit.get("kind") != "rate":
        return f"{limit.get('name')}: {limit.get('held', 0):,} of {limit.get('limit', 0):,} taken{waiting}"
    parts = [
        f"{limit.get(f'{unit}_used', 0):,.0f} of {limit[f'{unit}_per_minute']:,.0f} {unit}/min"
        for unit in ("requests", "tokens")
        if limit.get(f"{unit}_per_minute")
    ]
    if limit.get("paused_for"):
        parts.append(f"paused {duration(limit['paused_for'])}")
    elif limit.get("pace"):
        parts.append(f"climbing, {limit['pace']:.1f}/s")
    return f"{_key_in_short(str(limit.get('name')))}: {', '.join(parts) or 'no limit'}{waiting}"


def _key_in_short(key: str) -> str:
    """Return host and model of the key of a rate (see :func:`manyhands.limits.rate.rate_key`)."""
    if "/" not in key:
        return key
    host = urlsplit(key).hostname or key.partition("/")[0]
    return f"{host}/{key.rpartition('/')[2]}"


def progress_line(now: Snapshot) -> str:
    """Return a snapshot as one line of text."""
    of = f" of {now.total:,}" if now.total is not None else ""
    parts = [f"{now.done:,}{of} done"]
    if now.failed:
        parts.append(f"{now.failed:,} failed ({counts(now.failures)})")
    parts.append(f"{now.in_flight:,} in flight" + (f" ({counts(now.activities)})" if now.activities else ""))
    parts.append(f"{now.rate:.1f}/s")
    if now.eta is not None:
        parts.append(f"eta {duration(now.eta)}")
    parts.append(f"{now.input_tokens + now.output_tokens:,} tokens")
    return f"[{duration(now.elapsed)}] " + "; ".join(parts)
