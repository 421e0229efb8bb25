"""Rate limits as a provider keeps them: two token buckets for each key, and the headers that tell of them.

A bucket holds up to a minute's allowance (or what ``burst`` says) and fills at an even rate. The prompt is
charged when the request arrives; the reply is charged when it is sent and may take the bucket below zero,
which later requests wait for. A refused request costs nothing.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from time import monotonic
from typing import TYPE_CHECKING

from manyhands.testing.wire import WireError

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_KEYS = 10_000


class Bucket:
    """A token bucket that answers how long to wait instead of waiting.

    Args:
        per_minute: Rate at which it fills.
        burst: Seconds of that rate it can hold; never less than one unit.
        now: The clock's reading.
    """

    __slots__ = ("capacity", "level", "per_minute", "rate", "updated")

    def __init__(self, per_minute: float, burst: float, now: float) -> None:
        self.per_minute = per_minute
        self.rate = per_minute / 60
        self.capacity = max(1.0, self.rate * burst)
        self.level = self.capacity
        self.updated = now

    def refill(self, now: float) -> None:
        """Add what has come in since the last call."""
        self.level = min(self.capacity, self.level + (now - self.updated) * self.rate)
        self.updated = now

    def wait_for(self, amount: float) -> float:
        """Return the seconds until ``amount`` is there; infinite if it never can be."""
        if amount > self.capacity:
            return math.inf
        # A client that waits exactly as told must not meet a rounding error.
        missing = amount - self.level
        return missing / self.rate if missing > 1e-6 else 0.0

    @property
    def reset(self) -> float:
        """Seconds until the bucket is full again."""
        return max(0.0, (self.capacity - self.level) / self.rate)


class Quota:
    """Requests and tokens per minute, held for each API key on its own.

    Args:
        requests_per_minute: Limit of requests, or ``None``.
        tokens_per_minute: Limit of prompt and completion tokens together, or ``None``.
        burst: Seconds of allowance a key can save up.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        requests_per_minute: float | None,
        tokens_per_minute: float | None,
        burst: float = 60.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        for limit in (requests_per_minute, tokens_per_minute, burst):
            if limit is not None and not limit > 0:
                raise ValueError(f"A rate limit of {limit} lets nothing through; it must be above 0.")
        self._limits = {"requests": requests_per_minute, "tokens": tokens_per_minute}
        self._burst = burst
        self._clock = clock
        # Least recently used first: a client that sends a new key each time must not fill the memory.
        self._keys: OrderedDict[str, dict[str, Bucket]] = OrderedDict()

    def __bool__(self) -> bool:
        return any(self._limits.values())

    def admit(self, key: str, tokens: int) -> dict[str, str]:
        """Charge a request that has arrived.

        Args:
            key: The API key it came with.
            tokens: Size of its prompt.

        Returns:
            The ``x-ratelimit-*`` headers for its answer.

        Raises:
            WireError: 429 with ``Retry-After``, if the allowance is used up.
        """
        buckets, now = self._buckets(key), self._clock()
        for bucket in buckets.values():
            bucket.refill(now)
        amounts = {"requests": 1, "tokens": tokens}
        for name, bucket in buckets.items():
            wait = bucket.wait_for(amounts[name])
            if wait > 0:
                raise _refusal(name, bucket, amounts[name], wait, self._headers(buckets))
        for name, bucket in buckets.items():
            bucket.level -= amounts[name]
        return self._headers(buckets)

    def settle(self, key: str, tokens: int) -> None:
        """Charge the tokens of a reply.

        Args:
            key: The API key of the request.
            tokens: Size of the completion.
        """
        bucket = self._buckets(key).get("tokens")
        if bucket is not None:
            bucket.level -= tokens

    def _buckets(self, key: str) -> dict[str, Bucket]:
        buckets = self._keys.get(key)
        if buckets is None:
            now = self._clock()
            buckets = {name: Bucket(limit, self._burst, now) for name, limit in self._limits.items() if limit}
            self._keys[key] = buckets
            if len(self._keys) > _MOST_KEYS:
                self._keys.popitem(last=False)
        else:
            self._keys.move_to_end(key)
        return buckets

    @staticmethod
    def _headers(buckets: dict[str, Bucket]) -> dict[str, str]:
        headers = {}
        for name, bucket in buckets.items():
            headers[f"x-ratelimit-limit-{name}"] = f"{bucket.per_minute:.0f}"
            headers[f"x-ratelimit-remaining-{name}"] = f"{max(0, int(bucket.level))}"
            headers[f"x-ratelimit-reset-{name}"] = duration(bucket.reset)
        return headers


def duration(seconds: float) -> str:
    """Return seconds as OpenAI writes them: ``20ms``, ``1.5s``, ``6m0s``."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    if seconds < 60:
        return f"{round(seconds, 3):g}s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s"


def retry_headers(seconds: float) -> dict[str, str]:
    """Return the headers that ask a client to wait: whole seconds as HTTP has them, and milliseconds."""
    return {"Retry-After": str(math.ceil(seconds)), "retry-after-ms": str(math.ceil(seconds * 1000))}


def _refusal(name: str, bucket: Bucket, amount: int, wait: float, told: dict[str, str]) -> WireError:
    limit = f"Limit {bucket.per_minute:.0f} {name} per minute"
    if math.isinf(wait):
        message = f"Request too large: {limit}, requested {amount}. It can never be served."
    else:
        used = bucket.capacity - bucket.level
        message = (
            f"Rate limit reached for {name}: {limit}, used {used:.0f}, requested {amount}. "
            f"Please try again in {duration(wait)}."
        )
        told = told | retry_headers(wait)
    return WireError(429, message, code="rate_limit_exceeded", type=name, headers=told)
