"""Events of runs as spans of OpenTelemetry.

Observers are told of events at once, in the task that does the work. So a span that is made current when
something starts is current for all that happens inside: in tools on worker threads, in code that runs in
greenlets, in tasks that are created there. The run itself knows nothing of it.

Each start opens an *operation*, and the operations around it are found by way of the task's own context. Its
end is told in the same context; should it ever not be, the operation is looked for among those of the run.
Whatever is open when a run ends, ends with it.
"""

from __future__ import annotations

import asyncio
import traceback
from typing import TYPE_CHECKING, Any

from opentelemetry.trace.status import Status, StatusCode

from manyhands import events
from manyhands.errors import AgentExecutionError, AgentParsingError, ToolRefusedError
from manyhands.messages import ChatMessageStreamDelta
from manyhands.observe.masking import Masker
from manyhands.observe.operations import (
    CODE,
    MODEL,
    RUN,
    OfCode,
    OfModel,
    OfRun,
    OfTool,
    OfWait,
    Watched,
)
from manyhands.observe.spans import OURS_KEY, current_context, enter_context, spans_of
from manyhands.run import CANCELLED, INTERRUPTED, MAX_STEPS, SUCCESS
from manyhands.steps import ActionStep

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Tracer

    from manyhands.observe.content import Content
    from manyhands.observe.metrics import Metrics
    from manyhands.observe.operations import Operation
    from manyhands.run import Observer, Run

_MOST_CHARS = 2_000
# Ways to end that are nobody's error.
_FINE = (SUCCESS, MAX_STEPS, CANCELLED, INTERRUPTED)
# What these say quotes the model.
_QUOTING = (AgentParsingError, AgentExecutionError)


