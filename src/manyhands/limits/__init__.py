"""What keeps a thousand agents polite, bounded and fair: caps, rates, retries, fallbacks, budgets."""

from __future__ import annotations

from manyhands.limits.capacity import CapacityLimiter, SlotStats
from manyhands.limits.registry import ConcurrencyRegistry, get_concurrency_registry

__all__ = [
    "CapacityLimiter",
    "ConcurrencyRegistry",
    "SlotStats",
    "get_concurrency_registry",
]
