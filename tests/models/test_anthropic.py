"""Anthropic's Messages API: what is particular about it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from manyhands.errors import AuthenticationError
from manyhands.messages import (
    ChatMessage,
    ChatMessageToolCall,
    ChatMessageToolCallFunction,
    DeltaFold,
    MessageRole,
    TokenUsage,
    message,
    text_part,
)
from manyhands.models.anthropic import AnthropicModel
from manyhands.models.cleaning import REMOVE_PARAMETER
from tests.models.servers import CHUNKED, RawServer, answering, chunk, http
from tests.models.wires import Anthropic, Turn, event

SYSTEM, USER, ASSISTANT = MessageRole.SYSTEM, MessageRole.USER, MessageRole.ASSISTANT
TASK = [message(USER, "Say hello.")]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
WIRE = Anthropic()
OK = WIRE.answer(Turn("Hello"))
RESULT = ChatMessage(MessageRole.TOOL_RESPONSE, "seen", tool_call_id="c1")
MARK = {"type": "ephemeral"}


def model(server: RawServer, model_id: str = "claude-haiku-4-5", **settings: Any) -> AnthropicModel:
    return AnthropicModel(model_id, server.origin, **{"api_key": "k", **settings})


def answer(*content: dict[str, Any], **fields: Any) -> bytes:
    whole = {**json.loads(WIRE.plain(Turn("x"))), "content": list(content), **fields}
    return http(json.dumps(whole).encode())


async def sent(*messages: ChatMessage, settings: Any = None, **options: Any) -> Any:
    async with answering(OK) as server:
        await model(server, **(settings or {})).agenerate(list(messages), **options)
    return server.requests[0].json


# --- Where and as whom -----------------------------------------------------------------------------


async def test_the_request_carries_key_version_and_betas() -> None:
    async with answering(OK) as server:
        await model(server, "anthropic/claude-x", betas=["a-1", "b-2"]).agenerate(TASK)
    (request,) = server.requests
    names = ("x-api-key", "anthropic-version", "anthropic-beta")
    assert [request.headers[name] for name in names] == ["k", "2023-06-01", "a-1,b-2"]
    assert request.json["model"] == "claude-x"


async def test_address_key_and_token_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)
    monkeypatch.delenv("ANTHROPIC_AUTH_TOKEN", raising=False)
    with pytest.raises(AuthenticationError, match="ANTHROPIC_API_KEY"):
        AnthropicModel("claude-x").endpoint()
    async with answering(OK) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.base)  # with /v1, as some write it
        monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "t-1")
        await AnthropicModel("claude-x").agenerate(TASK)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "k-1")
        await AnthropicModel("claude-x").agenerate(TASK)
    first, second = server.requests
    assert (first.target, first.headers["authorization"]) == ("/v1/messages", "Bearer t-1")
    assert second.headers["x-api-key"] == "k-1"


# --- What is sent ----------------------------------------------------------------------------------


async def test_neighbours_are_one_message_and_blank_text_is_left_out() -> None:
    request = await sent(
        message(SYSTEM, "a"),
        message(USER, "b"),
        message(USER, "c"),
        ChatMessage(ASSISTANT, "  "),
        ChatMessage(ASSISTANT, "d"),
        message(SYSTEM, "e"),
        message(USER, "f"),
    )
    assert [block["text"] for block in request["system"]] == ["a", "e"]
    assert [(turn["role"], [block["text"] for block in turn["content"]]) for turn in request["messages"]] == [
        ("user", ["b", "c"]),
        ("assistant", ["d"]),
        ("user", ["f"]),
    ]


async def test_results_come_first_in_the_message_after_their_calls() -> None:
    calls = [ChatMessageToolCall(ChatMessageToolCallFunction('{"at": 1}', "look"), "call:1")]
    result = ChatMessage(MessageRole.TOOL_RESPONSE, [text_part("seen")], tool_call_id="call:1")
    request = await sent(*TASK, ChatMessage(ASSISTANT, None, calls), result, message(USER, "Go on."))
    assert request["messages"][1:] == [
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "call_1", "name": "look", "input": {"at": 1}}],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "call_1",
                    "content": [{"type": "text", "text": "seen"}],
                },
                {"type": "text", "text": "Go on."},
            ],
        },
    ]


@pytest.mark.parametrize(
    ("arguments", "sent_as"),
    [
        ("", {}),
        (None, {}),
        ({"a": 1}, {"a": 1}),
        ("nonsense", {"arguments": "nonsense"}),
        ("[1]", {"arguments": [1]}),
    ],
)
async def test_arguments_are_always_an_object(arguments: Any, sent_as: Any) -> None:
    calls = [ChatMessageToolCall(ChatMessageToolCallFunction(arguments, "look"), "c1")]
    request = await sent(*TASK, ChatMessage(ASSISTANT, None, calls), RESULT)
    assert request["messages"][1]["content"][0]["input"] == sent_as


@pytest.mark.parametrize(
    ("options", "choice"),
    [
        ({}, {"type": "any"}),
        ({"tool_choice": "auto"}, {"type": "auto"}),
        ({"tool_choice": "none"}, {"type": "none"}),
        (
            {"tool_choice": {"type": "function", "function": {"name": "look"}}},
            {"type": "tool", "name": "look"},
        ),
        ({"tool_choice": {"type": "tool", "name": "look"}}, {"type": "tool", "name": "look"}),
        ({"parallel_tool_calls": False}, {"type": "any", "disable_parallel_tool_use": True}),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"type": "auto"}),
        ({"thinking": {"type": "disabled"}}, {"type": "any"}),
        ({"tool_choice": REMOVE_PARAMETER}, None),
    ],
)
async def test_the_choice_of_tools_takes_its_form_here(options: Any, choice: Any) -> None:
    request = await sent(*TASK, tools_to_call_from=[TOOL], **options)
    assert request.get("tool_choice") == choice
    assert request["tools"] == [
        {"name": "look", "description": "", "input_schema": {"type": "object", "properties": {}}}
    ]


@pytest.mark.parametrize(
    ("model_id", "options", "limit"),
    [
        ("claude-haiku-4-5", {}, 8192),
        ("claude-3-haiku-20240307", {}, 4096),
        ("claude-haiku-4-5", {"max_tokens": 5}, 5),
        ("claude-haiku-4-5", {"max_completion_tokens": 6}, 6),
        ("claude-haiku-4-5", {"thinking": {"type": "enabled", "budget_tokens": 2000}}, 10192),
    ],
)
async def test_there_is_always_a_limit_on_the_reply(model_id: str, options: Any, limit: int) -> None:
    request = await sent(*TASK, settings={"model_id": model_id}, **options)
    assert request["max_tokens"] == limit
    assert "max_completion_tokens" not in request


async def test_blank_stop_sequences_are_applied_here() -> None:
    async with answering(WIRE.answer(Turn("one\n\ntwo"))) as server:
        got = await model(server).agenerate(TASK, stop_sequences=["\n\n", "STOP"])
    assert got.content == "one"
    assert server.requests[0].json["stop_sequences"] == ["STOP"]


async def test_a_schema_is_closed_as_the_api_wants_it() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "object", "properties": {}}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    request = await sent(*TASK, response_format=wanted, output_config={"effort": "low"})
    inner = {"type": "object", "properties": {}, "additionalProperties": False}
    assert request["output_config"] == {
        "format": {
            "type": "json_schema",
            "schema": {"type": "object", "properties": {"a": inner}, "additionalProperties": False},
        },
        "effort": "low",
    }
    assert schema["properties"] == {"a": {"type": "object", "properties": {}}}


async def test_cache_marks_stand_at_the_end_of_what_stays() -> None:
    request = await sent(
        message(SYSTEM, "a"),
        message(SYSTEM, "b"),
        *TASK,
        ChatMessage(ASSISTANT, "c"),
        message(USER, "d"),
        message(USER, "e"),
        settings={"cache": True},
        tools_to_call_from=[TOOL, {**TOOL, "function": {**TOOL["function"], "name": "see"}}],  # type: ignore[dict-item]
    )
    assert [block.get("cache_control") for block in request["system"]] == [None, MARK]
    assert [definition.get("cache_control") for definition in request["tools"]] == [None, MARK]
    last = request["messages"][-1]["content"]
    assert [block.get("cache_control") for block in last] == [None, MARK]
    assert json.dumps(request).count("cache_control") == 3


async def test_cache_marks_move_on_with_the_conversation() -> None:
    conversation = [message(SYSTEM, "a"), *TASK]
    async with answering(OK) as server:
        asked = model(server, cache="1h")
        await asked.agenerate(conversation)
        conversation += [ChatMessage(ASSISTANT, "c"), message(USER, "d")]
        await asked.agenerate(conversation)
    marked = [
        [block.get("cache_control") for turn in request.json["messages"] for block in turn["content"]]
        for request in server.requests
    ]
    hour = {**MARK, "ttl": "1h"}
    assert marked == [[hour], [None, None, hour]]


# --- What comes back -------------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("dumped", [False, True])
async def test_signed_thoughts_go_back_as_they_came(streams: bool, dumped: bool) -> None:
    turn = Turn("I look.", (("look", {"at": "é"}, "c1"),), "Hm.")
    body = b"".join(WIRE.stream(turn))
    first = [CHUNKED, chunk(body), chunk(b"")] if streams else WIRE.answer(turn)
    async with answering(first, OK) as server:
        asked, fold = model(server), DeltaFold()
        if streams:
            async for delta in asked.agenerate_stream(TASK):
                fold.add(delta)
        got = fold.message() if streams else await asked.agenerate(TASK)
        if dumped:  # from a file, say
            got = ChatMessage.from_dict(json.loads(got.model_dump_json()))
        await asked.agenerate([*TASK, got, RESULT])
    assert got.reasoning_content == "Hm."
    assert server.requests[1].json["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": "EqQB="},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "c1", "name": "look", "input": {"at": "é"}},
    ]


BLOCKS: list[dict[str, Any]] = [
    {"type": "redacted_thinking", "data": "gAAA"},
    {"type": "text", "text": "I search. "},
    {"type": "server_tool_use", "id": "st_1", "name": "web_search", "input": {"query": "é"}},
    {
        "type": "web_search_tool_result",
        "tool_use_id": "st_1",
        "content": [{"type": "web_search_result", "url": "u"}],
    },
    {"type": "text", "text": "Found."},
    {"type": "tool_use", "id": "c1", "name": "look", "input": {}},
]


@pytest.mark.parametrize("streams", [False, True])
async def test_what_ran_over_there_keeps_its_place(streams: bool) -> None:
    events: list[Any] = [{"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 1}}}]
    for index, block in enumerate(BLOCKS):
        start = (
            {**block, "input": {}}
            if "input" in block
            else {**block, "text": ""}
            if "text" in block
            else block
        )
        events.append({"type": "content_block_start", "index": index, "content_block": start})
        if "text" in block:
            piece: dict[str, Any] = {"type": "text_delta", "text": block["text"]}
            events.append({"type": "content_block_delta", "index": index, "delta": piece})
        if block.get("input"):
            piece = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
            events.append({"type": "content_block_delta", "index": index, "delta": piece})
        events.append({"type": "content_block_stop", "index": index})
    events += [{"type": "message_delta", "delta": {"stop_reason": "tool_use"}}, {"type": "message_stop"}]
    body = b"".join(event(data) for data in events)
    async with answering([CHUNKED, chunk(body), chunk(b"")] if streams else answer(*BLOCKS), OK) as server:
        asked, fold = model(server), DeltaFold()
        if streams:
            async for delta in asked.agenerate_stream(TASK):
                fold.add(delta)
        got = fold.message() if streams else await asked.agenerate(TASK)
        await asked.agenerate([*TASK, got, RESULT])
    assert got.content == "I search. Found."
    assert server.requests[1].json["messages"][1]["content"] == BLOCKS


async def test_thoughts_of_others_are_not_sent() -> None:
    items = [{"type": "reasoning", "id": "rs_1"}, {"type": "reasoning.text", "text": "x"}]
    got = ChatMessage(ASSISTANT, "Hello", provider_items=items)
    request = await sent(*TASK, got, message(USER, "b"))
    assert request["messages"][1]["content"] == [{"type": "text", "text": "Hello"}]


async def test_the_whole_prompt_is_counted() -> None:
    usage = {
        "input_tokens": 3,
        "cache_read_input_tokens": 40,
        "cache_creation_input_tokens": 5,
        "output_tokens": 7,
    }
    async with answering(answer({"type": "text", "text": "Hi"}, usage=usage)) as server:
        got = await model(server).agenerate(TASK)
    assert got.token_usage == TokenUsage(48, 7, 40, 0)
    assert got.raw["usage"] == usage
    assert got.raw["stop_reason"] == "end_turn"


async def test_citations_are_kept() -> None:
    citation = {"type": "char_location", "cited_text": "x"}
    events: list[Any] = [
        {"type": "message_start", "message": {"id": "m"}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "citations_delta", "citation": citation},
        },
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
        {"type": "message_stop"},
    ]
    body = b"".join(event(data, data["type"]) for data in events)
    async with answering([CHUNKED, chunk(body), chunk(b"")]) as server:
        deltas = [delta async for delta in model(server).agenerate_stream(TASK)]
    assert deltas[-1].raw["content"] == [{"type": "text", "text": "Hi", "citations": [citation]}]
