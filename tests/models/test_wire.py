"""Messages become the JSON that a provider expects, each once; replies become messages."""

from __future__ import annotations

import base64
import json
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from manyhands.models import wire
from manyhands.models.cleaning import get_clean_message_list, tool_role_conversions
from manyhands.models.media import HeavyOnLoop

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
SYSTEM, USER, ASSISTANT = MessageRole.SYSTEM, MessageRole.USER, MessageRole.ASSISTANT
CALL, RESPONSE = MessageRole.TOOL_CALL, MessageRole.TOOL_RESPONSE


def call(name: str, arguments: Any, id: str = "c1") -> ChatMessageToolCall:
    return ChatMessageToolCall(ChatMessageToolCallFunction(arguments, name), id)


def sent(messages: list[ChatMessage], **settings: Any) -> list[dict[str, Any]]:
    """What a provider reads."""
    pieces = wire.message_encoder(**settings).encode(messages)
    found: list[dict[str, Any]] = json.loads(b"[" + b"".join(pieces) + b"]")
    return found


# --- Going out ---------------------------------------------------------------------------------


def test_text_goes_as_a_plain_string() -> None:
    parts = ChatMessage(USER, [text_part("a"), text_part('"b"\n')])
    assert sent([message(SYSTEM, "be good"), parts, ChatMessage(ASSISTANT, "yes")]) == [
        {"role": "system", "content": "be good"},
        {"role": "user", "content": 'a\n"b"\n'},
        {"role": "assistant", "content": "yes"},
    ]


def test_no_messages_are_an_empty_list() -> None:
    assert sent([]) == []


def test_neighbours_of_one_role_become_one_message() -> None:
    assert sent(
        [message(USER, "a"), message(USER, "b"), ChatMessage(USER, "c"), message(ASSISTANT, "d")]
    ) == [
        {"role": "user", "content": "a\nb\nc"},
        {"role": "assistant", "content": "d"},
    ]


def test_tool_calls_and_results_go_as_such() -> None:
    conversation = [
        ChatMessage(ASSISTANT, None, [call("add", {"a": 1}, "c1"), call("add", '{"a": 2}', "c2")]),
        ChatMessage(RESPONSE, [text_part("Observation:\n1")], tool_call_id="c1"),
        ChatMessage(RESPONSE, [text_part("Observation:\n2")], tool_call_id="c2"),
    ]
    assistant, first, second = sent(conversation)
    assert assistant == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}},
            {"id": "c2", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}},
        ],
    }
    assert first == {"role": "tool", "content": "Observation:\n1", "tool_call_id": "c1"}
    assert second == {"role": "tool", "content": "Observation:\n2", "tool_call_id": "c2"}


@pytest.mark.parametrize(
    ("arguments", "text"), [(None, "{}"), ("", "{}"), ({}, "{}"), ([1], "[1]"), ("x", "x")]
)
def test_arguments_are_always_json_text(arguments: Any, text: str) -> None:
    (entry,) = sent([ChatMessage(ASSISTANT, "now", [call("f", arguments)])])
    assert entry["content"] == "now"
    assert entry["tool_calls"][0]["function"]["arguments"] == text


def test_results_without_a_call_and_written_calls_go_as_text() -> None:
    conversation = [
        ChatMessage(CALL, [text_part("Calling tools:\n[]")]),
        ChatMessage(RESPONSE, [text_part("Observation:\n1")]),
        message(USER, "go on"),
    ]
    assert sent(conversation) == [
        {"role": "assistant", "content": "Calling tools:\n[]"},
        {"role": "user", "content": "Observation:\n1\ngo on"},
    ]


@pytest.mark.parametrize("settings", [{"flatten": True}, {"conversions": tool_role_conversions}])
def test_models_without_tool_messages_get_them_as_text(settings: dict[str, Any]) -> None:
    assert not wire.message_encoder(**settings).native_tools
    conversation = [
        ChatMessage(ASSISTANT, "I add.", [call("add", {"a": 1})]),
        ChatMessage(RESPONSE, [text_part("Observation:\n1")], tool_call_id="c1"),
    ]
    described = "[{'id': 'c1', 'type': 'function', 'function': {'name': 'add', 'arguments': {'a': 1}}}]"
    assert sent(conversation, **settings) == [
        {"role": "assistant", "content": f"I add.\nCalling tools:\n{described}"},
        {"role": "user", "content": "Observation:\n1"},
    ]


