"""Tools: what an agent can do. Ready-made ones are in ``builtin``, ``web`` and ``search``."""

from __future__ import annotations

from manyhands.tools.base import (
    BaseTool,
    FunctionTool,
    Tool,
    get_tool_json_schema,
    register_tool,
    registered_tools,
    resolve_tools,
    tool,
    validate_tool_arguments,
)

__all__ = [
    "BaseTool",
    "FunctionTool",
    "Tool",
    "get_tool_json_schema",
    "register_tool",
    "registered_tools",
    "resolve_tools",
    "tool",
    "validate_tool_arguments",
]
