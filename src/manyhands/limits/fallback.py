"""Several models behind one face: when one fails, the next is asked."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from manyhands.errors import AgentError, AgentGenerationError
from manyhands.limits.wrapping import ModelWrapper, closing_stream
from manyhands.messages import ChatMessageStreamDelta
from manyhands.models.base import Model, ask, request_options, restarts_welcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from manyhands.messages import ChatMessage


class AllModelsFailedError(AgentGenerationError):
    """No model of a :class:`FallbackModel` gave a reply.

    Args:
        failures: Names of the models and what each raised, in the order in which they were asked.

    Attributes:
        errors: What they raised.
    """

    def __init__(self, failures: Sequence[tuple[str, Exception]]) -> None:
        what = "; ".join(f"{name}: {type(error).__name__}: {error}" for name, error in failures)
        super().__init__(f"None of {len(failures)} models gave a reply. {what}")
        self.errors = tuple(error for _, error in failures)


def may_fall_back(error: Exception) -> bool:
    """Return whether another model may do better: after any error but those of budgets and of the caller.

    Refusals for the rate, failures of the provider, prompts too long for one model, keys that are not
    accepted, and whatever a foreign model raises are worth another model.
    """
    return not isinstance(error, AgentError) or isinstance(error, AgentGenerationError)


class FallbackModel(ModelWrapper):
    """Asks the first model, and after an error the next, until one replies.

    A model that named a time (``Retry-After``) is passed over until then, while another is left. A stream
    falls back only until its first piece has been handed on.

    Args:
        models: The models, best first.
        when: Whether an error is worth another model; see :func:`may_fall_back`.
        on_fallback: Told of the model that failed and its error; it must not block.
        clock: Seconds that only grow.

    Raises:
        ValueError: There are no models.
    """

    def __init__(
        self,
        models: Sequence[Any],
        *,
        when: Callable[[Exception], bool] = may_fall_back,
        on_fallback: Callable[[Any, Exception], object] | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        if not models:
            raise ValueError("A FallbackModel needs at least one model.")
        super().__init__(models[0])
        self.models = list(models)
        # What not all of them understand is sent as text.
        self.native_tool_messages = all(getattr(m, "native_tool_messages", False) for m in self.models)
        self._when = when
        self._on_fallback = on_fallback
        self._clock = clock
        self._resting = [0.0] * len(self.models)

    async def agenerate(
        self,
        messages: list[ChatMessage],
        stop_sequences: list[str] | None = None,
        response_format: dict[str, Any] | None = None,
        tools_to_call_from: list[Any] | None = None,
        **kwargs: Any,
    ) -> ChatMessage:
        """Ask for a reply from the first model that gives one."""
        options = request_options(stop_sequences, response_format, tools_to_call_from, kwargs)
        failures: list[tuple[str, Exception]] = []
        for index in self._order():
            try:
                return await ask(self.models[index], messages, **options)
            except Exception as error:
                self._note(index, error, failures)
        raise self._final(failures)

    async def agenerate_stream(
        self,
        messages: list[ChatMessage],
        stop_sequences: list[str] | None = None,
        response_format: dict[str, Any] | None = None,
        tools_to_call_from: list[Any] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatMessageStreamDelta]:
        """Ask for a reply in pieces from the first model that begins one."""
        options = request_options(stop_sequences, response_format, tools_to_call_from, kwargs)
        failures: list[tuple[str, Exception]] = []
        begun = False
        for index in self._order():
            if begun:
                begun = False
                yield ChatMessageStreamDelta(restart=True)
            try:
                async with closing_stream(self.models[index], messages, options) as deltas:
                    async for delta in deltas:
                        begun = True
                        yield delta
                return
            except Exception as error:
                if begun and not restarts_welcome.get():
                    raise
                self._note(index, error, failures)
        raise self._final(failures)

    def _order(self) -> Iterator[int]:
        """Yield the models to ask: those not resting, else all, the one soonest ready first."""
        now = self._clock()
        ready = [index for index, until in enumerate(self._resting) if until <= now]
        resting = [index for index, until in enumerate(self._resting) if until > now]
        yield from ready
        yield from sorted(resting, key=self._resting.__getitem__)

    def _note(self, index: int, error: Exception, failures: list[tuple[str, Exception]]) -> None:
        """Take in a failure, or raise it again if no other model would do better."""
        if not self._when(error):
            raise error
        model = self.models[index]
        failures.append((str(getattr(model, "model_id", None) or type(model).__name__), error))
        seconds = getattr(error, "retry_after", None)
        if isinstance(seconds, int | float):
            self._resting[index] = self._clock() + seconds
        if self._on_fallback is not None:
            self._on_fallback(model, error)

    @staticmethod
    def _final(failures: list[tuple[str, Exception]]) -> Exception:
        if len(failures) == 1:
            return failures[0][1]
        error = AllModelsFailedError(failures)
        error.__cause__ = failures[-1][1]
        return error

    async def aclose(self) -> None:
        """Release connections of all models."""
        for model in self.models:
            if isinstance(model, Model):
                await model.aclose()
