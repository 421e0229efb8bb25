"""The text of a value is made while its code runs, and bounded.

Classes look to the code as they always do.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from manyhands.errors import ExecutionTimeoutError, InterpreterError
from manyhands.executors.local import LocalPythonExecutor
from manyhands.executors.local.output import MAX_SHOWN

OWN = "class Plan:\n    def __str__(self): return 'two steps'\n"


def test_an_object_of_the_code_is_shown_by_its_own_text() -> None:
    """Afterwards its methods do nothing any more."""
    result = LocalPythonExecutor()(OWN + "Plan()")
    assert result.shown == "two steps"
    assert str(result.output) == "<Plan object>"


def test_so_is_a_final_answer() -> None:
    """Also from inside a function."""
    executor = LocalPythonExecutor()
    executor.send_tools({"final_answer": lambda answer: answer})
    result = executor(OWN + "def end(): final_answer(Plan())\nend()")
    assert (result.is_final_answer, result.shown) == (True, "two steps")


def test_own_text_may_call_tools_and_fail() -> None:
    """It is code like any other."""

    async def name() -> str:
        await asyncio.sleep(0)
        return "from a tool"

    executor = LocalPythonExecutor()
    executor.send_tools({"name": name})
    assert executor("class A:\n    def __repr__(self): return name()\n[A()]").shown == "[from a tool]"
    shown = executor("class A:\n    def __str__(self): return 1 / 0\nA()").shown
    assert shown == "<A that cannot be shown: ZeroDivisionError>"


def test_own_text_counts_for_the_time() -> None:
    """An endless one ends with the step."""
    executor = LocalPythonExecutor(timeout_seconds=0.2)
    with pytest.raises(ExecutionTimeoutError):
        executor("class A:\n    def __str__(self):\n        while True: pass\nA()")


@pytest.mark.parametrize(
    "source",
    ["list(range(3_000_000))", "'x' * 30_000_000", "[[0] * 1_000_000] * 3", "{i: i for i in range(500_000)}"],
)
def test_the_text_of_a_large_value_is_bounded(source: str) -> None:
    """In size and in time."""
    executor = LocalPythonExecutor()
    executor(f"x = {source}")
    took = []
    for _ in range(3):  # the best counts: other work on the machine is not the executor's
        start = time.thread_time()
        shown = executor("x").shown
        took.append(time.thread_time() - start)
        assert shown is not None
        assert len(shown) < MAX_SHOWN + 200
    assert min(took) < 3


def test_both_ends_of_a_long_list_are_shown() -> None:
    """With a note between."""
    shown = LocalPythonExecutor()("list(range(1_000_000))").shown or ""
    assert shown.startswith("[0, 1, 2")
    assert shown.endswith("999998, 999999]")
    assert "truncated" in shown


def test_a_list_in_itself_is_shown() -> None:
    """As Python shows it."""
    assert LocalPythonExecutor()("x = [1]\nx.append(x)\nx").shown == "[1, [...]]"


CLASSES = {
    "type(1) is int and type(int) is type and type(type) is type": True,
    "isinstance(int, type), isinstance(1, type), issubclass(type, type), issubclass(int, type)": (
        True,
        False,
        True,
        False,
    ),
    "t = type\nt(1) is int, t is type, t.__name__, repr(t), repr(t[int])": (
        True,
        True,
        "type",
        "<class 'type'>",
        "type[int]",
    ),
    "match int:\n    case type(): r = 1\nmatch 1:\n    case type(): r = 2\nr": 1,
    "class M(type):\n    def hi(cls): return cls.__name__\nclass C(metaclass=M): pass\n"
    "C.hi(), type(C) is M, isinstance(C, M), isinstance(C,"
    " type), type(M) is type": ("C", True, True, True, True),
    "class M(type):\n    def __new__(m, n, b, ns): return super().__new__(m, n, b, {**ns, 'x': 5})\n"
    "class C(metaclass=M): pass\nC.x, M('D', (C,), {'y': 6}).y": (5, 6),
    "D = type('D', (dict,), {'f': lambda self: 1})\nD().f(), D.__module__, D.__mro__[1] is dict": (
        1,
        "__main__",
        True,
    ),
    "from enum import Enum\nclass E(Enum):\n    A = 1\n"
    "type(E) is type(Enum), E(1) is E.A, len(E), Enum('Z', 'P Q').Q.value": (True, True, 1, 2),
    "from abc import ABC, ABCMeta\nclass A(ABC): pass\nclass B(metaclass=ABCMeta): pass\n"
    "type(A) is ABCMeta, type(B) is ABCMeta, isinstance(A, ABCMeta)": (True, True, True),
    "class A:\n    def f(self): return 1\nclass B(A):\n    def f(self): return "
    "super(B, self).f() + 1\nB().f()": 2,
    "[].__class__ is list, (1).__class__.__name__, type(None).__name__": (True, "int", "NoneType"),
    "{int: 1, type: 2}[type(int)]": 2,
    "import datetime\ndatetime.datetime.strptime('2020-01-02', '%Y-%m-%d').day": 2,
    "from typing import NamedTuple, TypedDict, Generic, TypeVar\nclass N(NamedTuple):\n    a: int = 1\n"
    "class D(TypedDict):\n    a: int\nT = TypeVar('T')\nclass G(Generic[T]): pass\n"
    "N(2).a, D(a=3), type(G[int]()) is G": (2, {"a": 3}, True),
    "import queue\nclass Q(queue.PriorityQueue):\n    def _put(self, x): super()._put(-x)\n"
    "q = Q()\nq.put(1)\nq.put(5)\n-q.get()": 5,
    "import string\nclass F(string.Formatter):\n    def get_value(self, k, a, kw): return kw.get(k, '?')\n"
    "F().format('{a} {b!r:>5} {c:{w}}', b='x', c=3, w=4)": "?   'x'    3",
}


@pytest.mark.parametrize("source", CLASSES, ids=range(len(CLASSES)))
def test_guarded_classes_look_like_the_real_ones(source: str) -> None:
    """``type`` and other metaclasses have twins; programs cannot tell."""
    assert LocalPythonExecutor()(source).output == CLASSES[source]


def test_a_class_of_a_tool_s_library_may_be_inherited_from() -> None:
    """Only classes of the standard library and of the executor are looked at closely."""

    class Base:
        def _hidden(self) -> int:
            return 3

    executor = LocalPythonExecutor()
    executor.send_variables({"Base": Base})
    assert executor("class A(Base):\n    def f(self): return self._hidden()\nA().f()").output == 3
    with pytest.raises(InterpreterError, match="not an acceptable base type"):
        executor("import asyncio\nclass L(asyncio.Lock): pass")


def test_logging_prints_with_the_rest() -> None:
    """Levels belong to the run."""
    executor = LocalPythonExecutor(["logging"])
    source = "import logging\nlogging.basicConfig(level=logging.INFO)\nlog = logging.getLogger('me')\n"
    assert executor(source + "log.info('a %s', 1)\nlog.debug('b')\nprint('c')").logs == "INFO:me:a 1\nc\n"
    assert (
        executor.spawn()("import logging\nlogging.info('x')\nlogging.warning('y')").logs == "WARNING:root:y\n"
    )
