"""OpenAI's models at Azure, with a key or with tokens of Microsoft Entra.

The service: https://learn.microsoft.com/azure/ai-foundry/openai/reference
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from manyhands._bridge import call_user
from manyhands.errors import AuthenticationError, BadRequestError
from manyhands.models.endpoint import (
    Endpoint,
    Secret,
    Timeouts,
    environment_proxy,
    environment_ssl,
    joined_url,
    public_url,
)
from manyhands.models.openai import OpenAIModel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from manyhands.messages import ChatMessage
    from manyhands.models.remote import Request

_OWN_KWARGS = (
    "azure_endpoint",
    "api_version",
    "azure_deployment",
    "azure_ad_token",
    "azure_ad_token_provider",
)


class AzureOpenAIModel(OpenAIModel):
    """A model of OpenAI that is deployed at Azure.

    There are two ways to ask one. The newer has no versions: it is used when none is given. An
    ``api_version`` that is a date means the older one, with the deployment in the address.

    Args:
        model_id: Name of the deployment.
        azure_endpoint: Address of the resource, as ``https://NAME.openai.azure.com``;
            ``AZURE_OPENAI_ENDPOINT`` if not given.
        api_key: Key, or a function that returns a token (see ``token_provider``);
            ``AZURE_OPENAI_API_KEY`` if not given.
        api_version: A date as in ``"2024-10-21"``, or ``"preview"``; ``OPENAI_API_VERSION`` if not given,
            ``"v1"`` for none whatever the environment says.
        client_kwargs: Settings under the names of OpenAI's own client.
        custom_role_conversions: Roles by the names that the server wants for them.
        flatten_messages_as_text: Send text only: no images, no tool messages.
        token_provider: A sync or async function that returns a token of Microsoft Entra; called before
            each request, so it should keep its token while that is good. A sync one runs on a thread.
        **kwargs: As for :class:`~manyhands.models.openai.OpenAIModel`.
    """

    def __init__(
        self,
        model_id: str,
        azure_endpoint: str | None = None,
        api_key: str | Callable[[], Any] | None = None,
        api_version: str | None = None,
        client_kwargs: Mapping[str, Any] | None = None,
        custom_role_conversions: Mapping[Any, Any] | None = None,
        flatten_messages_as_text: bool = False,
        *,
        token_provider: Callable[[], Any] | None = None,
        **kwargs: Any,
    ) -> None:
        settings = dict(client_kwargs or {})
        own = {name: settings.pop(name, None) for name in _OWN_KWARGS}
        if callable(api_key):
            token_provider, api_key = api_key, None
        self.azure_endpoint = azure_endpoint or own["azure_endpoint"] or kwargs.pop("api_base", None)
        self.api_version = api_version or own["api_version"]
        self.token_provider = token_provider or own["azure_ad_token_provider"]
        self._token = Secret(own["azure_ad_token"]) if own["azure_ad_token"] else None
        self._deployment = own["azure_deployment"]
        super().__init__(
            model_id,
            # Given so that no provider is looked for in the deployment's name.
            self.azure_endpoint or "azure",
            api_key,
            client_kwargs=settings,
            custom_role_conversions=custom_role_conversions,
            flatten_messages_as_text=flatten_messages_as_text,
            **kwargs,
        )

    def endpoint(self) -> Endpoint:
        """Return where this model is asked.

        Raises:
            AuthenticationError: There is neither key nor token.
            BadRequestError: There is no address.
        """
        url, credential = self._url(), self._credential()
        return Endpoint(
            url=url,
            headers=self._billing(),
            secret_headers=(*((credential,) if credential else ()), *self._secret_headers(None)),
            key=Secret(credential[1].reveal().removeprefix("Bearer ")) if credential else None,
            timeouts=Timeouts.of(self.timeout),
            ssl=self._settings.get("ssl", environment_ssl(url)),
            proxy=self._settings.get("proxy") or environment_proxy(url),
        )

    def _url(self) -> str:
        base = self.azure_endpoint or os.environ.get("AZURE_OPENAI_ENDPOINT")
        if not base:
            raise BadRequestError(
                f"{self.model_id} needs the address of its Azure resource: set the environment variable "
                "AZURE_OPENAI_ENDPOINT, or pass azure_endpoint=."
            )
        version = self.api_version or os.environ.get("OPENAI_API_VERSION") or "v1"
        query = dict(self._settings.get("default_query") or {})
        root = base.split("/openai/", 1)[0].rstrip("/").removesuffix("/openai")
        if version[:1].isdigit() and not urlsplit(base).path.rstrip("/").endswith("/v1"):
            name = quote(self._deployment or self.model_id or "", safe="")
            query["api-version"] = version
            return joined_url(f"{root}/openai/deployments/{name}", self._path, query)
        if version == "preview":
            query["api-version"] = version
        return joined_url(f"{root}/openai/v1", self._path, query)

    def _credential(self) -> tuple[str, Secret] | None:
        """Return the header for key or fixed token, ``None`` where tokens are provided."""
        if self.token_provider is not None:
            return None
        key, token = os.environ.get("AZURE_OPENAI_API_KEY"), os.environ.get("AZURE_OPENAI_AD_TOKEN")
        if self._key or self._token or key or token:
            if self._key or (key and not self._token):
                return "api-key", self._key or Secret(key or "")
            return "Authorization", Secret(f"Bearer {self._token.reveal() if self._token else token}")
        raise AuthenticationError(
            f"{self.model_id} needs a key for Azure: set the environment variable "
            "AZURE_OPENAI_API_KEY, or pass api_key= or token_provider=."
        )

    @property
    def _sent_name(self) -> str | None:
        return self._deployment or self.model_id

    async def _request(self, messages: list[ChatMessage], *args: Any) -> Request:
        request = await super()._request(messages, *args)
        if self.token_provider is None or self.client is not None:
            return request
        token = await call_user(self.token_provider)
        (await self._connected()).secret = token  # struck out where the server repeats it
        return request._replace(headers={"Authorization": f"Bearer {token}", **(request.headers or {})})

    def to_dict(self) -> dict[str, Any]:
        """Return what describes the model, ready for JSON; keys, headers and clients stay out."""
        whole = super().to_dict()
        whole.pop("api_base", None)
        base = public_url(self.azure_endpoint) if self.azure_endpoint else None
        described = {"azure_endpoint": base, "api_version": self.api_version}
        return {**whole, **{name: value for name, value in described.items() if value}}


AzureOpenAIServerModel = AzureOpenAIModel
