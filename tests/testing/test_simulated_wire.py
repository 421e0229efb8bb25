"""The wire format: what a client sends and gets, by the letter of OpenAI's chat completions."""

from __future__ import annotations

import io
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands.testing.simulated import Call, ChatRequest, Reply, SimulatedProvider, WireError
from manyhands.testing.wire import parse_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

JSON = dict[str, Any]
USER: JSON = {"role": "user", "content": "Hello!"}
WEATHER: JSON = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def request(*messages: JSON, **fields: Any) -> JSON:
    return {"model": "tiny", "messages": list(messages) or [USER], **fields}


@asynccontextmanager
async def asking(**settings: Any) -> AsyncIterator[Ask]:
    async with SimulatedProvider(**settings) as provider, aiohttp.ClientSession() as session:
        yield Ask(provider, session)


class Ask:
    """A client of one provider."""

    def __init__(self, provider: SimulatedProvider, session: aiohttp.ClientSession) -> None:
        self.url = f"{provider.base_url}/chat/completions"
        self.session = session

    async def __call__(self, body: JSON | bytes) -> tuple[int, JSON]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.session.post(self.url, data=data) as response:
            return response.status, await response.json()

    async def message(self, body: JSON) -> JSON:
        status, answer = await self(body)
        assert status == 200, answer
        message: JSON = answer["choices"][0]["message"]
        return message

    async def chunks(self, body: JSON) -> list[JSON]:
        async with self.session.post(self.url, json=body | {"stream": True}) as response:
            assert response.headers["Content-Type"].startswith("text/event-stream")
            text = await response.text()
        lines = text.removesuffix("\n\n").split("\n\n")
        assert lines[-1] == "data: [DONE]"
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


async def test_an_answer_has_all_fields_of_a_completion() -> None:
    async with asking(policy=lambda _: "Good day") as ask:
        status, answer = await ask(request())
    assert status == 200
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "tiny"
    assert isinstance(answer["created"], int)
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Good day", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]


async def test_usage_counts_four_characters_as_a_token() -> None:
    async with asking(policy=lambda _: "nine char") as ask:
        _, answer = await ask(request({"role": "user", "content": "x" * 41}))
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (11, 3, 14)


async def test_a_picture_counts_as_85_tokens() -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 50_000}},
    ]
    async with asking(policy=lambda _: "A dot") as ask:
        _, answer = await ask(request({"role": "user", "content": parts}))
    assert answer["usage"]["prompt_tokens"] == 85 + 4


async def test_ids_of_answers_and_calls_never_repeat() -> None:
    async with asking(policy=lambda _: [Call("a"), Call("a")]) as ask:
        answers = [(await ask(request()))[1] for _ in range(5)]
    calls = [call["id"] for answer in answers for call in answer["choices"][0]["message"]["tool_calls"]]
    assert len({answer["id"] for answer in answers}) == 5
    assert len(set(calls)) == 10


async def test_tool_calls_carry_their_arguments_as_json_text() -> None:
    async with asking(policy=lambda _: Call("get_weather", {"city": "Zürich"})) as ask:
        _, answer = await ask(request(tools=[WEATHER]))
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    [call] = choice["message"]["tool_calls"]
    assert call["type"] == "function"
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Zürich"}


async def test_a_policy_may_send_broken_arguments_and_its_own_ids() -> None:
    async with asking(policy=lambda _: Call("f", '{"city": ', id="")) as ask:
        message = await ask.message(request())
    assert message["tool_calls"] == [
        {"id": "", "type": "function", "function": {"name": "f", "arguments": '{"city": '}}
    ]


async def test_a_stream_starts_with_the_role_and_ends_with_the_reason() -> None:
    async with asking(policy=lambda _: "Good day to you") as ask:
        chunks = await ask.chunks(request())
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": "", "refusal": None}
    assert "".join(delta.get("content", "") for delta in deltas) == "Good day to you"
    assert len(deltas) > 4
    assert deltas[-1] == {}
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all("usage" not in chunk for chunk in chunks)


async def test_a_stream_ends_with_usage_when_asked() -> None:
    async with asking(policy=lambda _: "Good day") as ask:
        chunks = await ask.chunks(request(stream_options={"include_usage": True}))
        _, plain = await ask(request())
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == plain["usage"]