def test_roles_are_renamed_on_request() -> None:
    conversation = [message(SYSTEM, "a"), message(USER, "b")]
    assert sent(conversation, conversions={SYSTEM: USER}) == [{"role": "user", "content": "a\nb"}]
    assert sent(conversation, conversions={"system": "developer"})[0]["role"] == "developer"
    # Renaming those leaves tool messages as they are.
    assert wire.message_encoder(conversions={"system": "developer"}).native_tools


def test_pictures_go_as_data_urls() -> None:
    (entry,) = sent([message(USER, "look", [PNG])])
    assert entry["content"] == [
        {"type": "text", "text": "look"},
        {
            "type": "image_url",
            "image_url": {"url": f"data:image/png;base64,{base64.b64encode(PNG).decode()}"},
        },
    ]


def test_a_pil_picture_is_encoded() -> None:
    image = pytest.importorskip("PIL.Image").new("RGB", (2, 2), "red")
    (entry,) = sent([message(USER, "look", [image])])
    url = entry["content"][1]["image_url"]["url"]
    assert base64.b64decode(url.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("image", "start"),
    [
        (b"\xff\xd8\xff\xe0", "data:image/jpeg;base64,"),
        (b"GIF89a", "data:image/gif;base64,"),
        (b"RIFF0000WEBP", "data:image/webp;base64,"),
        ("aGk=", "data:image/png;base64,aGk="),
        ("https://a.test/cat.jpg", "https://a.test/cat.jpg"),
        ("data:image/jpeg;base64,aGk=", "data:image/jpeg;base64,aGk="),
    ],
)
def test_a_picture_goes_by_its_kind(image: Any, start: str) -> None:
    assert wire.data_url(image).startswith(start)


def test_other_parts_go_as_they_are() -> None:
    audio = {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}}
    (entry,) = sent([ChatMessage(USER, [text_part("listen"), audio])])
    assert entry["content"] == [text_part("listen"), audio]


def test_text_and_pictures_of_neighbours_become_one_list() -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://a.test/cat.jpg"}}
    plain = [ChatMessage(USER, text) for text in "abc"]
    with_picture = ChatMessage(USER, [text_part("see"), {"type": "image", "image": "https://a.test/cat.jpg"}])
    (entry,) = sent([plain[0], plain[1], with_picture, plain[2], with_picture])
    see = [text_part("see"), picture]
    assert entry["content"] == [text_part("a\nb"), *see, text_part("c"), *see]


def test_flattening_leaves_pictures_out() -> None:
    assert sent([message(USER, "look", [PNG])], flatten=True) == [{"role": "user", "content": "look"}]


def test_dictionaries_count_as_messages() -> None:
    given_as_dict: Any = {"role": "user", "content": [text_part("a")]}
    assert sent([given_as_dict, message(USER, "b")]) == [{"role": "user", "content": "a\nb"}]


def test_half_characters_do_not_stop_a_conversation() -> None:
    assert sent([message(USER, "a\ud83d")]) == [{"role": "user", "content": "a?"}]


# --- Once --------------------------------------------------------------------------------------


def test_a_message_is_encoded_once_and_then_shared() -> None:
    encoder = wire.message_encoder()
    conversation = [message(SYSTEM, "s" * 1000), message(USER, "u"), ChatMessage(ASSISTANT, "a")]
    first, again = encoder.encode(conversation), encoder.encode(conversation)
    # The first one loses its comma; all others are the very same objects.
    assert [id(piece) for piece in first[1:]] == [id(piece) for piece in again[1:]]


def test_a_changed_message_is_encoded_anew() -> None:
    changed = message(USER, "a")
    assert sent([changed])[0]["content"] == "a"
    changed.content = "b"
    assert sent([changed])[0]["content"] == "b"
    changed.role = ASSISTANT
    assert sent([changed])[0]["role"] == "assistant"


def test_models_of_the_same_kind_share_the_work_and_others_do_not() -> None:
    assert wire.message_encoder() is wire.message_encoder(False, {})
    both = [ChatMessage(ASSISTANT, None, [call("f", {})])]
    assert "tool_calls" in sent(both)[0]
    assert "tool_calls" not in sent(both, flatten=True)[0]
    assert "tool_calls" in sent(both)[0]


def test_a_picture_is_never_encoded_on_the_loop() -> None:
    encoder = wire.message_encoder()
    picture = message(USER, "look", [PNG])
    with pytest.raises(HeavyOnLoop):
        encoder.encode([picture], on_loop=True)
    encoder.encode([picture])
    assert encoder.encode([picture], on_loop=True)


