"""Looking at a server: fleet, health, metrics, the page."""

from __future__ import annotations

import asyncio
import json
import re

from manyhands import ToolCallingAgent
from manyhands.serve import Settings, create_app
from manyhands.testing import ScriptedModel
from tests.serve.serving import Gate, echo, served


async def test_the_fleet_shows_what_goes_on_and_what_was() -> None:
    gate = Gate(lambda task: task == "this")
    failing = ToolCallingAgent([], ScriptedModel([RuntimeError("no")]), name="failing")
    async with served([gate.agent(name="gate"), failing]) as client:
        await client.start("done", agent="gate", wait=True)
        await client.start("fails", agent="failing", wait=True)
        run = await client.start("this", agent="gate")
        await gate.until(2)
        shown = (await client.get("/v1/fleet")).json
        assert shown["runs"] == {
            "in_flight": 1,
            "started": 3,
            "done": 2,
            "succeeded": 1,
            "failed": 1,
            "cancelled": 0,
        }
        assert [row["id"] for row in shown["in_flight"]] == [run["id"]]
        assert shown["waiting_on"] == {"model": 1}
        assert shown["failures"] == {"AgentGenerationError": 1}
        assert shown["tokens"]["total"] == 15
        assert (await client.get("/v1/fleet?runs=0")).json["in_flight"] == []
        gate.open()


async def test_the_fleet_is_streamed_as_it_changes_and_ends_with_the_server() -> None:
    gate = Gate()
    app = create_app(gate.agent(), settings=Settings(drain_seconds=60))
    async with served(app) as client, client.stream("/v1/fleet/events") as response:

        async def looks() -> list[dict[str, object]]:
            lines = [line async for line in response.content if line.startswith(b"data: ")]
            return [json.loads(line.removeprefix(b"data: ")) for line in lines]

        looking = asyncio.create_task(looks())
        run = await client.start("this")
        await gate.until(1)
        await asyncio.sleep(0.7)  # two looks are half a second apart
        gate.open()
        await client.ended(run["id"])
        await app.state.service.aclose()
        seen = await looking
    assert len(seen) >= 2
    assert [look["runs"]["in_flight"] for look in seen if look["runs"]["in_flight"]] == [1]  # type: ignore[index]


async def test_metrics_are_in_the_format_of_prometheus() -> None:
    async with served(echo()) as client:
        await client.start("this", wait=True)
        await client.get("/v1/nothing")
        answer = await client.get("/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = answer.body.decode().splitlines()
    sample = re.compile(r'[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? [0-9.e+-]+')
    assert all(
        line.startswith(("# HELP manyhands_", "# TYPE manyhands_")) or sample.fullmatch(line)
        for line in lines
    )
    assert 'manyhands_runs_ended_total{outcome="succeeded"} 1' in lines
    assert 'manyhands_tokens_total{kind="input"} 10' in lines
    assert 'manyhands_http_requests_total{method="POST",path="/v1/runs",status="200"} 1' in lines
    named = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(named) == len(set(named))


async def test_the_page_is_served_with_its_types_and_asked_for_again_cheaply() -> None:
    async with served(echo()) as client:
        page = await client.get("/")
        assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        again = await client.get("/", headers={"If-None-Match": page.headers["ETag"]})
        assert (again.status, again.body) == (304, b"")
        assert "<script>" not in page.body.decode()
        for source in re.findall(r'(?:src|href)="(page/[^"]+)"', page.body.decode()):
            assert (await client.get(f"/{source}")).status == 200


async def test_nothing_else_of_the_computer_is_served() -> None:
    async with served(echo()) as client:
        for name in (
            "..%2fapp.py",
            "..%2f..%2fpage%2findex.html",
            "app.py",
            "nothing.js",
            "%00.js",
        ):
            assert (await client.get(f"/page/{name}")).status == 404
