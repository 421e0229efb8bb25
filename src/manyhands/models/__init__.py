"""Language models: one provider per file, all with the face of :class:`manyhands.models.base.Model`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manyhands._lazy import lazy_exports

if TYPE_CHECKING:
    from manyhands.messages import ChatMessage as ChatMessage
    from manyhands.messages import ChatMessageStreamDelta as ChatMessageStreamDelta
    from manyhands.messages import ChatMessageToolCall as ChatMessageToolCall
    from manyhands.messages import ChatMessageToolCallFunction as ChatMessageToolCallFunction
    from manyhands.messages import MessageRole as MessageRole
    from manyhands.messages import TokenUsage as TokenUsage
    from manyhands.models.base import Model as Model
    from manyhands.models.openai import OpenAIModel as OpenAIModel
    from manyhands.models.openai import OpenAIServerModel as OpenAIServerModel

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
