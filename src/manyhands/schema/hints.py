"""Types out: from a resolved type hint to a JSON schema, and back from JSON values to its objects."""

from __future__ import annotations

import re
import sys
import types
import typing
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from manyhands.errors import ToolDefinitionError
from manyhands.schema.check import Misfit, Schema
from manyhands.schema.words import shown

if TYPE_CHECKING:
    from collections.abc import Callable

Mode = Literal["validation", "serialization"]


@dataclass(slots=True)
class Hint:
    """What a type hint means.

    Attributes:
        schema: Its JSON schema; ``{}`` for anything.
        rich: Whether its values are objects that pydantic makes of JSON values.
        foreign: Whether it holds a type that no JSON value stands for; then nothing is converted.
    """

    schema: Schema
    rich: bool
    foreign: bool


def read_hint(hint: Any, where: str, prefix: str, mode: Mode = "validation") -> Hint:
    """Translate a resolved type hint.

    Args:
        hint: The hint; its names are resolved.
        where: Its place, for error messages.
        prefix: Put before the names of its definitions, so that those of two arguments never collide.
        mode: Whether values go in or come out.

    Raises:
        ToolDefinitionError: It cannot be understood.
    """
    reader = _Reader(where, prefix, mode)
    schema = reader.read(hint)
    if reader.definitions:
        schema = {**schema, "$defs": reader.definitions}
    return Hint(schema, reader.rich, reader.foreign)


def converter(hint: Any, name: str) -> Callable[[Any], Any]:
    """Return the function that makes what ``hint`` promises out of a JSON value.

    It raises :class:`~manyhands.schema.check.Misfit` for a value that cannot be one.
    """
    from pydantic import TypeAdapter, ValidationError

    validate = TypeAdapter(_for_pydantic(hint)).validate_python

    def convert(value: Any) -> Any:
        try:
            return validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
            reason = f"is {shown(first['input'])}, which is refused: {first['msg']}"
            raise Misfit(f"{name}{path}", reason) from error

    return convert


def is_typed_dict(hint: Any) -> bool:
    """Return whether ``hint`` is a ``TypedDict``, of typing or of typing_extensions."""
    return isinstance(hint, type) and issubclass(hint, dict) and hasattr(hint, "__total__")


def typed_dict_fields(hint: Any) -> dict[str, tuple[Any, bool]]:
    """Return for each key its type, and whether it must be there."""
    plain = typing.get_type_hints(hint)
    # Keys know whether they are required, except where hints are postponed and say so themselves.
    marked = {
        name: getattr(get_origin(field), "_name", "")
        for name, field in typing.get_type_hints(hint, include_extras=True).items()
    }
    return {
        name: (
            field,
            marked[name] == "Required" or (marked[name] != "NotRequired" and name in hint.__required_keys__),
        )
        for name, field in plain.items()
    }


def _for_pydantic(hint: Any) -> Any:
    """Before Python 3.12 pydantic takes no ``typing.TypedDict``: put its equal in its place."""
    if sys.version_info >= (3, 12):
        return hint
    if is_typed_dict(hint):
        import typing_extensions as extensions

        fields = {
            name: (extensions.Required if needed else extensions.NotRequired)[_for_pydantic(field)]
            for name, (field, needed) in typed_dict_fields(hint).items()
        }
        return extensions.TypedDict(hint.__name__, fields)  # type: ignore[operator]
    if is_union(hint):
        return Union[tuple(_for_pydantic(arg) for arg in get_args(hint))]  # noqa: UP007
    if get_origin(hint) in (list, dict):
        return get_origin(hint)[tuple(_for_pydantic(arg) for arg in get_args(hint))]
    return hint


def is_union(hint: Any) -> bool:
    """Return whether ``hint`` is ``Union[...]`` or ``a | b``."""
    return get_origin(hint) in (Union, types.UnionType)


def without_null(hint: Any) -> tuple[Any, bool]:
    """Return ``hint`` without ``None``, and whether it had it."""
    if not is_union(hint):
        return hint, False
    rest = tuple(arg for arg in get_args(hint) if arg is not type(None))
    if len(rest) == len(get_args(hint)) or not rest:
        return hint, False
    return Union[rest], True  # noqa: UP007 - the members are values


def type_names(schema: Schema) -> str | list[str]:
    """Return the ``type`` entry for a schema, gathered from its branches if it has none itself."""
    if "type" in schema:
        kind: str | list[str] = schema["type"]
        return kind
    branches = [type_names(branch) for branch in schema.get("anyOf") or schema.get("oneOf") or ()]
    names = [name for branch in branches for name in ([branch] if isinstance(branch, str) else branch)]
    names = list(dict.fromkeys(names))
    if not names or "any" in names:
        return "any"
    return names[0] if len(names) == 1 else names


_PLAIN: dict[Any, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    None: {"type": "null"},
    list: {"type": "array"},
    dict: {"type": "object"},
    object: {},
    Any: {},
}

_MEDIA = {"AgentText": "string", "AgentImage": "image", "AgentAudio": "audio"}


