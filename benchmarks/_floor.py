"""The floor: the same HTTP calls, tool calls and conversation as an agent's, in a loop written by hand."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer none"}


def session() -> aiohttp.ClientSession:
    """Return a session as one writes it for many requests at once."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))


async def _ask(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> dict[str, Any]:
    async with session.post(url, data=json.dumps(body).encode(), headers=_HEADERS) as response:
        reply = json.loads(await response.read())
    message: dict[str, Any] = reply["choices"][0]["message"]
    return message


async def tool_loop(
    session: aiohttp.ClientSession,
    url: str,
    system: str,
    tools: list[dict[str, Any]],
    lookup: Callable[..., Awaitable[str]],
    task: str,
) -> str:
    """Work on one task by tool calls.

    Args:
        session: Who asks.
        url: Whom.
        system: The system prompt; the agent's, so that the requests are the same.
        tools: The tools' schemas; the agent's.
        lookup: The tool.
        task: The task.
    """
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": system},
        {"role": "user", "content": f"New task:\n{task}"},
    ]
    body = {
        "model": "bench",
        "stop": ["Observation:", "Calling tools:"],
        "tool_choice": "required",
        "tools": tools,
        "messages": messages,
    }
    while True:
        message = await _ask(session, url, body)
        messages.append(message)
        for call in message["tool_calls"]:
            arguments = json.loads(call["function"]["arguments"])
            if call["function"]["name"] == "final_answer":
                return str(arguments["answer"])
            observation = f"Observation:\n{await lookup(**arguments)}"
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": observation})


async def code_loop(
    session: aiohttp.ClientSession,
    url: str,
    system: str,
    lookup: Callable[..., Awaitable[str]],
    task: str,
) -> str:
    """Work on one task by code; none is run, the tool is called for it.

    Args:
        session: Who asks.
        url: Whom.
        system: The system prompt; the agent's, so that the requests are the same.
        lookup: The tool.
        task: The task.
    """
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": system},
        {"role": "user", "content": f"New task:\n{task}"},
    ]
    body = {"model": "bench", "messages": messages, "stop": ["Observation:", "Calling tools:", "</code>"]}
    while True:
        message = await _ask(session, url, body)
        messages.append(message)
        called, _, rest = message["content"].partition('("')
        argument: str = rest.partition('")')[0]
        if called.endswith("final_answer"):
            return argument
        logs = (
            f"Observation:\nExecution logs:\n{await lookup(argument)}\nLast output from code snippet:\nNone"
        )
        messages.append({"role": "user", "content": logs})
