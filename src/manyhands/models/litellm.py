"""Any provider that the litellm library knows, through its async functions."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from manyhands._bridge import PerLoop
from manyhands.errors import CallerError
from manyhands.models.chat import ChatCompletionsModel
from manyhands.models.endpoint import Secret, public_url
from manyhands.models.libraries import (
    LibraryClient,
    Once,
    endpoint_of,
    require,
    secrets_in,
    without_secrets,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from manyhands.models.endpoint import Endpoint

# Of these, litellm's own translation of message parts fails or is refused.
_TEXT_ONLY = ("ollama", "groq", "cerebras")


def wants_plain_text(model_id: str) -> bool:
    """Return whether messages to this model go as plain text unless the caller says otherwise."""
    return model_id.startswith(_TEXT_ONLY)


class LiteLLMModel(ChatCompletionsModel):
    """A model of any provider that litellm knows.

    Args:
        model_id: Provider and name, as in ``"anthropic/claude-sonnet-4-5"``.
        api_base: Address of the provider, where it is not the usual one.
        api_key: Key; if not given, litellm takes it from the provider's environment variable.
        custom_role_conversions: Roles by the names that the provider wants for them.
        flatten_messages_as_text: Send text only: no images, no tool messages. If not given, for
            models of Ollama, Groq and Cerebras.
        extra_headers: More headers of every request.
        extra_body: More fields of every request that litellm does not know.
        **kwargs: Arguments of ``litellm.acompletion``; they win over the arguments of a call.

    Raises:
        CallerError: There is no ``model_id``.
        MissingExtraError: litellm is not installed.
    """

    def __init__(
        self,
        model_id: str | None = None,
        api_base: str | None = None,
        api_key: str | None = None,
        custom_role_conversions: Mapping[Any, Any] | None = None,
        flatten_messages_as_text: bool | None = None,
        *,
        extra_headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        require("LiteLLMModel", "litellm", "litellm")
        if not model_id:
            raise CallerError("LiteLLMModel needs a model_id with its provider, such as 'openai/gpt-5-mini'.")
        flatten = wants_plain_text(model_id) if flatten_messages_as_text is None else flatten_messages_as_text
        given = {"api_base": api_base, "api_key": Secret(api_key) if api_key else None}
        secrets = [*secrets_in({"key": api_key}), *secrets_in(kwargs), *secrets_in(extra_headers)]
        super().__init__(
            model_id,
            custom_role_conversions,
            flatten,
            client=_LiteLLM(f"{model_id} (litellm)", secrets, given),
            extra_headers=extra_headers,
            extra_body=extra_body,
            **kwargs,
        )
        self.api_base = api_base
        self._secrets = secrets

    def endpoint(self) -> Endpoint:
        """Return where this model is asked, and with which key: that is what its provider counts by."""
        return endpoint_of(self.api_base or f"litellm:{str(self.model_id).partition('/')[0]}", self._secrets)

    def to_dict(self) -> dict[str, Any]:
        """Return what describes the model, ready for JSON; keys and headers stay out."""
        described = without_secrets(super().to_dict())
        return {**described, **({"api_base": public_url(self.api_base)} if self.api_base else {})}


class _LiteLLM(LibraryClient):
    """litellm behind the face of a client.

    Args:
        where: Who is asked.
        secrets: Texts that no message may hold.
        settings: Arguments of each of its calls; secrets in them are revealed to it alone.
    """

    def __init__(self, where: str, secrets: list[Secret], settings: Mapping[str, Any]) -> None:
        super().__init__(where, secrets)
        self._settings = {name: value for name, value in settings.items() if value is not None}

    async def ask(self, request: dict[str, Any]) -> Any:
        """Hand a request to ``litellm.acompletion``."""
        litellm = await prepared_litellm()
        settings = {
            name: value.reveal() if isinstance(value, Secret) else value
            for name, value in self._settings.items()
        }
        # Its clients would ask twice more, silently, while they hold a place among our limits.
        return await litellm.acompletion(**{"max_retries": 0, **settings, **request})


class _Connections:
    """The connections that litellm opens on one loop.

    litellm keeps its clients for an hour, by the number of the loop that they belong to. A later loop
    may have the same number, and would be given a client whose connections died with the first one.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()

    async def aclose(self) -> None:
        """Close them, and let litellm forget them."""
        litellm = import_module("litellm")
        kept: dict[str, Any] = getattr(litellm.in_memory_llm_clients_cache, "cache_dict", {})
        for name in [name for name in kept if name.endswith(f"-{id(self.loop)}")]:
            client = kept.pop(name)
            close = getattr(client, "aclose", None) or getattr(client, "close", None)
            if close is not None:
                with suppress(Exception):  # what was half open or closed already
                    closing = close()
                    if asyncio.iscoroutine(closing):
                        await closing


_connections: PerLoop[_Connections] = PerLoop(_Connections, _Connections.aclose)


async def prepared_litellm() -> Any:
    """Return litellm, imported, with its connections on this loop in our care."""
    litellm = await _library.get()
    await _connections.get()
    return litellm


def _imported() -> Any:
    talks = "litellm" not in sys.modules
    litellm: Any = import_module("litellm")
    if talks:
        litellm.suppress_debug_info = True  # else it prints advice with every error
    # What it would import and read at the first call, when it holds up the loop: a third of a second.
    _ = litellm.acompletion
    with suppress(Exception):
        import_module("openai.resources")
        import_module("litellm.llms.custom_httpx.http_handler").get_ssl_configuration()
        litellm.token_counter(model="", text="words")
    return litellm


_library: Once[Any] = Once(_imported, "import")
