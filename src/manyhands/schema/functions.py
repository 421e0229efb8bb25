"""What a function says about itself: signature, type hints and docstring read together."""

from __future__ import annotations

import inspect
import json
import re
import sys
import types
import typing
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from manyhands.errors import ToolDefinitionError
from manyhands.schema.check import AUTHORIZED_TYPES, Parameter, Schema
from manyhands.schema.docstring import parse_docstring
from manyhands.schema.hints import converter, is_typed_dict, read_hint, type_names, without_null
from manyhands.schema.words import fields_text, nearest, python_type

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True)
class FunctionDescription:
    """What a function says about itself.

    Attributes:
        description: The text of its docstring before the sections.
        parameters: Its arguments.
        result: What it returns.
    """

    description: str
    parameters: list[Parameter]
    result: ResultDescription


@dataclass(slots=True)
class ResultDescription:
    """What a function says about its result.

    Attributes:
        type: smolagents' name of its type.
        schema: JSON schema of a structured result, else ``None``.
        hint: The type as Python, for a prompt.
        words: What the docstring says about it, and the names of its fields.
    """

    type: str = "any"
    schema: Schema | None = None
    hint: str = "Any"
    words: str = ""


def describe_function(
    fn: Callable[..., Any], *, name: str, description: str | None = None
) -> FunctionDescription:
    """Describe ``fn`` by its signature, type hints and Google docstring.

    Args:
        fn: A sync or async function or method.
        name: The tool's name, for error messages.
        description: Used instead of the docstring's text.

    Raises:
        ToolDefinitionError: A type hint or a description is missing or cannot be understood; the
            message names the argument.
    """
    doc = parse_docstring(fn.__doc__)
    text = description or doc.description
    if not text:
        raise ToolDefinitionError(
            f"The tool '{name}' has no description: write a docstring that says what it does, "
            "or give `description=`."
        )
    parameters = [
        _describe_parameter(fn, parameter, doc.arguments.get(parameter.name, ""), name)
        for parameter in inspect.signature(fn).parameters.values()
    ]
    _check_documented(doc.arguments, parameters, name)
    return FunctionDescription(text, parameters, _describe_result(fn, name, doc.returns))


def _check_documented(documented: dict[str, str], parameters: list[Parameter], tool: str) -> None:
    known = [parameter.name for parameter in parameters]
    for name in documented:
        if name not in known:
            raise ToolDefinitionError(
                f"The docstring of the tool '{tool}' describes an argument '{name}' that the function "
                f"does not take{nearest(name, known) or '.'}"
            )


# --- Arguments ---------------------------------------------------------------------------------


def _describe_parameter(
    fn: Callable[..., Any], parameter: inspect.Parameter, description: str, tool: str
) -> Parameter:
    where = f"argument '{parameter.name}' of the tool '{tool}'"
    _check_nameable(parameter, tool)
    hint = resolve_hint(fn, parameter.annotation, where)
    if hint is parameter.empty:
        raise ToolDefinitionError(
            f"The {where} has no type hint: write one, such as `{parameter.name}: str`."
        )
    description = description or _annotated_description(hint)
    if not description:
        raise ToolDefinitionError(
            f"The {where} has no description: add a line `{parameter.name}: ...` under `Args:` "
            "in the docstring."
        )
    return _parameter(parameter, hint, description, where)


def _parameter(parameter: inspect.Parameter, hint: Any, description: str, where: str) -> Parameter:
    bare, nullable = without_null(hint)
    read = read_hint(bare, where, parameter.name)
    description, choices = _choices(description, where)
    schema: Schema = {"type": type_names(read.schema), **read.schema, "description": description}
    if choices is not None:
        schema["enum"] = choices
    if nullable or parameter.default is None:
        schema["nullable"] = True
    schema.update(_json_default(parameter.default))
    convert = converter(hint, parameter.name) if read.rich and not read.foreign else None
    required = parameter.default is parameter.empty and not nullable
    return Parameter(parameter.name, schema, required, parameter.default, convert)


def _check_nameable(parameter: inspect.Parameter, tool: str) -> None:
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        raise ToolDefinitionError(
            f"The tool '{tool}' takes `{parameter}`, but a model can only give arguments that are "
            "named: list them one by one."
        )
    if parameter.kind is parameter.POSITIONAL_ONLY:
        raise ToolDefinitionError(
            f"The argument '{parameter.name}' of the tool '{tool}' is positional-only, but tools are "
            "called by argument names: remove the `/` from the signature."
        )


def _annotated_description(hint: Any) -> str:
    """Return the words in ``Annotated[str, "words"]`` or ``Annotated[str, Field(description="words")]``."""
    if get_origin(hint) is not Annotated:
        return ""
    for note in get_args(hint)[1:]:
        text = note if isinstance(note, str) else getattr(note, "description", None)
        if isinstance(text, str) and text:
            return text
    return ""


