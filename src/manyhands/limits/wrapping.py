"""What all wrappers around a model have in common: the face of the model they wrap."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from manyhands.models.base import Model, ask_stream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from manyhands.messages import ChatMessage, ChatMessageStreamDelta


class ModelWrapper(Model):
    """A model that hands every request to another one; subclasses add something on the way.

    Attributes that it does not have are those of the wrapped model.

    Args:
        model: Anything that can be asked like a model.

    Attributes:
        model: The wrapped model.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(
            flatten_messages_as_text=getattr(model, "flatten_messages_as_text", False),
            tool_name_key=getattr(model, "tool_name_key", "name"),
            tool_arguments_key=getattr(model, "tool_arguments_key", "arguments"),
            model_id=getattr(model, "model_id", None),
        )
        self.kwargs = getattr(model, "kwargs", {})
        self.native_tool_messages = getattr(model, "native_tool_messages", False)
        self.model = model

    def parse_tool_calls(self, message: ChatMessage) -> ChatMessage:
        """Do as the wrapped model does."""
        parse = getattr(self.model, "parse_tool_calls", super().parse_tool_calls)
        parsed: ChatMessage = parse(message)
        return parsed

    def to_dict(self) -> dict[str, Any]:
        """Return what describes the wrapped model: limits belong to the process, not to the model."""
        if isinstance(self.model, Model):
            return self.model.to_dict()
        return super().to_dict()

    async def aclose(self) -> None:
        """Release connections of the wrapped model."""
        if isinstance(self.model, Model):
            await self.model.aclose()

    def __getattr__(self, name: str) -> Any:
        if name == "model" or name.startswith("__"):  # not there yet, or never to be faked
            raise AttributeError(name)
        return getattr(self.model, name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r})"


def closing_stream(
    model: Any, messages: list[ChatMessage], options: dict[str, Any]
) -> aclosing[AsyncGenerator[ChatMessageStreamDelta, None]]:
    """Return the stream of a model's reply for ``async with``: it ends when its reader does."""
    return aclosing(ask_stream(model, messages, **options))
