"""How a run calls a tool, whoever asks for it: the loop, or generated code."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from manyhands._bridge import worker_terms, workers
from manyhands.approvals import approved
from manyhands.events import ToolEnd, ToolStart, waiting
from manyhands.plugins import around_tool, manager
from manyhands.run import current_run
from manyhands.steps import ToolCall

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from contextlib import AbstractAsyncContextManager

    from manyhands.run import Run
    from manyhands.tools.base import Tool

logger = logging.getLogger("manyhands")


async def call_tool(
    run: Run,
    call: ToolCall,
    tool: Tool,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    place: AbstractAsyncContextManager[Any] | None = None,
) -> Any:
    """Call ``tool`` for ``run`` once it may be, within its time, and tell observers of it.

    Args:
        run: The run that calls.
        call: The call as observers are told of it.
        tool: The tool.
        args: Its arguments.
        kwargs: Its arguments.
        place: Held while the tool works, but not while people decide about the call.

    Raises:
        ApprovalDeniedError: People decided that it may not.
    """
    note = run.history.called(call, run.step_number)
    try:
        if tool.requires_approval or run.agent.approvals is not None or run.parent is not None:
            args, kwargs = await approved(run, call, tool, args, kwargs)
        if place is None:
            result = await _told(run, call, tool, args, kwargs)
        else:
            async with place:
                result = await _told(run, call, tool, args, kwargs)
    except BaseException as error:
        note.fail(error)
        raise
    note.end(result)
    return result


async def _told(run: Run, call: ToolCall, tool: Tool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    before = run.activity
    run.activity = f"tool {tool.name}"
    if not run.observers:
        result = await _work(run, call, tool, args, kwargs)
        run.activity = before
        return result
    run.tell(ToolStart(run.id, call))
    try:
        result = await _work(run, call, tool, args, kwargs)
    except BaseException as error:
        run.tell(ToolEnd(run.id, call, None, error))
        raise
    run.tell(ToolEnd(run.id, call, result, None))
    run.activity = before
    return result


# No coroutines, where one that they return will do: thousands of calls may wait at once.
def _work(
    run: Run, call: ToolCall, tool: Tool, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Awaitable[Any]:
    if run.budget is not None:
        run.budget.charge(tool_calls=1)
    if manager.in_use:
        return around_tool(run, call, tool, args, kwargs, _cared_for)
    return _cared_for(run, tool, args, kwargs)


def _cared_for(run: Run, tool: Tool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Awaitable[Any]:
    if tool.care is None:
        return _attempt(run, tool, args, kwargs)
    return tool.care.call(f"Tool '{tool.name}'", lambda: _attempt(run, tool, args, kwargs))


async def _attempt(run: Run, tool: Tool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    seconds = run.agent.tool_timeout if tool.timeout is None else tool.timeout
    if tool.is_async:
        if seconds is None or tool.keeps_own_time:
            return await tool.acall(*args, **kwargs)
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await tool.acall(*args, **kwargs)
        except TimeoutError:
            if not limit.expired():
                raise
            return timed_out(seconds)
    threads = run.tool_threads
    if threads.locked():
        with waiting("queue", f"tool threads of {run.agent.name or type(run.agent).__name__}"):
            await threads.acquire()
    else:
        await threads.acquire()  # at once
    try:
        return await _on_thread(run, tool, seconds, args, kwargs)
    finally:
        threads.release()


async def _on_thread(
    run: Run, tool: Tool, seconds: float | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Call a sync tool; its time begins when a thread begins with it."""
    label = f"tool-{run.agent.name or tool.name}"
    if seconds is None:
        with worker_terms(label):
            return await tool.acall(*args, **kwargs)
    loop = asyncio.get_running_loop()
    limit = asyncio.timeout(None)

    def begin() -> None:
        with suppress(RuntimeError):  # it may be over before the loop hears that it began
            limit.reschedule(loop.time() + seconds)

    try:
        async with limit:
            with worker_terms(label, begin):
                return await tool.acall(*args, **kwargs)
    except TimeoutError:
        if not limit.expired():
            raise
        logger.warning(
            "Tool %s of agent %s timed out after %ss; its thread is left alone (%s abandoned threads)",
            tool.name,
            run.agent.name or type(run.agent).__name__,
            seconds,
            workers.abandoned,
        )
        return timed_out(seconds)


def timed_out(seconds: float) -> dict[str, Any]:
    """Return the result of a tool that ran out of time.

    Args:
        seconds: The limit, shown as it was given.
    """
    return {"error": f"Tool timed out after {seconds}s", "timeout": True}


class CodeTool:
    """A tool as generated code sees it: a function that calls it for whichever run is running.

    Stateless, so that one serves all runs of an agent.

    Args:
        tool: The tool.
    """

    __slots__ = ("name", "tool")

    def __init__(self, tool: Tool) -> None:
        self.name = tool.name
        self.tool = tool

    def begin_call(self, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Return what calls the tool, to be awaited: a coroutine less than :meth:`acall` while it waits."""
        run = current_run.get()
        if run is None:
            return self.tool.acall(*args, **kwargs)
        call = ToolCall(self.name, kwargs if not args else [*args, kwargs], "")
        return call_tool(run, call, self.tool, args, kwargs)

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """Call the tool."""
        return await self.begin_call(*args, **kwargs)

    __call__ = acall
