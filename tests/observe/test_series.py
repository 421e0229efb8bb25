"""Values recorded many at once arrive like values recorded one by one."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import AlwaysOnExemplarFilter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import (
    DropAggregation,
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)

from manyhands.observe.series import Series

if TYPE_CHECKING:
    from collections.abc import Callable

DELTA = {Histogram: AggregationTemporality.DELTA}
VALUES = [0.5, 1, 1.5, 2, 7, 1_000, 0, 3]


def _viewed(**options: Any) -> Callable[[Any], MeterProvider]:
    view = View(instrument_name="took", **options)
    return lambda reader: MeterProvider([reader], views=[view], shutdown_on_exit=False)


SETUPS: dict[str, Callable[[Any], MeterProvider]] = {
    "usual": lambda reader: MeterProvider([reader], shutdown_on_exit=False),
    "other boundaries": _viewed(aggregation=ExplicitBucketHistogramAggregation([1, 5])),
    "exponential": _viewed(aggregation=ExponentialBucketHistogramAggregation()),
    "dropped": _viewed(aggregation=DropAggregation()),
    "attributes left out": _viewed(attribute_keys={"agent"}),
    "two views": lambda reader: MeterProvider(
        [reader],
        views=[View(instrument_name="took"), View(instrument_name="took", name="took too")],
        shutdown_on_exit=False,
    ),
    "two readers": lambda reader: MeterProvider([reader, InMemoryMetricReader()], shutdown_on_exit=False),
    "with examples": lambda reader: MeterProvider(
        [reader], exemplar_filter=AlwaysOnExemplarFilter(), shutdown_on_exit=False
    ),
}


def points(reader: InMemoryMetricReader) -> list[dict[str, Any]]:
    """Return what a reader collects, without what differs from one time to the next."""
    data = reader.get_metrics_data()
    if data is None:
        return []
    metrics = data.resource_metrics[0].scope_metrics[0].metrics
    shown = [{"metric": one.name, **vars(point)} for one in metrics for point in one.data.data_points]
    for point in shown:
        del point["start_time_unix_nano"], point["time_unix_nano"]
        point["exemplars"] = [example.value for example in point["exemplars"]]
    return shown


def record(setup: str, temporality: Any, together: bool) -> list[list[dict[str, Any]]]:
    reader = InMemoryMetricReader(temporality)
    histogram = SETUPS[setup](reader).get_meter("test").create_histogram("took", "s", "How long it took.")
    attributes = [{"agent": "a", "tool": tool} for tool in ("x", "y")]
    series = [Series(histogram, each) for each in attributes]
    collected = []
    for _ in range(3):
        for one, each in zip(series, attributes, strict=True):
            if together:
                one.record(VALUES)
            else:
                for value in VALUES:
                    histogram.record(value, each)
        collected.append(points(reader))
    return collected


@pytest.mark.parametrize("temporality", [None, DELTA], ids=["cumulative", "delta"])
@pytest.mark.parametrize("setup", SETUPS)
def test_together_or_one_by_one_makes_no_difference(setup: str, temporality: Any) -> None:
    together = record(setup, temporality, together=True)
    assert together == record(setup, temporality, together=False)
    assert any(together) == (setup != "dropped")


def test_values_that_make_no_sense_are_refused_by_the_sdk(caplog: pytest.LogCaptureFixture) -> None:
    reader = InMemoryMetricReader()
    histogram = MeterProvider([reader], shutdown_on_exit=False).get_meter("test").create_histogram("took")
    Series(histogram, {}).record([1, -1, 2])
    assert points(reader)[0]["count"] == 2
    assert "must be non-negative" in caplog.text


def test_without_an_sdk_nothing_happens() -> None:
    Series(NoOpMeterProvider().get_meter("test").create_histogram("took"), {}).record(VALUES)


@pytest.mark.parametrize("temporality", [None, DELTA], ids=["cumulative", "delta"])
def test_nothing_is_lost_between_two_collections(temporality: Any) -> None:
    reader = InMemoryMetricReader(temporality)
    histogram = MeterProvider([reader], shutdown_on_exit=False).get_meter("test").create_histogram("took")
    rounds, threads = 300, 3
    recorders = [threading.Thread(target=repeat, args=(histogram, rounds)) for _ in range(threads)]
    for thread in recorders:
        thread.start()
    found = []
    while any(thread.is_alive() for thread in recorders):
        found += points(reader)
    for thread in recorders:
        thread.join()
    found += points(reader)
    counts = [point["count"] for point in found]
    assert (sum(counts) if temporality else counts[-1]) == rounds * threads * len(VALUES)


def repeat(histogram: Any, rounds: int) -> None:
    series = Series(histogram, {})
    for _ in range(rounds):
        series.record(VALUES)
