"""Messages as plain dictionaries for providers that take those, and the rules of stop sequences."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from manyhands.messages import ChatMessage, MessageRole, encode_image
from manyhands.models.wire import calls_as_text, data_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# For providers that know no tool roles.
tool_role_conversions: dict[MessageRole, MessageRole] = {
    MessageRole.TOOL_CALL: MessageRole.ASSISTANT,
    MessageRole.TOOL_RESPONSE: MessageRole.USER,
}


class _RemoveParameter:
    """The value of a parameter that is not to be sent at all."""

    def __repr__(self) -> str:
        return "REMOVE_PARAMETER"


REMOVE_PARAMETER = _RemoveParameter()

# Reasoning models that refuse `stop`, with or without a vendor before a dot.
_WITHOUT_STOP = re.compile(r"(?:[a-z][\w-]*\.)?(?:o[34](?![a-z0-9])|gpt-5|grok-)", re.IGNORECASE)


def supports_stop_parameter(model_id: str | None) -> bool:
    """Return whether the model takes stop sequences.

    Args:
        model_id: Its name; a provider before a slash is ignored.
    """
    return not _WITHOUT_STOP.match((model_id or "").rsplit("/", 1)[-1])


def remove_content_after_stop_sequences(
    content: str | None, stop_sequences: Iterable[str] | None
) -> str | None:
    """Return ``content`` up to the first stop sequence in it.

    Args:
        content: The text of a reply.
        stop_sequences: Texts at which it ends; they are cut off as well.
    """
    if not content or not stop_sequences:
        return content
    found = [content.find(stop) for stop in stop_sequences if stop]
    return content[: min((at for at in found if at >= 0), default=len(content))]


class StopCutter:
    """Cuts a streamed text at the first stop sequence, which may arrive in several pieces.

    Args:
        stop_sequences: Texts at which the stream ends.
    """

    def __init__(self, stop_sequences: Iterable[str]) -> None:
        self._stops = [stop for stop in stop_sequences if stop]
        self._longest = max(map(len, self._stops), default=1)
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """Take more text; return what certainly comes before any stop sequence."""
        if self.stopped:
            return ""
        text = self._held + text
        cut = remove_content_after_stop_sequences(text, self._stops) or ""
        if len(cut) < len(text):
            self.stopped, self._held = True, ""
            return cut
        keep = self._unsure(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _unsure(self, text: str) -> int:
        """Return how many characters at the end may be the beginning of a stop sequence."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0

    def end(self) -> str:
        """Return what was held back when the stream ends."""
        held, self._held = self._held, ""
        return held


def get_clean_message_list(
    message_list: Sequence[ChatMessage | dict[str, Any]],
    role_conversions: Mapping[Any, Any] | None = None,
    convert_images_to_image_urls: bool = False,
    flatten_messages_as_text: bool = False,
) -> list[dict[str, Any]]:
    """Return messages as dictionaries ready for a provider: roles renamed, neighbours of one role joined.

    The messages given are not changed.

    Args:
        message_list: The conversation.
        role_conversions: Roles by the role that replaces them.
        convert_images_to_image_urls: Write images as data URLs, else as base64 PNG.
        flatten_messages_as_text: Give each message's content as one text, without images.

    Raises:
        ValueError: A role is none of :class:`MessageRole`.
    """
    roles = {str(role): str(other) for role, other in (role_conversions or {}).items()}
    cleaned: list[dict[str, Any]] = []
    for given in message_list:
        message = ChatMessage.from_any(given)
        role = str(message.role)
        if role not in MessageRole.roles():
            raise ValueError(f"Incorrect role {role}, only {MessageRole.roles()} are supported for now.")
        role = roles.get(role, role)
        parts = _parts(message, convert_images_to_image_urls, flatten_messages_as_text)
        if cleaned and cleaned[-1]["role"] == role:
            _append_parts(cleaned[-1]["content"], parts)
        else:
            cleaned.append({"role": role, "content": []})
            _append_parts(cleaned[-1]["content"], parts)
    if flatten_messages_as_text:
        for entry in cleaned:
            entry["content"] = "\n".join(part["text"] for part in entry["content"])
    return cleaned


def _parts(message: ChatMessage, as_urls: bool, text_only: bool) -> list[dict[str, Any]]:
    content = message.content
    parts = list(content) if isinstance(content, list) else [{"type": "text", "text": content or ""}]
    if message.tool_calls:
        parts = [part for part in parts if part.get("text") != ""]
        parts.append({"type": "text", "text": calls_as_text(message.tool_calls)})
    if text_only:
        return [part for part in parts if part.get("type") == "text"]
    return [_image(part, as_urls) if part.get("type") == "image" else part for part in parts]


def _image(part: Mapping[str, Any], as_url: bool) -> dict[str, Any]:
    if as_url:
        return {"type": "image_url", "image_url": {"url": data_url(part["image"])}}
    return {**part, "image": encode_image(part["image"])}


def _append_parts(content: list[dict[str, Any]], parts: Iterable[Mapping[str, Any]]) -> None:
    for part in parts:
        if content and part.get("type") == content[-1].get("type") == "text":
            content[-1]["text"] += "\n" + part["text"]
        else:
            content.append(dict(part))
