"""Metrics of runs, in OpenTelemetry: tokens, durations, what is in flight and what waits, retries, loop lag.

What has only to be counted is counted in plain numbers, and read when metrics are collected: that costs a
run next to nothing. Names that the outside world chooses are bounded, so that no series grows without end.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import Counter
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


class _Noted:
    """Values with the same attributes that have come in and are not recorded yet."""

    __slots__ = ("_series", "_values", "note")

    def __init__(self, series: Series) -> None:
        self._series = series
        self._values: list[float] = []
        #: Take one value; from any thread.
        self.note = self._values.append

    def record(self) -> None:
        """Record them; not on two threads at once."""
        count = len(self._values)  # more may come in meanwhile
        if count:
            values = self._values[:count]
            del self._values[:count]
            self._series.record(values)


class Counts:
    """Takes what the runs of one agent do with one model; that costs a step next to nothing.

    Args:
        metrics: Has the instruments.
        agent: The agent.
        model: The model.
    """

    __slots__ = ("_agent", "_input", "_metrics", "_model", "_output", "_steps", "_tools", "_took")

    def __init__(self, metrics: Metrics, agent: str, model: ModelFacts) -> None:
        self._metrics = metrics
        self._agent = agent
        self._model = model.metric
        self._took = metrics.noting(metrics.operations, model.metric)
        self._input = metrics.noting(metrics.usage, model.metric_input)
        self._output = metrics.noting(metrics.usage, model.metric_output)
        self._steps = metrics.stepped.setdefault(agent, []).append
        self._tools: dict[str, Callable[[float], None]] = {}

    def step(self) -> None:
        """Count a step."""
        self._steps(1)

    def asked(self, seconds: float, first: float | None, usage: TokenUsage | None, error: str) -> None:
        """Count a question to the model."""
        metrics = self._metrics
        if usage is not None:
            self._input(usage.input_tokens)
            self._output(usage.output_tokens)
        if error:
            metrics.noting(metrics.operations, {**self._model, "error.type": error})(seconds)
        else:
            self._took(seconds)
        if first is not None:
            metrics.noting(metrics.first_chunks, self._model)(first)
        metrics.pending += 3
        if metrics.pending >= _MOST_NOTED:
            metrics.record()

    def called(self, tool: str, seconds: float, error: str) -> None:
        """Count a call of a tool."""
        note = self._tools.get(tool)
        if note is None or error:
            note = self._of_tool(tool, error)
        note(seconds)
        metrics = self._metrics
        metrics.pending += 1
        if metrics.pending >= _MOST_NOTED:
            metrics.record()

    def _of_tool(self, tool: str, error: str) -> Callable[[float], None]:
        told = {"gen_ai.tool.name": self._metrics.tools(tool), "gen_ai.agent.name": self._agent}
        if error:
            return self._metrics.noting(self._metrics.calls, {**told, "error.type": error})
        note = self._metrics.noting(self._metrics.calls, told)
        if len(self._tools) < _MOST_NAMES:
            self._tools[tool] = note
        return note


class Metrics:
    """The instruments of one meter, which keeps them for good: there is one such object per meter.

    Args:
        meter: Makes them.

    Attributes:
        tools: Bounds the names of tools.
        usage, operations, first_chunks, calls: Histograms.
    """

    def __init__(self, meter: Meter) -> None:
        self._lock = threading.Lock()
        self._recording = threading.Lock()
        self.tools, self._agents = _Names(), _Names()
        self._runs: Counter[str] = Counter()
        self._waits: Counter[str] = Counter()
        self._steps: Counter[str] = Counter()
        self._retries: Counter[tuple[str, str]] = Counter()
        self._refusals: Counter[str] = Counter()
        self._lags = _Lags(self)
        #: One entry for each step of an agent that is not counted yet.
        self.stepped: dict[str, list[int]] = {}
        #: How many values are not recorded yet, or nearly so: threads do not wait for each other here.
        self.pending = 0
        self._noted: dict[tuple[Any, ...], _Noted] = {}
        self._counts: dict[tuple[str, ...], Counts] = {}
        self._wanted = not isinstance(meter, NoOpMeter)
        self._durations(meter)
        self._readings(meter)

    def _durations(self, meter: Meter) -> None:
        def histogram(name: str, unit: str, about: str, bounds: list[float]) -> Any:
            return meter.create_histogram(name, unit, about, explicit_bucket_boundaries_advisory=bounds)

        self.usage = histogram(
            "gen_ai.client.token.usage", "{token}", "Number of input and output tokens used.", [*_TOKENS]
        )
        self.operations = histogram(
            "gen_ai.client.operation.duration", "s", "Duration of questions to models, and of runs.", _SECONDS
        )
        self.first_chunks = histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            "s",
            "Time to the first piece of a reply.",
            _SECONDS,
        )
        self.calls = histogram(
            "gen_ai.execute_tool.duration", "s", "Duration of tool calls, and of generated code.", _SECONDS
        )
        self._wait_times = histogram("manyhands.wait.duration", "s", "Duration of waits.", _SECONDS)
        self._lag = histogram("manyhands.loop.lag", "s", "How late event loops with runs are.", _LAGS)

    def _readings(self, meter: Meter) -> None:
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
            self.record(wait=True)
            with self._lock:
                found = list(counter.items())
            for key, value in found:
                yield Observation(value, attributes(key))

        return read

    # --- Later --------------------------------------------------------------------------------------

    def noting(self, histogram: Any, attributes: dict[str, Any]) -> Callable[[float], None]:
        """Return what takes values of a histogram; they are recorded later.

        Many at once cost a fraction of what one now and then does.

        Args:
            histogram: One of the instruments.
            attributes: Attributes of the values; nobody changes them.
        """
        key = (histogram, *attributes.items())
        noted = self._noted.get(key)
        if noted is None:
            series = Series(histogram, attributes)
            if len(self._noted) >= _MOST_SERIES:
                return lambda value: series.record([value])
            noted = self._noted.setdefault(key, _Noted(series))
        return noted.note

    def record(self, wait: bool = False) -> None:
        """Record what has come in.

        Args:
            wait: Do it even if another thread is at it.
        """
        if not self._recording.acquire(blocking=wait):
            return
        try:
            self.pending = 0
            for noted in list(self._noted.values()):
                noted.record()
            with self._lock:
                for agent, steps in list(self.stepped.items()):
                    count = len(steps)
                    del steps[:count]
                    self._steps[agent] += count
        finally:
            self._recording.release()

    # --- What happens ------------------------------------------------------------------------------

    def counts(self, agent: str, model: ModelFacts) -> Counts | None:
        """Return what takes what an agent does with a model; ``None`` if nobody wants to know."""
        if not self._wanted:
            return None
        agent = self._agents(agent)
        key = (agent, *model.metric.values())
        counts = self._counts.get(key)
        if counts is None:
            counts = Counts(self, agent, model)
            if len(self._counts) < _MOST_SERIES:
                self._counts[key] = counts
        return counts

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
        self._note(self.operations, seconds, {**told, "error.type": error} if error else told)

    def _note(self, histogram: Any, value: float, attributes: dict[str, Any]) -> None:
        self.noting(histogram, attributes)(value)
        self.pending += 1
        if self.pending >= _MOST_NOTED:
            self.record()

    def wait_began(self, what: str) -> None:
        """Count a wait in."""
        with self._lock:
            self._waits[what] += 1

    def wait_ended(self, what: str, seconds: float) -> None:
        """Count a wait out."""
        with self._lock:
            self._waits[what] -= 1
        if self._wanted:
            self._note(self._wait_times, seconds, {"manyhands.wait.for": what})

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
        self._note(self._lag, seconds, {})


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
