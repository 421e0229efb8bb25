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

from manyhands.schema.check import AUTHORIZED_TYPES, NO_DEFAULT, Misfit, Parameter, Schema, Signature
from manyhands.schema.functions import (
    FunctionDescription,
    ResultDescription,
    describe_function,
    is_optional_hint,
    resolve_hint,
)
from manyhands.schema.words import allowed, fields_text, nearest, python_type, shown

__all__ = [
    "AUTHORIZED_TYPES",
    "NO_DEFAULT",
    "FunctionDescription",
    "Misfit",
    "Parameter",
    "ResultDescription",
    "Schema",
    "Signature",
    "allowed",
    "describe_function",
    "fields_text",
    "is_optional_hint",
    "nearest",
    "python_type",
    "resolve_hint",
    "shown",
]
