"""The chat face: existing clients of OpenAI's format talk to an agent as to a model."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from manyhands import ChatMessage, CodeAgent, MessageRole, OpenAIModel, ToolCallingAgent
from manyhands.errors import AuthenticationError, BadRequestError, ProviderError
from manyhands.serve import Token
from manyhands.serve.auth import Principal
from manyhands.testing import FunctionModel, ScriptedModel, SimulatedProvider
from tests.agents.replies import code, final
from tests.serve.serving import Client, Gate, echo, served

SECRET = "token-of-the-chat-client"


def model_at(client: Client, name: str = "agent", **options: Any) -> OpenAIModel:
    return OpenAIModel(name, api_base=f"{client.url}/v1", api_key=SECRET, **options)


def said(*words: str) -> list[ChatMessage]:
    """A conversation in which user and assistant take turns."""
    roles = [MessageRole.USER, MessageRole.ASSISTANT]
    return [ChatMessage(roles[place % 2], text) for place, text in enumerate(words)]


def body(*words: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": str(message.role), "content": message.content} for message in said(*words)]
    return {"model": "agent", "messages": messages, **more}


async def test_our_own_client_gets_an_answer_whole_and_in_pieces() -> None:
    async with served(echo(), tokens=[Token(SECRET)]) as client:
        model = model_at(client)
        whole = await model.agenerate(said("this"))
        assert whole.text == "answer to this"
        assert whole.token_usage is not None
        assert whole.token_usage.total_tokens == 15
        pieces = [piece async for piece in model.agenerate_stream(said("this"))]
        assert "".join(piece.content or "" for piece in pieces) == "answer to this"
        assert pieces[-1].token_usage == whole.token_usage


async def test_what_was_said_before_is_known() -> None:
    async with SimulatedProvider() as provider:
        upstream = OpenAIModel("simulated", api_base=provider.base_url, api_key="none")
        for agent in (CodeAgent([], upstream), ToolCallingAgent(["python_interpreter"], upstream)):
            async with served(agent) as client:
                talk = said("What is 6 * 7?", "42", "Multiply that by 10.")
                assert (await model_at(client).agenerate(talk)).text == "420"


async def test_rules_and_pictures_reach_the_model() -> None:
    model = ScriptedModel([final("seen")])
    png = base64.b64encode(b"\x89PNG").decode()
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png}"}},
    ]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    async with served(ToolCallingAgent([], model)) as client:
        answer = await client.post("/v1/chat/completions", {"model": "agent", "messages": messages})
        assert answer.json["choices"][0]["message"] == {"role": "assistant", "content": "seen"}
    system, user = model.calls[0].messages[:2]
    assert system.text.endswith("Be brief.")
    assert user.content[1] == {"type": "image", "image": b"\x89PNG"}  # type: ignore[index]


async def test_agents_are_listed_as_models() -> None:
    async with served([echo(name="a"), echo(name="b")]) as client:
        listed = (await client.get("/v1/models")).json
        assert [card["id"] for card in listed["data"]] == ["a", "b"]
        assert (await client.get("/v1/models/b")).json == listed["data"][1]
        missing = await client.get("/v1/models/c")
        assert (missing.status, missing.error["code"]) == (404, "model_not_found")


async def test_a_stream_has_the_form_that_clients_know() -> None:
    model = ScriptedModel({"this": [code("final_answer({'a': 1})")]})
    async with served(CodeAgent([], model)) as client:
        asked = body("this", stream=True, stream_options={"include_usage": True})
        answer = await client.post("/v1/chat/completions", asked)
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    *frames, end = answer.body.decode().strip().split("\n\n")
    assert end == "data: [DONE]"
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames]
    assert {(chunk["object"], chunk["model"]) for chunk in chunks} == {("chat.completion.chunk", "agent")}
    assert len({chunk["id"] for chunk in chunks}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == code("final_answer({'a': 1})")
    assert "".join(delta.get("content", "") for delta in deltas) == '{"a": 1}'
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["total_tokens"] == 15


async def test_an_answer_without_steps_left_has_the_reason_length() -> None:
    model = ScriptedModel({"this": [code("1 + 1"), "that is all"]})
    async with served(CodeAgent([], model, max_steps=1)) as client:
        choice = (await client.post("/v1/chat/completions", body("this"))).json["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"] == "that is all"


@pytest.mark.parametrize("stop", ["to", ["nowhere", "to"]])
async def test_a_stop_sequence_cuts_the_answer(stop: Any) -> None:
    async with served(echo()) as client:
        answer = await client.post("/v1/chat/completions", body("this", stop=stop))
    assert answer.json["choices"][0]["message"]["content"] == "answer "


@pytest.mark.parametrize("stream", [False, True])
async def test_a_run_that_fails_is_an_error_in_the_form_that_clients_know(stream: bool) -> None:
    agent = ToolCallingAgent([], ScriptedModel([RuntimeError("the model is gone")]))
    async with served(agent) as client:
        answer = await client.post("/v1/chat/completions", body("this", stream=stream))
    if stream:
        assert answer.status == 200
        *_, last = answer.body.decode().strip().split("\n\n")
        error = json.loads(last.removeprefix("data: "))["error"]
    else:
        assert (answer.status, answer.headers["X-Should-Retry"]) == (500, "false")
        error = answer.error
    assert error["type"] == "server_error"
    assert "the model is gone" in error["message"]


async def test_our_own_client_raises_what_the_server_says() -> None:
    async with served(echo(), tokens=[Token(SECRET)]) as client:
        with pytest.raises(BadRequestError, match="no agent 'other'"):
            await model_at(client, "other").agenerate(said("this"))
        with pytest.raises(BadRequestError, match="last one must be the user's"):
            await model_at(client).agenerate(said("this", "that"))
        wrong = OpenAIModel("agent", api_base=f"{client.url}/v1", api_key="wrong")
        with pytest.raises(AuthenticationError, match="needs a token"):
            await wrong.agenerate(said("this"))
    failing = ToolCallingAgent([], ScriptedModel([RuntimeError("the model is gone")]))
    async with served(failing) as client:
        with pytest.raises(ProviderError, match="the model is gone"):
            await model_at(client, retry=False).agenerate(said("this"))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"n": 2}, "n"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"response_format": {"type": "json_object"}}, "response_format.type"),
    ({"best_of": 3}, "best_of"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": None}]}, "messages.0.content.text"),
]


async def test_what_an_agent_cannot_do_is_refused() -> None:
    async with served(echo()) as client:
        for more, param in REFUSED:
            refused = await client.post("/v1/chat/completions", {**body("this"), **more})
            assert refused.status == 400, more
            assert (refused.error["type"], refused.error["param"]) == ("invalid_request_error", param)


async def test_what_only_makes_sense_for_a_bare_model_is_taken() -> None:
    more = {"temperature": 0, "top_p": 1, "max_tokens": 10, "seed": 1, "user": "me", "tools": [], "n": 1}
    async with served(echo()) as client:
        assert (await client.post("/v1/chat/completions", body("this", **more))).status == 200


async def test_pictures_are_never_fetched() -> None:
    parts = [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}}]
    async with served(echo()) as client:
        asked = {"model": "agent", "messages": [{"role": "user", "content": parts}]}
        assert (await client.post("/v1/chat/completions", asked)).status == 400


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chat_client_that_leaves_takes_its_run_along(stream: bool) -> None:
    gate = Gate()
    async with served(gate.agent()) as client:
        asking = asyncio.create_task(client.post("/v1/chat/completions", body("this", stream=stream)))
        await gate.until(1)
        asking.cancel()
        await asyncio.wait([asking])
        run = (await client.get("/v1/runs")).json["runs"][0]
        record = client.app.state.service.store.get(run["id"], Principal("", operator=True))
        await record.ended.wait()
    assert record.status == "cancelled"


async def test_an_agent_may_use_a_served_agent_as_its_model() -> None:
    """The face is whole enough for an agent: its prompts, stop sequences and streams."""

    async def write(messages: list[ChatMessage]) -> ChatMessage:
        return final("Thought: easy.\n<code>\nfinal_answer(42)\n</code>")

    async with served(ToolCallingAgent([], FunctionModel(write))) as client:
        for stream in (False, True):
            agent = CodeAgent([], model_at(client), stream_outputs=stream)
            assert await agent.arun("What is 6 * 7?") == 42


async def test_the_openai_sdk_talks_to_an_agent() -> None:
    openai = pytest.importorskip("openai")
    async with (
        served(echo(), tokens=[Token(SECRET)]) as client,
        openai.AsyncOpenAI(base_url=f"{client.url}/v1", api_key=SECRET, max_retries=0) as sdk,
    ):
        messages = [{"role": "user", "content": "this"}]
        assert [card.id async for card in sdk.models.list()] == ["agent"]
        whole = await sdk.chat.completions.create(model="agent", messages=messages, temperature=0)
        assert whole.choices[0].message.content == "answer to this"
        assert whole.usage.total_tokens == 15
        stream = await sdk.chat.completions.create(model="agent", messages=messages, stream=True)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(pieces) == "answer to this"
        with pytest.raises(openai.NotFoundError, match="no agent"):
            await sdk.chat.completions.create(model="other", messages=messages)
        with pytest.raises(openai.AuthenticationError):
            await sdk.with_options(api_key="wrong").models.list()
    failing = ToolCallingAgent([], ScriptedModel([RuntimeError("the model is gone")]))
    async with (
        served(failing) as client,
        openai.AsyncOpenAI(base_url=f"{client.url}/v1", api_key="none") as sdk,
    ):
        with pytest.raises(openai.InternalServerError, match="the model is gone"):
            await sdk.chat.completions.create(model="agent", messages=messages)
        with pytest.raises(openai.APIError, match="no replies|asked|gone"):
            stream = await sdk.chat.completions.create(model="agent", messages=messages, stream=True)
            _ = [chunk async for chunk in stream]
        assert len((await client.get("/v1/runs")).json["runs"]) == 2
