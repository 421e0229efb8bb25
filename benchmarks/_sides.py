"""What is compared: agents of manyhands, and the floor that does the same work without a framework."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Protocol

import _floor

from manyhands import CodeAgent, OpenAIModel, ToolCallingAgent, tool

if TYPE_CHECKING:
    from collections.abc import Callable

    import aiohttp

    from manyhands import Tool

KINDS = ("tools", "code")


async def look_up(key: str) -> str:
    """Look up what a key stands for.

    Args:
        key: The key that the task names.
    """
    return f"value of {key}"


def look_up_slowly(key: str) -> str:
    """Look up what a key stands for.

    Args:
        key: The key that the task names.
    """
    time.sleep(0.2)
    return f"value of {key}"


def task(number: int) -> str:
    """Return a task that no other run has."""
    return f"What does key-{number} stand for?"


def answer(number: int) -> str:
    """Return the right answer to :func:`task`."""
    return f"value of key-{number}"


def right(answers: list[Any], first: int = 0) -> int:
    """Return how many answers to the tasks from ``first`` on are right."""
    return sum(given == answer(number) for number, given in enumerate(answers, first))


def lookup_tool(fn: Callable[[str], Any] = look_up) -> Tool:
    """Return ``fn`` as the tool that the server's replies call."""
    made: Tool = tool(name="lookup")(fn)
    return made


def make_agent(kind: str, address: str, fn: Callable[[str], Any] = look_up, **options: Any) -> Any:
    """Return an agent that asks the server.

    Args:
        kind: ``tools`` or ``code``.
        address: Where, and how it answers.
        fn: The tool.
        **options: Parameters of the agent.
    """
    model = OpenAIModel("bench", api_base=f"{address}/v1", api_key="none")
    agent = CodeAgent if kind == "code" else ToolCallingAgent
    return agent(tools=[lookup_tool(fn)], model=model, **options)


class Side(Protocol):
    """One of those who take turns."""

    name: str

    async def work(self, count: int, manner: str, first: int = 0) -> list[Any]:
        """Work on ``count`` tasks at once, and return the answers.

        Args:
            count: How many.
            manner: How the server answers: delay and steps, such as ``1.0/3``.
            first: Number of the first one; tasks of earlier rounds would find their code compiled.
        """


class Agents:
    """One agent of manyhands that works on all tasks.

    Args:
        kind: ``tools`` or ``code``.
        url: The server.
        **options: Parameters of the agent.
    """

    def __init__(self, kind: str, url: str, **options: Any) -> None:
        self.name = f"{kind} agent"
        self._kind = kind
        self._url = url
        self._options = options
        self._agents: dict[str, Any] = {}

    async def work(self, count: int, manner: str, first: int = 0) -> list[Any]:
        """Work on ``count`` tasks at once; see :meth:`Side.work`."""
        agent = self._agents.get(manner)
        if agent is None:
            agent = make_agent(self._kind, f"{self._url}/{self._kind}/{manner}", **self._options)
            self._agents[manner] = agent
        numbers = range(first, first + count)
        return list(await asyncio.gather(*(agent.arun(task(number)) for number in numbers)))


class Floor:
    """The same work in a loop written by hand.

    Args:
        kind: ``tools`` or ``code``.
        url: The server.
        session: Who asks.
    """

    def __init__(self, kind: str, url: str, session: aiohttp.ClientSession) -> None:
        self.name = f"{kind} floor"
        self._kind = kind
        self._url = url
        self._session = session
        agent = make_agent(kind, url)
        self._system = agent.system_prompt
        self._tools = [offered.json_schema() for offered in agent.tools.values()]

    async def work(self, count: int, manner: str, first: int = 0) -> list[Any]:
        """Work on ``count`` tasks at once; see :meth:`Side.work`."""
        url = f"{self._url}/{self._kind}/{manner}/v1/chat/completions"
        numbers = range(first, first + count)
        return list(await asyncio.gather(*(self._one(url, task(number)) for number in numbers)))

    def _one(self, url: str, text: str, lookup: Callable[[str], Any] = look_up) -> Any:
        if self._kind == "code":
            return _floor.code_loop(self._session, url, self._system, lookup, text)
        return _floor.tool_loop(self._session, url, self._system, self._tools, lookup, text)

    async def growing(self, manner: str, lookup: Callable[[str], Any]) -> None:
        """Work on one task with a tool of the caller's."""
        await self._one(f"{self._url}/{self._kind}/{manner}/v1/chat/completions", task(0), lookup)
