"""What keeps a thousand agents polite, bounded and fair: caps, rates, retries, fallbacks, budgets.

=====================================  ==============================================================
:mod:`~manyhands.limits.capacity`      how many may hold something at once: the primitive under all caps
:mod:`~manyhands.limits.registry`      such limits by name
:mod:`~manyhands.limits.tenants`       one such limit, shared fairly by tenants
:mod:`~manyhands.limits.adaptive`      one that finds its own height
:mod:`~manyhands.limits.rate`          requests and tokens per minute, shared by key
:mod:`~manyhands.limits.budget`        what a run, its descendants or a batch may use up in all
:mod:`~manyhands.limits.tree`          how deep and how broad a tree of sub-agents may grow
:mod:`~manyhands.limits.redis`         names and rates shared by many processes
:mod:`~manyhands.limits.limited`       a model with its slots and rates around it
:mod:`~manyhands.limits.retry`         a model that is asked again when that can help
:mod:`~manyhands.limits.fallback`      several models behind one face
:mod:`~manyhands.limits.budgeted`      a model that spends from a budget
=====================================  ==============================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from manyhands._lazy import lazy_exports

# The primitives need nothing but the standard library; wrappers of models load with their first use,
# so that models may use the primitives.
if TYPE_CHECKING:
    from manyhands.limits.adaptive import AdaptiveLimiter as AdaptiveLimiter
    from manyhands.limits.budget import Budget as Budget
    from manyhands.limits.budget import BudgetExceededError as BudgetExceededError
    from manyhands.limits.budget import Hold as Hold
    from manyhands.limits.budget import current_budget as current_budget
    from manyhands.limits.budgeted import BudgetedModel as BudgetedModel
    from manyhands.limits.capacity import CapacityLimiter as CapacityLimiter
    from manyhands.limits.capacity import SlotStats as SlotStats
    from manyhands.limits.fallback import AllModelsFailedError as AllModelsFailedError
    from manyhands.limits.fallback import FallbackModel as FallbackModel
    from manyhands.limits.limited import LimitedModel as LimitedModel
    from manyhands.limits.limited import with_limits as with_limits
    from manyhands.limits.prices import Price as Price
    from manyhands.limits.rate import RateLimiter as RateLimiter
    from manyhands.limits.rate import RateStats as RateStats
    from manyhands.limits.rate import Reservation as Reservation
    from manyhands.limits.rate import observe_headers as observe_headers
    from manyhands.limits.rate import rate_key as rate_key
    from manyhands.limits.rate import shared as shared
    from manyhands.limits.redis.link import RedisUnavailableError as RedisUnavailableError
    from manyhands.limits.redis.rate import RedisRateLimiter as RedisRateLimiter
    from manyhands.limits.redis.rate import RedisReservation as RedisReservation
    from manyhands.limits.redis.slots import RedisConcurrencyRegistry as RedisConcurrencyRegistry
    from manyhands.limits.registry import ConcurrencyRegistry as ConcurrencyRegistry
    from manyhands.limits.registry import get_concurrency_registry as get_concurrency_registry
    from manyhands.limits.retry import RetryDetails as RetryDetails
    from manyhands.limits.retry import RetryingModel as RetryingModel
    from manyhands.limits.retry import RetryPolicy as RetryPolicy
    from manyhands.limits.retry import is_retryable as is_retryable
    from manyhands.limits.tenants import FairLimiter as FairLimiter
    from manyhands.limits.tenants import QueueFullError as QueueFullError
    from manyhands.limits.tree import RunTree as RunTree
    from manyhands.limits.tree import TreeLimitError as TreeLimitError

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
