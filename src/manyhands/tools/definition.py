"""Whether a tool can work as it is written; every complaint says which part and why."""

from __future__ import annotations

import inspect
import keyword
from typing import TYPE_CHECKING

from manyhands.errors import ToolDefinitionError
from manyhands.schema import AUTHORIZED_TYPES, is_optional_hint, nearest, resolve_hint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from manyhands.tools.base import Tool


def check_tool_name(name: str) -> None:
    """Raise :class:`ToolDefinitionError` unless generated code can call a tool of this name."""
    if name.isidentifier() and not keyword.iskeyword(name):
        return
    reason = "a reserved word of Python" if keyword.iskeyword(name) else "not a Python identifier"
    raise ToolDefinitionError(
        f"The tool name '{name}' is {reason}: use letters, digits and underscores, such as 'get_weather'."
    )


def check_texts(tool: Tool) -> None:
    """Check that name, description and output type are there and make sense."""
    for attribute in ("name", "description", "output_type"):
        value = getattr(tool, attribute, None)
        if not isinstance(value, str) or not value.strip():
            given = "has no" if value is None else f"has {value!r} as its"
            raise ToolDefinitionError(
                f"The tool class {type(tool).__name__} {given} `{attribute}`: "
                f"set the class attribute `{attribute}` to a text."
            )
    check_tool_name(tool.name)
    _check_type(tool.output_type, f"The result of the tool '{tool.name}'")


def check_inputs(tool: Tool) -> None:
    """Check the entries of ``inputs``, each by itself."""
    if not isinstance(tool.inputs, dict):
        raise ToolDefinitionError(
            f"The inputs of the tool '{tool.name}' must be a dict, not {tool.inputs!r}."
        )
    for name, schema in tool.inputs.items():
        where = f"The argument '{name}' of the tool '{tool.name}'"
        if not isinstance(schema, dict):
            raise ToolDefinitionError(f"{where} must be described by a dict with `type` and `description`.")
        for key in ("type", "description"):
            if not schema.get(key):
                raise ToolDefinitionError(f"{where} has no `{key}`: add it to its entry in `inputs`.")
        for kind in schema["type"] if isinstance(schema["type"], list) else [schema["type"]]:
            _check_type(kind, where)


def _check_type(kind: object, where: str) -> None:
    if kind not in AUTHORIZED_TYPES:
        known = ", ".join(AUTHORIZED_TYPES)
        hint = nearest(kind, AUTHORIZED_TYPES) if isinstance(kind, str) else ""
        raise ToolDefinitionError(f"{where} has the type {kind!r}, which is not one of {known}{hint or '.'}")


def check_approval(tool: Tool) -> None:
    """Check that ``requires_approval`` can be asked."""
    if not isinstance(tool.requires_approval, bool) and not callable(tool.requires_approval):
        raise ToolDefinitionError(
            f"requires_approval of the tool '{tool.name}' is True, False, or a function of the arguments, "
            f"not {tool.requires_approval!r}."
        )


def check_forward(tool: Tool) -> None:
    """Compare ``forward`` with ``inputs``, argument by argument."""
    taken = inspect.signature(tool.forward).parameters
    for name in taken:
        if name not in tool.inputs:
            raise ToolDefinitionError(
                f"`forward` of the tool '{tool.name}' takes an argument '{name}' that `inputs` does not "
                f"describe{nearest(name, tool.inputs) or ': add it there.'}"
            )
    for name, schema in tool.inputs.items():
        where = f"The argument '{name}' of the tool '{tool.name}'"
        if name not in taken:
            remedy = ": add it to the signature, or set `skip_forward_signature_validation = True`."
            raise ToolDefinitionError(
                f"{where} is in `inputs`, but `forward` does not take it{nearest(name, taken) or remedy}"
            )
        _check_nullable(where, schema, _may_be_left_out(tool, taken[name]), name)


def _check_nullable(where: str, schema: Mapping[str, object], optional: bool, name: str) -> None:
    if optional and not schema.get("nullable"):
        raise ToolDefinitionError(
            f"{where} may be left out of a call: set `'nullable': True` in its entry in `inputs`."
        )
    if schema.get("nullable") and not optional:
        raise ToolDefinitionError(
            f"{where} is nullable in `inputs`, but `forward` requires it: give it a default, "
            f"such as `{name}=None`."
        )


def _may_be_left_out(tool: Tool, parameter: inspect.Parameter) -> bool:
    if parameter.default is not parameter.empty:
        return True
    if parameter.annotation is parameter.empty:
        return False
    where = f"argument '{parameter.name}' of the tool '{tool.name}'"
    return is_optional_hint(resolve_hint(tool.forward, parameter.annotation, where))
