"""One limit shared fairly by many tenants: a flood from one delays the others by one slot at most.

Each tenant has a clock of its own that moves on with every slot it gets, faster the smaller its weight.
A slot that comes free goes to the waiting tenant whose clock is furthest behind, and to the oldest of
its waiters. Who was away does not save up turns: its clock starts where the last slot was given.
"""

from __future__ import annotations

import heapq
from itertools import count
from typing import TYPE_CHECKING

from manyhands.errors import AgentError
from manyhands.limits.waiting import FifoLine

if TYPE_CHECKING:
    from collections.abc import Mapping

    from manyhands.limits.waiting import Seat


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
    """One tenant that waits, or waited a moment ago."""

    __slots__ = ("line", "listed", "time", "weight")

    def __init__(self, time: float, weight: float) -> None:
        self.line = FifoLine()
        self.time = time
        self.weight = weight
        self.listed = False


class FairLine:
    """A line in which tenants take turns by weight, and each tenant's oldest comes first.

    Args:
        weights: Weight of tenants that differ from 1.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self._tenants: dict[str, _Tenant] = {}
        # (clock, order of coming, tenant): the next turn is at the front.
        self._turns: list[tuple[float, int, str]] = []
        self._order = count()
        self._now = 0.0
        self._seats = 0

    def join(self, seat: Seat) -> None:
        """Take a place at the end of the tenant's own line."""
        tenant = self._tenants.get(seat.key)
        if tenant is None:
            tenant = self._tenants[seat.key] = _Tenant(self._now, self._weights.get(seat.key, 1.0))
        tenant.line.join(seat)
        self._seats += 1
        self._list(seat.key, tenant)

    def leave(self, seat: Seat) -> bool:
        """Give up a place, and return whether there was one."""
        tenant = self._tenants.get(seat.key)
        if tenant is None or not tenant.line.leave(seat):
            return False
        self._seats -= 1
        return True

    def pop(self) -> Seat | None:
        """Remove and return the next that can take a call now."""
        deaf: list[tuple[float, int, str]] = []
        try:
            while self._turns:
                turn = heapq.heappop(self._turns)
                seat = self._pop_from(turn, deaf)
                if seat is not None:
                    return seat
            return None
        finally:
            for turn in deaf:
                heapq.heappush(self._turns, turn)

    def _pop_from(self, turn: tuple[float, int, str], deaf: list[tuple[float, int, str]]) -> Seat | None:
        name = turn[2]
        tenant = self._tenants[name]
        before = len(tenant.line)
        seat = tenant.line.pop()
        self._seats -= before - len(tenant.line)
        if seat is None and len(tenant.line):
            deaf.append(turn)  # its loops are at rest; its turn stays
            return None
        tenant.listed = False
        if seat is not None:
            self._now = max(self._now, tenant.time)
            tenant.time = self._now + 1 / tenant.weight
        if len(tenant.line):
            self._list(name, tenant)
        elif tenant.time <= self._now or seat is None:
            del self._tenants[name]
        return seat

    def _list(self, name: str, tenant: _Tenant) -> None:
        if not tenant.listed:
            tenant.listed = True
            tenant.time = max(tenant.time, self._now)
            heapq.heappush(self._turns, (tenant.time, next(self._order), name))

    def waiting_of(self, tenant: str) -> int:
        """Return how many of a tenant wait."""
        entry = self._tenants.get(tenant)
        return entry.line.waiting() if entry else 0

    def waiting(self) -> int:
        """Return how many wait who will still hear a call."""
        return sum(tenant.line.waiting() for tenant in list(self._tenants.values()))

    def __len__(self) -> int:
        return self._seats
