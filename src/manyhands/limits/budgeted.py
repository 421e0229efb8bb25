"""A model that spends from a budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyhands.limits.budget import current_budget
from manyhands.limits.estimate import Estimator, estimate_prompt
from manyhands.limits.wrapping import ModelWrapper, closing_stream
from manyhands.messages import DeltaFold, TokenUsage
from manyhands.models.base import ask, request_options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from manyhands.limits.budget import Budget, Hold
    from manyhands.limits.estimate import Guess
    from manyhands.messages import ChatMessage, ChatMessageStreamDelta


class BudgetedModel(ModelWrapper):
    """Asks another model as long as the budget lasts.

    Put it outside of retries and limits: a request waits for its turn with its share reserved, and a
    retry belongs to the same request.

    Args:
        model: The model.
        budget: What to spend from; ``None``: from the budget active where the call is made, if any.
    """

    def __init__(self, model: Any, budget: Budget | None = None) -> None:
        super().__init__(model)
        self.budget = budget
        self._estimator = Estimator()

    async def agenerate(
        self,
        messages: list[ChatMessage],
        stop_sequences: list[str] | None = None,
        response_format: dict[str, Any] | None = None,
        tools_to_call_from: list[Any] | None = None,
        **kwargs: Any,
    ) -> ChatMessage:
        """Ask for a reply.

        Raises:
            BudgetExceededError: The budget does not allow the call; it was not made.
        """
        options = request_options(stop_sequences, response_format, tools_to_call_from, kwargs)
        spending = await self._reserve(messages, options)
        reply = None
        try:
            reply = await ask(self.model, messages, **options)
            return reply
        finally:
            if spending is not None:
                spending.settle(reply)

    async def agenerate_stream(
        self,
        messages: list[ChatMessage],
        stop_sequences: list[str] | None = None,
        response_format: dict[str, Any] | None = None,
        tools_to_call_from: list[Any] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatMessageStreamDelta]:
        """Ask for a reply in pieces; what was streamed is paid for, however the stream ends."""
        options = request_options(stop_sequences, response_format, tools_to_call_from, kwargs)
        spending = await self._reserve(messages, options)
        fold = None
        try:
            async with closing_stream(self.model, messages, options) as deltas:
                async for delta in deltas:
                    if delta.restart and fold is not None and spending is not None:
                        spending.waste(fold.message())
                    fold = fold or DeltaFold()
                    fold.add(delta)
                    yield delta
        finally:
            if spending is not None:
                spending.settle(fold.message() if fold else None)

    async def _reserve(self, messages: list[ChatMessage], options: dict[str, Any]) -> _Spending | None:
        budget = self.budget or current_budget()
        if budget is None:
            return None
        options = {**options, **self.kwargs}
        guess = self._estimator.guess(messages, options)
        hold = await budget.reserve(
            most={"tokens": guess.most.total_tokens, "money": budget.cost(self.model_id, guess.most)},
            tokens=guess.usage.total_tokens,
            money=budget.cost(self.model_id, guess.usage),
            requests=1,
        )
        return _Spending(self, budget, guess, hold)


class _Spending:
    """What one request has reserved, and will have used."""

    __slots__ = ("_budget", "_guess", "_hold", "_model", "_wasted")

    def __init__(self, model: BudgetedModel, budget: Budget, guess: Guess, hold: Hold) -> None:
        self._model = model
        self._budget = budget
        self._guess = guess
        self._hold = hold
        self._wasted = TokenUsage(0, 0)

    def waste(self, broken: ChatMessage) -> None:
        """Pay for a reply that broke off, as far as it came, and goes on from the beginning."""
        self._wasted += TokenUsage(self._guess.usage.input_tokens, estimate_prompt([broken]))

    def settle(self, reply: ChatMessage | None) -> None:
        """Pay for a reply as far as it came; without one, for the request alone."""
        used = TokenUsage(0, 0)
        if reply is not None and reply.token_usage is not None:
            used = reply.token_usage
            self._model._estimator.learn(self._guess, used)
        elif reply is not None:
            # A provider that does not count, or a stream that was left: what was seen is guessed.
            used = TokenUsage(self._guess.usage.input_tokens, estimate_prompt([reply]))
        used += self._wasted
        self._hold.settle(tokens=used.total_tokens, money=self._budget.cost(self._model.model_id, used))
