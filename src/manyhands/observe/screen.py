"""One console that any number of runs draw on: finished blocks in order, below them what is being written.

Drawing is done by a thread that exists while there is something to draw. Whoever has something to show leaves
it here and goes on at once: a terminal that takes no output (Ctrl-S, a pipe whose reader sleeps) stops the
drawing and nothing else. Only a sync caller, whose own thread it is, waits for what it has shown.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import queue
import sys
import threading
import weakref
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rich.live import Live

from manyhands._bridge import in_callers_thread
from manyhands.observe.live import region

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from manyhands.observe.live import Stream

logger = logging.getLogger("manyhands")

# Seconds between two drawings, however much there is to draw.
REFRESH = 0.1
_IDLE_SECONDS = 2.0
# Blocks that may wait for a terminal that takes none; the oldest of more are given up.
_MOST_WAITING = 10_000


class Screen:
    """Draws on a console, in the background.

    Args:
        console: The console; it may be shared with others that print to it.

    Attributes:
        runs: The runs that are shown, by id, as those who show them know them.
    """

    @classmethod
    def of(cls, console: Console) -> Screen:
        """Return the screen of a console: always the same."""
        screen = _screens.get(console)
        if screen is None:
            screen = _screens[console] = cls(console)
        return screen

    def __init__(self, console: Console) -> None:
        self.console = console
        self.runs: dict[str, Any] = {}
        self._items: deque[Callable[[], object]] = deque()
        self._given_up = 0
        self._streams: dict[int, Stream] = {}
        self._live: Live | None = None
        self._thread: threading.Thread | None = None
        self._starting = threading.RLock()
        self._drawing = threading.RLock()
        # Something to do, and somebody waits for it to be done.
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._hurry: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._broken: Any = None  # the file that took no more; the standard output may be another by now
        self._stalled = False
        self._closed = False

    # --- Something to show -----------------------------------------------------------------------

    def post(self, draw: Callable[[], object]) -> None:
        """Have ``draw`` called, which prints to the console, after all that was posted before."""
        if self._is_broken():
            return
        self._items.append(draw)
        if len(self._items) > _MOST_WAITING:
            with suppress(IndexError):
                self._items.popleft()
                self._given_up += 1
        if self._closed:
            self._draw()
        elif not in_callers_thread(self._draw):
            self._wake()

    def open(self, stream: Stream) -> None:
        """Show a stream for as long as it is written, where the console is a terminal."""
        if self.is_live:
            self._streams[id(stream)] = stream
            self._wake()

    def close(self, stream: Stream) -> None:
        """Take a stream away from what is being written."""
        self._streams.pop(id(stream), None)

    @property
    def is_live(self) -> bool:
        """Whether what was drawn can be drawn over: a terminal, and no notebook."""
        console = self.console
        return console.is_terminal and not console.is_dumb_terminal and not console.is_jupyter

    # --- Waiting for it --------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all that was posted is drawn.

        Args:
            timeout: Most seconds to wait.

        Returns:
            Whether it is drawn.
        """
        drawn = threading.Event()
        self._mark(drawn.set)
        return drawn.wait(timeout)

    async def drawn(self, timeout: float) -> None:  # noqa: ASYNC109
        """Wait until all that was posted is drawn, but not longer than ``timeout`` seconds.

        Nobody waits a second time for a console that took nothing the last time.
        """
        if self._stalled:
            return
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def tell() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_wake, done)

        self._mark(tell)
        await asyncio.wait([done], timeout=timeout)
        self._stalled = not done.done()

    def _mark(self, tell: Callable[[], object]) -> None:
        if self._is_broken() or self._thread is None:
            tell()
            return
        self._items.append(_Told(tell))
        self._hurry.put(None)
        self._wake()

    def _is_broken(self) -> bool:
        return self._broken is not None and self._broken is self.console.file

    def finish(self) -> None:
        """Draw what is left, at the end of the process; what comes later is drawn where it is posted."""
        with suppress(KeyboardInterrupt):
            self.flush()
        self._closed = True
        self._streams.clear()
        self._draw()

    # --- The thread ------------------------------------------------------------------------------

    def _wake(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="manyhands-console", daemon=True)
                self._thread.start()
        self._bell.put(None)

    def _work(self) -> None:
        while self._wait():
            self._draw()
            with suppress(queue.Empty):
                self._hurry.get(timeout=REFRESH)

    def _wait(self) -> bool:
        """Wait for something to draw; return whether there will be anything."""
        if self._streams or self._live:
            return True
        with suppress(queue.Empty):
            self._bell.get(timeout=_IDLE_SECONDS)
            while True:  # one drawing answers all rings so far
                self._bell.get_nowait()
        with self._starting:
            if self._items or self._streams:
                return True
            self._thread = None
            return False

    def _draw(self) -> None:
        with self._drawing:
            try:
                self._draw_items()
                self._draw_streams()
                self._stalled = False
            except (Exception, SystemExit) as error:
                # Nobody reads any more, or the console cannot be drawn on: the runs go on without.
                self._give_in(error)

    def _draw_items(self) -> None:
        if not self._items:
            return
        told = []
        with self.console:  # what is there is written in one go
            for _ in range(len(self._items)):
                draw = self._items.popleft()
                if isinstance(draw, _Told):
                    told.append(draw)
                else:
                    self._draw_item(draw)
            if self._given_up:
                lost, self._given_up = self._given_up, 0
                self.console.print(f"... {lost:,} blocks are left out: the terminal took no output ...")
        for tell in told:
            tell()

    def _draw_item(self, draw: Callable[[], object]) -> None:
        try:
            draw()  # into the console's buffer: errors of the terminal come when that is written
        except Exception:
            logger.exception("Something could not be shown on the console")

    def _draw_streams(self) -> None:
        streams = list(self._streams.values())
        if streams:
            if self._live is None:
                self._live = _live(self.console)
                self._live.start()
            self._live.update(region(streams, self.console.size), refresh=True)
        elif self._live is not None:
            live, self._live = self._live, None
            live.update("")
            live.stop()

    def _give_in(self, error: BaseException) -> None:
        self._broken = self.console.file
        logger.debug("The console cannot be drawn on any more", exc_info=error)
        self._streams.clear()
        live, self._live = self._live, None
        if live is not None:
            with suppress(Exception, SystemExit):
                live.stop()
        # What waits to be told that all is drawn is told; what would draw fails quietly.
        while self._items:
            with suppress(Exception, SystemExit):
                self._items.popleft()()


class _Told:
    """Somebody who wants to be told when all before is drawn."""

    def __init__(self, tell: Callable[[], object]) -> None:
        self._tell = tell

    def __call__(self) -> object:
        return self._tell()


def _wake(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


def _live(console: Console) -> Live:
    # What a tool prints meanwhile belongs above the region; what goes to a file goes there as ever.
    return Live(
        console=console,
        auto_refresh=False,
        transient=True,
        redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
        redirect_stderr=sys.stderr is not None and sys.stderr.isatty(),
        vertical_overflow="crop",
    )


_screens: weakref.WeakValueDictionary[Console, Screen] = weakref.WeakValueDictionary()


@atexit.register
def _finish_all() -> None:
    for screen in list(_screens.values()):
        screen.finish()
