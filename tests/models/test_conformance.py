"""One set of behaviours for every model, whatever its provider's format and whoever's client asks it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import socket
import threading
import traceback
from typing import TYPE_CHECKING, Any

import pytest

from manyhands import CodeAgent, ToolCallingAgent, tool
from manyhands.errors import (
    AuthenticationError,
    BadRequestError,
    ConnectionFailedError,
    ProviderError,
    RateLimitError,
    ServerError,
)
from manyhands.limits.limited import LimitedModel
from manyhands.limits.retry import RetryingModel, RetryPolicy
from manyhands.messages import (
    ChatMessage,
    DeltaFold,
    MessageRole,
    message,
    text_part,
)
from manyhands.models.base import choose_model
from manyhands.models.cleaning import REMOVE_PARAMETER
from manyhands.models.openai import OpenAIModel
from manyhands.testing import SimulatedProvider
from tests.models.litellm_needs import only_litellm_blocks_the_loop, sweep
from tests.models.sdk_wires import SDK_WIRES
from tests.models.servers import STREAM, RawServer, answering, chunk, http
from tests.models.test_wire import PNG
from tests.models.wires import KEY, WIRES, Turn, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manyhands.models.remote import RemoteModel

SYSTEM, USER = MessageRole.SYSTEM, MessageRole.USER
TASK = [message(SYSTEM, "Be brief."), message(USER, "Say hello.")]
HELLO = Turn("Hello, wörld 👋")
CALLS = (("look", {"at": "é"}, "call_1"), ("look", {"at": "b", "deep": [1, 2]}, "call_2"))
TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks.",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
    },
}


def marks_of(wire: Wire) -> list[pytest.MarkDecorator]:
    return [pytest.mark.filterwarnings(text) for text in wire.warnings]


def wire_param(wire: Wire) -> Any:
    return pytest.param(wire, id=wire.name, marks=marks_of(wire))


TURNS = [
    pytest.param(HELLO, id="text"),
    pytest.param(Turn(None, CALLS[:1]), id="a call"),
    pytest.param(Turn(None, CALLS), id="calls side by side"),
    pytest.param(Turn("I look.", CALLS, "Hm, let me see."), id="thought, text and calls"),
    pytest.param(Turn("42", (), "Six times seven."), id="thought and text"),
    pytest.param(Turn(None, (("look", {}, "call_1"),)), id="a call without arguments"),
]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


EVERY = [wire_param(each) for each in (*WIRES, *SDK_WIRES)]
# Where an SDK stands between, what becomes of these is its affair.
ours = pytest.mark.parametrize("wire", [wire_param(each) for each in WIRES], indirect=True)


def without(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("wire", [each for each in EVERY if each.id != name], indirect=True)


# Its fields have names of their own, and a thread cannot be called back: see its own tests.
not_bedrock = without("bedrock")


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop() -> Iterator[None]:
    with only_litellm_blocks_the_loop():
        yield


@pytest.fixture(autouse=True)
def no_look_ups_in_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")


@pytest.fixture(autouse=True, scope="module")
def sweep_behind_litellm() -> Iterator[None]:
    yield
    sweep()


_before = ""  # the library of the test before


@pytest.fixture(params=EVERY)
def wire(request: pytest.FixtureRequest) -> Wire:
    global _before
    found: Wire = request.param
    if _before == "litellm" != found.library:
        sweep()
    _before = found.library
    if found.library and importlib.util.find_spec(found.library) is None:
        pytest.skip(f"{found.library} is not installed: see `make test` and `make test-sdk`")
    return found


def streamed(wire: Wire, turn: Turn, size: int = 0) -> list[Any]:
    """An answer in pieces, cut where it falls."""
    body = b"".join(wire.stream(turn))
    cut = [body[at : at + size] for at in range(0, len(body), size)] if size else [body]
    return [wire.head, *map(chunk, cut), chunk(b"")]


async def fold(model: RemoteModel, messages: list[ChatMessage] = TASK, **options: Any) -> ChatMessage:
    folded = DeltaFold()
    async for delta in model.agenerate_stream(messages, **options):
        folded.add(delta)
    return folded.message()


def comparable(reply: ChatMessage) -> dict[str, Any]:
    """What two replies have to have in common."""
    data = reply.dict()
    for call in data.get("tool_calls", ()):
        call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return data


# --- Plain and streamed --------------------------------------------------------------------------


@pytest.mark.parametrize("turn", TURNS)
async def test_a_reply_is_read(wire: Wire, turn: Turn) -> None:
    async with answering(wire.answer(turn)) as server:
        got = await wire.model(server.origin).agenerate(TASK)
    assert (got.role, got.content, got.reasoning_content) == (MessageRole.ASSISTANT, turn.text, turn.thought)
    calls = [(c.function.name, json.loads(c.function.arguments), c.id) for c in got.tool_calls or ()]
    assert calls == list(turn.calls)
    assert got.token_usage == wire.counted(turn)


# SDKs cut streams with code of their own: once through it is enough.
SIZES = [(each, size) for each in (*WIRES, *SDK_WIRES) for size in ([7] if each.library else [0, 1, 7, 50])]


@pytest.mark.parametrize(
    ("wire", "size"),
    [pytest.param(each, size, id=f"{each.name}-{size}", marks=marks_of(each)) for each, size in SIZES],
    indirect=["wire"],
)
@pytest.mark.parametrize("turn", TURNS)
async def test_a_stream_comes_to_the_same_as_the_whole(wire: Wire, turn: Turn, size: int) -> None:
    async with answering(wire.answer(turn), streamed(wire, turn, size)) as server:
        model = wire.model(server.origin)
        whole, folded = await model.agenerate(TASK), await fold(model)
    assert comparable(folded) == comparable(whole)


@ours
async def test_what_has_no_name_here_is_kept_as_it_came(wire: Wire) -> None:
    async with answering(wire.answer(HELLO), streamed(wire, HELLO)) as server:
        model = wire.model(server.origin)
        whole, folded = await model.agenerate(TASK), await fold(model)
    assert folded.raw == whole.raw
    assert whole.raw["model"] == "tiny-1"
    assert server.requests[1].json["stream"] is True


async def test_a_stream_comes_in_pieces_as_they_arrive(wire: Wire) -> None:
    start, end = wire.stream(HELLO)
    go = asyncio.Event()
    async with answering([wire.head, chunk(start), go, chunk(end), chunk(b""), None]) as server:
        deltas = wire.model(server.origin).agenerate_stream(TASK)
        texts: list[str] = []
        while "".join(texts) != HELLO.text:
            texts.append((await anext(deltas)).content or "")
        go.set()
        rest = [delta async for delta in deltas]
    assert len(texts) > 3
    assert rest[-1].token_usage == wire.counted(HELLO)


@ours
async def test_a_plain_answer_to_a_streamed_question_is_taken(wire: Wire) -> None:
    turn = Turn("I look.", CALLS, "Hm.")
    async with answering(wire.answer(turn)) as server:
        model = wire.model(server.origin)
        assert comparable(await fold(model)) == comparable(await model.agenerate(TASK))


@ours
async def test_a_streamed_answer_to_a_plain_question_is_taken(wire: Wire) -> None:
    turn = Turn("I look.", CALLS, "Hm.")
    body = b"".join(wire.stream(turn)).replace(b"event: message_start\n", b": hello\n")
    if wire.name in ("responses", "anthropic"):
        body = b": named events\n\n" + body
    async with answering(http(body, kind="text/event-stream"), wire.answer(turn)) as server:
        model = wire.model(server.origin)
        assert comparable(await model.agenerate(TASK)) == comparable(await model.agenerate(TASK))


@ours
async def test_a_stream_read_to_its_end_keeps_its_connection(wire: Wire) -> None:
    async with answering(streamed(wire, HELLO)) as server:
        model = wire.model(server.origin)
        for _ in range(3):
            await fold(model)
        assert server.connections == 1


# --- What is sent --------------------------------------------------------------------------------


_KEYS = ("authorization", "x-api-key", "api-key")


async def test_a_conversation_is_sent_in_the_providers_form(wire: Wire) -> None:
    async with answering(wire.answer(HELLO)) as server:
        await wire.model(server.origin).agenerate(TASK, tools_to_call_from=[TOOL])
    (request,) = server.requests
    assert (request.method, request.target) == ("POST", wire.path)
    asked = wire.read(request.json)
    assert (asked.model, asked.system) == ("tiny", "Be brief.")
    assert (asked.said, asked.tools) == ([("user", "Say hello.")], ["look"])
    assert any(wire.credential in request.headers.get(name, "") for name in _KEYS)


async def test_calls_and_their_results_go_back_as_such(wire: Wire) -> None:
    turn = Turn("I look.", CALLS, "Hm.")
    async with answering(wire.answer(turn), wire.answer(HELLO)) as server:
        model = wire.model(server.origin)
        got = await model.agenerate(TASK, tools_to_call_from=[TOOL])
        results = [
            ChatMessage(MessageRole.TOOL_RESPONSE, [text_part(f"saw {number}")], tool_call_id=call[2])
            for number, call in enumerate(CALLS)
        ]
        asked_again = [*TASK, got, *results, message(USER, "And now?")]
        await model.agenerate(asked_again, tools_to_call_from=[TOOL])
    body = server.requests[1].body.decode()
    asked = wire.read(server.requests[1].json)
    assert [said for said in asked.said if said[0] != "assistant" and said[1]] == [
        ("user", "Say hello."),
        ("tool", "saw 0"),
        ("tool", "saw 1"),
        ("user", "And now?"),
    ]
    assert ("assistant", "I look.") in asked.said
    assert all(body.count(f'"{call[2]}"') == 2 for call in CALLS)
    assert "Calling tools" not in body


@ours
async def test_a_message_is_encoded_once_for_all_its_requests(wire: Wire) -> None:
    conversation = [*TASK]
    async with answering(wire.answer(HELLO)) as server:
        model = wire.model(server.origin)
        await model.agenerate(conversation)
        kept = [entry._encoded for entry in conversation]
        conversation.append(ChatMessage(MessageRole.ASSISTANT, "Hello"))
        await model.agenerate(conversation)
        await wire.model(server.origin).agenerate(conversation)
    assert [entry._encoded for entry in conversation[:2]] == kept
    assert all(before is after._encoded for before, after in zip(kept, conversation, strict=False))


async def test_stop_sequences_end_a_reply_wherever_they_are_applied(wire: Wire) -> None:
    stops = ["STOP"]
    said = Turn("one " if wire.stops_itself else "one STOP two")
    async with answering(wire.answer(said), streamed(wire, said)) as server:
        model = wire.model(server.origin)
        whole = await model.agenerate(TASK, stop_sequences=stops)
        folded = await fold(model, stop_sequences=stops)
    assert whole.content == folded.content == "one "
    sent = [wire.read(request.json).stops for request in server.requests]
    assert sent == ([stops] * 2 if wire.stops_itself else [[], []])


async def test_many_stop_sequences_all_end_the_reply(wire: Wire) -> None:
    stops = ["A1", "B2", "C3", "D4", "E5"]
    said = Turn("one E5 two") if wire.most_stops else Turn("one ")
    async with answering(wire.answer(said), streamed(wire, said)) as server:
        model = wire.model(server.origin)
        assert (await model.agenerate(TASK, stop_sequences=stops)).content == "one "
        assert (await fold(model, stop_sequences=stops)).content == "one "
    sent = wire.read(server.requests[0].json).stops
    assert sent == (stops[: wire.most_stops] if wire.stops_itself else [])


async def test_a_reply_can_be_bound_to_a_schema(wire: Wire) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "found", "strict": True, "schema": SCHEMA}}
    async with answering(wire.answer(Turn('{"a": 1}'))) as server:
        got = await wire.model(server.origin).agenerate(TASK, response_format=wanted)
    assert wire.schema(server.requests[0].json)["required"] == ["a"]
    assert got.content == '{"a": 1}'


async def test_a_reply_can_be_bound_to_a_pydantic_class(wire: Wire) -> None:
    pydantic = pytest.importorskip("pydantic")
    kind = pydantic.create_model("Found", a=(int, ...))
    async with answering(wire.answer(Turn('{"a": 1}'))) as server:
        await wire.model(server.origin).agenerate(TASK, response_format=kind)
    found = wire.schema(server.requests[0].json)
    assert found["properties"] == {"a": {"title": "A", "type": "integer"}}


@not_bedrock
async def test_pictures_and_files_are_sent(wire: Wire) -> None:
    parts = [
        text_part("Look."),
        {"type": "image", "image": PNG},
        {"type": "image", "image": "https://a.test/b.png"},
        {"type": "file", "file": b"%PDF-1.7", "filename": "a.pdf"},
    ]
    async with answering(wire.answer(HELLO)) as server:
        await wire.model(server.origin).agenerate([ChatMessage(USER, parts)])
    body = server.requests[0].body.decode()
    sent = server.requests[0].json
    found = sent["input"][0] if wire.name == "responses" else sent["messages"][0]
    kinds = [part["type"] for part in found["content"]]
    assert kinds == {
        "responses": ["input_text", "input_image", "input_image", "input_file"],
        "anthropic": ["text", "image", "image", "document"],
    }.get(wire.name, ["text", "image_url", "image_url", "file"])
    for part in (
        "iVBORw0KGgo",
        "image/png",
        "https://a.test/b.png",
        "JVBERi0xLjc=",
        "application/pdf",
        "a.pdf",
    ):
        assert part in body


@not_bedrock
async def test_a_pil_picture_is_encoded_off_the_loop_and_once(wire: Wire) -> None:
    image = pytest.importorskip("PIL.Image").new("RGB", (64, 64), "red")
    conversation = [message(USER, "look", [image])]
    async with answering(wire.answer(HELLO)) as server:
        model = wire.model(server.origin)
        await model.agenerate(conversation)
        image.close()  # a second encoding would fail
        await model.agenerate(conversation)
    first, second = (request.body for request in server.requests)
    assert first == second
    assert b"iVBOR" in first


@not_bedrock
async def test_settings_of_the_model_win_over_the_call_and_the_call_over_the_rest(wire: Wire) -> None:
    async with answering(wire.answer(HELLO)) as server:
        model = wire.model(server.origin, temperature=0, extra_body={"top_k": 3, "seed": 2}, seed=1)
        await model.agenerate(
            TASK, temperature=1, top_p=0.5, extra_body={"top_k": 4}, tools_to_call_from=[TOOL]
        )
    sent = server.requests[0].json
    assert {name: sent[name] for name in ("temperature", "top_p", "top_k", "seed")} == {
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 4,
        "seed": 2,
    }
    assert sent["tool_choice"] in ("required", {"type": "any"})


@not_bedrock
async def test_a_parameter_can_be_removed(wire: Wire) -> None:
    async with answering(wire.answer(HELLO)) as server:
        model = wire.model(server.origin, tool_choice=REMOVE_PARAMETER, seed=REMOVE_PARAMETER)
        await model.agenerate(TASK, tools_to_call_from=[TOOL], seed=1)
    sent = server.requests[0].json
    assert "tools" in sent
    assert not {"tool_choice", "seed"} & sent.keys()


@not_bedrock
async def test_fields_for_tools_are_not_sent_without_tools(wire: Wire) -> None:
    async with answering(wire.answer(HELLO)) as server:
        await wire.model(server.origin, tool_choice="auto", parallel_tool_calls=False).agenerate(TASK)
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & server.requests[0].json.keys()


async def test_roles_can_be_renamed_and_messages_flattened(wire: Wire) -> None:
    conversation = [
        *TASK,
        ChatMessage(MessageRole.TOOL_CALL, "Calling tools:\n[]"),
        ChatMessage(MessageRole.TOOL_RESPONSE, [text_part("saw it"), {"type": "image", "image": PNG}]),
    ]
    async with answering(wire.answer(HELLO)) as server:
        await wire.model(server.origin, custom_role_conversions={"system": "user"}).agenerate(TASK)
        await wire.model(server.origin, flatten_messages_as_text=True).agenerate(conversation)
    renamed, flat = (wire.read(request.json) for request in server.requests)
    assert (renamed.system, {role for role, _ in renamed.said}) == ("", {"user"})
    assert ["Be brief." in text for _, text in renamed.said][0]
    assert flat.said[1:] == [("assistant", "Calling tools:\n[]"), ("user", "saw it")]


# --- Failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(
    ("status", "type_", "kind"),
    [
        ("400 Bad Request", "invalid_request_error", BadRequestError),
        ("401 Unauthorized", "authentication_error", AuthenticationError),
        ("404 Not Found", "not_found_error", BadRequestError),
        ("429 Too Many Requests", "rate_limit_error", RateLimitError),
        ("500 Internal Server Error", "api_error", ServerError),
        ("529 Overloaded", "overloaded_error", ServerError),
    ],
)
async def test_a_refusal_says_whose_fault_it_is(
    wire: Wire, status: str, type_: str, kind: type[ProviderError], streams: bool
) -> None:
    body = json.dumps(wire.error(type_, f"no, not with {KEY}")).encode()
    async with answering(http(body, status, Retry_After="7")) as server:
        model = wire.model(server.origin)
        with pytest.raises(
            kind, match=rf"{status[:3] if wire.names_status else ''}.*no, not with \*\*\*"
        ) as caught:
            await (fold(model) if streams else model.agenerate(TASK))
    assert (type(caught.value), caught.value.status) == (kind, int(status[:3]))
    assert caught.value.retry_after == 7.0


@pytest.mark.parametrize(
    ("type_", "kind"), [("overloaded_error", ServerError), ("rate_limit_error", RateLimitError)]
)
async def test_an_error_in_the_middle_of_a_stream_is_one(
    wire: Wire, type_: str, kind: type[ProviderError]
) -> None:
    start, _ = wire.stream(HELLO)
    pieces = [wire.head, chunk(start), chunk(wire.error_event(type_, "not now")), None]
    async with answering(pieces) as server:
        told = kind if wire.blames_in_streams else (ServerError, ConnectionFailedError)
        with pytest.raises(told, match="not now"):
            await fold(wire.model(server.origin))


@pytest.mark.parametrize("answer", [b"{}", b"[]", b'{"id": 1}', b"<html>", b"", b'{"broken'])
async def test_an_answer_without_a_reply_is_the_servers_fault(wire: Wire, answer: bytes) -> None:
    async with answering(http(answer)) as server:
        with pytest.raises(ServerError):
            await wire.model(server.origin).agenerate(TASK)


async def test_half_a_stream_is_no_reply(wire: Wire) -> None:
    start, _ = wire.stream(HELLO)
    ends = [None, chunk(b"")] if wire.notices_the_end else [None]
    for piece, end in [*((start, end) for end in ends), (start[:-20], None)]:
        async with answering([wire.head, chunk(piece), end, None]) as server:
            with pytest.raises((ConnectionFailedError, ServerError)):
                await fold(wire.model(server.origin))


@ours
async def test_silence_ends_at_its_limit(wire: Wire) -> None:
    start, _ = wire.stream(HELLO)
    async with answering([STREAM, start, asyncio.Event()]) as server:
        with pytest.raises(ConnectionFailedError, match=r"silent for 0\.05 s"):
            await fold(wire.model(server.origin, timeout={"between_tokens": 0.05}))
        await server.left.wait()


@not_bedrock
@pytest.mark.parametrize("streams", [False, True])
async def test_a_call_may_have_a_time_limit_of_its_own(wire: Wire, streams: bool) -> None:
    async with answering([asyncio.Event()], wire.answer(HELLO)) as server:
        model = wire.model(server.origin)
        with pytest.raises(ConnectionFailedError, match=wire.late):
            await (fold(model, timeout=0.05) if streams else model.agenerate(TASK, timeout=0.05))
        await server.left.wait()
        assert (await model.agenerate(TASK)).content == HELLO.text
    assert "timeout" not in server.requests[0].json


@not_bedrock
@pytest.mark.parametrize("streams", [False, True])
async def test_a_cancelled_call_closes_its_connection(wire: Wire, streams: bool) -> None:
    async with answering([asyncio.Event()]) as server:
        model = wire.model(server.origin)
        task = asyncio.create_task(fold(model) if streams else model.agenerate(TASK))
        await server.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.left.wait()


@not_bedrock
async def test_a_stream_left_early_closes_its_connection(wire: Wire) -> None:
    start, _ = wire.stream(HELLO)
    async with answering([wire.head, chunk(start), asyncio.Event()]) as server:
        deltas = wire.model(server.origin).agenerate_stream(TASK)
        await anext(deltas)
        await deltas.aclose()
        await server.left.wait()


async def test_a_question_on_a_dead_connection_is_not_asked_again_unasked(wire: Wire) -> None:
    async with answering(wire.answer(HELLO), None, wire.answer(HELLO)) as server:
        model = wire.model(server.origin)
        await model.agenerate(TASK)
        with pytest.raises((ConnectionFailedError, ServerError), match=wire.dropped):
            await model.agenerate(TASK)
        assert len(server.requests) == 2
        retrying = RetryingModel(model, RetryPolicy(attempts=2, first_delay=0))
        assert (await retrying.agenerate(TASK)).content == HELLO.text


async def test_the_key_shows_nowhere(wire: Wire) -> None:
    body = json.dumps(wire.error("authentication_error", f"Incorrect API key: {KEY}")).encode()
    for answer in (http(body, "401 Unauthorized"), None, [b"HTTP/1.1 abc\r\n\r\n"], http(body)):
        async with answering(answer) as server:
            model = wire.model(server.origin, extra_headers={"X-Token": KEY}, password=KEY)
            with pytest.raises(ProviderError) as caught:
                await model.agenerate(TASK)
        shown = (
            "".join(traceback.format_exception(caught.value)) + repr(caught.value) + str(caught.value.body)
        )
        link: BaseException | None = caught.value
        while link is not None:
            shown += repr(link)
            link = link.__cause__ or link.__context__
        assert KEY not in shown
    assert KEY not in f"{model!r} {model.to_dict()} {model.endpoint()}"


def test_a_model_can_be_described_and_made_again(wire: Wire) -> None:
    made = wire.model("https://u:p@a.test", temperature=0, custom_role_conversions={"system": "developer"})
    described = made.to_dict()
    assert "u:p" not in json.dumps(described)
    assert type(made).from_dict(described).to_dict() == described


@ours
@pytest.mark.parametrize("streams", [False, True])
async def test_what_the_headers_tell_of_limits_reaches_the_limiter(wire: Wire, streams: bool) -> None:
    name = "anthropic-ratelimit-requests-limit" if wire.name == "anthropic" else "x-ratelimit-limit-requests"
    body = wire.plain(HELLO)
    async with answering(http(body, **{name: "60"})) as server:
        limited = LimitedModel(wire.model(server.origin))
        if streams:
            assert [delta async for delta in limited.agenerate_stream(TASK)]
        else:
            await limited.agenerate(TASK)
    assert limited.rate.stats().requests_per_minute == 60


# --- Loops and threads ---------------------------------------------------------------------------


def test_a_model_works_on_several_loops_and_threads_at_once(wire: Wire) -> None:
    found: list[Any] = []

    async def serve_and_ask(model: RemoteModel, server: RawServer, count: int) -> None:
        replies = await asyncio.gather(*(model.agenerate(TASK) for _ in range(count)))
        found.extend(reply.content for reply in replies)

    def in_thread(model: RemoteModel, server: RawServer) -> None:
        asyncio.run(serve_and_ask(model, server, 5))

    async def main() -> None:
        async with answering(wire.answer(HELLO)) as server:
            model = wire.model(server.origin)
            threads = [threading.Thread(target=in_thread, args=(model, server)) for _ in range(3)]
            for thread in threads:
                thread.start()
            await serve_and_ask(model, server, 5)
            await asyncio.gather(*(asyncio.to_thread(thread.join) for thread in threads))
            found.append((await asyncio.to_thread(model.generate, TASK)).content)

    asyncio.run(main())
    assert found == [HELLO.text] * 21


# --- Subclasses ----------------------------------------------------------------------------------


@without("litellm-router")  # it is not told a name alone
async def test_a_subclass_may_write_a_narrow_generate_alone(wire: Wire) -> None:
    kind: Any = type(wire.model("http://localhost"))

    class Narrow(kind):  # type: ignore[misc]
        def generate(self, messages: Any, stop_sequences: Any = None) -> str:
            return "<code>final_answer('narrow')</code>"

    model = Narrow("tiny", api_key="k")
    assert await CodeAgent(model=model, tools=[]).arun("What are you?") == "narrow"


# --- Agents --------------------------------------------------------------------------------------


@tool
def look(at: str) -> str:
    """Looks at a thing.

    Args:
        at: The thing.
    """
    return f"saw {at}"


CALLING = [
    Turn("I look.", (("look", {"at": "a"}, "call_1"), ("look", {"at": "b"}, "call_2")), "Hm."),
    Turn(None, (("look", {"at": "c"}, "call_3"),)),
    Turn(None, (("final_answer", {"answer": "all seen"}, "call_4"),)),
]
CODING = [
    Turn("I look.\n<code>\nseen = look('a')\nprint(seen)\n"),
    Turn("Thought: done\n<code>\nfinal_answer(seen + '!')\n</code>", (), "Hm."),
]


_WARNINGS = [text for wire in SDK_WIRES for text in wire.warnings]


def steps_of(agent: Any) -> list[dict[str, Any]]:
    """The steps of a run, without what depends on time."""
    found = []
    for step in agent.memory.steps:
        data = step.dict()
        for name in ("timing", "model_input_messages"):
            data.pop(name, None)
        for usage in (data.get("token_usage"), (data.get("model_output_message") or {}).get("token_usage")):
            (usage or {}).pop("reasoning_tokens", None)  # not every provider tells
        (data.get("model_output_message") or {}).pop("provider_items", None)
        for call in (data.get("model_output_message") or {}).get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        found.append(data)
    return found


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(
    ("kind", "turns", "answer"),
    [(ToolCallingAgent, CALLING, "all seen"), (CodeAgent, CODING, "saw a!")],
)
@pytest.mark.filterwarnings(*_WARNINGS)
async def test_the_same_run_gives_the_same_steps_on_every_provider(
    kind: Any, turns: list[Turn], answer: str, streams: bool
) -> None:
    runs = []
    for wire in (*WIRES, *SDK_WIRES):
        if wire.library and importlib.util.find_spec(wire.library) is None:
            continue
        answers = [streamed(wire, turn) if streams else wire.answer(turn) for turn in turns]
        async with answering(*answers) as server:
            agent = kind(model=wire.model(server.origin), tools=[look], stream_outputs=streams)
            assert await agent.arun("Look around.") == answer
        assert len(server.requests) == len(turns)
        runs.append(steps_of(agent))
    assert all(run == runs[0] for run in runs[1:])


# --- The simulated provider ------------------------------------------------------------------------


FAULTS = ["500", "truncate", None, "429", "503", "reset", None, None, None]


CHAT = pytest.mark.parametrize(
    "wire", [each for each in EVERY if each.id in ("chat", "litellm", "litellm-router", "hub")], indirect=True
)


@CHAT
async def test_it_keeps_its_limits(wire: Wire) -> None:
    async with SimulatedProvider(policy=lambda _: "Hello!", latency=0.05, record=1) as provider:
        asked = wire.model(provider.base_url[:-3], max_concurrency=2, requests_per_minute=6000)
        replies = await asyncio.gather(*(asked.agenerate(TASK) for _ in range(6)))
        assert {reply.content for reply in replies} == {"Hello!"}
        assert provider.stats.peak_in_flight == 2
        assert provider.received[0].body.keys() - {"stream"} == {"messages", "model"}
        await asked.aclose()


@CHAT
async def test_no_server_at_all_is_told_as_such(wire: Wire) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises((ConnectionFailedError, ServerError)):
            await wire.model(f"http://127.0.0.1:{taken.getsockname()[1]}").agenerate(TASK)


@CHAT
@pytest.mark.retries
@pytest.mark.parametrize("streams", [False, True])
async def test_agents_get_through_refusals_whoever_asks(wire: Wire, streams: bool) -> None:
    async with SimulatedProvider(
        faults=["500", None, "429", "503", None, None], retry_after=0.01
    ) as provider:
        asked = wire.model(provider.base_url[:-3])
        model = RetryingModel(asked, RetryPolicy(attempts=4, first_delay=0))
        agent = CodeAgent(model=model, tools=[], stream_outputs=streams)
        assert str(await agent.arun("What is 17 * 23?")) == "391"
        await asked.aclose()


@pytest.mark.retries
@pytest.mark.parametrize("preset", [False, True])
@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("kind", [ToolCallingAgent, CodeAgent])
async def test_agents_get_through_the_faults_of_a_simulated_provider(
    kind: Any, streams: bool, preset: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SimulatedProvider(faults=FAULTS, retry_after=0.01) as provider:
        monkeypatch.setenv("VLLM_BASE_URL", provider.base_url)
        asked = OpenAIModel("vllm/any") if preset else OpenAIModel("any", api_base=provider.base_url)
        model = RetryingModel(asked, RetryPolicy(attempts=4, first_delay=0))
        tools = ["python_interpreter"] if kind is ToolCallingAgent else []
        agent = kind(model=model, tools=tools, stream_outputs=streams)
        assert str(await agent.arun("What is 17 * 23?")) == "391"


# --- The providers' own clients ----------------------------------------------------------------------


def sdk_of(wire: Wire, origin: str) -> Any:
    """The provider's own client, asking the same server."""
    if wire.name == "anthropic":
        anthropic = pytest.importorskip("anthropic")
        return anthropic.AsyncAnthropic(base_url=origin, api_key=KEY, max_retries=0)
    openai = pytest.importorskip("openai")
    if wire.name.startswith("azure"):
        version = {"azure_endpoint": origin, "api_version": "2024-10-21"}
        return openai.AsyncAzureOpenAI(**version, api_key=KEY, max_retries=0)
    return openai.AsyncOpenAI(base_url=f"{origin}/v1", api_key=KEY, max_retries=0)


