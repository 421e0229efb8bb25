"""The loop watchdog: tells which run blocked its event loop, for how long, and where.

While watched runs go on on a loop, the loop makes a sign of life a few times per threshold. A daemon thread
sees when one is overdue, and looks at what the loop's own thread is doing: its frames say where, and they
or the task's context say for which run. A loop without runs makes no signs, and the thread sleeps.

Code that holds the interpreter's lock holds up the watchdog too. It then looks as soon as it can, which is
right behind the call that held the lock.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import sys
import threading
import time
import traceback
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from manyhands._bridge import _InlineCaller
from manyhands.acting.calls import call_tool
from manyhands.agents import CodeAgent
from manyhands.errors import CallerError, check_seconds
from manyhands.executors.local.explain import FILENAME
from manyhands.run import Run, current_run, watching
from manyhands.steps import ToolCall

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType

logger = logging.getLogger("manyhands.watchdog")

#: Seconds for which a loop may be blocked, unless someone says otherwise.
THRESHOLD = 0.1
# A blockage longer than the threshold by less than the time between two beats may be missed.
_BEATS_PER_THRESHOLD = 4
# A blockage that lasts so many thresholds is told of while it lasts: it may never end.
_HANGS_AFTER = 10
_MAX_FRAMES = 20

_clock = time.perf_counter
_Chain = list[tuple["FrameType", int]]


@dataclass(frozen=True, slots=True)
class Blockage:
    """A time in which an event loop could do nothing but one thing.

    Attributes:
        seconds: How long at least; the truth is up to a quarter of the threshold longer.
        agent: The agent whose run it was, by name or class; ``""`` where that cannot be known.
        run_id: The run; ``""`` where that cannot be known.
        activity: What the run did: ``tool fetch``, ``code``, ``model``, or ``""``.
        stack: Where, as a traceback shows it; in generated code the agent's own lines.
    """

    seconds: float
    agent: str
    run_id: str
    activity: str
    stack: str

    def __str__(self) -> str:
        return f"Event loop blocked for {self.seconds:.2f} s by {self.who}:\n{self.stack}"

    @property
    def who(self) -> str:
        """Agent, run and activity in words."""
        if not self.run_id:
            return "an unknown run"
        doing = f", {self.activity}" if self.activity else ""
        return f"agent {self.agent} (run {self.run_id[:8]}{doing})"


# --- One loop ------------------------------------------------------------------------------------


class _Beat:
    """One sign of life that a loop owes: it is late from ``due`` on."""

    __slots__ = ("due", "excused", "found", "told")

    def __init__(self, due: float) -> None:
        self.due = due
        self.excused = False
        self.found: Blockage | None = None
        self.told = False


class _Entry:
    """A watched run, and the code that it runs."""

    __slots__ = ("run", "source", "threshold")

    def __init__(self, run: Run, threshold: float) -> None:
        self.run = run
        self.threshold = threshold
        self.source = ""

    def note_code(self, run: Run, event: Any) -> None:
        if run is self.run and type(event) is ToolCall and event.name == "python_interpreter":
            self.source = event.arguments


class _Heart:
    """A watched loop: the runs on it, and its signs of life.

    The loop's thread makes the signs, the watchdog's thread looks at them; what both touch changes in
    single assignments.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.thread = 0
        self.entries: dict[str, _Entry] = {}
        self.watches: set[LoopWatch] = set()
        self.threshold = THRESHOLD
        self._thresholds: Counter[float] = Counter()
        self._beat: _Beat | None = None
        self._late: deque[tuple[_Beat, float]] = deque()

    # On the loop's thread:

    def enter(self, entry: _Entry, watches: tuple[LoopWatch, ...]) -> bool:
        """Watch a run as well. Returns whether the loop has to be looked at sooner than before."""
        sooner = not self.entries or entry.threshold < self.threshold
        self.thread = threading.get_ident()
        self.entries[entry.run.id] = entry
        self.watches.update(watches)
        self._thresholds[entry.threshold] += 1
        self.threshold = min(self._thresholds)
        if self._beat is None:
            self._await_beat()
        return sooner

    def leave(self, entry: _Entry) -> None:
        """Watch a run no more."""
        self.entries.pop(entry.run.id, None)
        self._thresholds[entry.threshold] -= 1
        if not self._thresholds[entry.threshold]:
            del self._thresholds[entry.threshold]
            self.threshold = min(self._thresholds, default=self.threshold)

    def _await_beat(self) -> None:
        pause = self.threshold / _BEATS_PER_THRESHOLD
        self._beat = _Beat(_clock() + pause)
        self.loop.call_later(pause, self._beat_now)

    def _beat_now(self) -> None:
        beat = self._beat
        if beat is not None and not beat.excused and _clock() - beat.due >= self.threshold:
            self._late.append((beat, _clock() - beat.due))
        self._beat = None
        if self.entries:
            self._await_beat()

    # On the watchdog's thread:

    def look(self) -> bool:
        """See whether the loop lives. Returns False when there is nothing more to see."""
        beat = self._beat
        if beat is not None and (overdue := _clock() - beat.due) >= self.threshold / 2:
            self._look_closer(beat, overdue)
        while self._late:
            self._report(*self._late.popleft())
        owes = self._beat is not None and self.loop.is_running()
        return (owes or bool(self.entries)) and not self.loop.is_closed()

    def pause(self) -> float:
        """Return for how long nothing can be amiss: until a sign of life could be half a threshold late."""
        beat = self._beat
        sure = self.threshold if beat is None else beat.due + self.threshold / 2 - _clock()
        return max(sure, self.threshold / _BEATS_PER_THRESHOLD)

    def _look_closer(self, beat: _Beat, overdue: float) -> None:
        if not self.loop.is_running():
            # It rests between two calls of a sync caller, or has ended: what it owes is void.
            if beat.found is not None and not beat.excused and overdue >= self.threshold:
                self._report(beat, overdue)
            beat.excused = True
        elif beat.found is None and not beat.excused:
            self._find(beat)
        elif beat.found is not None and not beat.told and overdue > _HANGS_AFTER * self.threshold:
            beat.told = True
            found = beat.found
            logger.warning(
                "Event loop blocked for %.2f s and still is, by %s:\n%s", overdue, found.who, found.stack
            )

    def _find(self, beat: _Beat) -> None:
        """Look at what the loop's thread does."""
        chain = _chain(sys._current_frames().get(self.thread))
        if any(frame.f_code is _INLINE for frame, _ in chain):
            # Sync code under `run()` works in the caller's thread by design, with the loop its own.
            beat.excused = True
            return
        entry, activity = _culprit(chain, self.loop, list(self.entries.values()))
        beat.found = _blockage(entry, activity, _stack(chain, entry.source if entry is not None else ""))

    def _report(self, beat: _Beat, seconds: float) -> None:
        found = beat.found
        if found is None:
            found = _blockage(*_culprit([], self.loop, list(self.entries.values())), _NOT_SEEN)
        _report(Blockage(seconds, found.agent, found.run_id, found.activity, found.stack), self.watches)