class _Reader:
    """Translates one hint, and gathers what is true of all its parts."""

    def __init__(self, where: str, prefix: str, mode: Mode) -> None:
        self.where = where
        self.prefix = prefix
        self.mode = mode
        self.definitions: Schema = {}
        self.open: list[Any] = []
        self.rich = False
        self.foreign = False

    def read(self, hint: Any) -> Schema:
        try:
            plain = _PLAIN.get(hint)
        except TypeError:  # an unhashable hint, such as Annotated with a list
            plain = None
        if plain is not None:
            return dict(plain)
        origin, args = get_origin(hint), get_args(hint)
        if is_union(hint):
            return _any_of([self.read(arg) for arg in args])
        if origin is Literal and all(_is_plain_choice(arg) for arg in args):
            return _literal(args)
        if origin is list:
            items = self.read(args[0])
            return {"type": "array", "items": items} if items else {"type": "array"}
        if origin is dict and args[0] is str:
            values = self.read(args[1])
            return {"type": "object", "additionalProperties": values} if values else {"type": "object"}
        if is_typed_dict(hint):
            return self._read_typed_dict(hint)
        if origin is Annotated and all(isinstance(note, str) for note in args[1:]):
            return self.read(args[0])
        return self._read_leaf(hint)

    def _read_typed_dict(self, hint: Any) -> Schema:
        if hint in self.open:  # one that holds itself
            return {"type": "object"}
        self.open.append(hint)
        try:
            fields = typed_dict_fields(hint)
        except NameError as error:
            raise ToolDefinitionError(
                f"The type {hint.__name__} of the {self.where} cannot be resolved: {error}. "
                "Define it, and what its fields refer to, at the top of the module."
            ) from error
        properties = {name: self.read(field) for name, (field, _) in fields.items()}
        self.open.pop()
        required = [name for name, (_, needed) in fields.items() if needed]
        return {"type": "object", "properties": properties, "required": required}

    def _read_leaf(self, hint: Any) -> Schema:
        """Translate a type that is not plain JSON."""
        media = _media_type(hint)
        schema = None if media else self._ask_pydantic(hint)
        if schema is None:
            self.foreign = True
            return {"type": media or "object"}
        self.rich = True
        return schema

    def _ask_pydantic(self, hint: Any) -> Schema | None:
        """Return pydantic's schema for ``hint``, ``None`` if no JSON value stands for it."""
        from pydantic import TypeAdapter
        from pydantic.errors import (
            PydanticInvalidForJsonSchema,
            PydanticSchemaGenerationError,
            PydanticUserError,
        )
        from pydantic.json_schema import GenerateJsonSchema

        class Quiet(GenerateJsonSchema):
            ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}

        template = f"#/$defs/{self.prefix}.{{model}}"
        try:
            found = TypeAdapter(hint).json_schema(
                ref_template=template, schema_generator=Quiet, mode=self.mode
            )
        except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema):
            return None
        except (PydanticUserError, NameError) as error:
            raise ToolDefinitionError(
                f"The type of the {self.where} cannot be used: {str(error).splitlines()[0]} "
                "Define it, and what its fields refer to, at the top of the module."
            ) from error
        named = {f"{self.prefix}.{name}": schema for name, schema in found.pop("$defs", {}).items()}
        inlined: Schema = _Inliner(named, self.definitions).walk(found)
        return inlined


def _is_plain_choice(choice: Any) -> bool:
    return isinstance(choice, str | int | None) and not isinstance(choice, Enum)


def _literal(choices: tuple[Any, ...]) -> Schema:
    names = list(dict.fromkeys(_PLAIN[type(choice)]["type"] for choice in choices))
    return {"type": names[0] if len(names) == 1 else names, "enum": list(choices)}


def _any_of(schemas: list[Schema]) -> Schema:
    if any(not schema for schema in schemas):
        return {}
    if len(schemas) == 1:
        return schemas[0]
    if all(schema.keys() == {"type"} and isinstance(schema["type"], str) for schema in schemas):
        return {"type": list(dict.fromkeys(schema["type"] for schema in schemas))}
    return {"anyOf": schemas}


def _media_type(hint: Any) -> str | None:
    if not isinstance(hint, type):
        return None
    if hint.__module__.startswith("PIL.") and hint.__name__ == "Image":
        return "image"
    return _MEDIA.get(hint.__name__) if "agent_types" in hint.__module__ else None


class _Inliner:
    """Puts definitions in place of references; only recursive ones stay apart, in ``kept``.

    Many providers take no ``$ref``, and titles made of names only cost tokens.
    """

    def __init__(self, definitions: Schema, kept: Schema) -> None:
        self.definitions = definitions
        self.kept = kept

    def walk(self, node: Any, opened: frozenset[str] = frozenset()) -> Any:
        if isinstance(node, list):
            return [self.walk(item, opened) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return self._follow(node, opened)
        return {
            key: self._entry(key, value, opened)
            for key, value in node.items()
            if key not in ("title", "discriminator")
        }

    def _follow(self, node: Schema, opened: frozenset[str]) -> Schema:
        name = re.sub(r".*/", "", node["$ref"])
        beside = {key: value for key, value in node.items() if key not in ("$ref", "title")}
        if name not in opened and name not in self.kept:
            return {**self.walk(self.definitions[name], opened | {name}), **beside}
        if name not in self.kept:
            self.kept[name] = {}  # known from here on, so that it refers to itself
            self.kept[name] = self.walk(self.definitions[name], frozenset({name}))
        return {"$ref": node["$ref"], **beside}

    def _entry(self, key: str, value: Any, opened: frozenset[str]) -> Any:
        if key in ("default", "const", "enum", "examples"):
            return value
        if key in ("properties", "patternProperties"):
            return {name: self.walk(item, opened) for name, item in value.items()}
        return self.walk(value, opened)
