"""A time limit for very many waits at once, for the price of one timer.

Waits of the same length end in the order in which they began. So they stand in a queue, and only the
first of them needs a timer; the others cost an entry in a dictionary.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType


class Patience:
    """Time limits of one length, on one event loop.

    Args:
        seconds: How long each wait may last; ``None`` for ever.
        loop: The loop that the waits happen on.
    """

    def __init__(self, seconds: float | None, loop: asyncio.AbstractEventLoop) -> None:
        self._seconds = seconds
        self._loop = loop
        self._waits: dict[Wait, None] = {}  # in the order in which they end
        self._timer: asyncio.TimerHandle | None = None

    def limit(self) -> Wait:
        """Return a context manager whose body is cancelled when the time is up: ``TimeoutError``."""
        return Wait(self)

    def _begin(self, wait: Wait) -> None:
        if self._seconds is None:
            return
        wait.deadline = self._loop.time() + self._seconds
        self._waits[wait] = None
        if self._timer is None:
            self._timer = self._loop.call_at(wait.deadline, self._look)

    def _end(self, wait: Wait) -> None:
        self._waits.pop(wait, None)
        if not self._waits and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        now = self._loop.time()
        for wait in list(self._waits):
            if wait.deadline > now:
                self._timer = self._loop.call_at(wait.deadline, self._look)
                return
            del self._waits[wait]
            wait.expire()
        self._timer = None


class Wait:
    """One wait; see :meth:`Patience.limit`."""

    __slots__ = ("_cancelling", "_expired", "_patience", "_task", "deadline")

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._expired = False
        self.deadline = 0.0

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._patience._begin(self)

    def expire(self) -> None:
        """Cancel the body."""
        self._expired = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._expired:
            self._patience._end(self)
        elif self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            # Nobody else cancelled the task meanwhile.
            raise TimeoutError from error
