"""``asyncio`` for the agent's code: the names models know, on strands that belong to the run.

A coroutine of the code is driven inside a strand, and whatever it awaits makes the strand wait. Each task is
a strand
of its own, driven by a real task of the loop. Nothing here hands out the loop, and everything ends with the
step.
"""

from __future__ import annotations

import asyncio
import inspect
import types
from typing import TYPE_CHECKING, Any

from manyhands.executors.local.switch import Stop, Strand, current_step, current_strand, sleep, wait_future
from manyhands.executors.local.tools import FINAL_ANSWER, ToolFunction, cleaned, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator

Result = tuple[bool, Any]


def await_value(value: Any) -> Any:
    """``await value`` outside of coroutines. A tool has given its value already: it is returned as it is."""
    if isinstance(value, Promise):
        return value.wait()
    if isinstance(value, types.CoroutineType):
        return run_coroutine(value)
    if isinstance(value, asyncio.Future):
        return wait_future(value)
    waiter = getattr(type(value), "__await__", None)
    return value if waiter is None else run_coroutine(waiter(value))


def run_coroutine(coro: Any) -> Any:
    """Drive a coroutine to its end inside the current strand."""
    error: BaseException | None = None
    advance = getattr(coro, "send", None) or (lambda _: next(coro))
    while True:
        try:
            waited_for = advance(None) if error is None else coro.throw(error)
        except StopIteration as stop:
            return stop.value
        error = None
        try:
            _wait_for_yielded(waited_for)
        except Stop:
            raise
        except BaseException as raised:
            error = raised


def _wait_for_yielded(yielded: Any) -> None:
    if yielded is None:
        sleep(0)
    elif isinstance(yielded, asyncio.Future):
        yielded._asyncio_future_blocking = False
        try:
            wait_future(yielded)
        except asyncio.CancelledError:
            raise
        except Exception:
            return  # the future tells its error to whoever awaits it, when the coroutine goes on
    else:
        raise RuntimeError(f"Task got bad yield: {yielded!r}")


class _Ready:
    """Makes ``await 5`` mean 5: what a tool gives is a value already."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __await__(self) -> Generator[Any, None, Any]:
        return self.value
        yield


def awaitable(value: Any) -> Any:
    """What stands behind ``await`` in a coroutine."""
    if isinstance(value, types.CoroutineType) or hasattr(type(value), "__await__"):
        return value
    if isinstance(value, types.GeneratorType) and value.gi_code.co_flags & inspect.CO_ITERABLE_COROUTINE:
        return value
    return _Ready(value)


# --- promises ----------------------------------------------------------------------------------


class Promise:
    """Something that will have a result: the face of tasks and futures."""

    __slots__ = ("__weakref__", "_future")
    __manyhands_frozen__ = True

    def __init__(self, future: asyncio.Future[Result]) -> None:
        self._future = future

    def __await__(self) -> Generator[Any, None, Any]:
        return self.wait()
        yield

    def wait(self) -> Any:
        """Wait inside the current strand, and give the result."""
        if not self._future.done():
            wait_future(self._future)
        return self.result()

    def done(self) -> bool:
        return self._future.done()

    def cancelled(self) -> bool:
        return self._future.cancelled()

    def result(self) -> Any:
        if not self._future.done():
            raise asyncio.InvalidStateError("Result is not ready.")
        fine, value = self._future.result()
        if fine:
            return value
        raise value

    def exception(self) -> BaseException | None:
        fine, value = self._future.result()
        return None if fine else value

    def cancel(self, msg: Any = None) -> bool:
        return self._future.cancel()

    def add_done_callback(self, callback: Callable[[Any], Any]) -> None:
        step = current_step()

        def call(_: object) -> None:
            if step.stop is None:
                step.spawn(lambda: settled(lambda: callback(self)))

        self._future.add_done_callback(call)


class Future(Promise):
    """A promise that the code keeps itself."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(current_step().loop.create_future())

    def set_result(self, value: Any) -> None:
        self._future.set_result((True, value))

    def set_exception(self, error: BaseException | type[BaseException]) -> None:
        self._future.set_result((False, error() if isinstance(error, type) else error))


