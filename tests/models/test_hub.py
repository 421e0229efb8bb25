"""Hugging Face's inference client: the real library, pointed at a simulated provider."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
import threading
from importlib import import_module
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import pytest

from manyhands.errors import (
    AuthenticationError,
    BadRequestError,
    CallerError,
    ConnectionFailedError,
    MissingExtraError,
)
from manyhands.messages import (
    ChatMessage,
    MessageRole,
    agglomerate_stream_deltas,
    message,
)
from manyhands.models.hub import InferenceClientModel
from manyhands.testing import SimulatedProvider
from manyhands.testing.simulated import Call, Reply

if TYPE_CHECKING:
    from manyhands.models.base import Model

needs_hub = pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is None,
    reason='huggingface_hub is not installed: pip install "manyhands[huggingface]"',
)

TASK = [message(MessageRole.USER, "Say hello.")]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def model(base: str, model_id: str = "tiny", **settings: Any) -> InferenceClientModel:
    return InferenceClientModel(model_id, **{"base_url": base, "token": "hf_test123", **settings})


async def streamed(asked: Model, **options: Any) -> ChatMessage:
    return agglomerate_stream_deltas([delta async for delta in asked.agenerate_stream(TASK, **options)])


# --- Asking ------------------------------------------------------------------------------------


@needs_hub
async def test_what_is_asked_arrives() -> None:
    async with SimulatedProvider(policy=lambda _: Reply(calls=[Call("look")]), record=1) as provider:
        asked = model(
            provider.base_url,
            temperature=0.5,
            extra_body={"top_k": 3},
            bill_to="acme",
            extra_headers={"X-A": "1"},
        )
        await asked.agenerate(
            TASK,
            stop_sequences=["Observation:"],
            tools_to_call_from=[TOOL],
            max_tokens=9,
            reasoning_effort="low",
            extra_headers={"X-B": "2"},
        )
        (request,) = provider.received
    assert request.body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Say hello."}],
        "stop": ["Observation:"],
        "tools": [TOOL],
        "tool_choice": "required",
        "max_tokens": 9,
        "temperature": 0.5,
        "reasoning_effort": "low",
        "top_k": 3,
        "stream": False,
    }
    sent = {name.lower(): value for name, value in request.headers.items()}
    assert sent["authorization"] == "Bearer hf_test123"
    assert (sent["x-hf-bill-to"], sent["x-a"], sent["x-b"]) == ("acme", "1", "2")


@needs_hub
async def test_a_hundred_and_fifty_calls_at_once_are_all_in_flight() -> None:
    async with SimulatedProvider(policy=lambda _: "Hello!", latency=3) as provider:
        asked = model(provider.base_url)
        replies = await asyncio.gather(*(asked.agenerate(TASK) for _ in range(150)))
        assert {reply.content for reply in replies} == {"Hello!"}
        assert provider.stats.peak_in_flight == 150
        await asked.aclose()


# --- Whom it asks ------------------------------------------------------------------------------


@needs_hub
async def test_the_token_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_fromenv")
    async with SimulatedProvider(policy=lambda _: "Hello!", api_key="hf_fromenv") as provider:
        assert (await model(provider.base_url, token=None).agenerate(TASK)).content == "Hello!"


@needs_hub
async def test_without_a_token_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("huggingface_hub"), "get_token", lambda: None)
    with pytest.raises(AuthenticationError, match=r"HF_TOKEN.*token=.*hf auth login"):
        await InferenceClientModel("some/model").agenerate(TASK)


@needs_hub
async def test_an_endpoint_of_ones_own_needs_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("huggingface_hub"), "get_token", lambda: None)
    async with SimulatedProvider(policy=lambda _: "Hello!") as provider:
        assert (await model(provider.base_url, token=None).agenerate(TASK)).content == "Hello!"


@needs_hub
async def test_the_name_at_a_provider_is_looked_up_once_and_not_on_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    common: Any = import_module("huggingface_hub.inference._providers._common")
    api: Any = import_module("huggingface_hub.hf_api")
    asked_on: list[str] = []
    mapping = api.InferenceProviderMapping(
        provider="together",
        hf_model_id="org/model",
        providerId="their-name",
        status="live",
        task="conversational",
    )

    class Hub:
        def model_info(self, *_: Any, **__: Any) -> Any:
            asked_on.append(threading.current_thread().name)
            return MagicMock(inference_provider_mapping=[mapping])

    monkeypatch.setattr("huggingface_hub.hf_api.HfApi", Hub)
    common._fetch_inference_provider_mapping.cache_clear()
    async with SimulatedProvider(policy=lambda _: "Hello!", record=2) as provider:
        monkeypatch.setattr(
            "huggingface_hub.constants.INFERENCE_PROXY_TEMPLATE",
            provider.base_url.removesuffix("/v1") + "/{provider}",
        )
        asked = InferenceClientModel("org/model", provider="together", token="hf_test123")
        # The simulated server serves no path but its own: that it was asked is enough.
        for _ in range(2):
            with pytest.raises(BadRequestError):
                await asked.agenerate(TASK)
    assert len(asked_on) == 1
    assert asked_on[0].startswith("import_")
    common._fetch_inference_provider_mapping.cache_clear()


@needs_hub
async def test_a_client_of_the_users_is_asked_and_its_streams_do_not_pile_up() -> None:
    library: Any = import_module("huggingface_hub")
    async with SimulatedProvider(policy=lambda _: "Hello!") as provider:
        client = library.AsyncInferenceClient(base_url=provider.base_url, token="hf_test123")
        asked = InferenceClientModel("tiny", client=client)
        assert (await asked.agenerate(TASK)).content == "Hello!"
        assert (await streamed(asked)).content == "Hello!"
        assert (await streamed(asked)).content == "Hello!"
        # What it keeps open is its pool of connections, as ever.
        assert len(client.exit_stack._exit_callbacks) == 1
        await client.close()


async def test_mocks_are_good_clients() -> None:
    client = MagicMock()
    answer = client.chat.completions.create.return_value = MagicMock()
    answer.choices = [MagicMock()]
    answer.choices[0].message.content = "Hello"
    answer.choices[0].message.tool_calls = None
    answer.usage.prompt_tokens, answer.usage.completion_tokens = 3, 1
    assert (await InferenceClientModel("tiny", client=client).agenerate(TASK)).content == "Hello"


# --- When it goes wrong ------------------------------------------------------------------------


@needs_hub
async def test_silence_is_a_failed_connection() -> None:
    async with SimulatedProvider(faults=["stall"]) as provider:
        with pytest.raises(ConnectionFailedError):
            await model(provider.base_url, timeout=0.2).agenerate(TASK)


# --- What stays out of sight -------------------------------------------------------------------


@needs_hub
def test_a_model_is_described_without_its_token_and_comes_back() -> None:
    asked = InferenceClientModel(
        "org/model",
        "together",
        "hf_secret",
        bill_to="acme",
        temperature=0.5,
        client_kwargs={"headers": {"X": "s"}},
    )
    described = asked.to_dict()
    assert described == {
        "class": "InferenceClientModel",
        "model_id": "org/model",
        "provider": "together",
        "timeout": 120,
        "bill_to": "acme",
        "temperature": 0.5,
    }
    assert InferenceClientModel.from_dict(described).to_dict() == described


@needs_hub
def test_two_tokens_are_refused() -> None:
    with pytest.raises(CallerError, match="token and api_key"):
        InferenceClientModel("org/model", token="a", api_key="b")


def test_a_missing_library_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "huggingface_hub", raising=False)
    monkeypatch.setattr("manyhands.models.libraries._installed", lambda _: False)
    with pytest.raises(MissingExtraError, match=r"InferenceClientModel .*manyhands\[huggingface\]"):
        InferenceClientModel("org/model")


# --- Agents on it ------------------------------------------------------------------------------


@pytest.mark.skipif(
    not os.environ.get("MANYHANDS_LIVE_HF_MODEL"),
    reason="set MANYHANDS_LIVE_HF_MODEL and HF_TOKEN to ask the real one",
)
async def test_live() -> None:
    asked = InferenceClientModel(os.environ["MANYHANDS_LIVE_HF_MODEL"])
    assert (await asked.agenerate(TASK, max_tokens=64)).text
