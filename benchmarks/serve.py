"""What it takes an event of a run to reach its client, with many clients at once.

::

    python benchmarks/serve.py                   # 500 clients, each on its own run: about a minute
    python benchmarks/serve.py --quick           # 100 clients
    python benchmarks/serve.py --json serve.json

Three processes: a provider, ``manyhands serve``, and the clients. The provider is the simulated one, whose
answers solve each client's own task, and then one that writes the time into every piece of its answers, so
that what lies between the model's words and the client is measured from one end to the other. On Linux it is
also told what each process took of a core while all streams were open.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _meter
import aiohttp
from _meter import Figure, Report
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GOAL_SECONDS = 0.050
# The provider that stamps: pieces of an answer, and seconds between them.
_PIECES, _PAUSE = 40, 0.1
_CODE = "<code>\nfinal_answer('done')\n</code>"


@dataclass(slots=True)
class Seen:
    """What one client saw.

    Attributes:
        run_id: Its run.
        opened: When its stream was open; what had been told before comes late by nature.
        chunks: When something came, and what.
    """

    run_id: str
    opened: float
    chunks: list[tuple[float, bytes]]

    def events(self) -> Iterator[tuple[float, dict[str, Any]]]:
        """Give each event, and when it had come."""
        # What HTTP puts around its pieces stands on lines of its own.
        rest = b""
        for at, chunk in self.chunks:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.startswith(b"data: "):
                    yield at, json.loads(line[6:])


# --- Processes -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Program:
    """A program that listens."""

    address: str
    pid: int

    def cpu(self) -> float:
        """Return the seconds of CPU that it has taken; 0 where the system does not say."""
        ran = 0
        for tasks in Path(f"/proc/{self.pid}/task").glob("*/schedstat"):
            ran += int(tasks.read_text().split()[0])
        return ran / 1e9


@contextlib.contextmanager
def _program(*words: str) -> Iterator[Program]:
    """Run a program that says where it listens."""
    process = subprocess.Popen([sys.executable, "-u", *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            found = [word for word in line.split() if word.startswith("http://")]
            if found:
                yield Program(found[0].rstrip("/"), process.pid)
                return
        raise SystemExit(f"{' '.join(words)} did not start.")
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


@contextlib.contextmanager
def _server(provider: Program) -> Iterator[Program]:
    words = "-m manyhands serve --port 0 --max-runs 2000 --model simulated --api-key none --api-base"
    with _program(*words.split(), provider.address) as server:
        yield server


async def _stamping() -> None:
    """Serve a provider that writes the time into each piece."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", _stamped)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
    await asyncio.Event().wait()


async def _stamped(request: web.Request) -> web.StreamResponse:
    await request.read()
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for _ in range(_PIECES):
        # Uneven, as from a model: in step, all pieces of a moment would wait for each other.
        await asyncio.sleep(random.uniform(0.5, 1.5) * _PAUSE)
        await response.write(_piece(f"{time.time()} "))
    await response.write(_piece(_CODE) + b"data: [DONE]\n\n")
    return response


