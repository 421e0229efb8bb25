"""Values of one histogram with the same attributes, recorded many at once.

The SDK takes 5 to 6 µs to record one value: it copies, checks and hashes the attributes each time to find
where the value belongs. Of many values with the same attributes the first goes that way, and the others are
added up to where it went. That is done with a histogram of the SDK that one reader collects, without views
that leave attributes out, and where no examples are kept; everywhere else each value is recorded by itself.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import repeat
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, set_span_in_context

if TYPE_CHECKING:
    from collections.abc import Sequence

try:
    from opentelemetry.sdk import metrics as sdk
    from opentelemetry.sdk.metrics._internal._view_instrument_match import _ViewInstrumentMatch
    from opentelemetry.sdk.metrics._internal.aggregation import _ExplicitBucketHistogramAggregation
    from opentelemetry.sdk.metrics._internal.instrument import _Histogram
    from opentelemetry.sdk.metrics._internal.measurement_consumer import SynchronousMeasurementConsumer

    # What adding one value to a histogram has to do with; else it is not what is done here.
    _USUAL = {
        *("_lock", "_value", "_get_empty_bucket_counts", "value", "_sum", "_record_min_max", "_min", "min"),
        *("_max", "max", "bisect_left", "_boundaries", "_sample_exemplar"),
    } == {*_ExplicitBucketHistogramAggregation.aggregate.__code__.co_names}
except (ImportError, AttributeError):  # the API alone, or an SDK that looks different inside
    _USUAL = False

# The context that values are recorded in: no span is current there, so none is kept as an example.
NOWHERE = set_span_in_context(INVALID_SPAN, Context())


class Series:
    """Where the values of one histogram with the same attributes go.

    Args:
        histogram: Any histogram.
        attributes: The attributes; nobody changes them.
    """

    def __init__(self, histogram: Any, attributes: dict[str, Any]) -> None:
        self._histogram = histogram
        self._attributes = attributes
        self._place: tuple[Any, Any] = (None, None)

    def record(self, values: Sequence[float]) -> None:
        """Record values."""
        self._record_each(values[:1])
        if not self._add_where_the_first_one_went(values[1:]):
            self._record_each(values[1:])

    def _record_each(self, values: Sequence[float]) -> None:
        for value in values:
            self._histogram.record(value, self._attributes, NOWHERE)

    def _add_where_the_first_one_went(self, values: Sequence[float]) -> bool:
        if not values or not math.isfinite(sum(values)) or min(values) < 0:
            return False  # of those that are no durations or counts the SDK complains
        try:
            match, key = self._find()
            lock = match._lock
        except (AttributeError, LookupError, TypeError):
            return False
        with lock:  # who collects may take away what is there
            found = match._attributes_aggregation.get(key)
            if type(found) is not _ExplicitBucketHistogramAggregation:
                return False
            _add(found, values)
        return True

    def _find(self) -> tuple[Any, Any]:
        """Return who knows the series, and the key that it has there.

        Raises:
            LookupError: Values have to be recorded one by one.
        """
        match = _only_match(self._histogram)
        if match is not self._place[0]:
            keys = [
                key
                for key, found in list(match._attributes_aggregation.items())
                if found._attributes == self._attributes
            ]
            if not keys:  # one series too many: the SDK has its own place for those
                raise LookupError
            self._place = (match, keys[0])
        return self._place


def _add(found: Any, values: Sequence[float]) -> None:
    """Add values to what a histogram has, as its own ``aggregate()`` does with one."""
    with found._lock:
        if found._value is None:
            found._value = found._get_empty_bucket_counts()
        counts, bounds = found._value, found._boundaries
        for place in map(bisect_left, repeat(bounds), values):
            counts[place] += 1
        found._sum += sum(values)
        if found._record_min_max:
            found._min = min(found._min, *values)
            found._max = max(found._max, *values)


def _only_match(histogram: Any) -> Any:
    """Return what keeps the values of a histogram.

    Raises:
        LookupError: It is several things, or there is something unusual about it.
    """
    if not _USUAL or type(histogram) is not _Histogram:
        raise LookupError
    consumer: Any = histogram._measurement_consumer
    storages = list(consumer._reader_storages.values())
    if type(consumer) is not SynchronousMeasurementConsumer or len(storages) != 1:
        raise LookupError
    matches = storages[0]._instrument_view_instrument_matches.get(histogram, ())
    if len(matches) != 1 or not _is_usual(matches[0], consumer._sdk_config.exemplar_filter):
        raise LookupError
    return matches[0]


def _is_usual(match: Any, examples: Any) -> bool:
    return (
        type(match) is _ViewInstrumentMatch
        and match._view._attribute_keys is None
        and type(examples) in (sdk.TraceBasedExemplarFilter, sdk.AlwaysOffExemplarFilter)
    )
