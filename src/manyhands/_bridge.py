"""The border between sync and async: the only file that knows threads and foreign event loops.

Two directions cross here.

*Down*, from sync code into async code: :func:`run_sync` and :func:`iterate_sync`. The calling
thread drives a kept loop of its own. Where the thread already runs somebody's loop (a notebook),
the work goes to one long-lived loop thread, and the caller waits for it.

*Up*, from async code into code of the user, which may be either: :func:`call_user`, the one place
where "sync or async?" is asked. Async functions are awaited. Sync functions run in the thread of
whoever called :func:`run_sync`, as they would without us; without such a caller they run on a
worker thread, so that they never block the loop.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import functools
import inspect
import queue
import signal
import threading
import weakref
from asyncio import events
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
    from concurrent.futures import Future

T = TypeVar("T")


# --- Up: from async code into code of the user -----------------------------------------------


def is_async_callable(fn: object) -> bool:
    """Return whether calling ``fn`` gives a coroutine.

    The function itself is asked, never its attributes, so that mocks answer truthfully.
    """
    while isinstance(fn, functools.partial):
        fn = fn.func
    if inspect.iscoroutinefunction(fn):
        return True
    # Of an object it is the class that says how it is called.
    return not inspect.isroutine(fn) and inspect.iscoroutinefunction(_call_method(type(fn)))


def _call_method(kind: type) -> object:
    return next((vars(owner)["__call__"] for owner in kind.__mro__ if "__call__" in vars(owner)), None)


async def call_user(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call a sync or async function of the user the way it wants to be called.

    Args:
        fn: The function; a sync one never runs on the loop unless :func:`run_sync` drives that loop.
        *args: Handed on.
        **kwargs: Handed on.

    Returns:
        What the function returns; an awaitable is awaited.
    """
    if is_async_callable(fn):
        return await fn(*args, **kwargs)
    result = await call_sync(functools.partial(fn, *args, **kwargs))
    return await result if inspect.isawaitable(result) else result


async def call_sync(call: Callable[[], T], *, label: str = "tool") -> T:
    """Run a sync ``call`` in the thread of the sync caller, or else on a worker thread."""
    caller = _caller.get()
    if caller is not None and caller.loop is asyncio.get_running_loop():
        return await caller.call(call)
    return await workers.run(call, label=label)


async def call_in_thread(call: Callable[[], T], *, label: str = "tool") -> T:
    """Run a sync ``call`` on a worker thread, whoever the caller is."""
    return await workers.run(call, label=label)


def in_callers_thread(call: Callable[[], object]) -> bool:
    """Make a sync ``call`` here and now if this is the thread of the sync caller; return whether it was.

    For what the caller would have to wait for anyway, such as a slow terminal.
    """
    caller = _caller.get()
    if not isinstance(caller, _InlineCaller) or caller.loop is not events._get_running_loop():
        return False
    with _outside_the_loop(caller.loop):
        call()
    return True


def leave_caller() -> None:
    """Let sync functions called in the current context run on worker threads, side by side."""
    _caller.set(None)


@contextmanager
def worker_terms(label: str, on_start: Callable[[], object] | None = None) -> Iterator[None]:
    """Say how sync functions called in the current context run on worker threads.

    Args:
        label: Name of the thread while it works, before its number.
        on_start: Called on the loop when the thread begins. If it is given, the function runs on a
            worker thread even where the thread of a sync caller would do: only so can it be left alone.
    """
    terms = _terms.set((label, on_start))
    caller = _caller.set(None if on_start is not None else _caller.get())
    try:
        yield
    finally:
        _caller.reset(caller)
        _terms.reset(terms)


_terms: contextvars.ContextVar[tuple[str, Callable[[], object] | None] | None] = contextvars.ContextVar(
    "manyhands_worker_terms", default=None
)


class _Job:
    """One sync call on its way to a worker thread and back."""

    __slots__ = ("abandoned", "call", "context", "finished", "future", "label", "on_start", "started")

    def __init__(self, call: Callable[[], Any], label: str) -> None:
        self.call = call
        self.label, self.on_start = _terms.get() or (label, None)
        self.context = contextvars.copy_context()
        self.context.run(_terms.set, None)  # the terms are for this call, not for what it calls
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.started = self.finished = self.abandoned = False

    def execute(self, before_telling: Callable[[_Job], object] = id) -> None:
        if self.on_start is not None:
            with suppress(RuntimeError):
                self.future.get_loop().call_soon_threadsafe(self.on_start)
        result, failure = None, None
        try:
            result = self.context.run(self.call)
        except BaseException as error:
            failure = _storable(error)
        before_telling(self)
        self._tell(result, failure)

    def _tell(self, result: object, error: BaseException | None) -> None:
        # The loop may have ended while the thread worked; then nobody waits any more.
        with suppress(RuntimeError):
            self.future.get_loop().call_soon_threadsafe(_resolve, self.future, result, error)


