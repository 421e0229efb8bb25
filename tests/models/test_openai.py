"""A model behind a chat-completions endpoint: what it sends, and what it makes of ugly answers."""

from __future__ import annotations

import asyncio
import json
import traceback
from typing import Any

import pytest

from manyhands.errors import (
    AuthenticationError,
    BadRequestError,
    ConnectionFailedError,
    ProviderError,
    RateLimitError,
    ServerError,
)
from manyhands.messages import ChatMessage, ChatMessageStreamDelta, MessageRole, TokenUsage, message
from manyhands.models.base import ask, ask_stream
from manyhands.models.cleaning import REMOVE_PARAMETER
from manyhands.models.endpoint import Timeouts
from manyhands.models.openai import OpenAIModel, OpenAIServerModel
from tests.models.servers import (
    CHUNKED,
    END,
    STREAM,
    RawServer,
    answering,
    called,
    chunk,
    completion,
    events,
    http,
    said,
)

TASK = [message(MessageRole.USER, "Say hello.")]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
OK = http(completion())


def model(server: RawServer, model_id: str = "tiny", **settings: Any) -> OpenAIModel:
    return OpenAIModel(model_id, **{"api_base": server.base, "api_key": "sk-test-123", **settings})


async def streamed(asked: OpenAIModel, **options: Any) -> list[ChatMessageStreamDelta]:
    return [delta async for delta in asked.agenerate_stream(TASK, **options)]


async def text_of(asked: OpenAIModel, **options: Any) -> str:
    return "".join(delta.content or "" for delta in await streamed(asked, **options))


# --- What is sent ------------------------------------------------------------------------------


async def test_a_question_gets_its_reply() -> None:
    async with answering(OK) as server:
        got = await model(server).agenerate(TASK)
    assert (got.role, got.content, got.token_usage) == (MessageRole.ASSISTANT, "Hello", TokenUsage(7, 3))
    (request,) = server.requests
    assert (request.method, request.target) == ("POST", "/v1/chat/completions")
    assert request.headers["authorization"] == "Bearer sk-test-123"
    assert request.headers["content-type"] == "application/json"
    assert request.json == {"model": "tiny", "messages": [{"role": "user", "content": "Say hello."}]}


async def test_every_option_has_its_field() -> None:
    async with answering(OK) as server:
        asked = model(server, temperature=0.5, organization="org", project="proj", extra_headers={"X-A": "1"})
        await asked.agenerate(
            TASK,
            stop_sequences=["Observation:"],
            response_format={"type": "json_object"},
            tools_to_call_from=[TOOL],
            max_tokens=9,
        )
    (request,) = server.requests
    assert request.json == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Say hello."}],
        "stop": ["Observation:"],
        "response_format": {"type": "json_object"},
        "tools": [TOOL],
        "tool_choice": "required",
        "max_tokens": 9,
        "temperature": 0.5,
    }
    sent = {name: request.headers.get(name) for name in ("openai-organization", "openai-project", "x-a")}
    assert sent == {"openai-organization": "org", "openai-project": "proj", "x-a": "1"}


async def test_settings_of_the_model_win_over_the_call_and_the_call_over_the_rest() -> None:
    async with answering(OK) as server:
        asked = model(server, temperature=0, seed=1, stop=["own"])
        await asked.agenerate(
            TASK,
            stop_sequences=["given"],
            tools_to_call_from=[TOOL],
            temperature=1,
            tool_choice="auto",
            top_p=0.5,
        )
    sent = server.requests[0].json
    assert {name: sent[name] for name in ("temperature", "seed", "stop", "tool_choice", "top_p")} == {
        "temperature": 0,
        "seed": 1,
        "stop": ["own"],
        "tool_choice": "auto",
        "top_p": 0.5,
    }


async def test_a_parameter_can_be_removed() -> None:
    async with answering(OK) as server:
        asked = model(server, tool_choice=REMOVE_PARAMETER)
        await asked.agenerate(TASK, stop_sequences=["x"], tools_to_call_from=[TOOL], stop=REMOVE_PARAMETER)
        await text_of(model(server, stream_options=REMOVE_PARAMETER))
    first, second = server.requests
    assert first.json.keys() == {"model", "messages", "tools"}
    assert second.json.keys() == {"model", "messages", "stream"}


