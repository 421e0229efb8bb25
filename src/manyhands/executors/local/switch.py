"""How the agent's code gets the processor, waits, and loses it.

Each piece of sequential code is a *strand*: it runs in a greenlet, its *worker*, and is driven by a coroutine
on the event loop. When the code has to wait (for a tool, for ``asyncio.sleep``), the worker switches to the
driver with a request; the driver awaits it, and switches back with the value: the code sees a plain function
call. A worker whose strand came to its end by itself may take another one.

Code that computes runs in *slices*. A watchdog thread sets ``$due`` in the namespace of the code whose slice
is over; its next checkpoint switches to the driver, which queues for another slice in the *lane* of its loop:
one slice per iteration of the loop, first come first served. Code that has to stop finds ``$due`` set for
good, and every checkpoint raises.

``$due`` is also set whenever the code is not running: a finalizer, a ``__repr__`` called by the host or a
thread enters code of the agent only to find itself outside, and leaves again. It is ``None`` when it is not
set.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import weakref
from collections import deque
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent, greenlet

from manyhands.executors.local.rewrite import DUE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from manyhands.executors.local.output import Output

#: Length of a slice, in seconds. The interpreter hands over its lock up to 5 ms later.
SLICE = 0.002
#: Seconds between two looks of the watchdog while nobody runs. Each look takes the interpreter's lock away
#: from whoever works: with one every 2 ms they were a twentieth of what an agent's step costs.
_IDLE = 0.01
#: How many of them before the watchdog goes to sleep.
_QUIET_LOOKS = 5

#: Workers that wait for work at a time, and seconds until they end when there is none.
_MOST_WAITING = 32
_PATIENCE = 0.1
#: Frames on the stack of the thread from which on a worker is not used again: it would begin the next strand
#: at that depth, too near to the limit of recursion.
_DEEP = 100

_YIELD = object()
_clock = time.perf_counter


class Stop(BaseException):
    """Unwinds a strand that has to end. Generated code cannot keep it: every brake raises it again."""


class OutsideError(RuntimeError):
    """Code of an agent was called when it is not running."""

    def __init__(self) -> None:
        super().__init__("This function belongs to the code of an agent and can only be called by that code.")


class TimeUp(Stop):
    """The time of the step is over."""


class Finished(Stop):
    """``final_answer`` was called."""


class Ended(Stop):
    """Whoever waits for the code has cancelled it, or the step is over and this strand was left behind."""


class Strand:
    """One sequential piece of the agent's code, and where it waits."""

    __slots__ = (
        "context",
        "dead",
        "driver",
        "function",
        "interrupted",
        "result",
        "started",
        "step",
        "waiting",
        "worker",
    )

    def __init__(self, step: Step, function: Callable[[], Any], context: Context) -> None:
        self.function: Callable[[], Any] | None = function
        self.context: Context | None = context
        self.step = step
        self.started = False
        self.dead = False
        self.result: Any = None
        #: The greenlet that it runs in, from its beginning to its end.
        self.worker: Worker | None = None
        self.waiting: asyncio.Future[Any] | None = None
        self.driver: asyncio.Task[Any] | None = None
        self.interrupted = False

    def interrupt(self) -> None:
        """Make whatever the strand waits for raise ``CancelledError`` in its driver."""
        if self.waiting is not None:
            self.waiting.cancel()
        elif self.driver is not None and not self.interrupted:
            self.interrupted = True
            self.driver.cancel()


class Worker(greenlet):
    """A greenlet that runs strands, one after the other.

    To begin one costs 9 µs, nearly all of it for the stack of Python frames, which CPython maps and unmaps;
    to switch to one that waits for work, half a microsecond.
    """

    __slots__ = ("is_fit", "strand")

    def __init__(self) -> None:
        super().__init__(_work)
        #: What runs in it now; None while it waits for work.
        self.strand: Strand | None = None
        #: Whether it may take another strand when this one is over.
        self.is_fit = _is_shallow()


def _work(_: object) -> None:
    """What workers do: one frame of it, because code that waits keeps each."""
    while True:
        strand = current_strand()
        function, strand.function = strand.function, None
        if function is not None:
            strand.result = function()
        strand.dead = True
        worker, strand.worker = strand.worker, None
        if worker is None:
            return
        worker.strand = None
        if not worker.is_fit:
            return
        del strand, function, worker  # nothing is held while it waits for work
        getcurrent().parent.switch()  # type: ignore[union-attr]


