"""Replies that models in these tests give."""

from __future__ import annotations

from typing import Any

from manyhands import ChatMessage, ChatMessageToolCall, ChatMessageToolCallFunction, MessageRole


def calls(*wanted: tuple[str, Any], ids: list[str] | None = None) -> ChatMessage:
    """A reply that calls tools: pairs of name and arguments."""
    names = ids or [f"id_{number}" for number in range(len(wanted))]
    return ChatMessage(
        MessageRole.ASSISTANT,
        None,
        tool_calls=[
            ChatMessageToolCall(ChatMessageToolCallFunction(arguments, name), call_id)
            for (name, arguments), call_id in zip(wanted, names, strict=True)
        ],
    )


def final(answer: Any) -> ChatMessage:
    """A reply that gives the final answer."""
    return calls(("final_answer", {"answer": answer}), ids=["final"])


def code(source: str) -> str:
    """A reply that runs code."""
    return f"Thought: next.\n<code>\n{source}\n</code>"
