"""``manyhands top`` shows what a server does, survives its restart, and says what is wrong."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from rich.cells import cell_len
from rich.console import Console

from manyhands import Fleet, ToolCallingAgent
from manyhands.cli import main
from manyhands.observe.fleet_board import SORTS, View, render
from manyhands.testing import FunctionModel
from tests.agents.replies import final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

TOKEN = "a-token-for-the-fleet"


class FleetServer:
    """The fleet of this process over HTTP, as ``manyhands serve`` offers it.

    Args:
        fleet: The fleet.
        stream: Whether it streams as well.
    """

    def __init__(self, fleet: Fleet, stream: bool = True) -> None:
        self._fleet = fleet
        self._stream = stream
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/v1/fleet", self._now)
        if self._stream:
            app.router.add_get("/v1/fleet/events", self._events)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _check(self, request: web.Request) -> None:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise web.HTTPUnauthorized

    async def _now(self, request: web.Request) -> web.Response:
        self._check(request)
        return web.json_response(self._fleet.dict(int(request.query["runs"])))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        self._check(request)
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        async for now in self._fleet.changes(0.05):
            await answer.write(b": beat\n\nevent: fleet\ndata: " + json.dumps(now).encode() + b"\n\n")
        return answer

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"


@asynccontextmanager
async def serving(stream: bool = True) -> AsyncIterator[tuple[FleetServer, Fleet, asyncio.Event]]:
    """A server with three runs in flight, which end when the event is set."""
    fleet, door = Fleet(), asyncio.Event()

    async def reply(messages: Any) -> Any:
        await door.wait()
        return final("yes")

    agent = ToolCallingAgent(model=FunctionModel(reply), name="waiter", observers=[fleet.observe])
    runs = [asyncio.ensure_future(agent.arun(f"Task [b]{name}[/b] \x1b[2J")) for name in "abc"]
    server = FleetServer(fleet, stream)
    await server.start()
    try:
        yield server, fleet, door
    finally:
        door.set()
        await asyncio.gather(*runs)
        await server.stop()


class Typist:
    """``manyhands top`` in a terminal of its own, with somebody who reads and types.

    Args:
        words: Words of the command.
    """

    def __init__(self, *words: str) -> None:
        self._master, slave = pty.openpty()
        environment = {
            **os.environ,
            "MANYHANDS_TOKEN": TOKEN,
            "COLUMNS": "100",
            "LINES": "30",
            "TERM": "xterm",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "manyhands", "top", *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
        )
        os.close(slave)
        self.seen = ""
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._master, 65536).decode(errors="replace")
            except OSError:  # it has ended
                return
            self._loop.call_soon_threadsafe(self._take, piece)

    def _take(self, piece: str) -> None:
        self.seen += piece
        self._news.set()

    async def until(self, words: str) -> None:
        """Wait until these words come, and forget what came before."""
        async with asyncio.timeout(30):
            while words not in self.seen:
                self._news.clear()
                await self._news.wait()
        self.seen = self.seen.partition(words)[2]

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    async def close(self) -> int:
        status = await asyncio.to_thread(self.process.wait, 30)
        await asyncio.to_thread(self._reader.join, 10)
        os.close(self._master)
        return status

    async def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            await self.close()


@pytest.mark.parametrize("stream", [True, False])
async def test_runs_are_shown_and_followed_until_q(stream: bool) -> None:
    async with serving(stream) as (server, _, door):
        typist = Typist(server.url)
        try:
            await typist.until("3 in flight")
            await typist.until("Task [b]a[/b] ␛[2J")
            typist.type("s")
            await typist.until("sort (by tokens)")
            door.set()
            await typist.until("3 succeeded")
            typist.type("q")
            assert await typist.close() == 0
        finally:
            await typist.kill()
        assert "\x1b[?1049l" in typist.seen  # the screen is as it was


async def test_a_pause_holds_the_picture_and_not_the_server() -> None:
    async with serving() as (server, _, door):
        typist = Typist(server.url)
        try:
            await typist.until("3 in flight")
            typist.type("p")
            await typist.until("paused")
            door.set()
            typist.type("s")
            await typist.until("3 in flight")
            typist.type("p")
            await typist.until("3 succeeded")
            typist.type("q")
            assert await typist.close() == 0
        finally:
            await typist.kill()


async def test_a_server_that_restarts_is_found_again() -> None:
    async with serving() as (server, _, _):
        typist = Typist(server.url)
        try:
            await typist.until("3 in flight")
            await server.stop()
            await typist.until("the server is gone")
            await server.start()
            await typist.until("up ")
            typist.seen = ""
            await typist.until("3 in flight")
            typist.type("q")
            assert await typist.close() == 0
        finally:
            await typist.kill()


@contextmanager
def started_server() -> Iterator[str]:
    """``manyhands serve`` with a model that takes its time."""
    command = [sys.executable, "-m", "manyhands", "serve", "--port", "0", "--model", "simulated"]
    process = subprocess.Popen([*command, "--latency", "60"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().partition(" at ")[2].split()[0]
    finally:
        process.kill()
        process.communicate()


def test_the_server_of_manyhands_serve_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    with started_server() as url:
        task = json.dumps({"task": "What is [b]2[/b] + 2?"}).encode()
        request = urllib.request.Request(f"{url}/v1/runs", task, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            assert answer.status < 300
        shown = ""
        deadline = time.monotonic() + 20
        while "1 in flight" not in shown and time.monotonic() < deadline:
            assert main(["top", url, "--once"]) == 0
            shown = capsys.readouterr().out
        assert "What is [b]2[/b] + 2?" in shown


async def test_once_prints_what_goes_on_also_into_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as (server, _, _):
        words = ["top", server.url, "--once", "--token", TOKEN]
        assert await asyncio.to_thread(main, words) == 0
        shown = capsys.readouterr().out
        assert "3 in flight" in shown and "Task [b]a[/b] ␛[2J" in shown and "\x1b" not in shown
        assert await asyncio.to_thread(main, ["top", server.url, "--once"]) == 2
        assert "wants a token" in capsys.readouterr().err
        assert await asyncio.to_thread(main, ["top", server.url, "--token", TOKEN]) == 2
        assert "needs a terminal" in capsys.readouterr().err


def test_what_is_wrong_is_said_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert main(["top", f"http://127.0.0.1:{port}", "--once"]) == 2
    said = capsys.readouterr().err
    assert "cannot be reached" in said and "manyhands serve" in said and "Traceback" not in said
    for address in ("ftp://x", "http://", "host:port", "http://x:99999999"):
        assert main(["top", address, "--once"]) == 2
        assert "is no address of a server" in capsys.readouterr().err


@pytest.mark.parametrize("body", ["[]", "{}", "no JSON", '{"runs": 3}'])
async def test_a_server_of_something_else_is_told_from_one_of_agents(
    body: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=body, content_type="application/json")

    app = web.Application()
    app.router.add_get("/v1/fleet", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        url = f"127.0.0.1:{runner.addresses[0][1]}"
        assert await asyncio.to_thread(main, ["top", url, "--once"]) == 2
        assert "no server of agents" in capsys.readouterr().err
    finally:
        await runner.cleanup()


# --- The picture --------------------------------------------------------------------------------------


def fleet_of(number: int) -> dict[str, Any]:
    rows = [
        {
            "id": f"{place:032x}",
            "parent_id": None,
            "agent": f"agent{place % 3}",
            "task": "word " * 60,
            "step": place % 7,
            "activity": "rate limit",
            "waits": [{"for": "rate limit", "name": "x" * 80, "seconds": 1}],
            "age": float(number - place),
            "tokens": {"total": place * 10},
        }
        for place in range(number)
    ]
    limit = {"kind": "slots", "name": "n" * 300, "limit": 1, "held": 1, "waiting": 0}
    request = {"agent": "a", "tool": "erase", "arguments": {"path": "y" * 300}, "age": 3}
    return {
        "uptime": 10,
        "runs": {"in_flight": number, "failed": 3},
        "rate": 1.0,
        "failures": {"ServerError": 3},
        "retries": 2,
        "refusals": 1,
        "money": 0.0123,
        "in_flight": rows,
        "limits": [limit] * 9,
        "approvals": [request] * 5,
    }


@pytest.mark.parametrize("size", [(30, 10), (80, 24), (200, 50)])
@pytest.mark.parametrize("number", [0, 1, 1000])
def test_the_picture_fits_the_screen(size: tuple[int, int], number: int) -> None:
    width, height = size
    console = Console(width=width, height=height, force_terminal=True, color_system=None, record=True)
    with console.capture() as captured:
        console.print(render(fleet_of(number), View("top"), max(height, 20)))
    lines = captured.get().splitlines()
    assert len(lines) <= max(height, 20)
    assert max(map(cell_len, lines)) <= width


def test_the_picture_shows_limits_requests_money_and_where_one_is() -> None:
    console = Console(width=120, force_terminal=True, color_system=None)
    view = View("top", offset=10_000)
    with console.capture() as captured:
        console.print(render(fleet_of(50), view, 30))
    shown = captured.get()
    asked = "5 wait   since 3.0s: a, erase(path="
    for part in ("waiting on", asked, "$0.0123", "3 failed", "of 50   q quit"):
        assert part in shown, shown
    assert 0 < view.offset < 50


def test_rows_are_sorted_by_what_is_asked() -> None:
    view = View("top")
    firsts = []
    for _ in SORTS:
        console = Console(width=120, force_terminal=True, color_system=None)
        with console.capture() as captured:
            console.print(render(fleet_of(20), view))
        rows = [line for line in captured.get().splitlines() if "agent" in line and "rate" in line]
        firsts.append(rows[0].split()[2:5])
        view.next_sort()
    assert view.sort == "age"
    assert firsts[0][0] == "20.0s" and firsts[1][2] == "190" and firsts[2][1] == "6"
