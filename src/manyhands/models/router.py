"""Several deployments of a model behind litellm's Router: load balancing and fallbacks are its affair."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from manyhands.errors import AgentError, CallerError, RateLimitError
from manyhands.models.chat import ChatCompletionsModel
from manyhands.models.libraries import LibraryClient, Once, endpoint_of, require, secrets_in, without_secrets
from manyhands.models.litellm import prepared_litellm, wants_plain_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from manyhands.models.endpoint import Endpoint


class LiteLLMRouterModel(ChatCompletionsModel):
    """A group of deployments behind litellm's Router.

    The Router asks again and falls back by its own settings, as given in ``client_kwargs``.

    Args:
        model_id: Name of the group in ``model_list`` to ask.
        model_list: The deployments, as the Router takes them.
        client_kwargs: More settings of the Router, such as ``routing_strategy`` and ``num_retries``.
        custom_role_conversions: Roles by the names that the providers want for them.
        flatten_messages_as_text: Send text only: no images, no tool messages.
        extra_headers: More headers of every request.
        extra_body: More fields of every request that litellm does not know.
        **kwargs: Arguments of ``Router.acompletion``; they win over the arguments of a call.

    Raises:
        CallerError: The list has no deployment named ``model_id``.
        MissingExtraError: litellm is not installed.
    """

    def __init__(
        self,
        model_id: str,
        model_list: list[dict[str, Any]],
        client_kwargs: Mapping[str, Any] | None = None,
        custom_role_conversions: Mapping[Any, Any] | None = None,
        flatten_messages_as_text: bool | None = None,
        *,
        extra_headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        require("LiteLLMRouterModel", "litellm", "litellm")
        names = [str(deployment.get("model_name")) for deployment in model_list]
        settings = dict(client_kwargs or {})
        if model_id not in names and model_id not in (settings.get("model_group_alias") or {}):
            raise CallerError(f"model_list has no deployment named {model_id!r}; its names are {names}.")
        flatten = wants_plain_text(model_id) if flatten_messages_as_text is None else flatten_messages_as_text
        secrets = secrets_in([model_list, settings, kwargs, extra_headers])
        super().__init__(
            model_id,
            custom_role_conversions,
            flatten,
            client=_Router(f"{model_id} (litellm Router)", secrets, model_list, settings),
            extra_headers=extra_headers,
            extra_body=extra_body,
            **kwargs,
        )
        self.model_list = model_list
        self._secrets = secrets
        self.client_kwargs = settings

    def endpoint(self) -> Endpoint:
        """Return where this model is asked, and with which key: that is what its provider counts by."""
        return endpoint_of("litellm Router", self._secrets)

    def to_dict(self) -> dict[str, Any]:
        """Return what describes the model, ready for JSON; keys and headers stay out."""
        described = {"model_list": self.model_list, "client_kwargs": self.client_kwargs or None}
        return without_secrets({**super().to_dict(), **{k: v for k, v in described.items() if v is not None}})


class _Router(LibraryClient):
    """The Router behind the face of a client; made at the first call, on a worker thread.

    Args:
        where: Who is asked.
        secrets: Texts that no message may hold.
        model_list: Its deployments.
        settings: Its settings.
    """

    def __init__(
        self, where: str, secrets: Any, model_list: list[dict[str, Any]], settings: dict[str, Any]
    ) -> None:
        super().__init__(where, secrets)
        self._model_list = model_list
        self._settings = settings
        # Deployments that fail are remembered in it: all calls have to share one.
        self._router = Once(self._make, "litellm")

    async def ask(self, request: dict[str, Any]) -> Any:
        """Hand a request to the Router."""
        await prepared_litellm()
        return await (await self._router.get()).acompletion(**request)

    def _make(self) -> Any:
        return import_module("litellm").Router(model_list=self._model_list, **self._settings)

    def failure(self, error: Exception) -> AgentError:
        """Return what an error of the Router means; "all are cooling down" is a ValueError there."""
        ours = super().failure(error)
        pause = getattr(error, "cooldown_time", None)
        if not isinstance(pause, (int, float)):
            return ours
        limited = RateLimitError(ours.message, status=429, retry_after=float(pause))
        limited.__cause__ = ours.__cause__
        return limited
