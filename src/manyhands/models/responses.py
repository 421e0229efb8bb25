"""OpenAI's models over the Responses API, without an SDK in between.

The format: https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from manyhands.models import items, wire
from manyhands.models.cleaning import REMOVE_PARAMETER
from manyhands.models.openai import OpenAIModel
from manyhands.models.remote import json_request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from manyhands.messages import ChatMessage

# Models that reason; others refuse to be asked for their reasoning.
_REASONS = re.compile(r"(?:.*/)?(?:o\d|gpt-5(?!.*chat)|gpt-[6-9]|codex)", re.IGNORECASE)
_ENCRYPTED = "reasoning.encrypted_content"
_tools = wire.ToolEncoder(items.tool_definition)


class OpenAIResponsesModel(OpenAIModel):
    """A model of OpenAI, asked through the Responses API; also at servers that speak it.

    Nothing is stored there unless ``store=True`` is given: the conversation is sent whole, with the
    model's reasoning, encrypted as it came. The API knows no stop sequences: replies are cut here.

    Args:
        model_id: Name of the model there.
        **settings: As for :class:`~manyhands.models.openai.OpenAIModel`; a ``client`` is asked through
            its ``responses.create``. Fields of the Responses API, such as ``reasoning={"effort":
            "low", "summary": "auto"}``, ``include`` or ``previous_response_id``, go along with every request.
    """

    _door = "responses.create"
    _streaming: Mapping[str, Any] = {"stream": True}
    _stop_field = ""
    _lacking = "there is no output"
    _path = "/responses"

    def __init__(self, model_id: str, *args: Any, **settings: Any) -> None:
        super().__init__(model_id, *args, **settings)
        self._items = items.item_encoder(self.flatten_messages_as_text, self.custom_role_conversions)

    @property
    def supports_stop_parameter(self) -> bool:
        """No model takes stop sequences here."""
        return False

    def _sendable_stops(self, stop_sequences: list[str]) -> list[str]:
        return []

    def _specific(
        self, stop_sequences: list[str] | None, response_format: Any, tools: list[Any] | None
    ) -> dict[str, Any]:
        options = super()._specific(stop_sequences, response_format, tools)
        options["store"] = False
        if _REASONS.match(self.model_id or ""):
            options["include"] = [_ENCRYPTED]
        return options

    def _settle(self, options: dict[str, Any], tools: list[Any] | None) -> None:
        super()._settle(options, tools)
        for theirs in ("max_tokens", "max_completion_tokens"):
            if theirs in options:
                options["max_output_tokens"] = options.pop(theirs)
        wanted = options.pop("response_format", None)
        if wanted is not None and wanted is not REMOVE_PARAMETER:
            form = items.text_format(wire.response_format(wanted))
            options["text"] = {"format": form, **(options.get("text") or {})}
        choice = options.get("tool_choice")
        if isinstance(choice, dict) and "function" in choice:
            options["tool_choice"] = {"type": "function", **choice["function"]}
        if options.get("store") is True and options.get("include") == [_ENCRYPTED]:
            del options["include"]  # it is stored there, and known by its id

    def _body(
        self, options: dict[str, Any], tools: list[Any] | None, messages: list[ChatMessage], on_loop: bool
    ) -> list[bytes]:
        instructions, encoded = self._items.encode(messages, on_loop=on_loop)
        fields: list[tuple[bytes, list[bytes]]] = []
        if tools:
            fields.append((b"tools", [_tools.encode(tools)]))
        if instructions and "instructions" not in options:
            fields.append((b"instructions", [b'"', *instructions, b'"']))
        return json_request(options, [*fields, (b"input", [b"[", *encoded, b"]"])])

    def _read(self, answer: dict[str, Any]) -> ChatMessage | None:
        if answer.get("status") == "failed" or not isinstance(answer.get("output"), list):
            return None
        return items.reply_message(answer)

    def _reader(self, cut: list[str] | None) -> items.StreamedItems:
        return items.StreamedItems(cut)

    def _error_in(self, chunk: dict[str, Any]) -> Mapping[str, Any] | None:
        if chunk.get("type") == "response.failed":
            response: dict[str, Any] = chunk["response"]
            return {"error": response.get("error") or {"message": "the response failed"}}
        return super()._error_in(chunk)