def _storable(error: BaseException) -> BaseException:
    """A Future takes no StopIteration; say what happened in an error that it takes."""
    if isinstance(error, StopIteration):
        stored = RuntimeError("the function raised StopIteration")
        stored.__cause__ = error
        return stored
    return error


def _resolve(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


class Workers:
    """Daemon threads for sync user code: started when needed, reused, capped, first come first served.

    A call that is cancelled leaves its thread to finish alone: it is counted as abandoned, does not
    count against the cap, and does not delay the end of the process.

    Args:
        cap: Most threads that work at once.
        idle_seconds: How long a thread without work stays.

    Attributes:
        cap: May be set at any time; a lower one counts for threads still to start.
        abandoned: Threads that still work on a call nobody waits for.
    """

    def __init__(self, cap: int = 256, idle_seconds: float = 10.0) -> None:
        self.cap = cap
        self.idle_seconds = idle_seconds
        self.abandoned = 0
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        # Threads that rest and are meant for no call yet, and calls that no thread is meant for yet: counted
        # where calls are handed in, so that two of them never count on one thread.
        self._idle = 0
        self._unmet = 0
        self._names = 0

    def stats(self) -> dict[str, int]:
        """Return how many threads there are, at most and now, and how many calls wait for one."""
        with self._lock:
            return {
                "cap": self.cap,
                "threads": self._threads,
                "idle": self._idle,
                "waiting": self._unmet,
                "abandoned_threads": self.abandoned,
            }

    async def run(self, call: Callable[[], T], *, label: str = "tool") -> T:
        """Run ``call`` on a thread named after ``label`` and return its result."""
        job = _Job(call, label)
        with self._lock:
            self._jobs.put(job)
            if self._idle:
                self._idle -= 1
            else:
                self._unmet += 1
                self._grow()
        try:
            return cast("T", await job.future)
        except asyncio.CancelledError:
            self._abandon(job)
            raise

    def _grow(self) -> None:
        """Start a thread for a call that none is meant for, if the cap allows; the lock is held."""
        if self._unmet and self._threads - self.abandoned < self.cap:
            self._unmet -= 1
            self._threads += 1
            self._names += 1
            name = f"worker_{self._names}"
            threading.Thread(target=self._work, args=(self._names,), name=name, daemon=True).start()

    def _abandon(self, job: _Job) -> None:
        with self._lock:
            if job.started and not job.finished:
                job.abandoned = True
                self.abandoned += 1
                self._grow()

    def _work(self, name: int) -> None:
        while (job := self._next_job()) is not None:
            if not self._begin(job):
                self._finish(job)
                continue
            threading.current_thread().name = f"{job.label}_{name}"
            # Free before the caller hears of it: its next call finds this thread.
            job.execute(self._finish)
            del job  # an idle thread keeps nothing of its last call alive

    def _begin(self, job: _Job) -> bool:
        with self._lock:
            job.started = not job.future.cancelled()
            return job.started

    def _finish(self, job: _Job) -> None:
        with self._lock:
            job.finished = True
            self.abandoned -= job.abandoned
            if self._unmet:
                self._unmet -= 1
            else:
                self._idle += 1

    def _next_job(self) -> _Job | None:
        while True:
            with suppress(queue.Empty):
                return self._jobs.get(timeout=self.idle_seconds)
            with self._lock:
                # Where no thread is idle, each is meant for a call: this one for one that is about to come.
                if self._idle:
                    self._idle -= 1
                    self._threads -= 1
                    return None


workers = Workers()


# --- Down: from sync code into async code ------------------------------------------------------


class _InlineCaller:
    """A sync caller whose own thread drives the loop: its functions run right here."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    async def call(self, call: Callable[[], T]) -> T:
        with _prompt_ctrl_c():
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                await asyncio.sleep(0)  # a Ctrl-C just before must not wait for the function to end
            with _outside_the_loop(self.loop):
                return call()


class _WaitingCaller:
    """A sync caller that waits in its thread while the loop thread works: it is handed the calls."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.calls: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()

    async def call(self, call: Callable[[], T]) -> T:
        job = _Job(call, "tool")
        self.calls.put(job)
        return cast("T", await job.future)

    def serve(self) -> None:
        """Run the calls handed over until ``None`` comes."""
        with _outside_the_loop(events._get_running_loop()):
            while (job := self.calls.get()) is not None:
                if not job.future.cancelled():
                    job.execute()


_caller: contextvars.ContextVar[_InlineCaller | _WaitingCaller | None] = contextvars.ContextVar(
    "manyhands_caller", default=None
)


@contextmanager
def _outside_the_loop(loop: asyncio.AbstractEventLoop | None) -> Iterator[None]:
    # A sync function called by sync code expects no running loop: it may call asyncio.run().
    events._set_running_loop(None)
    try:
        yield
    finally:
        events._set_running_loop(loop)


@contextmanager
def _prompt_ctrl_c() -> Iterator[None]:
    # asyncio.Runner turns the first Ctrl-C into a cancel, which a blocking function would not see.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    if (
        handler is None
        or handler is signal.default_int_handler
        or handler in (signal.SIG_IGN, signal.SIG_DFL)
    ):
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


