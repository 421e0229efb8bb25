"""What a stream is made of: events written by hand, pieces that break off, requests without an end."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands import ChatMessage, CodeAgent
from manyhands.limits import RetryingModel, RetryPolicy
from manyhands.messages import ChatMessageStreamDelta
from manyhands.serve import Narrator
from tests.limits.doubles import PlayedModel
from tests.serve.serving import Gate, echo, served

WEIRD = "\u2028\r\n\"'\\ \U0001f600 é \x00 \x7f </script> \ud800"
TEXTS = st.text(st.characters(exclude_categories=()), max_size=30) | st.just(WEIRD)


@settings(deadline=None)
@given(TEXTS, TEXTS, st.booleans())
def test_a_piece_written_by_hand_says_what_its_values_say(
    content: str, reasoning: str, restart: bool
) -> None:
    run = echo().arun("this")
    piece = ChatMessageStreamDelta(content, reasoning_content=reasoning, restart=restart)
    told = list(Narrator().tell(run, piece))
    written = list(Narrator().write(run, piece))
    run.close()
    assert [kind for kind, _ in written] == [event["type"] for event in told]
    for (_, data), event in zip(written, told, strict=True):
        assert b"\n" not in data
        assert json.loads(data) == {**event, "time": pytest.approx(event["time"], abs=60)}


async def test_whatever_a_model_writes_arrives_as_it_is() -> None:
    text = f"{WEIRD}\n<code>\nfinal_answer(1)\n</code>"
    async with served(CodeAgent([], PlayedModel([_whole(text)]), stream_outputs=True)) as client:
        run = await client.start("this")
        events = await client.events(run["id"])
        assert "".join(event.get("content", "") for event in events if event["type"] == "delta") == text


async def test_many_readers_of_one_run_see_all_of_it_while_it_is_told() -> None:
    gate = Gate()
    async with served(gate.agent()) as client:
        run = await client.start("this")
        await gate.until(1)
        readers = [asyncio.create_task(client.events(run["id"])) for _ in range(20)]
        gate.open()
        seen = await asyncio.gather(*readers)
        assert all(events == seen[0] for events in seen)
        assert [event["seq"] for event in seen[0]] == list(range(1, len(seen[0]) + 1))


async def test_a_chat_goes_on_when_the_stream_of_the_model_breaks() -> None:
    reply = "<code>\nfinal_answer('Paris')\n</code>"
    model = RetryingModel(PlayedModel(["<code>\nfinal", _whole(reply)]), RetryPolicy(first_delay=0))
    async with served(CodeAgent([], model, stream_outputs=True)) as client:
        asked = {"model": "agent", "stream": True, "messages": [{"role": "user", "content": "Where?"}]}
        answer = await client.post("/v1/chat/completions", asked)
        *pieces, last = [line.removeprefix("data: ") for line in answer.body.decode().split("\n\n") if line]
        assert last == "[DONE]"
        deltas = [json.loads(piece)["choices"][0]["delta"] for piece in pieces]
        assert [delta["content"] for delta in deltas if delta.get("content")] == ["Paris"]
        thoughts = "".join(delta.get("reasoning_content", "") for delta in deltas)
        assert thoughts == "<code>\nfinal" + reply


def _whole(text: str) -> Any:
    return ChatMessage("assistant", text)


UNENDING = [
    b"X-Long: " + b"x" * 200_000,
    b"X-Short: 1\r\n" * 20_000,
    b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\nX-Long: " + b"x" * 200_000,
    b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n" + b"X-Short: 1\r\n" * 20_000,
    b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 200_000,
]


@pytest.mark.parametrize("rest", UNENDING)
async def test_a_request_that_says_nothing_without_an_end_is_refused(rest: bytes) -> None:
    async with served(echo()) as client:
        host, _, port = client.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /v1/runs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n" + rest
        )
        assert b" 400 " in await reader.readline()
        with contextlib.suppress(ConnectionError):
            assert await reader.read() is not None  # it is closed
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"


async def test_a_client_that_offers_another_protocol_is_answered_all_the_same() -> None:
    """Some clients, as that of Java, offer HTTP/2 with every request."""
    async with served(echo()) as client:
        host, _, port = client.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        said = b'{"task": "this", "wait": true}'
        head = b"POST /v1/runs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        asked = head + b"Content-Length: %d\r\n%b\r\n%b" % (len(said), UPGRADE, said)
        for _ in range(2):
            writer.write(asked)
            answer = await reader.readuntil(b'"output":"answer to this"}')
            assert b" 200 " in answer.split(b"\r\n")[0]
        writer.close()
        await writer.wait_closed()


async def test_what_stands_behind_a_body_is_no_header() -> None:
    async with served(echo()) as client:
        host, _, port = client.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        said = b'{"task": "this", "wait": true}'
        writer.write(
            b"POST /v1/runs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            b"%x\r\n%b\r\n0\r\nContent-Type: text/plain\r\n\r\n" % (len(said), said)
        )
        answer = await reader.read()
        assert b" 200 " in answer.split(b"\r\n")[0]
        assert b'"answer to this"' in answer
        writer.close()
        await writer.wait_closed()
