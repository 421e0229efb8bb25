"""One run of an agent: a coroutine, an event stream, and the owner of all state.

An agent is a description that any number of runs share; whatever changes while a task is worked on
lives here. The work is done by one task, started when the run is first awaited or iterated, and ended
by whatever ends the waiting: cancellation, a timeout, breaking out of the iteration.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import uuid
import warnings
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from manyhands.errors import AgentError, AgentInterruptedError, CallerError, RunTimeoutError
from manyhands.events import Lifecycle, RunEnd, RunStart
from manyhands.events import current_run as current_run
from manyhands.history import History
from manyhands.plugins import RunHooks, manager
from manyhands.steering import Steered
from manyhands.steps import Timing, plain

if TYPE_CHECKING:
    from manyhands.agents import MultiStepAgent
    from manyhands.events import StreamEvent
    from manyhands.executors.base import PythonExecutor
    from manyhands.limits.budget import Budget
    from manyhands.limits.tree import RunTree
    from manyhands.memory import AgentMemory
    from manyhands.messages import TokenUsage
    from manyhands.observe.trace import Trace

logger = logging.getLogger("manyhands")

# Told of every event, on the loop, at once. To an event that the run emits it may return what to wait for.
Observer = Callable[["Run", Any], Any]

# Sync tools of one run that work at the same time, unless the agent says otherwise.
TOOL_THREADS = 2

# Ways a run can end, as they appear in `Run.status` and `RunResult.state`.
SUCCESS = "success"
MAX_STEPS = "max_steps_error"
FAILED = "error"
CANCELLED = "cancelled"
INTERRUPTED = "interrupted"
OUT_OF_BUDGET = "budget_exceeded"


class Watching:
    """Who watches all runs of the process. What the environment asks for is imported when it asks.

    Attributes:
        debug: What ``MANYHANDS_DEBUG`` says; read when the first run begins.
        everywhere: How many want the event loops of all runs to be watched for blockages.
        observers: Observers of all runs made from now on, before those of their agents.
    """

    def __init__(self) -> None:
        self.debug: bool | None = None
        self.everywhere = 0
        self.observers: tuple[Observer, ...] = ()
        self._asked = False

    def watch(self, observer: Observer) -> None:
        """Tell ``observer`` of all runs made from now on."""
        if observer not in self.observers:
            self.observers = (*self.observers, observer)

    def leave(self, observer: Observer) -> None:
        """Tell ``observer`` of no further runs; those it watches are told of to their end."""
        self.observers = tuple(other for other in self.observers if other != observer)

    def everyone(self) -> tuple[Observer, ...]:
        """Return the observers of all runs; the first who asks has ``MANYHANDS_TELEMETRY`` read."""
        if not self._asked:
            if switched_on("MANYHANDS_TELEMETRY"):
                from manyhands.observe.telemetry import instrument

                instrument()
            self._asked = True
        return self.observers

    def begin(self, run: Run) -> Callable[[], None] | None:
        """Have the running loop watched for ``run``, if anyone wants it; return what ends that."""
        if self.debug is None:
            self.debug = switched_on("MANYHANDS_DEBUG")
        wanted = self.debug or self.everywhere or run.agent.watch_loop
        if not wanted and not asyncio.get_running_loop().get_debug():
            return None
        from manyhands.observe.watchdog import watch_run

        return watch_run(run)


def switched_on(name: str) -> bool:
    """Return whether an environment variable says yes."""
    return os.environ.get(name, "").lower() not in ("", "0", "false", "no")


watching = Watching()


@dataclass(slots=True)
class RunResult:
    """What a run came to.

    Attributes:
        output: The final answer; ``None`` if there is none.
        state: ``success``, ``max_steps_error``, or why there is no answer: ``error``, ``cancelled``,
            ``interrupted``, ``timeout``, ``budget_exceeded``.
        steps: All steps as JSON values.
        token_usage: Tokens of the run and of the runs it started; ``None`` if no reply told.
        timing: When the run began and ended.
        run_id: The run.
        error: What ended it, if something did.
    """

    output: Any
    state: str
    steps: list[dict[str, Any]]
    token_usage: TokenUsage | None
    timing: Timing
    run_id: str = ""
    error: BaseException | None = field(default=None, repr=False)

    def trace(self) -> Trace:
        """Return the steps as a readable tree; that of the run knows more, such as the runs it started."""
        from manyhands.observe.trace import Trace

        return Trace.of(self)

    def dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "run_id": self.run_id,
            "output": plain(self.output),
            "state": self.state,
            "error": error_dict(self.error),
            "steps": self.steps,
            "token_usage": self.token_usage.dict() if self.token_usage else None,
            "timing": self.timing.dict(),
        }


def error_dict(error: BaseException | None) -> dict[str, str] | None:
    """Return type and message of an error, ready for JSON."""
    if error is None:
        return None
    return (
        error.dict()
        if isinstance(error, AgentError)
        else {"type": type(error).__name__, "message": str(error)}
    )


@dataclass(slots=True)
class RunOptions:
    """What a caller asks of one run, beside the task.

    Attributes:
        images: Pictures that belong to the task.
        additional_args: Values for the run's state.
        max_steps: Most steps.
        return_full_result: Whether awaiting gives a :class:`RunResult`.
        timeout: Most seconds, once the run has its slot.
        tenant: Whose run it is, where tenants share the slots of an agent.
        budget: What the run and the runs it starts may use up.
    """

    max_steps: int
    images: list[Any] | None = None
    additional_args: dict[str, Any] | None = None
    return_full_result: bool = False
    timeout: float | None = None
    tenant: str = ""
    budget: Budget | None = None


class Run(Steered, Coroutine[Any, Any, Any]):
    """One task being worked on by an agent.

    Await it for the answer, or iterate it (``async for event in run``) for its events; it may be given
    to ``asyncio.create_task``, ``TaskGroup.create_task``, ``gather`` and ``wait_for`` like a coroutine.
    Breaking out of the iteration ends the run. What it did stays readable in ``memory``.

    Attributes:
        id: Unique name of the run.
        conversation: Id of the run that began the conversation; its own, unless it continues one.
        agent: The agent.
        task: What it is asked.
        memory: Its steps so far.
        state: Its variables: ``additional_args``, and pictures and sounds that tools returned.
        status: ``created``, ``running``, or how it ended (see :class:`RunResult`).
        activity: What it does or waits for right now, in a few words.
        step_number: The step it is at, counted from 1.
        usage: Tokens so far, those of the runs it started included; ``None`` if no reply told.
        timing: When it was asked for, or began, and ended.
        output: The final answer, once there is one.
        error: What ended it, if something did.
        parent: The run that started it, if one did.
        observers: Functions ``(run, event)`` that are told of every event, on the loop, at once.
        hooks: The plugins around the run, while it works; ``None`` if there are none.
        budget: What it and the runs it starts may use up; ``None`` for no limit.
        tree: The sub-agents below it, where they are limited.
    """

    def __init__(
        self,
        agent: MultiStepAgent,
        task: str,
        options: RunOptions,
        memory: AgentMemory,
        drive: Callable[[Run], Coroutine[Any, Any, Any]],
        *,
        state: dict[str, Any] | None = None,
        executor: PythonExecutor | None = None,
        turn: Callable[[Run], AbstractAsyncContextManager[None]] | None = None,
    ) -> None:
        super().__init__()
        self.id = self.conversation = uuid.uuid4().hex
        self.agent = agent
        self.task = task
        self.options = options
        self.memory = memory
        self.state: dict[str, Any] = {} if state is None else state
        self.executor = executor
        self.parent = current_run.get()
        self.observers = _watchers(agent, self.parent)
        self.status = "created"
        self.activity = ""
        self.step_number = 1
        self.usage: TokenUsage | None = None
        self.timing = Timing.now()
        self.output: Any = None
        self.error: BaseException | None = None
        self.hooks: RunHooks | None = None
        self.budget = options.budget or _budget_around(self.parent)
        self.tree: RunTree | None = self.parent.tree if self.parent else None
        self._history: History | None = None
        self._drive = drive
        self._turn = turn
        self._task: asyncio.Task[Any] | None = None
        self._waiter: Coroutine[Any, Any, Any] | None = None
        self._channel: _Channel | None = None
        self._interrupted: str | None = None
        self._tool_threads: asyncio.Semaphore | None = None

    # --- As a coroutine ---------------------------------------------------------------------

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._wait().__await__()

    def send(self, value: Any) -> Any:
        """Go on, as the coroutine protocol has it."""
        if self._waiter is None:
            self._waiter = self._wait()
        return self._waiter.send(value)

    def throw(self, *error: Any) -> Any:
        """Go on with an error, as the coroutine protocol has it."""
        if self._waiter is None:
            self._waiter = self._wait()
        return self._waiter.throw(*error)

    def close(self) -> None:
        """End the waiting, as the coroutine protocol has it; the run is cancelled."""
        if self._waiter is not None:
            self._waiter.close()
        self._discard()

    async def _wait(self) -> Any:
        await self._start()
        return self.result() if self.options.return_full_result else self.output

    def _start(self) -> asyncio.Task[Any]:
        if self._task is None:
            if self.status != "created":
                raise CallerError("This run was cancelled before it began; call arun() again.")
            self.status = "running"
            self._task = asyncio.get_running_loop().create_task(self._main(), name=f"run-{self.id}")
            self._task.add_done_callback(_retrieve)
        return self._task

    def __del__(self) -> None:
        if getattr(self, "status", "") == "created":
            warnings.warn(f"{self!r} was never awaited", RuntimeWarning, stacklevel=2, source=self)

    # --- As a stream of events ----------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[StreamEvent]:
        return self._events()

    async def _events(self) -> AsyncIterator[StreamEvent]:
        if self._channel is not None:
            raise CallerError("This run is being iterated already; add an observer to watch it twice.")
        self._channel = _Channel()
        task = self._start()
        task.add_done_callback(self._channel.finish)
        try:
            while (event := await self._channel.get()) is not _END:
                yield event
            if self.error is not None and not task.cancelled():
                raise self.error
        finally:
            self._channel = None
            await self.aclose()

    async def emit(self, event: StreamEvent) -> None:
        """Give ``event`` to everyone who watches, and wait until the iterating caller wants more."""
        for wait in self.tell(event):
            await wait
        if self._channel is not None:
            await self._channel.put(event)

    def tell(self, event: StreamEvent | Lifecycle) -> Sequence[Awaitable[object]]:
        """Give ``event`` to the observers, and return what they want to be waited for."""
        waits: Sequence[Awaitable[object]] = ()
        for observer in self.observers:
            try:
                wait = observer(self, event)
            except Exception:
                # Whoever only watches cannot break the run.
                logger.exception("An observer of run %s failed", self.id)
                continue
            if wait is not None and isinstance(wait, Awaitable):
                waits = (*waits, wait)
        return waits

    # --- Ending it ------------------------------------------------------------------------------

    def cancel(self, reason: str = "") -> bool:
        """End the run; from any thread. Awaiting it raises :class:`asyncio.CancelledError`.

        Args:
            reason: Carried by the error.

        Returns:
            Whether there was anything to end.
        """
        if self._task is None:
            was_waiting = self.status == "created"
            self._discard()
            return was_waiting
        return self._from_any_thread(self._task, reason)

    def interrupt(self, reason: str = "Agent interrupted.") -> None:
        """End the run at once; from any thread. Awaiting it raises :class:`AgentInterruptedError`.

        Args:
            reason: Text of the error.
        """
        if self._task is not None and not self._task.done():
            self._interrupted = reason
            self._from_any_thread(self._task, reason)

    @staticmethod
    def _from_any_thread(task: asyncio.Task[Any], reason: str) -> bool:
        if task.done():
            return False
        task.get_loop().call_soon_threadsafe(task.cancel, reason or None)
        return True

    def _discard(self) -> None:
        if self.status == "created":
            self.status = CANCELLED

    async def aclose(self) -> None:
        """Cancel the run and wait until it is gone."""
        self._discard()
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    # --- The work -------------------------------------------------------------------------------

    async def _main(self) -> Any:
        end_watch = self._begin()
        drive = self._drive_hooked if manager.in_use else self._drive
        try:
            # All in this one coroutine: a run that waits holds each that it is in, and thousands may wait.
            async with self._slot(), _Clock(self), self._own_turn():
                self.output = await drive(self)
        except BaseException as error:
            self.error = self._explained(error)
            if isinstance(self.error, AgentError):
                self.error.run = self
            if self.hooks is not None and isinstance(error, Exception | asyncio.CancelledError):
                await self.hooks.failed()
            if self.error is error:
                raise
            raise self.error from error
        finally:
            self._finish()
            if end_watch is not None:
                end_watch()
            # The task keeps its context, and the run its task: this ends the circle, so that a run that
            # nobody holds is gone at once and need not wait for the collector.
            current_run.set(None)
        return self.output

    def _begin(self) -> Callable[[], None] | None:
        """Let everybody know that the run begins; return what ends the watch over its loop."""
        current_run.set(self)
        self.timing = Timing.now()
        self.agent.began(self)
        if self.parent is not None:
            self.parent.history.started(self)
        end_watch = watching.begin(self)
        if self.observers:
            parent = self.parent.id if self.parent else None
            self.tell(RunStart(self.id, self.agent.name or type(self.agent).__name__, self.task, parent))
        return end_watch

    def _slot(self) -> AbstractAsyncContextManager[Any]:
        return _AT_ONCE if self.agent.limits is None else self.agent.limits.around(self)

    def _own_turn(self) -> AbstractAsyncContextManager[Any]:
        return _AT_ONCE if self._turn is None else self._turn(self)

    async def _drive_hooked(self, _: Run) -> Any:
        self.hooks = RunHooks(self)
        return await self.hooks.work(self._drive)

    def _explained(self, error: BaseException) -> BaseException:
        """Set the status that ``error`` means, and return what the caller is told."""
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if self._interrupted is not None and task is not None and task.uncancel() == 0:
                self.status = INTERRUPTED
                return AgentInterruptedError(self._interrupted)
            self.status = CANCELLED
        elif isinstance(error, AgentError):
            self.status = error.run_status
        else:
            # Ctrl-C and the like end a run from outside, as a cancellation does.
            self.status = FAILED if isinstance(error, Exception) else CANCELLED
        return error

    def _finish(self) -> None:
        self.timing.stop()
        self.activity = ""
        self.hooks = None
        if self.status == "running":
            self.status = SUCCESS
        if self.parent is not None:
            self.parent.count(self.usage)
            self.parent.history.ended(self)
        self.agent.ended(self)
        if self.observers:
            self.tell(RunEnd(self.id, self.status, self.error))

    def count(self, usage: TokenUsage | None) -> None:
        """Add ``usage`` to what the run has used."""
        if usage is not None:
            self.usage = usage if self.usage is None else self.usage + usage

    # --- Reading it -----------------------------------------------------------------------------

    @property
    def tool_threads(self) -> asyncio.Semaphore:
        """Places for sync tools of this run that work at the same time."""
        if self._tool_threads is None:
            self._tool_threads = asyncio.Semaphore(self.agent.max_tool_threads or TOOL_THREADS)
        return self._tool_threads

    @property
    def history(self) -> History:
        """When its calls began and ended, and the runs it started."""
        if self._history is None:
            self._history = History()
        return self._history

    def trace(self) -> Trace:
        """Return the run as a readable tree, as far as it has come: also of one that goes on, or failed."""
        from manyhands.observe.trace import Trace

        return Trace.of(self)

    @property
    def is_here(self) -> bool:
        """Whether the caller runs on the run's own loop, where observers are told of events."""
        return self._task is None or self._task.get_loop() is asyncio._get_running_loop()

    @property
    def done(self) -> bool:
        """Whether the run has ended."""
        return self._task is not None and self._task.done()

    def result(self) -> RunResult:
        """Return what the run has come to so far."""
        return RunResult(
            output=self.output,
            state=self.status,
            steps=self.memory.get_succinct_steps(),
            token_usage=self.usage,
            timing=self.timing,
            run_id=self.id,
            error=self.error,
        )

    def __repr__(self) -> str:
        task = self.task if len(self.task) <= 40 else self.task[:39] + "…"
        return (
            f"<Run {self.id[:8]} of {self.agent.name or type(self.agent).__name__}: {task!r} {self.status}>"
        )

    @property
    def __name__(self) -> str:
        return f"run-{self.id}"

    __qualname__ = "Run"


