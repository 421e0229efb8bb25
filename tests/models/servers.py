"""Servers for the ugly side of the wire: they answer with exactly the bytes that a test gives them."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable


class Request:
    """What a client sent."""

    def __init__(self, head: bytes, body: bytes) -> None:
        line, *fields = head.decode("latin-1").split("\r\n")
        self.method, self.target, _ = line.split(" ", 2)
        self.headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        self.body = body

    @property
    def json(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self.body)
        return data


class RawServer:
    """Answers each request in turn with the next of ``answers``, the last one again and again.

    An answer is bytes, or pieces: between them the server flushes, and waits for those that are
    events. ``None`` breaks the connection.
    """

    def __init__(self, answers: Iterable[Any]) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.left = asyncio.Event()  # a client closed its connection
        self.asked = asyncio.Event()  # a request arrived
        self._more = asyncio.Event()
        self._answers = list(answers)
        self._past = 0  # requests before the latest start
        self._server: asyncio.Server | None = None

    @property
    def origin(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def base(self) -> str:
        return f"{self.origin}/v1"

    def restart(self) -> None:
        """Begin with the first answer again."""
        self._past = len(self.requests)

    async def received(self, count: int) -> None:
        """Wait until this many requests have arrived."""
        while len(self.requests) < count:
            self._more.clear()
            await self._more.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (
                        int(f.split(b":")[1])
                        for f in head.lower().split(b"\r\n")
                        if f.startswith(b"content-length")
                    ),
                    0,
                )
                self.requests.append(Request(head[:-4], await reader.readexactly(length)))
                self.asked.set()
                self._more.set()
                number = min(len(self.requests) - self._past, len(self._answers)) - 1
                if not await self._answer(self._answers[number], reader, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left.set()
        finally:
            writer.close()

    async def _answer(self, answer: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        for piece in [answer] if isinstance(answer, bytes) or answer is None else answer:
            if piece is None:
                return False
            if isinstance(piece, asyncio.Event):
                gone = asyncio.create_task(reader.read(1))
                waits = asyncio.create_task(piece.wait())
                await asyncio.wait([gone, waits], return_when=asyncio.FIRST_COMPLETED)
                waits.cancel()
                if gone.done():
                    self.left.set()
                    return False
                gone.cancel()
                with suppress(asyncio.CancelledError):
                    await gone
                continue
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        return True

    async def __aenter__(self) -> RawServer:
        self._tasks: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            with suppress(asyncio.CancelledError):
                await self._serve(reader, writer)
            self._tasks.discard(task)

        self._server = await asyncio.start_server(serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def http(body: bytes, status: str = "200 OK", kind: str = "application/json", **headers: str) -> bytes:
    """A whole answer with its length."""
    fields = {"Content-Type": kind, "Content-Length": str(len(body))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


def completion(message: dict[str, Any] | None = None, **fields: Any) -> bytes:
    """A chat completion as JSON."""
    message = {"role": "assistant", "content": "Hello"} if message is None else message
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return json.dumps(
        {"id": "c-1", "object": "chat.completion", "choices": [choice], "usage": usage} | fields
    ).encode()


def events(*data: Any, end: bytes = b"\n\n", done: bool = True) -> bytes:
    """Server-sent events of JSON values."""
    texts = [json.dumps(value).encode() for value in data] + ([b"[DONE]"] if done else [])
    return b"".join(b"data: " + text + end for text in texts)


def said(text: str, **choice: Any) -> dict[str, Any]:
    """A stream chunk with a piece of text."""
    return {"choices": [{"index": 0, "delta": {"content": text}} | choice]}


def called(**piece: Any) -> dict[str, Any]:
    """A stream chunk with a piece of a tool call."""
    return {"choices": [{"index": 0, "delta": {"tool_calls": [piece]}}]}


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END: dict[str, Any] = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked answer."""
    return b"%x\r\n%s\r\n" % (len(data), data)


@asynccontextmanager
async def answering(*answers: Any) -> AsyncIterator[RawServer]:
    """A server that gives these answers."""
    async with RawServer(answers) as server:
        yield server
