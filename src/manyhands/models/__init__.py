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
    from manyhands.models.anthropic import AnthropicModel as AnthropicModel
    from manyhands.models.azure import AzureOpenAIModel as AzureOpenAIModel
    from manyhands.models.azure import AzureOpenAIServerModel as AzureOpenAIServerModel
    from manyhands.models.base import Model as Model
    from manyhands.models.bedrock import AmazonBedrockModel as AmazonBedrockModel
    from manyhands.models.bedrock import AmazonBedrockServerModel as AmazonBedrockServerModel
    from manyhands.models.hub import InferenceClientModel as InferenceClientModel
    from manyhands.models.litellm import LiteLLMModel as LiteLLMModel
    from manyhands.models.mlx import MLXModel as MLXModel
    from manyhands.models.openai import OpenAIModel as OpenAIModel
    from manyhands.models.openai import OpenAIServerModel as OpenAIServerModel
    from manyhands.models.responses import OpenAIResponsesModel as OpenAIResponsesModel
    from manyhands.models.router import LiteLLMRouterModel as LiteLLMRouterModel
    from manyhands.models.transformers import TransformersModel as TransformersModel
    from manyhands.models.vllm import VLLMModel as VLLMModel

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
