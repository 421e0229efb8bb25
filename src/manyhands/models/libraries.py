"""What models share that are asked through a provider's own library: finding it, and its errors as ours.

A library is looked for when a model is built, so that a missing one is known at once, and imported at
the first call, on a worker thread: some of them take seconds.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from manyhands._bridge import workers
from manyhands.errors import (
    AgentError,
    BadRequestError,
    ConnectionFailedError,
    MissingExtraError,
    ProviderError,
    ServerError,
)
from manyhands.limits.capacity import CapacityLimiter
from manyhands.models import failures
from manyhands.models.endpoint import Endpoint, Secret, public_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

T = TypeVar("T")
_LONGEST_REASON = 500
_SHORTEST_SECRET = 6
_SECRET_NAMES = ("key", "token", "secret", "password", "authorization", "credential")
# Classes that stand for "no answer came", by name: the libraries do not agree on one.
_UNREACHABLE = frozenset(
    {
        "APIConnectionError",  # openai, litellm
        "APITimeoutError",
        "ClientError",  # aiohttp
        "TransportError",  # httpx
        "ConnectionError",
        "TimeoutError",
    }
)


def require(feature: str, extra: str, module: str) -> None:
    """Make sure that a library is installed, without importing it.

    Args:
        feature: What needs it, for the message.
        extra: The extra of manyhands that brings it.
        module: Its name.

    Raises:
        MissingExtraError: It is not installed.
    """
    if module not in sys.modules and not _installed(module):
        raise MissingExtraError(feature, extra)


@functools.lru_cache(maxsize=64)
def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


class Once(Generic[T]):
    """An object that takes long to make: made at the first call, on a worker thread, for all loops.

    Args:
        make: Makes it; called again if it raises.
        label: Name of the thread meanwhile.
    """

    def __init__(self, make: Callable[[], T], label: str) -> None:
        self._make = make
        self._label = label
        self._made: T | None = None
        self._line = CapacityLimiter(1, name=label)
        self._lock = threading.Lock()

    async def get(self) -> T:
        """Return the object."""
        if self._made is None:
            async with self._line:
                return await workers.run(self.get_sync, label=self._label)
        return self._made

    def get_sync(self) -> T:
        """Return the object, from a thread that may block."""
        # The line lets one caller in. One that was cancelled may have left its thread in here.
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    def __reduce__(self) -> Any:
        return type(self), (self._make, self._label)  # copies make their own

    @property
    def made(self) -> T | None:
        """The object, ``None`` before the first call."""
        return self._made


# --- Its errors as ours ------------------------------------------------------------------------


def failure(error: Exception, where: str, secrets: Iterable[Secret] = ()) -> AgentError:
    """Return what an error of a library means, without a traceback: its frames hold keys.

    Args:
        error: The library's error.
        where: Who was asked, for the message.
        secrets: Texts to strike out; an error that has one in it is not kept as the cause.
    """
    if isinstance(error, AgentError):
        return error
    # Shorter ones are no secrets, but words such as "none" that a server without keys is given.
    known = [secret.reveal() for secret in secrets if len(secret.reveal()) >= _SHORTEST_SECRET]
    status, headers = _status(error), _headers(error)
    reason = _without(" ".join(str(error).split()), known)[:_LONGEST_REASON] or type(error).__name__
    told = f"{where} answered {status}: {reason}" if status else f"{where}: {reason}"
    body = getattr(error, "body", None)
    ours = _class(error, status)(
        told,
        status=status,
        retry_after=failures.retry_after(headers),
        body=body if isinstance(body, dict) and not _holds(str(body), known) else None,
    )
    # Some show the headers of their request in their repr alone.
    if not any(_holds(f"{each} {each!r}", known) for each in _chain(error)):
        ours.__cause__ = error.with_traceback(None)
    return ours


def _class(error: Exception, status: int | None) -> type[ProviderError]:
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & _UNREACHABLE:
        return ConnectionFailedError
    if "JSONDecodeError" in names:
        return ServerError  # what came is no answer
    if status is not None:
        return failures.error_class(status)
    # Refused by the library before anything was sent.
    return BadRequestError if isinstance(error, (ValueError, TypeError)) else ProviderError


def _status(error: Exception) -> int | None:
    for holder in (error, getattr(error, "response", None)):
        for name in ("status_code", "status"):
            value = getattr(holder, name, None)
            if isinstance(value, int) and 400 <= value < 600:
                return value
    return None


def _headers(error: Exception) -> Mapping[str, str]:
    """Return the headers that say when to come back, under the names that are asked for."""
    response = getattr(error, "response", None)
    given = [
        getattr(response, "headers", None),
        getattr(error, "headers", None),
        getattr(error, "litellm_response_headers", None),
    ]
    named = [
        (str(name).lower(), str(value)) for each in given for name, value in getattr(each, "items", tuple)()
    ]
    return {"Retry-After" if name == "retry-after" else name: value for name, value in named}


def _chain(error: BaseException | None) -> Iterable[BaseException]:
    """Return all errors that a traceback of ``error`` would show."""
    seen: dict[int, BaseException] = {}
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen[id(each)] = each
            waiting += [each.__cause__, each.__context__]
    return seen.values()


def _holds(text: str, secrets: Iterable[str]) -> bool:
    return any(secret in text for secret in secrets)


def _without(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


# --- Secrets among settings --------------------------------------------------------------------


def is_secret(name: str) -> bool:
    """Return whether a setting of this name holds a secret; ``max_tokens`` does not."""
    lower = name.lower()
    return any(word in lower for word in _SECRET_NAMES) and not lower.startswith("max")


def secrets_in(settings: Any) -> list[Secret]:
    """Return the texts under secret names in ``settings``, however deep."""
    if isinstance(settings, (list, tuple)):
        return [secret for item in settings for secret in secrets_in(item)]
    if not hasattr(settings, "items"):
        return []
    found = []
    for name, value in settings.items():
        if isinstance(value, str):
            found += [Secret(value)] if value and is_secret(str(name)) else []
        else:
            found += secrets_in(value)
    return found


def without_secrets(settings: T) -> T:
    """Return ``settings`` without what stands under secret names, or before an ``@`` in addresses."""
    shown: Any = settings
    if isinstance(settings, (list, tuple)):
        shown = [without_secrets(item) for item in settings]
    elif isinstance(settings, dict):
        shown = {name: without_secrets(value) for name, value in settings.items() if not is_secret(str(name))}
    elif isinstance(settings, str) and "://" in settings and "@" in settings:
        shown = public_url(settings)
    return cast("T", shown)


def endpoint_of(where: str, secrets: Iterable[Secret]) -> Endpoint:
    """Return where a library is sent: models with one address and one key share their provider's limits."""
    return Endpoint(where, secret_headers=tuple(("key", secret) for secret in secrets))


