"""The example servers are started for real and asked over HTTP, many requests at once."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.examples.running import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

NUMBERS = range(20)


@pytest.fixture(scope="module")
def fastapi() -> Iterator[str]:
    with serving("fastapi_server") as address:
        yield address


@pytest.fixture(scope="module")
def aiohttp_web() -> Iterator[str]:
    with serving("aiohttp_server") as address:
        yield address


@pytest.fixture(scope="module")
def starlette() -> Iterator[str]:
    with serving("starlette_server") as address:
        yield address


@pytest.fixture(scope="module")
def fastapi_with_limit() -> Iterator[str]:
    with serving("fastapi_concurrency") as address:
        yield address


@pytest.fixture(scope="module")
def agents() -> Iterator[str]:
    with serving("serve_agents") as address:
        yield address


async def asked(url: str, **request: object) -> object:
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, **request) as response,  # type: ignore[arg-type]
    ):
        response.raise_for_status()
        return await response.json()


@pytest.mark.parametrize("path", ["/run-agent", "/run-shared-agent"])
async def test_fastapi_answers_each_request_with_its_own_result(fastapi: str, path: str) -> None:
    questions = [{"task": f"What is {number} * 7?"} for number in NUMBERS]
    answers = await asyncio.gather(*[asked(fastapi + path, params=question) for question in questions])
    assert answers == [{"result": number * 7} for number in NUMBERS]


@pytest.mark.parametrize("path", ["/run-agent", "/run-shared-agent"])
async def test_aiohttp_answers_each_request_with_its_own_result(aiohttp_web: str, path: str) -> None:
    questions = [{"task": f"What is {number} * 7?"} for number in NUMBERS]
    answers = await asyncio.gather(*[asked(aiohttp_web + path, json=question) for question in questions])
    assert answers == [{"result": number * 7} for number in NUMBERS]


@pytest.mark.parametrize("path", ["/run-agent", "/run-agent-in-thread"])
async def test_starlette_answers_awaited_and_from_threads(starlette: str, path: str) -> None:
    questions = [{"task": f"What is {number} * 7?"} for number in NUMBERS]
    answers = await asyncio.gather(*[asked(starlette + path, json=question) for question in questions])
    assert answers == [{"result": number * 7} for number in NUMBERS]


async def test_starlette_streams_the_events_of_a_run(starlette: str) -> None:
    question = {"task": "What is 2 + 2?"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{starlette}/stream", json=question) as response,
    ):
        events = [json.loads(line) async for line in response.content]
    assert [event["event"] for event in events][:2] == ["ToolCall", "ActionOutput"]
    assert events[-1] == {"event": "FinalAnswerStep", "output": 4}


async def test_a_fastapi_route_lets_five_work_at_once(fastapi_with_limit: str) -> None:
    chats = [asked(f"{fastapi_with_limit}/chat", params={"message": "Hello"}) for _ in NUMBERS]
    answers = await asyncio.gather(*chats)
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{fastapi_with_limit}/most-at-once") as response,
    ):
        most = await response.json()
    assert len(answers) == len(NUMBERS)
    assert most == {"most": 5}


async def streamed(url: str, task: str) -> list[dict[str, object]]:
    async with aiohttp.ClientSession() as session, session.get(url, params={"task": task}) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        lines = [line async for line in response.content if line.startswith(b"data: ")]
    return [json.loads(line.removeprefix(b"data: ")) for line in lines]


@pytest.mark.parametrize(
    ("server", "path"), [("fastapi", "stream"), ("aiohttp_web", "stream"), ("starlette", "events")]
)
async def test_servers_send_the_events_of_a_run(
    request: pytest.FixtureRequest, server: str, path: str
) -> None:
    address = request.getfixturevalue(server)
    streams = [streamed(f"{address}/{path}", f"What is {number} * 7?") for number in NUMBERS]
    for number, events in enumerate(await asyncio.gather(*streams)):
        answers = [event["output"] for event in events if event["type"] == "final_answer"]
        assert answers == [number * 7]
        assert events[-1]["type"] == "run_end"


async def test_the_whole_server_is_mounted_in_fastapi(fastapi: str) -> None:
    run = await asked(f"{fastapi}/agents/v1/runs", json={"task": "What is 6 * 7?", "wait": True})
    assert isinstance(run, dict)
    assert run["output"] == 42


async def test_served_agents_are_listed_and_asked(agents: str) -> None:
    question = {"agent": "calculator", "task": "What is 17 * 23?", "wait": True}
    run = await asked(f"{agents}/v1/runs", json=question)
    assert isinstance(run, dict)
    assert run["output"] == 391