def _is_shallow() -> bool:
    """True when there are few frames below: a greenlet keeps the depth that it begins with."""
    try:
        sys._getframe(_DEEP)
    except ValueError:
        return True
    return False


class Step:
    """One execution of a snippet: its limits, its strands, its end.

    Args:
        namespace: The globals of the code.
        output: Where it prints.
        seconds: How long it may take, not counting the time it waits for tools; None for no limit.
        session: What outlives the step: the executor's own objects.
    """

    __slots__ = (
        "_timer", "_tools", "_tools_since", "_tools_total", "answer", "beside", "children", "cpu", "lane",
        "loop", "main", "namespace", "origins", "output", "seconds", "session", "shown", "started", "stop",
    )  # fmt: skip

    def __init__(
        self, namespace: dict[str, Any], output: Output, seconds: float | None, session: Any
    ) -> None:
        self.namespace = namespace
        self.output = output
        self.seconds = seconds
        self.session = session
        self.loop = asyncio.get_running_loop()
        self.lane = lane_of(self.loop)
        self.started = _clock()
        self.cpu = 0.0
        self.stop: type[Stop] | None = None
        self.answer: Any = None
        #: The text of the answer.
        self.shown: str | None = None
        #: Errors of tools as the code sees them, with the originals.
        self.origins: dict[int, tuple[BaseException, BaseException]] | None = None
        #: The strand that runs the snippet, while it does.
        self.main: Strand | None = None
        # Sets take 216 bytes each, and most steps have but one strand and no task.
        self.beside: set[Strand] | None = None
        self.children: set[asyncio.Task[Any]] | None = None
        self._tools = 0
        self._tools_since = 0.0
        self._tools_total = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # --- time ----------------------------------------------------------------------------------

    def remaining(self) -> float:
        """Seconds of code time left: of the wall, less waiting for tools, and of the processor."""
        if self.seconds is None:
            return float("inf")
        now = _clock()
        waited = self._tools_total + (now - self._tools_since if self._tools else 0.0)
        return self.seconds - max(now - self.started - waited, self.cpu)

    def watch_time(self) -> None:
        """From now on the end of the time is noticed also while nothing runs."""
        if self._timer is None and self.seconds is not None:
            self._timer = self.loop.call_later(max(self.remaining(), 0.0), self._time_passed)

    def _time_passed(self) -> None:
        self._timer = None
        if self.stop is not None:
            return
        left = self.remaining()
        if left > 0.0005:
            # Waiting for a tool stops the clock: look again, but not in a hurry.
            self._timer = self.loop.call_later(max(left, 0.01), self._time_passed)
        else:
            self.halt(TimeUp)

    def halt(self, reason: type[Stop], besides: Strand | None = None) -> None:
        """Let every strand end at its next checkpoint, and wake those that wait, ``besides`` excepted."""
        if self.stop is None:
            self.stop = reason
        self.namespace[DUE] = True
        current = strand_here()
        for strand in (self.main, *(self.beside or ())):
            if strand is not None and strand is not current and strand is not besides:
                strand.interrupt()

    def close(self) -> None:
        """Nothing of the step may run any more."""
        self.stop = self.stop or Ended
        self.namespace[DUE] = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- waiting -------------------------------------------------------------------------------

    async def use_tool(self, call: Awaitable[Any]) -> Any:
        """Await ``call``; the time it takes is not the code's."""
        self.tool_begins()
        try:
            return await call
        finally:
            self.tool_ends()

    def tool_begins(self) -> None:
        """Note that a tool works from now on."""
        if self._tools == 0:
            self._tools_since = _clock()
        self._tools += 1

    def tool_ends(self) -> None:
        """Note that a tool works no more."""
        self._tools -= 1
        if self._tools == 0:
            self._tools_total += _clock() - self._tools_since

    def spawn(self, function: Callable[[], Any]) -> tuple[Strand, asyncio.Task[Any]]:
        """Run ``function`` as a strand of its own, beside the current one."""
        strand = Strand(self, function, copy_context())
        task = self.loop.create_task(drive(strand))
        strand.driver = task
        self.adopt(task)
        return strand, task

    def enter(self, strand: Strand) -> None:
        """Let ``strand`` end with the step; it runs from now on."""
        if strand is self.main:
            return
        if self.beside is None:
            self.beside = set()
        self.beside.add(strand)

    def leave(self, strand: Strand) -> None:
        """Note that ``strand`` has ended."""
        if strand is self.main:
            self.main = None
        elif self.beside is not None:
            self.beside.discard(strand)

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """Let ``task`` end with the step."""
        if self.children is None:
            self.children = set()
        self.children.add(task)
        task.add_done_callback(self.children.discard)

    async def end_children(self) -> None:
        """Cancel what still runs beside the main strand and wait until it is gone."""
        self.close()
        while self.children:
            tasks = list(self.children)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.children.difference_update(tasks)


