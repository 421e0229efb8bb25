"""What telemetry says of a model: its name, its provider in the words of the conventions, its address."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from manyhands.errors import AgentError
from manyhands.limits.wrapping import ModelWrapper

# By the end of the host that is asked; the names are those of the GenAI semantic conventions where they
# have one: https://github.com/open-telemetry/semantic-conventions-genai
_HOSTS = {
    "openai.azure.com": "azure.ai.openai",
    "services.ai.azure.com": "azure.ai.inference",
    "openai.com": "openai",
    "anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "aiplatform.googleapis.com": "gcp.vertex_ai",
    "amazonaws.com": "aws.bedrock",
    "groq.com": "groq",
    "mistral.ai": "mistral_ai",
    "deepseek.com": "deepseek",
    "perplexity.ai": "perplexity",
    "cohere.com": "cohere",
    "moonshot.ai": "moonshot_ai",
    "x.ai": "x_ai",
    "cerebras.ai": "cerebras",
    "fireworks.ai": "fireworks",
    "huggingface.co": "hugging_face",
    "openrouter.ai": "openrouter",
    "together.xyz": "together",
}
# By the class that is asked, or one of its bases, where there is no address to ask.
_CLASSES = {
    "AzureOpenAIModel": "azure.ai.openai",
    "AnthropicModel": "anthropic",
    "AmazonBedrockModel": "aws.bedrock",
    "InferenceClientModel": "hugging_face",
    "LiteLLMModel": "litellm",
    "LiteLLMRouterModel": "litellm",
    "TransformersModel": "transformers",
    "VLLMModel": "vllm",
    "MLXModel": "mlx",
    "OpenAIModel": "openai",
}
_REQUEST = {
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "seed": "gen_ai.request.seed",
}


class ModelFacts:
    """What spans and metrics say of one model; made once per model.

    Args:
        model: Anything that can be asked.

    Attributes:
        chat: Name of the span of a question.
        span: Attributes of that span.
        metric: Attributes of its metrics.
        metric_input: The same for counts of input tokens.
        metric_output: The same for counts of output tokens.
    """

    __slots__ = ("chat", "metric", "metric_input", "metric_output", "span")

    def __init__(self, model: Any) -> None:
        inner = _innermost(model)
        name = _text(getattr(inner, "model_id", None)) or type(inner).__name__
        host, port = _address(inner)
        self.chat = f"chat {name}"
        self.metric = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": _provider(inner, host),
            "gen_ai.request.model": name,
        }
        self.metric_input = {**self.metric, "gen_ai.token.type": "input"}
        self.metric_output = {**self.metric, "gen_ai.token.type": "output"}
        self.span: dict[str, Any] = {**self.metric, **_request(inner)}
        if host:
            self.span |= {"server.address": host, "server.port": port}


def _innermost(model: Any) -> Any:
    """Return the model inside of limits, retries and budgets."""
    while isinstance(model, ModelWrapper):
        model = model.model
    return model


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _address(model: Any) -> tuple[str, int]:
    """Return host and port that a model asks, "" and 0 where that cannot be known without a key."""
    try:
        url = model.endpoint().url
    except (AttributeError, TypeError, AgentError):
        url = getattr(model, "api_base", None)
    if not isinstance(url, str):
        return "", 0
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError:
        return "", 0


def _provider(model: Any, host: str) -> str:
    for ending, name in _HOSTS.items():
        if host == ending or host.endswith(f".{ending}"):
            return name
    for kind in type(model).__mro__:
        if kind.__name__ in _CLASSES:
            return _CLASSES[kind.__name__]
    return type(model).__name__


def _request(model: Any) -> dict[str, Any]:
    given = getattr(model, "kwargs", None)
    if not isinstance(given, dict):
        return {}
    return {
        attribute: given[name]
        for name, attribute in _REQUEST.items()
        if isinstance(given.get(name), int | float)
    }


_known: WeakKeyDictionary[Any, ModelFacts] = WeakKeyDictionary()


def facts_of(model: Any) -> ModelFacts:
    """Return the facts of a model: the same for as long as it lives.

    Args:
        model: Anything that can be asked.
    """
    try:
        facts = _known.get(model)
        if facts is None:
            facts = _known[model] = ModelFacts(model)
    except TypeError:  # neither hashed nor referred to weakly
        return ModelFacts(model)
    return facts
