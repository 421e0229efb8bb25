"""What of the standard library, and of numpy and pandas, the code gets where the module as it is would give
too much.

A module that is not named here is shown with its public members. ``HIDDEN`` takes names out, ``CURATED``
lists all
there is, ``SUBSTITUTES`` puts a bounded or guarded twin in place of an object wherever it turns up.
"""

from __future__ import annotations

import collections
import contextlib
import copy as library_copy
import dataclasses
import functools
import inspect
import itertools
import math
import operator
import random
import re
import string
import sys
import time
import traceback
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from manyhands.executors.local import aio, classes, copying, explain, guards, iterators, owned, policy
from manyhands.executors.local.formatting import GuardedFormatter
from manyhands.executors.local.logs import LOGGING
from manyhands.executors.local.patterns import check_pattern
from manyhands.executors.local.policy import words
from manyhands.executors.local.queues import QUEUES
from manyhands.executors.local.switch import current_step, sleep
from manyhands.executors.local.tools import plain

Members = Mapping[str, Any]

#: Modules of pure computation that may always be imported, besides the base modules.
TOOLBOX = words(
    """
        abc asyncio bisect collections.abc contextlib copy dataclasses decimal enum fractions
        functools heapq json numbers operator string textwrap typing warnings __future__
        """
)


# --- collections, dataclasses, functools, operator, string, typing -----------------------------


def _namedtuple(typename: Any, field_names: Any, **options: Any) -> Any:
    names = plain(field_names)
    if not isinstance(names, str):
        names = [str(plain(name)) for name in names]
    made = collections.namedtuple(str(plain(typename)), names, **options)  # type: ignore[misc]
    made.__module__ = "__main__"
    owned.mark_own(made)
    return made


def _check_fields(cls: Any) -> None:
    """Field names become source text inside ``dataclasses``."""
    for name in dict(vars(cls).get("__annotations__", {})):
        problem = policy.field_problem(name)
        if problem:
            raise owned.Denied(problem)


def _dataclass(cls: Any = None, /, **options: Any) -> Any:
    def decorate(cls: Any) -> Any:
        if not isinstance(cls, type) or not owned.is_own_class(cls):
            raise TypeError("dataclass() should be used on a class of this code")
        _check_fields(cls)
        return dataclasses.dataclass(**options)(cls)

    return decorate if cls is None else decorate(cls)


def _make_dataclass(cls_name: Any, fields: Iterable[Any], **options: Any) -> Any:
    known = []
    for field in fields:
        parts = (field,) if isinstance(field, str) else tuple(field)
        name = plain(parts[0])
        problem = policy.field_problem(name)
        if problem:
            raise owned.Denied(problem)
        known.append((name, *(parts[1:] or (Any,))))
    for name in options.get("namespace") or {}:
        if policy.is_dunder(owned.plain_name(name)) and name not in policy.DEFINABLE:
            raise owned.deny(name)
    classes.check_bases(options.get("bases", ()))
    made = dataclasses.make_dataclass(plain(cls_name), known, **options)
    owned.mark_own(made)
    return made


_ASSIGNED = ("__module__", "__name__", "__qualname__", "__doc__")


def _update_wrapper(wrapper: Any, wrapped: Any, assigned: Any = None, updated: Any = None) -> Any:
    """``functools.update_wrapper``, by way of the guards."""
    if not (owned.is_own_function(wrapper) or owned.is_own(wrapper)):
        return wrapper
    for name in _ASSIGNED:
        value = getattr(wrapped, name, None)
        if type(value) is str and owned.is_own_function(wrapper):
            setattr(wrapper, name, value)
    if owned.is_own_function(wrapped):
        wrapper.__dict__.update({k: v for k, v in wrapped.__dict__.items() if not k.startswith("__")})
    if owned.is_own_function(wrapper):
        wrapper.__wrapped__ = wrapped
    return wrapper


def _wraps(wrapped: Any, assigned: Any = None, updated: Any = None) -> Callable[[Any], Any]:
    return lambda wrapper: _update_wrapper(wrapper, wrapped)