_NOT_SEEN = "  (It was over before it could be looked at: nothing else could run in the meantime.)\n"


def _blockage(entry: _Entry | None, activity: str, stack: str) -> Blockage:
    if entry is None:
        return Blockage(0.0, "", "", activity, stack)
    agent = entry.run.agent
    return Blockage(0.0, agent.name or type(agent).__name__, entry.run.id, activity, stack)


def _report(blockage: Blockage, watches: set[LoopWatch]) -> None:
    logger.warning("%s", blockage)
    for watch in watches:
        if watch.on_blockage is not None and blockage.seconds >= watch.threshold:
            try:
                watch.on_blockage(blockage)
            except Exception:
                logger.exception("A function told of blocked event loops failed")


# --- Reading frames ------------------------------------------------------------------------------

_INLINE = _InlineCaller.call.__code__
_TOOL = call_tool.__code__
_RUN = Run._main.__code__


def _chain(frame: FrameType | None) -> _Chain:
    """Return the frames with their lines, innermost first; at once, for the thread goes on."""
    chain = []
    while frame is not None:
        chain.append((frame, frame.f_lineno))
        frame = frame.f_back
    return chain


def _culprit(
    chain: _Chain, loop: asyncio.AbstractEventLoop, entries: list[_Entry]
) -> tuple[_Entry | None, str]:
    """Return the run that the frames work for, ``None`` if that cannot be known, and what it does."""
    run, activity = _run_in(chain, entries) or (_run_of_task(loop), "")
    found = next((entry for entry in entries if entry.run is run), None)
    if found is None:
        if run is not None:
            found = _Entry(run, THRESHOLD)
        elif len(entries) == 1:
            found = entries[0]
    if found is None:
        return None, ""
    return found, activity or found.run.activity


def _run_in(chain: _Chain, entries: list[_Entry]) -> tuple[Run | None, str] | None:
    for frame, _ in chain:
        code = frame.f_code
        if code is _TOOL:
            local = frame.f_locals
            return local.get("run"), f"tool {getattr(local.get('tool'), 'name', '')}"
        if code is _RUN:
            return frame.f_locals.get("self"), ""
        if code.co_filename == FILENAME:
            # Generated code has a stack of its own, but its variables are those of one run.
            for entry in entries:
                if getattr(entry.run.executor, "state", None) is frame.f_globals:
                    return entry.run, "code"
    return None


def _run_of_task(loop: asyncio.AbstractEventLoop) -> Run | None:
    # Before Python 3.12 a task does not tell its context.
    get_context = getattr(asyncio.current_task(loop), "get_context", None)
    return get_context().get(current_run) if get_context is not None else None


