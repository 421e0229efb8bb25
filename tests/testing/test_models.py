"""Scripted and function models: replies in order, per task and per run, written down, at any concurrency."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from manyhands.errors import RateLimitError, ServerError
from manyhands.messages import (
    ChatMessage,
    ChatMessageToolCall,
    ChatMessageToolCallFunction,
    DeltaFold,
    MessageRole,
    TokenUsage,
    message,
)
from manyhands.models.base import ask, ask_stream
from manyhands.testing.models import FunctionModel, ScriptedModel, ScriptEndedError

USER, ASSISTANT = MessageRole.USER, MessageRole.ASSISTANT


def task(text: str) -> list[ChatMessage]:
    return [message(MessageRole.SYSTEM, "Be good."), message(USER, f"New task:\n{text}")]


def call(name: str, arguments: Any) -> ChatMessage:
    function = ChatMessageToolCallFunction(arguments, name)
    return ChatMessage(ASSISTANT, "I look.", [ChatMessageToolCall(function, "c1")])


async def converse(model: Any, text: str, turns: int) -> list[str | None]:
    """A run: ask, append the reply, look, ask again."""
    messages, replies = task(text), []
    for _ in range(turns):
        got = await model.agenerate(list(messages))
        replies.append(got.content)
        messages += [got, ChatMessage(MessageRole.TOOL_RESPONSE, "Observation:\n1")]
        await asyncio.sleep(0)
    return replies


# --- A script for all ---------------------------------------------------------------------------


async def test_replies_come_in_order() -> None:
    model = ScriptedModel(["a", ChatMessage(ASSISTANT, "b", token_usage=TokenUsage(1, 2)), call("look", {})])
    first, second, third = [await model.agenerate(task("x")) for _ in range(3)]
    assert (first.content, first.token_usage) == ("a", TokenUsage(10, 5))
    assert (second.content, second.token_usage) == ("b", TokenUsage(1, 2))
    assert third.tool_calls is not None
    assert third.tool_calls[0].function.name == "look"


async def test_a_script_that_ends_says_so() -> None:
    model = ScriptedModel(["a"])
    await model.agenerate(task("x"))
    with pytest.raises(ScriptEndedError, match="asked 2 times and has 1 replies"):
        await model.agenerate(task("x"))


async def test_errors_in_a_script_are_raised() -> None:
    model = ScriptedModel([RateLimitError("slow", status=429), ServerError, "a"])
    with pytest.raises(RateLimitError):
        await model.agenerate(task("x"))
    with pytest.raises(TypeError):  # an error class that needs its message
        await model.agenerate(task("x"))
    assert (await model.agenerate(task("x"))).content == "a"


async def test_one_reply_alone_stands_for_every_call() -> None:
    model = ScriptedModel("a")
    assert [await model.agenerate(task("x")) for _ in range(2)] == [await model.agenerate(task("y"))] * 2


async def test_replies_may_be_functions_of_the_messages() -> None:
    async def count(messages: list[ChatMessage], stop_sequences: list[str]) -> str:
        return f"{len(messages)} {stop_sequences}"

    model = ScriptedModel(
        [lambda messages: messages[-1].text.upper(), count, lambda messages: ValueError("no")]
    )
    assert (await model.agenerate(task("x"))).content == "NEW TASK:\nX"
    assert (await model.agenerate(task("x"), ["stop"])).content == "2 ['stop']"
    with pytest.raises(ValueError, match="no"):
        await model.agenerate(task("x"))


async def test_runs_share_the_script_and_never_a_message() -> None:
    model = ScriptedModel(ChatMessage(ASSISTANT, "a"))
    first, second = await model.agenerate(task("x")), await model.agenerate(task("x"))
    first.content = "changed"
    assert second.content == "a"
    assert (await model.agenerate(task("x"))).content == "a"


# --- A script per task -------------------------------------------------------------------------


async def test_each_task_has_its_own_script() -> None:
    model = ScriptedModel({"add 1": ["one", "1!"], "add 12": ["twelve"], "else": "again"})
    assert await converse(model, "add 1", 2) == ["one", "1!"]
    assert await converse(model, "add 12", 1) == ["twelve"]
    assert await converse(model, "or else", 3) == ["again"] * 3


async def test_a_thousand_runs_of_the_same_tasks_do_not_mix() -> None:
    model = ScriptedModel(lambda text: [f"{text} {turn}" for turn in range(3)], record=False)
    names = [f"task {number % 10}" for number in range(1000)]
    runs = await asyncio.gather(*(converse(model, name, 3) for name in names))
    assert runs == [[f"{name} {turn}" for turn in range(3)] for name in names]
    assert model.calls == []


async def test_errors_of_a_task_are_met_once_in_each_run() -> None:
    model = ScriptedModel({"x": [ServerError("down"), ServerError("still"), "a", ServerError("again"), "b"]})

    async def run() -> list[str]:
        messages = task("x")
        met: list[str] = []
        while len(met) < 5:
            try:
                got = await model.agenerate(list(messages))
            except ServerError as error:
                met.append(str(error))
            else:
                met.append(got.text)
                messages.append(got)
            await asyncio.sleep(0)
        return met

    assert await asyncio.gather(*(run() for _ in range(20))) == [["down", "still", "a", "again", "b"]] * 20


async def test_a_conversation_that_goes_on_with_a_new_task_starts_its_script() -> None:
    model = ScriptedModel({"x": ["x1"], "y": ["y1", "y2"]})
    messages = task("x")
    messages += [await model.agenerate(messages), message(USER, "New task:\ny")]
    messages.append(await model.agenerate(messages))
    assert (await model.agenerate(messages)).content == "y2"


async def test_a_task_without_replies_left_or_unknown_says_so() -> None:
    model = ScriptedModel({"x": ["a"]})
    with pytest.raises(ScriptEndedError, match="1 replies for 'x'"):
        await converse(model, "x", 2)
    with pytest.raises(ScriptEndedError, match=r"knows none.*\['x'\]"):
        await model.agenerate(task("y"))


# --- What both do ------------------------------------------------------------------------------


async def test_what_was_asked_is_written_down() -> None:
    model = ScriptedModel(["a", ValueError("no")])
    asked = task("x")
    got = await model.agenerate(asked, ["stop"], tools_to_call_from=["tool"], temperature=1)
    asked.append(got)
    with pytest.raises(ValueError, match="no"):
        await model.agenerate(asked)
    first, second = model.calls
    assert (len(first.messages), first.stop_sequences, first.tools) == (2, ["stop"], ["tool"])
    assert first.options["temperature"] == 1
    assert first.reply is got
    assert isinstance(second.reply, ValueError)
    assert (second.stop_sequences, second.tools) == ([], [])


async def test_latency_is_waited_for_side_by_side() -> None:
    waits = iter([0.02] * 50)
    model = ScriptedModel("a", latency=lambda: next(waits))
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.gather(*(model.agenerate(task("x")) for _ in range(50)))
    assert 0.02 <= loop.time() - began < 0.5
    assert (model.peak_in_flight, model.in_flight) == (50, 0)


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize("arguments", ['{"city": "Paris"}', {"city": "Paris"}])
async def test_a_streamed_reply_is_the_same_in_pieces(size: int, arguments: Any) -> None:
    reply = call("look", arguments)
    reply.reasoning_content = "hm"
    model, fold = ScriptedModel([reply], piece_size=size), DeltaFold()
    deltas = [delta async for delta in ask_stream(model, task("x"))]
    for delta in deltas:
        fold.add(delta)
    got = fold.message()
    assert (got.content, got.tool_calls, got.reasoning_content) == ("I look.", reply.tool_calls, "hm")
    assert got.token_usage == TokenUsage(10, 5)
    if size == 1:
        assert len(deltas) > 9


async def test_a_function_answers() -> None:
    async def answer(messages: list[ChatMessage], **options: Any) -> str:
        return f"{messages[-1].text} {sorted(options)}"

    model = FunctionModel(answer)
    got = await ask(model, task("x"), stop_sequences=["s"], response_format=None)
    assert got.content == "New task:\nx ['stop_sequences']"
    assert len(model.calls) == 1


def test_a_sync_function_answers_sync_and_async_code() -> None:
    model = FunctionModel(lambda messages: ChatMessage(ASSISTANT, str(len(messages))))
    assert model.generate(task("x")).content == "2"
    assert [delta.content for delta in model.generate_stream(task("x"))] == ["2", None]
    assert asyncio.run(model.agenerate(task("x"))).content == "2"


async def test_a_function_may_raise() -> None:
    def refuse(messages: list[ChatMessage]) -> str:
        raise RateLimitError("slow")

    model = FunctionModel(refuse)
    with pytest.raises(RateLimitError):
        await model.agenerate(task("x"))
    assert isinstance(model.calls[0].reply, RateLimitError)


@pytest.mark.parametrize("model", [ScriptedModel("a"), FunctionModel(lambda messages: "a")])
def test_they_can_be_told_what_agents_send_them(model: Any) -> None:
    assert model.native_tool_messages
    assert not ScriptedModel("a", native_tool_messages=False).native_tool_messages
    assert type(model).__name__ in repr(model)