class _Dispatcher:
    """``functools.singledispatch`` that takes classes as arguments or as plain annotations, never as
    texts.
    """

    __manyhands_frozen__ = True

    def __init__(self, function: Any) -> None:
        self._dispatch = functools.singledispatch(function)
        self.__name__ = getattr(function, "__name__", "dispatch")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._dispatch(*args, **kwargs)

    def __get__(self, obj: Any, owner: Any = None) -> Any:
        if obj is None:
            return self
        return lambda first, *args, **kwargs: self._dispatch.dispatch(type(first))(
            obj, first, *args, **kwargs
        )

    def dispatch(self, cls: Any) -> Any:
        return self._dispatch.dispatch(cls)

    def register(self, cls: Any, function: Any = None) -> Any:
        if isinstance(cls, (type, types.UnionType)):
            if function is None:
                return lambda function: self.register(cls, function)
            self._dispatch.register(cls, function)
            return function
        notes = [note for name, note in getattr(cls, "__annotations__", {}).items() if name != "return"]
        if not notes or not isinstance(notes[0], (type, types.UnionType)):
            raise TypeError("Invalid first argument to `register()`: use `@register(SomeClass)`.")
        self._dispatch.register(notes[0], cls)
        return cls


class _Getter:
    """``operator.attrgetter`` by way of the guards."""

    __manyhands_frozen__ = True

    def __init__(self, *names: Any) -> None:
        self._paths = [owned.plain_name(name).split(".") for name in names]

    def __call__(self, obj: Any) -> Any:
        values = tuple(functools.reduce(guards.get, path, obj) for path in self._paths)
        return values[0] if len(values) == 1 else values


class _MethodCaller:
    """``operator.methodcaller`` by way of the guards."""

    __manyhands_frozen__ = True

    def __init__(self, name: Any, /, *args: Any, **kwargs: Any) -> None:
        self._name, self._args, self._kwargs = owned.plain_name(name), args, kwargs

    def __call__(self, obj: Any) -> Any:
        return guards.get(obj, self._name)(*self._args, **self._kwargs)


class Formatter(GuardedFormatter):
    """``string.Formatter`` whose fields are read through the guards."""

    def __init__(self) -> None:
        super().__init__(guards.get)


Formatter.__module__ = "string"
classes.allow_base(Formatter)


def _type_hints(obj: Any, *_: Any, **__: Any) -> dict[str, Any]:
    """``typing.get_type_hints`` that leaves annotations that are texts as they are."""
    hints: dict[str, Any] = {}
    for part in reversed(type.mro(obj)) if isinstance(obj, type) else (obj,):
        if owned.is_own(part) or owned.is_own_function(part):
            hints.update(
                vars(part).get("__annotations__", {}) if isinstance(part, type) else part.__annotations__
            )
    return hints


