"""``queue`` for the code.

Waiting lets its other strands work, and there is no lock that could stop the loop.
"""

from __future__ import annotations

import heapq
import queue
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from manyhands.executors.local import classes
from manyhands.executors.local.switch import sleep

if TYPE_CHECKING:
    from collections.abc import Callable

_PAUSE = 0.002


def _until(ready: Callable[[], bool], problem: type[Exception], block: bool, timeout: float | None) -> None:
    """Wait for ``ready``; raise ``problem`` when it is not to be waited for, or not any longer."""
    if timeout is not None and timeout < 0:
        raise ValueError("'timeout' must be a non-negative number")
    end = None if timeout is None else time.monotonic() + timeout
    while not ready():
        if not block or (end is not None and time.monotonic() >= end):
            raise problem
        sleep(_PAUSE)


class Queue:
    """First in, first out.

    Args:
        maxsize: Most items that it holds; 0 for any number.
    """

    def __init__(self, maxsize: int = 0) -> None:
        self.maxsize = maxsize
        self.unfinished_tasks = 0
        self.queue: Any = deque()

    def qsize(self) -> int:
        return len(self.queue)

    def empty(self) -> bool:
        return not self.queue

    def full(self) -> bool:
        return 0 < self.maxsize <= len(self.queue)

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        _until(lambda: not self.full(), queue.Full, block, timeout)
        self._put(item)
        self.unfinished_tasks += 1

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        _until(lambda: not self.empty(), queue.Empty, block, timeout)
        return self._get()

    def put_nowait(self, item: Any) -> None:
        self.put(item, False)

    def get_nowait(self) -> Any:
        return self.get(False)

    def task_done(self) -> None:
        if self.unfinished_tasks <= 0:
            raise ValueError("task_done() called too many times")
        self.unfinished_tasks -= 1

    def join(self) -> None:
        _until(lambda: self.unfinished_tasks == 0, queue.Empty, True, None)

    def _put(self, item: Any) -> None:
        self.queue.append(item)

    def _get(self) -> Any:
        return self.queue.popleft()


class LifoQueue(Queue):
    """Last in, first out."""

    def _get(self) -> Any:
        return self.queue.pop()


class PriorityQueue(Queue):
    """Smallest first."""

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        self.queue = []

    def _put(self, item: Any) -> None:
        heapq.heappush(self.queue, item)

    def _get(self) -> Any:
        return heapq.heappop(self.queue)


class SimpleQueue(Queue):
    """First in, first out, of any size."""

    def __init__(self) -> None:
        super().__init__()


#: The members of ``queue`` for the code.
QUEUES: dict[str, Any] = {"Empty": queue.Empty, "Full": queue.Full}

for _kind in (Queue, LifoQueue, PriorityQueue, SimpleQueue):
    _kind.__module__ = "queue"
    classes.allow_base(_kind)
    QUEUES[_kind.__name__] = _kind
