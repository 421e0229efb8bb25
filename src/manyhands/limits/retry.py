"""Asking again when that can help: after refusals, failures of the provider, and broken connections.

A retry waits outside of every limiter below it, so it holds no slot while it waits. After a refusal that
the rate limiter below has been told of, it does not wait by itself at all: it joins the limiter's line,
which is paused for everyone on the key, and goes when its turn comes.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from manyhands.errors import AgentError, ConnectionFailedError, ProviderError, RateLimitError, ServerError
from manyhands.events import tell_retry, waiting
from manyhands.limits.wrapping import ModelWrapper, closing_stream
from manyhands.messages import ChatMessageStreamDelta
from manyhands.models.base import ask, request_options, restarts_welcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from manyhands.messages import ChatMessage


# Set on a refusal by whoever has told the rate limiter of it.
LIMITER_KNOWS = "limiter_knows"


_off = 0


@contextmanager
def retries_off() -> Iterator[None]:
    """Let every error through at once, in the whole process, while ``with`` lasts: for tests of errors."""
    global _off
    _off += 1
    try:
        yield
    finally:
        _off -= 1


def is_retryable(error: BaseException) -> bool:
    """Return whether asking the same again may help.

    It may after 408, 409, 429 and 5xx, a failed or silent connection, and a broken stream. It does not
    after 400, 401, 403, 404, nor when a 429 says that the account has no money left.

    Args:
        error: What a model raised; errors of other libraries are judged by their ``status_code``.
    """
    errors = getattr(error, "errors", None)
    if isinstance(errors, tuple):  # several models failed: one that may recover is enough
        return any(is_retryable(inner) for inner in errors)
    if isinstance(error, AgentError) and not isinstance(error, ProviderError):
        return False
    status = getattr(error, "status", None) or getattr(error, "status_code", None)
    if isinstance(status, int) and status >= 400:  # a reply of 200 may be broken, too
        return (status in (408, 409, 429) or status >= 500) and not _out_of_money(error)
    if isinstance(error, RateLimitError):
        return not _out_of_money(error)
    return isinstance(error, ServerError | ConnectionFailedError | ConnectionError | TimeoutError)


def _out_of_money(error: BaseException) -> bool:
    body = getattr(error, "body", None)
    reason = body.get("error", body) if isinstance(body, dict) else None
    if not isinstance(reason, dict):
        return False
    return "insufficient_quota" in (reason.get("code"), reason.get("type"))


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, and after how long, to ask again.

    Attributes:
        attempts: Most times to ask in all, refusals for the rate (429) not counted.
        first_delay: Most seconds before the second attempt; doubled for each one after it.
        max_delay: Most seconds before any attempt.
        patience: Seconds after the first attempt when refusals, too, are not retried any more.

    Raises:
        ValueError: A number makes no sense.
    """

    attempts: int = 5
    first_delay: float = 0.5
    max_delay: float = 60.0
    patience: float = 1800.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or min(self.first_delay, self.max_delay, self.patience) < 0:
            raise ValueError(f"attempts must be at least 1 and no time negative: {self}.")

    def delay(self, failures: int, chance: Callable[[], float] = random.random) -> float:
        """Return the seconds to wait after so many failures: any time up to the full backoff.

        Runs that failed together come back at different times that way.
        """
        return chance() * float(min(self.max_delay, self.first_delay * 2 ** min(failures - 1, 60)))


@dataclass(frozen=True, slots=True)
class RetryDetails:
    """A retry that is about to happen.

    Attributes:
        model_id: The model.
        attempt: Which attempt failed, counted from 1.
        delay: Seconds until the next one; 0 if the rate limiter decides.
        error: Why it failed.
    """

    model_id: str | None
    attempt: int
    delay: float
    error: Exception