def _piece(text: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


# --- Clients ---------------------------------------------------------------------------------------


class _Stream(asyncio.Protocol):
    """Takes a stream as it comes, with little ado: the clients stand for other machines."""

    def __init__(self) -> None:
        self.chunks: list[tuple[float, bytes]] = []
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.chunks.append((time.time(), data))
        self.begun.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.begun.set()
        self.ended.set()


class Crowd:
    """Clients that each start a run and watch it.

    Args:
        server: Who serves the runs.
        clients: How many.
        programs: Whose CPU is measured while all streams are open, and ours.
    """

    def __init__(self, server: Program, clients: int, *programs: Program) -> None:
        self._server = server
        self._clients = clients
        self._programs = [*programs, Program("", os.getpid())]
        self._waiting = clients
        self._taken: list[tuple[float, list[float]]] = []

    async def watch(self) -> list[Seen]:
        """Start all runs at once, and watch them to their ends."""
        timeout = aiohttp.ClientTimeout(total=600)
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            await self._watch(session, 1, None)  # everything has been imported and made once
            return await asyncio.gather(*[self._watch(session, n, self._take) for n in range(self._clients)])

    async def _watch(self, session: Any, number: int, take: Callable[[int], None] | None) -> Seen:
        body = {"task": f"What is {number} * 7?"}
        async with session.post(f"{self._server.address}/v1/runs", json=body) as answer:
            answer.raise_for_status()
            run_id = (await answer.json())["id"]
        where = self._server.address.removeprefix("http://")
        host, port = where.split(":")
        transport, stream = await asyncio.get_running_loop().create_connection(_Stream, host, int(port))
        head = f"GET /v1/runs/{run_id}/events HTTP/1.1\r\nHost: {where}\r\nConnection: close\r\n\r\n"
        transport.write(head.encode())
        await stream.begun.wait()
        seen = Seen(run_id, time.time(), stream.chunks)
        if take is not None:
            take(-1)
        await stream.ended.wait()
        if take is not None:
            take(1)
        return seen

    def _take(self, change: int) -> None:
        """Note what was taken when the last stream opens, and when the first one ends."""
        self._waiting += change
        if self._waiting == 0 and change < 0 or self._waiting == 1 and change > 0:
            self._taken.append((time.perf_counter(), [program.cpu() for program in self._programs]))

    def cores(self) -> list[float]:
        """Return what each program, and we, took of a core while all streams were open, if they ever were."""
        if len(self._taken) < 2:
            return []
        (began, before), (ended, after) = self._taken[:2]
        return [(late - early) / (ended - began) for early, late in zip(before, after, strict=True)]


# --- Figures ---------------------------------------------------------------------------------------


def _whole(events: list[dict[str, Any]], run_id: str) -> bool:
    """Return whether nothing is missing, doubled, or somebody else's."""
    numbers = [event["seq"] for event in events]
    kinds = [event["type"] for event in events]
    return (
        numbers == list(range(1, len(events) + 1))
        and kinds[0] == "run_start"
        and kinds[-1] == "run_end"
        and {event["run_id"] for event in events} == {run_id}
    )


def _lost(all_seen: list[Seen], answers: list[Any]) -> int:
    lost = 0
    for seen, answer in zip(all_seen, answers, strict=True):
        events = [event for _, event in seen.events()]
        told = [event["output"] for event in events if event["type"] == "final_answer"]
        lost += not _whole(events, seen.run_id) or told != [answer]
    return lost


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


def _from_the_run(report: Report, clients: int, pace: float) -> None:
    words = f"-m manyhands simulate --port 0 --latency 0.5 --tokens-per-second {pace}"
    with _program(*words.split()) as provider, _server(provider) as server:
        began = time.perf_counter()
        all_seen = asyncio.run(Crowd(server, clients).watch())
        took = time.perf_counter() - began
    everything = [(seen, at, event["time"]) for seen in all_seen for at, event in seen.events()]
    late = [at - told for seen, at, told in everything if told >= seen.opened]
    note = f"{len(everything):,} events in {took:.1f} s, {len(late):,} of them on open streams"
    lost = _lost(all_seen, [number * 7 for number in range(clients)])
    report.add(
        Figure(f"{clients} clients: runs that lost or mixed up something", lost, goal=0, note=note),
        _figure(f"{clients} clients: event to client, p99", late, 0.99, GOAL_SECONDS),
        _figure(f"{clients} clients: event to client, median", late, 0.5),
    )


def _from_the_model(report: Report, clients: int) -> None:
    with _program(__file__, "--stamping") as provider, _server(provider) as server:
        crowd = Crowd(server, clients, provider, server)
        all_seen = asyncio.run(crowd.watch())
    late = []
    for seen in all_seen:
        for at, event in seen.events():
            if event["type"] == "delta" and event["content"][0].isdigit():
                said = float(event["content"])
                late += [at - said] if said >= seen.opened else []
    lost = _lost(all_seen, ["done"] * clients)
    pace = clients / _PAUSE
    note = f"{len(late):,} pieces on open streams, {pace:,.0f} each second"
    report.add(
        Figure(f"{clients} clients: runs that lost or mixed up something", lost, goal=0, note=note),
        _figure(f"{clients} clients: model's word to client, p99", late, 0.99, GOAL_SECONDS),
        _figure(f"{clients} clients: model's word to client, median", late, 0.5),
    )
    cores = crowd.cores()
    if cores:
        shares = "of a core: provider {:.2f}, server {:.2f}, clients {:.2f}".format(*cores)
        report.add(Figure("CPU of the server for a piece", round(1e6 * cores[1] / pace), "µs", note=shares))


def _figure(name: str, values: list[float], share: float, goal: float | None = None) -> Figure:
    value = round(1000 * _quantile(values, share), 2)
    return Figure(name, value, "ms", None if goal is None else 1000 * goal)


def main() -> int:
    """Measure and print; with ``--strict`` the exit status says whether every goal was reached."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="100 clients")
    parser.add_argument("--clients", type=int, default=500, help="clients at once (500)")
    parser.add_argument("--pace", type=float, default=10.0, help="tokens each second of a reply (10)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a goal is missed")
    parser.add_argument("--stamping", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    _meter.raise_file_limit()
    if given.stamping:
        asyncio.run(_stamping())
    clients = 100 if given.quick else given.clients
    report = Report()
    _from_the_run(report, clients, given.pace)
    _from_the_model(report, clients)
    if given.json:
        report.write(given.json, clients=clients)
    return int(given.strict and bool(report.missed()))


if __name__ == "__main__":
    sys.exit(main())
