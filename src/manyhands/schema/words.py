"""Schemas and values in words: in English for error messages, in Python for prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_ENGLISH = {
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

_PYTHON = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "array": "list",
    "object": "dict",
    "null": "None",
    "any": "Any",
}


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the known name nearest to ``name``, "" if none is near."""
    import difflib  # only for those who mistyped

    lowered = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return f"; did you mean '{lowered[found[0]]}'?" if found else ""


def allowed(schema: Mapping[str, Any]) -> str:
    """Return in words what fits ``schema``, such as ``a list of integers``."""
    words = _allowed(schema)
    return f"{words}, or null" if schema.get("nullable") else words


def _allowed(schema: Mapping[str, Any]) -> str:
    if "enum" in schema or "const" in schema:
        choices = schema["enum"] if "enum" in schema else [schema["const"]]
        return ("one of " if len(choices) > 1 else "") + ", ".join(repr(choice) for choice in choices)
    branches = schema.get("anyOf") or schema.get("oneOf")
    if branches:
        return " or ".join(dict.fromkeys(allowed(branch) for branch in branches))
    wanted = schema.get("type", "object" if "$ref" in schema else "any")
    if isinstance(wanted, list):
        return " or ".join(_ENGLISH.get(name, str(name)) for name in wanted)
    if wanted == "array" and schema.get("items"):
        return f"a list (each item {allowed(schema['items'])})"
    if wanted == "object" and schema.get("properties"):
        return f"an object with the keys {', '.join(repr(name) for name in schema['properties'])}"
    return _ENGLISH.get(wanted, str(wanted))


def shown(value: Any, limit: int = 80) -> str:
    """Return ``value`` as an error message shows it: short, with its type."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    text = repr(value)
    if len(text) > limit:
        text = f"{text[: limit - 3]}..."
    kinds = {str: "a string", int: "an integer", float: "a number", list: "a list", dict: "an object"}
    return f"{text} ({kinds.get(type(value), type(value).__name__)})"


def python_type(schema: Mapping[str, Any]) -> str:
    """Return the Python type hint that shows ``schema`` to a model that writes code."""
    words = _python_type(schema)
    return f"{words} | None" if schema.get("nullable") and words != "Any" else words


def _python_type(schema: Mapping[str, Any]) -> str:
    if "enum" in schema or "const" in schema:
        choices = schema["enum"] if "enum" in schema else [schema["const"]]
        return f"Literal[{', '.join(repr(choice) for choice in choices)}]"
    branches = schema.get("anyOf") or schema.get("oneOf")
    if branches:
        return " | ".join(dict.fromkeys(python_type(branch) for branch in branches))
    wanted = schema.get("type", "object" if "$ref" in schema else "any")
    if isinstance(wanted, list):
        return " | ".join(_PYTHON.get(name, str(name)) for name in wanted)
    if wanted == "array" and schema.get("items"):
        return f"list[{python_type(schema['items'])}]"
    if wanted == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"dict[str, {python_type(schema['additionalProperties'])}]"
    return _PYTHON.get(wanted, str(wanted))


def fields_text(schema: Mapping[str, Any]) -> str:
    """Return the keys of objects in ``schema`` as one line for a prompt, "" if it names none.

    Args:
        schema: Of an object, of a list of objects, or of either among others.
    """
    for holder in (schema, schema.get("items"), *(schema.get("anyOf") or ())):
        properties = holder.get("properties") if isinstance(holder, dict) else None
        if properties:
            required = holder.get("required", ())
            return ", ".join(_field_text(name, field, name in required) for name, field in properties.items())
    return ""


def _field_text(name: str, field: Mapping[str, Any], required: bool) -> str:
    nested = fields_text(field)
    words = f"{python_type(field)} of {{{nested}}}" if nested else python_type(field)
    return f"{name!r}: {words}{'' if required else ' (optional)'}"
