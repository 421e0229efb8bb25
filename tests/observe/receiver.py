"""A collector that takes spans and metrics as OTLP over HTTP, and shows them as trees of text."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from manyhands._bridge import call_in_thread
from manyhands.observe.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from opentelemetry.sdk.trace.sampling import Sampler


@dataclass
class Received:
    """A span as it arrived."""

    name: str
    id: bytes
    parent: bytes
    trace: bytes
    kind: int
    status: int
    said: str
    began: int
    ended: int
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]


@dataclass
class Collector:
    """What has arrived."""

    address: str = ""
    spans: list[Received] = field(default_factory=list)
    points: dict[str, list[Any]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)

    def named(self, name: str) -> list[Received]:
        """Return the spans of a name, oldest first."""
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.began)

    def one(self, name: str) -> Received:
        """Return the only span of a name."""
        (span,) = self.named(name)
        return span

    def parent(self, span: Received) -> Received | None:
        """Return the span around another one."""
        return next((other for other in self.spans if other.id == span.parent), None)

    def tree(self, trace: bytes | None = None) -> list[str]:
        """Return the names of all spans, each below and right of its parent."""
        lines: list[str] = []

        def add(parent: bytes, depth: int) -> None:
            children = [span for span in self.spans if span.parent == parent and trace in (None, span.trace)]
            for span in sorted(children, key=lambda span: (span.began, span.name)):
                lines.append("  " * depth + span.name)
                add(span.id, depth + 1)

        add(b"", 0)
        return lines

    def numbers(self, name: str) -> dict[tuple[Any, ...], float]:
        """Return the points of a metric: counts of a histogram, values of the rest, by attributes."""
        found = {}
        for point in self.points.get(name, []):
            key = tuple(sorted(_values(point.attributes).items()))
            found[key] = point.count if hasattr(point, "bucket_counts") else point.as_int
        return found

    def total(self, name: str) -> float:
        """Return the sum of :meth:`numbers`."""
        return sum(self.numbers(name).values())

    def sum(self, name: str) -> float:
        """Return the sum of all values of a histogram."""
        return float(sum(point.sum for point in self.points.get(name, [])))

    async def take_spans(self, request: web.Request) -> web.Response:
        sent = ExportTraceServiceRequest.FromString(await request.read())
        for resource in sent.resource_spans:
            for scope in resource.scope_spans:
                self.spans += [_received(span) for span in scope.spans]
        return web.Response()

    async def take_metrics(self, request: web.Request) -> web.Response:
        sent = ExportMetricsServiceRequest.FromString(await request.read())
        for resource in sent.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    data = getattr(metric, metric.WhichOneof("data"))
                    self.points[metric.name] = list(data.data_points)
                    self.units[metric.name] = metric.unit
        return web.Response()


def _received(span: Any) -> Received:
    return Received(
        span.name,
        span.span_id,
        span.parent_span_id,
        span.trace_id,
        span.kind,
        span.status.code,
        span.status.message,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _values(span.attributes),
        [(event.name, _values(event.attributes)) for event in span.events],
    )


def _values(pairs: Iterable[Any]) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """Run a collector."""
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take_spans)
    app.router.add_post("/v1/metrics", collector.take_metrics)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    collector.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield collector
    finally:
        await runner.cleanup()


class Silent(SpanProcessor):
    """A processor of somebody else's: with it, spans are made by the SDK itself."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Have nothing to wait for; what older SDKs have here says that it failed."""
        return True


@dataclass
class Pipe:
    """Telemetry on its way to a collector."""

    collector: Collector
    traces: TracerProvider
    meters: MeterProvider

    def telemetry(self, capture_content: bool = False) -> Telemetry:
        """Return telemetry for the agents that are given its observer."""
        return Telemetry(self.traces, self.meters, capture_content)

    async def arrived(self) -> Collector:
        """Return the collector when all is there."""
        assert await call_in_thread(self.traces.force_flush)
        await call_in_thread(self.meters.force_flush)
        return self.collector


@asynccontextmanager
async def piping(foreign: bool = False, sampler: Sampler | None = None) -> AsyncIterator[Pipe]:
    """Run a collector, and exporters to it.

    Args:
        foreign: Have a processor that is not the SDK's own.
        sampler: Decides which traces are wanted.
    """
    async with collecting() as collector:
        traces = TracerProvider(sampler, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(f"{collector.address}/v1/traces")
        traces.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=20_000))
        if foreign:
            traces.add_span_processor(Silent())
        reader = PeriodicExportingMetricReader(
            OTLPMetricExporter(f"{collector.address}/v1/metrics"), export_interval_millis=600_000
        )
        meters = MeterProvider([reader], shutdown_on_exit=False)
        try:
            yield Pipe(collector, traces, meters)
        finally:
            await call_in_thread(traces.shutdown)
            await call_in_thread(meters.shutdown)