class RetryingModel(ModelWrapper):
    """Asks another model again when it fails in a way that may pass.

    A stream is asked for again only until its first piece has been handed on; those of a run also later, and
    then the run tells that the reply begins anew.

    Args:
        model: The model; best one with its limits around it already.
        policy: How often, and after how long.
        on_retry: Told of each retry before the wait; it must not block.
    """

    def __init__(
        self,
        model: Any,
        policy: RetryPolicy | None = None,
        *,
        on_retry: Callable[[RetryDetails], object] | None = None,
    ) -> None:
        super().__init__(model)
        self.policy = policy or RetryPolicy()
        self.on_retry = on_retry

    async def agenerate(
        self,
        messages: list[ChatMessage],
        stop_sequences: list[str] | None = None,
        response_format: dict[str, Any] | None = None,
        tools_to_call_from: list[Any] | None = None,
        **kwargs: Any,
    ) -> ChatMessage:
        """Ask for a reply, again if need be; the last error is raised with the earlier ones as notes."""
        options = request_options(stop_sequences, response_format, tools_to_call_from, kwargs)
        return await self._ask(_Tries(self), messages, options)

    async def resume(
        self, error: Exception, messages: list[ChatMessage], options: dict[str, Any]
    ) -> ChatMessage:
        """Go on after a first attempt that somebody else has made.

        Args:
            error: How that attempt failed.
            messages: The conversation.
            options: The other arguments of the request.
        """
        tries = _Tries(self)
        await tries.wait_after(error)
        return await self._ask(tries, messages, options)

    async def _ask(self, tries: _Tries, messages: list[ChatMessage], options: dict[str, Any]) -> ChatMessage:
        while True:
            try:
                return await ask(self.model, messages, **options)
            except Exception as error:
                await tries.wait_after(error)

    async def agenerate_stream(
        self,
        messages: list[ChatMessage],
        stop_sequences: list[str] | None = None,
        response_format: dict[str, Any] | None = None,
        tools_to_call_from: list[Any] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatMessageStreamDelta]:
        """Ask for a reply in pieces, again if it fails before the first.

        Later ones have been seen, and are not taken back: unless the reader knows pieces with ``restart``, as
        runs do. Then the whole reply is asked for again.
        """
        options = request_options(stop_sequences, response_format, tools_to_call_from, kwargs)
        tries = _Tries(self)
        begun = False
        while True:
            if begun:
                begun = False
                yield ChatMessageStreamDelta(restart=True)
            try:
                async with closing_stream(self.model, messages, options) as deltas:
                    async for delta in deltas:
                        begun = True
                        yield delta
                return
            except Exception as error:
                if begun and not restarts_welcome.get():
                    tries.add_history(error)
                    raise
                await tries.wait_after(error)


class _Tries:
    """The attempts at one request."""

    def __init__(self, model: RetryingModel) -> None:
        self._model = model
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + model.policy.patience
        self._attempts = 0
        self._failures = 0
        self._history: list[Exception] = []

    async def wait_after(self, error: Exception) -> None:
        """Wait until another attempt makes sense, or raise ``error`` if none does."""
        self._attempts += 1
        refused = _is_refusal(error)
        self._failures += not refused
        out = self._loop.time() >= self._until if refused else self._failures >= self._model.policy.attempts
        if out or _off or not is_retryable(error):
            self.add_history(error)
            raise error
        delay = self._delay(error, refused)
        self._history.append(error)
        if self._model.on_retry is not None:
            self._model.on_retry(RetryDetails(self._model.model_id, self._attempts, delay, error))
        name = str(self._model.model_id or "")
        tell_retry("model", name, self._attempts, delay, error)
        if delay > 0:
            with waiting("retry", name):
                await asyncio.sleep(delay)

    def _delay(self, error: Exception, refused: bool) -> float:
        policy = self._model.policy
        if refused and getattr(error, LIMITER_KNOWS, False):
            return 0.0
        asked = getattr(error, "retry_after", None)
        if isinstance(asked, int | float):
            # Those that were refused together were told the same time: spread them a little.
            return asked + policy.delay(1)
        return policy.delay(self._attempts)

    def add_history(self, error: Exception) -> None:
        """Add a note to ``error`` for each attempt before."""
        for number, earlier in enumerate(self._history, 1):
            error.add_note(f"attempt {number}: {type(earlier).__name__}: {earlier}")


def _is_refusal(error: Exception) -> bool:
    status = getattr(error, "status", None) or getattr(error, "status_code", None)
    return isinstance(error, RateLimitError) or status == 429
