"""What telemetry costs: the same runs with and without it, by turns, in one process.

::

    python benchmarks/telemetry.py                 # two or three minutes
    python benchmarks/telemetry.py --quick         # fewer rounds
    python benchmarks/telemetry.py --json telemetry.json

What is measured is the process's CPU time per step, with spans that go through a batch processor to an
exporter that throws them away, and metrics that are kept to be collected. The provider of the model is
another process. Each round is a pair; the median of the ratios counts.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import itertools
from dataclasses import dataclass
from typing import Any

import _meter
import _server
import _sides
from _meter import Figure, Report, median
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from manyhands.observe.telemetry import Telemetry

STEPS = 3


class Nowhere(SpanExporter):
    """Throws spans away, and counts them."""

    def __init__(self) -> None:
        self.spans = 0

    def export(self, spans: Any) -> SpanExportResult:
        self.spans += len(spans)
        return SpanExportResult.SUCCESS


@dataclass(frozen=True, slots=True)
class Way:
    """What is turned on.

    Attributes:
        name: In words.
        metrics: Metrics beside the spans.
        content: Messages, arguments and results in the spans.
        goal: What it may cost, as a share of what runs cost without.
    """

    name: str
    metrics: bool
    content: bool = False
    goal: float | None = None


WAYS = (
    Way("spans", metrics=False, goal=1.25),
    Way("spans and metrics", metrics=True, goal=1.25),
    Way("spans with content, and metrics", metrics=True, content=True),
)


def make_telemetry(way: Way) -> tuple[Telemetry, TracerProvider, Nowhere]:
    """Return telemetry that ends nowhere."""
    nowhere, provider = Nowhere(), TracerProvider()
    # Room for a whole round: nothing is dropped, and what is exported is paid for.
    provider.add_span_processor(BatchSpanProcessor(nowhere, max_queue_size=50_000))
    meters = MeterProvider([InMemoryMetricReader()]) if way.metrics else NoOpMeterProvider()
    return Telemetry(provider, meters, way.content), provider, nowhere


async def pair(off: _sides.Side, on: _sides.Side, count: int, first: int) -> tuple[float, float]:
    """Return the microseconds of CPU that a step takes without and with telemetry, in one round."""
    found = []
    for side in (off, on) if (first // count) % 2 else (on, off):
        spent = await _meter.spend(functools.partial(side.work, count, f"0.05/{STEPS}", first))
        assert _sides.right(spent.results, first) == count, f"{side.name}: answers lost or mixed up"
        found.append((side is on, spent.cpu / (STEPS * count) * 1e6))
    return dict(found)[False], dict(found)[True]


async def cost(report: Report, url: str, kind: str, count: int, rounds: int, way: Way) -> None:
    """Measure the cost of telemetry on runs of one kind."""
    telemetry, provider, nowhere = make_telemetry(way)
    off, on = _sides.Agents(kind, url), _sides.Agents(kind, url, observers=[telemetry.observe])
    await pair(off, on, count, 0)
    pairs = [await pair(off, on, count, first) for first in range(count, count * (rounds + 1), count)]
    await telemetry.aflush()
    provider.shutdown()
    runs = count * (rounds + 1)
    per_run = 1 + STEPS + (STEPS if kind == "tools" else 2 * STEPS)
    name = f"{kind} agent: {way.name}, {count} runs"
    without, with_it = (median([one[index] for one in pairs]) for index in (0, 1))
    ratio = median([one[1] / one[0] for one in pairs])
    made_of = f"{with_it:.0f} µs, {without:.0f} µs without; {nowhere.spans / runs:.1f} spans a run"
    report.add(Figure(name, ratio, "x off", way.goal, note=made_of))
    assert nowhere.spans == runs * per_run, f"{nowhere.spans} spans of {runs * per_run}"


def main() -> None:
    """Measure, and say what missed its goal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", help="file to write the figures to")
    options = parser.parse_args()
    report, rounds = Report(), 15 if options.quick else 25
    with _server.server() as url:
        for way, kind in itertools.product(WAYS, _sides.KINDS):
            asyncio.run(cost(report, url, kind, 200, rounds, way))
    if options.json:
        report.write(options.json)


if __name__ == "__main__":
    main()
