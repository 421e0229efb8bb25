"""The limits that a model behind an API carries itself, put around its requests."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from manyhands.errors import RateLimitError
from manyhands.limits.limited import LimitedModel
from manyhands.limits.rate import RateLimiter
from manyhands.limits.retry import LIMITER_KNOWS, RetryingModel, RetryPolicy
from manyhands.limits.wrapping import ModelWrapper, closing_stream
from manyhands.models.base import ask, request_options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from manyhands.messages import ChatMessage, ChatMessageStreamDelta

# Seconds that a key rests after a refusal that names no time.
UNASKED_PAUSE = 1.0
# Seconds over which requests are counted: a pace seen over less says little, one over more is past.
SHORTEST, LONGEST = 1.0, 30.0


class Bare(ModelWrapper):
    """The requests of a model as they are, without the limits that it carries."""

    async def agenerate(self, messages: list[ChatMessage], *args: Any, **kwargs: Any) -> ChatMessage:
        """Make the request."""
        reply: ChatMessage = await self.model.request(messages, *args, **kwargs)
        return reply

    def agenerate_stream(
        self, messages: list[ChatMessage], *args: Any, **kwargs: Any
    ) -> AsyncIterator[ChatMessageStreamDelta]:
        """Make the request, for a reply in pieces."""
        pieces: AsyncIterator[ChatMessageStreamDelta] = self.model.request_stream(messages, *args, **kwargs)
        return pieces


class PoliteModel(ModelWrapper):
    """Goes through a rate limiter from the first refusal on; until then it costs nearly nothing.

    Models with one key share that limiter: a ``Retry-After`` told to one of them holds all of them, once.

    Args:
        model: The model.
        limits: Arguments of :class:`~manyhands.limits.limited.LimitedModel`; with any, it counts at once.
    """

    def __init__(self, model: Any, **limits: Any) -> None:
        super().__init__(model)
        self._limited = LimitedModel(model, **limits) if limits else None
        self._asked = 0
        self._since = 0.0

    async def agenerate(
        self,
        messages: list[ChatMessage],
        stop_sequences: list[str] | None = None,
        response_format: dict[str, Any] | None = None,
        tools_to_call_from: list[Any] | None = None,
        **kwargs: Any,
    ) -> ChatMessage:
        """Ask for a reply."""
        options = request_options(stop_sequences, response_format, tools_to_call_from, kwargs)
        if self._limited is not None:
            return await ask(self._limited, messages, **options)
        self.count()
        try:
            reply = await ask(self.model, messages, **options)
        except RateLimitError as error:
            self.refused(error)
            raise
        self.served()
        return reply

    async def agenerate_stream(
        self,
        messages: list[ChatMessage],
        stop_sequences: list[str] | None = None,
        response_format: dict[str, Any] | None = None,
        tools_to_call_from: list[Any] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatMessageStreamDelta]:
        """Ask for a reply in pieces."""
        options = request_options(stop_sequences, response_format, tools_to_call_from, kwargs)
        self.count()
        passed = self._limited is None
        try:
            async with closing_stream(self._limited or self.model, messages, options) as deltas:
                async for delta in deltas:
                    yield delta
            if passed:
                self.served()
        except RateLimitError as error:
            self.refused(error)
            raise

    @property
    def limited(self) -> LimitedModel | None:
        """The limits that requests have to pass; ``None`` as long as there are none."""
        return self._limited

    @property
    def is_open(self) -> bool:
        """Whether nothing has to be waited for: no limit is set, and no refusal has come yet."""
        return self._limited is None

    def refused(self, error: RateLimitError) -> None:
        """From now on wait in the line of the key, which rests as long as the provider asks."""
        if getattr(error, LIMITER_KNOWS, False):
            return
        self._limited = self._limited or LimitedModel(self.model)
        seconds = UNASKED_PAUSE if error.retry_after is None else error.retry_after
        rate = self._limited.rate
        if not rate.stats().paused_for:
            # The limiter is new and has seen nothing: tell it how fast we were.
            rate.pause(seconds, pace=self._asked / max(SHORTEST, time.monotonic() - self._since))
        elif isinstance(rate, RateLimiter):
            rate.saw(refused=True)
        vars(error)[LIMITER_KNOWS] = True

    def served(self) -> None:
        """Note that a call went well that had gone past the line, after another one was refused."""
        if self._limited is not None and isinstance(self._limited.rate, RateLimiter):
            self._limited.rate.saw(refused=False)

    def count(self) -> None:
        """Count requests a minute or so back, for the pace at which a refusal finds us."""
        now = time.monotonic()
        if now - self._since > LONGEST:
            self._asked, self._since = 0, now
        self._asked += 1


class PatientModel(RetryingModel):
    """The requests of a model with retries around its gate.

    Attributes:
        gate: The gate, for those who may pass it without a word.
    """

    @property
    def gate(self) -> PoliteModel:
        """The gate."""
        gate: PoliteModel = self.model
        return gate


def polite(
    model: Any,
    *,
    requests_per_minute: float | None = None,
    tokens_per_minute: float | None = None,
    max_concurrency: int | None = None,
    retry: bool | RetryPolicy = True,
) -> ModelWrapper | None:
    """Return the requests of ``model`` with its limits and retries around them, ``None`` if it has none.

    Args:
        model: The model; it has ``request`` and ``request_stream``.
        requests_per_minute: Most requests in any minute.
        tokens_per_minute: Most tokens in any minute, prompts and replies together.
        max_concurrency: Most requests under way at once.
        retry: Whether, or by which policy, to ask again after errors that may pass.
    """
    limits = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "max_concurrency": max_concurrency,
    }
    given = {name: value for name, value in limits.items() if value is not None}
    if not given and not retry:
        return None
    gate = PoliteModel(Bare(model), **given)
    if not retry:
        return gate
    return PatientModel(gate, retry if isinstance(retry, RetryPolicy) else None)
