"""Messages, steps and the memory they make."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from manyhands import (
    ActionStep,
    AgentError,
    AgentMemory,
    ChatMessage,
    ChatMessageStreamDelta,
    ChatMessageToolCall,
    ChatMessageToolCallFunction,
    ChatMessageToolCallStreamDelta,
    MessageRole,
    PlanningStep,
    TaskStep,
    Timing,
    TokenUsage,
    ToolCall,
    ToolOutput,
    agglomerate_stream_deltas,
)
from manyhands.steps import FinalAnswerStep, step_from_dict


def texts(messages: list[ChatMessage]) -> list[str]:
    return [message.text for message in messages]


def step(number: int = 1, **fields: Any) -> ActionStep:
    return ActionStep(number, Timing(0.0, 1.0), **fields)


def calling(*ids: str) -> tuple[ChatMessage, list[ToolCall]]:
    calls = [ToolCall("look", {"at": name}, name) for name in ids]
    native = [
        ChatMessageToolCall(ChatMessageToolCallFunction(call.arguments, call.name), call.id) for call in calls
    ]
    return ChatMessage(MessageRole.ASSISTANT, None, tool_calls=native), calls


# --- messages ---


def test_a_message_survives_being_written_down() -> None:
    message = ChatMessage(
        MessageRole.ASSISTANT,
        [{"type": "text", "text": "hello"}],
        tool_calls=calling("1")[0].tool_calls,
        token_usage=TokenUsage(1, 2, 3, 4),
        reasoning_content="because",
    )
    assert ChatMessage.from_dict(json.loads(message.model_dump_json())) == message


def test_images_are_written_down_as_png() -> None:
    image = Image.new("RGB", (2, 2), "red")
    data = ChatMessage(MessageRole.USER, [{"type": "image", "image": image}]).dict()
    assert json.loads(json.dumps(data))["content"][0]["image"].startswith("iVBOR")


def test_messages_of_other_libraries_are_taken() -> None:
    foreign = SimpleNamespace(
        role="assistant",
        content=None,
        tool_calls=[
            SimpleNamespace(id="7", type="function", function=SimpleNamespace(name="f", arguments="{}"))
        ],
        token_usage=SimpleNamespace(input_tokens=1, output_tokens=2),
    )
    message = ChatMessage.from_any(foreign)
    assert message.role is MessageRole.ASSISTANT
    assert message.tool_calls == [ChatMessageToolCall(ChatMessageToolCallFunction("{}", "f"), "7")]
    assert message.token_usage == TokenUsage(1, 2)


@given(st.lists(st.text(max_size=5)))
def test_pieces_fold_into_the_whole_text(pieces: list[str]) -> None:
    message = agglomerate_stream_deltas(ChatMessageStreamDelta(piece) for piece in pieces)
    assert message.content == "".join(pieces)


def test_pieces_of_several_tool_calls_fold_into_whole_calls() -> None:
    def piece(index: int, **fields: Any) -> ChatMessageStreamDelta:
        function = ChatMessageToolCallFunction(fields.get("arguments"), fields.get("name", ""))
        return ChatMessageStreamDelta(
            tool_calls=[ChatMessageToolCallStreamDelta(index, fields.get("id"), "function", function)]
        )

    message = agglomerate_stream_deltas(
        [
            piece(0, id="a", name="f", arguments='{"x"'),
            piece(1, id="b", name="g", arguments="{"),
            piece(0, arguments=": 1}"),
            piece(1, arguments="}"),
            ChatMessageStreamDelta(token_usage=TokenUsage(5, 6)),
        ]
    )
    assert message.content is None
    assert [(c.id, c.function.name, c.function.arguments) for c in message.tool_calls or ()] == [
        ("a", "f", '{"x": 1}'),
        ("b", "g", "{}"),
    ]
    assert message.token_usage == TokenUsage(5, 6)


# --- steps ---


def test_a_text_step_shows_the_reply_and_what_came_of_it() -> None:
    messages = step(model_output="I add.", observations="3").to_messages()
    assert texts(messages) == ["I add.", "Observation:\n3"]
    assert [message.role for message in messages] == [MessageRole.ASSISTANT, MessageRole.TOOL_RESPONSE]


def test_a_text_reply_is_shown_as_it_came_unless_it_holds_more() -> None:
    plain = ChatMessage(MessageRole.ASSISTANT, "I add.")
    assert step(model_output="I add.", model_output_message=plain).to_messages() == [plain]
    assert step(model_output="I add.", model_output_message=plain).to_messages()[0] is plain
    spoken = ChatMessage(MessageRole.ASSISTANT, "I add.", provider_items=[{"type": "audio", "id": "a"}])
    (shown,) = step(model_output="I add.", model_output_message=spoken).to_messages()
    assert (shown.text, shown.provider_items) == ("I add.", None)
    acted = step(model_output="I add.", model_output_message=plain)
    assert acted.to_messages() == [plain]
    acted.model_output = "I subtract."
    assert texts(acted.to_messages()) == ["I subtract."]


def test_a_failed_step_asks_to_retry() -> None:
    (message,) = step(observations="so far", error=AgentError("it broke")).to_messages()
    assert message.text.startswith("Observation:\nso far\nError:\nit broke\nNow let's retry")


def test_each_native_tool_call_is_answered_by_its_id() -> None:
    reply, calls = calling("a", "b")
    outputs = [ToolOutput(call.id, 1, False, f"saw {call.id}", call) for call in calls]
    acted = step(
        model_output_message=reply, tool_calls=calls, tool_outputs=outputs, observations="saw a\nsaw b"
    )
    messages = acted.to_messages()
    assert messages[0] is reply
    assert [(m.tool_call_id, m.text) for m in messages[1:]] == [
        ("a", "Observation:\nsaw a"),
        ("b", "Observation:\nsaw b"),
    ]


def test_calls_that_never_came_to_a_result_are_answered_with_the_error() -> None:
    reply, calls = calling("a", "b")
    acted = step(model_output_message=reply, tool_calls=calls, error=AgentError("no time"))
    answers = acted.to_messages()[1:3]
    assert [(m.tool_call_id, m.text) for m in answers] == [
        ("a", "Observation:\nno time"),
        ("b", "Observation:\nno time"),
    ]


def test_observations_that_somebody_shortened_replace_the_results() -> None:
    reply, calls = calling("a", "b")
    outputs = [ToolOutput(call.id, 1, False, "x" * 1000, call) for call in calls]
    acted = step(model_output_message=reply, tool_calls=calls, tool_outputs=outputs)
    acted.observations = "short"
    assert texts(acted.to_messages()[1:]) == ["Observation:\nshort", "Observation:\n(see the first result)"]


@pytest.mark.parametrize(
    "original",
    [
        TaskStep("do it"),
        step(
            tool_calls=[ToolCall("f", {"a": 1}, "1")],
            observations="o",
            token_usage=TokenUsage(1, 2),
            error=AgentError("e"),
            action_output=[1, {"a": None}],
        ),
        PlanningStep((), ChatMessage(MessageRole.ASSISTANT, "plan"), "plan", Timing(0.0, 1.0)),
        FinalAnswerStep(42),
    ],
    ids=lambda made: type(made).__name__,
)
def test_a_step_survives_being_written_down(original: Any) -> None:
    written = json.loads(json.dumps(original.dict()))
    assert step_from_dict(written).dict() == original.dict()


def test_steps_with_images_are_json() -> None:
    picture = io.BytesIO()
    Image.new("RGB", (1, 1)).save(picture, "PNG")
    json.dumps(step(observations_images=[picture.getvalue()]).dict())
    json.dumps(TaskStep("look", [Image.new("RGB", (1, 1))]).dict())


# --- memory ---


def test_the_prompt_of_a_step_is_that_of_the_last_one_and_the_new_messages() -> None:
    memory = AgentMemory("be good")
    memory.steps.append(TaskStep("add"))
    before = memory.messages()
    memory.steps.append(step(model_output="1 + 2", observations="3"))
    after = memory.messages()
    assert texts(after) == ["be good", "New task:\nadd", "1 + 2", "Observation:\n3"]
    assert all(old is new for old, new in zip(before, after, strict=False)), "messages are shared"


def test_what_a_step_was_shown_costs_no_copy_and_does_not_grow() -> None:
    memory = AgentMemory("be good")
    shown = memory.shown()
    memory.steps.append(TaskStep("add"))
    assert len(memory.messages()) == 2
    assert texts(list(shown)) == ["be good"]
    assert shown[-1].text == "be good"


def test_an_edited_step_changes_the_next_prompt() -> None:
    memory = AgentMemory("be good")
    acted = step(observations="a very long page")
    memory.steps.append(acted)
    memory.messages()
    acted.observations = "cut"
    assert texts(memory.messages())[-1] == "Observation:\ncut"


def test_a_deleted_replaced_or_inserted_step_changes_the_next_prompt() -> None:
    memory = AgentMemory("s")
    memory.steps += [TaskStep("one"), TaskStep("two"), TaskStep("three")]
    memory.messages()
    del memory.steps[0]
    memory.steps[0] = TaskStep("TWO")
    memory.steps.insert(0, TaskStep("zero"))
    assert texts(memory.messages()) == ["s", "New task:\nzero", "New task:\nTWO", "New task:\nthree"]
    memory.steps = []
    assert texts(memory.messages()) == ["s"]


def test_the_caller_may_change_the_list_of_messages_it_got() -> None:
    memory = AgentMemory("s")
    memory.messages().clear()
    assert len(memory.messages()) == 1


def test_a_planner_is_not_shown_the_agents_words_and_plans() -> None:
    memory = AgentMemory("s")
    memory.steps += [
        TaskStep("t"),
        PlanningStep((), ChatMessage(MessageRole.ASSISTANT, "p"), "p", Timing(0.0)),
        step(model_output="my words", tool_calls=[ToolCall("f", {}, "1")], observations="o"),
    ]
    assert [text.split("\n")[0] for text in texts(memory.summary())] == [
        "New task:",
        "Calling tools:",
        "Observation:",
    ]


def test_a_memory_survives_being_written_down() -> None:
    memory = AgentMemory("s")
    memory.steps += [TaskStep("t"), step(model_output="w", observations="o", code_action="x = 1")]
    restored = AgentMemory.from_dict(json.loads(json.dumps(memory.dict())))
    assert texts(restored.messages()) == texts(memory.messages())
    assert restored.return_full_code() == "x = 1"


def test_full_steps_hold_what_each_step_was_shown() -> None:
    memory = AgentMemory("s")
    memory.steps.append(step(model_input_messages=memory.shown()))
    assert memory.get_full_steps()[0]["model_input_messages"][0]["content"][0]["text"] == "s"
