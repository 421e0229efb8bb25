"""Runs that go on are paused, told things, given other limits, and wait for people."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from manyhands import CodeAgent, ToolCallingAgent, tool
from manyhands.testing import FunctionModel, ScriptedModel
from manyhands.tools.builtin import UserInputTool
from tests.agents.replies import calls, code, final
from tests.serve.serving import Client, Gate, echo, served


@tool(requires_approval=True)
def transfer(amount: int, to: str) -> str:
    """Send money.

    Args:
        amount: How much.
        to: To whom.
    """
    return f"sent {amount} to {to}"


def banker(**options: Any) -> ToolCallingAgent:
    """An agent that sends money, and answers with what came of it."""

    async def answer(messages: list[Any]) -> Any:
        last = messages[-1].text
        if "Observation" in last or "Error" in last:
            return final(last)
        return calls(("transfer", {"amount": 5, "to": "Ann"}))

    return ToolCallingAgent([transfer], FunctionModel(answer), **options)


async def asked(client: Client, run_id: str) -> dict[str, Any]:
    """Wait until a run asks for an approval; return it as the API lists it."""
    event = await client.event(run_id, "approval_request")
    listed = (await client.get(f"/v1/runs/{run_id}/approvals")).json["approvals"]
    assert [one["id"] for one in listed] == [event["id"]]
    one: dict[str, Any] = listed[0]
    return one


@pytest.mark.parametrize(
    ("decision", "told", "word"),
    [
        ({"decision": "approve"}, "sent 5 to Ann", "approved"),
        ({"decision": "deny", "reason": "not today"}, "not today", "denied"),
        ({"decision": "change", "arguments": {"amount": 3, "to": "Bob"}}, "sent 3 to Bob", "changed"),
    ],
)
async def test_a_call_waits_for_a_decision(decision: dict[str, Any], told: str, word: str) -> None:
    async with served(banker()) as client:
        run = await client.start("send")
        request = await asked(client, run["id"])
        assert (request["tool"], request["arguments"]) == ("transfer", {"amount": 5, "to": "Ann"})
        assert request["root_run_id"] == run["id"]
        assert (await client.get(f"/v1/runs/{run['id']}")).json["pending_approvals"] == 1
        assert (await client.get("/v1/approvals")).json["approvals"] == [request]
        path = f"/v1/runs/{run['id']}/approvals/{request['id']}"
        assert (await client.post(path, decision)).json == {"ok": True}
        assert told in (await client.ended(run["id"]))["output"]
        assert (await client.post(path, decision)).status == 404
        ends = [event for event in await client.events(run["id"]) if event["type"] == "approval_end"]
        assert [(event["id"], event["decision"]) for event in ends] == [(request["id"], word)]
        assert (await client.get("/v1/approvals")).json["approvals"] == []


UNFIT: list[dict[str, Any]] = [
    {"decision": "maybe"},
    {"decision": "change"},
    {"decision": "change", "arguments": {"sum": 3}},
    {"decision": "approve", "arguments": {"amount": 3, "to": "Bob"}},
    {"decision": "approve", "reason": "why not"},
    {"decision": "answer", "text": "yes"},
    {},
]


async def test_a_decision_that_does_not_fit_leaves_the_request_open() -> None:
    async with served(banker()) as client:
        run = await client.start("send")
        request = await asked(client, run["id"])
        for decision in UNFIT:
            refused = await client.post(f"/v1/runs/{run['id']}/approvals/{request['id']}", decision)
            assert refused.status == 422, decision
            assert (await client.get(f"/v1/runs/{run['id']}")).json["pending_approvals"] == 1


async def test_generated_code_and_managed_agents_wait_too() -> None:
    replies = [code("final_answer('before ' + transfer(1, 'Ann') + ' after')")]
    helper = CodeAgent([transfer], ScriptedModel({"help": replies}), name="helper", description="Helps.")
    script = {"this": [calls(("helper", {"task": "help"})), final("done")]}
    agent = ToolCallingAgent([], ScriptedModel(script), managed_agents=[helper])
    async with served(agent) as client:
        run = await client.start("this")
        request = await asked(client, run["id"])
        assert request["run_id"] != request["root_run_id"] == run["id"]
        assert request["arguments"] == {"amount": 1, "to": "Ann"}
        await client.post(f"/v1/runs/{run['id']}/approvals/{request['id']}", {"decision": "approve"})
        assert (await client.ended(run["id"]))["output"] == "done"
        events = await client.events(run["id"])
    outputs = [event["output"] for event in events if event["type"] == "tool_output"]
    assert "sent 1 to Ann" in outputs


async def test_a_question_is_answered_over_http() -> None:
    replies = [
        calls(("user_input", {"question": "Which colour?"})),
        lambda messages: final(messages[-1].text),
    ]
    agent = ToolCallingAgent([UserInputTool(ask=None)], ScriptedModel({"this": replies}))
    async with served(agent) as client:
        run = await client.start("this")
        request = await asked(client, run["id"])
        assert (request["kind"], request["reason"]) == ("question", "Which colour?")
        path = f"/v1/runs/{run['id']}/approvals/{request['id']}"
        assert (await client.post(path, {"decision": "answer", "text": "green"})).status == 200
        assert "green" in (await client.ended(run["id"]))["output"]


async def test_a_parked_run_can_be_cancelled() -> None:
    async with served(banker()) as client:
        run = await client.start("send")
        await asked(client, run["id"])
        await client.post(f"/v1/runs/{run['id']}/cancel")
        assert (await client.ended(run["id"]))["status"] == "cancelled"
        assert (await client.get("/v1/approvals")).json["approvals"] == []


async def test_hundreds_of_parked_runs_are_answered_each() -> None:
    async with served(banker(), max_runs=1000) as client:
        runs = await asyncio.gather(*[client.start("send") for _ in range(200)])
        await asyncio.gather(*[client.event(run["id"], "approval_request") for run in runs])
        waiting = (await client.get("/v1/approvals")).json["approvals"]
        assert {one["root_run_id"] for one in waiting} == {run["id"] for run in runs}
        decide = [
            client.post(f"/v1/runs/{one['root_run_id']}/approvals/{one['id']}", {"decision": "approve"})
            for one in waiting
        ]
        assert {answer.status for answer in await asyncio.gather(*decide)} == {200}
        for run in runs:
            assert "sent 5 to Ann" in (await client.ended(run["id"]))["output"]


# --- Pausing, telling, limiting ------------------------------------------------------------------------


async def test_a_paused_run_stops_before_its_next_step() -> None:
    gate = Gate()

    async def answer(messages: list[Any]) -> Any:
        if len(gate.begun) == 0:
            await gate.answer(messages)
            return calls(("transfer_free", {}))
        return final("done")

    @tool
    def transfer_free() -> str:
        """Do something."""
        return "done"

    async with served(ToolCallingAgent([transfer_free], FunctionModel(answer))) as client:
        run = await client.start("this")
        path = f"/v1/runs/{run['id']}"
        await gate.until(1)
        assert (await client.post(f"{path}/pause")).json == {"ok": True}
        gate.open()
        assert (await client.event(run["id"], "wait"))["for"] == "pause"
        assert (await client.get(path)).json["status"] == "paused"
        assert [one["id"] for one in (await client.get("/v1/runs?status=paused")).json["runs"]] == [run["id"]]
        assert (await client.post(f"{path}/resume")).json == {"ok": True}
        assert (await client.ended(run["id"]))["status"] == "success"
        assert (await client.post(f"{path}/resume")).status == 409
        kinds = [event["type"] for event in await client.events(run["id"])]
    assert kinds.index("paused") < kinds.index("resumed") < kinds.index("run_end")


async def test_a_run_hears_what_it_is_told_at_its_next_step() -> None:
    gate = Gate()
    heard: list[str] = []

    async def answer(messages: list[Any]) -> Any:
        if not gate.begun:
            await gate.answer(messages)
            return calls(("nothing", {}))
        heard.extend(message.text for message in messages)
        return final("done")

    async with served(ToolCallingAgent([], FunctionModel(answer))) as client:
        run = await client.start("this")
        await gate.until(1)
        assert (await client.post(f"/v1/runs/{run['id']}/inject", {"text": "Hurry up!"})).status == 200
        gate.open()
        await client.ended(run["id"])
        told = [event for event in await client.events(run["id"]) if event["type"] == "injected"]
    assert told[0]["text"] == "Hurry up!"
    assert any("Hurry up!" in text for text in heard)


async def test_the_limits_of_a_running_run_can_be_changed() -> None:
    async with served(Gate().agent()) as client:
        run = await client.start("this")
        await client.event(run["id"], "step_start")
        path = f"/v1/runs/{run['id']}/limits"
        assert (await client.post(path, {"max_steps": 3, "budget": {"tokens": 1000}})).json == {"ok": True}
        assert (await client.post(path, {"timeout": 0.01})).status == 200
        assert (await client.ended(run["id"]))["status"] == "timeout"
        assert (await client.post(path, {"max_steps": 3})).status == 409
        limits = [event["limits"] for event in await client.events(run["id"]) if event["type"] == "limits"]
    assert limits == [{"max_steps": 3, "budget": {"tokens": 1000}}, {"timeout": 0.01}]


async def test_a_run_that_is_over_cannot_be_steered() -> None:
    bodies = {"inject": {"text": "Hello"}, "limits": {"max_steps": 5}}
    async with served(echo()) as client:
        run = await client.start("this", wait=True)
        for door in ("cancel", "pause", "resume", "inject", "limits"):
            refused = await client.post(f"/v1/runs/{run['id']}/{door}", bodies.get(door))
            assert refused.status == 409, door
            assert refused.error["message"] == "The run has ended already: success."
            assert (await client.post(f"/v1/runs/{'0' * 32}/{door}", bodies.get(door))).status == 404
