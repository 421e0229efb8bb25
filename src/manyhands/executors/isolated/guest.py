"""The guest: the program behind the wall that runs the code.

It reads frames (see :mod:`.frames`) from stdin and writes frames to stdout. Before any code runs it moves
both out of the way: what the code, its subprocesses or C libraries write to the standard streams is
printed text, and reading stdin finds its end.

Frames to the guest, told apart by ``t``::

    run      step, code, tools, set, imports, memory   run a snippet
    result   id, value, final                          what a tool gave; after a final answer the step is over
    failed   id, error                                 how a tool failed
    cancel   step                                      end the snippet

Frames from the guest::

    ready    python, pid, facts                        once, before anything else
    print    text
    call     step, id, tool, args, kwargs              call a tool; answered by result or failed, in any order
    drop     id                                        nobody waits for that call any more
    done     step, value or kept, shown                its value, or the name of a type that cannot cross
    error    step, kind, text, origin, stopped         how it failed; ``origin`` is the call that failed
                                                       so, ``stopped`` says that it was told to end,
                                                       ``threads`` how many threads it left behind

Values are JSON as :mod:`.values` makes it. Runs on Python 3.9 and later with nothing but the standard
library.
"""

from __future__ import annotations

import ast
import builtins
import codecs
import functools
import inspect
import io
import itertools
import linecache
import os
import queue
import select
import signal
import sys
import threading
import time
import traceback
import types
import warnings
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from manyhands.executors.isolated.frames import FrameReader, pack, unpack
from manyhands.executors.isolated.rewriting import AWAIT, RESULT, START, Refused, rewritten
from manyhands.executors.isolated.values import CannotCross, Codec, MalformedValue
from manyhands.executors.local import explain
from manyhands.executors.local.output import Output, shown

#: Most calls of tools under way at once; more of them wait for their turn here.
MAX_CALLS = 256
#: Characters printed by one step that are sent as they come; of what follows, the end is kept.
_SENT_AT_ONCE = 1_000_000
_NAG_SECONDS = 0.01
#: The status of a guest that has no memory left to say anything; also in :mod:`.confine`.
EXIT_OUT_OF_MEMORY = 77
_FILENAME = explain.FILENAME

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable


class Stop(BaseException):
    """Ends the code: its time is over, it was cancelled, or it gave its final answer."""


# --- The way out ---------------------------------------------------------------------------------


class Link:
    """Frames in and out, over file descriptors that nobody else knows.

    Args:
        source: Where frames come from.
        target: Where frames go.
        interrupts: Keeps the end of the code from tearing a frame apart.
    """

    def __init__(self, source: int, target: int, interrupts: Interrupts) -> None:
        self._source = source
        self._target = target
        self._interrupts = interrupts
        self._lock = threading.Lock()
        self._process = os.getpid()

    def send(self, message: dict[str, Any]) -> None:
        """Write ``message``."""
        data = memoryview(pack(message))
        with self._interrupts.held_off, self._lock:
            if os.getpid() != self._process:
                return  # a fork of the code has nothing to tell
            while data:
                data = data[os.write(self._target, data) :]

    def receive(self) -> Iterable[dict[str, Any]]:
        """Read messages until there are no more."""
        reader = FrameReader()
        while data := os.read(self._source, 1 << 16):
            for body in reader.feed(data):
                yield unpack(body)


class Interrupts:
    """Raises :class:`Stop` in the main thread, while code runs there, but not where that would do harm.

    Args:
        inside: A function below which code runs: elsewhere nothing is interrupted.
    """

    def __init__(self, inside: Any) -> None:
        self._main = threading.main_thread().ident
        self._inside = inside.__code__
        self._depth = 0
        self._late = False
        self._armed = False
        self.held_off = self

    def __enter__(self) -> None:
        if threading.get_ident() == self._main:
            self._depth += 1

    def __exit__(self, *_: object) -> None:
        if threading.get_ident() != self._main:
            return
        self._depth -= 1
        if self._late and not self._depth:
            self._late = False
            raise Stop

    def strike(self) -> None:
        """Interrupt the main thread, once."""
        self._armed = True
        if self._main is not None and hasattr(signal, "pthread_kill"):
            signal.pthread_kill(self._main, signal.SIGINT)
        else:
            signal.raise_signal(signal.SIGINT)

    def handle(self, number: int, frame: Any) -> None:
        """Handle the signal, in the main thread."""
        armed, self._armed = self._armed, False
        while frame is not None and frame.f_code is not self._inside:
            frame = frame.f_back
        if not armed or frame is None:
            return
        if self._depth:
            self._late = True
        else:
            raise Stop