async def test_fields_for_tools_are_not_sent_without_tools() -> None:
    async with answering(OK) as server:
        await model(server, tool_choice="auto", parallel_tool_calls=False).agenerate(TASK)
    assert server.requests[0].json.keys() == {"model", "messages"}


async def test_extra_fields_and_headers_win_over_all_others() -> None:
    async with answering(OK) as server:
        asked = model(
            server, extra_body={"top_k": 3, "temperature": 2}, temperature=1, extra_headers={"X-A": "1"}
        )
        await asked.agenerate(TASK, extra_body={"top_k": 4}, extra_headers={"X-A": "2", "X-B": "3"})
        await asked.agenerate(TASK)
    first, second = server.requests
    assert (first.json["top_k"], first.json["temperature"], second.json["top_k"]) == (4, 2, 3)
    assert (first.headers["x-a"], first.headers["x-b"], second.headers["x-a"]) == ("2", "3", "1")
    assert "x-b" not in second.headers


async def test_a_model_that_takes_no_stop_sequences_is_cut_here() -> None:
    body = completion({"role": "assistant", "content": "one STOP two"})
    stream = STREAM + events(said("one S"), said("TOP two"), END)
    async with answering(http(body), [stream, None]) as server:
        asked = model(server, "openai/o3-mini")
        assert (await asked.agenerate(TASK, stop_sequences=["STOP"])).content == "one "
        assert await text_of(asked, stop_sequences=["STOP"]) == "one "
    assert all("stop" not in request.json for request in server.requests)


async def test_settings_may_come_under_the_names_of_openais_client() -> None:
    async with answering(OK) as server:
        asked = OpenAIModel(
            "m",
            client_kwargs={
                "base_url": server.base,
                "api_key": "sk-x",
                "default_headers": {"X-H": "h"},
                "default_query": {"api-version": "7"},
                "timeout": 5,
                "max_retries": 2,
            },
        )
        await asked.agenerate(TASK)
    (request,) = server.requests
    assert request.target == "/v1/chat/completions?api-version=7"
    assert (request.headers["x-h"], request.headers["authorization"]) == ("h", "Bearer sk-x")
    with pytest.raises(TypeError, match=r"http_client.*client="):
        OpenAIModel("m", client_kwargs={"http_client": object()})


async def test_address_and_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with answering(OK) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-env")
        await OpenAIModel("m").agenerate(TASK)
    assert server.requests[0].headers["authorization"] == "Bearer sk-env"


async def test_openai_itself_needs_a_key_and_other_servers_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    asked = OpenAIModel("gpt-4o")
    with pytest.raises(AuthenticationError, match="OPENAI_API_KEY"):
        await asked.agenerate(TASK)
    async with answering(OK) as server:
        await model(server, api_key=None).agenerate(TASK)
    assert "authorization" not in server.requests[0].headers


async def test_tool_calls_come_back_and_go_out_again() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
    async with answering(
        http(completion({"role": "assistant", "content": None, "tool_calls": [call]})), OK
    ) as server:
        asked = model(server)
        got = await asked.agenerate(TASK, tools_to_call_from=[TOOL])
        result = ChatMessage(MessageRole.TOOL_RESPONSE, "Observation:\n2", tool_call_id="c1")
        await asked.agenerate([*TASK, got, result])
    assert got.tool_calls is not None
    assert got.tool_calls[0].function.arguments == '{"at": 1}'
    assert server.requests[1].json["messages"][1:] == [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "Observation:\n2", "tool_call_id": "c1"},
    ]


async def test_pictures_are_encoded_off_the_loop_and_once() -> None:
    image = pytest.importorskip("PIL.Image").new("RGB", (64, 64), "red")
    conversation = [message(MessageRole.USER, "look", [image])]
    async with answering(OK) as server:
        asked = model(server)
        await asked.agenerate(conversation)
        image.close()  # a second encoding would fail
        await asked.agenerate(conversation)
    first, second = (request.json["messages"][0]["content"] for request in server.requests)
    assert first == second
    assert first[1]["image_url"]["url"].startswith("data:image/png;base64,iVBOR")