def _on_own(decorate: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A decorator that sets attributes on what it is given: only on what the code has made."""

    def call(target: Any, /) -> Any:
        if not (owned.is_own(target) or owned.is_own_function(target)):
            raise owned.Denied(f"{call.__name__}() takes functions and classes of this code only.")
        return decorate(target)

    call.__name__ = call.__qualname__ = decorate.__name__
    return call


def _same(target: Any) -> Any:
    """A decorator for type checkers, which are not here."""
    return target


def _overload(function: Any) -> Any:
    """``typing.overload`` without its registry, which all code of the process would share."""

    def placeholder(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("You should not call an overloaded function.")

    return placeholder


def _typing(real: types.ModuleType) -> Members:
    found = dict(_without("ForwardRef", "evaluate_forward_ref", "get_overloads", "clear_overloads")(real))
    found.update(dict.fromkeys(("final", "override", "no_type_check", "no_type_check_decorator"), _same))
    found.update(
        get_type_hints=_type_hints,
        overload=_overload,
        dataclass_transform=lambda **_: _same,
        runtime_checkable=_on_own(typing.runtime_checkable),
        Type=classes.Type,
        get_origin=lambda hint: classes.shown_class(typing.get_origin(hint)),
        get_args=lambda hint: tuple(map(classes.shown_class, typing.get_args(hint))),
    )
    return found


def _signature(function: Any, **_: Any) -> Any:
    if not (owned.is_own_function(function) or owned.is_own(function) or callable(function)):
        raise TypeError(f"{function!r} is not a callable object")
    target = function if owned.is_own_function(function) or owned.is_own(function) else None
    if target is None:
        raise ValueError("only functions of this code have a signature here")
    return inspect.signature(target)


def _getdoc(obj: Any) -> str | None:
    doc = getattr(obj, "__doc__", None)
    return inspect.cleandoc(doc) if type(doc) is str else None


def _format_exc(*_: Any, **__: Any) -> str:
    error = sys.exc_info()[1]
    return "NoneType: None\n" if error is None else "".join(_format_exception(error))


def _format_exception(error: Any, value: Any = None, *_: Any, **__: Any) -> list[str]:
    """Type, text and the lines of the code; no line of the executor's own."""
    error = error if value is None else value
    lines = [
        f'  File "{frame.f_code.co_filename}", line {line}, in {frame.f_code.co_name}\n'
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename == explain.FILENAME
    ]
    return ["Traceback (most recent call last):\n", *lines, *traceback.format_exception_only(error)]


def _print_exc(*_: Any, file: Any = None, **__: Any) -> None:
    (current_step().output if file is None else file).write(_format_exc())


@contextlib.contextmanager
def _redirect_stdout(target: Any) -> Iterator[Any]:
    step = current_step()
    before, step.output = step.output, target
    try:
        yield target
    finally:
        step.output = before


# --- math, random, re, time, queue -------------------------------------------------------------


def _bounded_number(name: str, limit: int) -> Any:
    function = getattr(math, name)

    def bounded(*args: Any) -> Any:
        if any(isinstance(arg, int) and arg > limit for arg in args):
            raise OverflowError(f"Refused: {name} of a number larger than {limit:,}.")
        return function(*args)

    bounded.__name__ = bounded.__qualname__ = name
    return bounded


def _math(real: types.ModuleType) -> Members:
    found = {name: value for name, value in vars(real).items() if not name.startswith("_")}
    found["factorial"] = _bounded_number("factorial", 100_000)
    found["perm"] = _bounded_number("perm", 100_000)
    found["comb"] = _bounded_comb
    found["prod"] = lambda values, /, *, start=1: functools.reduce(
        guards.multiply, iterators.limited(values), start
    )
    found["fsum"] = lambda values, /: math.fsum(iterators.limited(values))
    return found


def _bounded_comb(n: Any, k: Any, /) -> int:
    if isinstance(n, int) and isinstance(k, int) and min(k, n - k) > 100_000:
        raise OverflowError("Refused: comb with more than 100,000 factors.")
    return math.comb(n, k)


_RANDOM = words(
    """
    betavariate binomialvariate choice choices expovariate gammavariate gauss getrandbits getstate
    lognormvariate normalvariate paretovariate randbytes randint random randrange sample seed
    setstate shuffle triangular uniform vonmisesvariate weibullvariate
    """
)
_BULK = {"choices": "k", "sample": "k", "randbytes": "n", "getrandbits": "k"}


def _random_function(name: str) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        if name in _BULK and any(
            isinstance(arg, int) and arg > 10_000_000 for arg in (*args, *kwargs.values())
        ):
            raise MemoryError(f"Refused: {name} of more than 10,000,000 items.")
        return getattr(current_step().session.random, name)(*args, **kwargs)

    call.__name__ = call.__qualname__ = name
    return call


def _sleep(seconds: float, /) -> None:
    sleep(seconds)


def _checked_re(name: str) -> Any:
    function = getattr(re, name)
    text_at = {"sub": 2, "subn": 2}.get(name, 1)

    def call(pattern: Any, *args: Any, **kwargs: Any) -> Any:
        check_pattern(pattern)
        plain_args = [plain(arg) for arg in args]
        _check_subject(kwargs.get("string", plain_args[text_at - 1] if len(plain_args) >= text_at else ""))
        return function(plain(pattern), *plain_args, **kwargs)

    call.__name__ = call.__qualname__ = name
    return call


def _check_subject(text: Any) -> None:
    if isinstance(text, (str, bytes)) and len(text) > 10_000_000:
        raise ValueError("Refused: a regular expression over more than 10,000,000 characters.")


def _compile(pattern: Any, flags: Any = 0) -> Any:
    check_pattern(pattern)
    return re.compile(plain(pattern), flags)


def _re(real: types.ModuleType) -> Members:
    found = {name: getattr(real, name) for name in real.__all__}
    for name in ("match", "fullmatch", "search", "sub", "subn", "split", "findall", "finditer"):
        found[name] = _checked_re(name)
    found["compile"] = _compile
    found["purge"] = lambda: None
    return found


def _without(*hidden: str) -> Callable[[types.ModuleType], Members]:
    """All public members but ``hidden``."""

    def members(real: types.ModuleType) -> Members:
        names = getattr(real, "__all__", None) or [n for n in vars(real) if not n.startswith("_")]
        return {
            name: value
            for name in names
            if name not in hidden and not isinstance(value := getattr(real, name), types.ModuleType)
        }

    return members


def _only(*names: str, **replaced: Any) -> Callable[[types.ModuleType], Members]:
    return lambda real: {**{name: getattr(real, name) for name in names if hasattr(real, name)}, **replaced}


def _replacing(**replaced: Any) -> Callable[[types.ModuleType], Members]:
    everything = _without()
    return lambda real: {**everything(real), **replaced}


def _decimal(real: types.ModuleType) -> Members:
    current_step().session.own_decimal_context()
    return _without()(real)


def _statistics(real: types.ModuleType) -> Members:
    return {name: _limiting(getattr(real, name)) for name in real.__all__}


def _limiting(function: Any) -> Any:
    if isinstance(function, type):
        return function

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*map(iterators.limited, args), **kwargs)

    return call


