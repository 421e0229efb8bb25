"""One limit shared fairly by many tenants: a flood from one delays the others by one slot at most.

Every waiting tenant has a turn: a time on a clock that stands at the turn served last. Its next turn is
later by one over its weight, so a tenant of weight 3 has three turns while one of weight 1 has one. A slot
that comes free goes to the earliest turn, and there to the oldest waiter. Who was away saves up nothing.
"""

from __future__ import annotations

import heapq
import logging
import threading
from itertools import count
from typing import TYPE_CHECKING

from manyhands.errors import AgentError
from manyhands.limits.capacity import CapacityLimiter, SlotStats
from manyhands.limits.waiting import FifoLine, checked_limit, checked_timeout, refuse_on_loop

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from manyhands.limits.waiting import Seat


logger = logging.getLogger("manyhands.limits")


class QueueFullError(AgentError):
    """A tenant has too many waiting already; the caller should come back later.

    Args:
        tenant: The tenant.
        waiting: How many of it wait.
    """

    def __init__(self, tenant: str, waiting: int) -> None:
        super().__init__(
            f"Tenant {tenant!r} has {waiting} waiting already, which is its limit. Try again later."
        )
        self.tenant = tenant
        self.waiting = waiting


class _Tenant:
    """One tenant that waits."""

    __slots__ = ("line", "listed")

    def __init__(self) -> None:
        self.line = FifoLine()
        self.listed = False


class FairLine:
    """A line in which tenants take turns by weight, and each tenant's oldest comes first.

    Args:
        weights: Weight of tenants that differ from 1.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self._tenants: dict[str, _Tenant] = {}
        # (time, order of coming, tenant): the next turn is at the front.
        self._turns: list[tuple[float, int, str]] = []
        self._order = count()
        self._now = 0.0
        self._seats = 0

    def join(self, seat: Seat) -> None:
        """Take a place at the end of the tenant's own line."""
        tenant = self._tenants.setdefault(seat.key, _Tenant())
        tenant.line.join(seat)
        self._seats += 1
        self._list(seat.key, tenant)

    def _list(self, name: str, tenant: _Tenant) -> None:
        if not tenant.listed:
            tenant.listed = True
            time = self._now + 1 / self._weights.get(name, 1.0)
            heapq.heappush(self._turns, (time, next(self._order), name))

    def leave(self, seat: Seat) -> bool:
        """Give up a place, and return whether there was one."""
        tenant = self._tenants.get(seat.key)
        if tenant is None or not tenant.line.leave(seat):
            return False
        self._seats -= 1
        return True

    def take(self) -> Seat | None:
        """Remove and return the next that can take a call now."""
        resting: list[tuple[float, int, str]] = []
        seat = None
        while seat is None and self._turns:
            turn = heapq.heappop(self._turns)
            seat = self._serve(turn)
            if seat is None and turn[2] in self._tenants:
                resting.append(turn)  # its loops are at rest: it keeps its turn
        for turn in resting:
            heapq.heappush(self._turns, turn)
        return seat

    def _serve(self, turn: tuple[float, int, str]) -> Seat | None:
        time, _, name = turn
        tenant = self._tenants[name]
        before = len(tenant.line)
        seat = tenant.line.take()
        self._seats -= before - len(tenant.line)
        if seat is not None:
            self._now = max(self._now, time)
            tenant.listed = False
        if not len(tenant.line):
            del self._tenants[name]
        elif seat is not None:
            self._list(name, tenant)
        return seat

    def queued_of(self, tenant: str) -> int:
        """Return how long a tenant's line is."""
        entry = self._tenants.get(tenant)
        return len(entry.line) if entry else 0

    def waiting_of(self, tenant: str) -> int:
        """Return how many of a tenant wait."""
        entry = self._tenants.get(tenant)
        return entry.line.waiting() if entry else 0

    def tenants(self) -> list[str]:
        """Return the tenants that wait."""
        return list(self._tenants)

    def waiting(self) -> int:
        """Return how many wait who will still hear a call."""
        return sum(tenant.line.waiting() for tenant in list(self._tenants.values()))

    def __len__(self) -> int:
        return self._seats


