"""The events of a run as JSON: the one place that says what they look like outside of the process.

Every event is an object with ``type``, ``run_id``, ``parent_id`` (of the run that called the run, else
null), ``seq`` (counted from 1, without holes) and ``time`` (seconds since the epoch); the rest depends on
the type. ``docs/serving.md`` has the table.
"""

from __future__ import annotations

import time
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Any

from manyhands import events
from manyhands.approvals import ApprovalRequest
from manyhands.errors import AgentError
from manyhands.messages import ChatMessageStreamDelta
from manyhands.plugins import by_name
from manyhands.run import error_dict
from manyhands.serve.jsonable import encoded, jsonable
from manyhands.steps import ActionStep, FinalAnswerStep, PlanningStep, ToolCall, ToolOutput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from manyhands.messages import TokenUsage
    from manyhands.run import Run
    from manyhands.steps import MemoryStep

Described = tuple[str, dict[str, Any]]
# An event's type, and the event as JSON.
Told = tuple[str, bytes]


class Narrator:
    """Tells the events of a run, and of the runs it starts, as JSON values.

    An observer feeds it; it remembers only what an event alone does not say.
    """

    def __init__(self) -> None:
        # Runs whose model has given pieces of the reply that is being written.
        self._streaming: set[str] = set()
        # Calls from generated code have no id of their own.
        self._calls: dict[int, str] = {}
        self._count = 0

    def tell(self, run: Run, event: Any) -> Iterator[dict[str, Any]]:
        """Yield what ``event`` of ``run`` says; ``seq`` is left to whoever counts."""
        teller = _TELLERS.get(type(event))
        if teller is None:
            return
        parent = run.parent.id if run.parent is not None else None
        for kind, fields in teller(self, run, event):
            yield {"type": kind, "run_id": run.id, "parent_id": parent, "time": time.time(), **fields}

    def write(self, run: Run, event: Any) -> Iterable[Told]:
        """Return the same as JSON, each with its type."""
        if type(event) is ChatMessageStreamDelta and not event.restart:
            if not (event.content or event.reasoning_content):
                return ()
            self._streaming.add(run.id)
            return (("delta", _piece(run, event.content, event.reasoning_content)),)
        return [(told["type"], encoded(told)) for told in self.tell(run, event)]

    # --- Runs and steps -------------------------------------------------------------------------

    def _run_start(self, run: Run, event: events.RunStart) -> Iterator[Described]:
        yield "run_start", {"agent": event.agent, "task": jsonable(event.task)}

    def _run_end(self, run: Run, event: events.RunEnd) -> Iterator[Described]:
        self._streaming.discard(run.id)
        yield (
            "run_end",
            {
                "status": event.status,
                "error": jsonable(error_dict(event.error)),
                "steps": run.step_number,
                "seconds": run.timing.duration,
                "token_usage": usage(run.usage),
            },
        )

    def _step_start(self, run: Run, event: events.StepStart) -> Iterator[Described]:
        yield "step_start", {"step": event.step_number}

    def _step_end(self, run: Run, event: events.StepEnd) -> Iterator[Described]:
        yield from _STEPS[type(event.step)](event.step) if type(event.step) in _STEPS else ()

    # --- The model ------------------------------------------------------------------------------

    def _model_start(self, run: Run, event: events.ModelStart) -> Iterator[Described]:
        self._streaming.discard(run.id)
        yield from ()

    def _delta(self, run: Run, event: ChatMessageStreamDelta) -> Iterator[Described]:
        if event.restart:
            yield "delta", {"step": run.step_number, "restart": True}
        if event.content or event.reasoning_content:
            self._streaming.add(run.id)
            yield _said(run, event.content, event.reasoning_content)

    def _model_end(self, run: Run, event: events.ModelEnd) -> Iterator[Described]:
        """A reply that did not come in pieces is told as one piece."""
        reply = event.reply
        if reply is None or run.id in self._streaming:
            return
        if reply.text or reply.reasoning_content:
            yield _said(run, reply.text, reply.reasoning_content)

    # --- Acting ---------------------------------------------------------------------------------

    def _call(self, run: Run, event: ToolCall) -> Iterator[Described]:
        """A call by the model; for an agent that writes code, the code."""
        if event.name == "python_interpreter" and event.name not in run.agent.callables:
            yield "code", {"step": run.step_number, "code": jsonable(event.arguments)}
        else:
            yield "tool_call", self._called(run, event, event.id)

    def _tool_start(self, run: Run, event: events.ToolStart) -> Iterator[Described]:
        """A call from generated code; the model's own calls have an id, and have been told."""
        if not event.call.id:
            self._count += 1
            name = self._calls[id(event.call)] = f"code_call_{self._count}"
            yield "tool_call", self._called(run, event.call, name)

    def _called(self, run: Run, call: ToolCall, name: str) -> dict[str, Any]:
        arguments = jsonable(_by_name(run, call))
        return {"step": run.step_number, "id": name, "tool": call.name, "arguments": arguments}

    def _tool_end(self, run: Run, event: events.ToolEnd) -> Iterator[Described]:
        if not event.call.id:
            name = self._calls.pop(id(event.call), "")
            yield "tool_output", _output(run, name, event.call.name, event.output, event.error)

    def _tool_output(self, run: Run, event: ToolOutput) -> Iterator[Described]:
        value = event.output if event.error is None else None
        yield "tool_output", _output(run, event.id, event.tool_call.name, value, event.error)

    # --- Waiting --------------------------------------------------------------------------------

    def _wait(self, run: Run, event: events.WaitStart) -> Iterator[Described]:
        yield "wait", {"state": "start", "for": event.what, "name": event.key}

    def _wait_end(self, run: Run, event: events.WaitEnd) -> Iterator[Described]:
        yield "wait", {"state": "end", "for": event.what, "name": event.key}

    def _retry(self, run: Run, event: events.Retry) -> Iterator[Described]:
        yield (
            "retry",
            {
                "for": event.what,
                "name": event.key,
                "attempt": event.attempt,
                "delay": event.delay,
                "error": jsonable(error_dict(event.error)),
            },
        )

    # --- Steering -------------------------------------------------------------------------------

    def _request(self, run: Run, event: ApprovalRequest) -> Iterator[Described]:
        fields = event.dict()
        fields.pop("run_id")
        yield "approval_request", jsonable(fields)

    def _request_end(self, run: Run, event: events.ApprovalEnd) -> Iterator[Described]:
        fields = {"decision": event.decision, "reason": event.reason, "arguments": event.arguments}
        yield "approval_end", {"id": event.request_id, **jsonable(fields)}

    def _paused(self, run: Run, event: events.RunPaused) -> Iterator[Described]:
        yield "paused", {}

    def _resumed(self, run: Run, event: events.RunResumed) -> Iterator[Described]:
        yield "resumed", {}

    def _injected(self, run: Run, event: events.MessageInjected) -> Iterator[Described]:
        yield "injected", {"text": jsonable(event.text)}

    def _limits(self, run: Run, event: events.LimitsChanged) -> Iterator[Described]:
        yield "limits", {"limits": jsonable(event.limits)}


