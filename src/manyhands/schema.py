"""Python signatures as JSON schemas, and values from a model checked against such schemas.

*Out*: :func:`describe_function` reads a signature, its type hints and its Google docstring. Plain
types (strings, numbers, lists, dicts, literals, unions of them) are translated here; everything
else (models, enums, dataclasses, dates ...) is left to pydantic, which is imported only then: a
process whose tools take plain types never pays for it.

*In*: :class:`Signature` checks the arguments of a call against the same schemas, strictly as JSON
would be, so that all tools reject the same mistakes in the same words; pydantic then only turns
values into the objects that a function's hints promise.
"""

from __future__ import annotations

import difflib
import inspect
import json
import re
import sys
import types
import typing
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from manyhands.errors import AgentToolCallError, ToolDefinitionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Schema = dict[str, Any]

AUTHORIZED_TYPES = [
    "string",
    "boolean",
    "integer",
    "number",
    "image",
    "audio",
    "array",
    "object",
    "any",
    "null",
]


# --- Parameters and what they accept -----------------------------------------------------------


@dataclass(slots=True)
class Parameter:
    """One argument of a tool.

    Attributes:
        name: Its name.
        schema: Its JSON schema with ``type`` (smolagents' names) and ``description``.
        required: Whether a call must give it.
        default: Its default, where there is one.
        convert: Turns a JSON value into the object that the function wants; ``None`` for plain types.
        exact: The type whose values always fit, so that they need no closer look.
    """

    name: str
    schema: Schema
    required: bool = True
    default: Any = inspect.Parameter.empty
    convert: Callable[[Any], Any] | None = None
    exact: type | None = None

    def __post_init__(self) -> None:
        if not self.schema.keys() - {"type", "description", "nullable", "default", "title"}:
            kind = self.schema.get("type")
            self.exact = _EXACT.get(kind) if isinstance(kind, str) else None

    @property
    def nullable(self) -> bool:
        """Whether the argument may be null."""
        return bool(self.schema.get("nullable"))

    @property
    def default_text(self) -> str:
        """The default as generated code would write it."""
        return repr(self.schema["default"]) if "default" in self.schema else _default_text(self.default)

    def fit(self, value: Any) -> Any:
        """Return ``value`` as the function wants it.

        Raises:
            Misfit: It does not fit the schema.
        """
        fitted = _Fitter(self.schema, rich=self.convert is not None).fit(value, self.schema, self.name)
        return self.convert(fitted) if self.convert is not None and fitted is not None else fitted


def _default_text(default: Any) -> str:
    return repr(default) if default is None or isinstance(default, _JSON_VALUES) else "..."


