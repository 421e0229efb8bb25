"""Tells whether code got hold of something of the host.

The oracle of the escape tests and of the fuzz test.
"""

from __future__ import annotations

import abc
import asyncio
import builtins
import enum
import importlib
import io
import os
import subprocess
import sys
import types
from typing import TYPE_CHECKING, Any

from manyhands.executors.local.modules import ModuleView
from manyhands.executors.local.owned import is_own_class

if TYPE_CHECKING:
    from collections.abc import Iterable

PLANTED = object()

_FORBIDDEN_FUNCTIONS = (
    builtins.open,
    builtins.eval,
    builtins.exec,
    builtins.compile,
    builtins.__import__,
    builtins.input,
    os.system,
    os.getcwd,
    subprocess.run,
    importlib.import_module,
    io.open,
    builtins.getattr,
    builtins.globals,
    sys._getframe,
    builtins.locals,
)
_FORBIDDEN_TYPES = (
    types.FrameType,
    types.CodeType,
    types.TracebackType,
    asyncio.AbstractEventLoop,
    asyncio.Future,
)
_FORBIDDEN_CLASSES = (type, abc.ABCMeta, enum.EnumMeta, super)


class Canary:
    """Collects what code manages to show it."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def leak(self, *values: Any) -> None:
        """The tool that attacks call with their loot."""
        for value in values:
            problem = host_object(value)
            if problem:
                self.found.append(problem)


def host_object(value: Any, depth: int = 0) -> str | None:
    """What of the host ``value`` is; None when it is nothing."""
    kind = type(value)
    if value is PLANTED:
        return "the planted object"
    if isinstance(value, types.ModuleType) and not isinstance(value, ModuleView):
        return f"module {value.__name__}"
    if any(value is cls for cls in _FORBIDDEN_CLASSES):
        return f"the metaclass {value!r} itself"
    if kind.__module__ in ("manyhands.executors.local.switch", "manyhands.executors.local.executor"):
        return f"the executor's own {kind.__name__}"
    if kind.__name__ == "HostError":
        return "an error of a tool"
    if issubclass(kind, _FORBIDDEN_TYPES):
        return kind.__name__
    if any(value is function for function in _FORBIDDEN_FUNCTIONS):
        return f"function {value!r}"
    if isinstance(value, types.BuiltinMethodType) and value.__name__ == "__subclasses__":
        return "__subclasses__"
    if kind is dict and (
        value.get("__builtins__") or "__import__" in value or "$tick" in value and "print" in value
    ):
        return "a namespace"
    if kind in (list, tuple, set, dict) and depth < 3:
        return _inside(value.values() if kind is dict else value, depth)
    if kind is list and len(value) > 300 and all(isinstance(v, type) for v in value):
        return "all classes"
    return None


def _inside(values: Iterable[Any], depth: int) -> str | None:
    for value in list(values)[:2000]:
        problem = host_object(value, depth + 1)
        if problem:
            return problem
    return None


def changed_classes() -> list[str]:
    """Classes of the standard library that carry something of the code."""
    import abc
    import collections
    import json
    import string

    suspects = [json.JSONDecoder, json.JSONEncoder, string.Formatter, collections.OrderedDict, abc.ABC]
    return [c.__name__ for c in suspects if is_own_class(c) or "hacked" in vars(c)]
