"""Requests and tokens per minute, for everyone who shares a provider's key.

A :class:`RateLimiter` keeps two buckets, one for requests and one for tokens. A call reserves what it is
expected to use, waits in line until both buckets have it, and settles afterwards to what it really used.
Each bucket obeys two rules. It fills evenly and holds only a little, so that calls go out evenly. And it
remembers the last minute, so that no minute, wherever it begins, holds more than the limit.

What the provider says wins over what was configured: its ``x-ratelimit-*`` headers lower the buckets to
what is really left, and a ``Retry-After`` holds everyone on the key, once. After such a pause calls are
let out slowly at first, then faster, because a thousand that go at once would be refused again.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
import threading
import weakref
from collections import deque
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from manyhands.limits.turnstile import Turnstile
from manyhands.limits.waiting import checked_timeout, refuse_on_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

logger = logging.getLogger("manyhands.limits")

MINUTE = 60.0
# Uses within this many seconds share one entry in a bucket's memory; it is the memory's only rounding,
# and always to the safe side.
_GRAIN = 0.1
# A timer that fires this many seconds late costs no throughput.
_SLACK = 0.02
# Rounding errors of a clock must not cost one more wait.
_EPSILON = 1e-9


@dataclass(slots=True)
class _Use:
    """What was used around one moment: first at ``since``, last at ``at``."""

    since: float
    at: float
    amount: float
    forgotten: bool = False


class Bucket:
    """A limit per minute that answers how long to wait instead of waiting.

    Args:
        per_minute: The limit; infinite for none, which still counts.
        burst: Most that may be used at once after a quiet time.
        now: The clock's reading, in seconds.
    """

    __slots__ = ("_minute", "burst", "level", "per_minute", "spent", "updated", "used")

    def __init__(self, per_minute: float, burst: float, now: float) -> None:
        self.per_minute = per_minute
        self.burst = burst
        self.level = burst
        self.updated = now
        self.used = 0.0
        self.spent = 0.0
        self._minute: deque[_Use] = deque()

    @property
    def rate(self) -> float:
        """Units that come in each second."""
        return self.per_minute / MINUTE

    def resize(self, per_minute: float, burst: float) -> None:
        """Change the limit; what was used stays used."""
        self.per_minute = per_minute
        self.burst = burst
        # An infinite level of a bucket without a limit means nothing for one with a limit.
        self.level = min(self.level, burst)

    def advance(self, now: float) -> None:
        """Take in what came since the last call, and forget what was used over a minute ago."""
        if now > self.updated:
            full = self.burst + self.rate * _SLACK
            self.level = min(full, self.level + (now - self.updated) * self.rate)
            self.updated = now
        while self._minute and self._minute[0].at + MINUTE <= now + _EPSILON:
            old = self._minute.popleft()
            old.forgotten = True
            self.used -= old.amount

    def wait_for(self, amount: float, now: float) -> float:
        """Return the seconds until ``amount`` may be used.

        More than the bucket ever holds is given when the bucket is full, and paid for afterwards.
        """
        self.advance(now)
        missing = min(amount, self.burst) - self.level
        wait = missing / self.rate if missing > _EPSILON else 0.0
        return max(wait, self._wait_for_minute(min(amount, self.per_minute), now))

    def _wait_for_minute(self, amount: float, now: float) -> float:
        excess = self.used + amount - self.per_minute
        if excess <= _EPSILON * self.per_minute:
            return 0.0
        for use in self._minute:
            excess -= use.amount
            if excess <= _EPSILON * self.per_minute:
                return use.at + MINUTE - now
        return 0.0

    def take(self, amount: float, now: float) -> _Use:
        """Use ``amount`` now, and return where it is remembered."""
        self.level -= amount
        self.used += amount
        self.spent += amount
        last = self._minute[-1] if self._minute else None
        if last is None or now - last.since > _GRAIN:
            self._minute.append(last := _Use(now, now, amount))
        else:
            last.at = now
            last.amount += amount
        return last

    def correct(self, use: _Use, difference: float, now: float) -> None:
        """Use ``difference`` more, or less if negative, than was said at ``use``."""
        self.advance(now)
        self.level = min(self.burst, self.level - difference)
        self.spent += difference
        if not use.forgotten:
            use.amount += difference
            self.used += difference
        elif difference > 0:
            self.used += difference
            self._minute.append(_Use(now, now, difference))


class Ramp:
    """Lets calls out one by one after a refusal: half as fast as before at first, then faster.

    The pace doubles within ten seconds, but stops just below where the refusal came, and feels its way
    up from there.

    Args:
        refused_at: Calls a second when the provider refused.
        began: When the first call may go, in seconds of the limiter's clock.
    """

    __slots__ = ("began", "next", "refused_at")

    _DOUBLING = 10.0
    _CAREFUL_FROM = 0.9
    _CAREFUL_PER_SECOND = 0.1 / MINUTE
    _SLOWEST = 0.1
    _OVER = 4.0

    def __init__(self, refused_at: float, began: float) -> None:
        self.refused_at = max(self._SLOWEST, refused_at)
        self.began = began
        self.next = began

    def pace(self, now: float) -> float:
        """Return the calls a second that go out at this time."""
        elapsed = max(0.0, now - self.began)
        if elapsed < self._DOUBLING:
            share = min(self._CAREFUL_FROM, 0.5 * 2 ** (elapsed / self._DOUBLING))
        else:
            share = self._CAREFUL_FROM + (elapsed - self._DOUBLING) * self._CAREFUL_PER_SECOND
        return self.refused_at * share

    def is_over(self, now: float, full: float) -> bool:
        """Return whether the pace has reached ``full`` calls a second, or long passed the refused one."""
        return self.pace(now) >= min(full, self._OVER * self.refused_at)

    def go(self, now: float) -> None:
        """Note that a call went out."""
        self.next = max(self.next, now - _SLACK) + 1 / self.pace(now)


class Reservation:
    """What one call may use; settle it when the call is over.

    Attributes:
        tokens: Tokens reserved, or used once settled.
    """

    __slots__ = ("_epoch", "_limiter", "_marks", "_uses", "at", "tokens")

    def __init__(self, limiter: RateLimiter, tokens: float, at: float, epoch: int) -> None:
        self._limiter = limiter
        self._epoch = epoch
        self.tokens = tokens
        self.at = at
        buckets = limiter._buckets
        self._uses = {"requests": buckets["requests"].take(1, at), "tokens": buckets["tokens"].take(tokens, at)}
        self._marks = {name: bucket.spent for name, bucket in buckets.items()}

    def settle(self, tokens: float) -> None:
        """Replace the tokens reserved by those really used; what was too much is there for others now."""
        self._limiter._correct(self, "tokens", tokens - self.tokens)
        self.tokens = tokens

    def cancel(self) -> None:
        """Give everything back: the call was never sent."""
        self._limiter._correct(self, "requests", -1)
        self.settle(0)

    def observe(self, headers: Mapping[str, str]) -> None:
        """Take in the ``x-ratelimit-*`` headers of the answer to this call."""
        self._limiter.observe(headers, self)

    def refused(self, seconds: float) -> None:
        """Note that the provider refused this call: everyone on the key waits for ``seconds``.

        Many calls under way are refused together; that counts as one refusal.
        """
        self._limiter.pause(seconds, self)


@dataclass(frozen=True, slots=True)
class RateStats:
    """A rate limiter at one moment.

    Attributes:
        requests_per_minute: The limit in force, configured or told by the provider; infinite for none.
        tokens_per_minute: The same for tokens.
        requests_used: Requests of the last minute.
        tokens_used: Tokens of the last minute.
        waiting: Calls in line.
        paused_for: Seconds that nobody may call any more because the provider asked for it.
        pace: Calls a second let out after a refusal; infinite when that is over.
    """

    requests_per_minute: float
    tokens_per_minute: float
    requests_used: float
    tokens_used: float
    waiting: int
    paused_for: float
    pace: float


class RateLimiter:
    """Requests and tokens per minute: first come first served, for tasks of any loop and for threads.

    Args:
        requests_per_minute: Most requests in any minute; ``None`` for no limit but the provider's.
        tokens_per_minute: Most tokens in any minute, prompts and replies together.
        burst: Requests that may go at once after a quiet time; the next follow at even distances.
        token_burst_seconds: Seconds of the token allowance that may be used at once.
        name: Appears in messages.
        clock: Seconds that only grow; a loop's own ``time`` in tests on a virtual clock.

    Raises:
        TypeError: A limit is no number.
        ValueError: A limit is not above 0.
    """

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        *,
        burst: int = 1,
        token_burst_seconds: float = 30.0,
        name: str = "",
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.name = name
        self._clock = clock
        self._bursts = {"requests": MINUTE * burst, "tokens": token_burst_seconds}
        self._turnstile = Turnstile()
        self._configured = {
            "requests": _checked_rate(requests_per_minute, "requests_per_minute"),
            "tokens": _checked_rate(tokens_per_minute, "tokens_per_minute"),
        }
        self._told = {"requests": math.inf, "tokens": math.inf}
        self._burst = max(1.0, float(burst))
        now = clock()
        self._buckets = {name: Bucket(limit, 0.0, now) for name, limit in self._configured.items()}
        for name in self._buckets:
            self._resize(name, fresh=True)
        self._paused_until = -math.inf
        self._epoch = 0
        self._ramp: Ramp | None = None
