"""Anthropic's models over their own Messages API, without an SDK in between.

The format: https://docs.claude.com/en/api/messages
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from manyhands.errors import AuthenticationError
from manyhands.models import blocks, wire
from manyhands.models.cleaning import REMOVE_PARAMETER
from manyhands.models.endpoint import (
    Endpoint,
    Secret,
    Timeouts,
    environment_proxy,
    environment_ssl,
    joined_url,
    public_url,
)
from manyhands.models.remote import RemoteModel, json_request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from manyhands.messages import ChatMessage

DEFAULT_BASE = "https://api.anthropic.com"
VERSION = "2023-06-01"
# Replies are cut at this length unless told otherwise; the API wants a number, and refuses one that is
# more than the model can give.
_REPLY_TOKENS = 8192
_OLD_REPLY_TOKENS = 4096
_OLD = re.compile(r"claude-(?:2|instant|3-(?:opus|sonnet|haiku))")
_CHOICES = {"required": "any", "any": "any", "auto": "auto", "none": "none"}
_tools = wire.ToolEncoder(blocks.tool_definition)


class AnthropicModel(RemoteModel):
    """A model of Anthropic.

    Thoughts come as ``reasoning_content``; signed as they are, they are kept with the reply and sent back.

    Args:
        model_id: Name of the model; ``anthropic/`` before it is left out.
        api_base: Address of the server; ``ANTHROPIC_BASE_URL``, else Anthropic's own.
        api_key: Key; ``ANTHROPIC_API_KEY`` if not given.
        custom_role_conversions: Roles by other names.
        flatten_messages_as_text: Send text only: no images, no tool messages.
        cache: Mark system prompt, tools and the last message for the provider's prompt cache, so that
            each step of an agent reads the steps before it at a tenth of the price; ``"1h"`` keeps them
            for an hour instead of five minutes.
        betas: Beta features to switch on.
        auth_token: A bearer token instead of a key; ``ANTHROPIC_AUTH_TOKEN``.
        client: An object like ``anthropic.AsyncAnthropic`` to ask instead; may be set later too.
        timeout: Seconds for the whole call, or :class:`~manyhands.models.endpoint.Timeouts`.
        extra_headers: More headers of every request.
        extra_body: More fields of every request; they win over all others.
        **kwargs: Sent along with every request, as ``thinking`` or ``max_tokens``; they win over the
            arguments of a call.
    """

    _door = "messages.create"
    _stop_field = "stop_sequences"
    _lacking = "there is no content"

    def __init__(
        self,
        model_id: str,
        api_base: str | None = None,
        api_key: str | None = None,
        custom_role_conversions: Mapping[Any, Any] | None = None,
        flatten_messages_as_text: bool = False,
        *,
        cache: bool | str = False,
        betas: Sequence[str] = (),
        auth_token: str | None = None,
        client: Any = None,
        timeout: Timeouts | float | Mapping[str, float | None] | None = None,
        extra_headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            model_id,
            custom_role_conversions,
            flatten_messages_as_text,
            client=client,
            extra_headers=extra_headers,
            extra_body=extra_body,
            **kwargs,
        )
        self.api_base = api_base
        self.cache = cache
        self.betas = tuple(betas)
        self.timeout = timeout
        self._key = Secret(api_key) if api_key else None
        self._token = Secret(auth_token) if auth_token else None
        self._encoder = blocks.block_encoder(flatten_messages_as_text, custom_role_conversions)
        self.native_tool_messages = self._encoder.native_tools

    def endpoint(self) -> Endpoint:
        """Return where this model is asked.

        Raises:
            AuthenticationError: There is neither key nor token.
        """
        base = str(self.api_base or os.environ.get("ANTHROPIC_BASE_URL") or DEFAULT_BASE)
        url = joined_url(base.rstrip("/").removesuffix("/v1"), "/v1/messages")
        name, secret = self._credential(url)
        given = {"anthropic-version": VERSION}
        if self.betas:
            given["anthropic-beta"] = ",".join(self.betas)
        headers = {name: secret} if secret else {}
        headers.update({key: Secret(str(value)) for key, value in self.extra_headers.items()})
        shown = secret.reveal().removeprefix("Bearer ") if secret else ""
        return Endpoint(
            url=url,
            headers=tuple(given.items()),
            secret_headers=tuple(headers.items()),
            key=Secret(shown) if shown else None,
            timeouts=Timeouts.of(self.timeout),
            ssl=environment_ssl(url),
            proxy=environment_proxy(url),
        )

    def _credential(self, url: str) -> tuple[str, Secret | None]:
        if self._key is None and self._token is None:
            key, token = os.environ.get("ANTHROPIC_API_KEY"), os.environ.get("ANTHROPIC_AUTH_TOKEN")
        else:
            key = self._key.reveal() if self._key else None
            token = self._token.reveal() if self._token else None
        if key:
            return "x-api-key", Secret(key)
        if token:
            return "Authorization", Secret(f"Bearer {token}")
        if url.startswith(DEFAULT_BASE):
            raise AuthenticationError(
                f"{self.model_id} needs a key for {DEFAULT_BASE}: set the environment variable "
                "ANTHROPIC_API_KEY, or pass api_key=. For another server pass api_base=."
            )
        return "", None

    # --- The request ---

    @property
    def _sent_name(self) -> str | None:
        return (self.model_id or "").removeprefix("anthropic/")

    def _specific(
        self, stop_sequences: list[str] | None, response_format: Any, tools: list[Any] | None
    ) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if response_format is not None:
            options["response_format"] = response_format
        if tools:
            options["tool_choice"] = "default"
        return options

    def _sendable_stops(self, stop_sequences: list[str]) -> list[str]:
        return [stop for stop in stop_sequences if stop.strip()]  # blank ones are refused

    def _settle(self, options: dict[str, Any], tools: list[Any] | None) -> None:
        for theirs, ours in (("stop", "stop_sequences"), ("max_completion_tokens", "max_tokens")):
            if theirs in options:
                options[ours] = options.pop(theirs)
        thinking = options.get("thinking")
        thinks = isinstance(thinking, dict) and thinking.get("type") != "disabled"
        if "max_tokens" not in options:
            usual = _OLD_REPLY_TOKENS if _OLD.search(self.model_id or "") else _REPLY_TOKENS
            budget = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
            options["max_tokens"] = usual + (budget or 0)  # thoughts count
        _settle_format(options)
        # A model that thinks first cannot be made to call a tool.
        _settle_choice(options, bool(tools or options.get("tools")), "auto" if thinks else "any")

    def _body(
        self, options: dict[str, Any], tools: list[Any] | None, messages: list[ChatMessage], on_loop: bool
    ) -> list[bytes]:
        system, turns = self._encoder.encode(messages, on_loop=on_loop)
        given = _tools.encode(tools) if tools else b""
        mark = self._cache_mark()
        if mark:
            given = _marked(given[:-1], mark) + b"]" if given else given
            if system:
                system[-1] = _marked(system[-1], mark)
            if turns:
                turns[-2] = _marked(turns[-2], mark)
        fields: list[tuple[bytes, list[bytes]]] = []
        # In the order in which the cache reads them.
        if given:
            fields.append((b"tools", [given]))
        if system and "system" not in options:
            fields.append((b"system", [b"[", *system, b"]"]))
        return json_request(options, [*fields, (b"messages", [b"[", *turns, b"]"])])

    def _cache_mark(self) -> bytes:
        if not self.cache:
            return b""
        lasting = b',"ttl":"%b"' % self.cache.encode() if isinstance(self.cache, str) else b""
        return b',"cache_control":{"type":"ephemeral"%b}}' % lasting

    # --- The reply ---

    def _read(self, answer: dict[str, Any]) -> ChatMessage | None:
        return blocks.reply_message(answer) if isinstance(answer.get("content"), list) else None

    def _reader(self, cut: list[str] | None) -> blocks.StreamedBlocks:
        return blocks.StreamedBlocks(cut)

    def to_dict(self) -> dict[str, Any]:
        """Return what describes the model, ready for JSON; keys, headers and clients stay out."""
        described = {
            "api_base": public_url(str(self.api_base)) if self.api_base else None,
            "cache": self.cache,
            "betas": list(self.betas),
        }
        return {**super().to_dict(), **{name: value for name, value in described.items() if value}}


def _settle_format(options: dict[str, Any]) -> None:
    """Write a response format as Anthropic wants it; of OpenAI's forms it knows the schema only."""
    given = options.pop("response_format", None)
    if given is None or given is REMOVE_PARAMETER:
        return
    wanted = wire.response_format(given)
    schema = (wanted.get("json_schema") or {}).get("schema") if isinstance(wanted, dict) else None
    if schema is not None:
        schema = closed(schema)
        config = options.get("output_config") or {}
        options["output_config"] = {"format": {"type": "json_schema", "schema": schema}, **config}


def closed(schema: Any) -> Any:
    """Return a JSON schema whose objects take no other properties: no others are let in."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: closed(value) for name, value in schema.items()}
    if inner.get("type") == "object" and isinstance(inner.get("properties"), dict):
        inner.setdefault("additionalProperties", False)
    return inner


def _settle_choice(options: dict[str, Any], has_tools: bool, usual: str) -> None:
    choice, parallel = options.pop("tool_choice", None), options.pop("parallel_tool_calls", None)
    if not has_tools:
        return
    if choice == "default":
        choice = usual
    elif isinstance(choice, str):
        choice = _CHOICES.get(choice, choice)
    if isinstance(choice, str):
        choice = {"type": choice}
    elif isinstance(choice, dict) and choice.get("type") == "function":
        choice = {"type": "tool", "name": choice["function"]["name"]}
    if parallel is False and choice is not REMOVE_PARAMETER:
        choice = {**(choice or {"type": "auto"}), "disable_parallel_tool_use": True}
    if choice is not None:
        options["tool_choice"] = choice


def _marked(block: bytes, mark: bytes) -> bytes:
    """Return blocks with the mark at the last of them, unless its author has marked it."""
    return block if block.endswith(mark) or b'"cache_control":' in block else block[:-1] + mark
