"""OpenTelemetry: spans and metrics of all runs of the process, or of one agent's.

Nothing of OpenTelemetry is imported before it is turned on::

    from manyhands.observe.telemetry import instrument

    telemetry = instrument()
    ...
    await telemetry.astop()

The environment variable ``MANYHANDS_TELEMETRY=1`` does the same when the first run is made.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
from asyncio import events
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from manyhands._bridge import call_in_thread
from manyhands.errors import CallerError, MissingExtraError
from manyhands.run import watching

if TYPE_CHECKING:
    from types import TracebackType

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from manyhands.run import Observer

logger = logging.getLogger("manyhands.telemetry")

_CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_YES = ("1", "true", "yes", "on", "span_only", "span_and_event")
_FLUSH_SECONDS = 10.0


class Telemetry:
    """Spans and metrics of the runs that it is told of.

    :func:`instrument` makes one for all runs. For the runs of one agent, make one and give the agent
    ``observers=[telemetry.observe]``.

    Args:
        tracer_provider: Where spans go; by default the one that OpenTelemetry has for the process.
        meter_provider: Where metrics go; by default likewise.
        capture_content: Whether spans hold messages, arguments and results, masked and cut; by default
            what ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` says, which is no if it is not set.

    Raises:
        MissingExtraError: OpenTelemetry is not installed.
        CallerError: A provider is none.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        capture_content: bool | None = None,
    ) -> None:
        tracing, content = _room("tracing"), _room("content")
        version = importlib.import_module("manyhands").__version__
        self._traces = tracer_provider or _provider("trace")
        self._meters = meter_provider or _provider("metrics")
        for provider, method in ((self._traces, "get_tracer"), (self._meters, "get_meter")):
            if not hasattr(provider, method):
                raise CallerError(f"{provider!r} is no provider of OpenTelemetry: it has no {method}().")
        wanted = _captures() if capture_content is None else capture_content
        self._tracing = tracing.Tracing(
            self._traces.get_tracer("manyhands", version),
            _metrics_of(self._meters, version),
            content.Content() if wanted else None,
        )
        #: An observer of runs, for ``Agent(observers=[...])``.
        self.observe: Observer = self._tracing.observe

    # --- On and off ------------------------------------------------------------------------------

    def start(self) -> Telemetry:
        """Be told of all runs made from now on."""
        watching.watch(self.observe)
        return self

    def stop(self) -> None:
        """Be told of no further runs, and export what there is.

        Runs that go on are told of to their end. On an event loop this does not wait for the exporters,
        which have their own schedule; :meth:`astop` does.
        """
        self._detach()
        if events._get_running_loop() is None:
            self.flush()

    async def astop(self) -> None:
        """Do as :meth:`stop`, and wait for the exporters without blocking the loop."""
        self._detach()
        await self.aflush()

    def _detach(self) -> None:
        watching.leave(self.observe)
        with _lock:
            for asked in [asked for asked, one in _active.items() if one is self]:
                del _active[asked]

    def flush(self, timeout: float = _FLUSH_SECONDS) -> bool:
        """Export what there is; it blocks.

        Args:
            timeout: Most seconds for spans, and for metrics.

        Returns:
            Whether everything went out in time.

        Raises:
            RuntimeError: This thread runs an event loop, which would be blocked.
        """
        if events._get_running_loop() is not None:
            raise RuntimeError("flush() cannot be called with a running event loop; await aflush() instead.")
        return self._flush(timeout)

    async def aflush(self, timeout: float = _FLUSH_SECONDS) -> bool:  # noqa: ASYNC109
        """Export what there is, on a worker thread; otherwise like :meth:`flush`."""
        return await call_in_thread(lambda: self._flush(timeout), label="telemetry")

    def _flush(self, timeout: float) -> bool:
        done = True
        for provider in (self._traces, self._meters):
            flush = getattr(provider, "force_flush", None)
            if flush is None:  # nobody has set one up
                continue
            try:
                done = flush(int(timeout * 1000)) is not False and done
            except Exception:
                logger.exception("Exporting telemetry failed")
                done = False
        return done

    def __enter__(self) -> Telemetry:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Telemetry:
        return self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.astop()


_lock = threading.Lock()
# What instrument() was asked for, and what it gave.
_active: dict[tuple[Any, ...], Telemetry] = {}
_metrics: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def instrument(
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    capture_content: bool | None = None,
) -> Telemetry:
    """Make spans and metrics of all runs from now on.

    Where no provider is given and the process has none yet, one is set up if the environment says where
    to: ``OTEL_TRACES_EXPORTER``, ``OTEL_METRICS_EXPORTER``, ``OTEL_EXPORTER_OTLP_ENDPOINT`` and the other
    standard variables. Otherwise spans go to the provider that the process sets later, if it does.

    Args:
        tracer_provider: See :class:`Telemetry`.
        meter_provider: See :class:`Telemetry`.
        capture_content: See :class:`Telemetry`.

    Returns:
        What stops it. Asking twice for the same returns the same.

    Raises:
        MissingExtraError: OpenTelemetry is not installed.
        CallerError: A provider is none, or the environment names an exporter that is not installed.
    """
    asked = (id(tracer_provider), id(meter_provider), capture_content)
    with _lock:
        if asked not in _active:
            _active[asked] = Telemetry(tracer_provider, meter_provider, capture_content)
        return _active[asked].start()


def _room(name: str) -> Any:
    try:
        importlib.import_module("opentelemetry.trace")
    except ImportError as error:
        raise MissingExtraError("Telemetry", "telemetry") from error
    return importlib.import_module(f"manyhands.observe.{name}")


def _provider(signal: str) -> Any:
    """Return the provider of the process, made as its environment says if there is none."""
    _room("exporters").set_up()
    api = importlib.import_module(f"opentelemetry.{signal}")
    return api.get_tracer_provider() if signal == "trace" else api.get_meter_provider()


def _metrics_of(provider: Any, version: str) -> Any:
    """Return the metrics that go to a provider: there is one set of instruments in each."""
    room, api = _room("metrics"), importlib.import_module("opentelemetry.metrics")
    # That of the process is another object once it is set, and takes the instruments over.
    key = api if provider is api.get_meter_provider() else provider
    if key not in _metrics:
        _metrics[key] = room.Metrics(provider.get_meter("manyhands", version))
    return _metrics[key]


def _captures() -> bool:
    return os.environ.get(_CAPTURE, "").strip().lower() in _YES
