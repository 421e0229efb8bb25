"""What chat completions bring and take besides text and calls, whole and streamed."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from manyhands.messages import (
    ChatMessage,
    ChatMessageToolCall,
    ChatMessageToolCallFunction,
    DeltaFold,
    MessageRole,
    message,
    text_part,
)
from manyhands.models.openai import OpenAIModel
from manyhands.models.thinking import ThinkSplitter
from tests.models.servers import CHUNKED, END, RawServer, answering, chunk, completion, events, http, said

USER, ASSISTANT = MessageRole.USER, MessageRole.ASSISTANT
TASK = [message(USER, "Say hello.")]
OK = http(completion())
CALL = ChatMessageToolCall(ChatMessageToolCallFunction("{}", "look"), "c1")
RESULT = ChatMessage(MessageRole.TOOL_RESPONSE, "seen", tool_call_id="c1")


def model(server: RawServer, **settings: Any) -> OpenAIModel:
    return OpenAIModel("m", api_base=server.base, api_key="k-123", **settings)


def whole(**fields: Any) -> bytes:
    return http(completion({"role": "assistant", "content": "Hello"} | fields))


def streamed(*chunks: Any) -> list[Any]:
    return [CHUNKED, chunk(events(*chunks, END)), chunk(b"")]


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields}]}


async def fold(asked: OpenAIModel, **options: Any) -> ChatMessage:
    folded = DeltaFold()
    async for piece in asked.agenerate_stream(TASK, **options):
        folded.add(piece)
    return folded.message()


async def replies(answers: list[Any], **settings: Any) -> list[ChatMessage]:
    """The first answer whole, the second folded from its stream."""
    async with answering(*answers) as server:
        asked = model(server, **settings)
        return [await asked.agenerate(TASK), await fold(asked)]


async def test_likelihoods_are_kept() -> None:
    tokens = [{"token": "Hel", "logprob": -0.1}, {"token": "lo", "logprob": -0.2}]
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
    chunks = [said(token["token"], logprobs={"content": [token], "refusal": None}) for token in tokens]  # type: ignore[arg-type]
    for reply in await replies(
        [http(completion(choices=[{**choice, "logprobs": {"content": tokens}}])), streamed(*chunks)]
    ):
        assert reply.content == "Hello"
        assert reply.raw["choices"][0]["logprobs"]["content"] == tokens
        assert reply.raw["choices"][0]["finish_reason"] == "stop"


async def test_a_spoken_reply_has_its_transcript_as_text_and_is_known_by_its_id() -> None:
    sounds = [b"\x01\x02\x03\x04", b"\x05"]
    audio = {"id": "audio_1", "expires_at": 9, "transcript": "Hello", "data": _base64(b"".join(sounds))}
    chunks = [
        delta(audio={"id": "audio_1", "transcript": "Hel"}),
        delta(audio={"data": _base64(sounds[0]), "transcript": "lo"}),
        delta(audio={"data": _base64(sounds[1])}),
        delta(audio={"expires_at": 9}),
    ]
    for reply in await replies([whole(content=None, audio=audio), streamed(*chunks)]):
        assert reply.content == "Hello"
        assert reply.raw["choices"][0]["message"]["audio"] == audio
        async with answering(OK) as server:
            await model(server).agenerate([*TASK, reply, message(USER, "Again.")])
        assert server.requests[0].json["messages"][1] == {
            "role": "assistant",
            "content": None,
            "audio": {"id": "audio_1"},
        }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def test_sounds_and_files_are_sent() -> None:
    parts = [
        text_part("Listen."),
        {"type": "audio", "audio": b"RIFF1234WAVE"},
        {"type": "audio", "audio": "SUQz", "format": "mp3"},
        {"type": "file", "file": b"a,b", "filename": "a.csv", "media_type": "text/csv"},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}},
    ]
    async with answering(OK) as server:
        await model(server).agenerate([ChatMessage(USER, parts)])
    assert server.requests[0].json["messages"][0]["content"][1:] == [
        {"type": "input_audio", "input_audio": {"data": _base64(b"RIFF1234WAVE"), "format": "wav"}},
        {"type": "input_audio", "input_audio": {"data": "SUQz", "format": "mp3"}},
        {
            "type": "file",
            "file": {"filename": "a.csv", "file_data": f"data:text/csv;base64,{_base64(b'a,b')}"},
        },
        *parts[4:],
    ]


async def test_details_of_reasoning_go_back_as_they_came() -> None:
    details = [
        {"type": "reasoning.text", "text": "Hm, well.", "signature": "sig", "index": 0, "id": None},
        {"type": "reasoning.encrypted", "data": "gAAA", "index": 1},
    ]
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    chunks = [
        delta(reasoning="Hm, ", reasoning_details=[{**details[0], "text": "Hm, ", "signature": None}]),
        delta(reasoning="well.", reasoning_details=[{"type": "reasoning.text", "text": "well.", "index": 0}]),
        delta(reasoning_details=[{"type": "reasoning.text", "signature": "sig", "index": 0}, details[1]]),
        delta(tool_calls=[{"index": 0, **call}]),
    ]
    answers = [
        whole(content=None, tool_calls=[call], reasoning="Hm, well.", reasoning_details=details),
        streamed(*chunks),
    ]
    for reply in await replies(answers):
        assert reply.reasoning_content == "Hm, well."
        async with answering(OK) as server:
            await model(server, send_reasoning="reasoning_details").agenerate([*TASK, reply, RESULT])
            await model(server, send_reasoning="reasoning").agenerate([*TASK, reply, RESULT])
            await model(server).agenerate([*TASK, reply, RESULT])
        first, second, third = (request.json["messages"][1] for request in server.requests)
        assert first["reasoning_details"] == details
        assert second["reasoning"] == "Hm, well."
        assert third.keys() == {"role", "content", "tool_calls"}


async def test_signatures_of_calls_go_back_with_them() -> None:
    extra = {"google": {"thought_signature": "sig"}}
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "look", "arguments": "{}"},
        "extra_content": extra,
    }
    answers = [whole(content=None, tool_calls=[call]), streamed(delta(tool_calls=[{"index": 0, **call}]))]
    for reply in await replies(answers):
        again = ChatMessage.from_dict(json.loads(reply.model_dump_json()))
        async with answering(OK) as server:
            await model(server).agenerate([*TASK, reply, RESULT])
            await model(server).agenerate([*TASK, again, RESULT])
        for request in server.requests:
            assert request.json["messages"][1]["tool_calls"] == [call]


async def test_thoughts_among_the_parts_of_a_text_are_no_text() -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
        {"type": "text", "text": "Hello"},
    ]
    for reply in await replies(
        [whole(content=parts), streamed(delta(content=parts[:1]), delta(content=parts[1:]))]
    ):
        assert (reply.content, reply.reasoning_content) == ("Hello", "Hm.")


@pytest.mark.parametrize(
    ("text", "content", "thought"),
    [
        ("<think>Hm, a < b.</think>\n\nHello", "Hello", "Hm, a < b."),
        ("\n<think></think>Hello</think>", "Hello</think>", None),
        ("Hello <think>no</think>", "Hello <think>no</think>", None),
        ("<thin", "<thin", None),
        ("<think>never ends </thi", "", "never ends </thi"),
        ("", "", None),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 100])
async def test_written_thoughts_are_parted_from_the_text_on_request(
    text: str, content: str, thought: str | None, size: int
) -> None:
    pieces = [said(text[at : at + size]) for at in range(0, len(text), size)]
    answers = [whole(content=text), streamed(*pieces)]
    for reply in await replies(answers, strip_thinking=True):
        assert (reply.content, reply.reasoning_content) == (content, thought)
    for reply in await replies(answers):
        assert (reply.content, reply.reasoning_content) == (text, None)


async def test_stop_sequences_in_thoughts_end_nothing() -> None:
    text = "<think>STOP?</think>one STOP two"
    async with answering(whole(content=text), streamed(*map(said, text))) as server:
        asked = OpenAIModel("o3-mini", server.base, "k-123", strip_thinking=True)
        assert (await asked.agenerate(TASK, stop_sequences=["STOP"])).content == "one "
        folded = await fold(asked, stop_sequences=["STOP"])
    assert (folded.content, folded.reasoning_content) == ("one ", "STOP?")


def test_a_splitter_takes_no_longer_than_it_must() -> None:
    splitter = ThinkSplitter()
    pieces = ["<think>", *["word "] * 20_000, "</think>", *["text "] * 20_000]
    found = [splitter.feed(piece) for piece in pieces]
    assert sum(len(text) for text, _ in found) == sum(len(thought) for _, thought in found) == 100_000


async def test_a_reply_that_is_not_the_first_choice_is_kept() -> None:
    choices = [
        {"index": number, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for number, text in enumerate(("a", "b"))
    ]
    async with answering(http(completion(choices=choices))) as server:
        got = await model(server, n=2).agenerate(TASK)
    assert (got.content, got.raw["choices"][1]["message"]["content"]) == ("a", "b")


async def test_a_stream_of_several_replies_is_its_first_one() -> None:
    chunks = [
        {"choices": [{"index": number, "delta": {"content": text}}]}
        for text in ("Hel", "lo")
        for number in (0, 1)
    ]
    async with answering(streamed(*chunks)) as server:
        assert (await fold(model(server), n=2)).content == "Hello"
