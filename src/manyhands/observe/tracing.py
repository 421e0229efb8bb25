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
from time import perf_counter
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context, create_key
from opentelemetry.trace import SpanKind
from opentelemetry.trace.status import Status, StatusCode

from manyhands import events
from manyhands.errors import AgentExecutionError, AgentParsingError, ToolRefusedError
from manyhands.messages import ChatMessageStreamDelta
from manyhands.observe.masking import Masker
from manyhands.observe.providers import facts_of
from manyhands.observe.spans import SPAN_KEY, LightSpan, current_context, enter_context, set_own, starter
from manyhands.run import CANCELLED, INTERRUPTED, MAX_STEPS, SUCCESS
from manyhands.steps import ActionStep

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Span, Tracer

    from manyhands.messages import ChatMessage
    from manyhands.observe.content import Content
    from manyhands.observe.metrics import Metrics
    from manyhands.observe.providers import ModelFacts
    from manyhands.run import Run

_RUN, _MODEL, _TOOL, _CODE, _WAIT = "run", "model", "tool", "code", "wait"
_MOST_CHARS = 2_000
# Ways to end that are nobody's error.
_FINE = (SUCCESS, MAX_STEPS, CANCELLED, INTERRUPTED)
# Under which key contexts hold the operation that is under way.
_KEY = create_key("manyhands-operation")
# What these say quotes the model.
_QUOTING = (AgentParsingError, AgentExecutionError)


class _Watched:
    """A run that is traced; made late where its start was not told, because the observer came later."""

    __slots__ = ("agent", "chat", "conversation", "facts", "id", "open", "root")

    def __init__(self, run: Run) -> None:
        self.id = run.id
        self.agent = run.agent.name or type(run.agent).__name__
        self.facts: ModelFacts = facts_of(run.agent.model)
        self.conversation = run.conversation
        #: What every question to the model says.
        self.chat: dict[str, Any] = {
            **self.facts.span,
            "gen_ai.agent.name": self.agent,
            "manyhands.run.id": run.id,
            "gen_ai.conversation.id": run.conversation,
        }
        if run.agent.stream_outputs:
            self.chat["gen_ai.request.stream"] = True
        self.open: list[_Operation] = []
        self.root: _Operation | None = None


class _Operation:
    """Something under way: its span, and what was current before it."""

    __slots__ = ("before", "began", "first", "kind", "of", "span", "subject")

    def __init__(self, of: _Watched, kind: str, subject: object, span: Span, before: Context) -> None:
        self.of = of
        self.kind = kind
        self.subject = subject
        self.span = span
        self.before = before
        self.first: float | None = None
        self.began = perf_counter()


