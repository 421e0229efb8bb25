"""What a provider wants to see again as it was, in its place among the text and the calls of a reply.

Providers sign or encrypt reasoning, and refuse a conversation in which it is missing, changed or moved.
It nearly always comes first, so that the items alone say it all. Otherwise the list also holds marks for
the text and the calls between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from manyhands.messages import ChatMessage, ChatMessageToolCall

_TEXT, _CALL = "kept.text", "kept.call"


def text_mark(text: str) -> dict[str, Any]:
    """Return the mark for a piece of the text."""
    return {"type": _TEXT, "text": text}


def call_mark(call_id: str) -> dict[str, Any]:
    """Return the mark for a call."""
    return {"type": _CALL, "id": call_id}


def kept(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """Return what to keep of a reply's items and marks, ``None`` if there is nothing.

    Args:
        parts: Items and marks, in order.
    """
    items = [part for part in parts if part["type"] not in (_TEXT, _CALL)]
    if not items:
        return None
    return items if list(parts[: len(items)]) == items else list(parts)


def in_order(message: ChatMessage) -> Iterator[dict[str, Any] | str | ChatMessageToolCall]:
    """Yield items, text and calls of a message as its provider gave them.

    A message that has been edited since has its items first.
    """
    parts = message.provider_items or []
    calls = message.tool_calls or []
    texts = [part["text"] for part in parts if part.get("type") == _TEXT]
    ids = [part["id"] for part in parts if part.get("type") == _CALL]
    if (texts or ids) and "".join(texts) == message.text and ids == [call.id for call in calls]:
        waiting = iter(calls)
        for part in parts:
            kind = part.get("type")
            yield part["text"] if kind == _TEXT else next(waiting) if kind == _CALL else part
        return
    yield from (part for part in parts if part.get("type") not in (_TEXT, _CALL))
    if message.text:
        yield message.text
    yield from calls
