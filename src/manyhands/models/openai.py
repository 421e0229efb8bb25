"""OpenAI, and every server that speaks its chat-completions format, without an SDK in between."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from manyhands.errors import AuthenticationError
from manyhands.models.chat import ChatCompletionsModel
from manyhands.models.endpoint import (
    Endpoint,
    Secret,
    Timeouts,
    environment_proxy,
    environment_ssl,
    joined_url,
    public_url,
)
from manyhands.models.presets import Preset, preset_of

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_BASE = "https://api.openai.com/v1"
_CLIENT_KWARGS = frozenset(
    {
        "api_key",
        "base_url",
        "default_headers",
        "default_query",
        "max_retries",
        "organization",
        "project",
        "proxy",
        "ssl",
        "timeout",
    }
)


class OpenAIModel(ChatCompletionsModel):
    """A model of OpenAI, or of any server that speaks its chat-completions format.

    Args:
        model_id: Name of the model there. A provider before it (``"groq/llama-3.3-70b"``; see
            :mod:`manyhands.models.presets`) brings address, key and habits along, unless an address
            or a client is given: then the name is sent as it is.
        api_base: Address of the server; the provider's if ``model_id`` names one, else
            ``OPENAI_BASE_URL``, else OpenAI's own.
        api_key: Key; if not given, that in the provider's environment variable, which is
            ``OPENAI_API_KEY`` for OpenAI and for addresses of one's own.
        organization: OpenAI organization to bill.
        project: OpenAI project to bill.
        client_kwargs: Settings under the names of OpenAI's own client: ``timeout``,
            ``default_headers``, ``default_query``; also ``proxy`` and ``ssl``.
        custom_role_conversions: Roles by the names that the server wants for them.
        flatten_messages_as_text: Send text only: no images, no tool messages.
        client: An object like ``openai.AsyncOpenAI`` to ask instead; may be set later too.
        timeout: Seconds for the whole call, or :class:`Timeouts`.
        extra_headers: More headers of every request.
        extra_body: More fields of every request; they win over all others.
        send_reasoning: The field in which the provider wants to see again the reasoning that led to a
            tool call: ``"reasoning_content"``, ``"reasoning"`` or ``"reasoning_details"``; known for the
            providers above.
        strip_thinking: Take a ``<think>`` block at the beginning of a reply for reasoning, not for text.
        **kwargs: Sent along with every request; they win over the arguments of a call.
    """

    _path = "/chat/completions"

    def __init__(
        self,
        model_id: str,
        api_base: str | None = None,
        api_key: str | None = None,
        organization: str | None = None,
        project: str | None = None,
        client_kwargs: Mapping[str, Any] | None = None,
        custom_role_conversions: Mapping[Any, Any] | None = None,
        flatten_messages_as_text: bool = False,
        *,
        client: Any = None,
        timeout: Timeouts | float | Mapping[str, float | None] | None = None,
        extra_headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        send_reasoning: str | None = None,
        strip_thinking: bool = False,
        **kwargs: Any,
    ) -> None:
        settings = dict(client_kwargs or {})
        addressed = api_base or settings.get("base_url") or client is not None
        self._preset, self._short_name = (None, model_id) if addressed else preset_of(model_id)
        super().__init__(
            model_id,
            custom_role_conversions,
            flatten_messages_as_text,
            client=client,
            extra_headers=extra_headers,
            extra_body=extra_body,
            send_reasoning=send_reasoning or (self._preset.send_reasoning if self._preset else None),
            strip_thinking=strip_thinking,
            **kwargs,
        )
        if self._preset is not None:
            self._follow(self._preset)
        if unknown := settings.keys() - _CLIENT_KWARGS:
            raise TypeError(
                f"client_kwargs holds {sorted(unknown)}, which has no meaning here; known are "
                f"{sorted(_CLIENT_KWARGS)}. To ask through an object of your own, pass it as client=."
            )
        key = api_key or settings.pop("api_key", None)
        self._key = Secret(key) if key else None
        self.api_base = api_base or settings.pop("base_url", None)
        self.organization = organization or settings.pop("organization", None)
        self.project = project or settings.pop("project", None)
        self.timeout = timeout if timeout is not None else settings.pop("timeout", None)
        self._settings = settings

    def _follow(self, preset: Preset) -> None:
        """Take on the habits of a provider."""
        self._tool_choice = preset.tool_choice
        if not preset.stream_options:
            self._streaming = {"stream": True}

    @property
    def _sent_name(self) -> str | None:
        return self._short_name if self._preset is not None and self.client is None else self.model_id

    def endpoint(self) -> Endpoint:
        """Return where this model is asked.

        Raises:
            AuthenticationError: OpenAI, or another provider known to want a key, is to be asked, and
                there is none.
        """
        url = joined_url(self._base(), self._path, self._settings.get("default_query"))
        key = self._key or self._environment_key(url)
        return Endpoint(
            url=url,
            headers=self._billing(),
            secret_headers=self._secret_headers(key),
            key=key,
            timeouts=Timeouts.of(self.timeout),
            ssl=self._settings.get("ssl", environment_ssl(url)),
            proxy=self._settings.get("proxy") or environment_proxy(url),
        )

    def _base(self) -> str:
        if self._preset is not None:
            return self._preset.url()
        return str(self.api_base or os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE)

    def _environment_key(self, url: str) -> Secret | None:
        preset = self._preset
        key = os.environ.get("OPENAI_API_KEY") if preset is None else preset.key()
        if key:
            return Secret(key)
        needed = "OPENAI_API_KEY" if url.startswith(DEFAULT_BASE) else None
        # A server of one's own takes a key, but asks for none.
        if preset is not None and preset.keys and preset.address is None:
            needed = preset.keys[0]
        if needed:
            raise AuthenticationError(
                f"{self.model_id} needs a key for {public_url(url)}: set the environment variable "
                f"{needed}, or pass api_key=. For another server pass api_base=."
            )
        return None

    def _billing(self) -> tuple[tuple[str, str], ...]:
        named = (("OpenAI-Organization", self.organization), ("OpenAI-Project", self.project))
        return tuple((name, value) for name, value in named if value)

    def _secret_headers(self, key: Secret | None) -> tuple[tuple[str, Secret], ...]:
        headers = {"Authorization": Secret(f"Bearer {key.reveal()}")} if key else {}
        for given in (self._settings.get("default_headers"), self.extra_headers):
            headers.update({name: Secret(str(value)) for name, value in (given or {}).items()})
        return tuple(headers.items())

    def to_dict(self) -> dict[str, Any]:
        """Return what describes the model, ready for JSON; keys, headers and clients stay out."""
        base = public_url(str(self.api_base)) if self.api_base else None
        described: dict[str, Any] = {
            "api_base": base,
            "organization": self.organization,
            "project": self.project,
        }
        whole = {**super().to_dict(), **{name: value for name, value in described.items() if value}}
        if self._preset is not None and self.send_reasoning == self._preset.send_reasoning:
            whole.pop("send_reasoning", None)
        return whole


OpenAIServerModel = OpenAIModel