class Misfit(Exception):
    """A value does not fit; the text says which, what was given and what is allowed."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"argument '{path}' {reason}")
        self.path = path


class Signature:
    """The arguments that a tool takes.

    Args:
        tool: The tool's name, for error messages.
        parameters: Its arguments, in order.
    """

    __slots__ = ("_needed", "converts", "parameters", "tool")

    def __init__(self, tool: str, parameters: Iterable[Parameter]) -> None:
        self.tool = tool
        self.parameters = {parameter.name: parameter for parameter in parameters}
        self._needed = [p for p in self.parameters.values() if p.default is inspect.Parameter.empty]
        self.converts = {name: p.convert for name, p in self.parameters.items() if p.convert is not None}

    def json_schema(self) -> Schema:
        """Return the JSON schema of the arguments as one object."""
        definitions: Schema = {}
        properties = {}
        for name, parameter in self.parameters.items():
            schema = {key: value for key, value in parameter.schema.items() if key != "$defs"}
            definitions.update(parameter.schema.get("$defs", {}))
            properties[name] = _sendable(schema)
        required = [name for name, parameter in self.parameters.items() if parameter.required]
        whole: Schema = {"type": "object", "properties": properties, "required": required}
        return {**whole, "$defs": definitions} if definitions else whole

    def check(self, arguments: Any) -> dict[str, Any]:
        """Check the arguments of a call, and return them as the function wants them.

        Args:
            arguments: A mapping, or the JSON text of an object.

        Raises:
            AgentToolCallError: They do not fit; the text names every argument that is wrong.
        """
        given = self._mapping(arguments)
        checked: dict[str, Any] = {}
        problems: list[str] = []
        for name, value in given.items():
            parameter = self.parameters.get(name)
            if parameter is None:
                problems.append(self._unknown(name, given))
            elif type(value) is parameter.exact:
                checked[name] = value
            else:
                try:
                    checked[name] = parameter.fit(value)
                except Misfit as misfit:
                    problems.append(str(misfit))
        for parameter in self._needed:
            if parameter.name not in given:
                if parameter.required:
                    problems.append(f"argument '{parameter.name}' is missing ({allowed(parameter.schema)})")
                else:
                    checked[parameter.name] = None
        if problems:
            raise self._error("; ".join(problems))
        return checked

    def convert(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of a Python call with plain values turned into the objects wanted.

        Raises:
            AgentToolCallError: A value cannot be turned into such an object.
        """
        try:
            placed = [
                self._converted(name, value) for name, value in zip(self.parameters, args, strict=False)
            ]
            named = {name: self._converted(name, value) for name, value in kwargs.items()}
        except Misfit as misfit:
            raise self._error(str(misfit)) from misfit.__cause__
        return (*placed, *args[len(placed) :]), named

    def _converted(self, name: str, value: Any) -> Any:
        convert = self.converts.get(name)
        return value if convert is None or value is None else convert(value)

    def _mapping(self, arguments: Any) -> Mapping[str, Any]:
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments, strict=False) if arguments.strip() else {}
            except json.JSONDecodeError as error:
                raise self._error(f"the arguments are not valid JSON ({error})") from error
        if arguments is None:
            return {}
        if not isinstance(arguments, dict):
            raise self._error(f"the arguments must be one JSON object, not {shown(arguments)}")
        return arguments

    def _unknown(self, name: str, given: Mapping[str, Any]) -> str:
        free = [known for known in self.parameters if known not in given]
        return f"there is no argument '{name}'{nearest(name, free)}"

    def _error(self, problems: str) -> AgentToolCallError:
        return AgentToolCallError(f"Invalid call of the tool '{self.tool}': {problems}. {self._usage()}")

    def _usage(self) -> str:
        if not self.parameters:
            return "It takes no arguments."
        lines = [
            f"{name} ({allowed(parameter.schema)}{'' if parameter.required else ', optional'})"
            for name, parameter in self.parameters.items()
        ]
        return f"Its arguments are: {', '.join(lines)}."


