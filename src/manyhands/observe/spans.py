"""Spans of OpenTelemetry's SDK at a fraction of their cost, where it is set up in the usual way.

The SDK takes some 25 µs for a span in the midst of other work: it copies and checks every attribute, and
locks what only one task touches. A step makes two or three spans, and is to cost little more with them. So a
span of ours keeps plain values while it is open, and becomes the SDK's ``ReadableSpan`` when it ends.

That is done where nobody can tell the difference: with the SDK's own tracer, one of its usual samplers, and
processors of its own that only export. Everywhere else the tracer makes the spans.
"""

from __future__ import annotations

import functools
import random
import traceback
from contextvars import ContextVar
from time import time_ns
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    TraceFlags,
    TraceState,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.status import Status, StatusCode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.trace import SpanKind, Tracer

    # Name, what is around it, kind, attributes; the span may change them.
    StartSpan = Callable[[str, otel.Context, SpanKind, dict[str, Any]], Span]

try:
    from opentelemetry.attributes import BoundedAttributes
    from opentelemetry.sdk import trace as sdk
    from opentelemetry.sdk.trace import export, sampling
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
except ImportError:  # the API alone: its spans do nothing
    sdk = None  # type: ignore[assignment]
_Readable: Any = object if sdk is None else sdk.ReadableSpan

# Under which key contexts hold the current span.
(SPAN_KEY,) = set_span_in_context(INVALID_SPAN, otel.Context())


def _ways_around() -> tuple[Callable[[], otel.Context], Callable[[otel.Context], object]]:
    """Return how to read the current context and how to change it: at once, where it is in a ContextVar."""
    runtime = getattr(otel, "_RUNTIME_CONTEXT", None)
    variable = getattr(runtime, "_current_context", None)
    if type(runtime) is ContextVarsRuntimeContext and isinstance(variable, ContextVar):
        return variable.get, variable.set
    return otel.get_current, otel.attach


current_context, enter_context = _ways_around()

_NO_LIMIT = ("max_span_attribute_length", "max_attribute_length")