class _Holders:
    """How many slots a tenant holds; a number that a finalizer may change at any moment."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class FairLimiter:
    """A limit on holders that tenants share: weighted turns between them, first come first served within.

    Args:
        limit: Most holders at once, of all tenants together; 0 for unlimited.
        weights: Weight of tenants that differ from 1: a tenant of weight 3 gets three slots for one of
            weight 1 while both wait.
        max_queued: Most that may wait of one tenant; ``None`` for no limit.
        name: Appears in messages.

    Raises:
        TypeError: A limit is no whole number.
        ValueError: A weight is not above 0, or ``max_queued`` is negative.
    """

    def __init__(
        self,
        limit: int = 0,
        *,
        weights: Mapping[str, float] | None = None,
        max_queued: int | None = None,
        name: str = "",
    ) -> None:
        self._weights = dict(weights or {})
        for tenant, weight in self._weights.items():
            if not weight > 0:
                raise ValueError(f"The weight of tenant {tenant!r} must be above 0, not {weight!r}.")
        if max_queued is not None and checked_limit(max_queued) != max_queued:
            raise ValueError(f"max_queued cannot be {max_queued}.")
        self.max_queued = max_queued
        self._line = FairLine(self._weights)
        self._slots = CapacityLimiter(limit, name=name, line=self._line)
        self._holders: dict[str, _Holders] = {}
        self._lock = threading.RLock()

    async def acquire(self, tenant: str, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Take a slot for ``tenant`` when it is its turn.

        Args:
            tenant: Whose run it is.
            timeout: Most seconds to wait.

        Raises:
            QueueFullError: ``max_queued`` of the tenant wait already.
            TimeoutError: No slot came free in time.
        """
        if timeout is not None:
            checked_timeout(timeout)
        if not self.try_acquire(tenant):
            self._refuse_if_full(tenant)
            await self._slots.wait_in_line(tenant, timeout)
            self._count(tenant, 1)

    def acquire_sync(self, tenant: str, timeout: float | None = None) -> None:
        """Do as :meth:`acquire`, in sync code.

        Raises:
            RuntimeError: This thread runs an event loop, which waiting here would block.
        """
        refuse_on_loop(f"acquire_sync('{tenant}')", "acquire()")
        seconds = checked_timeout(timeout)
        if not self.try_acquire(tenant):
            self._refuse_if_full(tenant)
            self._slots.block_in_line(tenant, seconds)
            self._count(tenant, 1)

    def try_acquire(self, tenant: str) -> bool:
        """Take a slot if one is free and nobody waits; return whether it was taken."""
        if not isinstance(tenant, str):
            raise TypeError(f"A tenant is named by a string, not {tenant!r}.")
        taken = self._slots.try_acquire()
        if taken:
            self._count(tenant, 1)
        return taken

    def release(self, tenant: str) -> None:
        """Give a slot of ``tenant`` back. One too many is an error in the log and frees nothing."""
        if self._count(tenant, -1):
            self._slots.release()
        else:
            logger.error("release(%r) without a slot to give back: nothing was freed.", tenant)

    def slot(self, tenant: str, timeout: float | None = None) -> _FairSlot:
        """Return ``async with`` protection: a slot of ``tenant`` is held inside."""
        return _FairSlot(self, tenant, timeout)

    def set_weight(self, tenant: str, weight: float) -> None:
        """Change a tenant's weight from its next turn on."""
        if not weight > 0:
            raise ValueError(f"The weight of tenant {tenant!r} must be above 0, not {weight!r}.")
        self._weights[tenant] = weight

    def _refuse_if_full(self, tenant: str) -> None:
        if self.max_queued is not None and self._line.queued_of(tenant) >= self.max_queued:
            raise QueueFullError(tenant, self.max_queued)

    def _count(self, tenant: str, change: int) -> bool:
        """Note a slot taken or given back; return ``False`` if there is none to give back."""
        with self._lock:
            holders = self._holders.get(tenant) or _Holders()
            if holders.count + change < 0:
                return False
            holders.count += change
            if holders.count:
                self._holders[tenant] = holders
            else:
                self._holders.pop(tenant, None)
            return True

    # --- Watching --------------------------------------------------------------------------------

    @property
    def limit(self) -> int:
        """Most holders at once, of all tenants together; 0 for unlimited. May be set at any time."""
        return self._slots.limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._slots.limit = limit

    def held(self, tenant: str | None = None) -> int:
        """Return the slots held, by one tenant or by all."""
        if tenant is None:
            return self._slots.held
        holders = self._holders.get(tenant)
        return holders.count if holders else 0

    def waiting(self, tenant: str | None = None) -> int:
        """Return how many wait, of one tenant or of all."""
        return self._slots.waiting if tenant is None else self._line.waiting_of(tenant)

    def stats(self) -> dict[str, SlotStats]:
        """Return holders and waiters of each tenant that has any; ``limit`` is the common one."""
        names = {*list(self._holders), *self._line.tenants()}
        return {name: SlotStats(self.limit, self.held(name), self.waiting(name)) for name in sorted(names)}


class _FairSlot:
    """``async with limiter.slot(tenant)``."""

    __slots__ = ("_limiter", "_tenant", "_timeout")

    def __init__(self, limiter: FairLimiter, tenant: str, timeout: float | None) -> None:
        self._limiter = limiter
        self._tenant = tenant
        self._timeout = timeout

    async def __aenter__(self) -> None:
        await self._limiter.acquire(self._tenant, self._timeout)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._limiter.release(self._tenant)
