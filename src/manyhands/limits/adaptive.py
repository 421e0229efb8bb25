"""A limit that finds its own height: up by one while all goes well, down by a third when it does not.

This is how networks share a line (additive increase, multiplicative decrease): whoever adds slowly and
yields quickly ends up near what the provider can take, without being told what that is.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING

from manyhands.events import tell_concurrency
from manyhands.limits.capacity import CapacityLimiter
from manyhands.limits.waiting import checked_limit

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("manyhands.limits")


class AdaptiveLimiter(CapacityLimiter):
    """A capacity limiter whose limit follows how calls go.

    Args:
        floor: Lowest limit.
        ceiling: Highest limit.
        start: Limit at first; the floor, unless told otherwise.
        name: Appears in messages.
        on_change: Called with the old and the new limit; it must not block.
        clock: Seconds that only grow.

    Raises:
        TypeError: A limit is no whole number.
        ValueError: Not 1 <= floor <= start <= ceiling.
    """

    _DOWN = 2 / 3

    def __init__(
        self,
        floor: int = 1,
        ceiling: int = 256,
        start: int | None = None,
        *,
        name: str = "",
        on_change: Callable[[int, int], object] | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        first = floor if start is None else start
        if not 1 <= checked_limit(floor) <= checked_limit(first) <= checked_limit(ceiling):
            raise ValueError(f"1 <= floor <= start <= ceiling is needed, not {floor}, {first}, {ceiling}.")
        super().__init__(first, name=name)
        self.floor = floor
        self.ceiling = ceiling
        self.clock = clock
        self._on_change = on_change
        self._good = 0
        self._lowered_at = float("-inf")

    def succeeded(self) -> None:
        """Note that a call went well: a full round of them raises the limit by one."""
        # A limit that nobody reaches was not put to the test.
        if self.held * 2 < self.limit and not self.waiting:
            return
        self._good += 1
        if self._good >= self.limit:
            self._good = 0
            self._move(self.limit + 1)

    def congested(self, began: float) -> None:
        """Note that the provider was overloaded, or refused: the limit goes down by a third.

        Args:
            began: When the call began, by ``clock``. Calls that began before the limit was last
                lowered tell nothing new.
        """
        if began < self._lowered_at:
            return
        self._lowered_at = self.clock()
        self._good = 0
        self._move(int(self.limit * self._DOWN))

    def _move(self, wanted: int) -> None:
        before, after = self.limit, min(self.ceiling, max(self.floor, wanted))
        if after == before:
            return
        self.limit = after
        logger.debug("The limit of %r went from %d to %d.", self.name, before, after)
        tell_concurrency(self.name, before, after)
        if self._on_change is not None:
            self._on_change(before, after)