def _sendable(schema: Schema) -> Schema:
    """Return an input's schema as providers take it: smolagents' own type names are not JSON's."""
    kind = schema.get("type")
    if kind == "any" and ("anyOf" in schema or "$ref" in schema):
        return {key: value for key, value in schema.items() if key != "type"}
    if kind in ("any", "image", "audio"):
        # Some providers refuse an argument without a type; any JSON value is accepted back.
        return {**schema, "type": "string"}
    return schema


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the known name nearest to ``name``, "" if none is near."""
    names = list(known)
    lowered = {candidate.lower(): candidate for candidate in names}
    found = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return f"; did you mean '{lowered[found[0]]}'?" if found else ""


# --- Values in: fitting a value to a schema ----------------------------------------------------

_EXACT: dict[str, type] = {"string": str, "integer": int, "number": float, "boolean": bool}

_JSON_VALUES = (str, int, float, list, tuple, dict, type(None))

_TYPE_TESTS: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, list | tuple),
    # A data frame or the like can only come from code; it is nobody's mistake.
    "object": lambda value: isinstance(value, dict) or not isinstance(value, _JSON_VALUES),
    "null": lambda value: value is None,
    "any": lambda _: True,
    "image": lambda _: True,
    "audio": lambda _: True,
}

_BOUNDS: tuple[tuple[str, Callable[[Any, Any], bool], str], ...] = (
    ("minimum", lambda value, bound: value >= bound, "at least {}"),
    ("maximum", lambda value, bound: value <= bound, "at most {}"),
    ("exclusiveMinimum", lambda value, bound: value > bound, "more than {}"),
    ("exclusiveMaximum", lambda value, bound: value < bound, "less than {}"),
    ("minLength", lambda value, bound: len(value) >= bound, "at least {} characters long"),
    ("maxLength", lambda value, bound: len(value) <= bound, "at most {} characters long"),
    ("pattern", lambda value, bound: re.search(bound, value) is not None, "text that matches {}"),
    ("minItems", lambda value, bound: len(value) >= bound, "at least {} items long"),
    ("maxItems", lambda value, bound: len(value) <= bound, "at most {} items long"),
)


class _Fitter:
    """Fits values to one schema; ``rich`` lets objects pass that pydantic will look at."""

    __slots__ = ("definitions", "rich")

    def __init__(self, root: Schema, rich: bool) -> None:
        self.definitions: Schema = root.get("$defs", {})
        self.rich = rich

    def fit(self, value: Any, schema: Schema, path: str) -> Any:
        if "$ref" in schema:
            schema = {**self.definitions.get(schema["$ref"].rsplit("/", 1)[1], {}), **schema}
        if value is None and schema.get("nullable"):
            return None
        if self.rich and not isinstance(value, _JSON_VALUES):
            return value
        if "enum" in schema or "const" in schema:
            return self._fit_choice(value, schema, path)
        choices = schema.get("anyOf") or schema.get("oneOf")
        if choices:
            return self._fit_any(value, choices, schema, path)
        value = self._fit_type(value, schema, path)
        self._check_bounds(value, schema, path)
        if isinstance(value, dict):
            return self._fit_object(value, schema, path)
        if isinstance(value, list | tuple):
            return self._fit_array(value, schema, path)
        return value

    def _fit_type(self, value: Any, schema: Schema, path: str) -> Any:
        wanted = schema.get("type")
        if wanted is None:
            return value
        names = [wanted] if isinstance(wanted, str) else wanted
        if any(_TYPE_TESTS.get(name, _anything)(value) for name in names):
            return value
        if "integer" in names and isinstance(value, float) and value.is_integer():
            return int(value)  # JSON knows no difference between 3 and 3.0
        raise Misfit(path, f"is {shown(value)}, but must be {allowed(schema)}")

    def _fit_choice(self, value: Any, schema: Schema, path: str) -> Any:
        choices = schema["enum"] if "enum" in schema else [schema["const"]]
        for choice in choices:
            if value == choice and isinstance(value, bool) == isinstance(choice, bool):
                return choice
        hint = nearest(value, [c for c in choices if isinstance(c, str)]) if isinstance(value, str) else ""
        raise Misfit(path, f"is {shown(value)}, but must be {allowed(schema)}{hint}")

    def _fit_any(self, value: Any, choices: list[Schema], schema: Schema, path: str) -> Any:
        deepest: Misfit | None = None
        for choice in choices:
            try:
                return self.fit(value, choice, path)
            except Misfit as misfit:
                if deepest is None or len(misfit.path) > len(deepest.path):
                    deepest = misfit
        if deepest is not None and deepest.path != path:
            raise deepest
        raise Misfit(path, f"is {shown(value)}, but must be {allowed(schema)}")

    def _fit_object(self, value: dict[str, Any], schema: Schema, path: str) -> dict[str, Any]:
        properties: Schema = schema.get("properties", {})
        others = schema.get("additionalProperties", True)
        for name in schema.get("required", ()):
            if name not in value:
                raise Misfit(f"{path}.{name}", f"is missing ({allowed(properties.get(name, {}))})")
        fitted = {}
        for name, item in value.items():
            rule = properties.get(name, others)
            if rule is False:
                raise Misfit(f"{path}.{name}", f"is unknown{nearest(name, properties)}")
            fitted[name] = self.fit(item, rule, f"{path}.{name}") if isinstance(rule, dict) else item
        return fitted

    def _fit_array(self, value: Any, schema: Schema, path: str) -> list[Any]:
        first: list[Schema] = schema.get("prefixItems", [])
        rest = schema.get("items")
        fitted = []
        for index, item in enumerate(value):
            rule = first[index] if index < len(first) else rest
            fitted.append(self.fit(item, rule, f"{path}[{index}]") if isinstance(rule, dict) else item)
        return fitted

    @staticmethod
    def _check_bounds(value: Any, schema: Schema, path: str) -> None:
        for key, holds, words in _BOUNDS:
            if key in schema:
                try:
                    fits = holds(value, schema[key])
                except TypeError:
                    continue  # a bound for another type of the union
                if not fits:
                    raise Misfit(path, f"is {shown(value)}, but must be {words.format(schema[key])}")


def _anything(_: Any) -> bool:
    return True


_TYPE_WORDS = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
    "any": "any value",
    "image": "an image",
    "audio": "audio",
}


def allowed(schema: Schema) -> str:
    """Return in words what fits ``schema``, such as ``a list of integers``."""
    words = _allowed(schema)
    return f"{words} or null" if schema.get("nullable") else words


def _allowed(schema: Schema) -> str:
    if "enum" in schema or "const" in schema:
        choices = schema["enum"] if "enum" in schema else [schema["const"]]
        return ("one of " if len(choices) > 1 else "") + ", ".join(repr(choice) for choice in choices)
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        return " or ".join(dict.fromkeys(allowed(choice) for choice in choices))
    wanted = schema.get("type", "any")
    if isinstance(wanted, list):
        return " or ".join(_TYPE_WORDS.get(name, str(name)) for name in wanted)
    if wanted == "array" and schema.get("items"):
        return f"a list, each item {allowed(schema['items'])}"
    if wanted == "object" and schema.get("properties"):
        return f"an object with the keys {', '.join(repr(name) for name in schema['properties'])}"
    return _TYPE_WORDS.get(wanted, str(wanted))


def shown(value: Any, limit: int = 80) -> str:
    """Return ``value`` as an error message shows it: short, with its type."""
    text = repr(value)
    if len(text) > limit:
        text = f"{text[: limit - 3]}..."
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    for name in ("string", "integer", "number", "array"):
        if _TYPE_TESTS[name](value):
            return f"{text} ({_TYPE_WORDS[name]})"
    return f"{text} ({_TYPE_WORDS['object'] if isinstance(value, dict) else type(value).__name__})"


# --- Types out: from a hint to a schema --------------------------------------------------------


class _Kind(NamedTuple):
    """What a type hint is: its schema, whether values become objects, whether only code can make one."""

    schema: Schema
    rich: bool = False
    foreign: bool = False


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


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def _kind(hint: Any, where: str) -> _Kind:
    """Translate a resolved hint; ``where`` names its place in errors and in definitions."""
    try:
        plain = _PLAIN.get(hint)
    except TypeError:  # an unhashable hint, such as Annotated with a list
        plain = None
    if plain is not None:
        return _Kind(dict(plain))
    origin, args = get_origin(hint), get_args(hint)
    if _is_union(hint):
        return _union([_kind(arg, where) for arg in args])
    if origin is Literal and all(
        isinstance(arg, str | int | None) and not isinstance(arg, Enum) for arg in args
    ):
        return _Kind(_literal(args))
    if origin is list:
        items = _kind(args[0], where)
        return items._replace(
            schema={"type": "array", "items": items.schema} if items.schema else {"type": "array"}
        )
    if origin is dict and args[0] is str:
        values = _kind(args[1], where)
        more = {"additionalProperties": values.schema} if values.schema else {}
        return values._replace(schema={"type": "object", **more})
    if origin is Annotated and all(isinstance(note, str) for note in args[1:]):
        return _kind(args[0], where)
    return _leaf(hint, where)


def _literal(choices: tuple[Any, ...]) -> Schema:
    names = list(dict.fromkeys(_PLAIN[type(choice)]["type"] for choice in choices))
    return {"type": names[0] if len(names) == 1 else names, "enum": list(choices)}


def _union(kinds: list[_Kind]) -> _Kind:
    rich, foreign = any(kind.rich for kind in kinds), any(kind.foreign for kind in kinds)
    schemas = [kind.schema for kind in kinds]
    if any(not schema for schema in schemas):
        return _Kind({}, rich, foreign)
    if len(schemas) == 1:
        return _Kind(schemas[0], rich, foreign)
    if all(schema.keys() == {"type"} and isinstance(schema["type"], str) for schema in schemas):
        return _Kind({"type": list(dict.fromkeys(schema["type"] for schema in schemas))}, rich, foreign)
    definitions: Schema = {}
    for schema in schemas:
        definitions.update(schema.pop("$defs", {}))
    merged: Schema = {"anyOf": schemas}
    return _Kind({**merged, "$defs": definitions} if definitions else merged, rich, foreign)


def _leaf(hint: Any, where: str) -> _Kind:
    """Translate a type that is not plain JSON."""
    if isinstance(hint, type):
        if hint.__module__.startswith("PIL.") and hint.__name__ == "Image":
            return _Kind({"type": "image"}, foreign=True)
        if hint.__name__ in _MEDIA and "agent_types" in hint.__module__:
            return _Kind({"type": _MEDIA[hint.__name__]}, foreign=True)
    schema = _pydantic_schema(hint, where)
    if schema is None:
        return _Kind({"type": "object"}, foreign=True)
    return _Kind(schema, rich=True)


def _pydantic_schema(
    hint: Any, where: str, mode: Literal["validation", "serialization"] = "validation"
) -> Schema | None:
    """Return the schema that pydantic gives for ``hint``, ``None`` if it cannot be a JSON value."""
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, PydanticUserError
    from pydantic.json_schema import GenerateJsonSchema

    class Quiet(GenerateJsonSchema):
        ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}

    # Names of definitions carry their argument, so that those of two arguments never collide.
    prefix = re.sub(r"\W", "_", where)
    template = f"#/$defs/{prefix}.{{model}}"
    try:
        found = TypeAdapter(hint).json_schema(ref_template=template, schema_generator=Quiet, mode=mode)
    except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema):
        return None
    except (PydanticUserError, NameError) as error:
        raise ToolDefinitionError(
            f"The type of {where} cannot be used: {str(error).splitlines()[0]} "
            "Define it, and what its fields refer to, at the top of the module."
        ) from error
    definitions = {f"{prefix}.{name}": schema for name, schema in found.pop("$defs", {}).items()}
    return _inlined(found, definitions)


def _inlined(schema: Schema, definitions: Schema) -> Schema:
    """Return ``schema`` with its definitions put in place; only recursive ones stay apart.

    Many providers take no ``$ref``, and titles made of names only cost tokens.
    """
    recursive: dict[str, Schema] = {}

    def walk(node: Any, opened: frozenset[str]) -> Any:
        if isinstance(node, list):
            return [walk(item, opened) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" not in node:
            return {key: inner(key, value, opened) for key, value in node.items() if key not in _NOISE}
        name = node["$ref"].rsplit("/", 1)[1]
        others = {key: value for key, value in node.items() if key not in ("$ref", *_NOISE)}
        if name in opened:
            if name not in recursive:
                recursive[name] = {}
                recursive[name] = walk(definitions[name], frozenset({name}))
            return {"$ref": node["$ref"], **others}
        return {**walk(definitions[name], opened | {name}), **others}

    def inner(key: str, value: Any, opened: frozenset[str]) -> Any:
        if key in ("default", "const", "enum", "examples"):
            return value
        if key in ("properties", "patternProperties"):
            return {name: walk(item, opened) for name, item in value.items()}
        return walk(value, opened)

    whole: Schema = walk(schema, frozenset())
    return {**whole, "$defs": recursive} if recursive else whole


_NOISE = ("title", "discriminator", "$defs")


def _converter(hint: Any, name: str) -> Callable[[Any], Any]:
    """Return the function that makes what ``hint`` promises out of a JSON value."""
    from pydantic import TypeAdapter, ValidationError

    validate = TypeAdapter(hint).validate_python

    def convert(value: Any) -> Any:
        try:
            return validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
            reason = f"is {shown(first['input'])}, which is refused: {first['msg']}"
            raise Misfit(f"{name}{path}", reason) from error

    return convert


def _types_of(schema: Schema) -> str | list[str]:
    """Return the ``type`` entry for an input whose schema may have none."""
    if "type" in schema:
        kind: str | list[str] = schema["type"]
        return kind
    branches = [_types_of(branch) for branch in schema.get("anyOf") or schema.get("oneOf") or ()]
    names = [name for branch in branches for name in ([branch] if isinstance(branch, str) else branch)]
    names = list(dict.fromkeys(names))
    if not names or "any" in names:
        return "any"
    return names[0] if len(names) == 1 else names


def _without_null(hint: Any) -> tuple[Any, bool]:
    """Return ``hint`` without ``None``, and whether it had it."""
    if not _is_union(hint):
        return hint, False
    rest = tuple(arg for arg in get_args(hint) if arg is not type(None))
    if len(rest) == len(get_args(hint)) or not rest:
        return hint, False
    return Union[rest], True  # noqa: UP007 - built from values


# --- Functions ---------------------------------------------------------------------------------


@dataclass(slots=True)
class FunctionDescription:
    """What a function says about itself.

    Attributes:
        description: The text of its docstring before the sections.
        parameters: Its arguments.
        output_type: smolagents' type name of what it returns.
        output_schema: JSON schema of a structured result, else ``None``.
        returns: Its docstring's words about the result.
    """

    description: str
    parameters: list[Parameter]
    output_type: str = "any"
    output_schema: Schema | None = None
    returns: str = ""


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
    parsed = parse_docstring(fn.__doc__)
    text = description or parsed.description
    if not text:
        raise ToolDefinitionError(
            f"The tool '{name}' has no description: write a docstring that says what it does, "
            "or give `description=`."
        )
    parameters = []
    for parameter in inspect.signature(fn).parameters.values():
        _check_nameable(parameter, name)
        hint = resolve_hint(fn, parameter.annotation, f"argument '{parameter.name}' of the tool '{name}'")
        parameters.append(_parameter(parameter, hint, parsed.arguments.get(parameter.name, ""), name))
    stray = parsed.arguments.keys() - {parameter.name for parameter in parameters}
    if stray:
        known = [parameter.name for parameter in parameters]
        wrong = min(stray)
        raise ToolDefinitionError(
            f"The docstring of the tool '{name}' describes an argument '{wrong}' that it does not take"
            f"{nearest(wrong, known) or '.'}"
        )
    output_type, output_schema = _describe_output(fn, name)
    return FunctionDescription(text, parameters, output_type, output_schema, parsed.returns)


def _check_nameable(parameter: inspect.Parameter, tool: str) -> None:
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        raise ToolDefinitionError(
            f"The tool '{tool}' takes `{parameter}`, but a model can only give arguments that are named: "
            "list them one by one."
        )
    if parameter.kind is parameter.POSITIONAL_ONLY:
        raise ToolDefinitionError(
            f"The argument '{parameter.name}' of the tool '{tool}' is positional-only, but tools are "
            "called by argument names: remove the `/` from the signature."
        )


def _parameter(parameter: inspect.Parameter, hint: Any, description: str, tool: str) -> Parameter:
    where = f"argument '{parameter.name}' of the tool '{tool}'"
    if hint is inspect.Parameter.empty:
        raise ToolDefinitionError(
            f"The {where} has no type hint: write one, such as `{parameter.name}: str`."
        )
    description = description or _annotated_description(hint)
    if not description:
        raise ToolDefinitionError(
            f"The {where} has no description: add a line `{parameter.name}: ...` under `Args:` in the docstring."
        )
    bare, nullable = _without_null(hint)
    kind = _kind(bare, where)
    description, choices = _choices(description, where)
    has_default = parameter.default is not parameter.empty
    schema: Schema = {"type": _types_of(kind.schema), **kind.schema, "description": description}
    if choices is not None:
        schema["enum"] = choices
    if nullable or parameter.default is None:
        schema["nullable"] = True
    if has_default and parameter.default is not None:
        schema.update(_json_default(parameter.default))
    convert = _converter(hint, parameter.name) if kind.rich and not kind.foreign else None
    required = not has_default and not nullable
    return Parameter(parameter.name, schema, required, parameter.default, convert)


def _annotated_description(hint: Any) -> str:
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
    value = default.value if isinstance(default, Enum) else default
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return {}
    return {"default": value}


def _describe_output(fn: Callable[..., Any], tool: str) -> tuple[str, Schema | None]:
    hint = resolve_hint(fn, inspect.signature(fn).return_annotation, f"the result of the tool '{tool}'")
    if hint is inspect.Signature.empty:
        return "any", None
    kind = _kind(hint, f"the result of the tool '{tool}'")
    names = _types_of(kind.schema)
    structured = kind.schema if "properties" in kind.schema else None
    return (names if isinstance(names, str) else "any"), structured


def is_optional_hint(hint: Any) -> bool:
    """Return whether ``hint`` admits ``None``."""
    return hint is None or hint is type(None) or _without_null(hint)[1]


def resolve_hint(fn: Callable[..., Any], hint: Any, where: str) -> Any:
    """Return a hint of ``fn`` with its names resolved.

    Postponed hints are looked up where the function looks up its names, then among the local names
    of the code that is defining it.

    Raises:
        ToolDefinitionError: A name in the hint cannot be found.
    """
    if hint is None or hint is inspect.Parameter.empty or isinstance(hint, type) and not get_args(hint):
        return hint
    target = inspect.unwrap(getattr(fn, "__func__", fn))
    names = getattr(target, "__globals__", {})
    holder = types.SimpleNamespace(__annotations__={"hint": hint})
    try:
        return typing.get_type_hints(holder, names, _closure(target), include_extras=True)["hint"]
    except NameError:
        local = {**_defining_locals(names), **_closure(target)}
    except Exception as error:
        raise ToolDefinitionError(
            f"The type hint {hint!r} of {where} cannot be understood: {error}"
        ) from error
    try:
        return typing.get_type_hints(holder, names, local, include_extras=True)["hint"]
    except Exception as error:
        raise ToolDefinitionError(
            f"The type hint {hint!r} of {where} cannot be resolved: {error}. "
            "Import or define the name where the function is defined (not only under TYPE_CHECKING)."
        ) from error


def _closure(fn: Any) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for name, cell in zip(
        getattr(fn, "__code__", fn).co_freevars if fn.__closure__ else (), fn.__closure__ or (), strict=False
    ):
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


# --- Docstrings --------------------------------------------------------------------------------


@dataclass(slots=True)
class Docstring:
    """A Google docstring, taken apart."""

    description: str = ""
    arguments: dict[str, str] = field(default_factory=dict)
    returns: str = ""


_SECTIONS = {
    "args": "args",
    "arguments": "args",
    "parameters": "args",
    "params": "args",
    "returns": "returns",
    "return": "returns",
    "yields": "other",
    "raises": "other",
}
_ARGUMENT = re.compile(r"^\*{0,2}(\w+)\s*(?:\(((?:[^()]|\([^()]*\))*)\))?\s*:\s*(.*)$")


def parse_docstring(text: str | None) -> Docstring:
    """Take a Google docstring apart.

    Args:
        text: The docstring; ``None`` is an empty one.
    """
    parsed = Docstring()
    blocks: dict[str, list[str]] = {"description": [], "args": [], "returns": [], "other": []}
    section = "description"
    for line in inspect.cleandoc(text or "").splitlines():
        heading = line.rstrip().removesuffix(":").lower() if line.rstrip().endswith(":") else ""
        if not line[:1].isspace() and heading in _SECTIONS:
            section = _SECTIONS[heading]
        else:
            blocks[section].append(line)
    parsed.description = "\n".join(blocks["description"]).strip()
    parsed.returns = " ".join(line.strip() for line in blocks["returns"] if line.strip())
    parsed.arguments = _parse_arguments(blocks["args"])
    return parsed


def _parse_arguments(lines: list[str]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    current: list[str] | None = None
    margin: int | None = None
    for line in lines:
        if not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        margin = indent if margin is None else margin
        match = _ARGUMENT.match(line.strip()) if indent <= margin else None
        if match is not None:
            current = found.setdefault(match[1], [])
            current.append(match[3].strip())
        elif current is not None:
            current.append(line.strip())
    return {name: " ".join(part for part in parts if part) for name, parts in found.items()}


# --- Schemas as Python, for prompts ------------------------------------------------------------

_PYTHON_NAMES = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "array": "list",
    "object": "dict",
    "null": "None",
    "any": "Any",
}


def python_type(schema: Schema) -> str:
    """Return the Python type hint that shows ``schema`` to a model that writes code."""
    words = _python_type(schema)
    return f"{words} | None" if schema.get("nullable") and words != "Any" else words


def _python_type(schema: Schema) -> str:
    if "enum" in schema or "const" in schema:
        choices = schema["enum"] if "enum" in schema else [schema["const"]]
        return f"Literal[{', '.join(repr(choice) for choice in choices)}]"
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        return " | ".join(dict.fromkeys(python_type(choice) for choice in choices))
    wanted = schema.get("type", "any")
    if isinstance(wanted, list):
        return " | ".join(_PYTHON_NAMES.get(name, str(name)) for name in wanted)
    if wanted == "array" and schema.get("items"):
        return f"list[{python_type(schema['items'])}]"
    if wanted == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"dict[str, {python_type(schema['additionalProperties'])}]"
    return _PYTHON_NAMES.get(wanted, str(wanted))