async def test_streamed_tool_calls_come_in_pieces_that_join_to_the_whole() -> None:
    calls = [Call("get_weather", {"city": "Oslo"}), Call("get_weather", {"city": "Reykjavik"})]
    async with asking(policy=lambda _: Reply("Let me see.", calls)) as ask:
        chunks = await ask.chunks(request(tools=[WEATHER]))
    found: dict[int, JSON] = {}
    for chunk in chunks:
        for piece in chunk["choices"][0]["delta"].get("tool_calls", ()):
            if piece["index"] not in found:
                assert piece["type"] == "function"
                found[piece["index"]] = {"id": piece["id"], "name": piece["function"]["name"], "text": ""}
            found[piece["index"]]["text"] += piece["function"]["arguments"]
    assert [json.loads(call["text"]) for call in found.values()] == [{"city": "Oslo"}, {"city": "Reykjavik"}]
    assert len({call["id"] for call in found.values()}) == 2
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("stop", ["</code>", ["Observation:", "</code>"]])
async def test_text_is_cut_before_the_earliest_stop_sequence(stop: Any) -> None:
    async with asking(policy=lambda _: "<code>\nx = 1\n</code> and more Observation: no") as ask:
        message = await ask.message(request(stop=stop))
        chunks = await ask.chunks(request(stop=stop))
    assert message["content"] == "<code>\nx = 1\n"
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == message["content"]


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_text_is_cut_at_the_token_limit_with_reason_length(field: str) -> None:
    async with asking(policy=lambda _: "0123456789" * 4) as ask:
        _, answer = await ask(request(**{field: 5}))
    assert answer["choices"][0]["message"]["content"] == "01234567890123456789"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 5


async def test_any_text_survives_the_wire() -> None:
    text = 'quotes " and \\ and \n newlines, ünïcödé, 手, 🤝, \u2028, \x00, lone \ud800'
    async with asking(policy=lambda _: text) as ask:
        assert (await ask.message(request()))["content"] == text
        chunks = await ask.chunks(request())
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == text


CALLED: JSON = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}
RESULT: JSON = {"role": "tool", "tool_call_id": "c1", "content": "12"}


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        (b"{not json", None, "could not parse the JSON"),
        (b"\xff\xfe", None, "could not parse the JSON"),
        (b"[1, 2]", "body", "expected an object"),
        ({"messages": [USER]}, None, "must provide a model"),
        ({"model": 3, "messages": [USER]}, "model", "expected a string"),
        ({"model": "tiny"}, "messages", "Missing required parameter: 'messages'"),
        ({"model": "tiny", "messages": []}, "messages", "empty array"),
        ({"model": "tiny", "messages": "Hi"}, "messages", "got a string"),
        (request({"role": "wizard", "content": "x"}), "messages[0].role", "'system', 'developer', 'user'"),
        (request(USER, {"content": "x"}), "messages[1].role", "Missing required"),
        (request({"role": "user", "content": None}), "messages[0].content", "got null"),
        (request({"role": "user", "content": 5}), "messages[0].content", "got a number"),
        (request({"role": "user", "content": [{"type": "text"}]}), "messages[0].content[0].text", "Missing"),
        (request({"role": "user", "content": ["hi"]}), "messages[0].content[0].type", "Missing"),
        (request(USER, RESULT), "messages[1].role", "must be a response to a preceding message"),
        (request(USER, CALLED, USER), "messages[2].role", "did not have response messages: c1"),
        (request(USER, CALLED), "messages[2].role", "did not have response messages: c1"),
        (request(temperature=1, n=2), "n", "exactly one choice"),
        (request(max_tokens=0), "max_tokens", "expected a value >= 1"),
        (request(max_tokens="5"), "max_tokens", "expected an integer"),
        (request(stop=5), "stop", "a string or an array"),
        (request(stream="yes"), "stream", "expected a boolean"),
        (request(stream_options={"include_usage": True}), "stream_options", "only allowed when 'stream'"),
        (request(tools={}), "tools", "expected an array"),
        (request(tools=[{"type": "tool"}]), "tools[0].type", "'function'"),
        (request(tools=[{"type": "function"}]), "tools[0].function", "Missing"),
        (request(tools=[{"type": "function", "function": {}}]), "tools[0].function.name", "Missing"),
        (request(tool_choice="required"), "tool_choice", "only allowed when 'tools'"),
        (request(tools=[WEATHER], tool_choice="maybe"), "tool_choice", "'none', 'auto', 'required'"),
        (
            request(tools=[WEATHER], tool_choice={"type": "function", "function": {"name": "nope"}}),
            "tool_choice",
            "no function named 'nope'",
        ),
        (request(response_format={"type": "xml"}), "response_format.type", "'json_schema'"),
        (request(response_format={"type": "json_schema"}), "response_format.json_schema.schema", "Missing"),
    ],
)
async def test_a_bad_request_names_the_field_at_fault(body: Any, param: str | None, says: str) -> None:
    async with asking() as ask:
        status, answer = await ask(body)
    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["param"] == param
    assert says in answer["error"]["message"]
    assert set(answer["error"]) == {"message", "type", "param", "code"}


async def test_a_whole_round_of_tool_calls_is_a_good_request() -> None:
    async with asking() as ask:
        status, _ = await ask(request(USER, CALLED, RESULT, tools=[WEATHER]))
    assert status == 200