class LightSpan(Span, _Readable):  # type: ignore[misc]
    """A span that is under way, or has ended.

    Args:
        maker: Who made it.
        name: Its name.
        context: Its own ids.
        parent: Those of the span around it.
        kind: Its kind.
        attributes: Its attributes; it may change them.
    """

    # The fields of the SDK's ReadableSpan: those that seldom differ are on the class.
    _events: Any = ()
    _links: Any = ()
    _status: Any = Status(StatusCode.UNSET)
    _instrumentation_info = None
    _end_time: int | None = None
    _foreign = False

    def __init__(
        self,
        maker: LightSpans,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        attributes: dict[str, Any],
    ) -> None:
        self._resource = maker.resource
        self._instrumentation_scope = maker.scope
        self._maker = maker
        self._name = name
        self._context = context
        self._parent = parent
        self._kind = kind
        self._attributes: Any = attributes
        self._start_time = time_ns()

    def get_span_context(self) -> SpanContext:
        """Return its ids."""
        return self._context

    def is_recording(self) -> bool:
        """Return whether it is under way still."""
        return self._end_time is None

    def own(self, attributes: dict[str, Any]) -> None:
        """Take over attributes that need no check."""
        self._attributes.update(attributes)

    def end(self, end_time: int | None = None) -> None:
        """End it, once."""
        if self._end_time is None:
            self._end_time = end_time or time_ns()
            if self._foreign:
                self._attributes = BoundedAttributes(128, self._attributes, immutable=True)
            self._maker.export(self)

    # --- For those who find it as the current span --------------------------------------------------

    def set_attribute(self, key: str, value: Any) -> None:
        """Set an attribute."""
        self.set_attributes({key: value})

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes; values are checked when the span ends."""
        if self._end_time is None:
            self._foreign = True
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


_make_tuple = tuple.__new__
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
        self._processor = tracer.span_processor
        self._new_id = _id_maker(tracer.id_generator)
        self.resource = tracer.resource
        self.scope = tracer._instrumentation_scope
        # The processors that were looked at, if they are the usual ones, and what takes spans for them.
        self._usual: tuple[object, list[Callable[[Any], object]]] = (None, [])
        self._look_at_processors()

    def start(self, name: str, context: otel.Context, kind: SpanKind, attributes: dict[str, Any]) -> Span:
        """Start a span inside of what is current in ``context``."""
        around: Any = context.get(SPAN_KEY)
        if type(around) is not LightSpan or self._processor._span_processors is not self._usual[0]:
            return self._start_outside(name, context, kind, attributes)
        parent = around._context
        # As SpanContext() makes it, without the checks of what its parent has passed already.
        ids = _make_tuple(SpanContext, (parent[0], self._new_id() or 1, False, parent[3], parent[4], True))
        return LightSpan(self, name, ids, parent, kind, attributes)

    def _start_outside(
        self, name: str, context: otel.Context, kind: SpanKind, attributes: dict[str, Any]
    ) -> Span:
        """Start a span that is not inside of a light one."""
        parent = get_current_span(context).get_span_context()
        if parent.is_remote or not self._look_at_processors():
            return self._tracer.start_span(name, context, kind, attributes)  # type: ignore[no-any-return]
        if not parent.is_valid:
            return self._first(name, context, kind, attributes)
        if not parent.trace_flags & _SAMPLED:
            return NonRecordingSpan(parent)  # the usual samplers follow the span around
        ids = SpanContext(parent.trace_id, self._new_id() or 1, False, parent.trace_flags, parent.trace_state)
        return LightSpan(self, name, ids, parent, kind, attributes)

    def _first(self, name: str, context: otel.Context, kind: SpanKind, attributes: dict[str, Any]) -> Span:
        """Start the first span of a trace, if the sampler wants it."""
        generator = self._tracer.id_generator
        trace_id, span_id = generator.generate_trace_id(), generator.generate_span_id()
        decided = self._tracer.sampler.should_sample(context, trace_id, name, kind, attributes, ())
        flags = _SAMPLED if decided.decision.is_sampled() else 0
        if getattr(generator, "is_trace_id_random", bool)():
            flags |= _RANDOM
        ids = SpanContext(trace_id, span_id, False, TraceFlags(flags), decided.trace_state)
        if not decided.decision.is_sampled():
            return NonRecordingSpan(ids)
        return LightSpan(self, name, ids, None, kind, attributes)

    def _look_at_processors(self) -> bool:
        """Return whether nobody can tell the difference; processors may be added at any time."""
        processors = self._processor._span_processors
        usual = all(type(one) in _ONLY_EXPORT for one in processors)
        self._usual = (processors, [_taker(one) for one in processors]) if usual else (None, [])
        return usual

    def export(self, span: LightSpan) -> None:
        """Give a span that has ended to the processors."""
        processors, takers = self._usual
        if self._processor._span_processors is processors:
            for take in takers:
                take(span)
        else:
            self._processor.on_end(span)


def _id_maker(generator: Any) -> Callable[[], int]:
    """Return what makes the id of a span; it may be 0, once in 2^64 times."""
    if type(generator) is RandomIdGenerator:
        return functools.partial(random.getrandbits, 64)
    return generator.generate_span_id  # type: ignore[no-any-return]


def _taker(processor: Any) -> Callable[[Any], object]:
    """Return what a processor does with a span that has ended, without asking whether it is sampled."""
    names = getattr(getattr(type(processor).on_end, "__code__", None), "co_names", ())
    batch = getattr(processor, "_batch_processor", None)
    if sorted(names) == ["_batch_processor", "context", "emit", "sampled", "trace_flags"] and batch:
        return batch.emit  # type: ignore[no-any-return]
    return processor.on_end  # type: ignore[no-any-return]


_ONLY_EXPORT: tuple[type, ...] = ()
if sdk is not None:
    _ONLY_EXPORT = (export.BatchSpanProcessor, export.SimpleSpanProcessor)


def starter(tracer: Tracer) -> StartSpan:
    """Return what starts spans for ``tracer``: the cheap way, if it is open, or its own.

    Args:
        tracer: Any tracer.
    """
    try:
        if _is_usual_tracer(tracer):
            return LightSpans(tracer).start
    except AttributeError:  # an SDK that looks different inside
        pass
    return tracer.start_span


def _is_usual_tracer(tracer: Any) -> bool:
    if sdk is None or type(tracer) is not sdk.Tracer or not tracer._is_enabled():
        return False
    sampler, limits = tracer.sampler, tracer._span_limits
    ids = SpanContext(1, 2, False, TraceFlags(1), TraceState())
    if tuple(ids) != (1, 2, False, TraceFlags(1), TraceState(), True):
        return False
    usual = sampler is sampling.DEFAULT_ON or type(sampler) is sampling.ParentBasedTraceIdRatio
    return usual and all(getattr(limits, name) is None for name in _NO_LIMIT)


def set_own(span: Span, attributes: dict[str, Any]) -> None:
    """Set attributes that need no check.

    Args:
        span: Any span.
        attributes: Texts, numbers and truth values.
    """
    if type(span) is LightSpan:
        span.own(attributes)
    else:
        span.set_attributes(attributes)
