"""Threads and event loops to test with, and a way to wait for a condition without guessing a time."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

T = TypeVar("T")
PATIENCE = 20.0


def until(condition: Callable[[], object]) -> None:
    """Return as soon as ``condition`` holds; fail if it never does."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the condition was never met"
        time.sleep(0.0005)


async def settled() -> None:
    """Let everything run that is ready to."""
    for _ in range(10):
        await asyncio.sleep(0)


class LoopThread:
    """An event loop running in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def start(self, coro: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coro, self.loop)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE)

    def close(self) -> None:
        """End the loop as ``asyncio.run`` does: what is left is cancelled."""
        if not self.loop.is_closed():
            self.start(_cancel_all()).result(PATIENCE)
            self.stop()
            self.loop.close()


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@contextmanager
def loop_threads(count: int) -> Iterator[list[LoopThread]]:
    """Give ``count`` event loops, each running in its own thread."""
    loops = [LoopThread() for _ in range(count)]
    try:
        yield loops
    finally:
        for loop in loops:
            loop.close()


def in_thread(call: Callable[[], T]) -> Future[T]:
    """Run ``call`` in a new thread and return its future."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future
