"""Amazon Bedrock: the real boto3 over HTTP to a server that answers as Converse does."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import secrets
import struct
import sys
import threading
import traceback
import zlib
from importlib import import_module
from typing import Any
from unittest.mock import MagicMock

import pytest

from manyhands import ToolCallingAgent, tool
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
    TokenUsage,
    agglomerate_stream_deltas,
    message,
)
from manyhands.models.bedrock import AmazonBedrockModel, AmazonBedrockServerModel
from manyhands.models.cleaning import REMOVE_PARAMETER
from tests.models.servers import CHUNKED, RawServer, answering, chunk, http
from tests.models.waiting import until

needs_boto3 = pytest.mark.skipif(
    importlib.util.find_spec("boto3") is None,
    reason='boto3 is not installed: pip install "manyhands[bedrock]"',
)
# botocore itself uses what Python is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore")

MODEL = "anthropic.claude-sonnet-4-5-v1:0"
TASK = [message(MessageRole.SYSTEM, "Be brief."), message(MessageRole.USER, "Say hello.")]
PARAMETERS = {"type": "object", "properties": {"where": {"type": "string"}}}
TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "Look around.", "parameters": PARAMETERS},
}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
USAGE = {
    "inputTokens": 7,
    "outputTokens": 3,
    "totalTokens": 16,
    "cacheReadInputTokens": 5,
    "cacheWriteInputTokens": 1,
}


def converse(*blocks: Any, stop: str = "end_turn") -> bytes:
    """An answer of Converse as HTTP."""
    content = [{"text": block} if isinstance(block, str) else block for block in blocks]
    answer = {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": stop,
        "usage": USAGE,
        "metrics": {"latencyMs": 5},
    }
    return http(json.dumps(answer).encode())


def refused(status: str, code: str, text: str = "No.", **headers: str) -> bytes:
    return http(json.dumps({"message": text}).encode(), status, x_amzn_errortype=code, **headers)


def frame(kind: str, payload: dict[str, Any], sort: str = "event") -> bytes:
    """One message of an event stream, as AWS puts it on the wire."""
    named = {f":{sort}-type": kind, ":content-type": "application/json", ":message-type": sort}
    head = b"".join(
        struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", 7, len(value)) + value.encode()
        for name, value in named.items()
    )
    body = json.dumps(payload).encode()
    prelude = struct.pack("!II", 16 + len(head) + len(body), len(head))
    whole = prelude + struct.pack("!I", zlib.crc32(prelude)) + head + body
    return chunk(whole + struct.pack("!I", zlib.crc32(whole)))


EVENTS = CHUNKED.replace(b"text/event-stream", b"application/vnd.amazon.eventstream")


def text(piece: str, block: int = 0) -> bytes:
    return frame("contentBlockDelta", {"contentBlockIndex": block, "delta": {"text": piece}})


def stop(reason: str = "end_turn") -> bytes:
    usage = frame("metadata", {"usage": USAGE, "metrics": {"latencyMs": 5}})
    return frame("messageStop", {"stopReason": reason}) + usage + chunk(b"")


def stream(*frames: bytes) -> list[Any]:
    return [EVENTS, frame("messageStart", {"role": "assistant"}), *frames, None]


def model(server: RawServer, model_id: str = MODEL, **settings: Any) -> AmazonBedrockModel:
    where = {
        "endpoint_url": server.origin,
        "region_name": "eu-west-1",
        "aws_access_key_id": "AKIATEST",
        "aws_secret_access_key": "shh-secret",
    }
    return AmazonBedrockModel(
        model_id, client_kwargs={**where, **settings.pop("client_kwargs", {})}, **settings
    )


async def streamed(asked: AmazonBedrockModel, messages: Any = TASK, **options: Any) -> ChatMessage:
    return agglomerate_stream_deltas([delta async for delta in asked.agenerate_stream(messages, **options)])


async def sent(
    messages: list[ChatMessage], asked: dict[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    """What goes over the wire for a conversation."""
    async with answering(converse("Hello")) as server:
        await model(server, **asked or {}).agenerate(messages, **options)
    return server.requests[0].json


# --- What is sent ------------------------------------------------------------------------------


@needs_boto3
async def test_a_question_gets_its_reply_and_its_token_counts() -> None:
    async with answering(converse("Hello", " there")) as server:
        got = await model(server).agenerate(TASK)
    assert (got.role, got.content, got.tool_calls) == (MessageRole.ASSISTANT, "Hello there", None)
    # Bedrock counts what the cache gave or took apart from the rest.
    assert got.token_usage == TokenUsage(13, 3, 5)
    assert got.raw["stopReason"] == "end_turn"
    (request,) = server.requests
    assert request.target.startswith("/model/anthropic.claude-sonnet-4-5-v1%3A0/converse")
    assert request.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIATEST/")
    assert request.json == {
        "messages": [{"role": "user", "content": [{"text": "Say hello."}]}],
        "system": [{"text": "Be brief."}],
    }


@needs_boto3
async def test_every_option_has_its_field() -> None:
    body = await sent(
        TASK,
        {"temperature": 0.5, "extra_body": {"top_k": 3}, "requestMetadata": {"team": "a"}},
        stop_sequences=["Observation:", " ", "Calling tools:"],
        tools_to_call_from=[TOOL],
        max_tokens=9,
        top_p=0.9,
        inferenceConfig={"maxTokens": 10},
        seed=REMOVE_PARAMETER,
    )
    assert body["inferenceConfig"] == {
        "temperature": 0.5,
        "topP": 0.9,
        "maxTokens": 10,
        "stopSequences": ["Observation:", "Calling tools:"],
    }
    assert body["additionalModelRequestFields"] == {"top_k": 3}
    assert body["requestMetadata"] == {"team": "a"}
    spec = {"name": "look", "description": "Look around.", "inputSchema": {"json": PARAMETERS}}
    assert body["toolConfig"] == {"tools": [{"toolSpec": spec}], "toolChoice": {"any": {}}}


@needs_boto3
@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ("auto", {"auto": {}}),
        ({"type": "function", "function": {"name": "look"}}, {"tool": {"name": "look"}}),
        (REMOVE_PARAMETER, None),
    ],
)
async def test_how_free_the_model_is_can_be_said(choice: Any, wanted: Any) -> None:
    body = await sent(TASK, tools_to_call_from=[TOOL], tool_choice=choice)
    assert body["toolConfig"].get("toolChoice") == wanted
    assert "toolConfig" not in await sent(TASK, tools_to_call_from=[TOOL], tool_choice="none")
    assert "toolConfig" not in await sent(TASK, tool_choice="auto")


@needs_boto3
async def test_settings_of_the_model_win_over_the_call() -> None:
    asked = {"temperature": 0, "stop": "own"}
    body = await sent(TASK, asked, temperature=1, stop_sequences=["given"])
    assert body["inferenceConfig"] == {"temperature": 0, "stopSequences": ["own"]}


@needs_boto3
async def test_a_schema_goes_along_as_an_output_format() -> None:
    schema = {"type": "object", "properties": {}}
    body = await sent(
        TASK, response_format={"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
    )
    form = body["outputConfig"]["textFormat"]
    assert form["type"] == "json_schema"
    assert json.loads(form["structure"]["jsonSchema"]["schema"]) == schema
    assert "outputConfig" not in await sent(TASK, response_format={"type": "json_object"})


CALLS = [
    ChatMessageToolCall(ChatMessageToolCallFunction('{"where": "here"}', "look"), "c1"),
    ChatMessageToolCall(
        ChatMessageToolCallFunction({"where": "there"}, "look"), "call|2/with+signs" + "x" * 60
    ),
]
CONVERSATION = [
    message(MessageRole.USER, "Look.", [PIXEL]),
    ChatMessage(MessageRole.ASSISTANT, "", CALLS),
    ChatMessage(MessageRole.TOOL_RESPONSE, "a cat", tool_call_id="c1"),
    ChatMessage(MessageRole.USER, [{"type": "text", "text": "Go on."}, {"type": "image", "image": PIXEL}]),
    ChatMessage(MessageRole.TOOL_RESPONSE, " ", tool_call_id="call|2/with+signs" + "x" * 60),
]


@needs_boto3
async def test_calls_results_and_images_go_out_as_blocks() -> None:
    body = await sent(CONVERSATION, tools_to_call_from=[TOOL])
    image = {"image": {"format": "png", "source": {"bytes": PIXEL}}}
    user, assistant, results = body["messages"]
    assert user == {"role": "user", "content": [{"text": "Look."}, image]}
    first, second = (block["toolUse"] for block in assistant["content"])
    assert first == {"toolUseId": "c1", "name": "look", "input": {"where": "here"}}
    assert second["input"] == {"where": "there"}
    assert len(second["toolUseId"]) == 64
    # All results come in one turn, before anything else: Bedrock insists on it.
    assert results["content"] == [
        {"toolResult": {"toolUseId": "c1", "content": [{"text": "a cat"}]}},
        {"toolResult": {"toolUseId": second["toolUseId"], "content": [{"text": "(nothing)"}]}},
        {"text": "Go on."},
        image,
    ]


@needs_boto3
async def test_without_tools_on_offer_calls_and_results_are_told_as_text() -> None:
    body = await sent(CONVERSATION)
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    assert "Calling tools:" in body["messages"][1]["content"][0]["text"]
    assert body["messages"][2]["content"][0] == {"text": "a cat"}
    assert "toolConfig" not in body


@needs_boto3
async def test_roles_take_turns_and_nothing_empty_is_sent() -> None:
    conversation = [
        message(MessageRole.USER, "one"),
        message(MessageRole.USER, "two"),
        message(MessageRole.ASSISTANT, "  "),
        message(MessageRole.TOOL_RESPONSE, "three"),
        message(MessageRole.TOOL_CALL, "four"),
    ]
    body = await sent(conversation)
    assert body["messages"] == [
        {"role": "user", "content": [{"text": "one"}, {"text": "two"}, {"text": "three"}]},
        {"role": "assistant", "content": [{"text": "four"}]},
    ]


@needs_boto3
async def test_roles_can_be_renamed_and_everything_flattened() -> None:
    renamed = await sent(TASK, {"custom_role_conversions": {MessageRole.SYSTEM: MessageRole.USER}})
    assert [turn["role"] for turn in renamed["messages"]] == ["user"]
    assert "system" not in renamed
    flat = await sent(CONVERSATION, {"flatten_messages_as_text": True}, tools_to_call_from=[TOOL])
    assert all(set(block) == {"text"} for turn in flat["messages"] for block in turn["content"])


@needs_boto3
async def test_blocks_of_converses_own_go_through() -> None:
    cached = ChatMessage(
        MessageRole.SYSTEM, [{"type": "text", "text": "long"}, {"cachePoint": {"type": "default"}}]
    )
    body = await sent([cached, TASK[1]])
    assert body["system"] == [{"text": "long"}, {"cachePoint": {"type": "default"}}]


@needs_boto3
async def test_files_and_sounds_go_out_as_blocks() -> None:
    parts: list[dict[str, Any]] = [
        {"type": "file", "file": b"%PDF-1.7 ...", "filename": "the report (v2).final.pdf"},
        {"type": "file", "file": "YSxi", "media_type": "text/csv", "filename": "table.csv"},
        {"type": "file", "file": b"words", "media_type": "text/plain"},
        {"type": "audio", "audio": b"ID3...", "format": "mp3"},
        {"type": "image", "image": b"\xff\xd8\xff..."},
    ]
    body = await sent([ChatMessage(MessageRole.USER, parts)])
    report, table, words, song, photo = body["messages"][0]["content"]
    assert report["document"]["name"] == "the report (v2) final"
    assert [entry["document"]["format"] for entry in (report, table, words)] == ["pdf", "csv", "txt"]
    assert table["document"]["source"]["bytes"] == "YSxi"
    assert (song["audio"]["format"], photo["image"]["format"]) == ("mp3", "jpeg")


@needs_boto3
async def test_a_thought_between_two_calls_keeps_its_place() -> None:
    uses = [{"toolUse": {"toolUseId": f"t{number}", "name": "look", "input": {}}} for number in (1, 2)]
    async with answering(converse(THOUGHT, uses[0], HIDDEN, uses[1])) as server:
        got = await model(server).agenerate(TASK)
    answers = [ChatMessage(MessageRole.TOOL_RESPONSE, "a cat", tool_call_id=name) for name in ("t1", "t2")]
    body = await sent([*TASK, got, *answers], tools_to_call_from=[TOOL])
    assert body["messages"][1]["content"] == [THOUGHT, uses[0], HIDDEN, uses[1]]
    strange = ChatMessage(MessageRole.ASSISTANT, "So.", CALLS[:1], provider_items=[{"type": "thinking"}])
    body = await sent([*TASK, strange, answers[0]], tools_to_call_from=[TOOL])
    assert [list(block) for block in body["messages"][1]["content"]] == [["text"], ["toolUse"]]


@needs_boto3
async def test_an_image_on_the_web_is_refused_with_the_reason() -> None:
    with pytest.raises(BadRequestError, match="images and files as bytes"):
        await sent([message(MessageRole.USER, "Look.", ["https://example.org/cat.png"])])


# --- What comes back ---------------------------------------------------------------------------

USES = [
    {"toolUse": {"toolUseId": "t1", "name": "look", "input": {"where": "here"}}},
    {"toolUse": {"toolUseId": "t2", "name": "look", "input": {}}},
]


@needs_boto3
async def test_tool_calls_come_back() -> None:
    async with answering(converse("I look.", *USES, stop="tool_use")) as server:
        got = await model(server).agenerate(TASK, tools_to_call_from=[TOOL])
    assert got.content == "I look."
    assert got.tool_calls is not None
    assert [(call.id, call.function.name, call.function.arguments) for call in got.tool_calls] == [
        ("t1", "look", '{"where":"here"}'),
        ("t2", "look", "{}"),
    ]
    async with answering(converse(*USES)) as server:
        assert (await model(server).agenerate(TASK, tools_to_call_from=[TOOL])).content is None


@needs_boto3
async def test_a_stream_brings_text_calls_and_token_counts() -> None:
    frames = [
        text("I "),
        text("look."),
        frame("contentBlockStop", {"contentBlockIndex": 0}),
        frame(
            "contentBlockStart",
            {"contentBlockIndex": 1, "start": {"toolUse": {"toolUseId": "t1", "name": "look"}}},
        ),
        frame("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"toolUse": {"input": '{"where"'}}}),
        frame(
            "contentBlockStart",
            {"contentBlockIndex": 2, "start": {"toolUse": {"toolUseId": "t2", "name": "look"}}},
        ),
        frame("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"toolUse": {"input": ': "here"}'}}}),
        stop("tool_use"),
    ]
    async with answering(stream(*frames)) as server:
        got = await streamed(model(server), tools_to_call_from=[TOOL], stop_sequences=["x"])
    assert got.content == "I look."
    assert got.tool_calls is not None
    assert [(call.id, call.function.name, call.function.arguments) for call in got.tool_calls] == [
        ("t1", "look", '{"where": "here"}'),
        ("t2", "look", ""),
    ]
    assert got.token_usage == TokenUsage(13, 3, 5)
    assert got.raw["stopReason"] == "tool_use"
    assert server.requests[0].target.endswith("/converse-stream")
    assert server.requests[0].json["inferenceConfig"] == {"stopSequences": ["x"]}


@needs_boto3
async def test_pieces_arrive_while_the_model_still_writes() -> None:
    go_on = asyncio.Event()
    async with answering([EVENTS, text("one"), go_on, text("two"), stop(), None]) as server:
        deltas = model(server).agenerate_stream(TASK)
        assert (await anext(deltas)).content == "one"
        go_on.set()
        assert (await anext(deltas)).content == "two"
        assert (await anext(deltas)).token_usage == TokenUsage(13, 3, 5)


THOUGHT = {"reasoningContent": {"reasoningText": {"text": "Hm, a cat.", "signature": "sig=="}}}
HIDDEN = {"reasoningContent": {"redactedContent": "c2VjcmV0"}}


@needs_boto3
@pytest.mark.parametrize("streams", [False, True])
async def test_signed_thoughts_are_kept_and_sent_back_with_their_call(streams: bool) -> None:
    def think(place: int, delta: dict[str, str]) -> bytes:
        return frame("contentBlockDelta", {"contentBlockIndex": place, "delta": {"reasoningContent": delta}})

    frames = [
        think(0, {"text": "Hm, "}),
        think(0, {"text": "a cat."}),
        think(0, {"signature": "sig=="}),
        think(1, {"redactedContent": "c2VjcmV0"}),
        frame(
            "contentBlockStart",
            {"contentBlockIndex": 2, "start": {"toolUse": {"toolUseId": "t1", "name": "look"}}},
        ),
        frame("contentBlockDelta", {"contentBlockIndex": 2, "delta": {"toolUse": {"input": "{}"}}}),
        stop("tool_use"),
    ]
    async with answering(stream(*frames) if streams else converse(THOUGHT, HIDDEN, USES[0])) as server:
        asked = model(server)
        got = await (streamed(asked) if streams else asked.agenerate(TASK))
    assert got.reasoning_content == "Hm, a cat."
    assert "kept.call" not in json.dumps(got.provider_items), "in the usual order no marks are needed"
    kept = ChatMessage.from_dict(json.loads(got.model_dump_json()))
    answer = ChatMessage(MessageRole.TOOL_RESPONSE, "a cat", tool_call_id="t1")
    body = await sent([*TASK, kept, answer], tools_to_call_from=[TOOL])
    assert body["messages"][1]["content"][:2] == [THOUGHT, HIDDEN]
    assert "toolUse" in body["messages"][1]["content"][2]


@needs_boto3
async def test_a_model_that_takes_no_stop_sequences_is_cut_here() -> None:
    async with answering(converse("one STOP two"), stream(text("one S"), text("TOP two"), stop())) as server:
        asked = model(server, "xai.grok-4")
        assert (await asked.agenerate(TASK, stop_sequences=["STOP"])).content == "one "
        assert (await streamed(asked, stop_sequences=["STOP"])).content == "one "
    assert all("inferenceConfig" not in request.json for request in server.requests)


# --- When it goes wrong ------------------------------------------------------------------------


@needs_boto3
@pytest.mark.parametrize(
    ("answer", "kind", "status"),
    [
        (refused("429 Too Many", "ThrottlingException", Retry_After="7"), RateLimitError, 429),
        (refused("400 Bad", "ThrottlingException", Retry_After="7"), RateLimitError, 400),
        (refused("403 No", "AccessDeniedException"), AuthenticationError, 403),
        (refused("400 Bad", "UnrecognizedClientException"), AuthenticationError, 400),
        (refused("400 Bad", "ValidationException"), BadRequestError, 400),
        (refused("404 None", "ResourceNotFoundException"), BadRequestError, 404),
        (refused("408 Slow", "ModelTimeoutException"), ServerError, 408),
        (refused("424 Broken", "ModelErrorException"), ServerError, 424),
        (refused("429 Cold", "ModelNotReadyException"), ServerError, 429),
        (refused("500 Oh", "InternalServerException"), ServerError, 500),
        (refused("503 Down", "ServiceUnavailableException"), ServerError, 503),
        (http(b"<html>gateway", "502 Bad Gateway", "text/html"), ServerError, 502),
    ],
)
@pytest.mark.parametrize("streams", [False, True])
async def test_refusals_become_our_errors(
    answer: bytes, kind: type[ProviderError], status: int, streams: bool
) -> None:
    async with answering(answer) as server:
        asked = model(server)
        with pytest.raises(ProviderError, match=r"claude.* \(Bedrock\)") as raised:
            await (streamed(asked) if streams else asked.agenerate(TASK))
    assert type(raised.value) is kind
    assert raised.value.status == status
    assert raised.value.retry_after == (7 if kind is RateLimitError else None)
    assert len(server.requests) == 1, "boto3 asked again by itself"


@needs_boto3
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("throttlingException", RateLimitError),
        ("modelStreamErrorException", ServerError),
        ("internalServerException", ServerError),
        ("validationException", BadRequestError),
    ],
)
async def test_an_error_in_a_stream_is_raised(code: str, kind: type[ProviderError]) -> None:
    broken = frame(code, {"message": "Oh dear."}, "exception")
    async with answering(stream(text("Hel"), broken)) as server:
        with pytest.raises(ProviderError, match=r"Oh dear\.") as raised:
            await streamed(model(server))
    assert type(raised.value) is kind


@needs_boto3
@pytest.mark.parametrize("ending", [None, chunk(b"")])
async def test_a_stream_that_breaks_off_is_an_error(ending: bytes | None) -> None:
    async with answering(stream(text("Hel"), *([ending] if ending else []))) as server:
        with pytest.raises(ConnectionFailedError):
            await streamed(model(server))


@needs_boto3
async def test_no_connection_and_silence_are_told_as_such() -> None:
    async with answering([asyncio.Event()]) as server:
        impatient = {"config": import_module("botocore.config").Config(read_timeout=0.2)}
        with pytest.raises(ConnectionFailedError, match="timeout"):
            await model(server, client_kwargs=impatient).agenerate(TASK)
        asked = model(server)
    with pytest.raises(ConnectionFailedError, match="connect"):
        await asked.agenerate(TASK)


@needs_boto3
async def test_missing_settings_are_told_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(CallerError, match="AWS_REGION"):
        await AmazonBedrockModel(MODEL).agenerate(TASK)
    with pytest.raises(AuthenticationError, match="AWS credentials"):
        await AmazonBedrockModel(MODEL, client_kwargs={"region_name": "eu-west-1"}).agenerate(TASK)


@needs_boto3
async def test_a_field_that_converse_does_not_know_is_named() -> None:
    async with answering(converse("Hello")) as server:
        with pytest.raises(BadRequestError, match="top_k"):
            await model(server, top_k=3).agenerate(TASK)
    assert not server.requests


@needs_boto3
async def test_a_key_that_the_server_repeats_is_nowhere_in_the_error() -> None:
    key = f"AKIA{secrets.token_hex(8)}"
    told = refused("403 No", "UnrecognizedClientException", f"The token {key} is invalid.")
    async with answering(told) as server:
        asked = model(server, client_kwargs={"aws_access_key_id": key, "aws_session_token": "tok-1"})
        with pytest.raises(AuthenticationError, match=r"\*\*\*") as raised:
            await asked.agenerate(TASK)
    shown = "".join(traceback.format_exception(raised.value)) + repr(raised.value.body)
    shown += repr(asked) + repr(vars(asked)) + json.dumps(asked.to_dict())
    assert key not in shown
    assert "shh-secret" not in shown
    assert "tok-1" not in shown


# --- Threads, loops, clients -------------------------------------------------------------------


@needs_boto3
async def test_a_stream_left_early_closes_its_connection_and_frees_its_thread() -> None:
    never = asyncio.Event()
    async with answering([EVENTS, text("Hel"), text("lo"), never]) as server:
        deltas = model(server).agenerate_stream(TASK)
        assert (await anext(deltas)).content
        await deltas.aclose()
        await asyncio.wait_for(server.left.wait(), 5)


@needs_boto3
async def test_a_cancelled_stream_closes_its_connection_under_the_waiting_thread() -> None:
    from manyhands.models.bedrock import _threads

    never, told = asyncio.Event(), asyncio.Event()
    async with answering([EVENTS, text("Hel"), never]) as server:

        async def read() -> None:
            async for _ in model(server).agenerate_stream(TASK):
                told.set()

        reading = asyncio.create_task(read())
        await asyncio.wait_for(told.wait(), 30)
        await asyncio.sleep(0.1)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await asyncio.wait_for(server.left.wait(), 5)
        await until(lambda: not _threads.abandoned)


@needs_boto3
async def test_a_cancelled_call_ends_at_once() -> None:
    never = asyncio.Event()
    async with answering([never]) as server:
        call = asyncio.create_task(model(server).agenerate(TASK))
        await asyncio.wait_for(server.received(1), 30)
        call.cancel()
        async with asyncio.timeout(1):
            with pytest.raises(asyncio.CancelledError):
                await call
        never.set()


@needs_boto3
async def test_calls_run_side_by_side() -> None:
    everyone = asyncio.Event()
    async with answering([everyone, converse("Hello")]) as server:
        asked = model(server)
        calls = asyncio.gather(*(asked.agenerate(TASK) for _ in range(40)))
        await asyncio.wait_for(server.received(40), 30)
        everyone.set()
        assert {reply.content for reply in await calls} == {"Hello"}


def test_one_model_serves_loop_after_loop_and_sync_code() -> None:
    client = MagicMock()
    client.converse.return_value = {"output": {"message": {"content": [{"text": "Hello"}]}}, "usage": USAGE}
    client.converse_stream.return_value = {
        "stream": iter(
            [
                {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": "Hello"}}},
                {"messageStop": {"stopReason": "end_turn"}},
            ]
        )
    }
    asked = AmazonBedrockModel(MODEL, client=client)
    for _ in range(2):
        assert asyncio.run(asked.agenerate(TASK)).content == "Hello"
    assert asked.generate(TASK).content == "Hello"
    assert "".join(delta.content or "" for delta in asked.generate_stream(TASK)) == "Hello"
    assert AmazonBedrockServerModel is AmazonBedrockModel


async def test_it_keeps_its_limits() -> None:
    class Counting:
        running = most = 0

        async def converse(self, **request: Any) -> Any:
            assert request.keys() == {"modelId", "messages", "system"}
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(0.02)
            self.running -= 1
            return {"output": {"message": {"content": [{"text": "Hello"}]}}, "usage": USAGE}

    client = Counting()
    asked = AmazonBedrockModel(MODEL, client=client, max_concurrency=2, requests_per_minute=6000)
    await asyncio.gather(*(asked.agenerate(TASK) for _ in range(6)))
    assert client.most == 2


async def test_a_sync_client_never_runs_on_the_loop_and_an_async_one_never_in_a_thread() -> None:
    seen: list[str] = []
    answer = {"output": {"message": {"content": [{"text": "Hello"}]}}, "usage": USAGE}
    events = [
        {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": "Hello"}}},
        {"messageStop": {"stopReason": "end_turn"}},
    ]

    class Sync:
        def converse(self, **_: Any) -> Any:
            seen.append(threading.current_thread().name)
            return answer

    class Stream:
        closed = False

        def __init__(self) -> None:
            self._events = iter(events)

        def __aiter__(self) -> Stream:
            return self

        async def __anext__(self) -> Any:
            event = next(self._events, None)
            if event is None:
                raise StopAsyncIteration
            return event

        def close(self) -> None:
            self.closed = True

    class Async:
        stream = Stream()

        async def converse(self, **_: Any) -> Any:
            seen.append(threading.current_thread().name)
            return answer

        async def converse_stream(self, **_: Any) -> Any:
            return {"stream": self.stream}

    assert (await AmazonBedrockModel(MODEL, client=Sync()).agenerate(TASK)).content == "Hello"
    given = Async()
    asked = AmazonBedrockModel(MODEL, client=given)
    assert (await asked.agenerate(TASK)).content == "Hello"
    assert (await streamed(asked)).content == "Hello"
    assert seen[0].startswith("bedrock_")
    assert seen[1] == threading.main_thread().name
    assert given.stream.closed


@needs_boto3
async def test_botocores_own_stubber_accepts_the_request() -> None:
    client = await asyncio.to_thread(
        import_module("boto3").client,
        "bedrock-runtime",
        region_name="eu-west-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
    )
    answer = {
        "output": {"message": {"role": "assistant", "content": [{"text": "Hello"}]}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2},
        "metrics": {"latencyMs": 1},
    }
    with import_module("botocore.stub").Stubber(client) as stubber:
        stubber.add_response("converse", answer)
        stubber.add_client_error("converse", "ThrottlingException", "Slow down.", 429)
        asked = AmazonBedrockModel(MODEL, client=client)
        assert (
            await asked.agenerate(CONVERSATION, tools_to_call_from=[TOOL], max_tokens=5)
        ).content == "Hello"
        with pytest.raises(RateLimitError, match=r"Slow down\."):
            await asked.agenerate(TASK)
        stubber.assert_no_pending_responses()


# --- What stays out of sight -------------------------------------------------------------------


@needs_boto3
def test_a_model_is_described_without_its_keys_and_comes_back() -> None:
    asked = AmazonBedrockModel(
        MODEL,
        client_kwargs={"region_name": "eu-west-1", "aws_access_key_id": "a", "aws_secret_access_key": "b"},
        custom_role_conversions={MessageRole.SYSTEM: MessageRole.USER},
        inferenceConfig={"maxTokens": 5},
    )
    described = asked.to_dict()
    assert described == {
        "class": "AmazonBedrockModel",
        "model_id": MODEL,
        "client_kwargs": {"region_name": "eu-west-1"},
        "custom_role_conversions": {"system": "user"},
        "inferenceConfig": {"maxTokens": 5},
    }
    assert AmazonBedrockModel.from_dict(described).to_dict() == described


def test_a_missing_library_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "boto3", raising=False)
    monkeypatch.setattr("manyhands.models.libraries._installed", lambda _: False)
    with pytest.raises(MissingExtraError, match=r"AmazonBedrockModel .*manyhands\[bedrock\]"):
        AmazonBedrockModel(MODEL)
    assert AmazonBedrockModel(MODEL, client=MagicMock()).client is not None


# --- An agent on it ----------------------------------------------------------------------------


@tool
def population(country: str) -> int:
    """Look up how many people live in a country.

    Args:
        country: English name of the country.
    """
    return {"Norway": 5, "Peru": 34}[country]


@needs_boto3
@pytest.mark.parametrize("streams", [False, True])
async def test_an_agent_works_with_native_tool_messages(streams: bool) -> None:
    def use(number: int, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return {"toolUse": {"toolUseId": f"t{number}", "name": name, "input": arguments}}

    def as_stream(*uses: dict[str, Any]) -> list[Any]:
        frames = []
        for place, block in enumerate(uses):
            given = dict(block["toolUse"])
            piece = {"input": json.dumps(given.pop("input"))}
            frames.append(
                frame("contentBlockStart", {"contentBlockIndex": place, "start": {"toolUse": given}})
            )
            frames.append(
                frame("contentBlockDelta", {"contentBlockIndex": place, "delta": {"toolUse": piece}})
            )
        return stream(*frames, stop("tool_use"))

    looks = [use(1, "population", {"country": "Norway"}), use(2, "population", {"country": "Peru"})]
    final = use(3, "final_answer", {"answer": 39})
    made = as_stream if streams else converse
    async with answering(made(*looks), made(final)) as server:
        agent = ToolCallingAgent(tools=[population], model=model(server), stream_outputs=streams)
        assert await agent.arun("How many people live in Norway and Peru?") == 39
    second = server.requests[1].json["messages"]
    assert [list(block) for block in second[1]["content"]] == [["toolUse"], ["toolUse"]]
    results = [block["toolResult"] for block in second[2]["content"]]
    assert [result["toolUseId"] for result in results] == ["t1", "t2"]
    assert "34" in results[1]["content"][0]["text"]


@pytest.mark.skipif(
    not os.environ.get("MANYHANDS_LIVE_BEDROCK_MODEL"),
    reason="set MANYHANDS_LIVE_BEDROCK_MODEL and AWS credentials to ask the real one",
)
async def test_live() -> None:
    asked = AmazonBedrockModel(os.environ["MANYHANDS_LIVE_BEDROCK_MODEL"])
    assert (await asked.agenerate(TASK, max_tokens=64)).text
    assert (await streamed(asked, max_tokens=64)).token_usage is not None
