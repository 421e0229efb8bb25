"""Hugging Face's inference providers, or an endpoint of one's own, through ``AsyncInferenceClient``.

The library's async client does three things on the event loop that block it: it reads certificates when
it opens its first connection, looks for a token on disk, and asks the Hub, without async, which name a
model has at its provider. All three are done ahead of it here, once, on a worker thread. It also keeps a
stream's connection open until the client itself is closed; here each call has a face of the client of
its own, which is closed with the call.
"""

from __future__ import annotations

import copy
import dataclasses
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from manyhands._bridge import PerLoop, workers
from manyhands.errors import (
    AuthenticationError,
    CallerError,
    ConnectionFailedError,
    ProviderError,
    ServerError,
)
from manyhands.models.chat import ChatCompletionsModel
from manyhands.models.endpoint import Secret, public_url
from manyhands.models.libraries import LibraryClient, Once, endpoint_of, require, secrets_in, without_secrets

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

    from manyhands.errors import AgentError
    from manyhands.models.endpoint import Endpoint

# A connection pool of the library's client holds this many; more calls would stand in line inside it,
# with their time running.
_CALLS_PER_CLIENT = 100
_FIELDS = frozenset(
    {
        "messages", "model", "stream", "stream_options", "frequency_penalty", "logit_bias", "logprobs",
        "max_tokens", "n", "presence_penalty", "response_format", "seed", "stop", "temperature",
        "tool_choice", "tool_prompt", "tools", "top_logprobs", "top_p",
    }
)  # fmt: skip


