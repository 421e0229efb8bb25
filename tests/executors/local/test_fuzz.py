"""Programs made at random from dangerous pieces: whatever they do, nothing of the host comes to light."""

from __future__ import annotations

import asyncio
import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manyhands.errors import InterpreterError
from manyhands.executors.local import LocalPythonExecutor

from .canary import PLANTED, Canary, changed_classes

# Unfinished coroutines of generated programs tell that they were never awaited.
pytestmark = pytest.mark.filterwarnings("ignore")

NAMES = st.sampled_from(
    """
    __class__ __base__ __bases__ __mro__ mro __subclasses__ __globals__ __code__ __closure__ __builtins__
    __self__
    __func__ __wrapped__ __dict__ __init__ __new__ __reduce__ __reduce_ex__ __getattribute__ __getattr__
    __call__
    __get__ __set_name__ __traceback__ __context__ __cause__ tb_frame tb_next f_back f_globals f_builtins
    f_locals
    gi_frame gi_code cr_frame ag_frame gi_yieldfrom format format_map obj args func keywords fget fset
    register
    _target _future _strand step session namespace modules _shared _os _sys sys os _real real __loader__
    __spec__
    load_module __import__ __annotations__ __match_args__ __subclasshook__ __init_subclass__ __class_getitem__
    __module__ __name__ __doc__ __qualname__ __hash__ __defaults__ __kwdefaults__ gen with_traceback copy get
    pop
    values items keys update __getitem__ __setattr__ __delattr__ __prepare__ __instancecheck__ __objclass__
    hacked
    """.split()  # noqa: SIM905
)

ATOMS = st.sampled_from(
    [
        "1",
        "''",
        "[]",
        "{}",
        "()",
        "None",
        "object",
        "type",
        "int",
        "str",
        "list",
        "dict",
        "tuple",
        "super",
        "property",
        "print",
        "getattr",
        "eval",
        "exec",
        "leak",
        "parallel",
        "C",
        "C()",
        "M",
        "f",
        "f()",
        "g",
        "g()",
        "co",
        "T",
        "err",
        "math",
        "json",
        "json.JSONDecoder",
        "random",
        "functools",
        "operator",
        "collections",
        "asyncio",
        "string",
        "string.Formatter()",
        "contextlib",
        "dataclasses",
        "enum",
        "abc",
        "typing",
        "queue.Queue()",
        "copy",
        "itertools",
        "(lambda: 0)",
        "(x for x in [1])",
        "[].append",
        "''.join",
        "C().m",
        "C.m",
        "C.p",
        "map(str, [1])",
        "iter([1])",
        "asyncio.Lock()",
        "asyncio.Future()",
        "asyncio.get_event_loop()",
        "functools.partial(leak)",
        "globals()",
        "locals()",
        "vars(C)",
        "vars(C())",
        "dir()",
        "compile('1', '', 'eval')",
        "type(f)",
        "type(g())",
        "type(err)",
        "type(leak)",
        "type(math)",
        "type(type)",
        "__builtins__",
        "__name__",
        "open",
        "__import__",
    ]
)


