"""The arithmetic of rates: a bucket that fills with time, and a ramp after a refusal. Nothing here waits."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

MINUTE = 60.0
# Uses within this many seconds share one entry in a bucket's memory; it is the memory's only rounding,
# and always to the safe side.
_GRAIN = 0.1
# A timer that fires this many seconds late costs no throughput.
_SLACK = 0.02
# Rounding errors of a clock must not cost one more wait.
EPSILON = 1e-9


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

    __slots__ = ("_minute", "burst", "level", "per_minute", "rate", "spent", "updated", "used")

    def __init__(self, per_minute: float, burst: float, now: float) -> None:
        self.per_minute = per_minute
        self.rate = per_minute / MINUTE  # units that come in each second
        self.burst = burst
        self.level = burst
        self.updated = now
        self.used = 0.0
        self.spent = 0.0
        self._minute: deque[_Use] = deque()

    def resize(self, per_minute: float, burst: float) -> None:
        """Change the limit; what was used stays used."""
        self.per_minute = per_minute
        self.rate = per_minute / MINUTE
        self.burst = burst
        # An infinite level of a bucket without a limit means nothing for one with a limit.
        self.level = min(self.level, burst)

    def advance(self, now: float) -> None:
        """Take in what came since the last call, and forget what was used over a minute ago."""
        if now > self.updated:
            level = self.level + (now - self.updated) * self.rate
            full = self.burst + self.rate * _SLACK
            self.level = level if level < full else full
            self.updated = now
        while self._minute and self._minute[0].at + MINUTE <= now + EPSILON:
            old = self._minute.popleft()
            old.forgotten = True
            self.used -= old.amount

    def wait_for(self, amount: float, now: float) -> float:
        """Return the seconds until ``amount`` may be used.

        More than the bucket ever holds is given when the bucket is full, and paid for afterwards.
        """
        self.advance(now)
        missing = (amount if amount < self.burst else self.burst) - self.level
        wait = missing / self.rate if missing > EPSILON else 0.0
        if self.used + amount <= self.per_minute:
            return wait
        return max(wait, self._wait_for_minute(min(amount, self.per_minute), now))

    def _wait_for_minute(self, amount: float, now: float) -> float:
        excess = self.used + amount - self.per_minute
        if excess <= EPSILON * self.per_minute:
            return 0.0
        for use in self._minute:
            excess -= use.amount
            if excess <= EPSILON * self.per_minute:
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
    """Lets calls out one by one after a refusal: half as fast as before, then faster along a cubic curve.

    The pace comes back quickly at first, lingers where the refusal came, and if none comes there again,
    leaves it ever more quickly: after a minute and a half the refusal is forgotten. One that came by chance
    is forgotten after some nine seconds.

    Args:
        refused_at: Calls a second when the provider refused.
        began: When the first call may go, in seconds of the limiter's clock.
        alone: Whether it is the first refusal in a long time.

    Attributes:
        refused: How many of the calls that were under way have been refused.
        served: How many of them were served.
    """

    __slots__ = ("alone", "began", "next", "refused", "refused_at", "served")

    _CUT = 0.5
    _BACK_AFTER = 30.0
    _BACK_AFTER_CHANCE = 3.0
    # Calls served beside the refused one that make it a chance.
    _ENOUGH = 3
    _SLOWEST = 0.1
    _OVER = 4.0

    def __init__(self, refused_at: float, began: float, alone: bool = False) -> None:
        self.alone = alone
        self.refused, self.served = 1, 0
        self.refused_at = max(self._SLOWEST, refused_at)
        self.began = began
        self.next = began

    def pace(self, now: float) -> float:
        """Return the calls a second that go out at this time."""
        elapsed = max(0.0, now - self.began)
        # A limit refuses whatever is above it: not one call, while others beside it are served.
        by_chance = self.alone and self.refused == 1 and self.served >= self._ENOUGH
        back_after = self._BACK_AFTER_CHANCE if by_chance else self._BACK_AFTER
        return self.refused_at * (1 + self._CUT * (elapsed / back_after - 1) ** 3)

    def is_over(self, now: float, full: float) -> bool:
        """Return whether the pace has reached ``full`` calls a second, or long passed the refused one."""
        return self.pace(now) >= min(full, self._OVER * self.refused_at)

    def go(self, now: float) -> None:
        """Note that a call went out."""
        self.next = max(self.next, now - _SLACK) + 1 / self.pace(now)
