"""Hugging Face's inference client: the real library, pointed at a simulated provider."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import secrets
import socket
import sys
import threading
import traceback
from importlib import import_module
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import pytest

from manyhands import CodeAgent, ToolCallingAgent, tool
from manyhands.errors import (
    AuthenticationError,
    BadRequestError,
    CallerError,
    ConnectionFailedError,
    MissingExtraError,
    ProviderError,
    RateLimitError,
    ServerError,
)
from manyhands.messages import (
    ChatMessage,
    ChatMessageToolCall,
    ChatMessageToolCallFunction,
    MessageRole,
    agglomerate_stream_deltas,
    message,
)
from manyhands.models.hub import InferenceClientModel
from manyhands.testing import SimulatedProvider
from manyhands.testing.simulated import Call, ChatRequest, Reply
from tests.models.servers import CHUNKED, END, answering, chunk, completion, events, http, said

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
async def test_a_question_gets_its_reply_and_its_token_counts() -> None:
    async with SimulatedProvider(policy=lambda _: "Hello!", api_key="hf_test123") as provider:
        got = await model(provider.base_url).agenerate(TASK)
        folded = await streamed(model(provider.base_url))
    assert got.content == folded.content == "Hello!"
    assert got.token_usage == folded.token_usage
    assert got.token_usage is not None
    assert got.token_usage.input_tokens > 0


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
@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_format_is_really_sent(stream: bool) -> None:
    wanted = {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {"type": "object", "properties": {}}},
    }
    piecewise = [CHUNKED + chunk(events(said("{}"), END)) + chunk(b""), None]
    async with answering(piecewise if stream else http(completion())) as server:
        asked = model(server.base)
        if stream:
            await streamed(asked, response_format=wanted)
        else:
            await asked.agenerate(TASK, response_format=wanted)
    # To an endpoint of one's own the library sends it in the form of Hugging Face's own server.
    assert server.requests[0].json["response_format"] == {
        "type": "json_object",
        "value": {"type": "object", "properties": {}},
    }


@needs_hub
@pytest.mark.parametrize("stream", [False, True])
async def test_several_tool_calls_come_back_whole(stream: bool) -> None:
    calls = [Call("look", {"where": "here"}), Call("look", {"where": "there"})]
    async with SimulatedProvider(policy=lambda _: Reply(calls=calls)) as provider:
        asked = model(provider.base_url)
        got = await (
            streamed(asked, tools_to_call_from=[TOOL])
            if stream
            else asked.agenerate(TASK, tools_to_call_from=[TOOL])
        )
    assert got.tool_calls is not None
    assert [json.loads(call.function.arguments)["where"] for call in got.tool_calls] == ["here", "there"]
    assert len({call.id for call in got.tool_calls}) == 2


@needs_hub
async def test_calls_results_and_images_go_out_in_the_providers_form() -> None:
    call = ChatMessageToolCall(ChatMessageToolCallFunction({"where": "here"}, "look"), "c1")
    conversation = [
        message(MessageRole.USER, "Look.", [PIXEL]),
        ChatMessage(MessageRole.ASSISTANT, None, [call]),
        ChatMessage(MessageRole.TOOL_RESPONSE, "a cat", tool_call_id="c1"),
    ]
    async with SimulatedProvider(policy=lambda _: "ok", record=1) as provider:
        await model(provider.base_url).agenerate(conversation, tools_to_call_from=[TOOL])
        user, assistant, result = provider.received[0].messages
    assert user["content"][1]["image_url"]["url"] == f"data:image/png;base64,{PIXEL}"
    assert assistant["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"where":"here"}'}
    assert (result["role"], result["tool_call_id"], result["content"]) == ("tool", "c1", "a cat")


@needs_hub
@pytest.mark.parametrize("stream", [False, True])
async def test_what_a_model_thought_is_kept(stream: bool) -> None:
    thought = {"role": "assistant", "content": "Hello", "reasoning_content": "Hm."}
    piece = {"choices": [{"index": 0, "delta": thought}]}
    answers = (
        [CHUNKED + chunk(events(piece, END)) + chunk(b""), None] if stream else http(completion(thought))
    )
    async with answering(answers) as server:
        asked = model(server.base)
        got = await (streamed(asked) if stream else asked.agenerate(TASK))
    assert (got.content, got.reasoning_content) == ("Hello", "Hm.")


@needs_hub
async def test_a_hundred_and_fifty_calls_at_once_are_all_in_flight() -> None:
    async with SimulatedProvider(policy=lambda _: "Hello!", latency=3) as provider:
        asked = model(provider.base_url)
        replies = await asyncio.gather(*(asked.agenerate(TASK) for _ in range(150)))
        assert {reply.content for reply in replies} == {"Hello!"}
        assert provider.stats.peak_in_flight == 150
        await asked.aclose()


@needs_hub
async def test_it_keeps_its_limits() -> None:
    async with SimulatedProvider(policy=lambda _: "Hello!", latency=0.05, record=1) as provider:
        asked = model(provider.base_url, max_concurrency=2, requests_per_minute=6000)
        replies = await asyncio.gather(*(asked.agenerate(TASK, timeout=5) for _ in range(6)))
        assert {reply.content for reply in replies} == {"Hello!"}
        assert provider.stats.peak_in_flight == 2
        assert provider.received[0].body.keys() == {"messages", "model", "stream"}


@needs_hub
def test_one_model_serves_loop_after_loop() -> None:
    with SimulatedProvider(policy=lambda _: "Hello!") as provider:
        asked = model(provider.base_url)
        for _ in range(3):
            assert asyncio.run(asked.agenerate(TASK)).content == "Hello!"
        assert asked.generate(TASK).content == "Hello!"
        assert "".join(delta.content or "" for delta in asked.generate_stream(TASK)) == "Hello!"
        asked.close()


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
@pytest.mark.parametrize(
    ("fault", "kind", "status"),
    [
        ("429", RateLimitError, 429),
        ("500", ServerError, 500),
        ("503", ServerError, 503),
        ("400", BadRequestError, 400),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_refusals_become_our_errors(
    fault: str, kind: type[ProviderError], status: int, stream: bool
) -> None:
    async with SimulatedProvider(faults=[fault], retry_after=7) as provider:
        asked = model(provider.base_url)
        with pytest.raises(kind, match=r"tiny \(http://127") as raised:
            await (streamed(asked) if stream else asked.agenerate(TASK))
        assert provider.stats.requests == 1
    assert raised.value.status == status
    assert raised.value.retry_after == (7 if fault in ("429", "503") else None)


@needs_hub
async def test_a_dead_connection_is_told_as_one() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionFailedError):
            await model(f"http://127.0.0.1:{taken.getsockname()[1]}/v1").agenerate(TASK)


@needs_hub
async def test_silence_is_a_failed_connection() -> None:
    async with SimulatedProvider(faults=["stall"]) as provider:
        with pytest.raises(ConnectionFailedError):
            await model(provider.base_url, timeout=0.2).agenerate(TASK)


@needs_hub
@pytest.mark.parametrize("ending", [None, chunk(b"")])
async def test_a_stream_that_breaks_off_is_an_error(ending: bytes | None) -> None:
    async with answering([CHUNKED + chunk(events(said("Hel"), done=False)), ending, None]) as server:
        with pytest.raises(ConnectionFailedError):
            await streamed(model(server.base))


@needs_hub
async def test_an_error_in_a_stream_is_raised() -> None:
    async with answering([CHUNKED + chunk(events(said("Hel"), {"error": "overloaded"})), None]) as server:
        with pytest.raises(ProviderError, match="overloaded"):
            await streamed(model(server.base))


@needs_hub
async def test_a_key_that_the_server_repeats_is_nowhere_in_the_error() -> None:
    key = f"hf_{secrets.token_hex(8)}"
    body = json.dumps({"error": f"Invalid token {key}."}).encode()
    async with answering(http(body, "401 Unauthorized")) as server:
        asked = model(server.base, token=key)
        with pytest.raises(AuthenticationError) as raised:
            await asked.agenerate(TASK)
    shown = "".join(traceback.format_exception(raised.value))
    assert key not in shown + repr(raised.value.body) + repr(asked) + repr(vars(asked)) + json.dumps(
        asked.to_dict()
    )


@needs_hub
@pytest.mark.parametrize("stream", [False, True])
async def test_a_cancelled_call_closes_its_connection(stream: bool) -> None:
    never = asyncio.Event()
    head = CHUNKED + chunk(events(said("Hel"), done=False)) if stream else b""
    async with answering([head, never]) as server:
        asked = model(server.base)
        call = asyncio.ensure_future(streamed(asked) if stream else asked.agenerate(TASK))
        await asyncio.wait_for(server.received(1), 30)
        await asyncio.sleep(0.1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(server.left.wait(), 5)


@needs_hub
async def test_a_stream_left_early_closes_its_connection() -> None:
    never = asyncio.Event()
    async with answering([CHUNKED + chunk(events(said("Hel"), said("lo"), done=False)), never]) as server:
        deltas = model(server.base).agenerate_stream(TASK)
        assert (await anext(deltas)).content
        await deltas.aclose()
        await asyncio.wait_for(server.left.wait(), 5)


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


@tool
def population(country: str) -> int:
    """Look up how many people live in a country.

    Args:
        country: English name of the country.
    """
    return {"Norway": 5, "Peru": 34}[country]


def counting(request: ChatRequest) -> Reply:
    """Look both countries up at once, then answer with the sum of what the tools said."""
    results = [entry["content"] for entry in request.messages if entry["role"] == "tool"]
    if not results:
        return Reply(calls=[Call("population", {"country": c}) for c in ("Norway", "Peru")])
    numbers = [int("".join(filter(str.isdigit, text))) for text in results]
    return Reply(calls=[Call("final_answer", {"answer": sum(numbers)})])


@needs_hub
@pytest.mark.parametrize("stream", [False, True])
async def test_an_agent_works_with_native_tool_messages(stream: bool) -> None:
    async with SimulatedProvider(policy=counting) as provider:
        agent = ToolCallingAgent(tools=[population], model=model(provider.base_url), stream_outputs=stream)
        assert await agent.arun("How many people live in Norway and Peru?") == 39


@needs_hub
async def test_a_code_agent_solves_a_task() -> None:
    async with SimulatedProvider() as provider:
        agent = CodeAgent(tools=[], model=model(provider.base_url))
        assert await agent.arun("What is 17 * 23 + 4?") == 395


@pytest.mark.skipif(
    not os.environ.get("MANYHANDS_LIVE_HF_MODEL"),
    reason="set MANYHANDS_LIVE_HF_MODEL and HF_TOKEN to ask the real one",
)
async def test_live() -> None:
    asked = InferenceClientModel(os.environ["MANYHANDS_LIVE_HF_MODEL"])
    assert (await asked.agenerate(TASK, max_tokens=64)).text
