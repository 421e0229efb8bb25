"""A limit on how many may hold something at once: the one primitive under every cap in manyhands.

Tasks of any number of event loops, and threads, wait in one line. A slot that comes free is handed
to the oldest of them there and then, so nobody who comes later can slip in between, nobody polls,
and waiting costs nothing. The limit may change at any time, also while slots are held.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from manyhands.events import current_run, waiting
from manyhands.limits.waiting import (
    Errands,
    FifoLine,
    Seat,
    TaskSeat,
    ThreadSeat,
    checked_limit,
    checked_timeout,
    refuse_on_loop,
)

if TYPE_CHECKING:
    from types import TracebackType

logger = logging.getLogger("manyhands.limits")


@dataclass(frozen=True, slots=True)
class SlotStats:
    """A limiter at one moment.

    Attributes:
        limit: Most holders at once; 0 for unlimited.
        held: Holders now; above ``limit`` for a while after that was lowered.
        waiting: Tasks and threads in line.
    """

    limit: int
    held: int
    waiting: int


class Line(Protocol):
    """Who waits, and who is next."""

    def join(self, seat: Seat) -> None: ...

    def leave(self, seat: Seat) -> bool: ...

    def take(self) -> Seat | None: ...

    def waiting(self) -> int: ...

    def __len__(self) -> int: ...


class CapacityLimiter(Errands):
    """A resizable limit on holders, first come first served across tasks, threads and event loops.

    Use it as ``async with limiter:`` or, in sync code, ``with limiter:``; or take and give back slots
    by hand. Slots have no owner: whoever holds one may hand it on and let somebody else release it.

    Args:
        limit: Most holders at once; 0 or less, or ``None``, is unlimited. Holders are counted always.
        name: Appears in messages.
        line: Who is next; the oldest, unless told otherwise.

    Raises:
        TypeError: ``limit`` is no whole number.
    """

    def __init__(self, limit: int | None = 0, *, name: str = "", line: Line | None = None) -> None:
        super().__init__()
        self.name = name
        self._limit = checked_limit(limit)
        self._ceiling = self._limit or math.inf
        self._held = 0
        self._line: Line = FifoLine() if line is None else line

    # --- Taking and giving back ----------------------------------------------------------------

    # asyncio.timeout() works by cancelling, and cancels even a task that has just got its slot.
    async def acquire(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Take a slot, waiting in line for one.

        Args:
            timeout: Most seconds to wait; 0 does not wait, ``None`` waits as long as it takes.

        Raises:
            TimeoutError: No slot came free in time.
        """
        if timeout is not None:
            checked_timeout(timeout)
        if not self.try_acquire():
            await self.wait_in_line("", timeout)

    def acquire_sync(self, timeout: float | None = None) -> None:
        """Take a slot from sync code; the arguments and errors are those of :meth:`acquire`.

        Raises:
            RuntimeError: This thread runs an event loop, which waiting here would block.
        """
        refuse_on_loop("acquire_sync()", "acquire()")
        self.block_in_line("", checked_timeout(timeout))

    def try_acquire(self) -> bool:
        """Take a slot if one is free and nobody waits for it; return whether it was taken."""
        with self._lock:
            if self._errands:
                self._do_errands()
            taken = self._held < self._ceiling
            if taken and self._line:
                self._admit()
                taken = self._held < self._ceiling
            if taken:
                self._held += 1
        if self._errands:
            self._run_errands()
        return taken

    def release(self) -> None:
        """Give a slot back; the oldest in line has it at once. One too many is an error in the log."""
        if not self._lock.acquire(False):
            self._leave_errand(None)
            return
        try:
            excess = self._held <= 0
            if not excess:
                self._held -= 1
                if self._line:
                    self._admit()
        finally:
            self._lock.release()
        if excess:
            self._complain()
        if self._errands:
            self._run_errands()

    async def wait_in_line(self, key: str, timeout: float | None) -> None:  # noqa: ASYNC109
        """Take a slot when it is this task's turn; ``key`` tells lines that ask whose task it is."""
        seat = TaskSeat(self._awake)
        if key:
            seat.key = key
        timer = None
        try:
            self._join(seat)
            if timeout is not None and timeout < math.inf:
                timer = seat.loop.call_later(timeout, self._expire, seat)
            if current_run.get() is None:  # nobody to tell: half of what waiting costs
                in_time = await seat.future
            else:
                with waiting("slot", self.name or key):
                    in_time = await seat.future
        except BaseException:
            # Cancelled, or closed by the garbage collector: a slot handed over meanwhile goes on.
            self._leave_errand(seat)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if not in_time:
            raise self._too_late(timeout)

    def block_in_line(self, key: str, timeout: float) -> None:
        """Take a slot when it is this thread's turn, within ``timeout`` seconds."""
        if self.try_acquire():
            return
        seat = ThreadSeat()
        seat.key = key
        try:
            self._join(seat)
            in_time = seat.wait(timeout) or not self._give_up(seat)
        except BaseException:
            self._leave_errand(seat)
            raise
        if not in_time:
            raise self._too_late(timeout)

    # --- Behind the lock -----------------------------------------------------------------------

    def _join(self, seat: Seat) -> None:
        with self._lock:
            self._line.join(seat)
            if self._errands:
                self._do_errands()
            elif self._held < self._ceiling:
                self._admit()
        if self._errands:
            self._run_errands()

    def _give_up(self, seat: Seat) -> bool:
        """Leave the line, and return whether the seat was still in it: else it has a slot."""
        with self._lock:
            waited = self._line.leave(seat)
        if self._errands:
            self._run_errands()
        return waited

    def _expire(self, seat: TaskSeat) -> None:
        if self._give_up(seat) and not seat.future.done():
            seat.future.set_result(False)

    def _awake(self, seat: Seat) -> None:
        with self._lock:
            self._do_errands()
        if self._errands:
            self._run_errands()

    def _do_errands(self) -> None:
        while self._errands:
            seat: Seat | None = self._errands.popleft()
            if seat is None:
                if self._held > 0:
                    self._held -= 1
                else:
                    self._complain()
            elif not self._line.leave(seat) and seat.granted:
                seat.granted = False
                self._held -= 1
        self._admit()

    def _admit(self) -> None:
        while self._held < self._ceiling:
            seat = self._line.take()
            if seat is None:
                return
            self._held += 1
            seat.granted = True
            seat.call(self._leave_errand)

    def _complain(self) -> None:
        logger.error("release() of %s without a slot to give back: nothing was freed.", self._what())

    def _too_late(self, timeout: float | None) -> TimeoutError:
        stats = self.stats()
        return TimeoutError(
            f"No slot of {self._what()} came free within {timeout:g}s "
            f"({stats.held} held, limit {stats.limit}, {stats.waiting} waiting)."
        )

    def _what(self) -> str:
        return repr(self.name) if self.name else "the limiter"

    # --- Watching and resizing -----------------------------------------------------------------

    @property
    def limit(self) -> int:
        """Most holders at once; 0 for unlimited. Setting it takes effect at once.

        Raising it lets in those who wait. Lowering it takes nothing from holders: nobody is let in
        until enough of them are done.
        """
        return self._limit

    @limit.setter
    def limit(self, limit: int | None) -> None:
        checked = checked_limit(limit)
        with self._lock:
            self._limit = checked
            self._ceiling = checked or math.inf
            self._do_errands()
        if self._errands:
            self._run_errands()

    @property
    def held(self) -> int:
        """Holders now."""
        return self._held

    @property
    def waiting(self) -> int:
        """Tasks and threads in line; those of closed loops do not count."""
        with self._lock:
            count = self._line.waiting()
        if self._errands:
            self._run_errands()
        return count

    def stats(self) -> SlotStats:
        """Return the limiter as it is now."""
        return SlotStats(self._limit, self._held, self.waiting)

    def __repr__(self) -> str:
        return f"<CapacityLimiter {self._what()} limit={self._limit} held={self._held}>"

    # --- Context managers ----------------------------------------------------------------------

    async def __aenter__(self) -> None:
        if not self.try_acquire():
            await self.wait_in_line("", None)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __enter__(self) -> None:
        self.acquire_sync()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
