"""Providers by the first word of a model's name: ``groq/llama-3.3-70b`` is asked at Groq, with its key.

One table says of each where it is, which environment variable holds its key, and in what it differs
from OpenAI. An address that is given wins: then the name is the server's own, slashes and all.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from manyhands.errors import CallerError

if TYPE_CHECKING:
    from manyhands.models.base import Model


@dataclass(frozen=True, slots=True)
class Preset:
    """A provider that speaks the chat-completions format.

    Attributes:
        base: Its address.
        keys: Environment variables that may hold its key; none for a server of one's own.
        address: Environment variable with another address for it.
        send_reasoning: The field in which it wants to see reasoning again; see
            :class:`~manyhands.models.chat.ChatCompletionsModel`.
        tool_choice: What a request with tools asks for; ``None`` leaves it to the provider.
        stream_options: Whether it takes ``stream_options``; who does not tells the usage anyway.
    """

    base: str
    keys: tuple[str, ...] = ()
    address: str | None = None
    send_reasoning: str | None = None
    tool_choice: str | None = "required"
    stream_options: bool = True

    def url(self) -> str:
        """Return its address, the environment's if that names one."""
        return (self.address and os.environ.get(self.address)) or self.base

    def key(self) -> str | None:
        """Return its key from the environment, ``None`` if there is none."""
        return next((os.environ[name] for name in self.keys if os.environ.get(name)), None)


PRESETS: dict[str, Preset] = {
    # https://inference-docs.cerebras.ai
    "cerebras": Preset("https://api.cerebras.ai/v1", ("CEREBRAS_API_KEY",)),
    # Thinks unless told otherwise, then refuses any tool_choice, and wants its thoughts back:
    # https://api-docs.deepseek.com/guides/thinking_mode
    "deepseek": Preset(
        "https://api.deepseek.com",
        ("DEEPSEEK_API_KEY",),
        send_reasoning="reasoning_content",
        tool_choice=None,
    ),
    # https://docs.fireworks.ai
    "fireworks": Preset("https://api.fireworks.ai/inference/v1", ("FIREWORKS_API_KEY",)),
    # https://ai.google.dev/gemini-api/docs/openai
    "gemini": Preset(
        "https://generativelanguage.googleapis.com/v1beta/openai", ("GEMINI_API_KEY", "GOOGLE_API_KEY")
    ),
    # https://console.groq.com/docs/openai
    "groq": Preset("https://api.groq.com/openai/v1", ("GROQ_API_KEY",)),
    # https://huggingface.co/docs/inference-providers
    "hf": Preset("https://router.huggingface.co/v1", ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")),
    # https://lmstudio.ai/docs
    "lmstudio": Preset("http://localhost:1234/v1", address="LMSTUDIO_BASE_URL"),
    # Refuses stream_options: https://docs.mistral.ai/api
    "mistral": Preset("https://api.mistral.ai/v1", ("MISTRAL_API_KEY",), stream_options=False),
    # https://docs.ollama.com/openai
    "ollama": Preset("http://localhost:11434/v1", address="OLLAMA_BASE_URL"),
    # https://openrouter.ai/docs/use-cases/reasoning-tokens
    "openrouter": Preset(
        "https://openrouter.ai/api/v1", ("OPENROUTER_API_KEY",), send_reasoning="reasoning_details"
    ),
    # https://docs.together.ai
    "together": Preset("https://api.together.xyz/v1", ("TOGETHER_API_KEY",)),
    # https://docs.vllm.ai
    "vllm": Preset("http://localhost:8000/v1", ("VLLM_API_KEY",), address="VLLM_BASE_URL"),
    # https://docs.x.ai
    "xai": Preset("https://api.x.ai/v1", ("XAI_API_KEY",)),
}

# Formats of their own, and the class that speaks each.
_CLASSES = {
    "anthropic": ("manyhands.models.anthropic", "AnthropicModel"),
    "azure": ("manyhands.models.azure", "AzureOpenAIModel"),
    "openai-responses": ("manyhands.models.responses", "OpenAIResponsesModel"),
}


def preset_of(model_id: str) -> tuple[Preset | None, str]:
    """Return the provider that a model's name begins with, and the rest of the name.

    Args:
        model_id: A model's name; one without a known provider is given back as it is.
    """
    prefix, slash, rest = model_id.partition("/")
    preset = PRESETS.get(prefix) if slash and rest else None
    return (None, model_id) if preset is None else (preset, rest)


def model_of(name: str, **settings: Any) -> Model:
    """Return the model that a name means: ``anthropic/…``, ``azure/…``, ``openai-responses/…``, or any other.

    Args:
        name: A model's name, with its provider before a slash where that is not OpenAI.
        **settings: Arguments of the model's class; an ``api_base`` that is given makes it a server that
            speaks OpenAI's format, whatever the name begins with.

    Raises:
        CallerError: The name is a provider without a model.
    """
    prefix, slash, rest = name.partition("/")
    if slash and not rest:
        raise CallerError(f"{name!r} names a provider and no model. Give both, as in 'groq/llama-3.3-70b'.")
    module, kind = "manyhands.models.openai", "OpenAIModel"
    if prefix in _CLASSES and slash and not settings.get("api_base"):
        (module, kind), name = _CLASSES[prefix], rest
    model: Model = getattr(importlib.import_module(module), kind)(name, **settings)
    return model
