"""Metrics of runs, in OpenTelemetry: tokens, durations, what is in flight and what waits, retries, loop lag.

What has only to be counted is counted in plain numbers, and read when metrics are collected: that costs a
run next to nothing. Names that the outside world chooses are bounded, so that no series grows without end.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import Counter, deque
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from opentelemetry.metrics import NoOpMeter, Observation

from manyhands.errors import RateLimitError
from manyhands.observe.series import Series

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.metrics import CallbackOptions, Meter

    from manyhands.messages import TokenUsage
    from manyhands.observe.providers import ModelFacts

# The boundaries that the GenAI semantic conventions ask for.
_TOKENS = [4**power for power in range(14)]
_SECONDS = [0.01 * 2**power for power in range(14)]
_LAGS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0]
# Distinct names that one attribute may have; the rest share one.
_MOST_NAMES = 100
_OTHER = "_OTHER"
_TICK = 0.5
_MOST_NOTED = 1_000
_MOST_SERIES = 10_000


class _Names:
    """Bounds how many names there are."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, name: str) -> str:
        if name in self._seen:
            return name
        if len(self._seen) >= _MOST_NAMES:
            return _OTHER
        self._seen.add(name)
        return name


def _taken(noted: deque[Any]) -> Iterator[Any]:
    """Take out one after the other; other threads may do so too."""
    while noted:
        try:
            yield noted.popleft()
        except IndexError:
            return


