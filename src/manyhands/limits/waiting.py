"""What every limiter needs to let tasks of several loops, and threads, wait in one line.

Three ideas, each small:

*A seat* is somebody's place in a line: a task on its loop, or a thread. It knows whether whoever sits
there can hear a call now (the loop runs), later (the loop is at rest between two runs), or never again
(the loop is closed). It may have a ``key`` that says for whom it waits, and notes whether it was
``granted`` what it waits for, or has ``left``.

*A parcel* carries a call to another loop. A loop that is closed throws its parcels away; a parcel that
is thrown away unopened says so, and what it carried goes to the next in line. So a loop that dies
between two lines of code loses nothing.

*An errand* is a change to a limiter that may come from anywhere, even from a finalizer that the
garbage collector runs while this very thread holds the limiter's lock. It is left at the door, and
whoever holds the lock does it on the way out: nobody waits for a lock to give something back.
"""

from __future__ import annotations

import math
import queue
import threading
from asyncio import Future
from asyncio.events import _get_running_loop, get_running_loop
from collections import OrderedDict, deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable


class Errands:
    """A lock, and the errands left at its door."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._errands: deque[Any] = deque()

    def _leave_errand(self, errand: Any) -> None:
        """Have ``errand`` done, now or by whoever holds the lock; never blocks."""
        self._errands.append(errand)
        self._run_errands()

    def _run_errands(self) -> None:
        # Whoever fails to get the lock leaves the rest to its holder, who looks here after letting go.
        while self._errands and self._lock.acquire(blocking=False):
            try:
                self._do_errands()
            finally:
                self._lock.release()

    def _do_errands(self) -> None:
        """Do all errands; the lock is held."""
        raise NotImplementedError


class Parcel:
    """A call on its way to another loop.

    Args:
        arrive: What to do there.
        lost: What to do, wherever, if the loop is closed before the parcel arrives.
    """

    __slots__ = ("_arrive", "_lost")

    def __init__(self, arrive: Callable[[], object], lost: Callable[[], object]) -> None:
        self._arrive = arrive
        self._lost: Callable[[], object] | None = lost

    def __call__(self) -> None:
        self._lost = None
        self._arrive()

    def recall(self) -> None:
        """Forget the parcel: it is wanted no more."""
        self._lost = None

    def __del__(self) -> None:
        if self._lost is not None:
            self._lost()


class TaskSeat:
    """A task in line.

    Args:
        awake: Called on the task's loop when that runs again after a rest in which the seat was called.
    """

    # Defaults on the class: a seat is made for every wait, and most of them never differ.
    key = ""
    granted = False
    left = False
    _knocked = False
    _here = False

    def __init__(self, awake: Callable[[Any], object]) -> None:
        self.loop = loop = get_running_loop()
        # What loop.create_future() does, without the way there.
        self.future: asyncio.Future[bool] = Future(loop=loop)
        self._awake = awake

    def hears(self) -> bool:
        """Return whether the task can take a call now."""
        # Asking for the running loop is a system call up to Python 3.11: once is enough.
        self._here = self.loop is _get_running_loop()
        return self._here or self.loop.is_running()

    def is_gone(self) -> bool:
        """Return whether the task will never run again."""
        return self.loop.is_closed()

    def knock(self) -> None:
        """Ask a loop at rest to report back when it runs again."""
        if not self._knocked:
            self._knocked = True
            with suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._report)

    def _report(self) -> None:
        self._knocked = False
        self._awake(self)

    def call(self, lost: Callable[[TaskSeat], object]) -> None:
        """Wake the task, right after :meth:`hears`.

        Args:
            lost: Told of the seat if its loop is closed before the call arrives.
        """
        if self._here:
            if not self.future.done():
                self.future.set_result(True)
            return
        # A closed loop raises and drops the parcel, which then reports its loss.
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(Parcel(self.wake, partial(lost, self)))

    def wake(self) -> None:
        """Wake the task; only on its own loop."""
        if not self.future.done():
            self.future.set_result(True)


class ThreadSeat:
    """A thread in line."""

    key = ""
    granted = False
    left = False

    def __init__(self) -> None:
        self.bell: queue.SimpleQueue[None] = queue.SimpleQueue()

    def hears(self) -> bool:
        """Return whether the thread can take a call now: always."""
        return True

    def is_gone(self) -> bool:
        """Return whether the thread will never run again: it leaves its seat before it ends."""
        return False

    def knock(self) -> None:
        """Do nothing: a thread always hears."""

    def call(self, lost: Callable[[Any], object]) -> None:
        """Wake the thread."""
        self.bell.put(None)

    def wait(self, seconds: float) -> bool:
        """Sleep until called, and return whether that was in time; Ctrl-C gets through."""
        try:
            self.bell.get(timeout=None if seconds >= threading.TIMEOUT_MAX else max(0.0, seconds))
        except queue.Empty:
            return False
        return True


Seat = TaskSeat | ThreadSeat


def first_to_hear(seats: Iterable[Seat], gone: list[Seat]) -> Seat | None:
    """Return the first seat that can take a call now, ``None`` if none can.

    Args:
        seats: The line, oldest first. Seats whose loop is at rest are asked to report back.
        gone: Takes up the seats found that will never take a call again.
    """
    for seat in seats:
        if seat.hears():
            return seat
        if seat.is_gone():
            gone.append(seat)
        else:
            seat.knock()
    return None


class FifoLine(OrderedDict[Seat, None]):
    """A line in which the oldest comes first; joining and leaving take constant time."""

    # A plain dict finds its first entry in linear time once many before it were deleted.
    __slots__ = ()

    def join(self, seat: Seat) -> None:
        """Take a place at the end."""
        self[seat] = None

    def leave(self, seat: Seat) -> bool:
        """Give up a place, and return whether there was one."""
        return self.pop(seat, seat) is None

    def first(self) -> Seat | None:
        """Return the oldest that can take a call now; those that never will are dropped."""
        gone: list[Seat] = []
        seat = first_to_hear(self, gone)
        for lost in gone:
            del self[lost]
        return seat

    def take(self) -> Seat | None:
        """Remove and return :meth:`first`."""
        if not self:
            return None
        oldest, _ = self.popitem(last=False)
        if oldest.hears():  # nearly always
            return oldest
        self[oldest] = None
        self.move_to_end(oldest, last=False)
        found = self.first()
        if found is not None:
            del self[found]
        return found

    def waiting(self) -> int:
        """Return how many wait who will still hear a call."""
        return sum(not seat.is_gone() for seat in list(self))


def checked_timeout(timeout: object) -> float:
    """Return a timeout in seconds, infinite for ``None``.

    Raises:
        TypeError: It is no number.
        ValueError: It is negative, or not a number in the other sense.
    """
    if timeout is None:
        return math.inf
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"A timeout is a number of seconds or None, not {timeout!r}.")
    if not timeout >= 0:
        raise ValueError(f"A timeout cannot be {timeout!r}; it counts seconds from 0.")
    return timeout


def checked_limit(limit: object) -> int:
    """Return a limit as a whole number, 0 for unlimited.

    Raises:
        TypeError: It is no whole number.
    """
    if limit is None:
        return 0
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(
            f"A limit is a whole number, 0 for unlimited, not {limit!r} ({type(limit).__name__})."
        )
    return max(0, limit)


def refuse_on_loop(call: str, instead: str) -> None:
    """Raise ``RuntimeError`` if this thread runs an event loop, which ``call`` would block."""
    if _get_running_loop() is not None:
        raise RuntimeError(
            f"{call} cannot be called with a running event loop; use async {instead} in async contexts."
        )
