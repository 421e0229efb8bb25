"""Limits that many processes share, kept in a Redis.

    registry = RedisConcurrencyRegistry("redis://localhost:6379/0")
    rate = RedisRateLimiter("redis://localhost:6379/0", "openai/gpt-5-mini", requests_per_minute=500)

They have the faces of :class:`~manyhands.limits.registry.ConcurrencyRegistry` and
:class:`~manyhands.limits.rate.RateLimiter`, and stand where those can. Needs the package ``redis``
(``pip install "manyhands[redis]"``) and a server from Redis 6.2 or Valkey on.
"""

from __future__ import annotations

from manyhands.limits.redis.link import RedisUnavailableError as RedisUnavailableError
from manyhands.limits.redis.rate import RedisRateLimiter as RedisRateLimiter
from manyhands.limits.redis.rate import RedisReservation as RedisReservation
from manyhands.limits.redis.slots import RedisConcurrencyRegistry as RedisConcurrencyRegistry

__all__ = ["RedisConcurrencyRegistry", "RedisRateLimiter", "RedisReservation", "RedisUnavailableError"]
