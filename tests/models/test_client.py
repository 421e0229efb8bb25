"""A client object of the user's is asked instead, whatever it is made of."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock, MagicMock

import pytest

from manyhands.errors import ConnectionFailedError, RateLimitError, ServerError
from manyhands.messages import ChatMessage, MessageRole, TokenUsage, message
from manyhands.models.openai import OpenAIModel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

TASK = [message(MessageRole.USER, "Say hello.")]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
REPLY: dict[str, Any] = {
    "id": "r1",
    "choices": [
        {"finish_reason": "stop", "message": {"role": "assistant", "content": "Hello", "tool_calls": [CALL]}}
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2},
}
CHUNKS: list[dict[str, Any]] = [
    {"choices": [{"delta": {"content": "Hel"}}]},
    {"choices": [{"delta": {"content": "lo"}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}},
]


def as_object(value: Any) -> Any:
    """A dictionary as an object with the same attributes, and no others."""
    if isinstance(value, dict):
        return SimpleNamespace(**{name: as_object(inner) for name, inner in value.items()})
    return [as_object(inner) for inner in value] if isinstance(value, list) else value


class Dumped:
    """What an SDK gives: an object that can be dumped."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    def model_dump(self) -> dict[str, Any]:
        return self.data


class Completions:
    """The innermost part of a client; remembers how it was asked."""

    def __init__(self, give: Any) -> None:
        self.asked: dict[str, Any] = {}
        self.give = give
        self.closed = False

    async def create(self, **request: Any) -> Any:
        self.asked = request
        return self._stream() if request.get("stream") else self.give

    async def _stream(self) -> AsyncIterator[Any]:
        try:
            for chunk in self.give:
                yield chunk
        finally:
            self.closed = True


class SyncCompletions(Completions):
    def create(self, **request: Any) -> Any:
        self.asked = request
        return self._each() if request.get("stream") else self.give

    def _each(self) -> Iterator[Any]:
        try:
            yield from self.give
        finally:
            self.closed = True


def client_of(completions: Any) -> Any:
    return SimpleNamespace(chat=SimpleNamespace(completions=completions))


@pytest.mark.parametrize("kind", [Completions, SyncCompletions])
@pytest.mark.parametrize("form", [dict, as_object, Dumped])
async def test_a_reply_is_read_in_any_form(kind: type[Completions], form: Any) -> None:
    completions = kind(form(REPLY))
    model = OpenAIModel("m", client=client_of(completions), temperature=0)
    got = await model.agenerate(TASK, tools_to_call_from=[TOOL], stop_sequences=["x"])
    assert got.content == "Hello"
    assert got.tool_calls is not None
    assert (got.tool_calls[0].id, got.tool_calls[0].function.arguments) == ("c1", "{}")
    assert got.token_usage == TokenUsage(5, 2)
    assert got.raw is completions.give
    assert completions.asked == {
        "model": "m",
        "messages": [{"role": "user", "content": "Say hello."}],
        "tools": [TOOL],
        "tool_choice": "required",
        "stop": ["x"],
        "temperature": 0,
    }


@pytest.mark.parametrize("kind", [Completions, SyncCompletions])
@pytest.mark.parametrize("form", [dict, as_object, Dumped])
async def test_a_stream_is_read_in_any_form(kind: type[Completions], form: Any) -> None:
    completions = kind([form(chunk) for chunk in CHUNKS])
    deltas = [delta async for delta in OpenAIModel("m", client=client_of(completions)).agenerate_stream(TASK)]
    assert [delta.content for delta in deltas] == ["Hel", "lo", None]
    assert deltas[-1].token_usage == TokenUsage(5, 2)
    assert completions.asked["stream_options"] == {"include_usage": True}
    assert completions.closed


@pytest.mark.parametrize("kind", [Completions, SyncCompletions])
async def test_a_stream_left_early_is_closed(kind: type[Completions]) -> None:
    completions = kind(CHUNKS)
    deltas = OpenAIModel("m", client=client_of(completions)).agenerate_stream(TASK)
    await anext(deltas)
    await deltas.aclose()
    assert completions.closed


async def test_a_client_may_be_set_later_and_taken_away_again() -> None:
    model = OpenAIModel("m", api_base="http://127.0.0.1:1/v1")
    model.client = client_of(Completions(REPLY))
    assert (await model.agenerate(TASK)).content == "Hello"
    model.client = None
    with pytest.raises(ConnectionFailedError):
        await model.agenerate(TASK)


@pytest.mark.parametrize("create", [MagicMock, AsyncMock])
async def test_mocks_are_good_clients(create: type[MagicMock]) -> None:
    client = MagicMock()
    client.chat.completions.create = create()
    answer = client.chat.completions.create.return_value = MagicMock()
    answer.choices = [MagicMock()]
    answer.choices[0].message.content = "Hello"
    answer.choices[0].message.tool_calls = None
    answer.usage.prompt_tokens, answer.usage.completion_tokens = 3, 1
    got = await OpenAIModel("m", client=client).agenerate(TASK)
    assert (got.content, got.tool_calls, got.reasoning_content) == ("Hello", None, None)
    assert got.token_usage == TokenUsage(3, 1)


async def test_extra_fields_and_headers_go_as_the_sdk_takes_them() -> None:
    completions = Completions(REPLY)
    model = OpenAIModel(
        "m", client=client_of(completions), extra_body={"top_k": 1}, extra_headers={"X-A": "1"}
    )
    await model.agenerate(TASK, extra_body={"min_p": 2})
    assert completions.asked["extra_body"] == {"top_k": 1, "min_p": 2}
    assert completions.asked["extra_headers"] == {"X-A": "1"}


async def test_its_own_errors_come_through_and_its_error_objects_become_ours() -> None:
    class Down(Exception):
        pass

    failing = MagicMock()
    failing.chat.completions.create.side_effect = Down("no")
    with pytest.raises(Down):
        await OpenAIModel("m", client=failing).agenerate(TASK)
    with pytest.raises(RateLimitError, match=r"The client of m .*slow"):
        await OpenAIModel(
            "m", client=client_of(Completions({"error": {"message": "slow", "code": 429}}))
        ).agenerate(TASK)
    with pytest.raises(ServerError, match="no choices"):
        await OpenAIModel("m", client=client_of(Completions({}))).agenerate(TASK)
    broken = OpenAIModel("m", client=client_of(Completions([{"error": {"message": "oh"}}])))
    with pytest.raises(ServerError, match="oh"):
        [delta async for delta in broken.agenerate_stream(TASK)]


def test_sync_code_may_use_a_sync_client() -> None:
    model = OpenAIModel("m", client=client_of(SyncCompletions(REPLY)))
    assert model.generate(TASK).content == "Hello"
    assert isinstance(model(TASK), ChatMessage)
