"""How a run calls a tool, whoever asks for it: the loop, or generated code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyhands.events import ToolEnd, ToolStart
from manyhands.run import current_run
from manyhands.steps import ToolCall

if TYPE_CHECKING:
    from manyhands.run import Run
    from manyhands.tools.base import Tool


async def call_tool(run: Run, call: ToolCall, tool: Tool, *args: Any, **kwargs: Any) -> Any:
    """Call ``tool`` for ``run``, and tell observers of it.

    Args:
        run: The run that calls.
        call: The call as observers are told of it.
        tool: The tool.
        *args: Its arguments.
        **kwargs: Its arguments.
    """
    before = run.activity
    run.activity = f"tool {tool.name}"
    if not run.observers:
        result = await tool.acall(*args, **kwargs)
        run.activity = before
        return result
    run.tell(ToolStart(run.id, call))
    try:
        result = await tool.acall(*args, **kwargs)
    except BaseException as error:
        run.tell(ToolEnd(run.id, call, None, error))
        raise
    run.tell(ToolEnd(run.id, call, result, None))
    run.activity = before
    return result


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

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """Call the tool."""
        run = current_run.get()
        if run is None:
            return await self.tool.acall(*args, **kwargs)
        call = ToolCall(self.name, kwargs if not args else [*args, kwargs], "")
        return await call_tool(run, call, self.tool, *args, **kwargs)

    __call__ = acall