def _budget_around(parent: Run | None) -> Budget | None:
    """The budget of the run that starts this one, else that of the surrounding ``with``."""
    if parent is not None:
        return parent.budget
    # Where nobody has imported budgets there is none.
    budgets = sys.modules.get("manyhands.limits.budget")
    return budgets.current_budget() if budgets is not None else None


def _watchers(agent: MultiStepAgent, parent: Run | None) -> list[Observer]:
    """Whoever watches a run watches the runs it starts too."""
    if parent is None:
        everywhere = watching.everyone()
        return [*everywhere, *(own for own in agent.observers if own not in everywhere)]
    return [*parent.observers, *(own for own in agent.observers if own not in parent.observers)]


# For runs that have nobody to wait for.
_AT_ONCE: AbstractAsyncContextManager[None] = nullcontext()


class _Clock:
    """The time of a run's work: ends it when its own limit, or that of its budget, is over.

    Args:
        run: The run.
    """

    __slots__ = ("_began", "_limit", "_run", "_unwatch")

    def __init__(self, run: Run) -> None:
        self._run = run
        self._began = asyncio.get_running_loop().time()
        self._limit = asyncio.timeout(run.options.timeout)
        self._unwatch: Callable[[], None] | None = None

    async def __aenter__(self) -> None:
        run = self._run
        if run.budget is not None:
            run.budget.begin()
        await self._limit.__aenter__()
        run._time_limit = (self._limit, self._began)
        if run.budget is not None:
            self._unwatch = run.budget.watch_time(run._change_time)
            run._reschedule()

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._run._time_limit = None
        if self._unwatch is not None:
            self._unwatch()
        try:
            await self._limit.__aexit__(kind, error, trace)
        except TimeoutError as timeout:
            error = timeout
        if isinstance(error, TimeoutError) and self._limit.expired():
            raise self._story() from error

    def _story(self) -> AgentError:
        """Return the error of a run whose alarm rang: that of its budget, unless its own limit came first."""
        run, timeout = self._run, self._run.options.timeout
        own = math.inf if timeout is None else self._began + timeout
        if run.budget is not None and asyncio.get_running_loop().time() < own:
            return run.budget.out_of_time()
        return RunTimeoutError(f"The run took longer than its limit of {timeout:g} seconds.")


_END = object()


class _Channel:
    """Hands events from the run to the one who iterates it, one at a time.

    The run waits until the consumer asks for the next event: whoever breaks out after an event can be
    sure that nothing happened behind it.
    """

    __slots__ = ("_ended", "_events", "_taken", "_wanted")

    def __init__(self) -> None:
        self._events: deque[tuple[Any, asyncio.Future[None]]] = deque()
        self._wanted: asyncio.Future[None] | None = None
        self._taken: asyncio.Future[None] | None = None
        self._ended = False

    async def put(self, event: Any) -> None:
        taken = asyncio.get_running_loop().create_future()
        self._events.append((event, taken))
        _wake(self._wanted)
        await taken

    async def get(self) -> Any:
        _wake(self._taken)
        while not self._events and not self._ended:
            self._wanted = asyncio.get_running_loop().create_future()
            await self._wanted
        if not self._events:
            return _END
        event, self._taken = self._events.popleft()
        return event

    def finish(self, _: object) -> None:
        self._ended = True
        _wake(self._wanted)


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)


def _retrieve(task: asyncio.Task[Any]) -> None:
    # The error is on the run for everyone to read; asyncio need not report it as forgotten.
    if not task.cancelled():
        task.exception()
