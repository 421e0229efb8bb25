"""The app inside of other apps, and runs that other apps stream themselves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from manyhands import ToolCallingAgent
from manyhands.serve import Settings, create_app, sse_events
from manyhands.testing import ScriptedModel
from tests.serve.serving import Gate, echo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.applications import Starlette


@contextlib.asynccontextmanager
async def running(app: Any, state: Starlette | None = None) -> AsyncIterator[str]:
    """Serve any app with plain uvicorn; give the address."""
    import socket

    import uvicorn

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        serving = asyncio.create_task(server.serve([listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


async def ask(url: str, body: Any = None) -> tuple[int, Any]:
    import aiohttp

    async with aiohttp.ClientSession() as session:
        method = "GET" if body is None else "POST"
        async with session.request(method, url, json=body) as response:
            return response.status, (await response.read()).decode()


async def test_fastapi_mounts_it_under_a_path_and_ends_its_runs() -> None:
    gate = Gate(lambda task: task == "kept")
    agents = create_app(gate.agent(), settings=Settings(drain_seconds=0))

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with agents.state.service:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/hello")
    async def hello() -> str:
        return "hello"

    app.mount("/agents", agents)
    async with running(app) as url:
        assert await ask(f"{url}/hello") == (200, '"hello"')
        status, told = await ask(f"{url}/agents/v1/runs", {"task": "this", "wait": True})
        assert (status, json.loads(told)["output"]) == (200, "answer to this")
        _, document = await ask(f"{url}/agents/openapi.json")
        assert json.loads(document)["servers"] == [{"url": "/agents"}]
        status, page = await ask(f"{url}/agents/")
        assert (status, "manyhands" in page) == (200, True)
        _, kept = await ask(f"{url}/agents/v1/runs", {"task": "kept"})
        await gate.until(2)
        assert json.loads(kept)["status"] in ("queued", "running")
    assert [record.status for record in agents.state.service.store.active()] == []
    assert agents.state.service.store.running == 0


async def test_another_app_streams_the_events_of_a_run() -> None:
    app = FastAPI()

    @app.get("/stream")
    async def stream(task: str) -> StreamingResponse:
        return StreamingResponse(sse_events(echo().arun(task)), media_type="text/event-stream")

    async with running(app) as url:
        status, told = await ask(f"{url}/stream?task=this")
    events = [json.loads(line[6:]) for line in told.splitlines() if line.startswith("data: ")]
    assert status == 200
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert (events[0]["type"], events[-1]["type"]) == ("run_start", "run_end")
    assert next(event for event in events if event["type"] == "final_answer")["output"] == "answer to this"


async def test_a_stream_that_is_closed_cancels_its_run() -> None:
    gate = Gate()
    run = gate.agent().arun("this")
    async with contextlib.aclosing(sse_events(run)) as chunks:
        async for _ in chunks:
            break
        await gate.until(1)
    assert run.status == "cancelled"
    assert run.done


async def test_a_stream_of_a_run_that_fails_tells_why_and_raises_nothing() -> None:
    agent = ToolCallingAgent([], ScriptedModel([RuntimeError("the model is gone")]))
    chunks = [chunk async for chunk in sse_events(agent.arun("this"))]
    assert b"the model is gone" in b"".join(chunks).split(b"event: run_end")[1]


async def test_a_stream_that_is_never_begun_leaves_nothing_behind() -> None:
    run = echo().arun("this")
    await sse_events(run).aclose()
    with pytest.warns(RuntimeWarning, match="never awaited"):
        del run


def test_without_the_extra_streams_work_and_the_rest_says_what_to_install() -> None:
    script = """
import sys
sys.modules["starlette"] = sys.modules["uvicorn"] = None
from manyhands import MissingExtraError
from manyhands.cli import main
from manyhands.serve import sse_events
for name in ("create_app", "serve", "read_tokens"):
    try:
        getattr(sys.modules["manyhands.serve"], name)
    except MissingExtraError as error:
        print(error)
print(main(["serve"]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    *said, status = done.stdout.splitlines()
    assert status == "2"
    assert len(said) == 3
    assert all(line.endswith('pip install "manyhands[serve]"') for line in (*said, done.stderr.strip()))
