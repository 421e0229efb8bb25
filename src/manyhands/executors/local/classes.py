"""How classes come to be, and classes of classes as the code sees them.

A method of the code's own class may read what has an underscore, on objects of that class. So a class of the
code must
not inherit from host classes that keep something worth taking behind such a name: ``typing.ForwardRef``
evaluates
text, the locks of ``asyncio`` hold the loop. Whatever makes a class, a ``class`` statement or a call of a
metaclass,
comes by here: metaclasses are shown as *twins*, subclasses of theirs whose ``__new__`` looks at bases and
names.
"""

from __future__ import annotations

import abc
import builtins
import collections
import contextlib
import datetime
import enum
import functools
import importlib
import io
import json
import random
import statistics
import string
import sys
import textwrap
import types
import typing
from typing import Any

from manyhands.executors.local import owned, policy
from manyhands.executors.local.policy import words
from manyhands.executors.local.switch import current_step

_NAMED: tuple[tuple[types.ModuleType, frozenset[str]], ...] = (
    (abc, words("ABC ABCMeta")),
    (collections, words("ChainMap Counter OrderedDict UserDict UserList UserString defaultdict deque")),
    (
        contextlib,
        words(
            "AbstractAsyncContextManager AbstractContextManager AsyncContextDecorator "
            "AsyncExitStack "
            "ContextDecorator ExitStack"
        ),
    ),
    (datetime, words("date datetime time timedelta timezone tzinfo")),
    (enum, words("Enum EnumMeta EnumType Flag IntEnum IntFlag ReprEnum StrEnum auto")),
    (functools, words("cached_property partial partialmethod")),
    (io, words("BytesIO StringIO")),
    (json, words("JSONDecodeError JSONDecoder JSONEncoder")),
    (random, words("Random SystemRandom")),
    (statistics, words("NormalDist StatisticsError")),
    (string, words("Template")),
    (textwrap, words("TextWrapper")),
    (types, words("GenericAlias SimpleNamespace")),
    (typing, words("Any Generic NamedTuple Protocol TypedDict _NamedTuple _TypedDict")),
)

#: Modules whose public classes may all be inherited from.
_WHOLE = ("collections.abc", "decimal", "fractions", "numbers")

#: Builtin classes whose objects the executor has to make itself.
_CLOSED = words("map filter zip enumerate super memoryview")


def _allowed_bases() -> dict[int, type]:
    found = [value for name, value in vars(builtins).items() if name not in _CLOSED]
    found += [getattr(module, name, None) for module, names in _NAMED for name in names]
    for name in _WHOLE:
        found += [v for k, v in vars(importlib.import_module(name)).items() if not k.startswith("_")]
    return {id(cls): cls for cls in found if isinstance(cls, type)}


_bases = _allowed_bases()
#: Classes for which the code gets another one, by the identity of the original.
_shown: dict[int, tuple[Any, Any]] = {}
_module_of = type.__dict__["__module__"].__get__


def allow_base(cls: type) -> None:
    """Let the code inherit from ``cls``, a class of the executor."""
    _bases[id(cls)] = cls


def show_instead(original: Any, twin: Any) -> None:
    """Give the code ``twin`` wherever it would see the class ``original``."""
    _shown[id(original)] = (original, twin)


def shown_class(cls: Any) -> Any:
    """``cls`` as the code may hold it: for a metaclass of the host, and for some others, its twin."""
    found = _shown.get(id(cls))
    if found is not None:
        return found[1]
    if issubclass(type(cls), type) and type in owned.mro_of(cls) and not owned.is_own_class(cls):
        return cls if type(cls) is Twin else _twin_of(cls)
    return cls


def shown_classes(found: Any) -> list[Any]:
    """Several classes, such as the ancestors of one; an original and its twin count once."""
    return list({id(one): one for one in map(shown_class, found)}.values())


def typeof(obj: Any, /) -> Any:
    """``type(obj)``."""
    return shown_class(type(obj))


# --- what a class may be made from -------------------------------------------------------------


def check_bases(bases: Any) -> None:
    """Raise for host classes that the code may not inherit from."""
    if type(bases) not in (tuple, list):  # an endless iterable would never be gone through
        raise TypeError(f"bases must be a tuple, not {type(bases).__name__}")
    for base in bases:
        if issubclass(type(base), type):
            _check_base(base)
        elif owned.is_own(base):
            raise TypeError("bases must be types")  # it could name other bases each time it is asked
        else:
            for resolved in types.resolve_bases((base,)):
                _check_base(resolved)


