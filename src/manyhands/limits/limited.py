"""A model with its limits around it: slots, requests and tokens per minute, and what it learns on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyhands.errors import AgentError, ConnectionFailedError, ProviderError, RateLimitError, ServerError
from manyhands.limits.adaptive import AdaptiveLimiter
from manyhands.limits.capacity import CapacityLimiter
from manyhands.limits.estimate import Estimator
from manyhands.limits.rate import RateLimiter, current_reservation, rate_key, shared
from manyhands.limits.retry import LIMITER_KNOWS, RetryingModel, RetryPolicy
from manyhands.limits.wrapping import ModelWrapper, closing_stream
from manyhands.models.base import ask, request_options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from manyhands.limits.rate import Reservation
    from manyhands.limits.redis.rate import RedisRateLimiter, RedisReservation
    from manyhands.messages import ChatMessage, ChatMessageStreamDelta, TokenUsage

# Seconds that a key rests after a refusal that names no time.
_UNASKED_PAUSE = 1.0


class LimitedModel(ModelWrapper):
    """Asks another model within limits; calls wait in line, first come first served, and never block.

    Args:
        model: The model.
        max_concurrency: Most calls under way at once; ``None`` for no limit.
        requests_per_minute: Most requests in any minute; ``None`` for no limit but the provider's.
        tokens_per_minute: Most tokens in any minute, prompts and replies together.
        slots: A limiter to take a slot of instead of an own one: shared, or one that adapts.
        rate: A rate limiter to use instead of the one that all models with the same key share.
        key: What the provider counts by (see :func:`~manyhands.limits.rate.rate_key`); made of the
            model's address, API key and name, unless told otherwise.
    """

    def __init__(
        self,
        model: Any,
        *,
        max_concurrency: int | None = None,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        slots: CapacityLimiter | None = None,
        rate: RateLimiter | RedisRateLimiter | None = None,
        key: str | None = None,
    ) -> None:
        super().__init__(model)
        name = key or _key_of(model)
        self.slots = slots or CapacityLimiter(max_concurrency, name=name)
        if rate is None:
            rate = shared.get(name, requests_per_minute, tokens_per_minute)
        self.rate = rate
        self._estimator = Estimator()

    async def agenerate(
        self,
        messages: list[ChatMessage],
        stop_sequences: list[str] | None = None,
        response_format: dict[str, Any] | None = None,
        tools_to_call_from: list[Any] | None = None,
        **kwargs: Any,
    ) -> ChatMessage:
        """Ask for a reply when it is this call's turn."""
        options = request_options(stop_sequences, response_format, tools_to_call_from, kwargs)
        async with _Call(self, messages, options) as call:
            reply = await ask(self.model, messages, **options)
            call.count(reply.token_usage)
            return reply

    async def agenerate_stream(
        self,
        messages: list[ChatMessage],
        stop_sequences: list[str] | None = None,
        response_format: dict[str, Any] | None = None,
        tools_to_call_from: list[Any] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatMessageStreamDelta]:
        """Ask for a reply in pieces when it is this call's turn; its slot is held until the last."""
        options = request_options(stop_sequences, response_format, tools_to_call_from, kwargs)
        call = _Call(self, messages, options)
        async with call, closing_stream(self.model, messages, options) as deltas:
            async for delta in deltas:
                call.count(delta.token_usage)
                yield delta


class _Call:
    """One call on its way through the limits and back."""

    __slots__ = ("_before", "_expected", "_model", "_reservation", "_used")

    _reservation: Reservation | RedisReservation

    def __init__(self, model: LimitedModel, messages: list[ChatMessage], options: dict[str, Any]) -> None:
        self._model = model
        self._expected = model._estimator.guess(messages, {**options, **model.kwargs})
        self._before: Reservation | RedisReservation | None = None
        self._used: TokenUsage | None = None

    async def __aenter__(self) -> _Call:
        model = self._model
        # The slot comes first: a reservation has to be used when it is given.
        await model.slots.acquire()
        try:
            self._reservation = await model.rate.reserve(self._expected.usage.total_tokens)
        except BaseException:
            model.slots.release()
            raise
        self._before = current_reservation.get()
        current_reservation.set(self._reservation)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        current_reservation.set(self._before)
        slots = self._model.slots
        try:
            self._settle(error)
            if isinstance(slots, AdaptiveLimiter):
                self._adapt(slots, error)
        finally:
            slots.release()

    def count(self, usage: TokenUsage | None) -> None:
        """Take in tokens that the provider counted."""
        if usage is not None:
            self._used = usage if self._used is None else self._used + usage

    def _settle(self, error: BaseException | None) -> None:
        if isinstance(error, RateLimitError):
            pause = _UNASKED_PAUSE if error.retry_after is None else error.retry_after
            self._reservation.refused(pause)
            vars(error)[LIMITER_KNOWS] = True
        elif isinstance(error, ProviderError) and error.status is not None:
            self._reservation.settle(0)
        elif self._used is not None:
            self._model._estimator.learn(self._expected, self._used)
            self._reservation.settle(self._used.total_tokens)
        # Without a count, of a cancelled call for example, the guess stands.

    def _adapt(self, slots: AdaptiveLimiter, error: BaseException | None) -> None:
        if error is None:
            slots.succeeded()
        elif isinstance(error, RateLimitError | ServerError | ConnectionFailedError):
            slots.congested(self._reservation.at)


def _key_of(model: Any) -> str:
    """Return what a model's provider most likely counts by."""
    name = str(getattr(model, "model_id", None))
    try:
        where = model.endpoint()
        return rate_key(where.url, "".join(f"{k}{v.reveal()}" for k, v in where.secret_headers), name)
    except (AttributeError, AgentError):
        # Nothing tells two of its kind apart: it shares with nobody but itself.
        return f"{type(model).__name__}/{id(model):x}/{name}"


def with_limits(
    model: Any,
    *,
    max_concurrency: int | None = None,
    requests_per_minute: float | None = None,
    tokens_per_minute: float | None = None,
    adaptive: bool = False,
    retry: bool | RetryPolicy = True,
    key: str | None = None,
) -> ModelWrapper:
    """Return ``model`` with limits and retries around it, in the order in which they work together.

    Args:
        model: The model.
        max_concurrency: Most calls under way at once; with ``adaptive``, the ceiling (256 if not told).
        requests_per_minute: Most requests in any minute.
        tokens_per_minute: Most tokens in any minute.
        adaptive: Whether the number of calls at once finds its own height.
        retry: Whether, or by which policy, to ask again after errors that may pass.
        key: What the provider counts by.
    """
    slots = AdaptiveLimiter(ceiling=max_concurrency or 256, name=key or _key_of(model)) if adaptive else None
    limited = LimitedModel(
        model,
        max_concurrency=max_concurrency,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        slots=slots,
        key=key,
    )
    if not retry:
        return limited
    return RetryingModel(limited, retry if isinstance(retry, RetryPolicy) else None)
