"""All runs of a server: the queue in front of them, and the ones that have ended, for a while."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from typing import TYPE_CHECKING

from manyhands.limits.tenants import FairLimiter
from manyhands.serve.problems import Problem
from manyhands.serve.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from manyhands.run import Run
    from manyhands.serve.auth import Principal
    from manyhands.serve.settings import Settings

logger = logging.getLogger("manyhands.serve")

_LONGEST_RETRY = 60.0


class RunStore:
    """Takes runs on, drives them, and keeps what they leave, within bounds.

    Args:
        settings: The bounds.

    Attributes:
        queued: Runs that wait for their slot.
        running: Runs at work.
        draining: Whether no new runs are taken.
        drained: Set when no runs are left, after draining.
        refused: How many were refused, by reason.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._slots = FairLimiter(settings.max_runs, name="runs of the server")
        # Oldest first.
        self._records: dict[str, Record] = {}
        self._finished: deque[Record] = deque()
        self._bytes = 0
        self._next = 1
        self._of_tenant: Counter[str] = Counter()
        self._seconds = 1.0  # that a run takes, lately
        self._idle = asyncio.Event()
        self._idle.set()
        self.queued = 0
        self.running = 0
        self.draining = False
        self.drained = asyncio.Event()
        self.refused: Counter[str] = Counter()

    # --- Taking runs on -------------------------------------------------------------------------

    def check(self, principal: Principal) -> None:
        """Refuse a new run if there is no room for it.

        Raises:
            Problem: The server stops, or the server or the tenant has enough to do.
        """
        if self.draining:
            self.refused["draining"] += 1
            raise Problem(503, "The server is about to stop, and takes no new runs.", retry_after=5)
        active = self._of_tenant[principal.tenant]
        if principal.max_runs is not None and active >= principal.max_runs:
            raise self._overloaded("tenant", f"{active} runs of yours go on, which is your limit.")
        if self.queued + self.running >= self._settings.max_queued + self._settings.max_runs:
            raise self._overloaded("queue", f"{self.queued} runs wait already, which is the limit.")
        wait = principal.seconds_to_wait()
        if wait > 0:
            self.refused["rate"] += 1
            raise Problem(429, "You start more runs in a minute than you may.", retry_after=wait)

    def _overloaded(self, reason: str, why: str) -> Problem:
        self.refused[reason] += 1
        round_trip = self._seconds * (1 + self.queued / self._settings.max_runs)
        return Problem(429, f"{why} Try again later.", retry_after=min(_LONGEST_RETRY, round_trip))

    def add(
        self,
        run: Run,
        principal: Principal,
        agent: str,
        session: str | None = None,
        *,
        cancel_on_disconnect: bool = False,
    ) -> Record:
        """Put a run into the queue."""
        record = Record(
            run,
            self._next,
            agent,
            principal.tenant,
            session,
            cancel_on_disconnect=cancel_on_disconnect,
            keep_events=self._settings.keep_events,
        )
        self._next += 1
        self._records[record.id] = record
        self._of_tenant[principal.tenant] += 1
        self.queued += 1
        self._idle.clear()
        record.task = asyncio.get_running_loop().create_task(self._drive(record), name=f"serve-{record.id}")
        # Also where it is cancelled before its first line.
        record.task.add_done_callback(lambda task: self._finish(record, task))
        return record

    async def _drive(self, record: Record) -> None:
        run = record.run
        assert run is not None
        async with self._slots.slot(record.tenant):
            self.queued -= 1
            self.running += 1
            record.begin()
            await run

    def _finish(self, record: Record, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None and record.started_at is None:
            logger.error("A run could not begin", exc_info=task.exception())
        if record.started_at is None:
            self.queued -= 1
        else:
            self.running -= 1
            self._seconds += 0.1 * (time.time() - record.started_at - self._seconds)
        try:
            record.finish()
        finally:
            self._keep(record)

    # --- Keeping what has ended -----------------------------------------------------------------

    def _keep(self, record: Record) -> None:
        self._of_tenant[record.tenant] -= 1
        if not self._of_tenant[record.tenant]:
            del self._of_tenant[record.tenant]
        self._finished.append(record)
        self._bytes += record.kept
        self.forget_old()
        if not self.queued and not self.running:
            self._idle.set()

    def forget_old(self) -> None:
        """Forget finished runs that are too many, too large together, or too old."""
        settings = self._settings
        oldest = time.time() - settings.keep_seconds
        finished = self._finished
        while finished and (
            len(finished) > settings.keep_runs
            or (self._bytes > settings.keep_bytes and len(finished) > 1)
            or (finished[0].ended_at or 0.0) < oldest
        ):
            record = finished.popleft()
            self._bytes -= record.kept
            del self._records[record.id]

    # --- Finding them ---------------------------------------------------------------------------

    def get(self, run_id: str, principal: Principal) -> Record:
        """Return a run.

        Raises:
            Problem: There is none of this id that ``principal`` may see.
        """
        record = self._records.get(run_id)
        if record is None or not principal.sees(record.tenant):
            raise Problem(404, "There is no such run, or it ended so long ago that it was forgotten.")
        return record

    def newest(
        self,
        principal: Principal,
        wanted: Callable[[Record], bool],
        after: str | None = None,
    ) -> Iterator[Record]:
        """Give runs, newest first.

        Args:
            principal: Who asks.
            wanted: Which ones.
            after: Id of the run to begin behind.
        """
        self.forget_old()
        behind = self._next if after is None else self.get(after, principal).number
        for record in reversed(self._records.values()):
            if record.number < behind and principal.sees(record.tenant) and wanted(record):
                yield record

    def active(self) -> Iterator[Record]:
        """Give the runs that have not ended, oldest first."""
        return (record for record in list(self._records.values()) if not record.ended.is_set())

    # --- The end --------------------------------------------------------------------------------

    async def drain(self, seconds: float) -> int:
        """Take no new runs, let those at work finish, and cancel what is left then.

        Args:
            seconds: How long they have.

        Returns:
            How many had to be cancelled.
        """
        self.draining = True
        cancelled = 0
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            cancelled = self.cancel_all("the server stops")
            await self._idle.wait()
        self.drained.set()
        return cancelled

    def cancel_all(self, reason: str) -> int:
        """Take no new runs, and cancel all there are; return how many."""
        self.draining = True
        return sum(record.cancel(reason) for record in self.active())