def _check_base(base: Any) -> None:
    if not issubclass(type(base), type) or id(base) in _bases or owned.is_own_class(base):
        return
    module = _module_of(base)
    top = module.partition(".")[0] if type(module) is str else "builtins"
    if top in sys.stdlib_module_names or top == "manyhands":
        if top != "manyhands" and current_step().session.modules.gives_whole(module):
            return
        raise TypeError(f"type '{base.__name__}' is not an acceptable base type for classes of this code")


#: Set by the compiler in the body of a class.
_FROM_COMPILER = words(
    """
    __module__ __qualname__ __classcell__ __classdict__ __classdictcell__ __orig_bases__ __annotations__
    __annotate__ __annotate_func__ __firstlineno__ __static_attributes__ __type_params__ __parameters__
    """
)
_DEFINABLE = policy.DEFINABLE | _FROM_COMPILER


def checked_namespace(namespace: Any) -> Any:
    """The names of a class to be, without such as the code may not define, and marked as the code's own."""
    if not isinstance(namespace, dict):
        raise TypeError(f"type.__new__() argument 3 must be dict, not {type(namespace).__name__}")
    for name in dict.keys(namespace):
        known = name in _DEFINABLE if type(name) is str else False
        if known or name == policy.OWN_MARK:
            continue
        if policy.is_dunder(owned.plain_name(name)):
            raise owned.deny(name)
    if policy.OWN_MARK in namespace:
        return namespace
    marked = dict(namespace) if type(namespace) is dict else namespace
    dict.__setitem__(marked, policy.OWN_MARK, True)
    if "__module__" not in marked:
        dict.__setitem__(marked, "__module__", "__main__")
    return marked


# --- metaclasses -------------------------------------------------------------------------------


class Twin(type):
    """The class of the twins: they answer for the metaclass that they stand for."""

    def __instancecheck__(cls, obj: Any) -> bool:
        original = _original(cls)
        return isinstance(obj, original) if original else type.__instancecheck__(cls, obj)

    def __subclasscheck__(cls, sub: Any) -> bool:
        original = _original(cls)
        return issubclass(sub, original) if original else type.__subclasscheck__(cls, sub)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and cls is Type:
            return typeof(args[0])
        return type.__call__(cls, *args, **kwargs)

    def __getitem__(cls, item: Any) -> Any:
        return types.GenericAlias(cls, item)

    # What has items is iterated by number where nothing else is said: `list(type)` would never end.
    __iter__ = None


def _original(twin: type) -> Any:
    return owned.own_dict(twin).get("$original")


def _twin_of(original: Any) -> Any:
    """The twin of a metaclass: making a class with it checks what the class is made from."""

    def __new__(mcs: Any, name: str, bases: Any = (), namespace: Any = None, /, **keywords: Any) -> Any:
        check_bases(bases)
        # A class made by calling the twin is one of the original: what makes classes of both is settled by
        # CPython.
        maker = original if mcs is twin and not issubclass(original, enum.EnumMeta) else mcs
        return original.__new__(maker, name, bases, checked_namespace(namespace), **keywords)

    names = {"__new__": __new__, "__module__": original.__module__, "__qualname__": original.__qualname__,
             "__doc__": original.__doc__, "$original": original}  # fmt: skip
    if issubclass(original, enum.EnumMeta):
        names["__call__"] = _enum_call
    twin: Any = Twin(original.__name__, (original,), names)
    show_instead(original, twin)
    allow_base(twin)
    return twin


def _enum_call(cls: Any, *args: Any, **keywords: Any) -> Any:
    """``Color(1)`` or ``Color("Name", "A B", type=int)``, which makes a class."""
    check_bases([base for base in [keywords.get("type")] if base is not None])
    return enum.EnumMeta.__call__(cls, *args, **keywords)


Type: Any = _twin_of(type)
EnumType: Any = _twin_of(enum.EnumMeta)
show_instead(Twin, Type)


def build_class(body: Any, name: str, /, *bases: Any, **keywords: Any) -> Any:
    """What a ``class`` statement calls."""
    check_bases(bases)
    if "metaclass" not in keywords and any(type(base) is enum.EnumMeta for base in bases):
        keywords["metaclass"] = EnumType
    made = builtins.__build_class__(body, name, *bases, **keywords)
    if issubclass(type(made), type) and policy.OWN_MARK in owned.own_dict(made):
        # Each method that writes to ``self`` reads the mark: a plain value is read faster than a descriptor.
        owned.mark_own(made)
    return made


def guarded_super(kind: Any, *obj: Any) -> Any:
    """``super(C, obj)``: only behind classes of the code, so that no twin can be passed by."""
    if not issubclass(type(kind), type) or not owned.is_own_class(kind):
        raise TypeError("super() argument 1 must be a class of this code")
    return super(kind, *obj)


show_instead(super, guarded_super)
