"""A line whose first member tries, and tries again when there is reason to; the others wait behind it.

Rates and budgets are not handed over like slots: whether the next one may pass depends on time, on how
much it wants, and on what others gave back meanwhile. So only the first in line asks, naps exactly as
long as the answer says, or until it is nudged because something changed. Nobody passes anybody, so a
large request waits its turn and is never starved by small ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

from manyhands.limits.waiting import Errands, FifoLine, Parcel, TaskSeat, ThreadSeat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manyhands.limits.waiting import Seat

# Asked with the lock held; `None`: passed. Else the seconds until asking again makes sense.
Attempt = Callable[[], float | None]


class Turnstile(Errands):
    """Lets tasks of any loop, and threads, pass one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self._line = FifoLine()
        # The seat that was last told that it is first: it tries, and naps with an alarm set.
        self._trying: Seat | None = None

    def try_pass(self, attempt: Attempt) -> bool:
        """Pass if nobody waits and ``attempt`` succeeds; return whether it did."""
        with self._lock:
            if self._errands:
                self._do_errands()
            # Those whose loops are at rest do not stand in the way.
            passed = (not self._line or self._line.first() is None) and attempt() is None
        if self._errands:
            self._run_errands()
        return passed

    async def pass_in_turn(self, attempt: Attempt, timeout: float = math.inf) -> bool:  # noqa: ASYNC109
        """Wait for this task's turn and for ``attempt`` to succeed.

        Args:
            attempt: What to try; errors that it raises end the waiting.
            timeout: Most seconds to wait.

        Returns:
            Whether it succeeded in time.
        """
        if self.try_pass(attempt):
            return True
        seat = TaskSeat(self._awake)
        until = seat.loop.time() + timeout
        try:
            self._join(seat)
            while (nap := self._turn(seat, attempt)) is not None:
                left = until - seat.loop.time()
                if left <= 0:
                    return False
                await self._nap(seat, min(nap, left))
        finally:
            if not seat.left:
                self._leave_errand(seat)
        return True

    def pass_in_turn_sync(self, attempt: Attempt, timeout: float = math.inf) -> bool:
        """Wait in this thread; arguments and result are those of :meth:`pass_in_turn`.

        Raises:
            RuntimeError: This thread runs an event loop, which waiting here would block.
        """
        if self.try_pass(attempt):
            return True
        seat = ThreadSeat()
        until = monotonic() + timeout
        try:
            self._join(seat)
            while (nap := self._turn(seat, attempt)) is not None:
                left = until - monotonic()
                if left <= 0:
                    return False
                seat.wait(min(nap, left))
        finally:
            if not seat.left:
                self._leave_errand(seat)
        return True

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock under which attempts are made, for a change that must not meet one."""
        with self._lock:
            yield
        if self._errands:
            self._run_errands()

    def nudge(self) -> None:
        """Have the first in line try again: something has changed. Never blocks."""
        self._leave_errand(None)

    @property
    def waiting(self) -> int:
        """Tasks and threads in line; those of closed loops do not count."""
        with self._lock:
            count = self._line.waiting()
        if self._errands:
            self._run_errands()
        return count

    def _join(self, seat: Seat) -> None:
        with self._lock:
            self._line.join(seat)
        if self._errands:
            self._run_errands()

    def _turn(self, seat: Seat, attempt: Attempt) -> float | None:
        """Try if it is this seat's turn; return the seconds to nap, ``None`` when through."""
        with self._lock:
            if self._errands:
                self._do_errands()
            if self._first() is not seat:
                nap: float | None = math.inf
            elif (nap := attempt()) is None:
                seat.left = True
                self._line.leave(seat)
                self._first()
        if self._errands:
            self._run_errands()
        return nap

    def _first(self) -> Seat | None:
        """Return the first in line that hears, told that it is first."""
        first = self._line.first()
        if first is not self._trying:
            self._trying = first
            if first is not None:
                first.call(self._lost)
        return first

    async def _nap(self, seat: TaskSeat, seconds: float) -> None:
        seat.future = seat.loop.create_future()
        if seconds == math.inf:
            await seat.future
            return
        # If the loop is closed during the nap, the line must not wait for it.
        alarm = Parcel(seat.wake, self.nudge)
        timer = seat.loop.call_later(seconds, alarm)
        try:
            await seat.future
        finally:
            alarm.recall()
            timer.cancel()

    def _awake(self, seat: Seat) -> None:
        # Its loop runs again after a rest: it may be first now.
        seat.call(self._lost)

    def _lost(self, seat: Seat) -> None:
        self.nudge()

    def _do_errands(self) -> None:
        while self._errands:
            seat: Seat | None = self._errands.popleft()
            if seat is not None:
                seat.left = True
                self._line.leave(seat)
        self._trying = None
        self._first()
