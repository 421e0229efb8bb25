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
import math
import threading
import weakref
from contextvars import ContextVar
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from manyhands.events import waiting
from manyhands.limits.bucket import EPSILON, MINUTE, Bucket, Ramp
from manyhands.limits.turnstile import Turnstile
from manyhands.limits.waiting import checked_timeout, refuse_on_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from manyhands.limits.redis.rate import RedisReservation

# Seconds after which another refusal says nothing about a limit: one that is real refuses again before.
_LONG_AGO = 180.0
# Share of the configured rate below which a refused load counts as light.
_LIGHT = 0.1


class Reservation:
    """What one call may use; settle it when the call is over.

    Attributes:
        requests: Requests reserved: 1, or 0 once cancelled.
        tokens: Tokens reserved, or used once settled.
        at: When the call was let out, by the limiter's clock.
    """

    __slots__ = ("_epoch", "_limiter", "_request", "_spent", "_use", "at", "requests", "tokens")

    def __init__(self, limiter: RateLimiter, tokens: float, at: float) -> None:
        self._limiter = limiter
        self._epoch = limiter._epoch
        self._request = limiter._requests.take(1, at)
        self._use = limiter._tokens.take(tokens, at)
        self._spent = (limiter._requests.spent, limiter._tokens.spent)
        self.requests = 1
        self.tokens = tokens
        self.at = at

    def settle(self, tokens: float) -> None:
        """Replace the tokens reserved by those really used; what was too much is there for others now."""
        self._limiter._settle(self, tokens, self.requests)

    def cancel(self) -> None:
        """Give everything back: the call was never sent."""
        self._limiter._settle(self, 0, 0)

    def observe(self, headers: Mapping[str, str]) -> None:
        """Take in the ``x-ratelimit-*`` headers of the answer to this call."""
        self._limiter.observe(headers, self)

    def refused(self, seconds: float) -> None:
        """Note that the provider refused this call: everyone on the key waits for ``seconds``.

        Many calls under way are refused together; that counts as one refusal. What is refused costs
        nothing, so all that was reserved is given back.
        """
        self._limiter.pause(seconds, self)
        self.cancel()


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


