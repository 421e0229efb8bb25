"""What of the standard library, and of numpy and pandas, the code gets where the module as it is would give too much.

A module that is not named here is shown with its public members. ``HIDDEN`` takes names out, ``CURATED`` lists all
there is, ``SUBSTITUTES`` puts a bounded or guarded twin in place of an object wherever it turns up.
"""

from __future__ import annotations

import collections
import contextlib
import copy as library_copy
import dataclasses
import functools
import itertools
import math
import operator
import queue
import random
import re
import string
import time
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from manyhands.executors.local import aio, copying, guards, iterators, policy
from manyhands.executors.local.formatting import GuardedFormatter
from manyhands.executors.local.patterns import check_pattern
from manyhands.executors.local.policy import words
from manyhands.executors.local.switch import current_step, sleep
from manyhands.executors.local.tools import plain

Members = Mapping[str, Any]

#: Modules of pure computation that may always be imported, besides the base modules.
TOOLBOX = words(
    """
        abc asyncio bisect collections.abc contextlib copy dataclasses decimal enum fractions
        functools heapq json numbers operator string textwrap typing __future__
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
    """``functools.singledispatch`` that takes classes as arguments or as plain annotations, never as texts."""

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


def _type_hints(obj: Any, *_: Any, **__: Any) -> dict[str, Any]:
    """``typing.get_type_hints`` that leaves annotations that are texts as they are."""
    hints: dict[str, Any] = {}
    for part in reversed(type.mro(obj)) if isinstance(obj, type) else (obj,):
        if owned.is_own(part) or owned.is_own_function(part):
            hints.update(
                vars(part).get("__annotations__", {}) if isinstance(part, type) else part.__annotations__
            )
    return hints


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


def _patiently(
    attempt: Callable[[], Any], problem: type[Exception], block: bool, timeout: float | None
) -> Any:
    end = None if timeout is None else time.monotonic() + timeout
    while True:
        try:
            return attempt()
        except problem:
            if not block or (end is not None and time.monotonic() >= end):
                raise
        sleep(0.002)


def _make_queue(base: type) -> Any:
    """A queue whose waiting lets the other strands work."""

    def get(self: Any, block: bool = True, timeout: float | None = None) -> Any:
        return _patiently(lambda: base.get(self, False), queue.Empty, block, timeout)  # type: ignore[attr-defined]

    def put(self: Any, item: Any, block: bool = True, timeout: float | None = None) -> None:
        _patiently(lambda: base.put(self, item, False), queue.Full, block, timeout)  # type: ignore[attr-defined]

    def join(self: Any) -> None:
        while self.unfinished_tasks:
            sleep(0.002)

    return type(base.__name__, (base,), {"get": get, "put": put, "join": join, "__module__": "queue"})


_QUEUES = {name: _make_queue(getattr(queue, name)) for name in ("Queue", "LifoQueue", "PriorityQueue")}


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
    "abc": _only("ABC", "ABCMeta", "abstractmethod", "abstractproperty", "abstractclassmethod", "abstractstaticmethod"),
    "asyncio": lambda real: _ASYNCIO,
    "collections": _replacing(namedtuple=_namedtuple),
    "contextlib": _replacing(redirect_stdout=_redirect_stdout, redirect_stderr=_redirect_stdout, chdir=_nothing),
    "copy": _only("Error", "replace", copy=copying.copy, deepcopy=copying.deepcopy),
    "dataclasses": _replacing(dataclass=_dataclass, make_dataclass=_make_dataclass),
    "datetime": _without(),
    "decimal": _decimal,
    "enum": _without("global_enum", "_simple_enum"),
    "functools": _replacing(
        update_wrapper=_update_wrapper, wraps=_wraps, singledispatch=_Dispatcher, singledispatchmethod=_Dispatcher
    ),
    "io": _only("StringIO", "BytesIO", "SEEK_SET", "SEEK_CUR", "SEEK_END", "UnsupportedOperation"),
    "itertools": lambda real: _ITERTOOLS,
    "json": _without(),
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
    "pprint": _only("pformat", "PrettyPrinter", "isreadable", "isrecursive", "saferepr", pprint=_pprint, pp=_pprint),
    "queue": lambda real: {**_QUEUES, "Empty": queue.Empty, "Full": queue.Full, "SimpleQueue": _QUEUES["Queue"]},
    "random": lambda real: _RANDOMS,
    "re": _re,
    "statistics": _statistics,
    "string": _replacing(Formatter=Formatter),
    "sys": _only(
        "maxsize", "version", "version_info", "platform", "byteorder", "float_info", "int_info", "hash_info",
        "implementation", "maxunicode", "getsizeof", "getrecursionlimit", "hexversion", "intern", "exit",
        stdout=_Writer(), stderr=_Writer(), argv=[""],
    ),
    "time": _replacing(sleep=_sleep, tzset=_nothing),
    "types": _only("SimpleNamespace", "GenericAlias", "NoneType", "UnionType", "MappingProxyType", "EllipsisType"),
    "typing": _replacing(get_type_hints=_type_hints),
    "warnings": _replacing(
        warn=_nothing, warn_explicit=_nothing, simplefilter=_nothing, filterwarnings=_nothing,
        resetwarnings=_nothing, showwarning=_nothing, formatwarning=_nothing, catch_warnings=_Ignoring,
    ),
}  # fmt: skip

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
        setbufsize show_config info source who lookfor test rec char version exceptions npyio
        set_printoptions
        """
)

