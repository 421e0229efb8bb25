"""Tools that were written for something else: plain functions and tool objects of smolagents."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from manyhands.errors import ToolDefinitionError
from manyhands.tools.base import FunctionTool, Tool

if TYPE_CHECKING:
    from collections.abc import Callable

_FOREIGN_ATTRIBUTES = ("name", "description", "inputs", "output_type", "forward")


class ForeignTool(Tool):
    """A tool object of smolagents, called as it is.

    It is set up by its own first call. A sync one runs on worker threads in ``arun``, several of its
    calls side by side if a model asks for that.

    Args:
        tool: Any callable object with smolagents' attributes.

    Attributes:
        tool: The object itself.
    """

    skip_forward_signature_validation = True

    def __init__(self, tool: Any) -> None:
        self.tool = tool
        self.name = tool.name
        self.description = tool.description
        self.inputs = tool.inputs
        self.output_type = tool.output_type
        self.output_schema = getattr(tool, "output_schema", None)
        self.forward: Callable[..., Any] = tool


def is_foreign_tool(item: Any) -> bool:
    """Return whether ``item`` looks like a tool object of smolagents."""
    return (
        callable(item)
        and not isinstance(item, type)
        and all(hasattr(item, name) for name in _FOREIGN_ATTRIBUTES)
    )


def adapt(item: Any) -> Tool:
    """Return a tool that does what ``item`` does.

    Args:
        item: A function, or a tool object of smolagents.

    Raises:
        ToolDefinitionError: It is neither.
    """
    if is_foreign_tool(item):
        return ForeignTool(item)
    if isinstance(item, type):
        raise ToolDefinitionError(f"{item.__name__} is a class; give an object of it: {item.__name__}().")
    if inspect.isroutine(item):
        return _from_function(item)
    raise ToolDefinitionError(
        f"{item!r} cannot be a tool: give a Tool, a function with type hints and a docstring, "
        "or the name of a registered tool."
    )


def _from_function(fn: Callable[..., Any]) -> Tool:
    """Return the tool of ``fn``; kept on the function, so that many agents share one."""
    known = getattr(fn, "__dict__", {}).get("__manyhands_tool__")
    if isinstance(known, FunctionTool):
        return known
    made = FunctionTool(fn)
    if inspect.isfunction(fn):
        fn.__dict__["__manyhands_tool__"] = made
    return made