class Metrics:
    """The instruments of one meter, which keeps them for good: there is one such object per meter.

    Args:
        meter: Makes them.
    """

    def __init__(self, meter: Meter) -> None:
        self._lock = threading.Lock()
        self._agents, self._tools = _Names(), _Names()
        self._call_attributes: dict[tuple[str, str], dict[str, str]] = {}
        self._runs: Counter[str] = Counter()
        self._waits: Counter[str] = Counter()
        self._steps: Counter[str] = Counter()
        self._retries: Counter[tuple[str, str]] = Counter()
        self._refusals: Counter[str] = Counter()
        self._lags = _Lags(self)
        # What has happened and is not recorded yet: histogram, value, attributes.
        self._noted: deque[tuple[Any, float, dict[str, Any]]] = deque()
        self._stepped: deque[str] = deque()
        self._series: dict[tuple[Any, ...], Series] = {}
        self._wanted = not isinstance(meter, NoOpMeter)
        self._durations(meter)
        self._counts(meter)

    def _durations(self, meter: Meter) -> None:
        def histogram(name: str, unit: str, about: str, bounds: list[float]) -> Any:
            return meter.create_histogram(name, unit, about, explicit_bucket_boundaries_advisory=bounds)

        self._usage = histogram(
            "gen_ai.client.token.usage", "{token}", "Number of input and output tokens used.", [*_TOKENS]
        )
        self._operations = histogram(
            "gen_ai.client.operation.duration", "s", "Duration of questions to models, and of runs.", _SECONDS
        )
        self._first_chunks = histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            "s",
            "Time to the first piece of a reply.",
            _SECONDS,
        )
        self._calls = histogram(
            "gen_ai.execute_tool.duration", "s", "Duration of tool calls, and of generated code.", _SECONDS
        )
        self._wait_times = histogram("manyhands.wait.duration", "s", "Duration of waits.", _SECONDS)
        self._lag = histogram("manyhands.loop.lag", "s", "How late event loops with runs are.", _LAGS)

    def _counts(self, meter: Meter) -> None:
        meter.create_observable_up_down_counter(
            "manyhands.runs.active",
            [self._reader(self._runs, lambda agent: {"gen_ai.agent.name": agent})],
            "{run}",
            "Runs in flight.",
        )
        meter.create_observable_up_down_counter(
            "manyhands.waiting",
            [self._reader(self._waits, lambda what: {"manyhands.wait.for": what})],
            "{wait}",
            "Runs and calls that wait, by what they wait for.",
        )
        meter.create_observable_counter(
            "manyhands.steps",
            [self._reader(self._steps, lambda agent: {"gen_ai.agent.name": agent})],
            "{step}",
            "Steps taken by agents.",
        )
        meter.create_observable_counter(
            "manyhands.retries",
            [self._reader(self._retries, lambda key: {"manyhands.retry.of": key[0], "error.type": key[1]})],
            "{retry}",
            "Attempts made again.",
        )
        meter.create_observable_counter(
            "manyhands.rate_limited",
            [self._reader(self._refusals, lambda _: {})],
            "{reply}",
            "Replies of providers with status 429.",
        )

    def _reader(
        self, counter: Counter[Any], attributes: Callable[[Any], dict[str, str]]
    ) -> Callable[[CallbackOptions], Iterator[Observation]]:
        def read(_: CallbackOptions) -> Iterator[Observation]:
            self._record_all()
            with self._lock:
                found = list(counter.items())
            for key, value in found:
                yield Observation(value, attributes(key))

        return read

    # --- Later --------------------------------------------------------------------------------------

    def _note(self, *noted: tuple[Any, float, dict[str, Any]]) -> None:
        # Many at once cost a fraction of what one now and then does.
        self._noted.extend(noted)
        if len(self._noted) >= _MOST_NOTED:
            self._record_all()

    def _record_all(self) -> None:
        with self._lock:
            self._steps.update(map(self._agents, _taken(self._stepped)))
        found: dict[tuple[int, int], tuple[Any, dict[str, Any], list[float]]] = {}
        for histogram, value, attributes in _taken(self._noted):
            same = found.get((id(histogram), id(attributes)))
            if same is None:
                found[id(histogram), id(attributes)] = histogram, attributes, [value]
            else:
                same[2].append(value)
        for histogram, attributes, values in found.values():
            self._series_of(histogram, attributes).record(values)

    def _series_of(self, histogram: Any, attributes: dict[str, Any]) -> Series:
        key = (histogram, *attributes.items())
        series = self._series.get(key)
        if series is None:
            if len(self._series) >= _MOST_SERIES:
                self._series.clear()
            series = self._series[key] = Series(histogram, attributes)
        return series

    # --- What happens ------------------------------------------------------------------------------

    def run_began(self, agent: str) -> None:
        """Count a run in."""
        if not self._wanted:
            return
        with self._lock:
            self._runs[self._agents(agent)] += 1
        self._lags.enter()

    def run_ended(self, agent: str, seconds: float, error: str) -> None:
        """Count a run out."""
        if not self._wanted:
            return
        agent = self._agents(agent)
        with self._lock:
            self._runs[agent] -= 1
        self._lags.leave()
        told = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": agent}
        self._note((self._operations, seconds, {**told, "error.type": error} if error else told))

    def step(self, agent: str) -> None:
        """Count a step."""
        if self._wanted:
            self._stepped.append(agent)

    def asked(
        self,
        model: ModelFacts,
        seconds: float,
        first: float | None,
        usage: TokenUsage | None,
        error: str,
    ) -> None:
        """Count a question to a model."""
        if not self._wanted:
            return
        took = (self._operations, seconds, {**model.metric, "error.type": error} if error else model.metric)
        if usage is not None:
            self._noted.extend(
                (
                    (self._usage, usage.input_tokens, model.metric_input),
                    (self._usage, usage.output_tokens, model.metric_output),
                )
            )
        self._note(took)
        if first is not None:
            self._note((self._first_chunks, first, model.metric))

    def called(self, agent: str, tool: str, seconds: float, error: str) -> None:
        """Count a call of a tool."""
        if not self._wanted:
            return
        told = self._call_attributes.get((agent, tool))
        if told is None:
            told = {"gen_ai.tool.name": self._tools(tool), "gen_ai.agent.name": self._agents(agent)}
            if len(self._call_attributes) < _MOST_NAMES**2:
                self._call_attributes[agent, tool] = told
        self._note((self._calls, seconds, {**told, "error.type": error} if error else told))

    def wait_began(self, what: str) -> None:
        """Count a wait in."""
        with self._lock:
            self._waits[what] += 1

    def wait_ended(self, what: str, seconds: float) -> None:
        """Count a wait out."""
        with self._lock:
            self._waits[what] -= 1
        if self._wanted:
            self._note((self._wait_times, seconds, {"manyhands.wait.for": what}))

    def retried(self, what: str, error: str) -> None:
        """Count a retry."""
        with self._lock:
            self._retries[what, error] += 1

    def refused(self, error: BaseException) -> None:
        """Count an error if it says that there were too many requests."""
        status = getattr(error, "status", None) or getattr(error, "status_code", None)
        if isinstance(error, RateLimitError) or status == 429:
            with self._lock:
                self._refusals[""] += 1

    def lagged(self, seconds: float) -> None:
        """Note how late an event loop was."""
        self._note((self._lag, seconds, {}))


class _Lags:
    """Looks twice a second how late each loop with runs is: a timer, and no task."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Ticker] = WeakKeyDictionary()

    def enter(self) -> None:
        """A run has begun on the running loop."""
        loop = asyncio.get_running_loop()
        ticker = self._loops.get(loop)
        if ticker is None:
            ticker = self._loops[loop] = _Ticker(self._metrics)
        ticker.runs += 1
        if ticker.timer is None:
            ticker.wait(loop)

    def leave(self) -> None:
        """A run has ended on the running loop."""
        ticker = self._loops.get(asyncio.get_running_loop())
        if ticker is not None:
            ticker.runs -= 1
            if not ticker.runs and ticker.timer is not None:
                ticker.timer.cancel()
                ticker.timer = None


class _Ticker:
    """The timer of one loop."""

    __slots__ = ("_metrics", "due", "runs", "timer")

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.runs = 0
        self.due = 0.0
        self.timer: asyncio.TimerHandle | None = None

    def wait(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look again after a while."""
        self.due = loop.time() + _TICK
        # In a context of its own: that of a run would be kept alive, and its span be current.
        self.timer = loop.call_at(self.due, self._look, loop, context=contextvars.Context())

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._metrics.lagged(max(0.0, loop.time() - self.due))
        self.wait(loop)
