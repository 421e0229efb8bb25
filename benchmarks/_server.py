"""A provider that costs next to nothing: what the benchmarks ask, in a process of its own.

It speaks as much HTTP and chat-completions JSON as the clients need. The address says how it answers::

    http://127.0.0.1:PORT/tools/1.0/3/v1        tool calls, each after 1 s, an answer in the third step
    http://127.0.0.1:PORT/code/g1000@2/3/v1     code; the second step of 1,000 runs waits until all are there
    http://127.0.0.1:PORT/chat-stream/0.3/1/v1  200 deltas, one write each; see ``_wires.py`` for more

Which step a run is at is read off its conversation, so that the server remembers nothing. The answer of a
run is what its own tool said, so that a run mixed up with another one shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import _wires

if TYPE_CHECKING:
    from collections.abc import Iterator

# How long a full house is kept waiting, for others to look at it.
HOLD_SECONDS = 1.5

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_KEY = re.compile(rb"key-\d+")
_FOUND = re.compile(rb"value of key-\d+")
_SAID = _wires.answers()
_GATE = re.compile(r"g(\d+)@(\d+)")

_REPLY = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"bench","choices":[{"index":0,'
    b'"message":{"role":"assistant",%b},"finish_reason":"%b"}],'
    b'"usage":{"prompt_tokens":400,"completion_tokens":20,"total_tokens":420}}'
)
_CALL = (
    b'"content":null,"tool_calls":[{"id":"call_%d_%b","type":"function",'
    b'"function":{"name":"%b","arguments":"{\\"%b\\": \\"%b\\"}"}}]'
)
_CODE = b'"content":"Thought: %b\\n<code>\\n%b\\n</code>"'


class Manner(NamedTuple):
    """How requests to one address are answered."""

    kind: str
    delay: float
    steps: int
    gate_size: int
    gate_step: int


@functools.cache
def _manner(path: bytes) -> Manner:
    kind, delay, steps = path.decode().split("/")[1:4]
    gate = _GATE.fullmatch(delay)
    if gate is None:
        return Manner(kind, float(delay), int(steps), 0, 0)
    return Manner(kind, 0.0, int(steps), int(gate[1]), int(gate[2]))


def _answer(manner: Manner, step: int, body: bytes) -> bytes:
    if step < manner.steps:
        found = _KEY.search(body)
        key = found[0] if found else b"no key"
    else:
        found = _FOUND.search(body)
        key = found[0] if found else b"nothing"
    last = step >= manner.steps
    if manner.kind == "code":
        thought = b"that is it." if last else b"look it up."
        code = b'final_answer(\\"%b\\")' if last else b'found = lookup(\\"%b\\")\\nprint(found)'
        said, reason = _CODE % (thought, code % key), b"stop"
    else:
        tool, argument = (b"final_answer", b"answer") if last else (b"lookup", b"key")
        said, reason = _CALL % (step, key.replace(b" ", b"_"), tool, argument, key), b"tool_calls"
    return _framed(_REPLY % (said, reason))


def _framed(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


class _House:
    """The requests that are kept until all expected ones are there."""

    def __init__(self) -> None:
        self.held: list[tuple[asyncio.Transport, bytes]] = []
        self.watchers: list[asyncio.Transport] = []
        self.full = False

    def hold(self, transport: asyncio.Transport, answer: bytes, size: int) -> None:
        self.held.append((transport, answer))
        if len(self.held) < size:
            return
        self.full = True
        for watcher in self.watchers:
            watcher.write(_framed(b"{}"))
        self.watchers.clear()
        asyncio.get_running_loop().call_later(HOLD_SECONDS, self.open)

    def watch(self, transport: asyncio.Transport) -> None:
        if self.full:
            transport.write(_framed(b"{}"))
        else:
            self.watchers.append(transport)

    def open(self) -> None:
        held, self.held, self.full = self.held, [], False
        for transport, answer in held:
            transport.write(answer)


class _Connection(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, house: _House) -> None:
        self._house = house
        self._data = b""
        self._need = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data = self._data + data if self._data else data
        while len(self._data) >= self._need:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._data[:end]
            length = _LENGTH.search(head)
            self._need = end + 4 + (int(length[1]) if length else 0)
            if len(self._data) < self._need:
                return
            body, self._data, self._need = self._data[end + 4 : self._need], self._data[self._need :], 0
            self._serve(head.split(b" ", 2)[1], body)

    def _serve(self, path: bytes, body: bytes) -> None:
        if path == b"/full":
            self._house.watch(self._transport)
            return
        manner = _manner(path)
        if manner.kind in _SAID:
            asyncio.get_running_loop().call_later(manner.delay, self._write, iter(_SAID[manner.kind]))
            return
        # In JSON text a quote stands behind a backslash: this is counted in the roles only.
        step = body.count(b'"assistant"') + 1
        answer = _answer(manner, step, body)
        if manner.gate_size and step == manner.gate_step:
            self._house.hold(self._transport, answer, manner.gate_size)
        elif manner.delay:
            asyncio.get_running_loop().call_later(manner.delay, self._transport.write, answer)
        else:
            self._transport.write(answer)

    def _write(self, pieces: Iterator[bytes]) -> None:
        """Write a piece, and the next one when everybody else had a turn."""
        piece = next(pieces, None)
        if piece is not None:
            self._transport.write(piece)
            asyncio.get_running_loop().call_soon(self._write, pieces)


async def _main() -> None:
    house = _House()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(house), "127.0.0.1", 0, backlog=8192)
    print(server.sockets[0].getsockname()[1], flush=True)
    # The parent's end of stdin closes when it goes, whatever way it goes.
    await loop.run_in_executor(None, sys.stdin.read)


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Run the server in a process of its own; gives its address."""
    process = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    import _meter

    _meter.raise_file_limit()
    asyncio.run(_main())
