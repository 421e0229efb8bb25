"""One agent over many tasks: a cap, isolated failures, retries, progress, and memory that stays flat.

A dispatcher takes a task whenever there is room, and starts a run of it. Room means two things: fewer than
``concurrency`` runs are in flight, and not too many results wait to be fetched. So a slow consumer slows
the runs, the runs slow the reading, and a million tasks need no more memory than a few hundred.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Sized
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from manyhands._bridge import leave_caller
from manyhands.errors import AgentInterruptedError, AuthenticationError, BadRequestError, CallerError
from manyhands.run import CANCELLED, FAILED, OUT_OF_BUDGET, SUCCESS, error_dict
from manyhands.steps import ActionStep, Timing, plain
from manyhands.tasks.feed import feed
from manyhands.tasks.task import Task, as_task

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
    from typing import Self

    from manyhands.limits.budget import Budget, BudgetExceededError
    from manyhands.messages import TokenUsage
    from manyhands.run import Run

logger = logging.getLogger("manyhands")

# Results that may wait to be fetched, in units of the concurrency; in order, those behind a slow task wait.
_WAITING = 2
_WAITING_IN_ORDER = 4
_LONGEST_PAUSE = 60.0
# Runs that are started without a look at anything else that the loop has to do.
_BURST = 50
# Trying again cannot help with these.
_HOPELESS = (CallerError, AuthenticationError, BadRequestError, AgentInterruptedError)
_END = object()


@dataclass(slots=True)
class MapResult:
    """What one of many tasks came to.

    Attributes:
        id: The task's id; by default its index.
        index: Its position in the input, counted from 0.
        task: What was asked.
        output: The answer; ``None`` if there is none.
        state: ``success``, ``max_steps_error``, ``error``, ``timeout``, ``budget_exceeded``, ``cancelled`` or
            ``interrupted``.
        error: What ended it, if something did.
        steps: How many steps the last attempt took.
        token_usage: Tokens of all attempts; ``None`` if no reply told.
        timing: When the first attempt began and the last one ended.
        attempts: How often it was tried.
        expected: The right answer, where the task told it.
        run: The last attempt's run, if ``keep_runs`` asked for it.
    """

    id: Any
    index: int
    task: str
    output: Any
    state: str
    error: BaseException | None
    steps: int
    token_usage: TokenUsage | None
    timing: Timing
    attempts: int
    expected: Any = None
    run: Run | None = field(default=None, repr=False)

    @property
    def ok(self) -> bool:
        """Whether the agent answered by itself, within its steps."""
        return self.state == SUCCESS

    @property
    def failure(self) -> str:
        """What kind of failure it was, in one word; "" if it was none."""
        if self.ok:
            return ""
        return type(self.error).__name__ if self.error is not None and self.state == FAILED else self.state

    def dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "id": self.id,
            "index": self.index,
            "task": self.task,
            "output": plain(self.output),
            "state": self.state,
            "error": error_dict(self.error),
            "steps": self.steps,
            "token_usage": self.token_usage.dict() if self.token_usage else None,
            "timing": self.timing.dict(),
            "attempts": self.attempts,
            **({} if self.expected is None else {"expected": plain(self.expected)}),
        }


@dataclass(slots=True, eq=False)
class Flight:
    """A task that is being worked on.

    Attributes:
        index: Its position in the input.
        id: Its id.
        task: What is asked.
        began: When, on the monotonic clock.
        attempt: Which attempt it is at, counted from 1.
        run: The run of that attempt.
        pausing: Whether it waits to be tried again.
        usage: Tokens of the attempts before.
    """

    index: int
    id: Any
    task: str
    began: float
    timing: Timing
    attempt: int = 0
    run: Run | None = None
    pausing: bool = False
    usage: TokenUsage | None = None
    work: asyncio.Task[None] | None = None

    @property
    def activity(self) -> str:
        """What it does or waits for, in a word or two."""
        if self.pausing:
            return "retry"
        if self.run is None or self.run.status == "created":
            return "starting"
        return self.run.activity or "working"

    def spent(self) -> TokenUsage | None:
        """Return the tokens of all attempts so far."""
        now = self.run.usage if self.run is not None else None
        if self.usage is None or now is None:
            return self.usage or now
        return self.usage + now


@dataclass(slots=True)
class Progress:
    """How far the work has come. It is live: read it whenever you like, change nothing.

    Attributes:
        total: How many tasks there are, if that is known.
        done: Results so far, failures included.
        failed: Those of them that are failures.
        failures: How many failures there are of each kind.
        last_failure: The latest of them.
        retried: Attempts beyond the first ones.
        input_tokens: Tokens sent, by the tasks that have ended.
        output_tokens: Tokens received, by the tasks that have ended.
        flights: What is being worked on, oldest first, by index.
        began: When the first task was taken, on the monotonic clock; ``None`` before.
    """

    total: int | None = None
    done: int = 0
    failed: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    last_failure: MapResult | None = None
    retried: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    flights: dict[int, Flight] = field(default_factory=dict)
    began: float | None = None

    @property
    def succeeded(self) -> int:
        """Results that are no failures."""
        return self.done - self.failed

    @property
    def in_flight(self) -> int:
        """How many tasks are being worked on."""
        return len(self.flights)

    def tokens(self) -> tuple[int, int]:
        """Return tokens sent and received, those of unfinished tasks included."""
        sent, received = self.input_tokens, self.output_tokens
        for flight in self.flights.values():
            usage = flight.spent()
            if usage is not None:
                sent += usage.input_tokens
                received += usage.output_tokens
        return sent, received

    def count(self, result: MapResult) -> None:
        """Count a result."""
        self.done += 1
        self.retried += result.attempts - 1
        if result.token_usage is not None:
            self.input_tokens += result.token_usage.input_tokens
            self.output_tokens += result.token_usage.output_tokens
        if not result.ok:
            self.failed += 1
            self.failures[result.failure] += 1
            self.last_failure = result


class Crowd:
    """An agent at work on many tasks: iterate it for the results. :func:`amap` is the short way.

    Use it as an async context manager, so that nothing goes on when you leave::

        async with Crowd(agent, tasks, concurrency=50) as crowd:
            async for result in crowd:
                ...

    Args:
        agent: The agent, shared by all runs.
        tasks: See :func:`amap`.
        concurrency: Most runs at once.
        ordered: Give results in the order of the tasks instead of as they finish.
        retries: How often a failed task is tried again.
        retry_delay: Seconds before the first retry; doubled each time, and never less than a provider asks.
        timeout: Most seconds of one attempt.
        max_steps: Most steps of one attempt.
        budget: What all runs together may use up. When it is used up, no further run is started: what has
            not begun by then gets a result with the state ``budget_exceeded`` and no attempt.
        key: A function of a :class:`~manyhands.tasks.Task` that gives its id.
        keep_runs: Leave the run, with its memory, on each result.
        on_progress: A function of the :class:`Progress`, called on the loop after each result.

    Attributes:
        agent: The agent.
        progress: How far the work has come.
        used_up: Says what of the budget is used up; ``None`` as long as there is enough of everything.

    Raises:
        CallerError: An argument makes no sense; the message says which.
    """

    def __init__(
        self,
        agent: Any,
        tasks: Iterable[Any] | AsyncIterable[Any],
        *,
        concurrency: int = 100,
        ordered: bool = False,
        retries: int = 0,
        retry_delay: float = 1.0,
        timeout: float | None = None,
        max_steps: int | None = None,
        budget: Budget | None = None,
        key: Callable[[Task], Any] | None = None,
        keep_runs: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        _check("concurrency", concurrency, 1)
        _check("retries", retries, 0)
        _check("retry_delay", retry_delay, 0)
        self.progress = Progress(len(tasks) if isinstance(tasks, Sized) else None)
        self.agent = agent
        self._feed = feed(tasks)
        self._concurrency = concurrency
        self._ordered = ordered
        self._most_waiting = concurrency * (_WAITING_IN_ORDER if ordered else _WAITING)
        self._retries = retries
        self._retry_delay = retry_delay
        self._options = {"timeout": timeout, "max_steps": max_steps, "budget": budget}
        self._budget = budget
        # How the budget of all was used up, once it is.
        self.used_up: BudgetExceededError | None = None
        self._key = key
        self._keep_runs = keep_runs
        self._on_progress = on_progress
        self._dispatcher: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._ready: dict[int, MapResult] = {}
        self._taken = 0
        self._fetched = 0
        self._next = 0
        self._stopped = False
        # What the iterable of tasks raised; told after all results of what it gave before.
        self._feed_error: BaseException | None = None

    # --- Fetching results -------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> MapResult:
        await self._some_result()
        result = self._pop()
        if result is None:
            raise StopAsyncIteration
        return result

    async def batch(self) -> list[MapResult]:
        """Return the results that are there, at least one; an empty list at the end."""
        await self._some_result()
        results = []
        while (result := self._pop()) is not None:
            results.append(result)
        return results

    async def _some_result(self) -> None:
        """Wait until a result can be fetched, or there will be none any more."""
        self._start()
        while not self._can_pop() and not self._over():
            self._news.clear()
            await self._news.wait()
        if not self._can_pop():
            await self._close_feed()
            error, self._feed_error = self._feed_error, None
            if error is not None:
                raise error

    def _can_pop(self) -> bool:
        # What was stopped in the middle leaves a gap, and what came behind it is still a result.
        if self._ordered and not self._over():
            return self._next in self._ready
        return bool(self._ready)

    def _pop(self) -> MapResult | None:
        if not self._can_pop():
            return None
        if self._ordered:
            index = self._next if self._next in self._ready else min(self._ready)
        else:
            index = next(iter(self._ready))
        self._next = index + 1
        self._fetched += 1
        self._room.set()
        return self._ready.pop(index)

    def _over(self) -> bool:
        if self._dispatcher is None:
            return self._stopped
        return self._dispatcher.done() and not self.progress.flights

    # --- Ending it --------------------------------------------------------------------------------

    def drain(self) -> None:
        """Start nothing new; what is in flight is finished, and its results can be fetched."""
        self._start()
        if self._dispatcher is not None:
            self._dispatcher.cancel()

    def stop(self) -> None:
        """End everything that is in flight; results that are there already can be fetched."""
        self.drain()
        self._stopped = True
        for flight in self.progress.flights.values():
            if flight.work is not None:
                flight.work.cancel()

    async def aclose(self) -> None:
        """End everything, and wait until it is gone."""
        if self._dispatcher is None:
            self._stopped = True
            return
        self.stop()
        works = [flight.work for flight in self.progress.flights.values() if flight.work is not None]
        await asyncio.wait([self._dispatcher, *works])
        await self._close_feed()

    async def _close_feed(self) -> None:
        close = getattr(self._feed, "aclose", None)
        if close is not None:
            await close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # --- Taking tasks -----------------------------------------------------------------------------

    def _start(self) -> None:
        if self._dispatcher is None and not self._stopped:
            self.progress.began = time.monotonic()
            self._dispatcher = asyncio.get_running_loop().create_task(self._dispatch(), name="map")
            self._dispatcher.add_done_callback(self._dispatched)

    def _dispatched(self, dispatcher: asyncio.Task[None]) -> None:
        self._feed_error = None if dispatcher.cancelled() else dispatcher.exception()
        self._news.set()

    async def _dispatch(self) -> None:
        leave_caller()  # runs side by side cannot all have the one thread of a sync caller
        while True:
            while not self._has_room():
                self._room.clear()
                await self._room.wait()
            item = await anext(self._feed, _END)
            if item is _END:
                return
            self._launch(item)
            if self._taken % _BURST == 0:
                await asyncio.sleep(0)

    def _has_room(self) -> bool:
        in_flight = len(self.progress.flights)
        return in_flight < self._concurrency and self._taken - self._fetched < self._most_waiting

    def _launch(self, item: Any) -> None:
        index = self._taken
        self._taken += 1
        flight = Flight(index, index, "", time.monotonic(), Timing.now())
        self.progress.flights[index] = flight
        flight.work = asyncio.get_running_loop().create_task(self._work(flight, item))
        flight.work.add_done_callback(lambda _: self._landed(flight))

    def _landed(self, flight: Flight) -> None:
        self.progress.flights.pop(flight.index, None)
        self._news.set()
        self._room.set()

    # --- Working on one ---------------------------------------------------------------------------

    async def _work(self, flight: Flight, item: Any) -> None:
        result = await self._result(flight, item)
        self._ready[flight.index] = result
        del self.progress.flights[flight.index]
        self.progress.count(result)
        if self._on_progress is not None:
            try:
                self._on_progress(self.progress)
            except Exception:
                # Whoever only watches cannot break the work.
                logger.exception("on_progress failed")

    async def _result(self, flight: Flight, item: Any) -> MapResult:
        expected = None
        try:
            task = as_task(item)
            flight.task, expected = task.task, task.expected
            flight.id = self._id(flight, task)
        except Exception as unreadable:
            flight.attempt = 1
            return self._closed(flight, None, FAILED, unreadable, expected)
        while True:
            if self.used_up is not None:
                return self._closed(flight, None, OUT_OF_BUDGET, self.used_up.alike(), expected)
            flight.attempt += 1
            output, state, error = await self._attempt(flight, task)
            if self._budget is not None:
                self.used_up = self.used_up or self._budget.used_up(error)
            if not self._again(flight, state, error):
                return self._closed(flight, output, state, error, expected)
            await self._pause(flight, error)

    def _id(self, flight: Flight, task: Task) -> Any:
        if self._key is not None:
            return self._key(task)
        return flight.index if task.id is None else task.id

    async def _attempt(self, flight: Flight, task: Task) -> tuple[Any, str, BaseException | None]:
        """Run the task once, and return output, state and error."""
        flight.run = None
        try:
            run = flight.run = self.agent.arun(
                task.task,
                images=task.images,
                additional_args=task.additional_args,
                return_full_result=False,
                **self._options,
            )
            output = await run
        except asyncio.CancelledError as error:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            # Somebody cancelled this one run, and meant this one.
            return None, CANCELLED, error
        except Exception as error:
            return None, FAILED if flight.run is None else flight.run.status, error
        return output, run.status, None

    def _again(self, flight: Flight, state: str, error: BaseException | None) -> bool:
        failed = isinstance(error, Exception) and not isinstance(error, _HOPELESS)
        return failed and state not in (CANCELLED, OUT_OF_BUDGET) and flight.attempt <= self._retries

    async def _pause(self, flight: Flight, error: BaseException | None) -> None:
        flight.usage = flight.spent()
        flight.run = None
        asked = getattr(error, "retry_after", None) or 0.0
        own = min(self._retry_delay * 2 ** (flight.attempt - 1), _LONGEST_PAUSE)
        flight.pausing = True
        # Spread, so that what failed together does not come back together.
        await asyncio.sleep(max(asked, own) * random.uniform(1.0, 1.25))
        flight.pausing = False

    def _closed(
        self, flight: Flight, output: Any, state: str, error: BaseException | None, expected: Any
    ) -> MapResult:
        run = flight.run
        flight.timing.stop()
        result = MapResult(
            flight.id,
            flight.index,
            flight.task,
            output,
            state,
            error if self._keep_runs else _lightened(error),
            _count_steps(run),
            flight.spent(),
            flight.timing,
            flight.attempt,
            expected,
            run if self._keep_runs else None,
        )
        flight.run = None
        return result


def _check(name: str, value: float, least: int) -> None:
    if value < least:
        raise CallerError(f"{name} must be at least {least}, not {value}.")


def _count_steps(run: Run | None) -> int:
    return sum(isinstance(step, ActionStep) for step in run.memory.steps) if run is not None else 0


def _lightened(error: BaseException | None) -> BaseException | None:
    """Cut an error off from the run that it holds: directly, and by the frames of its traceback."""
    seen: set[int] = set()
    link = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        link.__traceback__ = None
        if hasattr(link, "run"):
            link.run = None
        link = link.__cause__ or link.__context__
    return error


def amap(
    agent: Any,
    tasks: Iterable[Any] | AsyncIterable[Any],
    *,
    concurrency: int = 100,
    display: bool = False,
    **options: Any,
) -> AsyncGenerator[MapResult, None]:
    """Run an agent over many tasks at once, and give each result as it finishes.

    A failure is a result with ``state`` and ``error``; it never ends the others. Leaving the iteration
    early, ``aclose()`` and Ctrl-C end everything that is in flight.

    Args:
        agent: The agent, shared by all runs.
        tasks: Any iterable or async iterable, however long, of texts, dicts (``{"task": ..., "id": ...}``;
            further keys become ``additional_args``) or :class:`~manyhands.tasks.Task`. What has a length
            is iterated on the loop; other sync iterators, which may block, on a worker thread.
        concurrency: Most runs at once.
        display: Show a live board on the terminal.
        **options: ``ordered``, ``retries``, ``retry_delay``, ``timeout``, ``max_steps``, ``budget``, ``key``,
            ``keep_runs``, ``on_progress``: see :class:`Crowd`.

    Returns:
        An async iterator of results.

    Raises:
        CallerError: An argument makes no sense; the message says which.
    """
    return _results(Crowd(agent, tasks, concurrency=concurrency, **options), display)


async def _results(crowd: Crowd, display: bool) -> AsyncGenerator[MapResult, None]:
    async with crowd:
        if not display:
            async for result in crowd:
                yield result
            return
        from manyhands.observe.board import showing

        async with showing(crowd.progress, agents=[crowd.agent]):
            async for result in crowd:
                yield result


async def collect(agent: Any, tasks: Iterable[Any] | AsyncIterable[Any], **options: Any) -> list[MapResult]:
    """Run an agent over many tasks at once, and return all results in order of the tasks.

    Args:
        agent: The agent.
        tasks: See :func:`amap`.
        **options: See :func:`amap`.
    """
    async with aclosing(amap(agent, tasks, **options)) as results:
        found = [result async for result in results]
    return sorted(found, key=lambda result: result.index)