class _OwnLoop:
    """A loop that its thread drives now and then, kept so that pooled connections survive."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None
        self.busy = False

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        runner = self._runner = self._runner or asyncio.Runner()
        context = contextvars.copy_context()
        context.run(_caller.set, _InlineCaller(runner.get_loop()))
        self.busy = True
        try:
            return runner.run(coro, context=context)
        except (KeyboardInterrupt, SystemExit):
            # It tore through the loop: whatever was left behind there is cancelled, and the loop ends.
            self.close()
            raise
        finally:
            self.busy = False

    def close(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            _end(runner.get_loop())

    def __del__(self) -> None:
        # A thread that ends closes the loop it kept; the collector may do so while another loop runs here.
        if self._runner is not None:
            with _outside_the_loop(events._get_running_loop()):
                self.close()


def _end(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what is left on a loop and close it.

    As ``Runner.close`` does it, but without the thread that one starts to wait for executor threads: at the
    end of the process no thread can be started any more.
    """
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    try:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True) if tasks else asyncio.sleep(0))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


class _LoopThread:
    """One long-lived thread with a loop, for callers whose own thread runs a loop already."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        loop = self._started()
        if threading.current_thread() is self._thread:
            coro.close()
            raise RuntimeError(
                "A sync call cannot be made on the background event loop; await its async twin instead."
            )
        caller = _WaitingCaller(loop)
        context = contextvars.copy_context()
        context.run(_caller.set, caller)
        started: queue.SimpleQueue[asyncio.Task[T]] = queue.SimpleQueue()

        def start() -> None:
            task = loop.create_task(coro, context=context)
            task.add_done_callback(lambda _: caller.calls.put(None))
            started.put(task)

        loop.call_soon_threadsafe(start)
        task = started.get()
        try:
            caller.serve()
        except BaseException:
            loop.call_soon_threadsafe(task.cancel)
            caller.serve()
            raise
        return task.result()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                ready: queue.SimpleQueue[asyncio.AbstractEventLoop] = queue.SimpleQueue()
                self._thread = threading.Thread(
                    target=self._drive, args=(ready,), name="manyhands-loop", daemon=True
                )
                self._thread.start()
                self._loop = ready.get()
            return self._loop

    @staticmethod
    def _drive(ready: queue.SimpleQueue[asyncio.AbstractEventLoop]) -> None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        ready.put(loop)
        loop.run_forever()
        _end(loop)

    def close(self) -> None:
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(timeout=5)


class _ThreadLoops(threading.local):
    """The loops that this thread keeps: one, and one more for each sync call inside a sync call."""

    def __init__(self) -> None:
        self.stack: list[_OwnLoop] = []

    def free(self) -> _OwnLoop:
        for loop in self.stack:
            if not loop.busy:
                return loop
        self.stack.append(_OwnLoop())
        return self.stack[-1]


_own_loops = _ThreadLoops()
_loop_thread = _LoopThread()


@atexit.register
def _close_loops() -> None:
    for loop in _own_loops.stack:
        loop.close()
    _loop_thread.close()


def _place() -> _OwnLoop | _LoopThread:
    """Return where async work of this thread goes now."""
    return _own_loops.free() if events._get_running_loop() is None else _loop_thread


async def _within(seconds: float | None, awaitable: Awaitable[T]) -> T:
    async with asyncio.timeout(seconds):
        return await awaitable


def run_sync(awaitable: Awaitable[T], *, timeout: float | None = None) -> T:
    """Run async work from sync code and return its result.

    Args:
        awaitable: The work.
        timeout: Seconds after which it is cancelled; ``None`` for no limit.

    Returns:
        The result of the work.

    Raises:
        TimeoutError: The time was up; the work has been cancelled.
        KeyboardInterrupt: Ctrl-C; the work has been cancelled.
    """
    return _place().run(_within(timeout, awaitable))


def run_in_background(coro: Coroutine[Any, Any, T]) -> T:
    """Run async work on the one loop that also runs between calls, and return its result.

    For what has to be tended after the call is over, such as a lease; else :func:`run_sync` is quicker.

    Args:
        coro: The work; Ctrl-C cancels it.
    """
    return _loop_thread.run(coro)


def start_in_background(coro: Coroutine[Any, Any, T]) -> Future[T]:
    """Start async work on the loop of :func:`run_in_background`, from any thread, without waiting."""
    return asyncio.run_coroutine_threadsafe(coro, _loop_thread._started())


_END = object()


def iterate_sync(items: AsyncIterator[T]) -> Iterator[T]:
    """Iterate async ``items`` from sync code, one at a time as they are asked for.

    The iteration runs in one task from beginning to end. Closing the generator early (``break``)
    cancels it and waits until it is gone.

    Args:
        items: An async iterator; if it has ``aclose``, that is called at the end.

    Yields:
        The items, in order.
    """
    place = _place()
    pump = _Pump(items)
    try:
        while (item := place.run(pump.next())) is not _END:
            yield cast("T", item)
    finally:
        place.run(pump.aclose())


class _Pump(Generic[T]):
    """Pulls an async iterator in one task and hands each item over when it is asked for."""

    def __init__(self, items: AsyncIterator[T]) -> None:
        self._items = items
        self._task: asyncio.Task[None] | None = None
        self._wanted: asyncio.Future[object] | None = None
        self._resume: asyncio.Future[None] | None = None

    async def next(self) -> object:
        loop = asyncio.get_running_loop()
        self._wanted = wanted = loop.create_future()
        if self._task is None:
            self._task = loop.create_task(self._pull())
            self._task.add_done_callback(self._finish)
        elif self._task.done():
            return _END
        elif self._resume is not None:
            self._resume.set_result(None)
        return await wanted

    async def _pull(self) -> None:
        try:
            async for item in self._items:
                self._resume = asyncio.get_running_loop().create_future()
                if self._wanted is not None and not self._wanted.done():
                    self._wanted.set_result(item)
                del item
                await self._resume
        finally:
            close = getattr(self._items, "aclose", None)
            if close is not None:
                await close()

    def _finish(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if self._wanted is not None and not self._wanted.done():
            _resolve(self._wanted, _END, error)

    async def aclose(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])


def to_async(fn: Callable[..., T]) -> Callable[..., Awaitable[T]]:
    """Return an async face of ``fn``; a sync one runs on a worker thread."""

    @functools.wraps(fn)
    async def call(*args: Any, **kwargs: Any) -> T:
        return cast("T", await call_user(fn, *args, **kwargs))

    return call


# --- One object per loop -----------------------------------------------------------------------


class PerLoop(Generic[T]):
    """One object per event loop, made when first asked for and closed when that loop ends.

    Args:
        make: Makes the object; called on the loop it is for.
        close: Closes it; awaited on the same loop.
    """

    def __init__(self, make: Callable[[], T], close: Callable[[T], Awaitable[None]]) -> None:
        self._make = make
        self._close = close
        self._kept: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[T, Any]] = (
            weakref.WeakKeyDictionary()
        )

    async def get(self) -> T:
        """Return the object of the running loop."""
        loop = asyncio.get_running_loop()
        kept = self._kept.get(loop)
        if kept is None:
            made = self._make()
            guard = self._closed_with_loop(made)
            kept = self._kept[loop] = (made, guard)
            await anext(guard)
        return kept[0]

    async def _closed_with_loop(self, made: T) -> AsyncIterator[None]:
        # asyncio.run, Runner and uvloop close suspended async generators before they close the
        # loop: the one moment at which a library can still await something on it.
        try:
            yield
        finally:
            await self._close(made)

    async def aclose(self) -> None:
        """Close the object of the running loop, if there is one."""
        kept = self._kept.pop(asyncio.get_running_loop(), None)
        if kept is not None:
            await kept[1].aclose()