class Tracing:
    """Makes spans of what it is told of runs, and tells the metrics.

    Args:
        tracer: Makes the spans.
        metrics: Counts.
        content: Shows messages, arguments and results; ``None`` to leave them out.
    """

    def __init__(self, tracer: Tracer, metrics: Metrics, content: Content | None) -> None:
        self._start = spans_of(tracer).start
        self._metrics = metrics
        self._content = content
        self._mask = Masker()
        self._runs: dict[str, Watched] = {}
        #: An observer for ``Run.observers``.
        self.observe = _observer(
            {
                events.RunStart: self._run_start,
                events.RunEnd: self._run_end,
                events.StepEnd: self._step_end,
                events.ModelStart: self._model_start,
                events.ModelEnd: self._model_end,
                events.ToolStart: self._tool_start,
                events.ToolEnd: self._tool_end,
                events.CodeStart: self._code_start,
                events.CodeEnd: self._code_end,
                events.WaitStart: self._wait_start,
                events.WaitEnd: self._wait_end,
                events.Retry: self._retry,
                ChatMessageStreamDelta: self._delta,
            }
        )

    # --- Operations ------------------------------------------------------------------------------

    def _of(self, run: Run) -> Watched:
        return self._runs.get(run.id) or Watched(run, self._metrics)

    def _ending(self, run: Run, subject: object) -> Any:
        """Return the operation that ends, and make current again what was so before it."""
        operation: Any = current_context().get(OURS_KEY)
        if operation is None or operation.subject != subject or operation.of.id != run.id:
            operation = self._elsewhere(run, subject)
            if operation is None:
                return None
        else:
            enter_context(operation.before)
        operation.before = None
        operation.of.open.remove(operation)
        return operation

    def _elsewhere(self, run: Run, subject: object) -> Operation | None:
        watched = self._runs.get(run.id)
        for operation in reversed(watched.open if watched is not None else []):
            if operation.subject == subject:
                return operation
        return None

    def _fail(self, operation: Operation, error: BaseException) -> str:
        """Note on a span how it failed, and return the type of the error; "" if it is none."""
        span = operation.span
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            span.set_attribute("manyhands.cancelled", True)
            return ""
        kind = type(error).__qualname__
        if span.is_recording():
            said = self._said(error)
            described = {"exception.type": kind, "exception.message": said}
            if said:
                trace = "".join(traceback.format_exception(error, limit=-20))
                described["exception.stacktrace"] = self._mask(trace)[-4 * _MOST_CHARS :]
            span.add_event("exception", described)
            span.set_attribute("error.type", kind)
            span.set_status(Status(StatusCode.ERROR, f"{kind}: {said}" if said else kind))
        return kind

    def _said(self, error: BaseException) -> str:
        """Return what an error says, as far as it may be told."""
        quotes = isinstance(error, _QUOTING) and not isinstance(error, ToolRefusedError)
        if quotes and self._content is None:
            return ""
        return self._mask(str(error)[: 2 * _MOST_CHARS])[:_MOST_CHARS]

    # --- Runs and steps ---------------------------------------------------------------------------

    def _run_start(self, run: Run, event: events.RunStart) -> None:
        watched = self._runs[run.id] = Watched(run, self._metrics)
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.provider.name": watched.facts.metric["gen_ai.provider.name"],
            "gen_ai.request.model": watched.facts.metric["gen_ai.request.model"],
            "gen_ai.conversation.id": watched.conversation,
            "gen_ai.agent.name": watched.agent,
            "manyhands.run.id": run.id,
        }
        if run.agent.description:
            attributes["gen_ai.agent.description"] = run.agent.description
        if event.parent_id is not None:
            attributes["manyhands.run.parent_id"] = event.parent_id
        if run.options.tenant:
            attributes["manyhands.tenant"] = run.options.tenant
        if self._content is not None:
            attributes |= self._content.said("user", run.task, "gen_ai.input.messages")
        watched.root = operation = OfRun()
        operation.of = watched
        self._start(operation, f"invoke_agent {watched.agent}", attributes)
        watched.open.append(operation)
        self._metrics.run_began(watched.agent)

    def _run_end(self, run: Run, event: events.RunEnd) -> None:
        operation = self._ending(run, RUN)
        watched = self._runs.pop(run.id, None)
        if operation is None or watched is None:
            return
        while watched.open:  # nothing outlives its run
            watched.open.pop().end()
        watched.root = None  # a ring of references would wait for the garbage collector
        operation.found(self._outcome(run, event))
        kind = ""
        if event.status not in _FINE and event.error is not None:
            kind = self._fail(operation, event.error)
        operation.end()
        self._metrics.run_ended(watched.agent, operation.seconds(), kind)

    def _outcome(self, run: Run, event: events.RunEnd) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            "manyhands.run.status": event.status,
            "manyhands.run.steps": [*map(type, run.memory.steps)].count(ActionStep),
        }
        if run.usage is not None:
            attributes["gen_ai.usage.input_tokens"] = run.usage.input_tokens
            attributes["gen_ai.usage.output_tokens"] = run.usage.output_tokens
        if self._content is not None and run.output is not None:
            attributes |= self._content.said("assistant", run.output, "gen_ai.output.messages")
        return attributes

    def _step_end(self, run: Run, event: events.StepEnd) -> None:
        step = event.step
        if not isinstance(step, ActionStep):
            return
        watched = self._runs.get(run.id) or self._of(run)
        if watched.counts is not None:
            watched.counts.step()
        if step.error is not None and watched.root is not None:
            told: dict[str, Any] = {
                "manyhands.step": step.step_number,
                "error.type": type(step.error).__qualname__,
            }
            if said := self._said(step.error):
                told["exception.message"] = said
            watched.root.span.add_event("step failed", told)

    # --- The model --------------------------------------------------------------------------------

    def _model_start(self, run: Run, event: events.ModelStart) -> None:
        watched = self._runs.get(run.id) or self._of(run)
        attributes = {**watched.chat, "manyhands.step": run.step_number}
        if run.activity != "model":
            attributes["manyhands.purpose"] = run.activity
        if self._content is not None:
            attributes |= self._content.question(event.conversation)
        operation = OfModel()
        operation.of = watched
        self._start(operation, watched.facts.chat, attributes)
        watched.open.append(operation)

    def _delta(self, run: Run, event: ChatMessageStreamDelta) -> None:
        operation: Any = current_context().get(OURS_KEY)
        if type(operation) is OfModel and operation.first is None:
            operation.first = operation.seconds()

    def _model_end(self, run: Run, event: events.ModelEnd) -> None:
        operation, reply, error = self._ending(run, MODEL), event.reply, event.error
        if operation is None:
            return
        usage, kind = None, ""
        if error is not None:
            kind = self._fail(operation, error)
        elif reply is not None:
            usage = reply.token_usage
            operation.answered(reply)
            if self._content is not None:
                operation.found(self._content.reply(reply))
        operation.end()
        counts = operation.of.counts
        if counts is not None and (error is None or kind):  # a cancelled one's time means nothing
            counts.asked(operation.seconds(), operation.first, usage, kind)
        if error is not None:
            self._metrics.refused(error)

    # --- Tools and code ---------------------------------------------------------------------------

    def _tool_start(self, run: Run, event: events.ToolStart) -> None:
        call, watched = event.call, self._runs.get(run.id) or self._of(run)
        attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": call.name,
            "gen_ai.tool.type": "function",
            "gen_ai.agent.name": watched.agent,
            "manyhands.run.id": run.id,
            "manyhands.step": run.step_number,
        }
        if call.id:
            attributes["gen_ai.tool.call.id"] = call.id
        if self._content is not None:
            attributes["gen_ai.tool.call.arguments"] = self._content.text(call.arguments)
        operation = OfTool()
        operation.of, operation.subject, operation.tool = watched, id(call), call.name
        self._start(operation, f"execute_tool {call.name}", attributes)
        watched.open.append(operation)

    def _tool_end(self, run: Run, event: events.ToolEnd) -> None:
        self._done(self._ending(run, id(event.call)), event.output, event.error)

    def _code_start(self, run: Run, event: events.CodeStart) -> None:
        watched = self._runs.get(run.id) or self._of(run)
        attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": "python_interpreter",
            "gen_ai.tool.type": "code",
            "gen_ai.agent.name": watched.agent,
            "manyhands.run.id": run.id,
            "manyhands.step": run.step_number,
        }
        if self._content is not None:
            attributes["gen_ai.tool.call.arguments"] = self._content.text(event.code)
        operation = OfCode()
        operation.of = watched
        self._start(operation, "execute_tool python_interpreter", attributes)
        watched.open.append(operation)

    def _code_end(self, run: Run, event: events.CodeEnd) -> None:
        self._done(self._ending(run, CODE), event.output, event.error)

    def _done(self, operation: OfTool | None, output: Any, error: BaseException | None) -> None:
        """End the span of a tool or of code."""
        if operation is None:
            return
        kind = ""
        if error is not None:
            kind = self._fail(operation, error)
        elif type(output) is dict and output.get("timeout") is True and "error" in output:
            kind = "timeout"
            operation.span.set_attribute("error.type", kind)
            operation.span.set_status(Status(StatusCode.ERROR, "the tool ran out of time"))
        if error is None and self._content is not None:
            operation.found({"gen_ai.tool.call.result": self._content.text(output)})
        operation.end()
        counts = operation.of.counts
        if counts is not None:
            counts.called(operation.tool, operation.seconds(), kind)

    # --- Waits ------------------------------------------------------------------------------------

    def _wait_start(self, run: Run, event: events.WaitStart) -> None:
        watched = self._of(run)
        attributes = {
            "gen_ai.agent.name": watched.agent,
            "manyhands.run.id": run.id,
            "manyhands.wait.for": event.what,
        }
        if event.key:
            attributes["manyhands.wait.key"] = event.key
        operation = OfWait()
        operation.of, operation.subject = watched, (event.what, event.key)
        self._start(operation, f"wait {event.what}", attributes)
        watched.open.append(operation)
        self._metrics.wait_began(event.what)

    def _wait_end(self, run: Run, event: events.WaitEnd) -> None:
        operation = self._ending(run, (event.what, event.key))
        if operation is not None:
            operation.end()
            self._metrics.wait_ended(event.what, operation.seconds())

    def _retry(self, run: Run, event: events.Retry) -> None:
        kind = "timeout" if event.error is None else type(event.error).__qualname__
        operation: Any = current_context().get(OURS_KEY)
        if operation is not None and operation.span.is_recording():
            told = {"manyhands.attempt": event.attempt, "manyhands.delay": event.delay}
            operation.span.add_event("retry", {**told, "error.type": kind})
        self._metrics.retried(event.what, kind)
        if event.error is not None:
            self._metrics.refused(event.error)


def _observer(told: dict[type, Callable[[Run, Any], None]]) -> Observer:
    """Return what takes in one event of a run; most events are none of its business."""
    find = told.get

    def observe(run: Run, event: Any) -> None:
        take = find(type(event))
        if take is not None:
            take(run, event)

    return observe