# --- What is printed -----------------------------------------------------------------------------


class Printer(io.TextIOBase):
    """``sys.stdout`` and ``sys.stderr`` of the code: text goes out as it comes, floods in larger pieces.

    Args:
        send: Sends a piece of text.
    """

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, send: Callable[[str], None], interrupts: Interrupts) -> None:
        self._send = send
        self._interrupts = interrupts
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._due = threading.Event()
        self.muted = False
        self.begin(50_000)
        threading.Thread(target=self._tend, name="prints", daemon=True).start()

    def begin(self, limit: int) -> None:
        """Begin a step that keeps the first and the last of ``limit`` characters."""
        self._parts: list[str] = []
        self._size = 0
        self._sent = 0
        self._pieces = 0
        self._last = 0.0
        self._rest = Output(limit)
        self.muted = False

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if os.getpid() != self._process:
            os.write(1, text.encode("utf-8", "replace"))
            return len(text)
        with self._interrupts.held_off, self._lock:
            if not self.muted:
                self._take(str.__str__(text))
        return len(text)

    def _take(self, text: str) -> None:
        self._parts.append(text)
        self._size += len(text)
        if self._size > 32_000 or ("\n" in text and self._is_fresh()):
            self._emit()
        elif not self._due.is_set():
            self._due.set()

    def _is_fresh(self) -> bool:
        """Whether little has been printed so far, so that each line goes out at once."""
        return self._pieces < 256 or time.monotonic() - self._last > 0.01

    def _emit(self) -> None:
        if self._parts:
            text = "".join(self._parts)
            self._parts, self._size = [], 0
            if self._sent >= _SENT_AT_ONCE:
                self._rest.write(text)
                return
            self._sent += len(text)
            self._pieces += 1
            self._last = time.monotonic()
            for start in range(0, len(text), 1_000_000):
                self._send(text[start : start + 1_000_000])

    def flush(self) -> None:
        with self._interrupts.held_off, self._lock:
            self._emit()

    def finish(self) -> None:
        """Send what has not been sent."""
        with self._interrupts.held_off, self._lock:
            self._emit()
            if self._rest.size:
                self._send(self._rest.text())
                self._rest = Output(self._rest.limit)

    def _tend(self) -> None:
        while True:
            self._due.wait()
            time.sleep(0.01)
            self._due.clear()
            with self._lock:
                self._emit()

    def fileno(self) -> int:
        return 1

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    @property
    def buffer(self) -> Any:
        return _Bytes(self)


class _Bytes(io.RawIOBase):
    """``sys.stdout.buffer``."""

    def __init__(self, printer: Printer) -> None:
        self._printer = printer

    def write(self, data: Any) -> int:
        self._printer.write(bytes(data).decode("utf-8", "replace"))
        return len(data)

    def writable(self) -> bool:
        return True


class Streams:
    """The standard streams of the process: a pipe takes what is written behind the interpreter's back.

    Args:
        printer: Where the text goes.
    """

    def __init__(self, printer: Printer) -> None:
        self._printer = printer
        self._lock = threading.Lock()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._end, target = os.pipe()
        os.set_blocking(self._end, False)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(target, 1)
        os.dup2(target, 2)
        os.close(nothing)
        os.close(target)
        threading.Thread(target=self._tend, name="streams", daemon=True).start()

    def drain(self) -> None:
        """Take what has been written until now."""
        with self._printer._interrupts.held_off, self._lock:
            try:
                while data := os.read(self._end, 1 << 16):
                    self._printer.write(self._decoder.decode(data))
            except BlockingIOError:
                pass

    def _tend(self) -> None:
        while True:
            select.select([self._end], [], [])
            self.drain()


# --- Tools ---------------------------------------------------------------------------------------


