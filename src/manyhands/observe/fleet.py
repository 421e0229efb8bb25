"""What goes on in a process: every run in flight, what each waits for, and what became of the others.

An observer of many runs. It notes beginnings, ends, waits and requests; all else (step, activity, tokens) it
reads from the runs when it is asked, so that an event costs next to nothing. Runs that have ended are
counted, and only the last of them are kept.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from manyhands import events
from manyhands.approvals import ApprovalRequest
from manyhands.errors import RateLimitError
from manyhands.observe.headroom import headroom
from manyhands.observe.money import Till
from manyhands.run import CANCELLED, FAILED, SUCCESS, error_dict, watching

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from manyhands.limits.prices import Price
    from manyhands.limits.registry import ConcurrencyRegistry
    from manyhands.messages import TokenUsage
    from manyhands.run import Run

# Seconds back over which the rate is taken.
_RATE_WINDOW = 30
_LONGEST_TASK = 200
_LONGEST_ERROR = 500


class _Flight:
    """One run that goes on."""

    __slots__ = ("agent", "began", "id", "money", "parent_id", "requests", "run", "task", "tenant", "waits")

    def __init__(self, run: Run, event: events.RunStart) -> None:
        # The run is not kept alive: one whose loop was closed in the middle ends with its last owner.
        self.run = weakref.ref(run)
        self.id = event.run_id
        self.parent_id = event.parent_id
        self.agent = event.agent
        self.tenant = run.options.tenant
        self.task = _head(event.task, _LONGEST_TASK)
        self.began = time.time()
        self.money: float | None = None
        # What it waits for now, by what and name: since when, and how many of its calls do.
        self.waits: dict[tuple[str, str], list[float]] = {}
        self.requests: dict[str, ApprovalRequest] = {}

    def look(self) -> tuple[str, int, TokenUsage | None]:
        """Return what it does or waits for in a word or two, its step, and its tokens."""
        run = self.run()
        activity = next(reversed(list(self.waits)), ("",))[0]
        if run is None:
            return activity or "working", 0, None
        return activity or run.activity or "working", run.step_number, run.usage

    def dict(self, now: float) -> dict[str, Any]:
        """Return the row of the run."""
        activity, step, usage = self.look()
        return {
            "id": self.id,
            "parent_id": self.parent_id,
            "agent": self.agent,
            "tenant": self.tenant,
            "task": self.task,
            "step": step,
            "activity": activity,
            "waits": [
                {"for": what, "name": name, "seconds": round(now - since, 3)}
                for (what, name), (since, _) in list(self.waits.items())
            ],
            "started_at": self.began,
            "age": round(now - self.began, 3),
            "tokens": _tokens(usage),
            "money": self.money,
        }


class Fleet:
    """Holds what many runs are doing.

    Give it to agents as an observer, ``Agent(..., observers=[fleet.observe])``; it watches the runs that
    their runs start as well. :meth:`watch` has it watch all runs of the process. The runs may be of any
    number of agents, loops and threads.

    Args:
        keep: How many runs that have ended are kept, the last ones.
        prices: Prices by model, to tell money; without them ``genai-prices`` is asked, if it is installed.
        registries: Registries whose limits are shown, beside those of the agents seen.

    Attributes:
        version: Grows with every change that is worth a look.
    """

    def __init__(
        self,
        keep: int = 100,
        *,
        prices: Mapping[str, Price] | None = None,
        registries: Iterable[ConcurrencyRegistry] = (),
    ) -> None:
        self.version = 0
        self._began = time.time()
        self._till = Till(prices, self._pay)
        self._registries = tuple(registries)
        self._flights: dict[str, _Flight] = {}
        self._finished: deque[dict[str, Any]] = deque(maxlen=keep)
        self._counts: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._money: float | None = None
        # How many ended in each of the last seconds.
        self._ends: deque[list[int]] = deque(maxlen=_RATE_WINDOW + 1)
        self._agents: weakref.WeakSet[Any] = weakref.WeakSet()
        # A run may be ended by the garbage collector, in the middle of anything: let it in again.
        self._lock = threading.RLock()
        self._notes: dict[type, Callable[[Run, Any], None]] = {
            events.RunStart: self._note_start,
            events.RunEnd: self._note_end,
            events.StepStart: self._note_change,
            events.ModelStart: self._note_change,
            events.ModelEnd: self._note_reply,
            events.ToolStart: self._note_tool,
            events.ToolEnd: self._note_change,
            events.WaitStart: self._note_wait,
            events.WaitEnd: self._note_wait_end,
            events.Retry: self._note_retry,
            ApprovalRequest: self._note_request,
            events.ApprovalEnd: self._note_decision,
        }

    def watch(self) -> None:
        """Watch all runs of the process that are made from now on."""
        watching.watch(self.observe)

    def leave(self) -> None:
        """Watch no further runs; those that are watched are watched to their end."""
        watching.leave(self.observe)

    # --- Being told -----------------------------------------------------------------------------

    def observe(self, run: Run, event: Any) -> None:
        """Take in one event of a run; an observer for ``observers=``."""
        note = self._notes.get(type(event))
        if note is not None:
            self.version += 1
            note(run, event)

    def _note_start(self, run: Run, event: events.RunStart) -> None:
        with self._lock:
            self._counts["started"] += 1
            self._flights[event.run_id] = _Flight(run, event)
            self._agents.add(run.agent)

    def _note_end(self, run: Run, event: events.RunEnd) -> None:
        with self._lock:
            flight = self._flights.pop(event.run_id, None)
            if flight is None:
                return  # it began before anyone looked
            if flight.parent_id not in self._flights:
                self._count_tokens(run.usage)  # else they are among those of its parent
            self._count_end(event)
            self._finished.append(_obituary(flight, run, event))

    def _count_end(self, event: events.RunEnd) -> None:
        now = int(time.monotonic())
        if not self._ends or self._ends[-1][0] != now:
            self._ends.append([now, 0])
        self._ends[-1][1] += 1
        self._counts["done"] += 1
        if event.status in (SUCCESS, CANCELLED):
            self._counts[event.status] += 1
            return
        self._counts["failed"] += 1
        known = event.error is not None and event.status == FAILED
        self._failures[type(event.error).__name__ if known else event.status] += 1

    def _count_tokens(self, usage: TokenUsage | None) -> None:
        _add(self._tokens, usage)

    def _note_change(self, run: Run, event: Any) -> None:
        """Note nothing: the run itself shows what is new."""

    def _note_tool(self, run: Run, event: events.ToolStart) -> None:
        self._counts["tool_calls"] += 1

    def _note_reply(self, run: Run, event: events.ModelEnd) -> None:
        self._counts["model_calls"] += 1
        if event.reply is not None and event.reply.token_usage is not None:
            model_id = getattr(run.agent.model, "model_id", None)
            self._till.take(event.run_id, model_id, event.reply.token_usage)

    def _pay(self, run_id: str, dollars: float) -> None:
        with self._lock:
            self._money = (self._money or 0.0) + dollars
            flight = self._flights.get(run_id)
            if flight is not None:
                flight.money = (flight.money or 0.0) + dollars

    def _note_wait(self, run: Run, event: events.WaitStart) -> None:
        flight = self._flights.get(event.run_id)
        if flight is not None:
            flight.waits.setdefault((event.what, event.key), [time.time(), 0])[1] += 1

    def _note_wait_end(self, run: Run, event: events.WaitEnd) -> None:
        flight = self._flights.get(event.run_id)
        wait = flight.waits.get((event.what, event.key)) if flight is not None else None
        if flight is None or wait is None:
            return
        wait[1] -= 1
        if wait[1] <= 0:
            del flight.waits[event.what, event.key]

    def _note_retry(self, run: Run, event: events.Retry) -> None:
        self._counts["retries"] += 1
        self._counts["refusals"] += isinstance(event.error, RateLimitError)

    def _note_request(self, run: Run, event: ApprovalRequest) -> None:
        flight = self._flights.get(event.run_id)
        if flight is not None:
            flight.requests[event.id] = event

    def _note_decision(self, run: Run, event: events.ApprovalEnd) -> None:
        flight = self._flights.get(event.run_id)
        if flight is not None:
            flight.requests.pop(event.request_id, None)

    # --- Being asked ----------------------------------------------------------------------------

    def dict(self, runs: int | None = 1000, tenant: str | None = None) -> dict[str, Any]:
        """Return what goes on, as JSON values; from any thread.

        Args:
            runs: Most runs in flight to list, the oldest first; ``None`` for all. Totals count all.
            tenant: List only runs and requests of this tenant; ``None`` lists those of all.
        """
        self._till.catch_up()
        with self._lock:
            flights, finished = list(self._flights.values()), list(self._finished)
            failures, tokens = self._failures.copy(), self._tokens.copy()
            agents = list(self._agents)
        now = time.time()
        waiting: Counter[str] = Counter()
        for flight in flights:
            activity, _, usage = flight.look()
            waiting[activity] += 1
            _add(tokens, usage)
        shown = [flight for flight in flights if tenant in (None, flight.tenant)]
        return {
            "at": now,
            "version": self.version,
            "uptime": round(now - self._began, 3),
            "runs": self._totals(len(flights)),
            "rate": self._rate(),
            "waiting_on": dict(waiting.most_common()),
            "failures": dict(failures.most_common()),
            **{kind: self._counts[kind] for kind in ("model_calls", "tool_calls", "retries", "refusals")},
            "tokens": {kind: tokens[kind] for kind in ("input", "output", "cached", "total")},
            "money": self._money,
            "in_flight": [flight.dict(now) for flight in shown[:runs]],
            "finished": [row for row in reversed(finished) if tenant in (None, row["tenant"])],
            "approvals": _requests(shown, now),
            "limits": headroom(agents, self._registries),
        }

    def _totals(self, in_flight: int) -> builtins.dict[str, int]:
        counts = self._counts
        return {
            "in_flight": in_flight,
            "started": counts["started"],
            "done": counts["done"],
            "succeeded": counts[SUCCESS],
            "failed": counts["failed"],
            "cancelled": counts[CANCELLED],
        }

    def _rate(self) -> float:
        """Runs that ended per second, lately."""
        now = time.monotonic()
        with self._lock:
            ended = sum(number for second, number in self._ends if now - second <= _RATE_WINDOW)
        span = min(_RATE_WINDOW, max(1.0, time.time() - self._began))
        return round(ended / span, 3)

    async def changes(
        self, every: float = 0.25, runs: int | None = 1000, tenant: str | None = None
    ) -> AsyncIterator[builtins.dict[str, Any]]:
        """Give what goes on now, and again when something has changed, without an end.

        Args:
            every: Seconds between two looks. Without a change every fourth look is given: ages grow.
            runs: See :meth:`dict`.
            tenant: See :meth:`dict`.
        """
        while True:
            seen = self.version
            yield self.dict(runs, tenant)
            for _ in range(4):
                await asyncio.sleep(every)
                if self.version != seen:
                    break


def _requests(flights: list[_Flight], now: float) -> list[dict[str, Any]]:
    open_ones = [request for flight in flights for request in list(flight.requests.values())]
    return [{**request.dict(), "age": round(now - request.created, 3)} for request in open_ones]


def _obituary(flight: _Flight, run: Run, event: events.RunEnd) -> dict[str, Any]:
    now = time.time()
    error = error_dict(event.error)
    if error is not None:
        error = {**error, "message": _head(error.get("message", ""), _LONGEST_ERROR)}
    return {
        "id": flight.id,
        "parent_id": flight.parent_id,
        "agent": flight.agent,
        "tenant": flight.tenant,
        "task": flight.task,
        "status": event.status,
        "error": error,
        "steps": run.step_number,
        "ended_at": now,
        "seconds": round(now - flight.began, 3),
        "tokens": _tokens(run.usage),
        "money": flight.money,
    }


def _add(tokens: Counter[str], usage: TokenUsage | None) -> None:
    if usage is not None:
        tokens["input"] += usage.input_tokens
        tokens["output"] += usage.output_tokens
        tokens["cached"] += usage.cached_tokens
        tokens["total"] += usage.total_tokens


def _tokens(usage: TokenUsage | None) -> dict[str, int]:
    if usage is None:
        return {"input": 0, "output": 0, "cached": 0, "total": 0}
    return {
        "input": usage.input_tokens,
        "output": usage.output_tokens,
        "cached": usage.cached_tokens,
        "total": usage.total_tokens,
    }


def _head(text: str, length: int) -> str:
    words = " ".join(text[: 2 * length].split())
    return words if len(words) <= length else words[: length - 1] + "…"