async def test_a_large_request_arrives_whole() -> None:
    text = "x" * 3_000_000
    async with answering(OK) as server:
        await model(server).agenerate([message(MessageRole.USER, text)])
    assert server.requests[0].json["messages"][0]["content"] == text


async def test_the_doors_of_every_model_lead_here() -> None:
    stream = [STREAM + events(said("Hel"), said("lo"), END), None]
    async with answering(OK, stream) as server:
        asked = model(server)
        assert (await ask(asked, TASK)).content == "Hello"
        assert [delta.content async for delta in ask_stream(asked, TASK)] == ["Hel", "lo"]
    assert OpenAIServerModel is OpenAIModel


# --- Streams -----------------------------------------------------------------------------------


async def test_a_stream_gives_text_calls_and_counts() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 2}}
    body = events(
        said("Hel"),
        said("lo"),
        called(index=0, id="c1", function={"name": "look", "arguments": ""}),
        called(index=0, function={"arguments": "{}"}),
        END,
        usage,
    )
    async with answering([CHUNKED, chunk(body), chunk(b"")]) as server:
        deltas = await streamed(model(server))
    assert [delta.content for delta in deltas[:2]] == ["Hel", "lo"]
    assert deltas[-1].token_usage == TokenUsage(4, 2)
    assert server.requests[0].json["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
async def test_a_stream_may_be_cut_anywhere(size: int, end: bytes) -> None:
    body = events(said("héllo 👋"), said(" wörld"), END, end=end)
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    async with answering([STREAM, *pieces, None]) as server:
        assert await text_of(model(server)) == "héllo 👋 wörld"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(events(said("Hello"), END, done=False), id="done is absent"),
        pytest.param(b": ping\n\n: ping\n\n" + events(said("Hello"), END), id="comments"),
        pytest.param(b"\n\n\n" + events(said("Hello"), END), id="empty lines"),
        pytest.param(events(said("Hello"), END)[:-2], id="no empty line at the end"),
        pytest.param(events(said("Hello"), END, end=b"\n"), id="no empty lines at all"),
        pytest.param(events(said("Hello")), id="no finish reason, but done"),
        pytest.param(b"event: message\nid: 1\n" + events(said("Hello"), END), id="named events"),
        pytest.param(events(said("Hello"), END).replace(b"data: ", b"data:"), id="no space"),
        pytest.param(b"\xef\xbb\xbf" + events(said("Hello"), END), id="byte order mark"),
        pytest.param(events(1, None, said("Hello"), END), id="events that are no objects"),
        pytest.param(completion(), id="a plain answer"),
        pytest.param(json.dumps(json.loads(completion()), indent=2).encode(), id="a plain answer in lines"),
    ],
)
@pytest.mark.parametrize("kind", ["text/event-stream", "application/json", "text/plain"])
async def test_servers_may_stream_as_they_like(body: bytes, kind: str) -> None:
    async with answering([f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n\r\n".encode(), body, None]) as server:
        assert await text_of(model(server)) == "Hello"


async def test_a_plain_question_may_be_answered_with_a_stream() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 2}}
    async with answering(
        http(events(said("Hel"), said("lo"), END, usage), kind="text/event-stream")
    ) as server:
        got = await model(server).agenerate(TASK)
    assert (got.content, got.token_usage) == ("Hello", TokenUsage(4, 2))
    async with answering(http(events(said("Hel"), done=False))) as server:
        with pytest.raises(ConnectionFailedError, match="before the reply was complete"):
            await model(server).agenerate(TASK)
    async with answering(http(events({"error": {"message": "no", "code": 429}}))) as server:
        with pytest.raises(RateLimitError, match="no"):
            await model(server).agenerate(TASK)


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (
            [STREAM, events(said("Hel"), done=False), None],
            ConnectionFailedError,
            "before the reply was complete",
        ),
        ([STREAM, None], ConnectionFailedError, "before the reply was complete"),
        (
            [STREAM, events(said("Hel"), done=False) + b'data: {"cho', None],
            ConnectionFailedError,
            "broken JSON",
        ),
        ([STREAM, b"data: {nonsense}\n\n", None], ConnectionFailedError, "broken JSON"),
        (
            [CHUNKED, chunk(events(said("Hel"), done=False)), None],
            ConnectionFailedError,
            "the answer broke off",
        ),
        ([CHUNKED, b"zz\r\n"], ConnectionFailedError, "no HTTP answer"),
        (
            [STREAM, events({"error": {"message": "slow down", "code": 429}}), None],
            RateLimitError,
            "slow down",
        ),
        ([STREAM, events(said("H"), {"error": {"message": "oh"}}), None], ServerError, "oh"),
        ([STREAM, b"<html>hello</html>", None], ServerError, "a web page"),
        (
            [STREAM, b'{"error": {"message": "no", "type": "invalid_request_error"}}', None],
            BadRequestError,
            "no",
        ),
        ([http(b'{"error": "busy"}', "503 Service Unavailable", Retry_After="2")], ServerError, "503: busy"),
        ([None], ConnectionFailedError, "closed before an answer"),
    ],
)
async def test_a_stream_that_fails_says_how(answer: Any, kind: type[ProviderError], words: str) -> None:
    async with answering(answer) as server:
        with pytest.raises(kind, match=words) as caught:
            await streamed(model(server))
    assert type(caught.value) is kind