class Task(Promise):
    """A strand, or a tool, that runs beside the others."""

    __slots__ = ("_name", "_strand")

    def __init__(
        self, future: asyncio.Future[Result], strand: Strand | None, name: str | None = None
    ) -> None:
        super().__init__(future)
        self._strand = strand
        self._name = name

    def cancel(self, msg: Any = None) -> bool:
        if self._future.done():
            return False
        if self._strand is not None and self._strand.started:
            self._strand.interrupt()
            return True
        return self._future.cancel()

    def get_name(self) -> str:
        return self._name or "Task"

    def set_name(self, name: str) -> None:
        self._name = str(name)


def settled(call: Callable[[], Any]) -> Result:
    """The outcome of ``call`` as a value: errors travel to whoever waits, not through the loop."""
    try:
        return True, call()
    except (Stop, asyncio.CancelledError):
        raise
    except BaseException as error:
        return False, error


def start(call: Callable[[], Any], name: str | None = None) -> Task:
    """Run ``call`` as a strand beside this one."""
    strand, task = current_step().spawn(lambda: _until_stopped(call))
    return Task(task, strand, name)


def _until_stopped(call: Callable[[], Any]) -> Result:
    try:
        return settled(call)
    except Stop:
        return True, None  # the step is over; nobody asks