def test_a_tool_set_is_encoded_once() -> None:
    class Tool:
        schema = {"type": "function", "function": {"name": "f", "parameters": {}}}

        def json_schema(self) -> dict[str, Any]:
            return self.schema

    tool, encoder = Tool(), wire.ToolEncoder(keep=2)
    first = encoder.encode([tool])
    assert json.loads(first) == [tool.schema]
    assert encoder.encode([tool]) is first
    tool.schema = {"type": "function", "function": {"name": "g", "parameters": {}}}
    assert json.loads(encoder.encode([tool])) == [tool.schema]
    for _ in range(5):
        assert json.loads(encoder.encode([dict(tool.schema)])) == [tool.schema]


def test_threads_may_encode_the_same_messages() -> None:
    conversation = [message(USER if i % 2 else ASSISTANT, f"m{i}") for i in range(200)]
    settings: list[dict[str, Any]] = [{}, {"flatten": True}]
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda s=s: found.append(sent(conversation, **s))) for s in settings * 4
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(entry == found[0] for entry in found)


texts = st.text(max_size=12)
turns = st.builds(
    ChatMessage,
    st.sampled_from([SYSTEM, USER, ASSISTANT, CALL, RESPONSE]),
    texts | st.lists(texts.map(text_part), min_size=1, max_size=3),
)


@given(st.lists(turns, max_size=8))
def test_the_wire_says_what_the_cleaned_list_says(conversation: list[ChatMessage]) -> None:
    cleaned = get_clean_message_list(conversation, tool_role_conversions, flatten_messages_as_text=True)
    for entry in cleaned:
        entry["content"] = entry["content"].encode("utf-8", "replace").decode()
    assert sent(conversation) == cleaned == sent(conversation)


# --- Coming in ---------------------------------------------------------------------------------


def reply(message: dict[str, Any], **fields: Any) -> ChatMessage:
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return wire.reply_message({"id": "r1", "object": "chat.completion", "choices": [choice], **fields})


def test_a_reply_becomes_a_message() -> None:
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    got = reply({"role": "assistant", "content": "hi", "reasoning_content": "hm"}, usage=usage)
    assert (got.role, got.content, got.tool_calls, got.reasoning_content) == (ASSISTANT, "hi", None, "hm")
    assert got.token_usage == TokenUsage(10, 5, cached_tokens=4, reasoning_tokens=2)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, None),
        ({}, None),
        ({"prompt_tokens": 3}, TokenUsage(3, 0)),
        ({"prompt_tokens": 3, "completion_tokens": None, "prompt_tokens_details": None}, TokenUsage(3, 0)),
        ({"prompt_tokens": 3, "completion_tokens": 1, "prompt_cache_hit_tokens": 2}, TokenUsage(3, 1, 2)),
    ],
)
def test_token_counts_are_read_as_far_as_they_go(usage: Any, expected: TokenUsage | None) -> None:
    assert reply({"content": "a"}, usage=usage).token_usage == expected


def test_raw_holds_what_the_message_does_not() -> None:
    got = reply(
        {"role": "assistant", "content": "hi", "refusal": None, "annotations": [{"url": "u"}]}, model="m"
    )
    message_extra = {"annotations": [{"url": "u"}]}
    assert got.raw == {
        "id": "r1",
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message_extra}],
    }


def test_missing_ids_are_made_up() -> None:
    calls = [{"function": {"name": "f", "arguments": "{}"}}, {"id": "", "function": {"name": "f"}}]
    got = reply({"content": None, "tool_calls": calls})
    assert got.tool_calls is not None
    first, second = got.tool_calls
    assert first.id.startswith("call_")
    assert first.id != second.id
    assert (second.type, second.function.arguments) == ("function", "{}")
    assert got.content is None


def test_odd_replies_are_understood() -> None:
    old = reply({"content": None, "function_call": {"name": "f", "arguments": '{"a":1}'}})
    assert old.tool_calls is not None
    assert old.tool_calls[0].function.arguments == '{"a":1}'
    assert reply({"content": [{"type": "text", "text": "a"}, {"type": "thinking"}, "b"]}).content == "ab"
    assert reply({"content": "a", "tool_calls": []}).tool_calls is None
    assert reply({"content": "a", "reasoning": "because"}).reasoning_content == "because"
    already_parsed = reply(
        {"content": None, "tool_calls": [{"id": "1", "function": {"arguments": {"a": 1}}}]}
    )
    assert already_parsed.tool_calls is not None
    assert already_parsed.tool_calls[0].function.arguments == {"a": 1}