class Tracing:
    """An observer that makes spans of what it is told, and tells the metrics.

    Args:
        tracer: Makes the spans.
        metrics: Counts.
        content: Shows messages, arguments and results; ``None`` to leave them out.
    """

    def __init__(self, tracer: Tracer, metrics: Metrics, content: Content | None) -> None:
        self._start = starter(tracer)
        self._metrics = metrics
        self._content = content
        self._mask = Masker()
        self._runs: dict[str, _Watched] = {}
        self._told: dict[type, Callable[[Run, Any], None]] = {
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

    def observe(self, run: Run, event: Any) -> None:
        """Take in one event of a run; an observer for ``Run.observers``."""
        told = self._told.get(type(event))
        if told is not None:
            told(run, event)

    # --- Operations ------------------------------------------------------------------------------

    def _open(
        self,
        of: _Watched,
        kind: str,
        subject: object,
        name: str,
        attributes: dict[str, Any],
        span_kind: SpanKind = SpanKind.INTERNAL,
    ) -> _Operation:
        before = current_context()
        span = self._start(name, before, span_kind, attributes)
        operation = _Operation(of, kind, subject, span, before)
        enter_context(Context({**before, SPAN_KEY: span, _KEY: operation}))
        of.open.append(operation)
        return operation

    def _ending(self, run: Run, kind: str, subject: object) -> _Operation | None:
        """Return the operation that ends, and make current again what was so before it."""
        operation: Any = current_context().get(_KEY)
        if (
            operation is not None
            and operation.kind is kind
            and operation.subject == subject
            and operation.of.id == run.id
        ):
            enter_context(operation.before)
        else:
            operation = self._elsewhere(run, kind, subject)
        if operation is not None:
            operation.of.open.remove(operation)
        return operation  # type: ignore[no-any-return]

    def _elsewhere(self, run: Run, kind: str, subject: object) -> _Operation | None:
        watched = self._runs.get(run.id)
        for operation in reversed(watched.open if watched is not None else ()):
            if operation.kind is kind and operation.subject == subject:
                return operation
        return None

    def _fail(self, operation: _Operation, error: BaseException) -> str:
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
        watched = self._runs[run.id] = _Watched(run)
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
        watched.root = self._open(watched, _RUN, None, f"invoke_agent {watched.agent}", attributes)
        self._metrics.run_began(watched.agent)

    def _run_end(self, run: Run, event: events.RunEnd) -> None:
        operation = self._ending(run, _RUN, None)
        watched = self._runs.pop(run.id, None)
        if operation is None or watched is None:
            return
        while watched.open:  # nothing outlives its run
            watched.open.pop().span.end()
        watched.root = None  # a ring of references would wait for the garbage collector
        span, kind = operation.span, ""
        if span.is_recording():
            set_own(span, self._outcome(run, event))
        if event.status not in _FINE and event.error is not None:
            kind = self._fail(operation, event.error)
        span.end()
        self._metrics.run_ended(watched.agent, perf_counter() - operation.began, kind)

    def _outcome(self, run: Run, event: events.RunEnd) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            "manyhands.run.status": event.status,
            "manyhands.run.steps": sum(type(step) is ActionStep for step in run.memory.steps),
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
        watched = self._runs.get(run.id) or _Watched(run)
        self._metrics.step(watched.agent)
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
        watched = self._runs.get(run.id) or _Watched(run)
        attributes = {**watched.chat, "manyhands.step": run.step_number}
        if run.activity != "model":
            attributes["manyhands.purpose"] = run.activity
        if self._content is not None:
            attributes |= self._content.question(event.conversation)
        self._open(watched, _MODEL, None, watched.facts.chat, attributes, SpanKind.CLIENT)

    def _delta(self, run: Run, event: ChatMessageStreamDelta) -> None:
        operation: Any = current_context().get(_KEY)
        if operation is not None and operation.first is None and operation.kind is _MODEL:
            operation.first = perf_counter() - operation.began

    def _model_end(self, run: Run, event: events.ModelEnd) -> None:
        operation = self._ending(run, _MODEL, None)
        if operation is None:
            return
        span, kind = operation.span, ""
        if event.error is not None:
            kind = self._fail(operation, event.error)
        elif event.reply is not None:
            if type(span) is LightSpan:
                span.own(self._reply(event.reply, operation.first))
            elif span.is_recording():
                span.set_attributes(self._reply(event.reply, operation.first))
        span.end()
        if event.error is None or kind:  # who is cancelled has taken no time that means anything
            usage = None if event.reply is None else event.reply.token_usage
            self._metrics.asked(
                operation.of.facts, perf_counter() - operation.began, operation.first, usage, kind
            )
        if event.error is not None:
            self._metrics.refused(event.error)

    def _reply(self, reply: ChatMessage, first: float | None) -> dict[str, Any]:
        attributes: dict[str, Any] = {}
        usage = reply.token_usage
        if usage is not None:
            attributes["gen_ai.usage.input_tokens"] = usage.input_tokens
            attributes["gen_ai.usage.output_tokens"] = usage.output_tokens
            if usage.cached_tokens:
                attributes["gen_ai.usage.cache_read.input_tokens"] = usage.cached_tokens
            if usage.reasoning_tokens:
                attributes["gen_ai.usage.reasoning.output_tokens"] = usage.reasoning_tokens
        if first is not None:
            attributes["gen_ai.response.time_to_first_chunk"] = first
        if isinstance(raw := reply.raw, dict):
            if isinstance(told := raw.get("id"), str):
                attributes["gen_ai.response.id"] = told
            if isinstance(told := raw.get("model"), str):
                attributes["gen_ai.response.model"] = told
        if self._content is not None:
            attributes |= self._content.reply(reply)
        return attributes

    # --- Tools and code ---------------------------------------------------------------------------

    def _tool_start(self, run: Run, event: events.ToolStart) -> None:
        call, watched = event.call, self._runs.get(run.id) or _Watched(run)
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
        self._open(watched, _TOOL, id(call), f"execute_tool {call.name}", attributes)

    def _tool_end(self, run: Run, event: events.ToolEnd) -> None:
        operation = self._ending(run, _TOOL, id(event.call))
        if operation is not None:
            kind = self._done(operation, event.output, event.error)
            self._metrics.called(operation.of.agent, event.call.name, perf_counter() - operation.began, kind)

    def _code_start(self, run: Run, event: events.CodeStart) -> None:
        watched = self._runs.get(run.id) or _Watched(run)
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
        self._open(watched, _CODE, None, "execute_tool python_interpreter", attributes)

    def _code_end(self, run: Run, event: events.CodeEnd) -> None:
        operation = self._ending(run, _CODE, None)
        if operation is not None:
            kind = self._done(operation, event.output, event.error)
            self._metrics.called(
                operation.of.agent, "python_interpreter", perf_counter() - operation.began, kind
            )

    def _done(self, operation: _Operation, output: Any, error: BaseException | None) -> str:
        """End the span of a tool or of code, and return the type of its error."""
        span, kind = operation.span, ""
        if error is not None:
            kind = self._fail(operation, error)
        elif type(output) is dict and output.get("timeout") is True and "error" in output:
            kind = "timeout"
            span.set_attribute("error.type", kind)
            span.set_status(Status(StatusCode.ERROR, "the tool ran out of time"))
        if error is None and self._content is not None and span.is_recording():
            span.set_attribute("gen_ai.tool.call.result", self._content.text(output))
        span.end()
        return kind

    # --- Waits ------------------------------------------------------------------------------------

    def _wait_start(self, run: Run, event: events.WaitStart) -> None:
        watched = self._runs.get(run.id) or _Watched(run)
        attributes = {
            "gen_ai.agent.name": watched.agent,
            "manyhands.run.id": run.id,
            "manyhands.wait.for": event.what,
        }
        if event.key:
            attributes["manyhands.wait.key"] = event.key
        self._open(watched, _WAIT, (event.what, event.key), f"wait {event.what}", attributes)
        self._metrics.wait_began(event.what)

    def _wait_end(self, run: Run, event: events.WaitEnd) -> None:
        operation = self._ending(run, _WAIT, (event.what, event.key))
        if operation is not None:
            operation.span.end()
            self._metrics.wait_ended(event.what, perf_counter() - operation.began)

    def _retry(self, run: Run, event: events.Retry) -> None:
        kind = "timeout" if event.error is None else type(event.error).__qualname__
        operation: Any = current_context().get(_KEY)
        if operation is not None and operation.span.is_recording():
            told = {"manyhands.attempt": event.attempt, "manyhands.delay": event.delay}
            operation.span.add_event("retry", {**told, "error.type": kind})
        self._metrics.retried(event.what, kind)
        if event.error is not None:
            self._metrics.refused(event.error)
