"""Providers of OpenTelemetry as the standard environment variables describe them, where nobody made others.

The SDK reads nearly all of these variables itself: names and attributes of the service, samplers, batches,
addresses, headers, time limits. Only which exporters there shall be is decided here, by the names under
which packages register them.
"""

from __future__ import annotations

import importlib
import os
import threading
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from manyhands.errors import CallerError, MissingExtraError
from manyhands.run import switched_on

if TYPE_CHECKING:
    from collections.abc import Iterator

_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_lock = threading.Lock()


def set_up() -> None:
    """Give the process the providers that its environment asks for, if it has none yet."""
    with _lock:
        _set_up_traces()
        _set_up_metrics()


def _set_up_traces() -> None:
    api = importlib.import_module("opentelemetry.trace")
    exporters = list(_exporters("TRACES", "opentelemetry_traces_exporter", api.get_tracer_provider()))
    if exporters:
        sdk = _sdk("opentelemetry.sdk.trace")
        provider = sdk.TracerProvider()
        for exporter in exporters:
            provider.add_span_processor(_sdk("opentelemetry.sdk.trace.export").BatchSpanProcessor(exporter))
        api.set_tracer_provider(provider)


def _set_up_metrics() -> None:
    api = importlib.import_module("opentelemetry.metrics")
    exporters = list(_exporters("METRICS", "opentelemetry_metrics_exporter", api.get_meter_provider()))
    if exporters:
        reader = _sdk("opentelemetry.sdk.metrics.export").PeriodicExportingMetricReader
        readers = [reader(exporter) for exporter in exporters]
        api.set_meter_provider(_sdk("opentelemetry.sdk.metrics").MeterProvider(metric_readers=readers))


def _exporters(signal: str, group: str, provider: Any) -> Iterator[Any]:
    """Yield the exporters that the environment names, none where the process has a provider already."""
    if "Proxy" not in type(provider).__name__:
        return
    for name in _names(signal):
        found = next(iter(entry_points(group=group, name=name)), None)
        if found is None:
            raise CallerError(
                f"OTEL_{signal}_EXPORTER asks for the exporter {name!r}, which is not installed. Install its "
                'package; pip install "manyhands[telemetry]" brings otlp over HTTP.'
            )
        yield found.load()()


def _names(signal: str) -> list[str]:
    named = os.environ.get(_ENDPOINT) or os.environ.get(_signal_endpoint(signal))
    asked = named or switched_on("MANYHANDS_TELEMETRY")
    default = "otlp" if asked else "none"
    given = os.environ.get(f"OTEL_{signal}_EXPORTER", "").strip() or default
    names = [name.strip() for name in given.split(",") if name.strip() not in ("", "none")]
    return [f"otlp_proto_{_protocol(signal)}" if name == "otlp" else name for name in names]


def _signal_endpoint(signal: str) -> str:
    return f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"


def _protocol(signal: str) -> str:
    given = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL") or os.environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", ""
    )
    return "grpc" if given == "grpc" else "http"


def _sdk(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError("Exporting telemetry", "telemetry") from error