def folded(*chunks: dict[str, Any], stop: list[str] | None = None) -> tuple[ChatMessage, wire.StreamedReply]:
    streamed, fold = wire.StreamedReply(stop), DeltaFold()
    for delta in [*map(streamed.take, chunks), streamed.end()]:
        if delta is not None:
            fold.add(delta)
    return fold.message(), streamed


def piece(**delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta}]}


def tool(**call: Any) -> dict[str, Any]:
    return piece(tool_calls=[call])


def arguments(**function: Any) -> dict[str, Any]:
    return {"function": function}


def named(got: ChatMessage) -> list[tuple[str, str, Any]]:
    return [(call.id, call.function.name, call.function.arguments) for call in got.tool_calls or ()]


def test_pieces_of_several_calls_are_told_apart() -> None:
    got, _ = folded(
        tool(index=0, id="a", **arguments(name="f", arguments="")),
        tool(index=1, id="b", **arguments(name="g", arguments='{"y')),
        tool(index=0, **arguments(arguments='{"x":1}')),
        tool(index=1, **arguments(arguments='":2}')),
    )
    assert named(got) == [("a", "f", '{"x":1}'), ("b", "g", '{"y":2}')]


def test_calls_without_index_are_told_apart_by_id_or_name() -> None:
    got, _ = folded(
        tool(id="a", **arguments(name="f", arguments="{")),
        tool(**arguments(arguments="}")),
        tool(id="b", **arguments(name="g", arguments="{}")),
    )
    assert named(got) == [("a", "f", "{}"), ("b", "g", "{}")]
    got, _ = folded(tool(**arguments(name="f", arguments="{}")), tool(**arguments(name="f", arguments="{}")))
    assert [entry[1:] for entry in named(got)] == [("f", "{}")] * 2
    assert len({entry[0] for entry in named(got)}) == 2


def test_calls_that_all_have_index_0_are_told_apart_by_id() -> None:
    got, _ = folded(
        tool(index=0, id="a", **arguments(name="f", arguments="{}")),
        tool(index=0, id="b", **arguments(name="g", arguments="{")),
        tool(index=0, **arguments(arguments="}")),
    )
    assert named(got) == [("a", "f", "{}"), ("b", "g", "{}")]


def test_an_id_repeated_in_each_piece_is_one_call() -> None:
    got, _ = folded(
        tool(index=0, id="a", **arguments(name="f", arguments="{")),
        tool(index=0, id="a", **arguments(name="f", arguments="}")),
    )
    assert named(got) == [("a", "f", "{}")]


def test_a_streamed_call_without_an_id_gets_one() -> None:
    got, _ = folded(
        tool(index=0, **arguments(name="f", arguments="{")), tool(index=0, **arguments(arguments="}"))
    )
    ((made_up, *rest),) = named(got)
    assert made_up.startswith("call_")
    assert rest == ["f", "{}"]


def test_counts_that_grow_with_each_chunk_are_not_added_up() -> None:
    got, _ = folded(
        piece(content="a") | {"usage": {"prompt_tokens": 5, "completion_tokens": 1}},
        piece(content="b") | {"usage": {"prompt_tokens": 5, "completion_tokens": 2}},
        {"choices": [], "usage": None},
    )
    assert got.token_usage == TokenUsage(5, 2)


def test_reasoning_and_empty_pieces_are_sorted() -> None:
    got, streamed = folded(
        piece(role="assistant", content=""),
        piece(reasoning_content="hm"),
        piece(content="a"),
        {"choices": [{"delta": None, "finish_reason": "stop"}]},
    )
    assert (got.content, got.reasoning_content) == ("a", "hm")
    assert streamed.finished


def test_a_streamed_reply_is_cut_at_stop_sequences_and_still_counted() -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 9}
    chunks = [piece(content=text) for text in ("one ST", "OP two", " three")] + [{"usage": usage}]
    got, _ = folded(*chunks, stop=["STOP"])
    assert got.content == "one "
    assert got.token_usage == TokenUsage(5, 9)
    got, _ = folded(piece(content="one ST"), stop=["STOP"])
    assert got.content == "one ST"


def test_a_pydantic_class_stands_for_its_schema() -> None:
    from pydantic import BaseModel

    class City(BaseModel):
        name: str

    given_format = wire.response_format(City)
    assert given_format["type"] == "json_schema"
    assert given_format["json_schema"]["name"] == "City"
    assert given_format["json_schema"]["schema"]["required"] == ["name"]
    assert wire.response_format({"type": "json_object"}) == {"type": "json_object"}