class Pending:
    """A call of a tool that has been sent, and what became of it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._lock = threading.Lock()
        self._arrived = threading.Event()
        self._reply: dict[str, Any] | None = None
        self._then: Callable[[], None] | None = None

    def resolve(self, reply: dict[str, Any]) -> None:
        """Note the reply and wake whoever waits."""
        with self._lock:
            self._reply = reply
            then = self._then
        self._arrived.set()
        if then is not None:
            then()

    def then(self, act: Callable[[], None]) -> None:
        """Call ``act`` from any thread when the reply is there."""
        with self._lock:
            self._then = act
            done = self._reply is not None
        if done:
            act()

    def wait(self) -> dict[str, Any]:
        """Wait for the reply."""
        self._arrived.wait()
        return self._reply or {}


class Calls:
    """The calls of tools under way.

    Args:
        link: Where they go.
        codec: Makes JSON of their arguments, and values of their results.
    """

    def __init__(self, link: Link, codec: Codec) -> None:
        self._link = link
        self._codec = codec
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._open: dict[int, Pending] = {}
        self._queue: deque[tuple[Pending, dict[str, Any]]] = deque()
        self._sent: set[int] = set()
        #: The step that runs; calls of earlier ones are refused.
        self.step = 0
        #: Set when the step is to end: no call begins any more.
        self.over = False
        #: Errors that tools raised, as the code has them, with the numbers of their calls.
        self.origins: dict[int, tuple[BaseException, int]] = {}

    def begin(self, tool: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Pending:
        """Send a call, or let it wait while many are under way."""
        if self.over:
            raise Stop
        message = self._message(tool, args, kwargs)
        pending = Pending(next(self._numbers))
        message.update(t="call", step=self.step, id=pending.number, tool=tool)
        with self._lock:
            self._open[pending.number] = pending
            if len(self._sent) >= MAX_CALLS:
                self._queue.append((pending, message))
                return pending
            self._sent.add(pending.number)
        self._link.send(message)
        return pending

    def _message(self, tool: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        try:
            encoded = [self._argument(i, value) for i, value in enumerate(args)]
            return {"args": encoded, "kwargs": {k: self._argument(k, v) for k, v in kwargs.items()}}
        except CannotCross as error:
            raise TypeError(f"{tool}(): {error}") from None

    def _argument(self, name: object, value: Any) -> Any:
        try:
            return self._codec.encode(value)
        except CannotCross as error:
            raise error.within(f"argument {name!r}, " if error.place else f"argument {name!r}") from None

    def resolve(self, reply: dict[str, Any]) -> None:
        """Take the reply to a call, in the thread that reads."""
        with self._lock:
            pending = self._open.pop(reply["id"], None)
            self._sent.discard(reply["id"])
            ready = self._queue.popleft() if self._queue else None
            if ready is not None:
                self._sent.add(ready[0].number)
        if pending is not None:
            pending.resolve(reply)
        if ready is not None:
            self._link.send(ready[1])

    def drop(self, pending: Pending) -> None:
        """Say that nobody waits for a call any more."""
        with self._lock:
            known = self._open.pop(pending.number, None)
        if known is not None and not self.over:
            self._link.send({"t": "drop", "id": pending.number})

    def value(self, pending: Pending) -> Any:
        """Return what the tool gave, or raise how it failed."""
        reply = pending.wait()
        if self.over and not reply:
            raise Stop
        if reply.get("final"):
            raise Stop
        decoded = self._codec.decode(reply["error"] if reply["t"] == "failed" else reply["value"])
        if reply["t"] == "failed":
            self.origins[id(decoded)] = (decoded, pending.number)
            raise decoded
        return decoded

    def release(self) -> None:
        """End every wait."""
        self.over = True
        with self._lock:
            waiting, self._open = list(self._open.values()), {}
            self._queue.clear()
            self._sent.clear()
        for pending in waiting:
            pending.resolve({})

    def renew(self, step: int) -> None:
        """Begin a step."""
        self.step, self.over = step, False
        self.origins.clear()


class Tool:
    """A tool as the code has it: a function and nothing else."""

    __slots__ = ("__name__", "_calls")

    def __init__(self, name: str, calls: Calls) -> None:
        self.__name__ = name
        self._calls = calls

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._calls.value(self._calls.begin(self.__name__, args, kwargs))

    def start(self, /, *args: Any, **kwargs: Any) -> Any:
        """Begin the call, and return an awaitable of its value."""
        pending = self._calls.begin(self.__name__, args, kwargs)
        import asyncio

        later = _later(self._calls, pending)
        try:
            return asyncio.ensure_future(later, loop=asyncio.get_running_loop())
        except RuntimeError:
            return later

    def __repr__(self) -> str:
        return f"<tool {self.__name__}>"


async def _later(calls: Calls, pending: Pending) -> Any:
    import asyncio

    loop = asyncio.get_running_loop()
    arrived = loop.create_future()

    def tell() -> None:
        with suppress(RuntimeError):  # the loop of the code may have ended
            loop.call_soon_threadsafe(wake)

    def wake() -> None:
        if not arrived.done():
            arrived.set_result(None)

    pending.then(tell)
    try:
        await arrived
    except asyncio.CancelledError:
        calls.drop(pending)
        raise
    return calls.value(pending)


def _started(function: Any) -> Any:
    """What is called in place of ``function`` where a tool is to be started and not waited for."""
    return function.start if type(function) is Tool else function


def _awaitable(value: Any) -> Any:
    """What stands behind ``await``: a value that is there already is its own result."""
    return value if inspect.isawaitable(value) else _ready(value)


async def _ready(value: Any) -> Any:
    return value


def parallel(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """``[function(item) for item in items]`` with all calls under way at once.

    Args:
        function: A tool, or a function.
        items: What to call it with.

    Returns:
        The results in the order of ``items``.
    """
    if type(function) is Tool:
        calls = function._calls
        begun = [calls.begin(function.__name__, (item,), {}) for item in items]
        return [calls.value(pending) for pending in begun]
    from concurrent.futures import ThreadPoolExecutor

    waiting = list(items)
    with ThreadPoolExecutor(min(32, len(waiting) or 1)) as threads:
        return list(threads.map(function, waiting))


# --- The program ---------------------------------------------------------------------------------


class Guest:
    """Runs one snippet after the other in the main thread, while another thread reads frames.

    Args:
        source: File descriptor that frames come from.
        target: File descriptor that frames go to.
        facts: What is known about the wall.
    """

    def __init__(self, source: int, target: int, facts: dict[str, Any]) -> None:
        self._facts = facts
        self._interrupts = Interrupts(Guest._inside)
        self._link = Link(source, target, self._interrupts)
        self._codec = Codec("leave", "the sandbox")
        self._calls = Calls(self._link, self._codec)
        self._printer = Printer(self._print, self._interrupts)
        self._streams = Streams(self._printer)
        self._jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._ending = False
        self._running = 0
        self._striking = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tools: dict[str, Tool] = {}
        self._home = types.ModuleType("__main__")
        self._names = self._home.__dict__
        self._builtins = {**vars(builtins), START: _started, AWAIT: _awaitable, "parallel": parallel}

    def run(self) -> None:
        """Serve until there is nobody to serve."""
        sys.modules["__main__"] = self._home
        self._names["__builtins__"] = self._builtins
        sys.stdout = sys.stderr = self._printer
        signal.signal(signal.SIGINT, self._interrupts.handle)
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        process = os.getpid()
        threading.Thread(target=self._read, name="frames", daemon=True).start()
        python = "{}.{}.{}".format(*sys.version_info[:3])
        self._link.send({"t": "ready", "python": python, "pid": process, "facts": self._facts})
        while True:
            self._step(self._jobs.get())
            if os.getpid() != process:
                os._exit(0)  # a fork of the code came to the end of the code

    def _print(self, text: str) -> None:
        self._link.send({"t": "print", "text": text})

    # --- In the thread that reads ---

    def _read(self) -> None:
        try:
            for message in self._link.receive():
                self._take(message)
        except MemoryError:
            os._exit(EXIT_OUT_OF_MEMORY)
        finally:
            os._exit(0)  # nobody is there any more

    def _take(self, message: dict[str, Any]) -> None:
        kind = message["t"]
        if kind == "run":
            self._running = message["step"]
            self._jobs.put(message)
        elif kind == "cancel":
            if message["step"] == self._running:
                self._end_code()
        else:
            if message.get("final"):
                self._end_code()
            self._calls.resolve(message)

    def _end_code(self) -> None:
        """Make the code end: again and again, for it may catch what is raised."""
        if self._ending:
            return
        self._ending = self._calls.over = self._printer.muted = True
        step = self._running

        def nag() -> None:
            time.sleep(0.002)
            while True:
                with self._striking:
                    if self._running != step:
                        return
                    self._interrupts.strike()
                time.sleep(_NAG_SECONDS)

        threading.Thread(target=nag, name="end", daemon=True).start()

    # --- In the main thread ---

    def _step(self, job: dict[str, Any]) -> None:
        self._calls.renew(job["step"])
        self._printer.begin(job.get("prints") or 50_000)
        reply = self._outcome(job)
        with self._striking:
            self._running = 0
        self._finish(job, reply)

    def _finish(self, job: dict[str, Any], reply: dict[str, Any]) -> None:
        reply["step"] = job["step"]
        if self._ending:
            reply["stopped"] = True
            reply["threads"] = sum(1 for t in threading.enumerate() if t.name not in _OUR_THREADS)
        self._calls.release()
        self._streams.drain()
        self._printer.muted = False
        self._printer.finish()
        self._ending = False
        try:
            self._link.send(reply)
        except ValueError:
            reply = {
                "t": "done",
                "step": job["step"],
                "kept": "value that is too large",
                "shown": reply["shown"],
            }
            self._link.send(reply)

    def _prepare(self, job: dict[str, Any]) -> None:
        """Take over tools and variables."""
        if job.get("tools") is not None:
            for name in self._tools:
                self._builtins.pop(name, None)
            self._builtins.update(
                {name: vars(builtins)[name] for name in self._tools if hasattr(builtins, name)}
            )
            self._tools = {name: Tool(name, self._calls) for name in job["tools"]}
            self._builtins.update(self._tools)
        for name in self._tools:
            self._names.pop(name, None)
        allowed = job.get("imports")
        self._builtins["__import__"] = self._importing(allowed)
        for name, value in (job.get("set") or {}).items():
            self._names[name] = self._codec.decode(value)

    def _outcome(self, job: dict[str, Any]) -> dict[str, Any]:
        """Run the code of ``job`` and say what came of it."""
        code = job["code"]
        try:
            self._prepare(job)
            program = self._compiled(code)
        except (CannotCross, MalformedValue) as error:
            return _failure(type(error).__name__, f"The variables cannot be set: {error}")
        except Refused as error:
            return _failure("Refused", explain.refused_text(str(error), code, error.node))
        except SyntaxError as error:
            return _failure("SyntaxError", explain.syntax_text(error))
        except (RecursionError, MemoryError):
            return _failure("Refused", explain.refused_text("The code is nested too deeply.", code, None))
        except ValueError as error:
            text = f"The code cannot be compiled: {error}"
            return _failure("Refused", explain.refused_text(text, code, None))
        linecache.cache[_FILENAME] = (len(code), None, code.splitlines(True), _FILENAME)
        try:
            return self._inside(program)
        except BaseException as error:
            if self._ending or isinstance(error, Stop):
                return _failure("Stop", "")
            return self._raised(error, code, job.get("memory"))

    def _inside(self, program: Any) -> dict[str, Any]:
        """Run the code, and show its value; here it may be interrupted, and nowhere else."""
        return self._done(self._evaluated(program))

    def _compiled(self, code: str) -> Any:
        tree = rewritten(code, _FILENAME, frozenset(self._tools))
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        return compile(tree, _FILENAME, "exec", flags, dont_inherit=True)

    def _evaluated(self, program: Any) -> Any:
        self._names.pop(RESULT, None)
        if program.co_flags & inspect.CO_COROUTINE or self._loop is not None:
            self._use_asyncio()
        try:
            if program.co_flags & inspect.CO_COROUTINE and self._loop is not None:
                self._loop.run_until_complete(eval(program, self._names))
            else:
                exec(program, self._names)
        finally:
            self._end_tasks()
        return self._names.pop(RESULT, None)

    def _importing(self, allowed: list[str] | None) -> Callable[..., Any]:
        """``__import__`` of the code: asyncio, which is not small, is there when it is asked for."""
        original = builtins.__import__
        inner = original if allowed is None else _only(allowed, original)

        @functools.wraps(original)
        def import_it(*args: Any, **kwargs: Any) -> Any:
            module = inner(*args, **kwargs)
            if self._loop is None and "asyncio" in sys.modules:
                self._use_asyncio()
            return module

        return import_it

    def _use_asyncio(self) -> None:
        """Have one loop for all steps, so that locks and queues of the code live on."""
        import asyncio

        if self._loop is None:
            _ease_asyncio()
        if self._loop is None or self._loop.is_closed() or self._loop.is_running():
            self._loop = asyncio.new_event_loop()
        if threading.current_thread() is threading.main_thread():
            asyncio.set_event_loop(self._loop)

    def _end_tasks(self) -> None:
        """Tasks that the code has started end with its step."""
        loop = self._loop
        if loop is None or loop.is_closed() or loop.is_running():
            return
        import asyncio

        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=0.5))

    def _done(self, value: Any) -> dict[str, Any]:
        done = {"t": "done", "shown": shown(value)}
        try:
            done["value"] = self._codec.encode(value)
        except CannotCross:
            done["kept"] = type(value).__name__
        return done

    def _raised(self, error: BaseException, code: str, memory: str | None) -> dict[str, Any]:
        _, origin = self._calls.origins.get(id(error), (None, None))
        if isinstance(error, MemoryError):
            _let_go(error)
            if not error.args and memory:
                error.args = (f"the code ran out of memory (limit {memory})",)
        names = [*self._names, *self._builtins]
        try:
            text = explain.failure_text(error, code, names)
        except Exception:
            text = f"Code execution failed due to: {type(error).__name__}"
        return {**_failure(explain.kind_of(error), text), "origin": origin}


_OUR_THREADS = frozenset({"MainThread", "prints", "streams", "frames", "end"})


def _failure(kind: str, text: str) -> dict[str, Any]:
    return {"t": "error", "kind": kind, "text": text[:100_000], "origin": None}


def _let_go(error: BaseException) -> None:
    """Give back what the functions that failed hold: there is no memory left to say so."""
    for frame, _ in explain._frames(error.__traceback__):
        with suppress(RuntimeError):  # it runs
            frame.clear()


def _only(allowed: list[str], original: Callable[..., Any]) -> Callable[..., Any]:
    """``__import__`` for code that may import some modules only: a guard rail, as all is one process."""

    def may_import(name: str) -> bool:
        return any(
            entry == "*" or name == entry or name.startswith(entry.removesuffix("*").rstrip(".") + ".")
            for entry in allowed
        ) or any(entry.startswith(name + ".") for entry in allowed)

    @functools.wraps(original)
    def import_some(
        name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> Any:
        if not level and not may_import(name):
            raise ImportError(f"Import of {name} is not allowed. Authorized imports are: {allowed}")
        return original(name, globals, locals, fromlist, level)

    return import_some


def _ease_asyncio() -> None:
    """Let work what works in the local executor, and what models write though it is not allowed.

    ``asyncio.run`` where a loop runs already (code with ``await`` at its top level has one), ``asyncio.wait``
    for coroutines, and ``create_task`` for a tool that has been started.
    """
    import asyncio

    run: Any = asyncio.run
    wait: Any = asyncio.wait
    create: Any = asyncio.BaseEventLoop.create_task

    @functools.wraps(run)
    def run_anywhere(main: Any, **options: Any) -> Any:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return run(main, **options)
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(run, main, **options).result()

    @functools.wraps(wait)
    async def wait_for_any(fs: Any, **options: Any) -> Any:
        return await wait([asyncio.ensure_future(one) for one in fs], **options)

    @functools.wraps(create)
    def create_task(self: Any, coro: Any, **options: Any) -> Any:
        return create(self, _result_of(coro) if isinstance(coro, asyncio.Future) else coro, **options)

    asyncio.run = run_anywhere
    asyncio.wait = wait_for_any
    asyncio.BaseEventLoop.create_task = create_task  # type: ignore[method-assign]


async def _result_of(future: Any) -> Any:
    return await future


def main(facts: dict[str, Any] | None = None) -> None:
    """Run the guest on the stdin and stdout of the process.

    Args:
        facts: What whoever confined the process found out about the wall.
    """
    source, target, complaints = os.dup(0), os.dup(1), os.dup(2)
    try:
        Guest(source, target, facts or {}).run()
    except MemoryError:
        os._exit(EXIT_OUT_OF_MEMORY)
    except BaseException:
        os.write(complaints, traceback.format_exc().encode("utf-8", "replace"))
        os._exit(1)


if __name__ == "__main__":
    main()
