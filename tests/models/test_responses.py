"""OpenAI's Responses API: what is particular about it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from manyhands.errors import RateLimitError, ServerError
from manyhands.messages import ChatMessage, DeltaFold, MessageRole, message, text_part
from manyhands.models.responses import OpenAIResponsesModel
from tests.models.servers import CHUNKED, STREAM, RawServer, answering, chunk, http
from tests.models.wires import Responses, Turn, event

SYSTEM, USER = MessageRole.SYSTEM, MessageRole.USER
TASK = [message(USER, "Say hello.")]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
WIRE = Responses()
OK = WIRE.answer(Turn("Hello"))
RESULT = ChatMessage(MessageRole.TOOL_RESPONSE, "seen", tool_call_id="c1")
REASONING = {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}


def model(server: RawServer, model_id: str = "gpt-5-mini", **settings: Any) -> OpenAIResponsesModel:
    return OpenAIResponsesModel(model_id, api_base=server.base, api_key="k-123", **settings)


def answer(*output: dict[str, Any], **fields: Any) -> bytes:
    whole = {**json.loads(WIRE.plain(Turn("x"))), "output": list(output), **fields}
    return http(json.dumps(whole).encode())


async def sent(*messages: ChatMessage, **options: Any) -> Any:
    async with answering(OK) as server:
        await model(server).agenerate(list(messages), **options)
    return server.requests[0].json


async def test_nothing_is_stored_and_reasoning_comes_encrypted() -> None:
    request = await sent(*TASK)
    assert (request["store"], request["include"]) == (False, ["reasoning.encrypted_content"])
    async with answering(OK) as server:
        await model(server, "gpt-4.1").agenerate(TASK)
        await model(server, store=True, previous_response_id="resp_0").agenerate(TASK)
    plain, stored = (request.json for request in server.requests)
    assert "include" not in plain
    assert (stored["store"], stored["previous_response_id"]) == (True, "resp_0")
    assert "include" not in stored


async def test_system_messages_are_instructions_where_they_stand_first() -> None:
    request = await sent(
        message(SYSTEM, 'Be "brief".'), message(SYSTEM, "Be kind."), *TASK, message(SYSTEM, "Now!")
    )
    assert request["instructions"] == 'Be "brief".\nBe kind.'
    assert [item["role"] for item in request["input"]] == ["user", "developer"]
    assert "instructions" not in await sent(*TASK)
    assert (await sent(message(SYSTEM, "a"), *TASK, instructions="b"))["instructions"] == "b"


async def test_fields_take_the_names_of_this_api() -> None:
    choice = {"type": "function", "function": {"name": "look"}}
    request = await sent(
        *TASK, tools_to_call_from=[TOOL], tool_choice=choice, max_tokens=9, stop_sequences=["x"]
    )
    assert request["tools"] == [
        {
            "type": "function",
            "strict": False,
            "name": "look",
            "parameters": {"type": "object", "properties": {}},
        }
    ]
    assert request["tool_choice"] == {"type": "function", "name": "look"}
    assert request["max_output_tokens"] == 9
    assert not {"stop", "max_tokens", "messages"} & request.keys()


async def test_text_settings_and_a_schema_go_together() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": {}, "strict": True}}
    request = await sent(*TASK, response_format=wanted, text={"verbosity": "low"})
    form = {"type": "json_schema", "name": "a", "schema": {}, "strict": True}
    assert request["text"] == {"format": form, "verbosity": "low"}
    assert (await sent(*TASK, response_format={"type": "json_object"}))["text"] == {
        "format": {"type": "json_object"}
    }


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("dumped", [False, True])
async def test_reasoning_goes_back_as_it_came(streams: bool, dumped: bool) -> None:
    turn = Turn("I look.", (("look", {}, "c1"),), "Hm.")
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
    assert server.requests[1].json["input"][1:] == [
        {**REASONING, "encrypted_content": "gAAA="},
        {"role": "assistant", "content": "I look."},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "seen"},
    ]


async def test_reasoning_between_calls_keeps_its_place() -> None:
    calls = [
        {"id": f"fc_{n}", "type": "function_call", "call_id": f"c{n}", "name": "look", "arguments": "{}"}
        for n in (1, 2)
    ]
    second = {"id": "rs_2", "type": "reasoning", "summary": []}
    async with answering(answer(REASONING, calls[0], second, calls[1]), OK) as server:
        asked = model(server)
        got = await asked.agenerate(TASK)
        await asked.agenerate([*TASK, got])
        got.content = "Edited."
        await asked.agenerate([*TASK, got])
    kinds = [
        [item.get("type", "said") for item in request.json["input"][1:]] for request in server.requests[1:]
    ]
    assert kinds == [
        ["reasoning", "function_call", "reasoning", "function_call"],
        ["reasoning", "reasoning", "said", "function_call", "function_call"],
    ]


async def test_results_may_hold_pictures() -> None:
    parts = [text_part("seen"), {"type": "image", "image": "https://a.test/b.png"}]
    request = await sent(*TASK, ChatMessage(MessageRole.TOOL_RESPONSE, parts, tool_call_id="c1"))
    assert request["input"][1]["output"] == [
        {"type": "input_text", "text": "seen"},
        {"type": "input_image", "image_url": "https://a.test/b.png"},
    ]


async def test_what_else_the_answer_holds_is_kept() -> None:
    picture = {"id": "ig_1", "type": "image_generation_call", "status": "completed", "result": "iVBOR"}
    part = {"type": "output_text", "text": "Hi", "annotations": [{"type": "url_citation", "url": "u"}]}
    said = {"id": "m", "type": "message", "role": "assistant", "content": [part]}
    details = {"reason": "max_output_tokens"}
    async with answering(answer(picture, said, status="incomplete", incomplete_details=details)) as server:
        got = await model(server).agenerate(TASK)
    assert got.content == "Hi"
    assert got.raw["output"] == [picture, said]
    assert got.raw["incomplete_details"] == details


async def test_a_response_that_failed_is_an_error() -> None:
    error = {"code": "server_error", "message": "it broke"}
    failed = {"type": "response.failed", "response": {"status": "failed", "error": error, "output": []}}
    limited = {**failed["response"], "error": {"code": "rate_limit_exceeded", "message": "slow"}}  # type: ignore[dict-item]
    async with answering(
        answer(status="failed", error=error),
        [STREAM, event(failed), None],
    ) as server:
        with pytest.raises(ServerError, match="it broke"):
            await model(server).agenerate(TASK)
        with pytest.raises(ServerError, match="it broke"):
            _ = [delta async for delta in model(server).agenerate_stream(TASK)]
    async with answering([STREAM, event({**failed, "response": limited}), None]) as server:
        with pytest.raises(RateLimitError, match="slow"):
            _ = [delta async for delta in model(server).agenerate_stream(TASK)]


async def test_a_stream_that_was_cut_short_by_its_limit_is_complete() -> None:
    ended = {**json.loads(WIRE.plain(Turn("Hel"))), "status": "incomplete"}
    body = event({"type": "response.output_text.delta", "output_index": 0, "delta": "Hel"}) + event(
        {"type": "response.incomplete", "response": ended}
    )
    async with answering([STREAM, body, None]) as server:
        deltas = [delta async for delta in model(server).agenerate_stream(TASK)]
    assert deltas[0].content == "Hel"
    assert deltas[-1].raw["status"] == "incomplete"


async def test_events_that_say_everything_at_the_end_are_enough() -> None:
    turn = Turn("I look.", (("look", {"a": 1}, "c1"),), "Hm.")
    output = json.loads(WIRE.plain(turn))
    done = [
        event({"type": "response.output_item.done", "output_index": place, "item": item})
        for place, item in enumerate(output["output"])
    ]
    fold = DeltaFold()
    async with answering(
        [STREAM, *done, event({"type": "response.completed", "response": {**output, "output": []}}), None]
    ) as server:
        async for delta in model(server).agenerate_stream(TASK):
            fold.add(delta)
    got = fold.message()
    assert (got.content, got.reasoning_content) == ("I look.", "Hm.")
    assert [(call.id, call.function.arguments) for call in got.tool_calls or ()] == [("c1", '{"a": 1}')]
