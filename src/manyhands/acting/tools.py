"""Acting by calling tools: the calls of one reply run side by side."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import TYPE_CHECKING, Any

from manyhands._bridge import leave_caller
from manyhands.acting.calls import call_tool
from manyhands.asking import ask_model
from manyhands.errors import (
    AgentError,
    AgentExecutionError,
    AgentParsingError,
    AgentToolCallError,
    AgentToolExecutionError,
)
from manyhands.events import ActionOutput
from manyhands.models.base import Model, tool_calls_from_text
from manyhands.steps import ToolCall, ToolOutput, error_text, joined

if TYPE_CHECKING:
    from manyhands.messages import ChatMessage, ChatMessageToolCall
    from manyhands.run import Run
    from manyhands.steps import ActionStep
    from manyhands.tools.base import Tool

# Made once: json.loads() with this setting would make one for each call.
_decoder = json.JSONDecoder(strict=False)
_STOP = ["Observation:", "Calling tools:"]
_ALONE = (
    "If you want to return an answer, please do not perform any other tool calls than the final "
    "answer tool call!"
)


class ToolActing:
    """Asks for tool calls, makes them, and shows the model what each gave.

    Args:
        max_parallel: Most calls of one reply that run at once; ``None`` for all.
    """

    def __init__(self, max_parallel: int | None = None) -> None:
        self._max_parallel = max_parallel

    async def begin(self, run: Run) -> None:
        """Nothing to prepare."""

    async def end(self, run: Run) -> None:
        """Nothing to release."""

    async def act(self, run: Run, step: ActionStep) -> ActionOutput:
        """Ask for calls and make them."""
        step.model_input_messages = shown = run.memory.shown()
        tools = run.agent.callables
        reply = await ask_model(
            run, list(shown), stop_sequences=_STOP, tools_to_call_from=list(tools.values())
        )
        step.model_output_message = reply
        step.model_output = reply.text
        step.token_usage = reply.token_usage
        calls = _calls(reply, run.agent.model)
        step.tool_calls = calls
        for call in calls:
            await run.emit(call)
        await self._make_calls(run, step, tools, calls)
        output = _outcome(step)
        await run.emit(output)
        return output

    async def _make_calls(
        self, run: Run, step: ActionStep, tools: dict[str, Tool], calls: list[ToolCall]
    ) -> None:
        """Make the calls, tell of each result as it comes, and keep them in call order."""
        outputs: list[ToolOutput | None] = [None] * len(calls)
        try:
            if len(calls) == 1:
                output = outputs[0] = await _make_call(run, tools, calls[0])
                await run.emit(output)
            else:
                await self._side_by_side(run, tools, calls, outputs)
        finally:
            step.tool_outputs = [output for output in outputs if output is not None]
            step.observations = joined(step.tool_outputs)

    async def _side_by_side(
        self, run: Run, tools: dict[str, Tool], calls: list[ToolCall], outputs: list[ToolOutput | None]
    ) -> None:
        slots = asyncio.Semaphore(self._max_parallel or len(calls))
        finished: asyncio.Queue[int] = asyncio.Queue()

        async def make(index: int, call: ToolCall) -> None:
            leave_caller()  # calls side by side cannot all have the one thread of the caller
            if tools.get(call.name) is not None and _is_final(tools[call.name]):
                outputs[index] = _failed(call, AgentExecutionError(_ALONE))
            else:
                outputs[index] = await _make_call(run, tools, call, slots)
            finished.put_nowait(index)

        async with asyncio.TaskGroup() as group:
            for index, call in enumerate(calls):
                group.create_task(make(index, call))
            for _ in calls:
                output = outputs[await finished.get()]
                if output is not None:
                    await run.emit(output)


def _is_final(tool: Tool) -> bool:
    return tool.name == "final_answer"


def _calls(reply: ChatMessage, model: Any) -> list[ToolCall]:
    """Return the calls of a reply, each with an id of its own.

    A reply without native calls is read as text; then it stays text in the conversation too.
    """
    native = reply.tool_calls or _parsed(reply, model)
    seen: set[str] = set()
    calls = []
    for position, call in enumerate(native):
        if not call.id or call.id in seen:
            call.id = _fresh_id(position, seen)
        seen.add(call.id)
        calls.append(ToolCall(call.function.name, _arguments(call), call.id))
    return calls


def _parsed(reply: ChatMessage, model: Any) -> list[ChatMessageToolCall]:
    if not isinstance(model, Model):
        return tool_calls_from_text(reply.text)
    return model.parse_tool_calls(dataclasses.replace(reply)).tool_calls or []


def _fresh_id(position: int, taken: set[str]) -> str:
    number = position
    while f"call_{number}" in taken:
        number += 1
    return f"call_{number}"


def _arguments(call: ChatMessageToolCall) -> Any:
    """Return the arguments as values where they are JSON, else as the text they are."""
    arguments = call.function.arguments
    if not isinstance(arguments, str):
        return {} if arguments is None else arguments
    if not arguments.strip():
        return {}
    try:
        return _decoder.decode(arguments)
    except ValueError:
        return arguments


async def _make_call(
    run: Run, tools: dict[str, Tool], call: ToolCall, place: asyncio.Semaphore | None = None
) -> ToolOutput:
    """Make one call; whatever goes wrong with it becomes what the model is told."""
    try:
        value = await _value(run, tools, call, place)
    except AgentError as error:
        if error.run_status == "budget_exceeded":
            raise  # it is the budget of this run, too
        return _failed(call, error)
    final = _is_final(tools[call.name])
    return ToolOutput(call.id, value, final, _observed(run, value), call)


async def _value(run: Run, tools: dict[str, Tool], call: ToolCall, place: asyncio.Semaphore | None) -> Any:
    tool = tools.get(call.name)
    if tool is None:
        raise AgentToolCallError(f"Unknown tool {call.name!r}, should be one of: {', '.join(sorted(tools))}.")
    arguments = tool.check_arguments(_from_state(call.arguments, run.state))
    try:
        return await call_tool(run, call, tool, (), arguments, place)
    except AgentError:
        raise
    except Exception as error:
        raise AgentToolExecutionError(
            f"Error executing tool '{call.name}' with arguments {call.arguments!r}: "
            f"{type(error).__name__}: {error}\nPlease try again or use another tool"
        ) from error


def _from_state(arguments: Any, state: dict[str, Any]) -> Any:
    """Put the value of a state variable where an argument is its name."""
    if not state or not isinstance(arguments, dict):
        return arguments
    return {
        name: state[value] if isinstance(value, str) and value in state else value
        for name, value in arguments.items()
    }


def _observed(run: Run, value: Any) -> str:
    """Return what the model is told of a result; pictures and sounds are kept in the state."""
    kind = _media(value)
    if kind is None:
        return str(value).strip()
    name = "image.png" if kind == "image" else "audio.mp3"
    run.state[name] = value
    return f"Stored '{name}' in memory."


def _media(value: Any) -> str | None:
    for kind in type(value).__mro__:
        if kind.__module__.startswith("PIL.") and kind.__name__ == "Image":
            return "image"
        if kind.__name__ in ("AgentImage", "AgentAudio"):
            return kind.__name__.removeprefix("Agent").lower()
    return None


def _failed(call: ToolCall, error: AgentError) -> ToolOutput:
    return ToolOutput(call.id, None, False, error_text(error), call, error)


def _outcome(step: ActionStep) -> ActionOutput:
    """Return what the step came to, and keep the first error for those who read the step."""
    outputs = step.tool_outputs
    step.error = next((output.error for output in outputs if output.error), None)
    if not outputs:
        raise AgentParsingError("The reply calls no tool. Call one, or call `final_answer` with the answer.")
    last = outputs[-1]
    step.action_output = last.output
    return ActionOutput(last.output, last.is_final_answer)
