"""Servers and clients of these tests: the real app behind the real server, asked over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp

from manyhands import ToolCallingAgent
from manyhands.serve import Settings, create_app
from manyhands.serve.server import Server
from manyhands.testing import FunctionModel
from tests.agents.replies import final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from starlette.applications import Starlette

    from manyhands import ChatMessage, MultiStepAgent
    from manyhands.serve import Token


@dataclass
class Answer:
    """An answer, read to its end."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        problem: dict[str, Any] = self.json["error"]
        return problem


@dataclass
class Client:
    """A client of a server.

    Attributes:
        url: The server's address.
        session: The connection pool.
        app: The app behind it.
        headers: Headers of every request.
    """

    url: str
    session: aiohttp.ClientSession
    app: Starlette
    headers: dict[str, str] = field(default_factory=dict)

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        headers = {**self.headers, **options.pop("headers", {})}
        async with self.session.request(method, self.url + path, headers=headers, **options) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.ask("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> Answer:
        return await self.ask("POST", path, **({} if body is None else {"json": body}), **options)

    async def start(self, task: str, **more: Any) -> dict[str, Any]:
        """Start a run that must be taken; return what is shown of it."""
        answer = await self.post("/v1/runs", {"task": task, **more})
        assert answer.status in (200, 202), answer.body
        run: dict[str, Any] = answer.json
        return run

    async def ended(self, run_id: str) -> dict[str, Any]:
        """Wait for the end of a run."""
        while True:
            run: dict[str, Any] = (await self.get(f"/v1/runs/{run_id}?wait=60")).json
            if run["ended_at"] is not None:
                return run

    def stream(self, path: str, **headers: str) -> Any:
        return self.session.get(self.url + path, headers={**self.headers, **headers})

    async def events(self, run_id: str, **headers: str) -> list[dict[str, Any]]:
        """Read the stream of a run to its end."""
        async with self.stream(f"/v1/runs/{run_id}/events", **headers) as response:
            assert response.status == 200
            return [event async for event in events_of(response)]

    async def event(self, run_id: str, wanted: str) -> dict[str, Any]:
        """Wait for the first event of a kind."""
        async with self.stream(f"/v1/runs/{run_id}/events") as response:
            async for event in events_of(response):
                if event["type"] == wanted:
                    return event
        raise AssertionError(f"The run ended without {wanted}.")


async def events_of(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """Give the events of a stream; each must be framed as its content says."""
    fields: dict[str, str] = {}
    async for raw in response.content:
        line = raw.decode("ascii").rstrip("\n")
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            event = json.loads(fields["data"])
            assert fields.get("event", event["type"]) == event["type"]
            if event["type"] != "gap":
                assert fields["id"] == str(event["seq"])
            yield event
            fields = {}
        else:
            fields = {}


@contextlib.asynccontextmanager
async def served(
    agents: MultiStepAgent | Iterable[MultiStepAgent] | Starlette,
    *,
    tokens: Iterable[Token] = (),
    **settings: Any,
) -> AsyncIterator[Client]:
    """Serve agents, or an app, on the running loop."""
    from starlette.applications import Starlette

    app = agents if isinstance(agents, Starlette) else None
    if app is None:
        app = create_app(agents, tokens=tokens, settings=Settings(**{"drain_seconds": 0, **settings}))  # type: ignore[arg-type]
    ready = asyncio.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(app, on_ready=ready.set)
        serving = asyncio.create_task(server.serve([listener]))
        try:
            await ready.wait()
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            timeout = aiohttp.ClientTimeout(total=60)
            connector = aiohttp.TCPConnector(limit=0)
            async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
                yield Client(url, session, app)
        finally:
            server.should_exit = True
            await serving


class Gate:
    """A model that answers each task with itself, and some only when they are let go.

    Attributes:
        begun: Tasks that have been asked.
    """

    def __init__(self, kept: Callable[[str], bool] = lambda task: True) -> None:
        self.begun: list[str] = []
        self._kept = kept
        self._open = asyncio.Event()
        self._asked = asyncio.Condition()

    def open(self) -> None:
        self._open.set()

    async def answer(self, messages: list[ChatMessage]) -> ChatMessage:
        task = task_of(messages)
        async with self._asked:
            self.begun.append(task)
            self._asked.notify_all()
        if self._kept(task):
            await self._open.wait()
        return final(f"answer to {task}")

    async def until(self, count: int) -> None:
        """Wait until the model has been asked so often."""
        async with self._asked:
            await self._asked.wait_for(lambda: len(self.begun) >= count)

    def agent(self, **options: Any) -> ToolCallingAgent:
        return ToolCallingAgent([], FunctionModel(self.answer), **options)


def task_of(messages: list[ChatMessage]) -> str:
    """Return the last task in a conversation."""
    tasks = [message.text for message in messages if message.text.startswith("New task:\n")]
    return tasks[-1].removeprefix("New task:\n")


def echo(**options: Any) -> ToolCallingAgent:
    """An agent that answers at once, with its task."""

    async def answer(messages: list[ChatMessage]) -> ChatMessage:
        return final(f"answer to {task_of(messages)}")

    return ToolCallingAgent([], FunctionModel(answer), **options)
