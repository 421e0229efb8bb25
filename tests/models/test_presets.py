"""Providers by the first word of a model's name."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from manyhands.errors import AuthenticationError, CallerError
from manyhands.messages import (
    ChatMessage,
    ChatMessageToolCall,
    ChatMessageToolCallFunction,
    MessageRole,
    message,
)
from manyhands.models.anthropic import AnthropicModel
from manyhands.models.azure import AzureOpenAIModel
from manyhands.models.base import choose_model
from manyhands.models.openai import OpenAIModel
from manyhands.models.presets import PRESETS, preset_of
from manyhands.models.responses import OpenAIResponsesModel
from tests.models.servers import CHUNKED, END, answering, chunk, completion, events, http, said

if TYPE_CHECKING:
    from manyhands.models.base import Model

TASK = [message(MessageRole.USER, "Say hello.")]
OK = http(completion())
CALL = ChatMessageToolCall(ChatMessageToolCallFunction("{}", "look"), "c1")
RESULT = ChatMessage(MessageRole.TOOL_RESPONSE, "seen", tool_call_id="c1")
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for preset in PRESETS.values() for name in (*preset.keys, preset.address) if name]
    for name in [*names, "OPENAI_API_KEY", "OPENAI_BASE_URL", "MANYHANDS_MODEL"]:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("prefix", PRESETS)
def test_a_prefix_brings_address_and_key(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    preset = PRESETS[prefix]
    for name in preset.keys:
        monkeypatch.setenv(name, "k-1")
    asked = OpenAIModel(f"{prefix}/maker/name")
    where = asked.endpoint()
    assert where.url == f"{preset.base}/chat/completions"
    assert [secret.reveal() for _, secret in where.secret_headers] == (["Bearer k-1"] if preset.keys else [])
    assert asked.model_id == f"{prefix}/maker/name"
    again: Any = OpenAIModel.from_dict(asked.to_dict())
    assert again.endpoint().url == where.url


@pytest.mark.parametrize(
    "prefix", [name for name, preset in PRESETS.items() if preset.keys and not preset.address]
)
def test_a_missing_key_is_named(prefix: str) -> None:
    with pytest.raises(AuthenticationError, match=PRESETS[prefix].keys[0]):
        OpenAIModel(f"{prefix}/name").endpoint()
    assert OpenAIModel(f"{prefix}/name", api_key="k").endpoint().key is not None


async def test_the_prefix_is_not_sent_and_an_address_may_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with answering(OK) as server:
        monkeypatch.setenv("OLLAMA_BASE_URL", server.base)
        await OpenAIModel("ollama/llama3:8b").agenerate(TASK)
    assert server.requests[0].json["model"] == "llama3:8b"


@pytest.mark.parametrize("name", ["groq/llama", "meta-llama/Llama-3", "openai/o3-mini"])
async def test_a_given_address_leaves_the_name_alone(name: str) -> None:
    async with answering(OK) as server:
        await OpenAIModel(name, api_base=server.base).agenerate(TASK)
        await OpenAIModel(name, client_kwargs={"base_url": server.base}).agenerate(TASK)
    assert [request.json["model"] for request in server.requests] == [name, name]


@pytest.mark.parametrize("name", ["gpt-5", "meta-llama/Llama-3", "groq", "groq/", "Groq/x"])
def test_a_name_without_a_known_provider_is_left_alone(name: str) -> None:
    assert preset_of(name) == (None, name)


async def test_the_address_of_the_environment_is_for_names_without_a_provider(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with answering(OK) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base)
        await OpenAIModel("meta-llama/Llama-3").agenerate(TASK)
    assert server.requests[0].json["model"] == "meta-llama/Llama-3"
    assert OpenAIModel("lmstudio/a").endpoint().url.startswith("http://localhost:1234/v1")


async def test_reasoning_goes_back_with_calls_where_the_provider_wants_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns = [
        ChatMessage(MessageRole.ASSISTANT, None, [CALL], reasoning_content="Hm."),
        ChatMessage(MessageRole.ASSISTANT, None, [CALL]),
    ]
    async with answering(OK) as server:
        monkeypatch.setenv("VLLM_BASE_URL", server.base)
        monkeypatch.setitem(PRESETS, "deepseek", _at("deepseek", server.base))
        for turn in turns:
            await OpenAIModel("deepseek/m", api_key="k").agenerate([*TASK, turn, RESULT])
        await OpenAIModel("vllm/m").agenerate([*TASK, turns[0], RESULT])
    sent = [request.json["messages"][1] for request in server.requests]
    # Left out where nothing was thought, it would be missed.
    assert [entry.get("reasoning_content") for entry in sent] == ["Hm.", "", None]


async def test_what_a_provider_refuses_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not PRESETS["mistral"].stream_options
    assert PRESETS["deepseek"].tool_choice is None
    stream = [CHUNKED, chunk(events(said("Hello"), END)), chunk(b"")]
    async with answering(stream, OK) as server:
        for name in ("mistral", "deepseek"):
            monkeypatch.setitem(PRESETS, name, _at(name, server.base))
        mistral = OpenAIModel("mistral/m", api_key="k")
        assert [delta.content async for delta in mistral.agenerate_stream(TASK)] == ["Hello"]
        await OpenAIModel("deepseek/m", api_key="k").agenerate(TASK, tools_to_call_from=[TOOL])
    first, second = (request.json for request in server.requests)
    assert first.keys() == {"model", "messages", "stream"}
    assert second.keys() == {"model", "messages", "tools"}


def _at(name: str, base: str) -> Any:
    return dataclasses.replace(PRESETS[name], base=base)


@pytest.mark.parametrize(
    ("name", "kind", "model_id"),
    [
        ("anthropic/claude-haiku-4-5", AnthropicModel, "claude-haiku-4-5"),
        ("azure/my-deployment", AzureOpenAIModel, "my-deployment"),
        ("openai-responses/gpt-5-mini", OpenAIResponsesModel, "gpt-5-mini"),
        ("groq/llama", OpenAIModel, "groq/llama"),
        ("gpt-5-mini", OpenAIModel, "gpt-5-mini"),
        ("meta-llama/Llama-3", OpenAIModel, "meta-llama/Llama-3"),
    ],
)
def test_a_name_chooses_the_class(
    name: str, kind: type[Model], model_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = choose_model(name)
    assert (type(chosen), chosen.model_id) == (kind, model_id)
    monkeypatch.setenv("MANYHANDS_MODEL", name)
    assert type(choose_model(None)) is kind


def test_a_provider_without_a_model_is_refused() -> None:
    with pytest.raises(CallerError, match="no model"):
        choose_model("groq/")
