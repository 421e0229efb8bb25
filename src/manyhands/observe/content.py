"""Messages, arguments and results as span attributes: masked, cut, and only where somebody asked for them."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

from manyhands.messages import MessageRole
from manyhands.observe.masking import Masker
from manyhands.steps import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from manyhands.messages import ChatMessage

# Characters of one text, and of all messages of one span: collectors refuse what is too large.
TEXT_CHARS = 4_000
SPAN_CHARS = 48_000
_KEPT = 512

_ROLES = {"tool-call": "assistant", "tool-response": "tool"}


class Content:
    """Puts content into the forms of the GenAI semantic conventions.

    Args:
        text_chars: Most characters of one text; the middle of a longer one is left out.
        mask: Masks secrets.
    """

    def __init__(self, text_chars: int = TEXT_CHARS, mask: Callable[[str], str] | None = None) -> None:
        self._most = text_chars
        self._mask = mask or Masker()
        # A conversation shows its messages again at every step, and the system prompt to all runs.
        self._shown = functools.lru_cache(_KEPT)(self._shorten)

    def text(self, value: Any) -> str:
        """Return any value as a text of bounded length."""
        text = value if isinstance(value, str) else _dumped(value)
        return self._shown(text) if len(text) < self._most else self._shorten(text)

    def _shorten(self, text: str) -> str:
        if len(text) > 4 * self._most:
            # Not all of it has to be looked through; the edges made here are left out below.
            text = text[: 2 * self._most] + text[-2 * self._most :]
        return self._cut(self._mask(text))

    def question(self, messages: Sequence[ChatMessage]) -> dict[str, str]:
        """Return the attributes of what a model is asked: the latest messages, as far as there is room."""
        system = [message for message in messages if message.role == MessageRole.SYSTEM]
        shown: list[dict[str, Any]] = []
        room = SPAN_CHARS
        for message in reversed(messages):
            if message.role == MessageRole.SYSTEM:
                continue
            room -= min(len(message.text), self._most)
            if room < 0:
                break
            shown.append(self._message(message))
        attributes = {"gen_ai.input.messages": _json(shown[::-1])}
        if system:
            parts = [part for message in system for part in self._parts(message)]
            attributes["gen_ai.system_instructions"] = _json(parts)
        return attributes

    def reply(self, message: ChatMessage) -> dict[str, str]:
        """Return the attributes of a model's reply."""
        reason = "tool_call" if message.tool_calls else "stop"
        return {"gen_ai.output.messages": _json([{**self._message(message), "finish_reason": reason}])}

    def said(self, role: str, value: Any, attribute: str) -> dict[str, str]:
        """Return one text as the only message of an attribute."""
        part = {"type": "text", "content": self.text(value)}
        return {attribute: _json([{"role": role, "parts": [part]}])}

    def _message(self, message: ChatMessage) -> dict[str, Any]:
        role = str(message.role)
        return {"role": _ROLES.get(role, role), "parts": self._parts(message)}

    def _parts(self, message: ChatMessage) -> list[dict[str, Any]]:
        if message.tool_call_id is not None:
            answer = {"type": "tool_call_response", "id": message.tool_call_id}
            return [{**answer, "response": self.text(message.text)}]
        parts: list[dict[str, Any]] = []
        if message.reasoning_content:
            parts.append({"type": "reasoning", "content": self.text(message.reasoning_content)})
        if message.text:
            parts.append({"type": "text", "content": self.text(message.text)})
        if isinstance(message.content, list):
            pictures = sum(part.get("type") == "image" for part in message.content)
            parts += [{"type": "blob", "modality": "image", "content": ""}] * pictures
        for call in message.tool_calls or ():
            function = call.function
            told = {"type": "tool_call", "id": call.id, "name": function.name}
            parts.append({**told, "arguments": self.text(function.arguments)})
        return parts

    def _cut(self, text: str) -> str:
        if len(text) <= self._most:
            return text
        half = self._most // 2
        return f"{text[:half]}… [{len(text) - 2 * half} characters left out] …{text[-half:]}"


def _dumped(value: Any) -> str:
    try:
        return json.dumps(plain(value), ensure_ascii=False)
    except Exception:  # a value of the user's, which may do anything when it is asked for its text
        return f"<{type(value).__name__} that cannot be shown>"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
