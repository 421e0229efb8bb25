"""Messages as plain dictionaries, for providers whose libraries take those."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyhands.messages import ChatMessage, MessageRole, encode_image
from manyhands.models.media import data_url
from manyhands.models.stopping import remove_content_after_stop_sequences, supports_stop_parameter
from manyhands.models.wire import calls_as_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    "REMOVE_PARAMETER",
    "get_clean_message_list",
    "remove_content_after_stop_sequences",
    "supports_stop_parameter",
    "tool_role_conversions",
]

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
