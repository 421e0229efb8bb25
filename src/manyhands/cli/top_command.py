"""``manyhands top``: the runs of a server on a full screen, also across a restart of it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
from rich.console import Console
from rich.live import Live

from manyhands._bridge import call_in_thread
from manyhands.cli import FAILED, OK
from manyhands.errors import CallerError
from manyhands.models.sse import EventReader
from manyhands.observe.fleet_board import View, render

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Iterator

_ROWS = 500
# Seconds: between two drawings, between two tries, without a word before a connection counts as lost.
_REFRESH = 0.25
_AGAIN = 1.0
_SILENCE = 60.0
_UP, _DOWN, _PAGE_UP, _PAGE_DOWN = "\x1b[A", "\x1b[B", "\x1b[5~", "\x1b[6~"


def execute(args: argparse.Namespace) -> int:
    """Watch until ``q`` or Ctrl-C, or look once."""
    server = Server(_address(args.url), args.token or os.environ.get("MANYHANDS_TOKEN"))
    if args.once:
        fleet = asyncio.run(server.look())
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
        with console.capture() as picture:
            console.print(render(fleet, View(title=f"manyhands top   {server.url}")))
        print("\n".join(line.rstrip() for line in picture.get().splitlines()))
        return OK
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise CallerError("manyhands top needs a terminal; --once prints what goes on, once.")
    try:
        asyncio.run(Watch(server).work())
    except asyncio.CancelledError:  # Ctrl-C
        return FAILED
    return OK


def _address(words: str) -> str:
    url = (words if "://" in words else f"http://{words}").rstrip("/")
    parts = urlsplit(url)
    try:
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        known = False
    if not known:
        raise CallerError(f"{words!r} is no address of a server; write http://HOST:PORT.")
    return url


class LostError(Exception):
    """The server cannot be reached now; the message says why."""


class Server:
    """A server of agents, as one looks at it.

    Args:
        url: Where it is.
        token: Its token, if it wants one.
    """

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def look(self) -> dict[str, Any]:
        """Return what goes on now.

        Raises:
            CallerError: Nothing listens, it lets nobody in, or it is no server of agents.
        """
        async with self._session() as session:
            try:
                return await self._fetch(session)
            except LostError as error:
                raise CallerError(
                    f"{self.url} cannot be reached: {error}. Start a server with manyhands serve."
                ) from error

    async def looks(self) -> AsyncIterator[dict[str, Any]]:
        """Give what goes on, again and again, as the server streams it; else by asking.

        Raises:
            LostError: The connection is lost.
            CallerError: It lets nobody in any more.
        """
        async with self._session() as session:
            yield await self._fetch(session)
            with _losses():
                limits = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=_SILENCE)
                path = f"{self.url}/v1/fleet/events?runs={_ROWS}"
                async with session.get(path, timeout=limits) as answer:
                    if answer.status == 200 and answer.content_type == "text/event-stream":
                        reader = EventReader()
                        async for chunk in answer.content.iter_any():
                            for data in reader.feed(chunk)[-1:]:  # who is behind wants the newest
                                yield _fleet(data)
                        raise LostError("the server ended the stream")
            while True:
                await asyncio.sleep(2 * _REFRESH)
                yield await self._fetch(session)

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(headers=self._headers, timeout=aiohttp.ClientTimeout(total=10))

    async def _fetch(self, session: aiohttp.ClientSession) -> dict[str, Any]:
        with _losses():
            async with session.get(f"{self.url}/v1/fleet?runs={_ROWS}") as answer:
                self._check(answer.status)
                return _fleet(await answer.read())

    def _check(self, status: int) -> None:
        if status in (401, 403):
            raise CallerError(
                f"{self.url} wants a token: give --token TOKEN, or put it into MANYHANDS_TOKEN."
            )
        if status >= 500 or status == 429:
            raise LostError(f"the server answers with status {status}")
        if status != 200:
            raise CallerError(f"{self.url} is no server of agents: /v1/fleet answers with status {status}.")


def _fleet(data: bytes) -> dict[str, Any]:
    try:
        fleet = json.loads(data)
    except ValueError:
        fleet = None
    if not isinstance(fleet, dict) or not isinstance(fleet.get("runs"), dict):
        raise CallerError("What answers there is no server of agents.")
    return fleet


@contextmanager
def _losses() -> Iterator[None]:
    try:
        yield
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        reason = "it takes too long" if isinstance(error, TimeoutError) else str(error)
        raise LostError(reason or type(error).__name__) from error


class Watch:
    """The full screen, and the keys.

    Args:
        server: What is watched.
        console: Where it is drawn.
    """

    def __init__(self, server: Server, console: Console | None = None) -> None:
        self._server = server
        self._console = console or Console(highlight=False)
        self._view = View(title=f"manyhands top   {server.url}")
        self._fleet: dict[str, Any] = {}
        self._shown: dict[str, Any] = {}
        self._changed = asyncio.Event()
        self._quit = asyncio.Event()

    async def work(self) -> None:
        """Watch until somebody quits.

        Raises:
            CallerError: The server is not there at the beginning, or lets nobody in.
        """
        self._fleet = self._shown = await self._server.look()
        jobs = [asyncio.ensure_future(job) for job in (self._listen(), self._draw(), self._quit.wait())]
        live = Live(console=self._console, screen=True, auto_refresh=False)
        with _keys_one_by_one(), live:
            self._live = live
            loop = asyncio.get_running_loop()
            loop.add_reader(sys.stdin.fileno(), self._read_keys)
            try:
                await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            finally:
                loop.remove_reader(sys.stdin.fileno())
                for job in jobs:
                    job.cancel()
                ended = await asyncio.gather(*jobs, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error

    # --- The server ------------------------------------------------------------------------------

    async def _listen(self) -> None:
        while True:
            try:
                async for fleet in self._server.looks():
                    self._view.problem = ""
                    self._fleet = fleet
                    if not self._view.paused:
                        self._shown = fleet
                    self._changed.set()
            except LostError as error:
                self._view.problem = f"the server is gone ({error}); trying again"
                self._changed.set()
            await asyncio.sleep(_AGAIN)

    # --- The screen ------------------------------------------------------------------------------

    async def _draw(self) -> None:
        while True:
            self._changed.clear()
            picture = render(self._shown, self._view, self._console.height)
            await call_in_thread(partial(self._live.update, picture, refresh=True), label="top")
            await asyncio.sleep(_REFRESH)
            # A window of another size is noticed, too.
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), 1.0)

    # --- The keys --------------------------------------------------------------------------------

    def _read_keys(self) -> None:
        typed = os.read(sys.stdin.fileno(), 1024).decode(errors="ignore")
        view, page = self._view, max(1, self._console.height // 2)
        steps = {_UP: -1, "k": -1, _DOWN: 1, "j": 1, _PAGE_UP: -page, _PAGE_DOWN: page}
        if not typed or "q" in typed:
            self._quit.set()
        elif "p" in typed:
            view.paused = not view.paused
            self._shown = self._shown if view.paused else self._fleet
        elif "s" in typed:
            view.next_sort()
        elif typed in steps:
            view.offset += steps[typed]
        self._changed.set()


@contextmanager
def _keys_one_by_one() -> Iterator[None]:
    """Take each key as it is struck, without showing it; as it was, afterwards."""
    try:
        import termios
        import tty
    except ImportError as error:
        raise CallerError("manyhands top takes no keys on this system; use --once.") from error
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