#: Members that are never shown, by module.
HIDDEN: dict[str, frozenset[str]] = {
    # Hooks and settings of the whole process: whoever authorizes these modules means their other functions.
    "threading": words(
        "settrace setprofile settrace_all_threads setprofile_all_threads excepthook stack_size"
    ),
    "signal": words("signal set_wakeup_fd setitimer alarm pthread_sigmask siginterrupt"),
    "atexit": words("register unregister"),
    "faulthandler": words("enable disable register unregister dump_traceback_later"),
    "tracemalloc": words("start stop"),
    "socket": words("setdefaulttimeout"),
    "numpy": _NUMPY_FILES - {"char", "exceptions", "rec"},
    "numpy.random": frozenset({"mtrand", "bit_generator", "test"}),
    "pandas": words(
        """
            read_pickle to_pickle HDFStore read_hdf read_sql read_sql_query read_sql_table ExcelFile
            ExcelWriter eval io compat core util testing api tseries errors read_clipboard read_gbq
            show_versions test read_parquet read_feather read_orc read_spss read_sas read_stata
            options set_option reset_option describe_option option_context read_excel
            """
    )
    - {"option_context", "errors"},
    "inspect": words(
        """
            currentframe stack trace getframeinfo getinnerframes getouterframes getclosurevars
            getgeneratorlocals getcoroutinelocals getattr_static getmembers getmembers_static unwrap
            getasyncgenlocals walktree get_annotations signature getcallargs
            """
    ),
    "logging": words(
        """
            Formatter StrFormatStyle StringTemplateStyle PercentStyle makeLogRecord
            BufferingFormatter basicConfig disable shutdown setLoggerClass setLogRecordFactory
            FileHandler captureWarnings root config handlers
            """
    ),  # fmt: skip
    "codecs": frozenset({"register", "register_error", "open", "unregister"}),
    "copyreg": frozenset(
        {"pickle", "constructor", "add_extension", "dispatch_table", "clear_extension_cache"}
    ),
    "traceback": frozenset({"walk_stack", "walk_tb", "extract_stack", "print_stack", "StackSummary"}),
    "gc": words("get_objects get_referrers get_referents callbacks disable freeze set_debug set_threshold"),
    # Hooks of the process: they would run code of the agent in every thread, after its step too.
    "threading": words(
        """
        settrace setprofile settrace_all_threads setprofile_all_threads excepthook main_thread enumerate stack_size
        """
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
    library_copy.copy: copying.copy,
    library_copy.deepcopy: copying.deepcopy,
    contextlib.redirect_stdout: _redirect_stdout,
    warnings.catch_warnings: _Ignoring,
    warnings.warn: _nothing,
}
