"""Care for one tool, over all agents that share it: a cap, retries, a circuit breaker."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from typing import TYPE_CHECKING, Any

from manyhands.errors import AgentToolExecutionError, CallerError, check_count, check_seconds
from manyhands.events import tell_retry, waiting
from manyhands.limits.capacity import CapacityLimiter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LONGEST_DELAY = 8.0


class CircuitBreaker:
    """Keeps calls from a service that keeps failing, and tries it again with one call at a time.

    Closed at first. After ``threshold`` failures in a row it is open: every call is refused. When
    ``recovery`` seconds have passed it is half open: one call is let through as a probe, all others are
    still refused. A probe that works closes it, one that fails opens it for another ``recovery`` seconds.

    Args:
        threshold: Failures in a row that open it.
        recovery: Seconds until a probe.
        clock: Seconds that only grow.
    """

    def __init__(
        self, threshold: int = 5, recovery: float = 60.0, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.threshold = check_count("threshold", threshold) or 1
        self.recovery = check_seconds("recovery", recovery) or 1.0
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._opened: float | None = None
        self._probing = False

    @property
    def state(self) -> str:
        """``closed``, ``open`` or ``half open``."""
        with self._lock:
            if self._opened is None:
                return "closed"
            return "half open" if self._rested() else "open"

    def _rested(self) -> bool:
        return self._opened is not None and self._clock() - self._opened >= self.recovery

    def enter(self, what: str) -> None:
        """Ask to make a call.

        Args:
            what: What is called, for the message.

        Raises:
            AgentToolExecutionError: The circuit is open.
        """
        with self._lock:
            if self._opened is None:
                return
            if self._rested() and not self._probing:
                self._probing = True
                return
            wait = max(0.0, self.recovery - (self._clock() - self._opened))
        raise AgentToolExecutionError(
            f"{what} is out of service: it failed {self._failures} times in a row. "
            f"It is tried again in {wait:.0f} seconds; use another tool until then."
        )

    def succeeded(self) -> None:
        """Note that a call worked."""
        with self._lock:
            self._failures, self._opened, self._probing = 0, None, False

    def failed(self) -> None:
        """Note that a call failed."""
        with self._lock:
            self._failures += 1
            if self._probing or self._failures >= self.threshold:
                self._opened = self._clock()
            self._probing = False

    def given_up(self) -> None:
        """Note that a call was cancelled: that says nothing about the service."""
        with self._lock:
            self._probing = False


class ToolCare:
    """What is done around each call of one tool.

    Args:
        max_concurrency: Most calls at once, by all agents together.
        retries: How often a failed call is made again.
        retry_on: Errors after which a call may be made again.
        idempotent: Whether calling twice does no harm; then it may be made again after any error, and
            after running out of time.
        circuit_breaker: A breaker, or the number of failures that open one.

    Attributes:
        first_delay: Longest wait before the first retry, in seconds; it doubles with each, up to 8.

    Raises:
        CallerError: A parameter cannot be right, or ``retries`` come without any error to retry on.
    """

    def __init__(
        self,
        *,
        max_concurrency: int | None = None,
        retries: int = 0,
        retry_on: tuple[type[Exception], ...] | type[Exception] = (),
        idempotent: bool = False,
        circuit_breaker: CircuitBreaker | int | None = None,
    ) -> None:
        self.slots = CapacityLimiter(check_count("max_concurrency", max_concurrency) or 0, name="tool")
        self.retries = check_count("retries", retries or None) or 0
        self.first_delay = 0.5
        self.retry_on = retry_on
        self.idempotent = idempotent
        self.breaker = (
            CircuitBreaker(circuit_breaker) if isinstance(circuit_breaker, int) else circuit_breaker
        )
        if self.retries and not (idempotent or retry_on):
            raise CallerError(
                "retries need to know when they are safe: declare the errors with retry_on=..., or that "
                "calling twice does no harm with idempotent=True."
            )

    async def call(self, what: str, attempt: Callable[[], Awaitable[Any]]) -> Any:
        """Make a call, with all the care.

        Args:
            what: What is called, for messages.
            attempt: Makes the call once.
        """
        for tries_left in range(self.retries, -1, -1):
            failure: Exception | None = None
            try:
                result = await self._attempt(what, attempt)
            except Exception as error:
                if not tries_left or not self._may_retry(error):
                    raise
                failure = error
            else:
                if not (tries_left and self.idempotent and _ran_out_of_time(result)):
                    return result
            tried = self.retries - tries_left
            delay = self._delay(tried)
            tell_retry("tool", what, tried + 1, delay, failure)
            # No slot is held meanwhile: others may have their turn.
            with waiting("retry", what):
                await asyncio.sleep(delay)
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, what: str, attempt: Callable[[], Awaitable[Any]]) -> Any:
        async with self.slots:
            if self.breaker is None:
                return await attempt()
            self.breaker.enter(what)
            try:
                result = await attempt()
            except Exception:
                self.breaker.failed()
                raise
            except BaseException:
                self.breaker.given_up()
                raise
            if _ran_out_of_time(result):
                self.breaker.failed()
            else:
                self.breaker.succeeded()
            return result

    def _may_retry(self, error: Exception) -> bool:
        return self.idempotent or isinstance(error, self.retry_on)

    def _delay(self, failures: int) -> float:
        """Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/."""
        return random.uniform(0, min(LONGEST_DELAY, self.first_delay * 2**failures))


def _ran_out_of_time(result: Any) -> bool:
    return isinstance(result, dict) and result.get("timeout") is True and "error" in result