def start_tool(tool: ToolFunction, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Task:
    """Call ``tool`` without waiting for it."""
    step = current_step()
    args, kwargs = plain(args), plain(kwargs)

    async def outcome() -> Result:
        try:
            value = await step.use_tool(tool._acall(*args, **kwargs))
            return True, step.session.modules.shown(value)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            return False, cleaned(error, step)

    task = step.loop.create_task(outcome())
    step.adopt(task)
    return Task(task, None, tool.__name__)


def later(function: Any, /, *args: Any, **kwargs: Any) -> Any:
    """A call in the arguments of ``gather``: tools start and do not wait, everything else is a plain call."""
    if type(function) is ToolFunction and function.__name__ != FINAL_ANSWER:
        return start_tool(function, args, kwargs)
    return function(*args, **kwargs)


def promise(value: Any, name: str | None = None) -> Promise:
    """Start whatever can be awaited; a plain value is a promise kept."""
    if isinstance(value, Promise):
        return value
    if isinstance(value, (types.CoroutineType, asyncio.Future)) or hasattr(type(value), "__await__"):
        task = start(lambda: await_value(value), name)
        if isinstance(value, types.CoroutineType):
            task._future.add_done_callback(lambda _: value.close())  # also one that never began
        return task
    kept = Future()
    kept.set_result(value)
    return kept


# --- the functions of asyncio ------------------------------------------------------------------


def gather(*values: Any, return_exceptions: bool = False) -> Promise:
    """Run all at once; results in the order of the arguments."""
    promises = [promise(value) for value in values]
    return _Gathered(promises, return_exceptions)


class _Gathered(Promise):
    __slots__ = ("_left", "_promises", "_return_exceptions")

    def __init__(self, promises: list[Promise], return_exceptions: bool) -> None:
        super().__init__(current_step().loop.create_future())
        self._promises = promises
        self._return_exceptions = return_exceptions
        self._left = len(promises)
        if not promises:
            self._future.set_result((True, []))
        for one in promises:
            one._future.add_done_callback(self._one_done)

    def _one_done(self, future: asyncio.Future[Result]) -> None:
        self._left -= 1
        if self._future.done():
            return
        fine, value = _outcome(future)
        if not fine and not self._return_exceptions:
            self._future.set_result((False, value))
        elif self._left == 0:
            self._future.set_result((True, [_outcome(p._future)[1] for p in self._promises]))

    def cancel(self, msg: Any = None) -> bool:
        return any(one.cancel() for one in self._promises) and self._future.cancel()


def _outcome(future: asyncio.Future[Result]) -> Result:
    return (False, asyncio.CancelledError()) if future.cancelled() else future.result()


def create_task(coro: Any, *, name: str | None = None, context: Any = None) -> Promise:
    """Run ``coro`` beside this code."""
    return promise(coro, name)


def ensure_future(value: Any, *, loop: Any = None) -> Promise:
    return promise(value)


async def _sleep(delay: float, result: Any = None) -> Any:
    sleep(max(delay, 0))
    return result


def _wait_any(promises: Iterable[Promise], timeout: float | None) -> None:
    """Wait until one more of ``promises`` is done, or the time has passed."""
    loop = current_step().loop
    done = loop.create_future()

    def wake(_: object = None) -> None:
        if not done.done():
            done.set_result(None)

    timer = loop.call_later(timeout, wake) if timeout is not None else None
    waiting = [one._future for one in promises]
    for future in waiting:
        future.add_done_callback(wake)
    try:
        wait_future(done)
    finally:
        if timer is not None:
            timer.cancel()
        for future in waiting:
            future.remove_done_callback(wake)


def _wait_many(
    promises: list[Promise], timeout: float | None, enough: Callable[[list[Promise]], bool]
) -> None:
    loop = current_step().loop
    end = None if timeout is None else loop.time() + timeout
    while not enough(promises):
        left = None if end is None else end - loop.time()
        if left is not None and left <= 0:
            return
        _wait_any([one for one in promises if not one.done()], left)


def _all_done(promises: list[Promise]) -> bool:
    return all(one.done() for one in promises)


def _one_done(promises: list[Promise]) -> bool:
    return any(one.done() for one in promises)


def _one_failed(promises: list[Promise]) -> bool:
    return _all_done(promises) or any(one.done() and not _outcome(one._future)[0] for one in promises)


_ENOUGH = {"ALL_COMPLETED": _all_done, "FIRST_COMPLETED": _one_done, "FIRST_EXCEPTION": _one_failed}


async def wait(
    values: Iterable[Any],
    *,
    timeout: float | None = None,  # noqa: ASYNC109 - the signature of asyncio
    return_when: str = "ALL_COMPLETED",
) -> tuple[set[Promise], set[Promise]]:
    """Wait for several; gives the done and the pending ones."""
    promises = [promise(value) for value in values]
    if not promises:
        raise ValueError("Set of Tasks/Futures is empty.")
    _wait_many(promises, timeout, _ENOUGH[return_when])
    done = {one for one in promises if one.done()}
    return done, set(promises) - done


async def wait_for(value: Any, timeout: float | None) -> Any:  # noqa: ASYNC109 - the signature of asyncio
    """Wait for one, and cancel it when the time has passed."""
    one = promise(value)
    try:
        _wait_many([one], timeout, _all_done)
    except asyncio.CancelledError:
        one.cancel()
        raise
    if one.done():
        return one.result()
    one.cancel()
    _wait_many([one], 1.0, _all_done)
    raise TimeoutError


def as_completed(
    values: Iterable[Any], *, timeout: float | None = None
) -> Iterator[Coroutine[Any, Any, Any]]:
    """Awaitables that give the results in the order in which they come."""
    left = [promise(value) for value in values]

    async def next_one() -> Any:
        _wait_many(left, timeout, _one_done)
        first = next((one for one in left if one.done()), None)
        if first is None:
            raise TimeoutError
        left.remove(first)
        return first.result()

    return iter([next_one() for _ in left])


async def to_thread(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call ``function`` beside this code: tools really run elsewhere, code of the agent takes turns."""
    return (
        promise(later(function, *args, **kwargs)).wait()
        if type(function) is ToolFunction
        else start(lambda: function(*args, **kwargs)).wait()
    )


def run(main: Any, *, debug: Any = None, loop_factory: Any = None) -> Any:
    """Drive ``main`` to its end; tasks that it leaves behind are cancelled."""
    step = current_step()
    before = set(step.children or ())
    try:
        return await_value(main)
    finally:
        for task in set(step.children or ()) - before:
            task.cancel()


def parallel(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """``[function(item) for item in items]`` with all calls under way at once.

    Args:
        function: A tool, or a function of the code.
        items: What to call it with.

    Returns:
        The results in the order of ``items``.
    """
    promises = [
        promise(later(function, item)) if type(function) is ToolFunction else start(_bound(function, item))
        for item in items
    ]
    results: list[Any] = _Gathered(promises, False).wait()
    return results


def _bound(function: Callable[[Any], Any], item: Any) -> Callable[[], Any]:
    return lambda: await_value(function(item))


class TaskGroup:
    """``asyncio.TaskGroup``: the first failure cancels the others."""

    __slots__ = ("_failed", "_inside", "_tasks")

    def __init__(self) -> None:
        self._tasks: list[Promise] = []
        self._inside: Strand | None = None
        self._failed = False

    async def __aenter__(self) -> TaskGroup:
        self._inside = current_strand()
        return self

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> Promise:
        """Start ``coro`` in the group."""
        task = promise(coro, name)
        self._tasks.append(task)
        task._future.add_done_callback(self._one_done)
        return task

    def _one_done(self, future: asyncio.Future[Result]) -> None:
        if future.cancelled() or future.result()[0] or self._failed:
            return
        self._failed = True
        for task in self._tasks:
            task.cancel()
        if self._inside is not None:
            self._inside.interrupt()

    async def __aexit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        self._inside = None
        if error is not None:
            for task in self._tasks:
                task.cancel()
        _wait_many(self._tasks, None, _all_done)
        outcomes = [_outcome(task._future) for task in self._tasks]
        errors = [
            value for fine, value in outcomes if not fine and not isinstance(value, asyncio.CancelledError)
        ]
        if error is not None and not isinstance(error, asyncio.CancelledError):
            errors.insert(0, error)
        if errors:
            raise BaseExceptionGroup("unhandled errors in a TaskGroup", errors)


class Timeout:
    """``asyncio.timeout``: interrupts what the block waits for."""

    __slots__ = ("_delay", "_expired", "_strand", "_timer")

    def __init__(self, delay: float | None) -> None:
        self._delay = delay
        self._expired = False
        self._strand: Strand | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Timeout:
        self._strand = current_strand()
        if self._delay is not None:
            self._timer = current_step().loop.call_later(max(self._delay, 0), self._fire)
        return self

    def _fire(self) -> None:
        self._expired = True
        if self._strand is not None:
            self._strand.interrupt()

    async def __aexit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._expired and isinstance(error, asyncio.CancelledError):
            raise TimeoutError from error

    def expired(self) -> bool:
        return self._expired


class Loop:
    """What ``asyncio.get_event_loop()`` gives: the few methods that models use."""

    __slots__ = ()
    __manyhands_frozen__ = True

    def run_until_complete(self, value: Any) -> Any:
        return await_value(value)

    def create_task(self, coro: Any, *, name: str | None = None) -> Promise:
        return promise(coro, name)

    def create_future(self) -> Future:
        return Future()

    def run_in_executor(self, executor: Any, function: Callable[..., Any], *args: Any) -> Promise:
        return promise(to_thread(function, *args))

    def time(self) -> float:
        return current_step().loop.time()

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing to close: the loop is not the code's."""


def _current_task() -> Any:
    return None


def shield(value: Any) -> Promise:
    return promise(value)


def members() -> dict[str, Any]:
    """The members of ``asyncio`` for the code."""
    loop = Loop()
    own: list[Any] = [
        gather,
        create_task,
        ensure_future,
        wait,
        wait_for,
        as_completed,
        to_thread,
        run,
        shield,
        TaskGroup,
        Task,
        Future,
    ]
    found: dict[str, Any] = {item.__name__: item for item in own}
    names = (
        "CancelledError",
        "TimeoutError",
        "InvalidStateError",
        "QueueEmpty",
        "QueueFull",
        "Lock",
        "Event",
        "Semaphore",
        "BoundedSemaphore",
        "Condition",
        "Queue",
        "PriorityQueue",
        "LifoQueue",
        "iscoroutine",
        "iscoroutinefunction",
        "ALL_COMPLETED",
        "FIRST_COMPLETED",
        "FIRST_EXCEPTION",
    )
    found.update({name: getattr(asyncio, name) for name in names})
    found["sleep"] = _sleep
    found["timeout"] = Timeout
    found["current_task"] = _current_task
    found["isfuture"] = lambda value: isinstance(value, Promise)
    for name in ("get_event_loop", "get_running_loop", "new_event_loop"):
        found[name] = lambda: loop
    found["set_event_loop"] = lambda loop: None
    return found


def builtin_functions() -> dict[str, Any]:
    """Names that the rewrite uses, and the helper ``parallel``."""
    return {"$await": await_value, "$awaitable": awaitable, "$later": later, "parallel": parallel}