async def test_what_came_before_the_break_has_been_given() -> None:
    async with answering([STREAM, events(said("Hel"), done=False), None]) as server:
        deltas = model(server).agenerate_stream(TASK)
        assert (await anext(deltas)).content == "Hel"
        with pytest.raises(ConnectionFailedError):
            await anext(deltas)


async def test_ten_thousand_pieces_take_no_longer_than_they_must() -> None:
    body = events(*[said("word ")] * 10_000, END)
    async with answering([STREAM, body, None]) as server:
        async with asyncio.timeout(10):
            assert await text_of(model(server)) == "word " * 10_000


# --- Failures ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (
            http(b'{"error": {"message": "slow"}}', "429 Too Many", Retry_After="7"),
            RateLimitError,
            "429: slow",
        ),
        (http(b'{"error": {"message": "key"}}', "401 Unauthorized"), AuthenticationError, "401: key"),
        (http(b"nope", "404 Not Found", kind="text/plain"), BadRequestError, "404: nope"),
        (http(b"<html>", "502 Bad Gateway", kind="text/html"), ServerError, "a web page instead of JSON"),
        (
            http(b"", "307 Moved", Location="https://b.test/v1"),
            BadRequestError,
            "redirects to https://b.test/v1",
        ),
        (http(b'{"error": {"message": "full"}}'), ServerError, "answered with an error: full"),
        (http(b'{"choices": []}'), ServerError, "no choices"),
        (http(b"[]"), ServerError, "no choices"),
        (http(b'{"choices": [{"mess'), ServerError, "broken JSON"),
        (http(b"<html>hello</html>"), ServerError, "a web page instead of a reply"),
        (http(b""), ServerError, "broken JSON"),
        ([http(completion())[:-20], None], ConnectionFailedError, "the answer broke off"),
        ([None], ConnectionFailedError, "closed before an answer came"),
        ([b"HTTP/1.1 abc\r\n\r\n"], ConnectionFailedError, "no HTTP answer"),
    ],
)
async def test_an_answer_that_is_no_reply_says_why(
    answer: Any, kind: type[ProviderError], words: str
) -> None:
    async with answering(answer) as server:
        with pytest.raises(kind, match=words) as caught:
            await model(server).agenerate(TASK)
    assert type(caught.value) is kind
    if kind is RateLimitError:
        assert caught.value.retry_after == 7.0
        assert caught.value.status == 429


async def test_a_server_that_is_not_there_is_a_failed_connection() -> None:
    async with answering(OK) as server:
        asked = model(server)
    with pytest.raises(ConnectionFailedError, match=r"127\.0\.0\.1.*no connection"):
        await asked.agenerate(TASK)


async def test_an_address_that_is_none_is_the_callers_mistake() -> None:
    with pytest.raises(BadRequestError, match="no address"):
        await OpenAIModel("m", api_base="ftp://a.test", api_key="k").agenerate(TASK)