class _Writer:
    """What ``sys.stdout`` is for the code."""

    __manyhands_frozen__ = True

    def write(self, text: str) -> int:
        return int(current_step().output.write(str(plain(text))) or 0)

    def flush(self) -> None:
        """Nothing is held back."""

    def isatty(self) -> bool:
        return False


def _pprint(value: Any, stream: Any = None, **options: Any) -> None:
    import pprint

    (current_step().output if stream is None else stream).write(pprint.pformat(value, **options) + "\n")


class _Ignoring:
    """``warnings.catch_warnings`` for code whose warnings nobody sees."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Takes whatever the original takes."""

    def __enter__(self) -> list[Any]:
        return []

    def __exit__(self, *args: Any) -> None:
        """Nothing was changed."""


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Takes anything, changes nothing: the setting belongs to the whole process."""


CURATED: dict[str, Callable[[types.ModuleType], Members]] = {
    "__future__": _without(),
    "_io": _only("StringIO", "BytesIO"),
    "abc": _only(
        "ABC", "ABCMeta", "abstractmethod", "abstractproperty", "abstractclassmethod", "abstractstaticmethod"
    ),
    "asyncio": lambda real: _ASYNCIO,
    "collections": _replacing(namedtuple=_namedtuple),
    "contextlib": _replacing(
        redirect_stdout=_redirect_stdout, redirect_stderr=_redirect_stdout, chdir=_nothing
    ),
    "copy": _only("Error", "replace", copy=copying.copy, deepcopy=copying.deepcopy),
    "dataclasses": _replacing(dataclass=_dataclass, make_dataclass=_make_dataclass),
    "datetime": _without(),
    "decimal": _decimal,
    "enum": _without("global_enum", "_simple_enum"),
    "functools": _replacing(
        total_ordering=_on_own(functools.total_ordering),
        update_wrapper=_update_wrapper,
        wraps=_wraps,
        singledispatch=_Dispatcher,
        singledispatchmethod=_Dispatcher,
    ),
    "gc": _only(
        "isenabled",
        "get_count",
        "get_threshold",
        collect=lambda generation=2: 0,
        enable=_nothing,
        disable=_nothing,
    ),
    "inspect": _only(
        "Parameter",
        "cleandoc",
        "isabstract",
        "isasyncgen",
        "isasyncgenfunction",
        "isawaitable",
        "isbuiltin",
        "isclass",
        "iscoroutine",
        "iscoroutinefunction",
        "isdatadescriptor",
        "isfunction",
        "isgenerator",
        "isgeneratorfunction",
        "ismethod",
        "ismodule",
        "isroutine",
        getdoc=_getdoc,
        signature=_signature,
    ),
    "io": _only("StringIO", "BytesIO", "SEEK_SET", "SEEK_CUR", "SEEK_END", "UnsupportedOperation"),
    "itertools": lambda real: _ITERTOOLS,
    "json": _without(),
    "logging": lambda real: LOGGING,
    "math": _math,
    "operator": _replacing(
        attrgetter=_Getter,
        methodcaller=_MethodCaller,
        pow=guards.power,
        ipow=guards.power,
        mul=guards.multiply,
        imul=guards.multiply,
        lshift=guards.shift,
        ilshift=guards.shift,
        mod=guards.modulo,
        imod=guards.modulo,
    ),
    "pprint": _only(
        "pformat", "PrettyPrinter", "isreadable", "isrecursive", "saferepr", pprint=_pprint, pp=_pprint
    ),
    "queue": lambda real: QUEUES,
    "random": lambda real: _RANDOMS,
    "re": _re,
    "statistics": _statistics,
    "string": _replacing(Formatter=Formatter),
    "sys": _only(
        "maxsize",
        "version",
        "version_info",
        "platform",
        "byteorder",
        "float_info",
        "int_info",
        "hash_info",
        "implementation",
        "maxunicode",
        "getsizeof",
        "getrecursionlimit",
        "hexversion",
        "intern",
        "exit",
        stdout=_Writer(),
        stderr=_Writer(),
        argv=[""],
    ),
    "time": _replacing(sleep=_sleep, tzset=_nothing),
    "types": _only(
        "SimpleNamespace", "GenericAlias", "NoneType", "UnionType", "MappingProxyType", "EllipsisType"
    ),
    "traceback": _only(
        "format_exception_only",
        format_exc=_format_exc,
        print_exc=_print_exc,
        format_exception=_format_exception,
    ),
    "typing": _typing,
    "warnings": _replacing(
        warn=_nothing,
        warn_explicit=_nothing,
        simplefilter=_nothing,
        filterwarnings=_nothing,
        resetwarnings=_nothing,
        showwarning=_nothing,
        formatwarning=_nothing,
        catch_warnings=_Ignoring,
    ),
}

_ASYNCIO: Members = aio.members()
_ITERTOOLS: Members = iterators.itertools_members()
_RANDOMS: Members = {
    **{name: _random_function(name) for name in _RANDOM if hasattr(random.Random, name)},
    "Random": random.Random,
    "SystemRandom": random.SystemRandom,
}

_NUMPY_FILES = words(
    """
        load save savez savez_compressed fromfile memmap genfromtxt loadtxt savetxt fromregex
        DataSource lib ctypeslib testing f2py distutils compat core seterrcall set_string_function
        setbufsize show_config info source who lookfor test version npyio
        set_printoptions
        """
)

#: Members that are never shown, by module.
HIDDEN: dict[str, frozenset[str]] = {
    # Hooks and settings of the whole process: whoever authorizes these modules means their other functions.
    "threading": words(
        "settrace setprofile settrace_all_threads setprofile_all_threads excepthook "
        "main_thread enumerate stack_size"
    ),
    "signal": words("signal set_wakeup_fd setitimer alarm pthread_sigmask siginterrupt"),
    "atexit": words("register unregister"),
    "faulthandler": words("enable disable register unregister dump_traceback_later"),
    "tracemalloc": words("start stop"),
    "socket": words("setdefaulttimeout"),
    "numpy": _NUMPY_FILES,
    "numpy.random": frozenset({"mtrand", "bit_generator", "test"}),
    "pandas": words(
        """
            read_pickle to_pickle HDFStore read_hdf read_sql read_sql_query read_sql_table ExcelFile
            ExcelWriter eval io compat core util testing api tseries read_clipboard read_gbq
            show_versions test read_parquet read_feather read_orc read_spss read_sas read_stata
            options set_option reset_option describe_option read_excel
            """
    ),
    "codecs": frozenset({"register", "register_error", "open", "unregister"}),
    "copyreg": frozenset(
        {"pickle", "constructor", "add_extension", "dispatch_table", "clear_extension_cache"}
    ),
}

_RAW_ITERTOOLS = [name for name in _ITERTOOLS if name != "tee"]
SUBSTITUTES: dict[Any, Any] = {
    **{getattr(itertools, name): _ITERTOOLS[name] for name in _RAW_ITERTOOLS},
    collections.namedtuple: _namedtuple,
    dataclasses.dataclass: _dataclass,
    dataclasses.make_dataclass: _make_dataclass,
    functools.update_wrapper: _update_wrapper,
    functools.wraps: _wraps,
    functools.singledispatch: _Dispatcher,
    operator.attrgetter: _Getter,
    operator.methodcaller: _MethodCaller,
    string.Formatter: Formatter,
    time.sleep: _sleep,
    typing.get_type_hints: _type_hints,
    vars(typing)["Type"]: classes.Type,
    functools.total_ordering: _on_own(functools.total_ordering),
    library_copy.copy: copying.copy,
    library_copy.deepcopy: copying.deepcopy,
    contextlib.redirect_stdout: _redirect_stdout,
    warnings.catch_warnings: _Ignoring,
    warnings.warn: _nothing,
}