def _stack(chain: _Chain, source: str) -> str:
    """Return the frames as a traceback shows them, from where the loop called to where it stands."""
    lines = source.splitlines()
    shown = []
    for frame, line in chain[:_MAX_FRAMES]:
        code = frame.f_code
        if code is _HANDLE:
            break
        text = None
        if code.co_filename == FILENAME:
            text = lines[line - 1] if 0 < line <= len(lines) else ""
        shown.append(traceback.FrameSummary(code.co_filename, line, code.co_name, line=text))
    return "".join(traceback.StackSummary.from_list(shown[::-1]).format())


_HANDLE = asyncio.Handle._run.__code__


# --- The thread ----------------------------------------------------------------------------------


class _Watchdog:
    """One thread for all watched loops of the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hearts: dict[asyncio.AbstractEventLoop, _Heart] = {}
        self._watches: tuple[LoopWatch, ...] = ()
        self._bell = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, watch: LoopWatch) -> None:
        """Let all runs that begin from now on be watched for ``watch`` too."""
        with self._lock:
            if watch not in self._watches:
                self._watches = (*self._watches, watch)
            watching.everywhere = len(self._watches)

    def remove(self, watch: LoopWatch) -> None:
        """Watch no more runs for ``watch``."""
        with self._lock:
            self._watches = tuple(other for other in self._watches if other is not watch)
            watching.everywhere = len(self._watches)

    def enter(self, run: Run) -> Callable[[], None]:
        """Watch the running loop while ``run`` goes on; return what ends that."""
        loop = asyncio.get_running_loop()
        with self._lock:
            entry = _Entry(run, self._threshold(run, loop))
            heart = self._hearts.get(loop) or _Heart(loop)
            if heart.enter(entry, self._watches):
                self._hearts[loop] = heart
                self._start()
                self._bell.set()
        if isinstance(run.agent, CodeAgent):
            run.observers.append(entry.note_code)
        return functools.partial(self._leave, heart, entry)

    def _leave(self, heart: _Heart, entry: _Entry) -> None:
        with self._lock:
            heart.leave(entry)
        if entry.note_code in entry.run.observers:
            entry.run.observers.remove(entry.note_code)

    def _threshold(self, run: Run, loop: asyncio.AbstractEventLoop) -> float:
        wanted = [watch.threshold for watch in self._watches]
        own = run.agent.watch_loop
        if own is True or watching.debug or loop.get_debug():
            wanted.append(THRESHOLD)
        elif own:
            wanted.append(own)
        return min(wanted)

    def _start(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._work, name="manyhands-loop-watchdog", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            self._bell.clear()
            self._bell.wait(self._look())

    def _look(self) -> float | None:
        """Look at all loops. Returns when to look again; ``None`` when there is nothing to look at."""
        with self._lock:
            hearts = list(self._hearts.values())
        for heart in hearts:
            if not heart.look():
                with self._lock:
                    if not heart.entries or heart.loop.is_closed():
                        self._hearts.pop(heart.loop, None)
        with self._lock:
            return min((heart.pause() for heart in self._hearts.values()), default=None)

    def forget_thread(self) -> None:
        """After a fork: the thread and the loops did not come along."""
        watches = self._watches
        self.__init__()  # type: ignore[misc]
        self._watches = watches


_watchdog = _Watchdog()
watch_run = _watchdog.enter
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_watchdog.forget_thread)


# --- For users -----------------------------------------------------------------------------------


class LoopWatch:
    """Watches the loops of all runs that begin while it is on; :func:`watch_loop` makes one.

    Attributes:
        threshold: Seconds for which a loop may be blocked.
        on_blockage: Called with each :class:`Blockage`, on the watchdog's thread.
    """

    def __init__(self, threshold: float, on_blockage: Callable[[Blockage], object] | None) -> None:
        self.threshold = check_seconds("threshold", threshold) or THRESHOLD
        self.on_blockage = on_blockage
        if on_blockage is not None and not callable(on_blockage):
            raise CallerError(f"on_blockage must be a function, not {on_blockage!r}.")

    def start(self) -> LoopWatch:
        """Watch runs that begin from now on."""
        _watchdog.add(self)
        return self

    def stop(self) -> None:
        """Leave alone runs that begin from now on; those being watched are watched to their end."""
        _watchdog.remove(self)

    def __enter__(self) -> LoopWatch:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def watch_loop(
    threshold: float = THRESHOLD, on_blockage: Callable[[Blockage], object] | None = None
) -> LoopWatch:
    """Report when something blocks an event loop on which runs go on.

    Use it as ``with watch_loop():``, or call ``start()`` and ``stop()`` of what it returns. It counts for all
    runs that begin while it is on. Each blockage is one warning of the logger ``manyhands.watchdog``.

    Args:
        threshold: Seconds for which a loop may be blocked.
        on_blockage: Called with each :class:`Blockage` when it is over, on the watchdog's thread.

    Returns:
        The watch, not yet on.

    Raises:
        CallerError: The threshold is no number above 0, or ``on_blockage`` is no function.
    """
    return LoopWatch(threshold, on_blockage)