def _by_name(run: Run, call: ToolCall) -> Any:
    """Return the arguments of a call by name; generated code may give them by place."""
    tool = run.agent.callables.get(call.name)
    if call.id or tool is None or not isinstance(call.arguments, list):
        return call.arguments
    *args, kwargs = call.arguments
    try:
        return by_name(tool, tuple(args), kwargs)
    except AgentError:
        return call.arguments  # the call is about to fail for it


def _said(run: Run, content: str | None, reasoning: str | None) -> Described:
    fields: dict[str, Any] = {"step": run.step_number}
    if content:
        fields["content"] = content
    if reasoning:
        fields["reasoning"] = reasoning
    return "delta", fields


def _piece(run: Run, content: str | None, reasoning: str | None) -> bytes:
    """Return a piece of a reply as JSON, written by hand: of all events, most are such."""
    parent = "null" if run.parent is None else f'"{run.parent.id}"'
    head = f'{{"type":"delta","run_id":"{run.id}","parent_id":{parent},"time":{time.time()!r}'
    said = f',"content":{encode_basestring_ascii(content)}' if content else ""
    if reasoning:
        said += f',"reasoning":{encode_basestring_ascii(reasoning)}'
    return f'{head},"step":{run.step_number}{said}}}'.encode("ascii")


def _output(run: Run, name: str, tool: str, value: Any, error: BaseException | None) -> dict[str, Any]:
    return {
        "step": run.step_number,
        "id": name,
        "tool": tool,
        "output": jsonable(value),
        "error": jsonable(error_dict(error)),
    }


def usage(counts: TokenUsage | None) -> dict[str, int] | None:
    """Return token counts as JSON."""
    return counts.dict() if counts is not None else None


# --- Steps -----------------------------------------------------------------------------------------


def _action(step: MemoryStep) -> Iterator[Described]:
    assert isinstance(step, ActionStep)
    if step.observations:
        yield "observations", {"step": step.step_number, "text": jsonable(step.observations)}
    yield (
        "step_end",
        {
            "step": step.step_number,
            "text": jsonable(step.output_text),
            "error": jsonable(step.error.dict()) if step.error else None,
            "is_final_answer": step.is_final_answer,
            "seconds": step.timing.duration,
            "token_usage": usage(step.token_usage),
        },
    )


def _plan(step: MemoryStep) -> Iterator[Described]:
    assert isinstance(step, PlanningStep)
    fields = {"seconds": step.timing.duration, "token_usage": usage(step.token_usage)}
    yield "plan", {"text": jsonable(step.plan), **fields}


def _answer(step: MemoryStep) -> Iterator[Described]:
    assert isinstance(step, FinalAnswerStep)
    yield "final_answer", {"output": jsonable(step.output)}


_STEPS: dict[type, Callable[[MemoryStep], Iterator[Described]]] = {
    ActionStep: _action,
    PlanningStep: _plan,
    FinalAnswerStep: _answer,
}

_TELLERS: dict[type, Callable[[Narrator, Run, Any], Iterator[Described]]] = {
    events.RunStart: Narrator._run_start,
    events.RunEnd: Narrator._run_end,
    events.StepStart: Narrator._step_start,
    events.StepEnd: Narrator._step_end,
    events.ModelStart: Narrator._model_start,
    events.ModelEnd: Narrator._model_end,
    ChatMessageStreamDelta: Narrator._delta,
    ToolCall: Narrator._call,
    ToolOutput: Narrator._tool_output,
    events.ToolStart: Narrator._tool_start,
    events.ToolEnd: Narrator._tool_end,
    events.WaitStart: Narrator._wait,
    events.WaitEnd: Narrator._wait_end,
    events.Retry: Narrator._retry,
    ApprovalRequest: Narrator._request,
    events.ApprovalEnd: Narrator._request_end,
    events.RunPaused: Narrator._paused,
    events.RunResumed: Narrator._resumed,
    events.MessageInjected: Narrator._injected,
    events.LimitsChanged: Narrator._limits,
}
