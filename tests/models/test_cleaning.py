"""Conversations become dictionaries for providers' own libraries."""

from __future__ import annotations

import json

import pytest

from manyhands.messages import (
    ChatMessage,
    ChatMessageToolCall,
    ChatMessageToolCallFunction,
    MessageRole,
    message,
    text_part,
)
from manyhands.models.cleaning import REMOVE_PARAMETER, get_clean_message_list, tool_role_conversions

USER, ASSISTANT = MessageRole.USER, MessageRole.ASSISTANT


def test_neighbours_of_one_role_are_joined() -> None:
    conversation = [message(USER, "a"), message(USER, "b"), message(ASSISTANT, "c")]
    assert get_clean_message_list(conversation) == [
        {"role": "user", "content": [text_part("a\nb")]},
        {"role": "assistant", "content": [text_part("c")]},
    ]


def test_the_messages_given_stay_as_they_are() -> None:
    conversation = [message(USER, "a", ["aGk="]), message(USER, "b")]
    before = json.dumps([entry.dict() for entry in conversation])
    get_clean_message_list(conversation, convert_images_to_image_urls=True)
    assert json.dumps([entry.dict() for entry in conversation]) == before


def test_pictures_come_as_base64_or_as_urls() -> None:
    conversation = [message(USER, "a", [b"\x89PNG"])]
    (plain,) = get_clean_message_list(conversation)
    assert plain["content"][1] == {"type": "image", "image": "iVBORw=="}
    (urls,) = get_clean_message_list(conversation, convert_images_to_image_urls=True)
    assert urls["content"][1] == {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}}


def test_flat_messages_are_text() -> None:
    conversation = [message(USER, "a", [b"x"]), message(USER, "b"), ChatMessage(ASSISTANT, "c")]
    assert get_clean_message_list(conversation, flatten_messages_as_text=True) == [
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "c"},
    ]


def test_roles_are_renamed_and_tool_calls_written_out() -> None:
    called = ChatMessage(ASSISTANT, None, [ChatMessageToolCall(ChatMessageToolCallFunction({}, "f"), "1")])
    conversation = [called, ChatMessage(MessageRole.TOOL_RESPONSE, "Observation:\n1", tool_call_id="1")]
    first, second = get_clean_message_list(conversation, tool_role_conversions)
    assert first["role"] == "assistant"
    assert first["content"][0]["text"].startswith("Calling tools:\n[{'id': '1'")
    assert second == {"role": "user", "content": [text_part("Observation:\n1")]}


def test_dictionaries_are_taken() -> None:
    assert get_clean_message_list([{"role": "user", "content": "a"}]) == [
        {"role": "user", "content": [text_part("a")]}
    ]


def test_a_role_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="Incorrect role wizard"):
        get_clean_message_list([ChatMessage("wizard", "a")])


def test_the_mark_for_left_out_parameters_names_itself() -> None:
    assert repr(REMOVE_PARAMETER) == "REMOVE_PARAMETER"
