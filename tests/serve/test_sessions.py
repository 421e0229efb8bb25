"""Conversations over HTTP."""

from __future__ import annotations

import asyncio

from manyhands import CodeAgent, OpenAIModel
from manyhands.testing import SimulatedProvider
from tests.serve.serving import Gate, echo, served


async def test_turns_know_those_before_them() -> None:
    async with SimulatedProvider() as provider:
        agent = CodeAgent([], OpenAIModel("simulated", api_base=provider.base_url, api_key="none"))
        async with served(agent) as client:
            begun = await client.post("/v1/sessions")
            assert begun.status == 201
            path = f"/v1/sessions/{begun.json['id']}"
            first = await client.post(f"{path}/runs", {"task": "What is 6 * 7?", "wait": True})
            assert (first.json["output"], first.json["session"]) == (42, begun.json["id"])
            second = await client.start("Multiply that by 10.", session=begun.json["id"], wait=True)
            assert second["output"] == 420
            assert (await client.get(path)).json["turns"] == 2
            listed = (await client.get(f"/v1/runs?session={begun.json['id']}")).json["runs"]
            assert [run["id"] for run in listed] == [second["id"], first.json["id"]]


async def test_turns_queue_behind_each_other() -> None:
    gate = Gate()
    async with served(gate.agent()) as client:
        session = (await client.post("/v1/sessions")).json["id"]
        ids = [(await client.start(str(number), session=session))["id"] for number in range(3)]
        await gate.until(1)
        assert (await client.get(f"/v1/sessions/{session}")).json["active_runs"] == ids
        assert gate.begun == ["0"]
        gate.open()
        for run_id in ids:
            assert (await client.ended(run_id))["status"] == "success"
    assert gate.begun == ["0", "1", "2"]


async def test_a_deleted_conversation_takes_its_turns_along() -> None:
    gate = Gate()
    async with served(gate.agent()) as client:
        session = (await client.post("/v1/sessions")).json["id"]
        run = await client.start("this", session=session)
        await gate.until(1)
        assert (await client.ask("DELETE", f"/v1/sessions/{session}")).json == {"ok": True}
        assert (await client.ended(run["id"]))["status"] == "cancelled"
        assert (await client.get(f"/v1/sessions/{session}")).status == 404
        assert (await client.post("/v1/runs", {"task": "this", "session": session})).status == 404


async def test_conversations_are_listed_in_pages_and_bounded() -> None:
    async with served([echo(name="a"), echo(name="b")], max_sessions=3) as client:
        ids = [(await client.post("/v1/sessions", {"agent": "b"})).json["id"] for _ in range(3)]
        refused = await client.post("/v1/sessions")
        assert (refused.status, "Retry-After" in refused.headers) == (429, True)
        page = (await client.get("/v1/sessions?limit=2")).json
        assert [one["id"] for one in page["sessions"]] == ids[:0:-1]
        rest = (await client.get(f"/v1/sessions?limit=2&after={page['next']}")).json
        assert ([one["id"] for one in rest["sessions"]], rest["next"]) == ([ids[0]], None)
        wrong = await client.post("/v1/runs", {"task": "this", "session": ids[0], "agent": "a"})
        assert wrong.status == 409


async def test_a_conversation_that_nobody_goes_on_with_makes_room() -> None:
    async with served(echo(), max_sessions=1, session_seconds=0.01) as client:
        first = (await client.post("/v1/sessions")).json["id"]
        await asyncio.sleep(0.02)
        assert (await client.post("/v1/sessions")).status == 201
        assert (await client.get(f"/v1/sessions/{first}")).status == 404
