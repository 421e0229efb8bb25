"""Conversations: turns remember each other, queue, and leave nothing behind when they fail."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from manyhands import AgentGenerationError, ChatMessage, TaskStep, ToolCallingAgent
from manyhands.testing import FunctionModel, ScriptedModel
from tests.agents.replies import final

if TYPE_CHECKING:
    from manyhands.session import Session


def tasks(session: Session) -> list[str]:
    return [step.task for step in session.memory.steps if isinstance(step, TaskStep)]


def count_tasks(messages: list[ChatMessage]) -> Any:
    return final(sum(message.text.startswith("New task:") for message in messages))


async def test_turns_remember_each_other() -> None:
    session = ToolCallingAgent([], FunctionModel(count_tasks)).session()
    assert [await session.arun("one"), await session.arun("two"), await session.arun("three")] == [1, 2, 3]


async def test_turns_asked_for_at_once_queue_in_order() -> None:
    session = ToolCallingAgent([], FunctionModel(count_tasks, latency=0.001)).session()
    answers = await asyncio.gather(*(session.arun(f"turn {n}") for n in range(10)))
    assert answers == list(range(1, 11))
    assert tasks(session) == [f"turn {n}" for n in range(10)]


async def test_two_sessions_of_one_agent_know_nothing_of_each_other() -> None:
    agent = ToolCallingAgent([], FunctionModel(count_tasks))
    first, second = agent.session(), agent.session()
    await first.arun("a")
    assert await second.arun("b") == 1
    assert tasks(first) == ["a"]


async def test_a_failed_turn_leaves_nothing_behind() -> None:
    session = ToolCallingAgent([], ScriptedModel([final(1), OSError("down"), final(2)])).session()
    await session.arun("one")
    with pytest.raises(AgentGenerationError):
        await session.arun("two")
    await session.arun("three")
    assert tasks(session) == ["one", "three"]


async def test_a_cancelled_turn_leaves_nothing_behind_and_lets_the_next_begin() -> None:
    asked, release = asyncio.Event(), asyncio.Event()

    async def reply(messages: list[ChatMessage]) -> Any:
        asked.set()
        await release.wait()
        return final(1)

    session = ToolCallingAgent([], FunctionModel(reply)).session()
    first = asyncio.create_task(session.arun("one"))
    await asked.wait()
    second = asyncio.create_task(session.arun("two"))
    third = asyncio.create_task(session.arun("three"))
    await asyncio.sleep(0)
    second.cancel()
    first.cancel()
    release.set()
    assert await third == 1
    assert first.cancelled() and second.cancelled()
    assert tasks(session) == ["three"]


async def test_one_who_stops_queueing_does_not_let_later_turns_pass_the_one_in_front() -> None:
    asked, release = asyncio.Event(), asyncio.Event()
    running = 0

    async def reply(messages: list[ChatMessage]) -> Any:
        nonlocal running
        running += 1
        assert running == 1
        asked.set()
        await release.wait()
        running -= 1
        return final(len(tasks(session)))

    session = ToolCallingAgent([], FunctionModel(reply)).session()
    first = asyncio.create_task(session.arun("one"))
    await asked.wait()
    second = asyncio.create_task(session.arun("two"))
    await asyncio.sleep(0.01)
    third = asyncio.create_task(session.arun("three"))
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    for _ in range(10):
        await asyncio.sleep(0)
    assert running == 1
    release.set()
    assert [await first, await third] == [1, 2]


def test_a_session_serves_sync_code_and_several_threads() -> None:
    session = ToolCallingAgent([], FunctionModel(count_tasks), verbosity_level=-1).session()
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(session.run("x"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == list(range(1, 9))


async def test_a_session_keeps_its_state() -> None:
    session = ToolCallingAgent([], FunctionModel(count_tasks)).session()
    await session.arun("a", additional_args={"name": "ada"})
    await session.arun("b")
    assert session.state == {"name": "ada"}
