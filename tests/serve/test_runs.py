"""Runs over HTTP: started, fetched, listed, streamed, cancelled, queued, refused, forgotten."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from manyhands import CodeAgent, ToolCallingAgent, tool
from manyhands.serve import Settings, create_app
from manyhands.serve.auth import Principal
from manyhands.serve.schemas import RunRequest
from manyhands.testing import FunctionModel, ScriptedModel
from tests.agents.replies import calls, code, final
from tests.serve.serving import Gate, echo, events_of, served

SOMEBODY = Principal("", operator=True)


# --- Results -----------------------------------------------------------------------------------------


async def test_a_client_may_wait_for_the_answer() -> None:
    async with served(echo()) as client:
        answer = await client.post("/v1/runs", {"task": "this", "wait": True})
    assert answer.status == 200
    run = answer.json
    assert (run["status"], run["output"], run["task"]) == ("success", "answer to this", "this")
    assert run["created_at"] <= run["started_at"] <= run["ended_at"]
    assert run["token_usage"]["total_tokens"] == 15
    assert answer.headers["Location"] == f"/v1/runs/{run['id']}"


async def test_a_client_may_fetch_the_answer_later() -> None:
    gate = Gate()
    async with served(gate.agent()) as client:
        answer = await client.post("/v1/runs", {"task": "this"})
        assert answer.status == 202
        where = answer.headers["Location"]
        await gate.until(1)
        run = (await client.get(where)).json
        assert (run["status"], run["output"], run["ended_at"]) == ("running", None, None)
        assert (await client.get(f"{where}?wait=0.01")).json["status"] == "running"
        gate.open()
        run = (await client.get(f"{where}?wait=60&steps=true")).json
        assert (run["status"], run["output"]) == ("success", "answer to this")
        assert [step["type"] for step in run["steps"]] == ["TaskStep", "ActionStep"]


async def test_arguments_and_limits_reach_the_run() -> None:
    model = ScriptedModel({"add": [code("print(first)"), code("print(second)"), "out of steps: 3"]})
    async with served(CodeAgent([], model)) as client:
        run = await client.start("add", additional_args={"first": 1, "second": 2}, max_steps=2, wait=True)
        assert (run["status"], run["output"]) == ("max_steps_error", "out of steps: 3")
        shown = json.dumps((await client.get(f"/v1/runs/{run['id']}?steps=true")).json["steps"])
    assert "Execution logs:\\n1" in shown
    assert "Execution logs:\\n2" in shown


async def test_a_run_that_takes_too_long_says_so() -> None:
    async with served(Gate().agent()) as client:
        run = await client.start("this", timeout=0.05, wait=True)
    assert run["status"] == "timeout"
    assert run["error"]["type"] == "RunTimeoutError"


async def test_a_failed_run_tells_its_error() -> None:
    model = ScriptedModel([RuntimeError("the model is gone")])
    async with served(ToolCallingAgent([], model)) as client:
        run = await client.start("this", wait=True)
    assert run["status"] == "error"
    assert "the model is gone" in run["error"]["message"]


@pytest.mark.parametrize(
    "output", [float("nan"), 10**400, b"\x00\xff", "\ud800", {1: {2, 3}}, object, [[]] * 3]
)
async def test_any_output_can_be_sent(output: Any) -> None:
    @tool
    def anything() -> Any:
        """Give something that JSON may not know."""
        return output

    model = ScriptedModel({"this": [code("final_answer(anything())")]})
    async with served(CodeAgent([anything], model)) as client:
        run = await client.start("this", wait=True)
        events = await client.events(run["id"])
    assert run["status"] == "success"
    told = next(event for event in events if event["type"] == "final_answer")
    assert json.dumps(told["output"]) == json.dumps(run["output"])


async def test_several_agents_are_chosen_by_name() -> None:
    agents = [echo(name="first"), echo(name="second", description="Says it, too.")]
    async with served(agents) as client:
        listed = (await client.get("/v1/agents")).json["agents"]
        assert [(agent["name"], agent["description"]) for agent in listed] == [
            ("first", None),
            ("second", "Says it, too."),
        ]
        assert (await client.start("this", agent="second", wait=True))["agent"] == "second"
        assert (await client.start("this", wait=True))["agent"] == "first"
        unknown = await client.post("/v1/runs", {"task": "this", "agent": "third"})
    assert unknown.status == 404
    assert unknown.error["message"] == "There is no agent 'third'; known are: first, second."


# --- Events ------------------------------------------------------------------------------------------


@tool
def double(number: int) -> int:
    """Double a number.

    Args:
        number: It.
    """
    if number < 0:
        raise ValueError("too small")
    return 2 * number


async def test_the_events_of_a_code_agent_tell_everything_in_order() -> None:
    model = ScriptedModel({"this": [code("print(double(21))"), code("final_answer(42)")]})
    async with served(CodeAgent([double], model, stream_outputs=True)) as client:
        run = await client.start("this")
        events = await client.events(run["id"])
    kinds = [event["type"] for event in events if event["type"] != "delta"]
    step = ["step_start", "code", "tool_call", "tool_output", "observations", "step_end"]
    assert kinds == ["run_start", *step, *step, "final_answer", "run_end"]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert {event["run_id"] for event in events} == {run["id"]}
    by_kind = {event["type"]: event for event in reversed(events)}
    assert by_kind["code"]["code"] == "print(double(21))"
    assert by_kind["tool_call"]["arguments"] == {"number": 21}
    assert by_kind["tool_output"]["output"] == 42
    assert by_kind["tool_output"]["id"] == by_kind["tool_call"]["id"]
    assert by_kind["final_answer"]["output"] == 42
    assert by_kind["run_end"]["status"] == "success"
    written = "".join(event["content"] for event in events if event["type"] == "delta" and event["step"] == 1)
    assert written == code("print(double(21))")


async def test_the_events_of_a_tool_calling_agent_tell_calls_and_failures() -> None:
    replies = [calls(("double", {"number": 4}), ("double", {"number": -1}), ids=["a", "b"]), final("done")]
    async with served(ToolCallingAgent([double], ScriptedModel({"this": replies}))) as client:
        events = await client.events((await client.start("this"))["id"])
    asked = {event["id"]: event for event in events if event["type"] == "tool_call"}
    told = {event["id"]: event for event in events if event["type"] == "tool_output"}
    assert asked.keys() == told.keys() == {"a", "b", "final"}
    assert asked["a"]["tool"] == "double"
    assert (told["a"]["output"], told["a"]["error"]) == (8, None)
    assert "too small" in told["b"]["error"]["message"]


async def test_a_reply_that_comes_whole_is_one_delta() -> None:
    model = ScriptedModel({"this": [code("final_answer(1)")]})
    async with served(CodeAgent([], model)) as client:
        events = await client.events((await client.start("this"))["id"])
    assert [event["content"] for event in events if event["type"] == "delta"] == [code("final_answer(1)")]


async def test_events_of_managed_agents_are_told_with_their_parent() -> None:
    helper = ToolCallingAgent(
        [], ScriptedModel({"help": [final("helped")]}), name="helper", description="Helps."
    )
    replies = [calls(("helper", {"task": "help"})), final("done")]
    agent = ToolCallingAgent([], ScriptedModel({"this": replies}), managed_agents=[helper])
    async with served(agent) as client:
        run = await client.start("this", wait=True)
        events = await client.events(run["id"])
    below = {event["run_id"] for event in events if event["parent_id"] == run["id"]}
    assert len(below) == 1
    kinds = [event["type"] for event in events if event["run_id"] in below]
    assert (kinds[0], kinds[-1]) == ("run_start", "run_end")
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


async def test_a_client_that_comes_back_gets_what_it_missed() -> None:
    gate = Gate(lambda task: task == "this")
    async with served(gate.agent()) as client:
        run = await client.start("this")
        async with client.stream(f"/v1/runs/{run['id']}/events") as response:
            seen = [await anext(events_of(response)) for _ in range(1)]
        gate.open()
        await client.ended(run["id"])
        everything = await client.events(run["id"])
        rest = await client.events(run["id"], **{"Last-Event-ID": str(seen[-1]["seq"])})
        assert seen + rest == everything
        by_query = await client.get(f"/v1/runs/{run['id']}/events?after=3")
        assert b"id: 3\n" not in by_query.body
        assert b"id: 4\n" in by_query.body


async def test_who_has_seen_everything_is_told_not_to_come_back() -> None:
    async with served(echo()) as client:
        run = await client.start("this", wait=True)
        last = str(run["last_event"])
        answer = await client.get(f"/v1/runs/{run['id']}/events", headers={"Last-Event-ID": last})
        assert (answer.status, answer.body) == (204, b"")
        wrong = await client.get(f"/v1/runs/{run['id']}/events", headers={"Last-Event-ID": "x"})
        assert wrong.status == 400


async def test_what_was_forgotten_is_told_as_a_gap() -> None:
    replies = [code("double(1)")] * 10 + [code("final_answer('done')")]
    async with served(CodeAgent([double], ScriptedModel({"this": replies})), keep_events=20) as client:
        run = await client.start("this", wait=True)
        gap, *rest = await client.events(run["id"])
    assert gap["type"] == "gap"
    assert (gap["first"], gap["missed"]) == (1, gap["last"])
    numbers = [event["seq"] for event in rest]
    assert numbers == list(range(gap["last"] + 1, run["last_event"] + 1))
    assert len(numbers) <= 20
    assert rest[-1]["type"] == "run_end"


async def test_a_silent_stream_sends_comments() -> None:
    gate = Gate()
    async with served(gate.agent(), heartbeat=0.05) as client:
        run = await client.start("this")
        async with client.stream(f"/v1/runs/{run['id']}/events") as response:
            assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
            async for line in response.content:
                if line.startswith(b":"):
                    break
        gate.open()


async def test_many_clients_see_the_same_events() -> None:
    gate = Gate()
    async with served(gate.agent()) as client:
        run = await client.start("this")
        readers = [asyncio.create_task(client.events(run["id"])) for _ in range(20)]
        await gate.until(1)
        gate.open()
        all_seen = await asyncio.gather(*readers)
    assert all(seen == all_seen[0] for seen in all_seen)
    assert all_seen[0][-1]["type"] == "run_end"


# --- Lists -------------------------------------------------------------------------------------------


async def test_a_list_is_newest_first_and_comes_in_pages() -> None:
    async with served([echo(name="a"), echo(name="b")]) as client:
        ids = [
            (await client.start(str(number), agent="ab"[number % 2], wait=True))["id"] for number in range(7)
        ]
        found, after = [], ""
        while True:
            page = (await client.get(f"/v1/runs?limit=3{after}")).json
            found += [run["id"] for run in page["runs"]]
            if page["next"] is None:
                break
            assert len(page["runs"]) == 3
            after = f"&after={page['next']}"
        assert found == ids[::-1]
        of_b = (await client.get("/v1/runs?agent=b&status=success")).json["runs"]
        assert [run["id"] for run in of_b] == [ids[5], ids[3], ids[1]]
        assert (await client.get("/v1/runs?status=active")).json["runs"] == []
        assert (await client.get("/v1/runs?after=nothing")).status == 404


async def test_a_long_task_is_cut_in_lists_only() -> None:
    async with served(echo()) as client:
        run = await client.start("x" * 1000, wait=True)
        listed = (await client.get("/v1/runs")).json["runs"][0]
    assert run["task"] == "x" * 1000
    assert len(listed["task"]) == 200


async def test_ten_thousand_runs_are_listed_fast() -> None:
    app = create_app(echo(), settings=Settings(keep_runs=20_000, max_queued=20_000))
    service = app.state.service
    async with served(app) as client:
        records = [
            service.start(RunRequest.model_validate({"task": str(number)}), SOMEBODY)
            for number in range(10_000)
        ]
        for record in records:
            record.cancel()
        await asyncio.gather(*[record.ended.wait() for record in records])
        began = time.perf_counter()
        page = (await client.get("/v1/runs?limit=50")).json
        deep = (await client.get(f"/v1/runs?limit=50&status=success&after={records[9000].id}")).json
        took = time.perf_counter() - began
    assert [run["task"] for run in page["runs"]] == [str(number) for number in range(9999, 9949, -1)]
    assert deep["runs"] == []
    assert took < 1.0


async def test_finished_runs_are_kept_up_to_a_number() -> None:
    async with served(echo(), keep_runs=3) as client:
        ids = [(await client.start(str(number), wait=True))["id"] for number in range(5)]
        listed = (await client.get("/v1/runs")).json["runs"]
        assert [run["id"] for run in listed] == ids[:1:-1]
        assert (await client.get(f"/v1/runs/{ids[0]}")).status == 404


async def test_finished_runs_are_kept_for_a_time_and_up_to_a_size() -> None:
    async with served(echo(), keep_seconds=0.01) as client:
        run = await client.start("old", wait=True)
        await asyncio.sleep(0.02)
        assert (await client.get("/v1/runs")).json["runs"] == []
        assert (await client.get(f"/v1/runs/{run['id']}")).status == 404
    async with served(echo(), keep_bytes=150_000) as client:
        for number in range(10):
            await client.start(str(number) * 2_000, wait=True)
        listed = (await client.get("/v1/runs")).json["runs"]
        assert 0 < len(listed) < 10
        large = await client.start("x" * 20_000, wait=True)
        assert (await client.get(f"/v1/runs/{large['id']}")).status == 200  # the last one is kept anyway


# --- Cancelling ----------------------------------------------------------------------------------------


async def test_a_run_can_be_cancelled_once() -> None:
    async with served(Gate().agent()) as client:
        run = await client.start("this")
        assert (await client.event(run["id"], "step_start"))["step"] == 1
        done = await client.post(f"/v1/runs/{run['id']}/cancel", {"reason": "no need"})
        assert done.json == {"ok": True}
        assert (await client.ended(run["id"]))["status"] == "cancelled"
        assert (await client.events(run["id"]))[-1]["status"] == "cancelled"
        assert (await client.post(f"/v1/runs/{run['id']}/cancel")).status == 409


async def test_a_run_in_the_queue_can_be_cancelled() -> None:
    gate = Gate()
    async with served(gate.agent(), max_runs=1) as client:
        first = await client.start("first")
        await gate.until(1)
        second = await client.start("second")
        assert (await client.get(f"/v1/runs/{second['id']}")).json["status"] == "queued"
        await client.post(f"/v1/runs/{second['id']}/cancel")
        ended = await client.ended(second["id"])
        assert (ended["status"], ended["started_at"]) == ("cancelled", None)
        assert [event["type"] for event in await client.events(second["id"])] == ["run_end"]
        gate.open()
        assert (await client.ended(first["id"]))["status"] == "success"
    assert gate.begun == ["first"]


@pytest.mark.parametrize("asked", [True, False])
async def test_a_client_that_leaves_takes_its_run_along_if_it_asked_for_that(asked: bool) -> None:
    gate = Gate()
    async with served(gate.agent()) as client:
        waiting = asyncio.create_task(client.start("this", wait=True, cancel_on_disconnect=asked))
        await gate.until(1)
        waiting.cancel()
        await asyncio.wait([waiting])
        run_id = (await client.get("/v1/runs")).json["runs"][0]["id"]
        if not asked:
            gate.open()
        assert (await client.ended(run_id))["status"] == ("cancelled" if asked else "success")


async def test_a_client_that_leaves_the_stream_may_come_back_for_a_while() -> None:
    gate = Gate()
    async with served(gate.agent(), disconnect_grace=0.3) as client:
        run = await client.start("this", cancel_on_disconnect=True)
        for _ in range(3):
            async with client.stream(f"/v1/runs/{run['id']}/events") as response:
                await anext(events_of(response))
        assert (await client.get(f"/v1/runs/{run['id']}")).json["status"] == "running"
        async with client.stream(f"/v1/runs/{run['id']}/events") as response:
            await anext(events_of(response))
            assert (await client.get(f"/v1/runs/{run['id']}?wait=0.5")).json["status"] == "running"
        record = client.app.state.service.store.get(run["id"], SOMEBODY)
        await record.ended.wait()  # asking for it over HTTP would be coming back
    assert record.status == "cancelled"


# --- Too much ------------------------------------------------------------------------------------------


async def test_more_runs_than_slots_wait_and_more_than_that_are_refused() -> None:
    gate = Gate()
    async with served(gate.agent(), max_runs=2, max_queued=1) as client:
        ids = [(await client.start(str(number)))["id"] for number in range(3)]
        refused = await client.post("/v1/runs", {"task": "too much"})
        assert refused.status == 429
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert refused.error["type"] == "overloaded"
        server = (await client.get("/v1/fleet")).json["server"]
        assert (server["running"], server["queued"]) == (2, 1)
        gate.open()
        for run_id in ids:
            assert (await client.ended(run_id))["status"] == "success"
        assert (await client.post("/v1/runs", {"task": "again", "wait": True})).status == 200
    assert "too much" not in gate.begun


async def test_the_end_of_the_server_lets_runs_finish_and_takes_no_new_ones() -> None:
    gate = Gate()
    app = create_app(gate.agent(), settings=Settings(drain_seconds=60))
    async with served(app) as client:
        run = await client.start("this")
        await gate.until(1)
        assert (await client.get("/readyz")).status == 200
        draining = asyncio.create_task(app.state.service.aclose())
        ready = await client.get("/readyz")
        assert (ready.status, ready.json) == (503, {"status": "draining"})
        refused = await client.post("/v1/runs", {"task": "too late"})
        assert refused.status == 503
        assert "Retry-After" in refused.headers
        assert (await client.get("/healthz")).status == 200
        gate.open()
        await draining
        assert (await client.ended(run["id"]))["status"] == "success"


async def test_what_does_not_finish_in_time_is_cancelled() -> None:
    app = create_app(Gate().agent(), settings=Settings(drain_seconds=0.05))
    async with served(app) as client:
        run = await client.start("this")
        await client.event(run["id"], "step_start")
        await app.state.service.aclose()
        assert (await client.ended(run["id"]))["status"] == "cancelled"


async def test_nothing_is_left_behind_by_many_runs() -> None:
    before = asyncio.all_tasks()
    async with served(echo()) as client:
        runs = await asyncio.gather(*[client.start(str(number), wait=True) for number in range(100)])
        assert {run["output"] for run in runs} == {f"answer to {number}" for number in range(100)}
        assert len({run["id"] for run in runs}) == 100
    assert asyncio.all_tasks() == before


async def test_a_model_that_fails_at_once_leaves_no_run_in_the_queue() -> None:
    async def broken(messages: Any) -> Any:
        raise RuntimeError("broken")

    async with served(ToolCallingAgent([], FunctionModel(broken)), max_runs=1, max_queued=0) as client:
        for _ in range(5):
            assert (await client.start("this", wait=True))["status"] == "error"