class InferenceClientModel(ChatCompletionsModel):
    """A model at one of Hugging Face's inference providers, or at an endpoint of your own.

    Args:
        model_id: Name of the model on the Hub, or the address of an endpoint.
        provider: Provider to ask; the fastest one, unless told otherwise.
        token: Token; ``HF_TOKEN`` or the one kept by ``hf auth login`` if not given.
        timeout: Seconds that a server may stay silent.
        client_kwargs: More arguments of ``AsyncInferenceClient``, such as ``headers``.
        custom_role_conversions: Roles by the names that the provider wants for them.
        api_key: Another name for ``token``; give one of them.
        bill_to: Organization to bill.
        base_url: Address of an endpoint of your own; ``provider`` is not used then.
        flatten_messages_as_text: Send text only: no images, no tool messages.
        client: An ``AsyncInferenceClient``, or an object like it, to ask instead.
        extra_headers: More headers of every request.
        extra_body: More fields of every request; they win over all others.
        **kwargs: Sent along with every request; they win over the arguments of a call.

    Raises:
        CallerError: Both ``token`` and ``api_key`` are given.
        MissingExtraError: huggingface_hub is not installed.
    """

    def __init__(
        self,
        model_id: str = "Qwen/Qwen3-Next-80B-A3B-Thinking",
        provider: str | None = None,
        token: str | None = None,
        timeout: float | None = 120,
        client_kwargs: Mapping[str, Any] | None = None,
        custom_role_conversions: Mapping[Any, Any] | None = None,
        api_key: str | None = None,
        bill_to: str | None = None,
        base_url: str | None = None,
        flatten_messages_as_text: bool = False,
        *,
        client: Any = None,
        extra_headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if client is None:
            require("InferenceClientModel", "huggingface", "huggingface_hub")
        if token is not None and api_key is not None:
            raise CallerError("token and api_key are two names for the same thing; give one of them.")
        settings = dict(client_kwargs or {})
        given = token or api_key or settings.pop("token", None) or settings.pop("api_key", None)
        headers = {**settings.pop("headers", {}), **(extra_headers or {})}
        chosen = {"provider": provider, "timeout": timeout, "bill_to": bill_to, "base_url": base_url}
        settings |= {name: value for name, value in chosen.items() if value is not None}
        secrets = [*secrets_in({"key": given}), *secrets_in([settings, kwargs, headers])]
        if client is None or _is_hub_client(client):
            where = f"{model_id} ({public_url(base_url) if base_url else provider or 'Hugging Face'})"
            client = _Hub(where, secrets, model_id, given, {**settings, "headers": headers}, client)
        super().__init__(
            model_id,
            custom_role_conversions,
            flatten_messages_as_text,
            client=client,
            extra_body=extra_body,
            **kwargs,
        )
        self.provider = provider
        self.timeout = timeout
        self.bill_to = bill_to
        self.base_url = base_url
        self._secrets = secrets

    async def aclose(self) -> None:
        """Release the connections held on the running loop."""
        if isinstance(self.client, _Hub):
            await self.client.aclose()

    def endpoint(self) -> Endpoint:
        """Return where this model is asked, and with which key: that is what its provider counts by."""
        return endpoint_of(self.base_url or f"huggingface:{self.provider}", self._secrets)

    def to_dict(self) -> dict[str, Any]:
        """Return what describes the model, ready for JSON; token and headers stay out."""
        described = {
            "provider": self.provider,
            "timeout": self.timeout,
            "bill_to": self.bill_to,
            "base_url": public_url(self.base_url) if self.base_url else None,
        }
        described = {name: value for name, value in described.items() if value is not None}
        return without_secrets({**super().to_dict(), **described})


def _is_hub_client(client: Any) -> bool:
    return any(kind.__name__ == "AsyncInferenceClient" for kind in type(client).__mro__)


class _Hub(LibraryClient):
    """The library's client behind the face of OpenAI's.

    Args:
        where: Who is asked.
        secrets: Texts that no message may hold.
        model_id: The model.
        token: The token, ``None`` to look for one.
        settings: Arguments of ``AsyncInferenceClient``.
        client: A client of the user's to ask instead of our own.
    """

    def __init__(
        self,
        where: str,
        secrets: list[Secret],
        model_id: str,
        token: str | None,
        settings: dict[str, Any],
        client: Any,
    ) -> None:
        super().__init__(where, secrets)
        self._model_id = model_id
        self._token = Secret(token) if token else None
        self._settings = settings
        self._client = client
        self._known = Once(self._look_up, "import")
        self._clients: PerLoop[_Clients] = PerLoop(_Clients, _Clients.aclose)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_clients": None}  # copies connect anew

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._clients = PerLoop(_Clients, _Clients.aclose)

    async def ask(self, request: dict[str, Any]) -> Any:
        """Hand a request to ``AsyncInferenceClient.chat_completion``."""
        own = {"headers": request.pop("extra_headers", {}), "timeout": request.pop("timeout", None)}
        known = {name: value for name, value in request.items() if name in _FIELDS}
        more = {name: value for name, value in request.items() if name not in _FIELDS | {"extra_body"}}
        known["extra_body"] = {**more, **request.get("extra_body", {})} or None
        if known.get("stream"):
            return self._stream(known, own)
        async with self._borrowed(**own) as client:
            return _plain(await client.chat_completion(**known))

    async def _stream(
        self, request: dict[str, Any], own: dict[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        finished = False
        async with self._borrowed(**own) as client:
            async for chunk in await client.chat_completion(**request):
                plain = _plain(chunk)
                choices = plain.get("choices") or ()
                finished = finished or any(choice.get("finish_reason") for choice in choices)
                yield plain
        if not finished:
            raise ConnectionFailedError(f"{self.where}: the stream ended before the reply was complete.")

    def failure(self, error: Exception) -> AgentError:
        """Return what an error of the library means; it takes an answer that it cannot read for our fault."""
        ours = super().failure(error)
        if isinstance(error, ValueError) and str(error).startswith("Invalid input data for"):
            return ServerError(f"{self.where} answered without a reply.", status=200)
        if type(ours) is ProviderError and ours.status is None:
            # An error object in a stream: the library has no better class for it.
            return ServerError(ours.message, body=ours.body)
        return ours

    @asynccontextmanager
    async def _borrowed(self, headers: dict[str, str], timeout: float | None) -> AsyncIterator[Any]:  # noqa: ASYNC109
        """Give a face of a client whose open streams end with the block."""
        settings = await self._known.get()
        async with AsyncExitStack() as open_streams:
            if self._client is not None:
                client = await _opened(self._client)
            else:
                clients = await self._clients.get()
                client = await open_streams.enter_async_context(clients.free(settings))
            face = copy.copy(client)
            face.exit_stack = open_streams
            face.headers = {**face.headers, **headers}
            face.timeout = face.timeout if timeout is None else timeout
            yield face

    def _look_up(self) -> dict[str, Any]:
        """Return the arguments of a client; what it would look up on the loop is looked up now."""
        if self._client is not None:
            given = self._client
            _look_up_provider(given.provider, given.model or self._model_id, given.token)
            return {}
        token = self._token.reveal() if self._token else import_module("huggingface_hub").get_token()
        own = self._settings.get("base_url") or ("://" in self._model_id and self._model_id)
        if not token and not own:
            raise AuthenticationError(
                f"{self.where} needs a token: set the environment variable HF_TOKEN, pass token=, or log in "
                "once with `hf auth login`."
            )
        if token and not self._token:
            self.secrets.append(Secret(token))
        # An endpoint of one's own may do without; only a given token keeps the library from looking for one.
        settings = {**self._settings, "token": token or "none"}
        _look_up_provider(settings.get("provider"), own or self._model_id, settings["token"])
        return settings

    async def aclose(self) -> None:
        """Release the connections held on the running loop."""
        await self._clients.aclose()


def _look_up_provider(provider: str | None, model_id: str, token: str | None) -> None:
    """Let the library prepare a request, for which it asks the Hub for the name that a model has at its
    provider, and looks at what is installed; it remembers the answers.
    """
    try:
        providers = import_module("huggingface_hub.inference._providers")
        prepare = providers.get_provider_helper(
            provider, task="conversational", model=model_id
        ).prepare_request
    except (ImportError, AttributeError):
        return  # it has moved: then the library asks by itself
    prepare(inputs=[], parameters={"model": model_id}, headers={}, model=model_id, api_key=token)


class _Clients:
    """The library's clients on one loop: one more for every hundred calls at once."""

    def __init__(self) -> None:
        self._slots: list[_Slot] = []

    @asynccontextmanager
    async def free(self, settings: dict[str, Any]) -> AsyncIterator[Any]:
        """Give a client with a connection to spare."""
        slot = next((slot for slot in self._slots if slot.calls < _CALLS_PER_CLIENT), None)
        if slot is None:
            slot = _Slot(settings)
            self._slots.append(slot)
        slot.calls += 1
        try:
            yield await _opened(slot.client)
        finally:
            slot.calls -= 1

    async def aclose(self) -> None:
        slots, self._slots = self._slots, []
        for slot in slots:
            await slot.client.close()


class _Slot:
    """A client and how many calls use it."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.client = import_module("huggingface_hub").AsyncInferenceClient(**settings)
        self.calls = 0


async def _opened(client: Any) -> Any:
    """Return a client with its connections; it would read all certificates on the loop to make them."""
    if client._async_client is None:
        session = await workers.run(import_module("huggingface_hub").get_async_session, label="connect")
        if client._async_client is None:
            client._async_client = session
            client.exit_stack.push_async_callback(session.aclose)
    return client


def _plain(value: Any) -> Any:
    """Return an answer as plain values, with the fields that the library has no name for."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(inner) for name, inner in vars(value).items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
