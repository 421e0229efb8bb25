"""Spans of OpenTelemetry's SDK at a fraction of their cost, where it is set up in the usual way.

The SDK takes some 25 µs for a span in the midst of other work: it copies and checks every attribute, and
locks what only one task touches. A step makes two or three spans, and is to cost little more with them. So a
span of ours keeps plain values, notes only what differs from one to the next, and is at the same time the
``ReadableSpan`` that the SDK exports. Each object less that waits for a batch to go out is one less for the
garbage collector to look at again and again.

That is done where nobody can tell the difference: with the SDK's own tracer, one of its usual samplers, and
processors of its own that only export. Everywhere else the tracer makes the spans.
"""

from __future__ import annotations

import functools
import random
import traceback
from contextvars import ContextVar
from time import time_ns
from typing import TYPE_CHECKING, Any, Protocol

from opentelemetry import context as otel
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    TraceFlags,
    TraceState,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.status import Status, StatusCode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.trace import Tracer

    class Spans(Protocol):
        """Makes spans."""

        def start(self, span: LightSpan, name: str, attributes: dict[str, Any]) -> None:
            """Start a span inside of the current one, and make it current."""

        @property
        def end(self) -> Callable[[LightSpan], object]:
            """What exports a span that has ended."""


try:
    from opentelemetry.attributes import BoundedAttributes
    from opentelemetry.sdk import trace as sdk
    from opentelemetry.sdk.trace import export, sampling
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
except ImportError:  # the API alone: its spans do nothing
    sdk = None  # type: ignore[assignment]
_Readable: Any = object if sdk is None else sdk.ReadableSpan

# Under which keys contexts hold the current span, and that of ours which is under way.
(_SPAN_KEY,) = set_span_in_context(INVALID_SPAN, otel.Context())
OURS_KEY = otel.create_key("manyhands-operation")


def _ways_around() -> tuple[Callable[[], otel.Context], Callable[[otel.Context], object]]:
    """Return how to read the current context and how to change it: at once, where it is in a ContextVar."""
    runtime = getattr(otel, "_RUNTIME_CONTEXT", None)
    variable = getattr(runtime, "_current_context", None)
    if type(runtime) is ContextVarsRuntimeContext and isinstance(variable, ContextVar):
        return variable.get, variable.set
    return otel.get_current, otel.attach


current_context, enter_context = _ways_around()

_NO_LIMIT = ("max_span_attribute_length", "max_attribute_length")
_make_tuple = tuple.__new__