def _choices(description: str, where: str) -> tuple[str, list[Any] | None]:
    """Split ``(choices: ["a", "b"])`` off the end of a description."""
    found = re.search(r"\(choices:\s*(.*?)\)\s*$", description, re.IGNORECASE | re.DOTALL)
    if found is None:
        return description, None
    try:
        choices = json.loads(found[1])
    except json.JSONDecodeError as error:
        raise ToolDefinitionError(f"The choices of the {where} are not a JSON list: {found[1]}") from error
    return description[: found.start()].strip(), choices


def _json_default(default: Any) -> Schema:
    if default is None or default is inspect.Parameter.empty:
        return {}
    value = default.value if isinstance(default, Enum) else default
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return {}
    return {"default": value}


# --- Results -----------------------------------------------------------------------------------


def _describe_result(fn: Callable[..., Any], tool: str, words: str) -> ResultDescription:
    """Describe what ``fn`` returns; what cannot be told is "any"."""
    where = f"result of the tool '{tool}'"
    try:
        hint = resolve_hint(fn, inspect.signature(fn).return_annotation, where)
        if hint is inspect.Signature.empty:
            return ResultDescription(words=words)
        read = read_hint(hint, where, "result", mode="serialization")
    except ToolDefinitionError:
        return ResultDescription(words=words)
    names = type_names(read.schema)
    kind = names if isinstance(names, str) and names in AUTHORIZED_TYPES else "any"
    is_dict = any(is_typed_dict(part) for part in (hint, *get_args(hint)))
    made = (read.rich or read.foreign) and not is_dict
    shown = _name_of(hint) if made else python_type(read.schema)
    fields = fields_text(read.schema)
    if not fields:
        return ResultDescription(kind, None, shown, words)
    # What code gets of a model is the object itself, which must not be taken for a dict.
    about = f"{shown} with the {'attributes' if made else 'keys'} {{{fields}}}."
    return ResultDescription(kind, read.schema, shown, f"{words} {about}".strip())


def _name_of(hint: Any) -> str:
    if isinstance(hint, type) and not get_args(hint):
        return hint.__name__
    return re.sub(r"(?:[\w<>]+\.)+(?=\w)", "", str(hint))


# --- Names in hints ----------------------------------------------------------------------------


def is_optional_hint(hint: Any) -> bool:
    """Return whether ``hint`` admits ``None``."""
    return hint is None or hint is type(None) or without_null(hint)[1]


def resolve_hint(fn: Callable[..., Any], hint: Any, where: str) -> Any:
    """Return a hint of ``fn`` with its names resolved.

    Postponed hints are looked up where the function looks up its names, then among the local names
    of the code that is defining it.

    Args:
        fn: The function.
        hint: As its signature gives it.
        where: Its place, for error messages.

    Raises:
        ToolDefinitionError: A name in the hint cannot be found.
    """
    if hint is None or (isinstance(hint, type) and not get_args(hint)):
        return hint
    target = _innermost(fn)
    names: dict[str, Any] = getattr(target, "__globals__", {})
    holder = types.SimpleNamespace(__annotations__={"hint": hint})
    known = _closure(target)
    try:
        return typing.get_type_hints(holder, names, known, include_extras=True)["hint"]
    except NameError:
        known = {**_defining_locals(names), **known}
    except Exception as error:
        raise ToolDefinitionError(
            f"The type hint {hint!r} of the {where} cannot be understood: {error}."
        ) from error
    try:
        return typing.get_type_hints(holder, names, known, include_extras=True)["hint"]
    except Exception as error:
        raise ToolDefinitionError(
            f"The type hint {hint!r} of the {where} cannot be resolved: {error}. Import or define the name "
            "where the function is defined (not only under TYPE_CHECKING)."
        ) from error


def _innermost(fn: Any) -> Any:
    """Return the function under wrappers, partials and methods, whose names the hints use."""
    while True:
        inner = getattr(fn, "__wrapped__", None) or getattr(fn, "__func__", None) or getattr(fn, "func", None)
        if inner is None:
            return fn
        fn = inner


def _closure(fn: Any) -> dict[str, Any]:
    names = {item.__name__: item for item in getattr(fn, "__type_params__", ())}
    cells = getattr(fn, "__closure__", None) or ()
    for name, cell in zip(fn.__code__.co_freevars if cells else (), cells, strict=True):
        try:
            names[name] = cell.cell_contents
        except ValueError:
            continue  # assigned after the function was defined
    return names


def _defining_locals(names: dict[str, Any]) -> dict[str, Any]:
    """Return the local names of the running functions of the module whose globals are ``names``."""
    found: dict[str, Any] = {}
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals is names and frame.f_locals is not names:
            found = {**frame.f_locals, **found}
        frame = frame.f_back
    return found
