"""A clock that jumps: hours of waiting pass in an instant, and always in the same order.

On a :class:`VirtualClockLoop` nothing ever waits for a timer. When all tasks wait, the loop's time jumps to
the next timer. So timeouts, rates and backoffs are tested to the second without taking one.

    def test_a_retry_waits_as_told():
        async def scenario():
            began = asyncio.get_running_loop().time()
            ...
            assert asyncio.get_running_loop().time() - began == 20.0

        run_virtual(scenario())
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    """Waits for sockets and threads as any selector; for timers it makes time jump instead."""

    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready; if nothing is, jump ahead by ``timeout`` seconds."""
        if timeout is None:
            return super().select(None)
        ready = super().select(0)
        if not ready:
            self._jump(max(0.0, timeout))
        return ready


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only in jumps to the next timer.

    Work on threads takes no time here: the clock jumps on while a thread is at work.

    Args:
        start: What the clock shows at first, in seconds.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        super().__init__(_JumpingSelector(self._jump))

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Wait for the threads however long they take: a time limit would be over at once."""
        await super().shutdown_default_executor()

    def _jump(self, seconds: float) -> None:
        self._now += seconds


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a new :class:`VirtualClockLoop` and return its result."""
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        return runner.run(main)