def strand_here() -> Strand | None:
    """The strand that calls; None outside of one."""
    worker = getcurrent()
    return worker.strand if type(worker) is Worker else None


def current_strand() -> Strand:
    """The strand that calls; raises outside of one."""
    strand = strand_here()
    if strand is None:
        raise OutsideError
    return strand


def current_step() -> Step:
    """The step whose code calls; raises outside of one, and when the step has to stop."""
    step = current_strand().step
    if step.stop is not None:
        raise step.stop
    return step


def tick() -> bool:
    """The slow half of a checkpoint: give the processor away, or end."""
    strand = current_strand()
    step = strand.step
    if step.stop is not None:
        raise step.stop
    if step.namespace.get(DUE, True):
        if step.remaining() <= 0:
            step.halt(TimeUp)
            raise TimeUp
        _parent(strand).switch(_YIELD)
        if step.stop is not None:
            raise step.stop
    return True


def alive() -> bool:
    """Like :func:`tick`, but answers False outside of a step instead of raising."""
    return False if strand_here() is None else tick()


def checkpoint() -> None:
    """A checkpoint for code of ours that works on behalf of the agent's code."""
    strand = strand_here()
    if strand is not None and strand.step.namespace.get(DUE, True):
        tick()


def wait_tool(call: Awaitable[Any]) -> Any:
    """Wait for a tool from inside a strand."""
    strand = current_strand()
    if strand.step.stop is not None:
        _discard(call)
        raise strand.step.stop
    return _unless_stopped(strand, _parent(strand).switch((True, call)))


def wait_future(future: asyncio.Future[Any]) -> Any:
    """Wait for a future from inside a strand."""
    strand = current_strand()
    return _unless_stopped(strand, _parent(strand).switch((False, future)))


def sleep(seconds: float) -> None:
    """Wait inside a strand without holding the loop."""
    strand = current_strand()
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    future = strand.step.loop.create_future()
    timer = strand.step.loop.call_later(seconds, _wake, future)
    try:
        _unless_stopped(strand, _parent(strand).switch((False, future)))
    finally:
        timer.cancel()


def _unless_stopped(strand: Strand, value: Any) -> Any:
    if strand.step.stop is not None:
        raise strand.step.stop
    return value


def _parent(strand: Strand) -> greenlet:
    parent = None if strand.worker is None else strand.worker.parent
    if parent is None:
        raise OutsideError
    return parent