async def test_a_wrong_key_is_refused_and_never_shown() -> None:
    async with SimulatedProvider(api_key="right") as provider, aiohttp.ClientSession() as session:
        url = f"{provider.base_url}/chat/completions"
        for key, status in (("wrong-secret", 401), ("", 401), ("right", 200)):
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            async with session.post(url, json=request(), headers=headers) as response:
                assert response.status == status
                assert "wrong-secret" not in await response.text()


async def test_only_the_models_on_offer_are_found() -> None:
    async with asking(models=["small", "large"]) as ask:
        status, answer = await ask(request())
        assert (status, answer["error"]["code"]) == (404, "model_not_found")
        assert (await ask(request() | {"model": "large"}))[0] == 200
        async with ask.session.get(ask.url.replace("chat/completions", "models")) as response:
            assert [model["id"] for model in (await response.json())["data"]] == ["small", "large"]
        async with ask.session.get(ask.url.replace("chat/completions", "models/small")) as response:
            assert (await response.json())["id"] == "small"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/chat/completions", 405), ("POST", "/stats", 405), ("GET", "/v2", 404), ("POST", "/", 404)],
)
async def test_a_wrong_turn_gets_an_error_object(method: str, path: str, status: int) -> None:
    async with SimulatedProvider() as provider, aiohttp.ClientSession() as session:
        url = provider.base_url.removesuffix("/v1") + path
        async with session.request(method, url) as response:
            assert response.status == status
            assert path in (await response.json())["error"]["message"]


async def test_health_and_stats_are_plain_pages() -> None:
    async with asking(policy=lambda _: "four") as ask:
        await ask(request())
        root = ask.url.removesuffix("/v1/chat/completions")
        async with ask.session.get(f"{root}/health") as response:
            assert await response.json() == {"status": "ok"}
        async with ask.session.get(f"{root}/stats") as response:
            stats = await response.json()
    assert stats["requests"] == 1
    assert stats["by_status"] == {"200": 1}
    assert (stats["prompt_tokens"], stats["completion_tokens"]) == (2, 1)


async def test_a_policy_may_be_async_and_sees_the_checked_request() -> None:
    seen: list[ChatRequest] = []

    async def policy(chat: ChatRequest) -> str:
        seen.append(chat)
        return chat.text_of()

    async with asking(policy=policy) as ask:
        message = await ask.message(request(tools=[WEATHER], tool_choice="auto", stop="x", max_tokens=9))
    assert message["content"] == "Hello!"
    [chat] = seen
    assert (chat.model, chat.stop, chat.max_tokens, chat.stream) == ("tiny", ("x",), 9, False)
    assert chat.tool_names() == ["get_weather"]


async def test_a_policy_can_answer_with_an_error() -> None:
    def policy(_: ChatRequest) -> str:
        raise WireError(400, "too long", param="messages", code="context_length_exceeded")

    async with asking(policy=policy) as ask:
        status, answer = await ask(request())
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")


@pytest.mark.parametrize("said", [ZeroDivisionError, 5])
async def test_a_policy_that_fails_says_so_to_the_client(said: Any) -> None:
    def policy(_: ChatRequest) -> Any:
        if said is ZeroDivisionError:
            raise ZeroDivisionError("by nothing")
        return said

    async with asking(policy=policy) as ask:
        status, answer = await ask(request())
    assert status == 500
    assert answer["error"]["message"].startswith("The policy failed: ")


async def test_a_body_above_the_limit_is_refused() -> None:
    async with asking() as ask:
        body = io.BytesIO(b" " * (64 * 2**20 + 1))
        async with ask.session.post(ask.url, data=body) as response:
            assert response.status == 413
            assert (await response.json())["error"]["code"] == "request_too_large"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
messages = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["system", "user", "assistant", "tool", "developer"]) | values,
            "content": st.text() | values,
            "tool_calls": values,
            "tool_call_id": values,
        },
    ),
    max_size=4,
)
FIELDS = ("tools", "tool_choice", "stop", "stream", "stream_options", "max_tokens", "response_format", "n")


@settings(max_examples=300, deadline=None)
@given(messages | values, st.dictionaries(st.sampled_from(FIELDS), values))
def test_no_json_crashes_the_reader(said: Any, more: JSON) -> None:
    body = json.dumps({"model": "tiny", "messages": said, **more}).encode()
    try:
        parse_request(body)
    except WireError as error:
        assert error.status == 400
        json.loads(error.body())


async def test_a_deeply_nested_body_is_malformed_not_fatal() -> None:
    async with asking() as ask:
        status, _ = await ask(b'{"model": "tiny", "messages": ' + b"[" * 100_000)
        assert status == 400
        assert (await ask(request()))[0] == 200
