"""Tool calls that wait for people: who is asked, what they may say, and what it costs to wait."""

from __future__ import annotations

import asyncio
import threading
import time
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from manyhands import (
    ApprovalDecision,
    ApprovalDeniedError,
    ApprovalPolicy,
    ApprovalRequest,
    Budget,
    CallerError,
    CodeAgent,
    Plugin,
    RunTimeoutError,
    Tool,
    ToolCallingAgent,
    ToolDefinitionError,
    UserInputTool,
    tool,
)
from manyhands._bridge import workers
from manyhands.events import ApprovalEnd, ToolEnd, ToolStart, WaitEnd, WaitStart
from manyhands.testing import FunctionModel, ScriptedModel
from tests.agents.replies import calls, code, final
from tests.models.waiting import until

if TYPE_CHECKING:
    from manyhands import Run


@tool(requires_approval=True)
async def delete(path: str, force: bool = False) -> str:
    """Delete a file.

    Args:
        path: Which one.
        force: Whether it must go.
    """
    return f"{path} is gone{' by force' if force else ''}"


@tool
async def read(path: str) -> str:
    """Read a file.

    Args:
        path: Which one.
    """
    return f"contents of {path}"


@tool(requires_approval=True)
async def keep_anything(path: Any) -> str:
    """Keep something.

    Args:
        path: What.
    """
    return "kept"


class Desk:
    """Where requests arrive, and where what was told of runs is kept: an observer."""

    def __init__(self) -> None:
        self.requests: asyncio.Queue[ApprovalRequest] = asyncio.Queue()
        self.told: list[Any] = []

    def __call__(self, run: Run, event: Any) -> None:
        self.told.append(event)
        if isinstance(event, ApprovalRequest):
            self.requests.put_nowait(event)

    async def next(self) -> ApprovalRequest:
        return await asyncio.wait_for(self.requests.get(), 20)

    def of(self, *kinds: type) -> list[Any]:
        return [event for event in self.told if isinstance(event, kinds)]


def deleting(desk: Desk, *paths: str, **options: Any) -> ToolCallingAgent:
    """An agent that asks to delete all paths in one reply, and answers with what came of it."""
    replies = [calls(*(("delete", {"path": path}) for path in paths)), final("done")]
    return ToolCallingAgent([delete, read], ScriptedModel({"": replies}), observers=[desk], **options)


def coding(desk: Desk, *sources: str, tools: list[Any] | None = None, **options: Any) -> CodeAgent:
    model = ScriptedModel({"": [code(source) for source in sources]})
    return CodeAgent(tools or [delete, read], model, observers=[desk], **options)


def observed(run: Run, number: int = 0) -> str:
    step: Any = run.memory.steps[1]
    return str(step.tool_outputs[number].observation)