def _wake(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(None)


def _discard(call: object) -> None:
    close = getattr(call, "close", None)
    if close is not None:
        close()


async def drive(strand: Strand) -> Any:
    """Run a strand to its end, awaiting on its behalf. Returns what its function returns.

    Cancelling the driver ends the strand before ``CancelledError`` goes on, except where the code itself has
    asked for the cancellation: then the code gets it.
    """
    step = strand.step
    lane = step.lane
    step.enter(strand)
    value: Any = None
    error: BaseException | None = None
    try:
        if lane.is_full():
            await lane.turn(strand)
        while True:
            request = lane.resume(strand, value, error)
            if strand.dead:
                return request
            value, error = None, None
            try:
                if request is not _YIELD and request[0]:
                    # As Step.use_tool, without its coroutine: thousands may wait for tools at once.
                    step.tool_begins()
                    try:
                        value = await request[1]
                    finally:
                        step.tool_ends()
                else:
                    value = await _answer(strand, request)
                if lane.is_full():
                    await lane.turn(strand)
            except asyncio.CancelledError as cancelled:
                error = _cancellation(strand, cancelled)
            except BaseException as raised:
                error = raised
            if step.stop is not None and error is None:
                error = step.stop()
    except asyncio.CancelledError:
        # A cancelled driver: end the code first, then go.
        _unwind(strand)
        raise
    finally:
        step.leave(strand)
        if strand.interrupted and (task := asyncio.current_task()) is not None:
            task.uncancel()  # what it waited for kept the cancellation to itself


def _answer(strand: Strand, request: Any) -> Awaitable[Any]:
    """What its driver has to wait for that is no tool."""
    if request is _YIELD:
        strand.step.watch_time()
        return strand.step.lane.turn(strand)
    return _future(strand, request[1])


async def _future(strand: Strand, future: asyncio.Future[Any]) -> Any:
    strand.step.watch_time()
    strand.waiting = future
    try:
        return await future
    finally:
        strand.waiting = None


def _cancellation(strand: Strand, cancelled: asyncio.CancelledError) -> BaseException:
    """What the code gets to see of a ``CancelledError``; raises it when it is meant for the driver."""
    task = asyncio.current_task()
    if strand.interrupted and task is not None:
        strand.interrupted = False
        task.uncancel()
    if task is None or task.cancelling():
        raise cancelled
    stop = strand.step.stop
    return cancelled if stop is None else stop()


def _unwind(strand: Strand) -> None:
    """Throw the end into a strand until it is gone; each brake and checkpoint helps."""
    step = strand.step
    if strand is step.main:
        step.halt(Ended, besides=strand)  # the main strand: the whole step ends with it
    for _ in range(100):
        if strand.worker is None:
            return
        step.lane.resume(strand, None, Ended())


class Workers:
    """The workers of one event loop that wait for work: few, and not for long.

    They end with the loop, in its thread, and after a moment in which none was needed.
    """

    def __init__(self, loop: weakref.ref[asyncio.AbstractEventLoop]) -> None:
        self._loop = loop
        self._waiting: list[Worker] = []
        #: The greenlet that they were dismissed to: in another thread, it is another one.
        self._home: greenlet | None = None
        self._was_used = False
        # Whether a look is due. The handle of its timer would keep the loop alive, and the loop keeps this.
        self._is_watched = False

    def hire(self, strand: Strand, current: greenlet) -> Worker:
        """Return a worker for ``strand``, which begins with the next switch to it."""
        self._was_used = True
        worker = self._waiting.pop() if self._waiting and self._home is current else Worker()
        worker.gr_context, strand.context = strand.context, None
        worker.strand, strand.worker = strand, worker
        strand.started = True
        return worker

    def dismiss(self, worker: Worker, current: greenlet) -> None:
        """Keep ``worker`` for another strand, or let it end."""
        if worker.dead:
            return
        worker.gr_context = None
        if self._home is not current:
            self._waiting.clear()
            self._home = current
        loop = self._loop()
        if loop is None or len(self._waiting) >= _MOST_WAITING:
            worker.throw()
            return
        self._waiting.append(worker)
        if not self._is_watched:
            self._is_watched = True
            loop.call_later(_PATIENCE, self._look, context=Context())

    def _look(self) -> None:
        """End those that wait, unless there was work since the last look."""
        loop = self._loop()
        self._is_watched = self._was_used and loop is not None
        self._was_used = False
        if self._is_watched and loop is not None:
            loop.call_later(_PATIENCE, self._look, context=Context())
        else:
            self._waiting.clear()  # who loses the last reference to one ends it


class Lane:
    """Hands out slices on one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self.workers = Workers(self._loop)
        self._queue: deque[asyncio.Future[None]] = deque()
        self._since: float | None = None
        self._turnover = False
        #: What runs now, for the watchdog: the namespace and the start of its slice.
        self.running: tuple[dict[str, Any] | None, float] = (None, 0.0)

    def resume(self, strand: Strand, value: Any, error: BaseException | None) -> Any:
        """Let ``strand`` run until it asks for something or ends."""
        step = strand.step
        namespace = step.namespace
        outer = self.running
        start = _clock()
        if self._since is None:
            self._since = start
            self._arm()
        namespace[DUE] = None if step.stop is None else True
        self.running = (namespace, start)
        if watchdog.asleep:
            watchdog.wake()
        try:
            return self._enter(strand, value, error)
        finally:
            self.running = outer
            namespace[DUE] = True
            step.cpu += _clock() - start

    def _enter(self, strand: Strand, value: Any, error: BaseException | None) -> Any:
        """Switch to ``strand``; returns what it asks for, or what it gave when it is dead."""
        current = getcurrent()
        worker = strand.worker
        if worker is None:
            if error is not None:
                strand.dead = True  # it has not begun: there is nothing to throw the error into
                raise error
            worker = self.workers.hire(strand, current)
        if worker.parent is not current:
            worker.parent = current
        try:
            if error is None:
                request = worker.switch(value)
            else:
                worker.is_fit = False
                request = worker.throw(error)
        except BaseException:
            strand.dead, strand.worker = True, None
            raise
        if not strand.dead:
            return request
        self.workers.dismiss(worker, current)
        return strand.result

    def is_full(self) -> bool:
        """True when this iteration of the loop has given its time away."""
        return self._since is not None and _clock() - self._since > SLICE

    async def turn(self, strand: Strand) -> None:
        """Wait for a slice."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._queue.append(future)
        self._arm()
        strand.waiting = future
        try:
            await future
        except asyncio.CancelledError:
            # A slice that was granted to a cancelled strand goes to the next one.
            self._arm()
            raise
        finally:
            strand.waiting = None

    def _arm(self) -> None:
        loop = self._loop()
        if not self._turnover and loop is not None:
            self._turnover = True
            loop.call_soon(self._next)

    def _next(self) -> None:
        """An iteration of the loop is over: one of those who wait gets the next."""
        self._turnover = False
        self._since = None
        while self._queue:
            future = self._queue.popleft()
            if not future.done():
                future.set_result(None)
                return


class Watchdog:
    """One thread for all lanes of the process: sets ``$due`` where a slice has lasted long enough."""

    def __init__(self) -> None:
        self._lanes: weakref.WeakSet[Lane] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._bell = threading.Event()
        self._thread: threading.Thread | None = None
        self.asleep = True

    def watch(self, lane: Lane) -> None:
        with self._lock:
            self._lanes.add(lane)

    def wake(self) -> None:
        with self._lock:
            self.asleep = False
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="manyhands-watchdog", daemon=True)
                self._thread.start()
        self._bell.set()

    def forget_thread(self) -> None:
        """After a fork: the thread did not come along."""
        self.__init__()  # type: ignore[misc]

    def _run(self) -> None:
        quiet = 0
        while True:
            pause = self._look()
            quiet = 0 if pause is not None else quiet + 1
            if quiet > _QUIET_LOOKS:
                self._bell.clear()
                self.asleep = True
                if self._look() is None:
                    self._bell.wait()
                self.asleep = False
                quiet, pause = 0, SLICE  # whoever woke it has just begun
            if pause is None:
                # One look may have come between two slices; only two mean that nobody computes.
                pause = SLICE if quiet == 1 else _IDLE
            time.sleep(pause)

    def _look(self) -> float | None:
        """Flag slices that are over. Returns when to look again; None when nobody runs."""
        with self._lock:
            lanes = list(self._lanes)
        now = _clock()
        pause: float | None = None
        for lane in lanes:
            namespace, since = lane.running
            if namespace is None:
                continue
            left = since + SLICE - now
            if left <= 0:
                namespace[DUE] = True
                left = SLICE
            pause = left if pause is None else min(pause, left)
        return None if pause is None else max(pause, 0.0005)


watchdog = Watchdog()
os.register_at_fork(after_in_child=watchdog.forget_thread)

_lanes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Lane] = weakref.WeakKeyDictionary()
_lanes_lock = threading.Lock()


def lane_of(loop: asyncio.AbstractEventLoop) -> Lane:
    """The lane of ``loop``; the same for as long as the loop lives."""
    lane = _lanes.get(loop)
    if lane is None:
        with _lanes_lock:
            lane = _lanes.setdefault(loop, Lane(loop))
        watchdog.watch(lane)
    return lane
