"""``copy`` for the code: the standard algorithm, which may build new objects and never change old ones.

The library's own version sets attributes on whatever a class's ``__reduce_ex__`` hands it, shared classes
included.
"""

from __future__ import annotations

import copy as library
import types
from collections.abc import Callable
from typing import Any

from manyhands.executors.local.owned import Denied
from manyhands.executors.local.switch import checkpoint

_UNCOPIED = (
    type,
    types.ModuleType,
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    property,
    range,
    int,
    float,
    complex,
    str,
    bytes,
    bool,
    type(None),
    type(...),
    type(NotImplemented),
)

Step = Callable[[Any], Any]


def copy(x: Any) -> Any:
    """A shallow copy."""
    cls = type(x)
    if isinstance(x, _UNCOPIED) and cls.__module__ == "builtins":
        return x
    if cls in (list, dict, set, bytearray):
        return x.copy()
    if isinstance(x, type):
        return x
    own = getattr(cls, "__copy__", None)
    return own(x) if own is not None else _rebuilt(x, lambda value: value)


def deepcopy(x: Any, memo: dict[int, Any] | None = None) -> Any:
    """A copy of the object and of everything in it."""
    checkpoint()
    memo = {} if memo is None else memo
    cls = type(x)
    if isinstance(x, _UNCOPIED) and (cls.__module__ == "builtins" or isinstance(x, type)):
        return x
    if id(x) in memo:
        return memo[id(x)]
    made = _deep(x, cls, memo)
    if made is not x:
        memo[id(x)] = made
        memo.setdefault(id(memo), []).append(x)  # ids in the memo stay valid while their objects live
    return made


def _deep(x: Any, cls: type, memo: dict[int, Any]) -> Any:
    def again(value: Any) -> Any:
        return deepcopy(value, memo)

    if cls is list:
        made: Any = []
        memo[id(x)] = made
        for item in x:
            made.append(again(item))
        return made
    if cls is dict:
        made = {}
        memo[id(x)] = made
        for key, value in x.items():
            made[again(key)] = again(value)
        return made
    if cls is tuple:
        parts = [again(item) for item in x]
        return memo.get(id(x), x if all(a is b for a, b in zip(parts, x, strict=True)) else tuple(parts))
    own = getattr(cls, "__deepcopy__", None)
    return own(x, memo) if own is not None else _rebuilt(x, again, memo)


def _rebuilt(x: Any, step: Step, memo: dict[int, Any] | None = None) -> Any:
    """A new object from what ``__reduce_ex__`` says of the old one."""
    reduce: Any = type(x).__reduce_ex__
    reduced: Any = reduce(x, 4)
    if isinstance(reduced, str):
        return x
    parts: list[Any] = [*reduced, None, None, None]
    build, args, state, items, pairs = parts[:5]
    made: Any
    made = build(*map(step, args))
    if made is x or isinstance(made, _UNCOPIED) or getattr(type(made), "__manyhands_frozen__", False):
        raise Denied(f"A copy of '{type(x).__name__}' cannot be made this way.")
    if type(made) is not type(x):
        raise Denied(f"A copy of '{type(x).__name__}' cannot be a '{type(made).__name__}'.")
    if memo is not None:
        memo[id(x)] = made
    if state is not None:
        _restore(made, step(state))
    for item in items or ():
        made.append(step(item))
    for key, value in pairs or ():
        made[step(key)] = step(value)
    return made


def _restore(made: Any, state: Any) -> None:
    setter = getattr(type(made), "__setstate__", None)
    if setter is not None:
        setter(made, state)
        return
    fields, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    for name, value in {**(fields or {}), **(slots or {})}.items():
        object.__setattr__(made, name, value)


Error = library.Error