# --- A library behind the face of a client -----------------------------------------------------


class LibraryClient:
    """A library's async function behind the face of ``openai.AsyncOpenAI``.

    So a model that is asked through a library is a chat-completions model with this as its client.

    Args:
        where: Who is asked, for messages.
        secrets: Texts that no message may hold.
    """

    def __init__(self, where: str, secrets: Iterable[Secret] = ()) -> None:
        self.where = where
        self.secrets = list(secrets)
        self.chat = self.completions = self

    async def ask(self, request: dict[str, Any]) -> Any:
        """Hand a request to the library; return its answer, or the chunks of a streamed one."""
        raise NotImplementedError

    async def create(self, **request: Any) -> Any:
        """Ask for a chat completion.

        Raises:
            ProviderError: The library raised, now or in the middle of a stream.
        """
        answer = await self._guarded(self.ask(request))
        return _Chunks(self, answer) if request.get("stream") else answer

    async def _guarded(self, awaitable: Any) -> Any:
        try:
            return await awaitable
        except Exception as error:
            ours = self.failure(error)
        # Raised out here, it has no context: the library's errors may hold the key.
        raise ours

    def failure(self, error: Exception) -> AgentError:
        """Return what an error of the library means."""
        return failure(error, self.where, self.secrets)


class _Chunks:
    """The chunks of a streamed answer; closing them closes whatever the library has open for them."""

    def __init__(self, client: LibraryClient, chunks: Any) -> None:
        self._client = client
        self._chunks = chunks
        self._items: AsyncIterator[Any] = chunks.__aiter__()

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> Any:
        try:
            return await anext(self._items)
        except Exception as error:
            if isinstance(error, StopAsyncIteration):
                raise
            ours = self._client.failure(error)
        raise ours

    async def aclose(self) -> None:
        close: Callable[[], Any] | None
        for holder in (self._items, self._chunks):
            close = getattr(holder, "aclose", None)
            if close is not None:
                await close()
                return