class LightSpan(Span, _Readable):  # type: ignore[misc]
    """A span that is under way, or has ended; or what stands for a span that somebody else makes.

    There is nothing in it before it is started.
    """

    # The fields of the SDK's ReadableSpan: those that seldom differ are on the class.
    _kind = SpanKind.INTERNAL
    _events: Any = ()
    _links: Any = ()
    _status: Any = Status(StatusCode.UNSET)
    _instrumentation_info = None
    # Its ids, once somebody has asked for them.
    _ids: SpanContext | None = None
    _other: Span | None = None

    _maker: Any
    _resource: Any
    _instrumentation_scope: Any
    _name: str
    _attributes: Any
    _around: LightSpan | SpanContext | None
    _id: int
    _start_time: int
    _end_time: int | None
    #: What was current before it.
    before: otel.Context

    @property
    def span(self) -> Span:
        """The span that there is: this one, or that of somebody else."""
        return self._other or self

    @property
    def _context(self) -> SpanContext:
        if self._ids is None:
            trace: Any = self._parent
            # As SpanContext() makes it, without the checks of what its parent has passed already.
            ids = (trace[0], self._id, False, trace[3], trace[4], True)
            self._ids = _make_tuple(SpanContext, ids)
        return self._ids

    @property
    def _parent(self) -> SpanContext | None:
        around: Any = self._around
        return around if around is None or type(around) is SpanContext else around._context

    # That of the SDK would have it start here.
    __init__ = object.__init__

    def seconds(self) -> float:
        """Return how long it took, or has taken so far."""
        return max(0, (self._end_time or time_ns()) - self._start_time) / 1e9

    def get_span_context(self) -> SpanContext:
        """Return its ids."""
        return self._context

    def is_recording(self) -> bool:
        """Return whether it is under way still."""
        return self._end_time is None

    def end(self, end_time: int | None = None) -> None:
        """End it, once."""
        if self._end_time is None:
            self._end_time = end_time or time_ns()
            self._maker.end(self)

    # --- For those who find it as the current span --------------------------------------------------

    def set_attribute(self, key: str, value: Any) -> None:
        """Set an attribute."""
        self.set_attributes({key: value})

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes, which are checked."""
        if self._end_time is None:
            if type(self._attributes) is dict:
                self._attributes = BoundedAttributes(128, self._attributes, immutable=False)
            self._attributes.update(attributes)

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """Add an event."""
        if self._end_time is None:
            event = sdk.Event(name, BoundedAttributes(128, attributes, immutable=True), timestamp)
            self._events = [*self._events, event][-128:]

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        """Add a link to another span."""
        if self._end_time is None:
            link = Link(context, BoundedAttributes(128, attributes, immutable=True))
            self._links = [*self._links, link][-128:]

    def update_name(self, name: str) -> None:
        """Change its name."""
        if self._end_time is None:
            self._name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set its status; one that says OK stays."""
        new = Status(status, description) if isinstance(status, StatusCode) else status
        settled = self._status.status_code is StatusCode.OK or new.is_unset
        if self._end_time is None and not settled:
            self._status = new

    def record_exception(
        self,
        exception: BaseException,
        attributes: Any = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Add an event that describes an exception."""
        described = {
            "exception.type": type(exception).__qualname__,
            "exception.message": str(exception),
            "exception.stacktrace": "".join(traceback.format_exception(exception)),
            "exception.escaped": str(escaped),
        }
        self.add_event("exception", {**described, **(attributes or {})}, timestamp)


_SAMPLED = int(TraceFlags.SAMPLED)
_RANDOM = 2  # "the id of the trace is random", in the words of the W3C


class LightSpans:
    """Makes light spans for a tracer of the SDK, as long as it is set up in the usual way.

    Args:
        tracer: The tracer.

    Attributes:
        resource: Whose spans they are.
        scope: The library that makes them.
    """

    def __init__(self, tracer: Any) -> None:
        self._tracer = tracer
        self._foreign = ForeignSpans(tracer)
        self._processor = tracer.span_processor
        self._new_id = _id_maker(tracer.id_generator)
        self.resource = tracer.resource
        self.scope = tracer._instrumentation_scope
        # The processors that were looked at, if they are the usual ones.
        self._usual: object = None
        #: Gives a span that has ended to the processors.
        self.end: Callable[[LightSpan], object] = self._processor.on_end
        self._look_at_processors()

    def start(self, span: LightSpan, name: str, attributes: dict[str, Any]) -> None:
        """Start a span inside of the current one, and make it current."""
        before = current_context()
        around: Any = before.get(_SPAN_KEY)
        if getattr(around, "_maker", None) is self and self._processor._span_processors is self._usual:
            span._around = around
            span._id = self._new_id() or 1
        elif not self._start_outside(span, before, name, attributes):
            return
        span._maker = self
        span._resource = self.resource
        span._instrumentation_scope = self.scope
        span._name = name
        span._attributes = attributes
        span._end_time = None
        span.before = before
        enter_context(otel.Context({**before, _SPAN_KEY: span, OURS_KEY: span}))
        span._start_time = time_ns()

    def _start_outside(
        self, span: LightSpan, before: otel.Context, name: str, attributes: dict[str, Any]
    ) -> bool:
        """Start a span that is not inside of a light one; return whether it is a light one itself."""
        parent = get_current_span(before).get_span_context()
        if parent.is_remote or not self._look_at_processors():
            self._foreign.start(span, name, attributes)
            return False
        if not parent.is_valid:
            ids = self._first(before, name, span._kind, attributes)
            span._around = None
        else:
            ids = SpanContext(
                parent.trace_id, self._new_id() or 1, False, parent.trace_flags, parent.trace_state
            )
            span._around = parent
        span._ids = ids
        span._id = ids.span_id
        if not ids.trace_flags & _SAMPLED:  # the usual samplers follow the span around
            self._foreign.follow(span, NonRecordingSpan(parent if parent.is_valid else ids))
            return False
        return True

    def _first(
        self, before: otel.Context, name: str, kind: SpanKind, attributes: dict[str, Any]
    ) -> SpanContext:
        """Return the ids of the first span of a trace, which say whether the sampler wants it."""
        generator, sampler = self._tracer.id_generator, self._tracer.sampler
        trace_id, span_id = generator.generate_trace_id(), self._new_id() or 1
        flags, state = _SAMPLED, None
        if sampler is not sampling.DEFAULT_ON:
            decided = sampler.should_sample(before, trace_id, name, kind, attributes, ())
            flags, state = int(decided.decision.is_sampled()), decided.trace_state
        if getattr(generator, "is_trace_id_random", bool)():
            flags |= _RANDOM
        return SpanContext(trace_id, span_id, False, TraceFlags(flags), state)

    def _look_at_processors(self) -> bool:
        """Return whether nobody can tell the difference; processors may be added at any time."""
        processors = self._processor._span_processors
        if processors is not self._usual and all(type(one) in _ONLY_EXPORT for one in processors):
            self._usual, self.end = processors, _ending(self._processor)
        return processors is self._usual


class ForeignSpans:
    """Has a tracer make the spans.

    Args:
        tracer: Any tracer.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def start(self, span: LightSpan, name: str, attributes: dict[str, Any]) -> None:
        """Start a span inside of the current one, and make it current."""
        self.follow(span, self._tracer.start_span(name, None, span._kind, attributes))

    def follow(self, span: LightSpan, other: Span) -> None:
        """Let a span stand for another one, which becomes current; it takes what is known at the end."""
        span.before = before = current_context()
        span._maker, span._other, span._attributes = self, other, {}
        span._start_time, span._end_time = time_ns(), None
        enter_context(otel.Context({**before, _SPAN_KEY: other, OURS_KEY: span}))

    def end(self, span: LightSpan) -> None:
        """End the span that another one stood for."""
        other: Any = span._other
        if other.is_recording():
            other.set_attributes(span._attributes)
        other.end()


def _id_maker(generator: Any) -> Callable[[], int]:
    """Return what makes the id of a span; it may be 0, once in 2^64 times."""
    if type(generator) is RandomIdGenerator:
        return functools.partial(random.getrandbits, 64)
    return generator.generate_span_id  # type: ignore[no-any-return]


def _ending(processor: Any) -> Callable[[Any], object]:
    """Return what gives spans that have ended to the processors, as long as there are no others."""
    processors = processor._span_processors
    if len(processors) == 1 and _is_usual_batch(processors[0]):
        return _into_batch(processor, processors[0]._batch_processor)
    return processor.on_end  # type: ignore[no-any-return]


def _is_usual_batch(processor: Any) -> bool:
    batch: Any = getattr(processor, "_batch_processor", None)
    return _names(type(processor).on_end) == _ON_END and _names(type(batch).emit) == _EMIT


# What the SDK does with a span that has ended; if it does anything else, that is not done here.
_ON_END = {"context", "trace_flags", "sampled", "_batch_processor", "emit"}
_EMIT = {
    *("_shutdown", "_logger", "info", "_exporting", "_metrics", "drop_items", "_pid", "os", "getpid"),
    *("_bsp_reset_once", "do_once", "_at_fork_reinit", "len", "_queue", "_max_queue_size", "warning"),
    *("appendleft", "_max_export_batch_size", "_worker_awaken", "is_set", "set"),
}


def _names(function: Any) -> set[str]:
    return {*getattr(getattr(function, "__code__", None), "co_names", ())}


def _into_batch(processor: Any, batch: Any) -> Callable[[Any], object]:
    """Return what puts spans into a batch, without asking the system each time which process this is."""
    processors = processor._span_processors
    queue, most, enough = batch._queue, batch._max_queue_size, batch._max_export_batch_size
    put = queue.appendleft

    def end(span: Any) -> None:
        waiting = len(queue)
        if waiting == most or batch._shutdown or processor._span_processors is not processors:
            processor.on_end(span)
            return
        put(span)
        if waiting >= enough - 1 and not batch._worker_awaken.is_set():
            batch._worker_awaken.set()

    return end


_ONLY_EXPORT: tuple[type, ...] = ()
if sdk is not None:
    _ONLY_EXPORT = (export.BatchSpanProcessor, export.SimpleSpanProcessor)


def spans_of(tracer: Tracer) -> Spans:
    """Return what makes spans for ``tracer``: the cheap way, if it is open, or its own.

    Args:
        tracer: Any tracer.
    """
    try:
        if _is_usual_tracer(tracer):
            return LightSpans(tracer)
    except AttributeError:  # an SDK that looks different inside
        pass
    return ForeignSpans(tracer)


def _is_usual_tracer(tracer: Any) -> bool:
    if sdk is None or type(tracer) is not sdk.Tracer or not tracer._is_enabled():
        return False
    sampler, limits = tracer.sampler, tracer._span_limits
    ids = SpanContext(1, 2, False, TraceFlags(1), TraceState())
    if tuple(ids) != (1, 2, False, TraceFlags(1), TraceState(), True):
        return False
    usual = sampler is sampling.DEFAULT_ON or type(sampler) is sampling.ParentBasedTraceIdRatio
    return usual and all(getattr(limits, name) is None for name in _NO_LIMIT)