@ours
@pytest.mark.parametrize("turn", TURNS)
async def test_the_providers_own_client_reads_and_writes_the_same(wire: Wire, turn: Turn) -> None:
    async with answering(wire.answer(turn), streamed(wire, turn)) as server:
        client, own = sdk_of(wire, server.origin), wire.model(server.origin)
        asked = wire.model(server.origin, client=client)
        async with client:
            for model in (asked, own):
                server.restart()
                whole = await model.agenerate(TASK, tools_to_call_from=[TOOL], timeout=9)
                folded = await fold(model, TASK, tools_to_call_from=[TOOL], timeout=9)
                assert comparable(whole) == comparable(folded)
            assert comparable(whole)["content"] == turn.text
    sent = [request.json for request in server.requests]
    assert sent[:2] == sent[2:]


# --- Live ------------------------------------------------------------------------------------------

LIVE = {
    "openai": ("OPENAI_API_KEY", "gpt-5-mini"),
    "openai-responses": ("OPENAI_API_KEY", "openai-responses/gpt-5-mini"),
    "anthropic": ("ANTHROPIC_API_KEY", "anthropic/claude-haiku-4-5"),
    "azure": ("AZURE_OPENAI_API_KEY", "azure/gpt-5-mini"),
    "groq": ("GROQ_API_KEY", "groq/openai/gpt-oss-20b"),
    "deepseek": ("DEEPSEEK_API_KEY", "deepseek/deepseek-v4-flash"),
    "openrouter": ("OPENROUTER_API_KEY", "openrouter/openai/gpt-oss-20b"),
    "gemini": ("GEMINI_API_KEY", "gemini/gemini-3-flash-preview"),
    "mistral": ("MISTRAL_API_KEY", "mistral/mistral-small-latest"),
}


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("provider", LIVE)
async def test_a_live_provider_serves_an_agent(provider: str, streams: bool) -> None:
    key, name = LIVE[provider]
    if os.environ.get("MANYHANDS_LIVE") != "1":
        pytest.skip("costs money: set MANYHANDS_LIVE=1 to ask real providers (make test-live)")
    if not os.environ.get(key):
        pytest.skip(f"needs a key in {key}")
    model = choose_model(os.environ.get(f"MANYHANDS_LIVE_{provider.upper().replace('-', '_')}") or name)
    agent = ToolCallingAgent(model=model, tools=[look], stream_outputs=streams, max_steps=4)
    answer = await agent.arun("Look at the moon with the tool `look`, then answer exactly what it returned.")
    assert "saw" in str(answer)
