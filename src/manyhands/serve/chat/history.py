"""From the messages of a chat to a run that goes on with them."""

from __future__ import annotations

import base64
import binascii
import json
import uuid
from typing import TYPE_CHECKING, Any

from manyhands.agents import CodeAgent
from manyhands.memory import AgentMemory
from manyhands.messages import ChatMessage, ChatMessageToolCall, ChatMessageToolCallFunction, MessageRole
from manyhands.serve.chat.schemas import ImagePart
from manyhands.serve.problems import Problem
from manyhands.steps import ActionStep, TaskStep, Timing, ToolCall, ToolOutput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manyhands.agents import MultiStepAgent
    from manyhands.run import Run
    from manyhands.serve.chat.schemas import ChatTurn
    from manyhands.steps import MemoryStep


def run_of(agent: MultiStepAgent, turns: Sequence[ChatTurn]) -> Run:
    """Return a run whose task is the last message, and whose memory is all before it.

    Args:
        agent: The agent.
        turns: The messages.

    Raises:
        Problem: The last message is not the user's, or a picture is none.
    """
    last = turns[-1]
    if last.role != "user":
        raise Problem(422, "messages: the last one must be the user's.")
    task, images = _content(last)
    options = agent.run_options(images or None, None, None, None, None)
    memory = _memory(agent, turns[:-1])
    if memory is None:
        return agent.new_run(task, options)
    # A run that is never run: it only holds what went before.
    before = agent.new_run("", agent.run_options(None, None, None, None, None))
    before.close()
    before.memory = memory
    return agent.new_run(task, options, continues=before)


def _memory(agent: MultiStepAgent, turns: Sequence[ChatTurn]) -> AgentMemory | None:
    if not turns:
        return None
    rules = [_content(turn)[0] for turn in turns if turn.role in ("system", "developer")]
    memory = AgentMemory("\n\n".join([agent.system_prompt, *rules]))
    memory.steps = [_step(agent, turn) for turn in turns if turn.role in ("user", "assistant")]
    return memory


def _step(agent: MultiStepAgent, turn: ChatTurn) -> MemoryStep:
    text, images = _content(turn)
    if turn.role == "user":
        return TaskStep(text, images or None)
    return _as_code(agent, text) if isinstance(agent, CodeAgent) else _as_call(text)


# An answer of before is shown in the form in which the agent answers: a model keeps to what it sees.


def _as_code(agent: CodeAgent, text: str) -> ActionStep:
    opening, closing = agent.code_block_tags
    code = f"final_answer({text!r})"
    return ActionStep(
        1,
        Timing(0.0, 0.0),
        model_output=f"{opening}\n{code}\n{closing}",
        code_action=code,
        observations=f"Execution logs:\n\nLast output from code snippet:\n{text}",
        action_output=text,
        is_final_answer=True,
    )


def _as_call(text: str) -> ActionStep:
    call = ToolCall("final_answer", {"answer": text}, f"call_{uuid.uuid4().hex[:12]}")
    function = ChatMessageToolCallFunction(json.dumps(call.arguments), call.name)
    return ActionStep(
        1,
        Timing(0.0, 0.0),
        tool_calls=[call],
        model_output_message=ChatMessage(
            MessageRole.ASSISTANT, tool_calls=[ChatMessageToolCall(function, call.id)]
        ),
        observations=text,
        action_output=text,
        is_final_answer=True,
        tool_outputs=[ToolOutput(call.id, text, True, text, call)],
    )


def _content(turn: ChatTurn) -> tuple[str, list[Any]]:
    """Return text and pictures of a message."""
    if isinstance(turn.content, str):
        return turn.content, []
    texts, images = [], []
    for part in turn.content:
        if isinstance(part, ImagePart):
            images.append(_picture(part.image_url.url))
        else:
            texts.append(part.text)
    return "\n".join(texts), images


def _picture(address: str) -> bytes:
    try:
        return base64.b64decode(address.partition(",")[2], validate=True)
    except (binascii.Error, ValueError):
        raise Problem(422, "messages: a picture is no base64.") from None
