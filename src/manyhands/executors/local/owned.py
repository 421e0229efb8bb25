"""What the agent's code has made, told apart from what belongs to the host.

And the refusal of what is not for it.
"""

from __future__ import annotations

import types
from typing import Any

from manyhands.executors.local import policy

#: The dictionary and the ancestors of a class as they are, whatever its metaclass says.
own_dict = type.__dict__["__dict__"].__get__
mro_of = type.__dict__["__mro__"].__get__


class View(types.ModuleType):
    """A module as the code sees it."""


class Denied(AttributeError):
    """An attribute that exists, or could exist, is not for the code of agents."""

    is_refusal = True


def deny(name: str) -> Denied:
    """The error for ``name``."""
    kind = "dunder attribute" if policy.is_dunder(name) else "attribute"
    return Denied(f"Forbidden access to {kind}: {name}")


def is_own_class(cls: type) -> bool:
    """True for classes that the code has made."""
    return any(policy.OWN_MARK in own_dict(base) for base in mro_of(cls))


def is_own(obj: Any) -> bool:
    """True for classes that the code has made, and for their objects."""
    cls = type(obj)
    if is_own_class(cls):
        return True
    return issubclass(cls, type) and is_own_class(obj)


def is_own_function(obj: Any) -> bool:
    """True for functions that the code has defined."""
    return type(obj) is types.FunctionType and policy.OWN_MARK in getattr(obj, "__builtins__", ())


def is_host_module(obj: Any) -> bool:
    """True for modules themselves, which the code sees only as views."""
    return isinstance(obj, types.ModuleType) and not isinstance(obj, View)


def mark_own(cls: type) -> None:
    """Remember that the code has made ``cls``."""
    type.__setattr__(cls, policy.OWN_MARK, True)


def plain_name(name: object) -> str:
    """The name that a builtin such as ``getattr`` was given; only a real string will do."""
    if type(name) is str:
        if "$" in name:
            raise deny(name)
        return name
    if isinstance(name, str):
        raise TypeError("attribute name must be a plain string, not an object of a subclass of str")
    raise TypeError(f"attribute name must be string, not '{type(name).__name__}'")
