"""Models behind a chat-completions endpoint, whoever runs it.

The format: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyhands.models import wire
from manyhands.models.remote import RemoteModel, json_request
from manyhands.models.stopping import supports_stop_parameter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from manyhands.messages import ChatMessage
    from manyhands.models.remote import ReplyReader

# Fields that a provider refuses in a request without tools.
_ONLY_WITH_TOOLS = ("tool_choice", "parallel_tool_calls")
# OpenAI refuses more, and who takes more loses nothing: the reply is cut at the others here.
_MOST_STOPS = 4
_tools = wire.ToolEncoder()


class ChatCompletionsModel(RemoteModel):
    """Base of the models that speak OpenAI's chat-completions format.

    Args:
        model_id: Name of the model at its provider.
        custom_role_conversions: Roles by the names that the provider wants for them.
        flatten_messages_as_text: Send text only: no images, no tool messages.
        client: An object like ``openai.AsyncOpenAI`` to ask instead of our own connections; it may
            be set later too.
        extra_headers: More headers of every request.
        extra_body: More fields of every request; they win over all others.
        send_reasoning: The field in which the provider wants to see again the reasoning that led to a
            tool call: ``"reasoning_content"``, ``"reasoning"`` or ``"reasoning_details"``.
        strip_thinking: Take a ``<think>`` block at the beginning of a reply for reasoning, not for text.
        **kwargs: Sent along with every request; they win over the arguments of a call.
    """

    _door = "chat.completions.create"
    _streaming: Mapping[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    _stop_field = "stop"
    # What a request with tools asks for; None leaves it to the provider.
    _tool_choice: str | None = "required"

    def __init__(
        self,
        model_id: str,
        custom_role_conversions: Mapping[Any, Any] | None = None,
        flatten_messages_as_text: bool = False,
        *,
        client: Any = None,
        extra_headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        send_reasoning: str | None = None,
        strip_thinking: bool = False,
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
        self.send_reasoning = send_reasoning
        self.strip_thinking = strip_thinking
        self._encoder = wire.message_encoder(
            flatten_messages_as_text, custom_role_conversions, send_reasoning
        )
        self.native_tool_messages = self._encoder.native_tools

    @property
    def supports_stop_parameter(self) -> bool:
        """Whether the model takes stop sequences; if not, its replies are cut here."""
        return supports_stop_parameter(self.model_id)

    def _specific(
        self, stop_sequences: list[str] | None, response_format: Any, tools: list[Any] | None
    ) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if response_format is not None:
            options["response_format"] = wire.response_format(response_format)
        if tools and self._tool_choice:
            options["tool_choice"] = self._tool_choice
        return options

    def _sendable_stops(self, stop_sequences: list[str]) -> list[str]:
        return stop_sequences[:_MOST_STOPS] if self.supports_stop_parameter else []

    def _settle(self, options: dict[str, Any], tools: list[Any] | None) -> None:
        if not tools and not options.get("tools"):
            for name in _ONLY_WITH_TOOLS:
                options.pop(name, None)

    def _body(
        self, options: dict[str, Any], tools: list[Any] | None, messages: list[ChatMessage], on_loop: bool
    ) -> list[bytes]:
        encoded = self._encoder.encode(messages, on_loop=on_loop)
        fields: list[tuple[bytes, list[bytes]]] = [(b"messages", [b"[", *encoded, b"]"])]
        if tools:
            fields.insert(0, (b"tools", [_tools.encode(tools)]))
        return json_request(options, fields)

    def _read(self, answer: dict[str, Any]) -> ChatMessage | None:
        choices = answer.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], dict):
            return wire.reply_message(answer, self.strip_thinking)
        return None

    def _reader(self, cut: list[str] | None) -> ReplyReader:
        return wire.StreamedReply(cut, self.strip_thinking)

    def to_dict(self) -> dict[str, Any]:
        """Return what describes the model, ready for JSON; keys, headers and clients stay out."""
        described = {
            "send_reasoning": self.send_reasoning,
            "strip_thinking": self.strip_thinking or None,
        }
        return {
            **super().to_dict(),
            **{name: value for name, value in described.items() if value is not None},
        }