class TestAnswers:
    async def test_an_approved_call_is_made(self) -> None:
        desk = Desk()
        run = deleting(desk, "a").arun("go")
        work = asyncio.create_task(run)
        request = await desk.next()
        assert (request.run_id, request.agent, request.tool) == (run.id, "ToolCallingAgent", "delete")
        assert request.arguments == {"path": "a"}
        assert request.call_id == "id_0"
        assert run.pending == {request.id: request} == run.agent.pending
        assert run.activity == "approval"
        assert request.approve()
        assert await work == "done"
        assert observed(run) == "a is gone"
        assert run.pending == run.agent.pending == {}

    async def test_a_denied_call_is_not_made_and_the_model_reads_why(self) -> None:
        desk = Desk()
        run = deleting(desk, "a").arun("go")
        work = asyncio.create_task(run)
        assert (await desk.next()).deny("not on a Friday")
        assert await work == "done"
        assert "The call of 'delete' was denied: not on a Friday" in observed(run)
        error = run.memory.steps[1].tool_outputs[0].error  # type: ignore[attr-defined]
        assert isinstance(error, ApprovalDeniedError)
        assert error.reason == "not on a Friday"
        assert not desk.of(ToolStart)[:-1]  # but the one of the answer

    async def test_changed_arguments_are_what_the_tool_gets(self) -> None:
        desk = Desk()
        run = deleting(desk, "a").arun("go")
        work = asyncio.create_task(run)
        assert (await desk.next()).change({"path": "b", "force": True})
        await work
        assert observed(run) == "b is gone by force"
        (end,) = desk.of(ApprovalEnd)
        assert (end.decision, end.arguments) == ("changed", {"path": "b", "force": True})

    @pytest.mark.parametrize("arguments", [{"path": 1}, {}, {"path": "b", "how": "fast"}, "b", None])
    async def test_arguments_that_do_not_fit_are_refused_and_the_request_stays_open(
        self, arguments: Any
    ) -> None:
        desk = Desk()
        run = deleting(desk, "a").arun("go")
        work = asyncio.create_task(run)
        request = await desk.next()
        with pytest.raises(CallerError, match="delete"):
            request.change(arguments)
        assert not request.answered
        assert request.approve()
        await work
        assert observed(run) == "a is gone"

    async def test_the_first_answer_counts(self) -> None:
        desk = Desk()
        run = deleting(desk, "a").arun("go")
        work = asyncio.create_task(run)
        request = await desk.next()
        assert [request.deny("no"), request.approve(), request.change({"path": "b"})] == [True, False, False]
        assert request.answered
        assert request.decision == ApprovalDecision("denied", "no")
        await work
        assert "denied: no" in observed(run)

    async def test_a_request_is_answered_from_any_thread(self) -> None:
        desk = Desk()
        run = deleting(desk, "a").arun("go")
        work = asyncio.create_task(run)
        request = await desk.next()
        threading.Thread(target=request.approve).start()
        assert await asyncio.wait_for(work, 20) == "done"
        assert observed(run) == "a is gone"

    async def test_of_many_threads_that_answer_at_once_one_decides(self) -> None:
        desk = Desk()
        run = deleting(desk, "a").arun("go")
        work = asyncio.create_task(run)
        request = await desk.next()
        barrier = threading.Barrier(8)
        won: list[bool] = []

        def answer(number: int) -> None:
            barrier.wait()
            won.append(request.deny(str(number)))

        threads = [threading.Thread(target=answer, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        await asyncio.wait_for(work, 20)
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert sorted(won) == [False] * 7 + [True]

    async def test_an_observer_may_answer_at_once(self) -> None:
        def yes(run: Run, event: Any) -> None:
            if isinstance(event, ApprovalRequest):
                event.approve()

        agent = deleting(Desk(), "a", approvals=lambda request: pytest.fail("nobody else is asked"))
        agent.observers = [yes]
        run = agent.arun("go")
        assert await run == "done"
        assert observed(run) == "a is gone"

    async def test_the_json_form_has_what_a_page_needs(self) -> None:
        desk = Desk()
        run = deleting(desk, "a").arun("go")
        work = asyncio.create_task(run)
        request = await desk.next()
        assert request.dict() == {
            "id": request.id,
            "run_id": run.id,
            "kind": "approval",
            "agent": "ToolCallingAgent",
            "tool": "delete",
            "call_id": "id_0",
            "arguments": {"path": "a"},
            "reason": "The tool 'delete' asks for approval.",
            "created": pytest.approx(time.time(), abs=60),
            "expires": None,
        }
        request.approve()
        await work


class TestEvents:
    async def test_waiting_for_people_is_told_and_comes_before_the_tool(self) -> None:
        desk = Desk()
        work = asyncio.create_task(deleting(desk, "a").arun("go"))
        request = await desk.next()
        request.approve()
        await work
        kinds = (WaitStart, ApprovalRequest, ApprovalEnd, WaitEnd, ToolStart, ToolEnd)
        told = desk.of(*kinds)[:6]
        assert [type(event) for event in told] == [
            WaitStart,
            ApprovalRequest,
            ApprovalEnd,
            WaitEnd,
            ToolStart,
            ToolEnd,
        ]
        assert (told[0].what, told[0].key) == ("approval", "delete")
        assert (told[2].request_id, told[2].decision) == (request.id, "approved")

    async def test_a_run_that_nobody_watches_waits_too_and_says_so(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        agent = deleting(Desk(), "a")
        agent.observers = []
        run = agent.arun("go")
        work = asyncio.create_task(run)
        await until(lambda: run.pending)
        assert "waits for somebody to answer about 'delete'" in caplog.text
        assert "go" in caplog.text
        next(iter(run.pending.values())).approve()
        assert await work == "done"


class TestWhatNeedsApproval:
    @pytest.mark.parametrize(
        ("said", "asked"), [(True, True), (False, False), ("too big", True), ("", False)]
    )
    async def test_a_function_of_the_arguments_decides(self, said: Any, asked: bool) -> None:
        seen = []

        def big(arguments: dict[str, Any]) -> Any:
            seen.append(arguments)
            return said

        @tool(requires_approval=big)
        def pay(amount: float) -> str:
            """Pay.

            Args:
                amount: How much, in dollars.
            """
            return f"paid {amount}"

        desk = Desk()
        agent = coding(desk, "final_answer(pay(5.0))", tools=[pay])
        work = asyncio.create_task(agent.arun("go"))
        if asked:
            request = await desk.next()
            assert request.reason == (said if isinstance(said, str) else "The tool 'pay' asks for approval.")
            request.approve()
        assert await work == "paid 5.0"
        assert seen == [{"amount": 5.0}]
        assert bool(desk.of(ApprovalEnd)) == asked

    async def test_the_function_may_be_async_and_a_method(self) -> None:
        class Send(Tool):
            name = "send"
            description = "Send a letter."

            async def requires_approval(self, arguments: dict[str, Any]) -> bool:
                await asyncio.sleep(0)
                return bool(arguments["to"] == "all")

            async def forward(self, to: str) -> str:
                """Send a letter.

                Args:
                    to: Whom.
                """
                return f"sent to {to}"

        desk = Desk()
        agent = coding(desk, "final_answer([send('me'), send('all')])", tools=[Send()])
        work = asyncio.create_task(agent.arun("go"))
        request = await desk.next()
        assert request.arguments == {"to": "all"}
        request.approve()
        assert await work == ["sent to me", "sent to all"]

    async def test_where_the_function_fails_people_are_asked(self, caplog: pytest.LogCaptureFixture) -> None:
        def broken(arguments: dict[str, Any]) -> bool:
            raise ValueError("no idea")

        @tool(requires_approval=broken)
        async def pay() -> str:
            """Pay."""
            return "paid"

        desk = Desk()
        work = asyncio.create_task(coding(desk, "final_answer(pay())", tools=[pay]).arun("go"))
        request = await desk.next()
        assert "ValueError: no idea" in request.reason
        request.approve()
        assert await work == "paid"

    @pytest.mark.parametrize(
        "require",
        [True, ["read"], {"read": 1}, lambda name, arguments: name == "read" and arguments["path"] == "x"],
    )
    async def test_a_policy_asks_about_any_tool(self, require: Any) -> None:
        desk = Desk()
        agent = coding(desk, "final_answer(read('x'))", approvals=ApprovalPolicy(require=require))
        work = asyncio.create_task(agent.arun("go"))
        request = await desk.next()
        assert request.tool == "read"
        assert request.reason.startswith("The policy asks about ")
        request.approve()
        assert await work == "contents of x"

    async def test_a_policy_that_asks_about_every_tool_leaves_the_answer_alone(self) -> None:
        answer = [1]
        desk = Desk()
        agent = ToolCallingAgent(
            [],
            ScriptedModel({"": [final("answer")]}),
            observers=[desk],
            approvals=ApprovalPolicy(require=True),
        )
        run = agent.arun("go", additional_args={"answer": answer})
        assert await run is answer
        assert not desk.of(ApprovalRequest)

    async def test_a_policy_that_asks_about_others_lets_a_call_through(self) -> None:
        desk = Desk()
        agent = coding(desk, "final_answer(read('x'))", approvals=ApprovalPolicy(require=["write"]))
        assert await agent.arun("go") == "contents of x"
        assert not desk.of(ApprovalRequest)

    @pytest.mark.parametrize("wrong", ["yes", 1, None])
    def test_a_tool_that_cannot_be_asked_is_refused_at_once(self, wrong: Any) -> None:
        with pytest.raises(ToolDefinitionError, match="requires_approval of the tool 'pay'"):

            @tool(requires_approval=wrong)
            def pay() -> None:
                """Pay."""

    @pytest.mark.parametrize(
        "options",
        [
            {"approvals": "consol"},
            {"approvals": 3},
            {"approvals": True},
        ],
    )
    def test_a_handler_that_cannot_be_is_refused_at_once(self, options: dict[str, Any]) -> None:
        with pytest.raises(CallerError, match="approvals are handled by"):
            ToolCallingAgent([], ScriptedModel([]), **options)

    @pytest.mark.parametrize(
        "options", [{"timeout": 0}, {"default": "ask"}, {"require": "read"}, {"require": 1}]
    )
    def test_a_policy_that_makes_no_sense_is_refused_at_once(self, options: dict[str, Any]) -> None:
        with pytest.raises(CallerError):
            ApprovalPolicy(**options)


class TestHandlers:
    @pytest.mark.parametrize(
        ("said", "came"),
        [
            (True, "a is gone"),
            (False, "The call of 'delete' was denied."),
            ("not now", "denied: not now"),
            ({"path": "b"}, "b is gone"),
            (ApprovalDecision("approved"), "a is gone"),
            (ApprovalDecision("denied", "never"), "denied: never"),
            (ApprovalDecision("changed", arguments={"path": "c"}), "c is gone"),
        ],
    )
    @pytest.mark.parametrize("is_async", [True, False])
    async def test_what_a_handler_returns_decides(self, said: Any, came: str, is_async: bool) -> None:
        async def ask(request: ApprovalRequest) -> Any:
            await asyncio.sleep(0)
            return said

        run = deleting(Desk(), "a", approvals=ask if is_async else lambda request: said).arun("go")
        await run
        assert came in observed(run)

    @pytest.mark.parametrize("said", [17, {"path": 1}, ApprovalDecision("answered", text="x")])
    async def test_a_handler_that_makes_no_sense_denies(
        self, said: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        run = deleting(Desk(), "a", approvals=lambda request: said).arun("go")
        await run
        assert "denied: whoever decides could not be asked" in observed(run)
        assert "The handler of approvals failed" in caplog.text

    async def test_a_handler_that_fails_denies(self, caplog: pytest.LogCaptureFixture) -> None:
        async def ask(request: ApprovalRequest) -> bool:
            raise ConnectionError("the chat is down")

        run = deleting(Desk(), "a", approvals=ask).arun("go")
        await run
        assert "ConnectionError: the chat is down" in observed(run)

    async def test_a_handler_may_leave_it_to_others(self) -> None:
        posted: list[str] = []
        desk = Desk()
        run = deleting(desk, "a", approvals=lambda request: posted.append(request.id)).arun("go")
        work = asyncio.create_task(run)
        request = await desk.next()
        await until(lambda: posted)
        request.approve()
        await work
        assert observed(run) == "a is gone"
        assert posted == [request.id]

    async def test_somebody_faster_than_the_handler_decides_and_ends_it(self) -> None:
        ended = asyncio.Event()

        async def slow(request: ApprovalRequest) -> bool:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            return False

        desk = Desk()
        run = deleting(desk, "a", approvals=slow).arun("go")
        work = asyncio.create_task(run)
        request = await desk.next()
        request.approve()
        await work
        assert ended.is_set()
        assert observed(run) == "a is gone"

    def test_under_sync_run_a_sync_handler_is_asked_in_the_thread_of_the_caller(self) -> None:
        threads = []

        def ask(request: ApprovalRequest) -> bool:
            threads.append(threading.current_thread())
            return True

        agent = deleting(Desk(), "a", approvals=ask, verbosity_level=-1)
        assert agent.run("go") == "done"
        assert threads == [threading.current_thread()]


class TestTime:
    @pytest.mark.parametrize(
        ("default", "came"),
        [("deny", "denied: nobody answered within 0.05 seconds"), ("approve", "a is gone")],
    )
    async def test_the_default_answers_when_time_runs_out(self, default: Any, came: str) -> None:
        desk = Desk()
        run = deleting(desk, "a", approvals=ApprovalPolicy(timeout=0.05, default=default)).arun("go")
        assert await asyncio.wait_for(run, 20) == "done"
        assert came in observed(run)
        request = await desk.next()
        assert request.expires == pytest.approx(request.created + 0.05)
        assert request.answered
        assert not request.approve()
        (end,) = desk.of(ApprovalEnd)
        assert end.reason == "nobody answered within 0.05 seconds"

    @pytest.mark.parametrize("is_async", [True, False])
    async def test_the_time_of_people_is_not_the_time_of_the_tool(self, is_async: bool) -> None:
        async def work() -> str:
            """Work."""
            return "worked"

        def sync_work() -> str:
            """Work."""
            return "worked"

        guarded = tool(requires_approval=True, name="work", timeout=0.2)(work if is_async else sync_work)
        desk = Desk()
        agent = coding(
            desk,
            "final_answer(work())",
            tools=[guarded],
            tool_timeout=0.2,
            executor_kwargs={"timeout_seconds": 0.2},
        )
        running = asyncio.create_task(agent.arun("go"))
        request = await desk.next()
        await asyncio.sleep(0.5)  # longer than all limits
        request.approve()
        assert await running == "worked"

    async def test_a_cancelled_run_takes_its_requests_back(self) -> None:
        desk = Desk()
        run = deleting(desk, "a").arun("go")
        work = asyncio.create_task(run)
        request = await desk.next()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert request.answered
        assert not request.approve()
        assert run.pending == {}
        assert [end.decision for end in desk.of(ApprovalEnd)] == ["cancelled"]

    async def test_the_time_limit_of_the_run_ends_the_wait(self) -> None:
        run = deleting(Desk(), "a", timeout=0.1).arun("go")
        with pytest.raises(RunTimeoutError):
            await run
        assert run.pending == {}

    async def test_an_answer_after_the_loop_is_gone_is_too_late(self) -> None:
        desk = Desk()
        kept: list[ApprovalRequest] = []

        def elsewhere() -> None:
            async def go() -> None:
                run = deleting(desk, "a").arun("go")
                work = asyncio.create_task(run)
                await until(lambda: run.pending)
                kept.extend(run.pending.values())
                del work

            asyncio.run(go())

        await asyncio.to_thread(elsewhere)
        assert [request.approve() for request in kept] == [False]


class TestCallsSideBySide:
    async def test_the_calls_of_one_reply_wait_side_by_side(self) -> None:
        desk = Desk()
        run = deleting(desk, "a", "b", "c").arun("go")
        work = asyncio.create_task(run)
        requests = [await desk.next() for _ in range(3)]
        assert list(run.pending) == [request.id for request in requests]
        requests[2].approve()
        requests[0].deny("no")
        requests[1].approve()
        await work
        step: Any = run.memory.steps[1]
        assert [output.output for output in step.tool_outputs] == [None, "b is gone", "c is gone"]

    async def test_a_call_that_waits_for_people_holds_no_place_of_another(self) -> None:
        desk = Desk()
        replies = [calls(("delete", {"path": "a"}), ("read", {"path": "b"})), final("done")]
        agent = ToolCallingAgent(
            [delete, read], ScriptedModel({"": replies}), observers=[desk], max_concurrent_tools=1
        )
        work = asyncio.create_task(agent.arun("go"))
        request = await desk.next()
        await until(lambda: desk.of(ToolEnd))
        assert desk.of(ToolEnd)[0].output == "contents of b"
        assert not request.answered
        request.approve()
        await work

    async def test_calls_that_wait_hold_no_thread_and_no_slot_of_the_tool(self) -> None:
        async def small(arguments: dict[str, Any]) -> bool:
            return bool(arguments["n"] < 50)

        def busy() -> int:
            stats = workers.stats()
            return stats["threads"] - stats["idle"] - stats["abandoned_threads"]

        @tool(requires_approval=small, max_concurrency=1)
        def work(n: int) -> int:
            """Work.

            Args:
                n: A number.
            """
            return n

        desk = Desk()
        replies = [calls(*(("work", {"n": n}) for n in range(51))), final("done")]
        agent = ToolCallingAgent([work], ScriptedModel({"": replies}), observers=[desk])
        before = busy()
        run = agent.arun("go")
        running = asyncio.create_task(run)
        await until(lambda: len(run.pending) == 50 and desk.of(ToolEnd))
        assert desk.of(ToolEnd)[0].output == 50  # it had thread and slot for itself
        assert busy() <= before
        for request in run.pending.values():
            request.approve()
        assert await running == "done"

    async def test_a_final_answer_among_other_calls_is_still_refused(self) -> None:
        replies = [calls(("final_answer", {"answer": 1}), ("read", {"path": "b"})), final("done")]
        agent = ToolCallingAgent([read], ScriptedModel({"": replies}))
        run = agent.arun("go")
        assert await run == "done"
        assert "do not perform any other tool calls" in observed(run)


class TestGeneratedCode:
    @pytest.mark.parametrize(
        ("source", "answer"),
        [
            ("final_answer(delete('a') + '!')", "a is gone!"),
            ("final_answer([delete(p) for p in ('a', 'b')])", ["a is gone", "b is gone"]),
            ("final_answer(f'<{delete(\"a\")}>')", "<a is gone>"),
            ("final_answer(sorted(['b', 'a'], key=lambda p: delete(p)))", ["a", "b"]),
            ("final_answer(max((delete(p) for p in 'ab'), key=len))", "a is gone"),
            ("final_answer(dict(x=delete({'path': 'a'})))", {"x": "a is gone"}),
            ("final_answer(delete('a') if delete('b') else '')", "a is gone"),
        ],
    )
    async def test_code_waits_in_the_middle_of_any_expression(self, source: str, answer: Any) -> None:
        desk = Desk()

        async def person() -> None:
            while True:
                (await desk.next()).approve()

        answering = asyncio.create_task(person())
        assert await asyncio.wait_for(coding(desk, source).arun("go"), 20) == answer
        answering.cancel()
        assert all(request.arguments.keys() == {"path"} for request in desk.of(ApprovalRequest))

    async def test_code_sees_a_denial_as_an_error_that_it_may_handle(self) -> None:
        desk = Desk()
        source = "try:\n    x = delete('a')\nexcept Exception as e:\n    x = str(e)\nfinal_answer(x)"
        work = asyncio.create_task(coding(desk, source).arun("go"))
        (await desk.next()).deny("no")
        assert await work == "The call of 'delete' was denied: no"

    async def test_the_model_reads_of_a_denial_that_its_code_did_not_handle(self) -> None:
        desk = Desk()
        run = coding(desk, "delete('a')", "final_answer('gave up')").arun("go")
        work = asyncio.create_task(run)
        (await desk.next()).deny("no")
        assert await work == "gave up"
        step: Any = run.memory.steps[1]
        assert "ApprovalDeniedError: The call of 'delete' was denied: no" in str(step.error)

    async def test_code_cannot_change_what_was_approved(self) -> None:
        @tool(requires_approval=True)
        async def execute(commands: list[str]) -> str:
            """Run commands.

            Args:
                commands: Which ones.
            """
            return " ".join(commands)

        source = """
import asyncio
commands = ["ls"]
async def ask():
    return execute(commands)
async def swap():
    commands[0] = "rm"
results = await asyncio.gather(ask(), swap())
final_answer([results[0], commands])
"""
        desk = Desk()
        work = asyncio.create_task(coding(desk, source, tools=[execute]).arun("go"))
        request = await desk.next()
        for _ in range(20):
            await asyncio.sleep(0)
        assert request.arguments == {"commands": ["ls"]}
        request.approve()
        assert await work == ["ls", ["rm"]]

    async def test_arguments_that_hold_themselves_are_refused(self) -> None:
        @tool(requires_approval=True)
        async def keep(things: list[Any]) -> str:
            """Keep things.

            Args:
                things: Which ones.
            """
            return "kept"

        run = coding(Desk(), "x = []\nx.append(x)\nkeep(x)", "final_answer(1)", tools=[keep]).arun("go")
        assert await run == 1
        step: Any = run.memory.steps[1]
        assert "hold themselves" in str(step.error)

    async def test_an_object_that_cannot_be_shown_is_asked_about_by_its_kind(self) -> None:
        @tool(requires_approval=True)
        async def keep(thing: Any) -> str:
            """Keep a thing.

            Args:
                thing: Which one.
            """
            return "kept"

        source = (
            "class Shy:\n    def __str__(self):\n        raise ValueError('no')\nfinal_answer(keep(Shy()))"
        )
        desk = Desk()
        work = asyncio.create_task(coding(desk, source, tools=[keep]).arun("go"))
        request = await desk.next()
        assert request.dict()["arguments"] == {"thing": "<Shy object>"}
        request.approve()
        assert await work == "kept"

    async def test_an_object_of_the_caller_that_cannot_be_shown_neither(self) -> None:
        class Broken:
            def __str__(self) -> str:
                raise ValueError("no")

        desk = Desk()
        run = deleting(desk, "a").arun("go", additional_args={"a": "b"})
        run.state["a"] = Broken()
        run.agent.tools["delete"] = keep_anything
        work = asyncio.create_task(run)
        request = await desk.next()
        assert request.dict()["arguments"] == {"path": "<Broken>"}
        request.approve()
        await work


class TestTeams:
    def team(self, desk: Desk, **manager_options: Any) -> CodeAgent:
        worker = ToolCallingAgent(
            [delete],
            ScriptedModel({"": [calls(("delete", {"path": "a"})), final("it is gone")]}),
            name="worker",
            description="Works.",
        )
        model = ScriptedModel({"": [code("final_answer(worker(task='delete a'))")]})
        return CodeAgent([], model, managed_agents=[worker], observers=[desk], **manager_options)

    async def test_a_request_of_a_member_is_pending_at_the_run_above(self) -> None:
        desk = Desk()
        run = self.team(desk).arun("go")
        work = asyncio.create_task(run)
        request = await desk.next()
        assert request.agent == "worker"
        assert request.run_id != run.id
        assert list(run.pending) == [request.id]
        request.approve()
        assert "it is gone" in await work
        assert run.pending == {}

    async def test_a_member_without_a_policy_is_under_that_of_its_manager(self) -> None:
        asked = []

        def ask(request: ApprovalRequest) -> bool:
            asked.append((request.agent, request.tool))
            return True

        policy = ApprovalPolicy(ask, require=True)
        assert "it is gone" in await self.team(Desk(), approvals=policy).arun("go")
        assert asked == [("CodeAgent", "worker"), ("worker", "delete")]

    async def test_under_map_each_run_waits_for_itself(self) -> None:
        desk = Desk()
        agent = deleting(desk, "a")

        async def person() -> None:
            for request in [await desk.next() for _ in range(20)]:
                request.approve()

        answering = asyncio.create_task(person())
        results = [result async for result in agent.amap([f"task {n}" for n in range(20)], concurrency=20)]
        await answering
        assert [result.output for result in results] == ["done"] * 20

    def test_sync_map_asks_the_handler(self) -> None:
        agent = deleting(Desk(), "a", approvals=lambda request: True)
        assert [result.output for result in agent.map(["one", "two"])] == ["done", "done"]


class TestWithTheRest:
    async def test_a_tool_call_is_charged_when_it_is_made(self) -> None:
        desk, budget = Desk(), Budget(tool_calls=10)
        run = deleting(desk, "a", "b").arun("go", budget=budget)
        work = asyncio.create_task(run)
        first, second = await desk.next(), await desk.next()
        assert budget.spent("tool_calls") == 0
        first.approve()
        second.deny()
        await work
        assert budget.spent("tool_calls") == 2  # one deletion, and the answer

    async def test_plugins_are_asked_about_what_was_approved(self) -> None:
        class Guard(Plugin):
            """Keeps b."""

            def before_tool(self, run: Run, call: Any) -> Any:
                seen.append((call.name, dict(call.arguments)))

        seen: list[Any] = []
        desk = Desk()
        work = asyncio.create_task(deleting(desk, "a", plugins=[Guard()]).arun("go"))
        request = await desk.next()
        assert seen == []
        request.change({"path": "b"})
        await work
        assert seen[0] == ("delete", {"path": "b"})

    async def test_retries_ask_once(self) -> None:
        tries = []

        @tool(requires_approval=True, retries=2, idempotent=True)
        async def flaky() -> str:
            """Fail at first."""
            tries.append(1)
            if len(tries) == 1:
                raise ConnectionError("again")
            return "worked"

        desk = Desk()
        work = asyncio.create_task(coding(desk, "final_answer(flaky())", tools=[flaky]).arun("go"))
        (await desk.next()).approve()
        assert await work == "worked"
        assert len(tries) == 2
        assert len(desk.of(ApprovalRequest)) == 1

    async def test_calls_without_a_run_ask_nobody(self) -> None:
        assert await delete.acall("a") == "a is gone"

    async def test_arguments_may_have_any_name(self) -> None:
        @tool(requires_approval=True)
        async def odd(run: int, call: int, tool: int, args: int, kwargs: int, place: int) -> int:
            """Add.

            Args:
                run: One.
                call: Two.
                tool: Three.
                args: Four.
                kwargs: Five.
                place: Six.
            """
            return run + call + tool + args + kwargs + place

        names = ("run", "call", "tool", "args", "kwargs", "place")
        reply = calls(("odd", dict.fromkeys(names, 1)))
        agent = ToolCallingAgent(
            [odd], ScriptedModel({"": [reply, final(0)]}), approvals=lambda request: True
        )
        run = agent.arun("go")
        await run
        assert observed(run) == "6"

    async def test_many_waiting_runs_hold_little_and_all_go_on(self) -> None:
        agent = deleting(Desk(), "a")
        agent.observers = []
        runs = [agent.arun(f"task {n}") for n in range(300)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run) for run in runs]
            await until(lambda: len(agent.pending) == 300)
            for request in agent.pending.values():
                assert request.approve()
        assert {task.result() for task in tasks} == {"done"}

    async def test_answers_cancellations_and_time_limits_at_once_lose_nothing(self) -> None:
        desk, random = Desk(), Random(7)
        agent = deleting(desk, "a", "b", approvals=ApprovalPolicy(timeout=0.5))
        runs = [agent.arun(f"task {n}") for n in range(100)]
        tasks = [asyncio.create_task(run) for run in runs]
        said: list[bool] = []

        def answer(requests: list[tuple[Run, ApprovalRequest, int]]) -> None:
            for run, request, choice in requests:
                if choice == 0:
                    run.cancel()
                elif choice < 6:
                    said.append([request.approve, request.deny][choice % 2]())

        await until(lambda: desk.requests.qsize() == 200)
        by_id = {run.id: run for run in runs}
        requests = [desk.requests.get_nowait() for _ in range(200)]
        chosen = [(by_id[request.run_id], request, random.randrange(8)) for request in requests]
        threads = [threading.Thread(target=answer, args=(chosen,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        await asyncio.gather(*tasks, return_exceptions=True)
        for thread in threads:
            await asyncio.to_thread(thread.join)
        ends = desk.of(ApprovalEnd)
        assert sorted(end.request_id for end in ends) == sorted(request.id for request in requests)
        decided_by_people = sum(end.decision in ("approved", "denied") for end in ends)
        out_of_time = sum("nobody answered" in end.reason for end in ends)
        # One that is answered and cancelled in the same moment was decided, though its run never heard of it.
        assert sum(said) == decided_by_people - out_of_time
        assert agent.pending == {}
        assert {run.status for run in runs} <= {"success", "cancelled"}


class TestQuestions:
    def asking(self, desk: Desk, user_input: UserInputTool, **options: Any) -> CodeAgent:
        return coding(
            desk,
            "try:\n    x = user_input('Which colour?')\n"
            "except Exception as e:\n    x = str(e)\nfinal_answer(x)",
            tools=[user_input],
            **options,
        )

    async def test_a_question_is_a_request_that_anybody_answers(self) -> None:
        desk = Desk()
        run = self.asking(desk, UserInputTool(ask=None)).arun("go")
        work = asyncio.create_task(run)
        request = await desk.next()
        assert (request.kind, request.tool, request.reason) == ("question", "user_input", "Which colour?")
        assert run.pending == {request.id: request}
        assert request.answer("blue")
        assert not request.answer("red")
        assert await work == "blue"
        (end,) = desk.of(ApprovalEnd)
        assert end.decision == "answered"
        assert "blue" not in repr((request, request.decision, end))

    async def test_an_approval_is_no_question_and_a_question_no_approval(self) -> None:
        desk = Desk()
        work = asyncio.create_task(self.asking(desk, UserInputTool(ask=None)).arun("go"))
        request = await desk.next()
        for answer in (request.approve, lambda: request.change({"question": "x"})):
            with pytest.raises(CallerError, match="a question"):
                answer()
        with pytest.raises(CallerError, match="text"):
            request.answer(7)  # type: ignore[arg-type]
        assert request.deny("I will not say")
        assert await work == "The question was not answered: I will not say"
        deletion = asyncio.create_task(deleting(desk, "a").arun("go"))
        request = await desk.next()
        with pytest.raises(CallerError, match="call of a tool"):
            request.answer("yes")
        request.approve()
        await deletion

    async def test_the_handler_of_the_agent_answers_questions_too(self) -> None:
        async def ask(request: ApprovalRequest) -> str:
            return f"an answer to {request.reason}"

        agent = self.asking(Desk(), UserInputTool(ask=None), approvals=ask)
        assert await agent.arun("go") == "an answer to Which colour?"

    async def test_a_handler_of_yes_and_no_answers_no_question(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        agent = self.asking(Desk(), UserInputTool(ask=None), approvals=lambda request: True)
        assert "should return a text" in await agent.arun("go")

    async def test_own_ways_to_ask_answer_and_others_may_be_faster(self) -> None:
        async def never(prompt: str) -> str:
            await asyncio.Event().wait()
            return ""

        assert await self.asking(Desk(), UserInputTool(lambda prompt: "red")).arun("go") == "red"
        desk = Desk()
        work = asyncio.create_task(self.asking(desk, UserInputTool(never)).arun("go"))
        (await desk.next()).answer("green")
        assert await work == "green"

    async def test_a_question_waits_as_long_as_it_may(self) -> None:
        agent = self.asking(Desk(), UserInputTool(ask=None, timeout=0.05))
        assert await agent.arun("go") == "The question was not answered: nobody answered within 0.05 seconds"

    async def test_the_time_limit_of_tools_does_not_count_a_question(self) -> None:
        desk = Desk()
        work = asyncio.create_task(self.asking(desk, UserInputTool(ask=None), tool_timeout=0.05).arun("go"))
        request = await desk.next()
        await asyncio.sleep(0.2)
        request.answer("blue")
        assert await work == "blue"

    async def test_nobody_at_the_console_is_told_to_the_model(self) -> None:
        def nobody(prompt: str) -> str:
            raise EOFError

        answer = await self.asking(Desk(), UserInputTool(nobody)).arun("go")
        assert answer == "The question was not answered: nobody is at the console. Go on without an answer."

    def test_a_way_to_ask_that_cannot_be_is_refused_at_once(self) -> None:
        with pytest.raises(CallerError, match="ask is a function"):
            UserInputTool("terminal")


async def test_a_function_model_sees_the_denial_in_its_next_prompt() -> None:
    seen = []

    async def answer(messages: Any) -> Any:
        seen.append(messages[-1].text)
        return calls(("delete", {"path": "a"})) if len(seen) == 1 else final("ok")

    agent = ToolCallingAgent([delete], FunctionModel(answer), approvals=lambda request: "not yours")
    assert await agent.arun("go") == "ok"
    assert "was denied: not yours" in seen[1]
