"""Values in: the arguments of a call, checked against JSON schemas."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from manyhands.errors import AgentToolCallError
from manyhands.schema.words import allowed, nearest, shown

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

NO_DEFAULT: Any = inspect.Parameter.empty

_JSON_VALUES = (str, int, float, list, tuple, dict, type(None))

# The one type of value that needs no closer look.
_EXACT: dict[str, type] = {"string": str, "integer": int, "number": float, "boolean": bool}


class Misfit(Exception):
    """A value does not fit; the text says which, what was given and what is allowed."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"argument '{path}' {reason}")
        self.path = path


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
    default: Any = NO_DEFAULT
    convert: Callable[[Any], Any] | None = None
    exact: type | None = None

    def __post_init__(self) -> None:
        kind = self.schema.get("type")
        if isinstance(kind, str) and not self.schema.keys() - {"type", "description", "nullable", "default"}:
            self.exact = _EXACT.get(kind)

    @property
    def default_text(self) -> str:
        """The default as generated code would write it."""
        if "default" in self.schema:
            return repr(self.schema["default"])
        return repr(self.default) if isinstance(self.default, _JSON_VALUES) else "..."

    def fit(self, value: Any) -> Any:
        """Return ``value`` as the function wants it.

        Raises:
            Misfit: It does not fit the schema.
        """
        fitted = _Fitter(self.schema, rich=self.convert is not None).fit(value, self.schema, self.name)
        return self.convert(fitted) if self.convert is not None and fitted is not None else fitted


class Signature:
    """The arguments that a tool takes.

    Args:
        tool: The tool's name, for error messages.
        parameters: Its arguments, in order.

    Attributes:
        parameters: The arguments by name.
        converts: For those that are objects to the function, what makes them of JSON values.
    """

    __slots__ = ("_without_default", "converts", "parameters", "tool")

    def __init__(self, tool: str, parameters: Iterable[Parameter]) -> None:
        self.tool = tool
        self.parameters = {parameter.name: parameter for parameter in parameters}
        self._without_default = [p for p in self.parameters.values() if p.default is NO_DEFAULT]
        self.converts = {name: p.convert for name, p in self.parameters.items() if p.convert is not None}

    def json_schema(self) -> Schema:
        """Return the JSON schema of the arguments as one object."""
        definitions: Schema = {}
        properties = {}
        for name, parameter in self.parameters.items():
            schema = dict(parameter.schema)
            definitions.update(schema.pop("$defs", {}))
            if schema.keys() & {"anyOf", "oneOf", "$ref"}:
                schema.pop("type", None)  # gathered from the branches, for those who read `inputs`
            elif schema.get("type") == "any":
                # Some providers refuse an argument without a type; any JSON value is accepted back.
                schema["type"] = "string"
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
        for parameter in self._without_default:
            if parameter.name in given:
                continue
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
        end = "" if problems.endswith("?") else "."
        return AgentToolCallError(f"Invalid call of the tool '{self.tool}': {problems}{end} {self._usage()}")

    def _usage(self) -> str:
        if not self.parameters:
            return "It takes no arguments."
        lines = [
            f"{name} ({allowed(parameter.schema)}{'' if parameter.required else '; optional'})"
            for name, parameter in self.parameters.items()
        ]
        return f"Its arguments are: {', '.join(lines)}."


def _sendable(schema: Any) -> Any:
    """Return ``schema`` as providers take it: smolagents' own type names are not JSON's."""
    if isinstance(schema, list):
        return [_sendable(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    cleaned = {
        key: value if key in ("enum", "const", "default", "examples") else _sendable(value)
        for key, value in schema.items()
    }
    kind = cleaned.get("type")
    if kind in ("image", "audio"):
        cleaned["type"] = "string"
    elif kind == "any" or (isinstance(kind, list) and "any" in kind):
        del cleaned["type"]
    return cleaned


# --- Fitting a value to a schema ---------------------------------------------------------------

_TESTS: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, list | tuple),
    # A data frame or the like can only come from code; it is nobody's mistake.
    "object": lambda value: isinstance(value, dict) or not isinstance(value, _JSON_VALUES),
    "null": lambda value: value is None,
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
        branches = schema.get("anyOf") or schema.get("oneOf")
        if branches:
            return self._fit_any(value, branches, schema, path)
        value = self._fit_type(value, schema, path)
        self._check_bounds(value, schema, path)
        if isinstance(value, dict):
            return self._fit_object(value, schema, path)
        if isinstance(value, list | tuple):
            return self._fit_array(value, schema, path)
        return value

    def _fit_type(self, value: Any, schema: Schema, path: str) -> Any:
        wanted = schema.get("type", "any")
        names = [wanted] if isinstance(wanted, str) else wanted
        for name in names:
            test = _TESTS.get(name)  # "any", "image" and "audio" take whatever comes
            if test is None or test(value):
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

    def _fit_any(self, value: Any, branches: list[Schema], schema: Schema, path: str) -> Any:
        deepest: Misfit | None = None
        for branch in branches:
            try:
                return self.fit(value, branch, path)
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
                raise Misfit(f"{path}.{name}", f"is unknown{nearest(str(name), properties)}")
            fitted[name] = self.fit(item, rule, f"{path}.{name}") if isinstance(rule, dict) else item
        return fitted

    def _fit_array(self, value: Any, schema: Schema, path: str) -> Any:
        first: list[Schema] = schema.get("prefixItems", [])
        rest = schema.get("items")
        if not first and not rest:
            return value
        fitted = []
        for index, item in enumerate(value):
            rule = first[index] if index < len(first) else rest
            fitted.append(self.fit(item, rule, f"{path}[{index}]") if isinstance(rule, dict) else item)
        return fitted

    @staticmethod
    def _check_bounds(value: Any, schema: Schema, path: str) -> None:
        for key, holds, words in _BOUNDS:
            if key not in schema:
                continue
            try:
                fits = holds(value, schema[key])
            except (TypeError, re.error):
                continue  # a bound for another type of a union, or a pattern that is not Python's
            if not fits:
                raise Misfit(path, f"is {shown(value)}, but must be {words.format(schema[key])}")