async def test_a_key_shows_nowhere() -> None:
    body = b'{"error": {"message": "Incorrect API key: sk-test-123"}}'
    broken = [http(body, "401 Unauthorized"), [None], [b"HTTP/1.1 abc\r\n\r\n"]]
    for answer in broken:
        async with answering(answer) as server:
            asked = model(server, extra_headers={"X-Token": "sk-test-123"}, password="sk-test-123")
            with pytest.raises(ProviderError) as caught:
                await asked.agenerate(TASK)
        shown = (
            "".join(traceback.format_exception(caught.value)) + repr(caught.value) + str(caught.value.body)
        )
        chain: BaseException | None = caught.value
        while chain is not None:
            shown += repr(chain)
            chain = chain.__cause__ or chain.__context__
        assert "sk-test-123" not in shown
    assert "sk-test-123" not in f"{asked!r} {asked.to_dict()} {vars(asked)['_key']} {asked.endpoint()}"


def test_a_model_can_be_described_and_made_again() -> None:
    made = OpenAIModel(
        "m",
        "https://u:p@a.test/v1?k=1",
        "sk-1",
        organization="o",
        custom_role_conversions={MessageRole.SYSTEM: "developer"},
        extra_body={"top_k": 1},
        temperature=0,
    )
    described = made.to_dict()
    assert json.loads(json.dumps(described)) == {
        "class": "OpenAIModel",
        "model_id": "m",
        "api_base": "https://a.test/v1",
        "organization": "o",
        "custom_role_conversions": {"system": "developer"},
        "extra_body": {"top_k": 1},
        "temperature": 0,
    }
    assert OpenAIModel.from_dict(described).to_dict() == described


# --- Time --------------------------------------------------------------------------------------


async def test_a_reply_that_does_not_come_ends_at_its_limit() -> None:
    async with answering([asyncio.Event()]) as server:
        with pytest.raises(ConnectionFailedError, match=r"no complete answer within 0\.05 s"):
            await model(server, timeout=0.05).agenerate(TASK)
        await server.left.wait()


@pytest.mark.parametrize(
    ("before", "limits", "words"),
    [
        ([], Timeouts(first_byte=0.05), r"silent for 0\.05 s"),
        ([STREAM], Timeouts(first_byte=0.05), r"silent for 0\.05 s"),
        ([STREAM, events(said("Hel"), done=False)], Timeouts(between_tokens=0.06), r"silent for 0\.06 s"),
        (
            [STREAM, events(said("Hel"), done=False)],
            Timeouts(total=0.07),
            r"no complete answer within 0\.07 s",
        ),
    ],
)
async def test_a_stream_that_falls_silent_ends_at_its_limit(
    before: Any, limits: Timeouts, words: str
) -> None:
    async with answering([*before, asyncio.Event()]) as server:
        with pytest.raises(ConnectionFailedError, match=words):
            await streamed(model(server, timeout=limits))
        await server.left.wait()


async def test_a_stream_may_be_slower_than_its_limit_between_pieces_while_nobody_reads() -> None:
    async with answering([STREAM, events(said("a"), said("b"), END), None]) as server:
        deltas = model(server, timeout={"between_tokens": 0.02}).agenerate_stream(TASK)
        assert (await anext(deltas)).content == "a"
        await asyncio.sleep(0.1)
        assert [delta.content async for delta in deltas] == ["b"]


async def test_a_cancelled_call_closes_its_connection() -> None:
    async with answering([asyncio.Event()]) as server:
        task = asyncio.create_task(model(server).agenerate(TASK))
        await server.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.left.wait()


async def test_a_stream_left_early_closes_its_connection() -> None:
    async with answering([STREAM, events(said("a"), done=False), asyncio.Event()]) as server:
        deltas = model(server).agenerate_stream(TASK)
        async for delta in deltas:
            assert delta.content == "a"
            break
        await deltas.aclose()
        await server.left.wait()


async def test_a_cancelled_stream_closes_its_connection() -> None:
    async with answering([STREAM, asyncio.Event()]) as server:
        task = asyncio.create_task(streamed(model(server)))
        await server.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.left.wait()