class RateLimiter(Turnstile):
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
        super().__init__()
        self.name = name
        self._clock = clock
        self._burst = _checked_rate(burst, "burst")
        self._token_burst = _checked_rate(token_burst_seconds, "token_burst_seconds") / MINUTE
        self._configured = (
            _checked_rate(requests_per_minute, "requests_per_minute"),
            _checked_rate(tokens_per_minute, "tokens_per_minute"),
        )
        self._told = (math.inf, math.inf)
        now = clock()
        self._requests = Bucket(math.inf, math.inf, now)
        self._tokens = Bucket(math.inf, math.inf, now)
        self._resize()
        self._paused_until = -math.inf
        self._epoch = 0
        self._ramp: Ramp | None = None
        self._refused_at = -math.inf

    # --- Going through ---------------------------------------------------------------------------

    async def reserve(self, tokens: float = 0, timeout: float | None = None) -> Reservation:  # noqa: ASYNC109
        """Wait until one request of ``tokens`` may be sent, and reserve it.

        Args:
            tokens: Tokens that prompt and reply are expected to use.
            timeout: Most seconds to wait.

        Raises:
            TimeoutError: It may not be sent in time.
        """
        seconds, taken = checked_timeout(timeout), _Taken(self, _checked_tokens(tokens))
        if not self.try_pass(taken.attempt):
            with waiting("rate limit", self.name):
                passed = await self.pass_in_turn(taken.attempt, seconds)
            if not passed:
                raise self._too_late(seconds)
        return taken.reservation

    def reserve_sync(self, tokens: float = 0, timeout: float | None = None) -> Reservation:
        """Do as :meth:`reserve`, in sync code.

        Raises:
            TimeoutError: It may not be sent in time.
            RuntimeError: This thread runs an event loop, which waiting here would block.
        """
        refuse_on_loop("reserve_sync()", "reserve()")
        seconds, taken = checked_timeout(timeout), _Taken(self, _checked_tokens(tokens))
        if not self.pass_in_turn_sync(taken.attempt, seconds):
            raise self._too_late(seconds)
        return taken.reservation

    def try_reserve(self, tokens: float = 0) -> Reservation | None:
        """Reserve one request if it may be sent at once and nobody waits, else return ``None``."""
        taken = _Taken(self, _checked_tokens(tokens))
        return taken.reservation if self.try_pass(taken.attempt) else None

    async def athrottle(self, tokens: float = 0) -> None:
        """Wait until one request of ``tokens`` may be sent."""
        await self.reserve(tokens)

    def throttle(self, tokens: float = 0) -> None:
        """Wait until one request of ``tokens`` may be sent, in sync code.

        Raises:
            RuntimeError: This thread runs an event loop, which waiting here would block.
        """
        refuse_on_loop("throttle()", "athrottle()")
        self.reserve_sync(tokens)

    def _wait_for(self, tokens: float, now: float) -> float:
        """Return the seconds until a request of ``tokens`` may go; the lock is held."""
        wait = max(
            self._paused_until - now, self._requests.wait_for(1, now), self._tokens.wait_for(tokens, now)
        )
        if self._ramp is not None:
            if self._ramp.is_over(now, self._requests.rate):
                self._ramp = None
            else:
                wait = max(wait, self._ramp.next - now)
        return wait

    # --- What comes back -------------------------------------------------------------------------

    def _settle(self, reservation: Reservation, tokens: float, requests: int) -> None:
        with self._lock:
            now = self._clock()
            self._tokens.correct(reservation._use, tokens - reservation.tokens, now)
            if self._ramp is not None and requests and tokens and reservation._epoch != self._epoch:
                self._ramp.served += 1
            if requests != reservation.requests:
                self._requests.correct(reservation._request, requests - reservation.requests, now)
            reservation.tokens, reservation.requests = tokens, requests
        self._changed()

    def pause(self, seconds: float, refused: Reservation | None = None, *, pace: float | None = None) -> None:
        """Let nobody go for ``seconds``, then let calls out slowly at first.

        Args:
            seconds: What the provider asked for in ``Retry-After``.
            refused: The call that was refused. Of all calls that were under way when the first of
                them was refused, only that one slows the pace; all may prolong the pause.
            pace: Calls a second that went out when the provider refused, where somebody else has counted.
        """
        with self._lock:
            now = self._clock()
            self._paused_until = max(self._paused_until, now + max(0.0, seconds))
            if refused is None or refused._epoch == self._epoch:
                self._epoch += 1
                alone = now - self._refused_at > _LONG_AGO
                self._ramp = Ramp(pace or self._refused_pace(now), self._paused_until, alone)
                self._refused_at = self._paused_until
                self._tokens.level = min(self._tokens.level, 0.0)
            elif self._ramp is not None:
                self._ramp.refused += 1
                if now < self._ramp.began:
                    self._ramp.began = self._ramp.next = self._paused_until
        self._changed()

    def saw(self, *, refused: bool) -> None:
        """Note how a call ended that was under way when the provider last refused one.

        Args:
            refused: Whether it was refused, too.
        """
        ramp = self._ramp
        if ramp is not None and refused:
            ramp.refused += 1
        elif ramp is not None:
            ramp.served += 1

    def _refused_pace(self, now: float) -> float:
        if self._ramp is not None and not self._ramp.is_over(now, self._requests.rate):
            return self._ramp.pace(now)
        # A refusal in a quiet time says little about how much is too much.
        rate = self._requests.rate
        least = max(1.0, rate * _LIGHT) if rate < math.inf else 1.0
        self._requests.advance(now)
        return min(rate, max(least, self._requests.used / MINUTE))

    def observe(self, headers: Mapping[str, str], reservation: Reservation | None = None) -> None:
        """Take in what a provider's headers say about its limits and what is left of them.

        Args:
            headers: Headers of an answer; ``x-ratelimit-*`` and ``anthropic-ratelimit-*`` are read.
            reservation: The call that was answered: what was used since it was sent is taken off.
        """
        told = [_told(headers, unit) for unit in ("requests", "tokens")]
        if all(limit is None and left is None for limit, left in told):
            return
        with self._lock:
            now = self._clock()
            limits = tuple(limit or before for (limit, _), before in zip(told, self._told, strict=True))
            if limits != self._told:
                self._told = (limits[0], limits[1])
                self._resize()
            for index, (_, left) in enumerate(told):
                if left is not None:
                    self._lower(index, left, reservation, now)
        self._changed()

    def _lower(self, index: int, left: float, reservation: Reservation | None, now: float) -> None:
        """Lower a bucket to what the provider says is left; the lock is held."""
        bucket = (self._requests, self._tokens)[index]
        if bucket.per_minute == math.inf:
            return
        if reservation is not None:
            # The answer tells how it was when the call arrived.
            left += bucket.rate * (now - reservation.at) - (bucket.spent - reservation._spent[index])
        bucket.advance(now)
        bucket.level = min(bucket.level, left)

    def _changed(self) -> None:
        if self._line or self._errands:
            self.nudge()

    # --- Limits and watching ---------------------------------------------------------------------

    def configure(
        self, requests_per_minute: float | None = None, tokens_per_minute: float | None = None
    ) -> None:
        """Change the limits at once; the arguments are those of the class."""
        requests = _checked_rate(requests_per_minute, "requests_per_minute")
        tokens = _checked_rate(tokens_per_minute, "tokens_per_minute")
        with self._lock:
            self._configured = (requests, tokens)
            self._resize()
        self._changed()

    def tighten(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        """Lower the limits to these where they are higher: the strictest of all who share a key holds."""
        wanted = (
            _checked_rate(requests_per_minute, "requests_per_minute"),
            _checked_rate(tokens_per_minute, "tokens_per_minute"),
        )
        self.configure(*(min(ours, theirs) for ours, theirs in zip(self._configured, wanted, strict=True)))

    def _resize(self) -> None:
        requests, tokens = (min(ours, told) for ours, told in zip(self._configured, self._told, strict=True))
        self._requests.resize(requests, self._burst if requests < math.inf else math.inf)
        self._tokens.resize(tokens, max(1.0, tokens * self._token_burst))

    def stats(self) -> RateStats:
        """Return the limiter as it is now."""
        with self._lock:
            now = self._clock()
            self._requests.advance(now)
            self._tokens.advance(now)
            ramp = self._ramp
            stats = RateStats(
                requests_per_minute=self._requests.per_minute,
                tokens_per_minute=self._tokens.per_minute,
                requests_used=self._requests.used,
                tokens_used=self._tokens.used,
                waiting=self._line.waiting(),
                paused_for=max(0.0, self._paused_until - now),
                pace=math.inf if ramp is None else ramp.pace(now),
            )
        self._changed()
        return stats

    def _too_late(self, seconds: float) -> TimeoutError:
        what = f" of {self.name!r}" if self.name else ""
        return TimeoutError(f"The rate limit{what} lets no request through within {seconds:g}s.")

    def __repr__(self) -> str:
        requests, tokens = self._requests.per_minute, self._tokens.per_minute
        return f"<RateLimiter {self.name!r} {requests:g} requests/min, {tokens:g} tokens/min>"


class _Taken:
    """One attempt to reserve, and the reservation once there is one."""

    __slots__ = ("_limiter", "_tokens", "reservation")

    reservation: Reservation

    def __init__(self, limiter: RateLimiter, tokens: float) -> None:
        self._limiter = limiter
        self._tokens = tokens

    def attempt(self) -> float | None:
        limiter = self._limiter
        now = limiter._clock()
        wait = limiter._wait_for(self._tokens, now)
        if wait > EPSILON:
            return wait
        if limiter._ramp is not None:
            limiter._ramp.go(now)
        self.reservation = Reservation(limiter, self._tokens, now)
        return None


def _checked_rate(limit: object, name: str) -> float:
    if limit is None:
        return math.inf
    if isinstance(limit, bool) or not isinstance(limit, int | float):
        raise TypeError(f"{name} is a number or None, not {limit!r}.")
    if not limit > 0:
        raise ValueError(
            f"{name}={limit!r} would let nothing through; it must be above 0, or None for no limit."
        )
    return float(limit)


def _checked_tokens(tokens: object) -> float:
    if isinstance(tokens, bool) or not isinstance(tokens, int | float):
        raise TypeError(f"A number of tokens is needed, not {tokens!r}.")
    if not 0 <= tokens < math.inf:
        raise ValueError(f"{tokens!r} tokens cannot be reserved.")
    return tokens


def _told(headers: Mapping[str, str], unit: str) -> tuple[float | None, float | None]:
    """Return limit and rest that headers tell of requests or tokens."""
    get = headers.get
    limit = get(f"x-ratelimit-limit-{unit}") or get(f"anthropic-ratelimit-{unit}-limit")
    left = get(f"x-ratelimit-remaining-{unit}") or get(f"anthropic-ratelimit-{unit}-remaining")
    return _number(limit), _number(left)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 <= number < math.inf else None


# --- One limiter per key ---------------------------------------------------------------------------


def rate_key(provider: str, account: str | None, model: str) -> str:
    """Return the key under which a provider counts.

    Args:
        provider: Where requests go.
        account: The API key or the organisation; only a short hash of it goes into the result.
        model: The model.
    """
    who = hashlib.sha256((account or "").encode()).hexdigest()[:8] if account else "-"
    return f"{provider}/{who}/{model}"


current_reservation: ContextVar[Reservation | RedisReservation | None] = ContextVar(
    "manyhands_reservation", default=None
)


def observe_headers(headers: Mapping[str, str]) -> None:
    """Take in the headers of an answer to the call that this task is making; nothing outside of one.

    Models that speak HTTP call this with each answer, good or bad, as soon as its headers are there.
    """
    reservation = current_reservation.get()
    if reservation is not None:
        reservation.observe(headers)


class SharedRates:
    """Rate limiters by key: whoever names the same key shares one.

    A limiter lives as long as somebody holds it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._limiters: weakref.WeakValueDictionary[str, RateLimiter] = weakref.WeakValueDictionary()

    def get(
        self,
        key: str,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        *,
        clock: Callable[[], float] = monotonic,
    ) -> RateLimiter:
        """Return the limiter of ``key``, made if there is none.

        Args:
            key: See :func:`rate_key`.
            requests_per_minute: Most requests in any minute; of all that were named for the key, the
                lowest holds.
            tokens_per_minute: The same for tokens.
            clock: See :class:`RateLimiter`; of a limiter that is there already it stays as it is.
        """
        with self._lock:
            limiter = self._limiters.get(key)
            if limiter is None:
                limiter = RateLimiter(requests_per_minute, tokens_per_minute, name=key, clock=clock)
                self._limiters[key] = limiter
            else:
                limiter.tighten(requests_per_minute, tokens_per_minute)
        return limiter

    def stats(self) -> dict[str, RateStats]:
        """Return all limiters as they are now."""
        return {key: limiter.stats() for key, limiter in list(self._limiters.items())}


shared = SharedRates()