def _use(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Ways to get from one thing to another."""
    return st.one_of(
        st.builds("{}.{}".format, inner, NAMES),
        st.builds("getattr({}, '{}')".format, inner, NAMES),
        st.builds("getattr({}, S('{}'))".format, inner, NAMES),
        st.builds("operator.attrgetter('{1}')({0})".format, inner, NAMES),
        st.builds("operator.methodcaller('{1}')({0})".format, inner, NAMES),
        st.builds("{}()".format, inner),
        st.builds("{}({})".format, inner, inner),
        st.builds("{}({}, {})".format, inner, inner, inner),
        st.builds("{}({}, '{}')".format, inner, inner, NAMES),
        st.builds("{}('{}')".format, inner, NAMES),
        st.builds("{}[0]".format, inner),
        st.builds("{}['{}']".format, inner, NAMES),
        st.builds("list({})[-1]".format, inner),
        st.builds("(lambda x: x.{1})({0})".format, inner, NAMES),
        st.builds("[x.{1} for x in [{0}]][0]".format, inner, NAMES),
        st.builds("'{{0.{1}}}'.format({0})".format, inner, NAMES),
        st.builds("f'{{{0}.{1}}}'".format, inner, NAMES),
        st.builds("functools.reduce(getattr, ['{1}'], {0})".format, inner, NAMES),
        st.builds("list(map(getattr, [{0}], ['{1}']))[0]".format, inner, NAMES),
        st.builds("eval('''{}''')".format, inner),
        st.builds("super(C, C()).{}".format, NAMES),
        st.builds("super(type({0}), {0}).{1}".format, inner, NAMES),
        st.builds("type({})".format, inner),
        st.builds("type('X', ({},), {{'{}': {}}})".format, inner, NAMES, inner),
        st.builds("object.__getattribute__({}, '{}')".format, inner, NAMES),
        st.builds("type.__getattribute__({}, '{}')".format, inner, NAMES),
        st.builds("vars({})".format, inner),
        st.builds("copy.deepcopy({})".format, inner),
        st.builds("({} or {})".format, inner, inner),
        st.builds("(await {})".format, inner),
        st.builds("catch(lambda: {}).{}".format, inner, NAMES),
    )


EXPRESSIONS = st.recursive(ATOMS, _use, max_leaves=6)

STATEMENTS = st.one_of(
    st.builds("leak({})".format, EXPRESSIONS),
    st.builds("leak({}, {})".format, EXPRESSIONS, EXPRESSIONS),
    st.builds("v = {}\nleak(v)".format, EXPRESSIONS),
    st.builds("{}.{} = leak".format, EXPRESSIONS, NAMES),
    st.builds("{}.{} += R()".format, EXPRESSIONS, NAMES),
    st.builds("setattr({}, '{}', leak)".format, EXPRESSIONS, NAMES),
    st.builds("del {}.{}".format, EXPRESSIONS, NAMES),
    st.builds("for {}.{} in [1]: pass".format, EXPRESSIONS, NAMES),
    st.builds("match {}:\n    case object({}=v): leak(v)".format, EXPRESSIONS, NAMES),
    st.builds("C.__match_args__ = ('{1}',)\nmatch {0}:\n    case C(v): leak(v)".format, EXPRESSIONS, NAMES),
    st.builds(
        "class D(A):\n    __match_args__ = ('{1}',)\nmatch {0}:\n    case D(v): leak(v)".format,
        EXPRESSIONS,
        NAMES,
    ),
    st.builds(
        "try:\n    {}\nexcept BaseException as e:\n    leak(e, e.{}, *e.args)".format, EXPRESSIONS, NAMES
    ),
    st.builds("with W({}) as w:\n    leak(w)\n    1 / 0".format, EXPRESSIONS),
    st.builds("class K(metaclass={}):\n    {} = leak".format, EXPRESSIONS, NAMES),
    st.builds("class K({}):\n    def {}(self, *a): leak(self, *a)\nleak(K())".format, EXPRESSIONS, NAMES),
    st.builds(
        "from {} import {}\nleak({})".format,
        st.sampled_from(["random", "queue", "re", "os", "math"]),
        NAMES,
        NAMES,
    ),
    st.builds(
        "import {0}\nleak({0})".format, st.sampled_from(["os", "sys", "builtins", "io", "ctypes", "gc"])
    ),
    st.builds(
        "functools.update_wrapper({}, {}, assigned=('{}',), updated=())".format,
        EXPRESSIONS,
        EXPRESSIONS,
        NAMES,
    ),
    st.builds("exec('''leak({})''', {{}})".format, EXPRESSIONS),
    st.builds("@{}\ndef h(x: {}): return x\nleak(h)".format, EXPRESSIONS, EXPRESSIONS),
)

PRELUDE = """
import math, json, random, functools, operator, collections, asyncio, string, contextlib, dataclasses
import enum, abc, typing
import queue, copy, itertools
class S(str):
    def startswith(self, *a): return False
class R:
    def __radd__(self, o): leak(o); return o
    def __ror__(self, o): leak(o); return o
class M(type):
    def __instancecheck__(cls, o): return True
class A(abc.ABC):
    @classmethod
    def __subclasshook__(cls, o): return True
class C(metaclass=M):
    def m(self): return self
    @property
    def p(self): return 1
class W:
    def __init__(self, v): self.v = v
    def __enter__(self): return self.v
    def __exit__(self, t, e, tb):
        leak(tb, t, e, tb.tb_frame)
        return True
T = collections.namedtuple("T", "a")(1)
def f(): return 1
def g(): yield 1
async def co(): return 1
def catch(fn):
    try: return fn()
    except BaseException as e: return e
try: failing()
except Exception as e: err = e
"""


def failing() -> None:
    """A tool whose error holds something of the host."""
    raise ValueError("failed", PLANTED)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STATEMENTS, min_size=1, max_size=3))
def test_random_programs_find_nothing(statements: list[str]) -> None:
    """Nothing leaks, nothing shared changes, and every failure is an ordinary error."""
    canary = Canary()
    executor = LocalPythonExecutor(timeout_seconds=2)
    executor.send_tools({"leak": canary.leak, "failing": failing})

    async def attack() -> None:
        await executor.acall(PRELUDE)
        for statement in statements:
            try:
                canary.leak((await executor.acall(statement)).output)
            except InterpreterError:
                continue

    asyncio.run(attack())
    assert canary.found == []
    assert changed_classes() == []
    assert math.pi > 3.14
    assert json.loads("[1]") == [1]


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.text(max_size=60))
def test_any_text_is_a_program_or_an_error(source: str) -> None:
    """No input raises anything but the executor's own errors."""
    try:
        LocalPythonExecutor(timeout_seconds=1)(source)
    except InterpreterError:
        return
