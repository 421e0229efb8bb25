"""Monty: what the local executor does, in a small Python of its own, with no worker held while it waits."""

from __future__ import annotations

import asyncio
import collections
import contextvars
import dataclasses
import datetime
import decimal
import enum
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands import CodeAgent, tool
from manyhands.errors import CallerError, ExecutionTimeoutError, InterpreterError, MissingExtraError
from manyhands.executors.local import LocalPythonExecutor
from manyhands.executors.monty import MODULES, MontyExecutor, UnsupportedCodeError
from manyhands.testing import ScriptedModel

from .local.attacks import ATTACKS, PUBLISHED
from .local.canary import PLANTED, Canary
from .local.corpus import PROGRAMS as CORPUS
from .local.test_fidelity import _ADDRESS as ADDRESS
from .local.test_fidelity import _ends_in_expression as ends_in_expression
from .local.test_fidelity import in_cpython
from .local.test_programs import PROGRAMS
from .local.test_time import ENDLESS
from .local.test_tools import ANYWHERE, ERRORS, FINAL, TOGETHER

TRACE: contextvars.ContextVar[str] = contextvars.ContextVar("trace", default="none")


async def double(x: Any) -> Any:
    """An async tool."""
    await asyncio.sleep(0)
    return x * 2


def add(a: int, b: int = 1) -> int:
    """A sync tool."""
    return a + b


def made(*, timeout_seconds: float | None = 5, **tools: Any) -> MontyExecutor:
    """An executor with tools."""
    executor = MontyExecutor(timeout_seconds=timeout_seconds)
    executor.send_tools({"double": double, "add": add, "final_answer": lambda answer: answer, **tools})
    return executor


def another(executor: MontyExecutor, **tools: Any) -> MontyExecutor:
    """An executor of the same configuration, with other tools."""
    new = executor.spawn()
    new.send_tools(tools)
    return new


# --- Tools, final answers, values ------------------------------------------------------------------

LACKING = {"property", "yield", "regex callback"}


@pytest.mark.parametrize("name", [name for name in ANYWHERE if name != "dunder method"])
async def test_a_tool_is_a_plain_function_anywhere(name: str) -> None:
    source, expected = ANYWHERE[name]
    if name in LACKING:
        with pytest.raises(UnsupportedCodeError, match="Monty, the small Python that runs this code"):
            await made().acall(source)
    else:
        assert (await made().acall(source)).output == expected


def test_a_tool_is_a_plain_function_from_sync_code() -> None:
    executor = made(where=threading.get_ident)
    assert executor("double(1) + add(2)").output == 5
    assert executor("where()").output == threading.get_ident()


WAITING_BUILTINS = {
    "sorted": ("sorted([3, 1, 2], key=double)", [1, 2, 3]),
    "sorted in reverse": (
        "sorted(['a', 'bbb', 'cc'], key=lambda x: double(len(x)), reverse=True)",
        ["bbb", "cc", "a"],
    ),
    "stable": (
        "sorted([(1, 'b'), (0, 'z'), (1, 'a')], key=lambda p: double(p[0]))",
        [(0, "z"), (1, "b"), (1, "a")],
    ),
    "sort": ("xs = [[3], [1, 2]]\nxs.sort(key=lambda x: -double(len(x)))\nxs", [[1, 2], [3]]),
    "sort of an attribute": ("d = {'k': [2, 1]}\nd['k'].sort(key=double)\nd", {"k": [1, 2]}),
    "map of two": ("list(map(lambda a, b: add(a, b), [1, 2], [3, 4]))", [4, 6]),
    "filter": ("list(filter(lambda x: double(x) > 2, [1, 2, 3]))", [2, 3]),
    "min": ("min([3, -1, 2], key=double)", -1),
    "max of several": ("max(1, 5, 3, key=lambda x: double(-x))", 1),
    "max of none": ("max([], key=double, default='none')", "none"),
    "through a function": ("def score(x): return double(x)\nsorted([2, 1], key=score)", [1, 2]),
    "through a lambda": ("score = lambda x: double(x)\nsorted([2, 1], key=score)", [1, 2]),
    "next of map": ("next(map(double, [4]))", 8),
}


@pytest.mark.parametrize(("source", "expected"), WAITING_BUILTINS.values(), ids=WAITING_BUILTINS.keys())
async def test_functions_that_call_back_wait_for_tools(source: str, expected: Any) -> None:
    assert (await made().acall(source)).output == expected


async def test_a_function_of_an_earlier_block_that_calls_a_tool_can_be_a_key() -> None:
    executor = made()
    await executor.acall("def score(x):\n    return double(x)")
    assert (await executor.acall("sorted([2, 1], key=score)")).output == [1, 2]


SIDE_BY_SIDE = [
    *("gather of a list", "gather of a generator", "gather of a variable", "append", "single names"),
    *("written out", "coroutines", "parallel", "parallel function"),
]


@pytest.mark.parametrize("name", SIDE_BY_SIDE)
async def test_calls_run_side_by_side(name: str) -> None:
    together = asyncio.Barrier(2 if name == "single names" else 6)

    async def slow(x: int) -> int:
        async with asyncio.timeout(20):
            await together.wait()
        return x

    assert (await made(slow=slow).acall(TOGETHER[name])).output == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", ["create_task", "task group", "to_thread", "as_completed"])
async def test_what_asyncio_lacks_is_said(name: str) -> None:
    with pytest.raises(UnsupportedCodeError, match="does not have") as caught:
        await made(slow=double).acall(TOGETHER[name])
    assert caught.value.lacks


async def test_one_failing_call_of_gather_can_be_caught() -> None:
    async def bad() -> None:
        raise KeyError("gone")

    source = (
        "import asyncio\ntry:\n    await asyncio.gather(double(1), bad())\n"
        "except KeyError as e:\n    r = str(e)\nr"
    )
    assert (await made(bad=bad).acall(source)).output == "'gone'"


@pytest.mark.parametrize("name", [n for n in FINAL if n not in ("in task", "suppress", "in del")])
async def test_a_final_answer_ends_the_code(name: str) -> None:
    result = await made().acall(FINAL[name])
    assert (result.output, result.is_final_answer) == (42, True)


async def test_variables_stay_after_a_final_answer() -> None:
    executor = made()
    await executor.acall("x = 3\nfinal_answer(x)")
    assert (await executor.acall("x")).output == 3


async def test_a_final_answer_may_be_anything_that_the_tool_returns() -> None:
    answer = object()
    result = await made(final_answer=lambda **_: answer).acall("print('p')\nfinal_answer(text='a')")
    assert result.output is answer
    assert result.logs == "p\n"


async def test_errors_of_tools_can_be_caught_by_type() -> None:
    class QuotaError(KeyError):
        def __init__(self) -> None:
            super().__init__("quota")
            self.client = object()

    def bad() -> None:
        raise QuotaError

    source = "try:\n    bad()\nexcept KeyError as e:\n    r = (str(e), hasattr(e, 'client'))\nr"
    assert (await made(bad=bad).acall(source)).output == ("'quota'", False)
    with pytest.raises(InterpreterError, match="QuotaError: 'quota'") as caught:
        await made(bad=bad).acall("bad()")
    assert isinstance(caught.value.__cause__, QuotaError)


async def test_context_variables_reach_tools() -> None:
    async def traced() -> str:
        return TRACE.get()

    token = TRACE.set("span")
    try:
        result = await made(traced=traced, also=lambda: TRACE.get()).acall("traced(), also()")
    finally:
        TRACE.reset(token)
    assert result.output == ("span", "span")


async def test_objects_with_acall_are_tools_and_may_have_the_name_of_a_builtin() -> None:
    class Agent:
        async def acall(self, task: str) -> str:
            await asyncio.sleep(0)
            return f"done: {task}"

    assert (await made(sum=Agent()).acall("sum(task='x')")).output == "done: x"


@pytest.mark.parametrize(
    "source",
    ["add = 1", "def add(): pass", "for add in []: pass", "import math as add", "[add := 1 for _ in [1]]"],
)
async def test_a_tool_cannot_be_overwritten(source: str) -> None:
    executor = made()
    with pytest.raises(InterpreterError, match="Cannot assign to name 'add'"):
        await executor.acall(source)
    assert (await executor.acall("add(1)")).output == 2


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    near: list[int]


Pair = collections.namedtuple("Pair", "a b")

CROSSING = {
    "numbers": ([1, 2.5, 10**40, True, 1j], None),
    "text": ("é\0 'q'", None),
    "bytes": (b"\x00\xff", None),
    "containers": ({"a": (1, {2, 3}), (1, 2): frozenset([4])}, None),
    "dates": (
        [datetime.date(2026, 1, 2), datetime.datetime(2026, 1, 2, 3, tzinfo=datetime.UTC)],
        None,
    ),
    "durations": (datetime.timedelta(days=1, seconds=2), None),
    "decimals": (decimal.Decimal("1.10"), None),
    "named tuples": (Pair(1, 2), None),
    "dataclasses": (Point(1, [2]), {"x": 1, "near": [2]}),
    "enums": (Color.RED, "red"),
    "deques": (collections.deque([1, 2]), [1, 2]),
    "ranges": (range(3), [0, 1, 2]),
}


@pytest.mark.parametrize(("value", "expected"), CROSSING.values(), ids=CROSSING.keys())
async def test_plain_values_cross_in_both_directions(value: Any, expected: Any) -> None:
    seen: list[Any] = []
    executor = made(give=lambda: value, take=seen.append)
    executor.send_variables({"sent": value})
    await executor.acall("take(give())\ntake(sent)")
    wanted = value if expected is None else expected
    assert seen == [wanted, wanted]
    assert [type(item).__name__ for item in seen] == [type(wanted).__name__] * 2


def test_arrays_enter_as_lists() -> None:
    numpy = pytest.importorskip("numpy")
    executor = made(give=lambda: (numpy.arange(3), numpy.float64(0.5)))
    assert executor("give()").output == ([0, 1, 2], 0.5)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"))
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
        | st.tuples(inner)
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(plain)
def test_any_plain_value_comes_back_as_it_went(value: Any) -> None:
    executor = MontyExecutor()
    executor.send_variables({"value": value})
    assert executor("value").output == value


async def test_what_cannot_enter_is_named() -> None:
    executor = made(give=lambda: [Path("/x"), threading.Lock()])
    with pytest.raises(
        InterpreterError, match=r"The result of give\(\) cannot enter Monty: it holds a _thread.lock"
    ):
        await executor.acall("give()")
    with pytest.raises(CallerError, match="The variable 'me' cannot enter Monty: it holds a .*MontyExecutor"):
        executor.send_variables({"me": executor})


@pytest.mark.parametrize(
    ("argument", "what"),
    [
        ("lambda x: x", "the function lambda x: x"),
        ("double", "the function double"),
        ("f", "the function f"),
        ("[A()]", "an object of class A"),
        ("[print]", "the function or class print"),
    ],
)
async def test_what_cannot_leave_is_named(argument: str, what: str) -> None:
    seen: list[Any] = []
    source = f"def f(): pass\nclass A: pass\ntake({argument})"
    with pytest.raises(InterpreterError, match="TypeError: An argument of take") as caught:
        await made(take=seen.append).acall(source)
    assert what in str(caught.value)
    assert seen == []


async def test_objects_of_the_code_are_shown_and_stay_inside() -> None:
    source = (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\nclass A: pass\n[P(1), A(), A]"
    )
    result = await made().acall(source)
    assert result.shown == "[P(x=1), <A>, <class 'A'>]"


# --- Variables, prints, errors ----------------------------------------------------------------------


async def test_variables_live_from_step_to_step_and_not_beyond_the_run() -> None:
    executor = made()
    await executor.acall("import math\nx = 1\ndef f(): return x + math.floor(2.5)")
    assert (await executor.acall("x = 5\nf()")).output == 7
    with pytest.raises(InterpreterError, match="name 'x' is not defined"):
        await executor.spawn().acall("x")


async def test_the_value_is_that_of_the_last_expression_or_assignment() -> None:
    assert (await made().acall("x = 2 + 2")).output == 4
    assert (await made().acall("x = 2\nif x: pass")).output is None
    assert (await made().acall("")).output is None


async def test_variables_can_be_sent_and_read() -> None:
    executor = made()
    executor.send_variables({"data": [1, 2]})
    assert await executor.avariables() == {"data": [1, 2]}
    await executor.acall("data.append(3)\ntotal = sum(data)\ndef f(): pass\nif False: never = 1")
    assert await executor.avariables() == {"data": [1, 2, 3], "total": 6}
    assert await executor.avariables(["total", "nothing"]) == {"total": 6}


async def test_what_an_error_left_stays() -> None:
    executor = made()
    with pytest.raises(InterpreterError) as caught:
        await executor.acall("x = 1\nprint('so far')\n1 / 0")
    assert caught.value.logs == "so far\n"
    assert (await executor.acall("x")).output == 1


async def test_prints_are_kept_at_both_ends() -> None:
    executor = MontyExecutor(max_print_outputs_length=100)
    result = await executor.acall(
        "import sys\nprint('first')\nfor i in range(10_000): print(i)\nprint('last', file=sys.stderr)"
    )
    assert result.logs.startswith("first\n0\n")
    assert result.logs.endswith("9999\nlast\n")
    assert "truncated" in result.logs
    assert len(result.logs) < 250


NOT_HERE = {
    *("import os", "from os import path", "().__subclasses__", "open('x')", "raise SystemExit(1)", "exit()"),
    *("class E(BaseException): pass\nraise E('own')", "d = {'apple': 1}\nd['aple']"),
}


@pytest.mark.parametrize("source", [source for source in ERRORS if source not in NOT_HERE])
async def test_errors_name_line_type_and_way_out(source: str) -> None:
    with pytest.raises(InterpreterError) as caught:
        await made(slow=double).acall(source)
    assert ERRORS[source] in str(caught.value)


async def test_an_error_in_a_function_of_an_earlier_block_names_its_line() -> None:
    executor = made()
    await executor.acall("def f(x):\n    return 1 / x")
    with pytest.raises(InterpreterError) as caught:
        await executor.acall("y = 0\nf(y)")
    assert "at line 'f(y)' due to: ZeroDivisionError" in str(caught.value)
    assert "(in f, line 2: 'return 1 / x')" in str(caught.value)


@pytest.mark.parametrize(
    ("source", "lacks"),
    [
        ("def f():\n    yield 1", "yield expressions"),
        ("class A: pass\nclass B(A): pass", "class inheritance"),
        ("x = 1\ndel x", "the 'del' statement"),
        ("import statistics", "the module 'statistics'"),
        ("from functools import wraps", "'functools.wraps'"),
        ("import asyncio\nasyncio.Event()", "'asyncio.Event'"),
        ("bytearray(b'x')", "the built-in function 'bytearray'"),
        ("sorted(['B', 'a'], key=str.lower)", "'str.lower'"),
    ],
)
async def test_what_monty_lacks_is_told_with_a_way_out(source: str, lacks: str) -> None:
    with pytest.raises(UnsupportedCodeError) as caught:
        await made().acall(source)
    assert lacks in caught.value.lacks
    assert f"does not have {caught.value.lacks}. Write it in another way." in str(caught.value)
    assert 'executor_type="local", "process" or "docker"' in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "raise NotImplementedError('not yet supported')",
        "1 + 'a'",
        "'x'.nothing",
        "nothing",
        "import math\nmath._x",
    ],
)
async def test_a_mistake_of_the_code_is_not_called_a_lack(source: str) -> None:
    with pytest.raises(InterpreterError) as caught:
        await made().acall(source)
    assert not isinstance(caught.value, UnsupportedCodeError)


async def test_the_modules_are_those_that_the_interpreter_has() -> None:
    executor = made()
    for module in MODULES:
        await executor.acall(f"import {module}")
    for module in {"statistics", "string", "socket", "subprocess", "numpy"} - MODULES:
        with pytest.raises(UnsupportedCodeError, match=f"the module '{module}'"):
            await executor.acall(f"import {module}")


# --- Time, cancellation, memory ----------------------------------------------------------------------


NEED_MORE = {
    *("generator", "suppress", "contextmanager", "async event", "queue", "del", "class body", "property"),
    "except star",
}
LOOPS = [name for name in ENDLESS if name not in NEED_MORE]


@pytest.mark.parametrize("name", LOOPS)
async def test_endless_code_ends_at_its_limit_and_leaves_the_variables_as_they_were(name: str) -> None:
    executor = made(timeout_seconds=0.1)
    await executor.acall("kept = 7")
    with pytest.raises(ExecutionTimeoutError, match=r"maximum execution time of 0\.1 seconds") as caught:
        await executor.acall("kept = 8\nprint('so far')\n" + ENDLESS[name])
    assert caught.value.logs.startswith("so far\n")
    assert (await executor.acall("kept")).output == 7


async def test_waiting_for_a_tool_is_not_code_time() -> None:
    async def slow() -> str:
        await asyncio.sleep(0.3)
        return "done"

    assert (await made(slow=slow, timeout_seconds=0.2).acall("slow()")).output == "done"


async def test_one_long_call_of_the_interpreter_is_ended_too() -> None:
    """One that does not look at its limit: the worker is killed."""
    with pytest.raises(ExecutionTimeoutError):
        await made(timeout_seconds=0.2).acall("10 ** (10 ** 7) * 3 ** (10 ** 7)\n1")


async def test_cancelling_running_code_ends_it() -> None:
    begun = asyncio.Event()

    async def begin() -> None:
        begun.set()

    executor = made(timeout_seconds=None, begin=begin)
    await executor.acall("kept = 7")
    task = asyncio.create_task(executor.acall("import asyncio\nbegin()\nwhile True: pass"))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await executor.acall("kept")).output == 7


async def test_cancelling_code_that_waits_cancels_its_tools() -> None:
    begun, ended = asyncio.Semaphore(0), []

    async def slow(x: int) -> None:
        begun.release()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append(x)
            raise

    executor = made(slow=slow)
    for source, count in (("try:\n    slow(1)\nexcept:\n    slow(2)", 1), ("parallel(slow, range(3))", 3)):
        ended.clear()
        task = asyncio.create_task(executor.acall(source))
        for _ in range(count):
            await begun.acquire()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(ended) == count


async def test_memory_has_an_end_and_the_executor_lives_on() -> None:
    executor = MontyExecutor(memory_mb=20)
    await executor.acall("kept = 7")
    with pytest.raises(InterpreterError, match=r"MemoryError(.|\n)*may take 20 MB"):
        await executor.acall("a = []\nwhile True: a.append('x' * 10_000)")
    assert (await executor.acall("kept")).output == 7


async def test_the_loop_keeps_its_beat_beside_endless_code() -> None:
    base = made(timeout_seconds=60)
    tasks = [asyncio.create_task(base.spawn().acall("while True: print('x' * 1000)")) for _ in range(4)]
    beats = 0
    try:
        async with asyncio.timeout(20):
            while beats < 100:
                await asyncio.sleep(0.001)
                beats += 1
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert beats == 100


async def test_an_executor_runs_one_code_at_a_time() -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        begun.set()
        await release.wait()

    executor = made(wait=wait)
    task = asyncio.create_task(executor.acall("wait()"))
    await begun.wait()
    with pytest.raises(RuntimeError, match=r"spawn\(\)"):
        await executor.acall("1")
    release.set()
    await task


# --- Workers ------------------------------------------------------------------------------------------


async def test_no_worker_is_held_while_code_waits() -> None:
    """One worker serves 100 executors that all wait for a person at once, and others meanwhile."""
    waiting, release = asyncio.Semaphore(0), asyncio.Event()

    async def person(question: str) -> str:
        waiting.release()
        await release.wait()
        return question + "!"

    base = MontyExecutor(max_workers=1)
    tasks = [
        asyncio.create_task(another(base, person=person).acall(f"x = {i}\ny = person('q{i}')\nx, y"))
        for i in range(100)
    ]
    for _ in tasks:
        await waiting.acquire()
    assert (await base.spawn().acall("1 + 1")).output == 2
    release.set()
    assert [result.output for result in await asyncio.gather(*tasks)] == [(i, f"q{i}!") for i in range(100)]
    await base.acleanup()


async def test_prints_and_side_by_side_calls_go_on_after_the_worker_was_given_back() -> None:
    waiting, release = asyncio.Semaphore(0), asyncio.Event()

    async def person(x: int) -> int:
        waiting.release()
        await release.wait()
        if x == 2:
            raise ValueError("no")
        return x

    executor = MontyExecutor(max_workers=1, park_after=0)
    source = (
        "import asyncio\nprint('before')\n"
        "try:\n    await asyncio.gather(person(1), person(2))\nexcept ValueError as e:\n    print(e)\n"
        "r = await asyncio.gather(person(3), person(4))\nprint('after')\nr"
    )
    task = asyncio.create_task(another(executor, person=person).acall(source))
    for _ in range(2):
        await waiting.acquire()
    release.set()
    result = await task
    assert (result.output, result.logs) == ([3, 4], "before\nno\nafter\n")


async def test_a_run_that_waits_for_a_worker_can_be_cancelled() -> None:
    begun = asyncio.Event()

    async def begin() -> None:
        begun.set()

    base = MontyExecutor(max_workers=1, timeout_seconds=None)
    first = asyncio.create_task(another(base, begin=begin).acall("begin()\nwhile True: pass"))
    await begun.wait()
    second = asyncio.create_task(base.spawn().acall("1"))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await base.spawn().acall("1")).output == 1


def test_workers_serve_several_event_loops() -> None:
    base = made()
    results: list[Any] = []

    def work() -> None:
        executor = another(base, double=double)
        results.extend(executor(f"double({i})").output for i in range(10))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted([2 * i for i in range(10)] * 4)


def workers_of(pid: int) -> list[int]:
    """The processes that ``pid`` has started."""
    children: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # the thread ended meanwhile
            children += map(int, (thread / "children").read_text().split())
    return children


LINUX = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")


@LINUX
async def test_cleaning_up_ends_the_workers() -> None:
    before = set(workers_of(os.getpid()))
    executor = MontyExecutor(memory_mb=77)
    await executor.spawn().acall("1")
    begun = set(workers_of(os.getpid())) - before
    assert begun
    await executor.acleanup()
    assert not begun & set(workers_of(os.getpid()))


@LINUX
def test_a_worker_has_nothing_of_the_environment() -> None:
    executor = MontyExecutor(memory_mb=78)
    seen: list[str] = []

    def look() -> None:
        folders = [Path(f"/proc/{pid}") for pid in workers_of(os.getpid())]
        workers = [folder for folder in folders if "monty" in (folder / "comm").read_text()]
        seen.extend((folder / "environ").read_text() for folder in workers)

    executor.send_tools({"look": look})
    executor("look()")
    assert seen
    assert not any(name in text for text in seen for name in ("PATH", "HOME"))


PROGRAM = """
import asyncio, sys
from manyhands.executors.monty import MontyExecutor
async def forever():
    print("waiting", flush=True)
    await asyncio.Event().wait()
async def main():
    executor = MontyExecutor()
    executor.send_tools({"forever": forever})
    await executor.acall("x = 1")
    if "wait" in sys.argv:
        await executor.acall("forever()")
asyncio.run(main())
"""


def test_a_program_that_cleans_nothing_up_ends_well() -> None:
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@LINUX
def test_workers_do_not_outlive_a_killed_program() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "wait"], stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "waiting\n"
        workers = workers_of(program.pid)
        program.kill()
    assert workers
    for pid in workers:
        while Path(f"/proc/{pid}/stat").exists() and ") Z " not in Path(f"/proc/{pid}/stat").read_text():
            os.sched_yield()


# --- What it holds off -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "open('/etc/passwd').read()",
        "open('/tmp/x', 'w').write('x')",
        "import pathlib\npathlib.Path('/etc/passwd').read_text()",
        "import os\nos.environ['PATH']",
        "import os\nos.getenv('PATH')",
        "import os\nos.listdir('/')",
        "import os\nos.system('true')",
        "import socket",
        "import ctypes",
        "import sys\nsys._getframe()",
        "().__class__.__base__.__subclasses__()",
        "(lambda: 0).__globals__",
        "__import__('os')",
    ],
)
async def test_nothing_of_the_host_is_in_reach(source: str) -> None:
    with pytest.raises(InterpreterError):
        await made().acall(source)


async def test_the_isolation_report_says_what_is_not_held() -> None:
    report = await MontyExecutor().isolation()
    assert report.wall == "monty"
    assert report.files.holds
    assert report.network.holds
    assert not report.syscalls.holds
    assert not report.complete


# --- Elsewhere -------------------------------------------------------------------------------------------


def both(**tools: Any) -> MontyExecutor:
    """An executor with another one behind it."""
    executor = MontyExecutor(["csv", "io", "copy", "types"], fallback="local", timeout_seconds=5)
    executor.send_tools({"double": double, "final_answer": lambda answer: answer, **tools})
    return executor


@pytest.mark.parametrize("source", PROGRAMS, ids=range(len(PROGRAMS)))
async def test_programs_run_here_or_elsewhere(source: str) -> None:
    await both().acall(source)


async def test_most_programs_run_without_another_executor() -> None:
    ran = 0
    for source in PROGRAMS:
        try:
            await made().acall(source)
            ran += 1
        except UnsupportedCodeError:
            pass
    assert ran > len(PROGRAMS) / 3


async def test_variables_and_functions_go_elsewhere_and_come_back() -> None:
    executor = both()
    await executor.acall("import math\nk = 3\ndef square(x): return x * x * math.floor(k)\ndata = [1]")
    source = "def squares(n):\n    for i in range(n): yield square(i) + double(1)\ndata.append(5)\n"
    result = await executor.acall(source + "out = list(squares(3))\nprint('there')\nout")
    assert (result.output, result.logs) == ([2, 5, 14], "there\n")
    assert await executor.avariables() == {"k": 3, "data": [1, 5], "out": [2, 5, 14]}
    assert (await executor.acall("sum(out) + len(data)")).output == 23


async def test_a_block_that_reads_what_is_only_elsewhere_runs_there() -> None:
    executor = both()
    await executor.acall("def count(n):\n    for i in range(n): yield i")
    assert (await executor.acall("list(count(3))")).output == [0, 1, 2]
    await executor.acall("count = 5")
    assert (await executor.acall("count")).output == 5


async def test_a_block_that_has_called_a_tool_is_not_run_again() -> None:
    calls: list[int] = []
    executor = both(note=calls.append)
    with pytest.raises(UnsupportedCodeError):
        await executor.acall("note(1)\nsorted(['B'], key=str.lower)")
    assert calls == [1]
    assert (await executor.acall("sorted(['B', 'a'], key=str.lower)")).output == ["a", "B"]


async def test_an_import_that_the_code_can_do_without_stays_here() -> None:
    source = "try:\n    import numpy\n    r = 'array'\nexcept ImportError:\n    r = 'list'\nr"
    assert (await made().acall(source)).output == "list"


async def test_what_could_not_be_carried_over_is_named() -> None:
    executor = both()
    await executor.acall("class A:\n    def __init__(self): self.v = 1\na = A()")
    with pytest.raises(InterpreterError, match=r"'a' could not be carried over(.|\n)*an object of class A"):
        await executor.acall("import statistics\na.v")


async def test_a_final_answer_and_errors_come_from_elsewhere_too() -> None:
    executor = both()
    result = await executor.acall("import statistics\nfinal_answer(statistics.mean([1, 2]))")
    assert (result.output, result.is_final_answer) == (1.5, True)
    with pytest.raises(InterpreterError, match="ZeroDivisionError"):
        await executor.acall("import statistics\nkept = 1\n1 / 0")
    assert (await executor.acall("kept")).output == 1


@LINUX
async def test_a_process_may_be_the_other_executor() -> None:
    executor = MontyExecutor(fallback="process", fallback_kwargs={"warm_workers": 0})
    assert executor.imports_anything
    executor.send_tools({"double": double})
    await executor.acall("k = 3\ndef times(x): return x * k")
    block = (
        "import statistics\ndef g(n):\n    for i in range(n): yield times(double(i))\nout = list(g(3))\nout"
    )
    assert (await executor.acall(block)).output == [0, 6, 12]
    assert (await executor.acall("sum(out)")).output == 18
    assert (await executor.acall("list(g(2)), statistics.mean(out)")).output == ([0, 6], 6)
    await executor.acleanup()


def test_another_executor_may_be_given_itself() -> None:
    executor = MontyExecutor(["numpy"], fallback=LocalPythonExecutor(["numpy"]))
    assert "numpy" in executor.authorized_imports
    assert executor("import numpy\nfloat(numpy.arange(3).sum())").output == 3.0


# --- Configuration ----------------------------------------------------------------------------------------


def test_additional_functions_are_called_like_tools() -> None:
    executor = MontyExecutor(additional_functions={"triple": lambda x: x * 3})
    assert executor("triple(4)").output == 12
    assert executor.spawn()("triple(5)").output == 15


def test_what_cannot_be_is_refused_at_once() -> None:
    with pytest.raises(CallerError, match="Monty cannot import 'pandas'.*fallback"):
        MontyExecutor(["pandas"])
    with pytest.raises(CallerError, match="timeout_seconds"):
        MontyExecutor(timeout_seconds=-1)
    with pytest.raises(CallerError, match="max_workers"):
        MontyExecutor(max_workers=0)
    with pytest.raises(CallerError, match="another executor"):
        MontyExecutor(fallback="monty")


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydantic_monty", None)
    with pytest.raises(MissingExtraError, match=r'pip install "manyhands\[monty\]"'):
        MontyExecutor()


# --- Agents ------------------------------------------------------------------------------------------------


@tool
async def look_up(city: str) -> int:
    """Look up how many people live in a city.

    Args:
        city: The city.
    """
    await asyncio.sleep(0)
    return {"Ulm": 129_000, "Bonn": 336_000}[city]


async def test_agents_run_their_code_in_monty() -> None:
    code = "sizes = parallel(look_up, ['Ulm', 'Bonn'])\nprint(sizes)"
    replies = [f"<code>\n{code}\n</code>", "<code>\nfinal_answer(sum(sizes))\n</code>"]
    agent = CodeAgent([look_up], ScriptedModel(replies * 20), executor=MontyExecutor(max_workers=1))
    async with agent:
        assert await agent.arun("How many?") == 465_000


async def test_a_managed_agent_is_called_from_monty() -> None:
    helper = CodeAgent(
        [],
        ScriptedModel(["<code>\nfinal_answer('found: ' + 'it')\n</code>"]),
        name="helper",
        description="Finds.",
    )
    boss = CodeAgent(
        [],
        ScriptedModel(["<code>\nfinal_answer(helper('find it'))\n</code>"]),
        managed_agents=[helper],
        executor=MontyExecutor(),
    )
    assert "found: it" in str(await boss.arun("Go"))


async def test_variables_live_on_in_a_conversation() -> None:
    replies = ["<code>\nx = 41\nfinal_answer(x)\n</code>", "<code>\nfinal_answer(x + 1)\n</code>"]
    async with CodeAgent([], ScriptedModel(replies), executor_type="monty") as agent:
        session = agent.session()
        assert await session.arun("First") == 41
        assert await session.arun("Second") == 42


async def test_the_model_is_told_which_modules_there_are() -> None:
    model = ScriptedModel(["<code>\nfinal_answer(1)\n</code>"])
    await CodeAgent([], model, executor_type="monty").arun("Go")
    told = model.calls[0].messages[0].text
    assert "hashlib, itertools, json" in told
    assert "statistics" not in told


async def test_calls_run_side_by_side_after_blocks_of_all_kinds() -> None:
    """Monty counts the sources it is given, and places are told by that count."""
    together = asyncio.Barrier(2)

    async def slow(x: int) -> int:
        async with asyncio.timeout(20):
            await together.wait()
        return x

    executor = made(slow=slow)
    for source in (
        "",
        "# a comment",
        "1 / 0",
        "def f():\n    yield 1",
        "import nothing",
        "x = = 1",
        "parallel(add, [1])",
    ):
        with suppress(InterpreterError):
            await executor.acall(source)
        block = "import asyncio\nawait asyncio.gather(slow(1), slow(2))"
        assert (await executor.acall(block)).output == [1, 2], source
    with pytest.raises(InterpreterError, match="at line '1 / 0' due to"):
        await executor.acall("x = 1\n1 / 0")


ODD = {
    "surrogates from a tool": "half()",
    "a list in itself": "a = [1]\na.append(a)\ngive(a)\na",
    "deep values": "x = []\nfor _ in range(5000): x = [x]\nx",
    "deep arguments": "x = []\nfor _ in range(5000): x = [x]\ngive(x)",
    "surrogates in prints": "print('\\ud800')",
    "odd keywords": "give(**{'a b': 1})",
    "wrong arguments": "give(1, 2, 3)",
    "endless recursion": "def f(): return f()\nf()",
    "huge numbers": "give(10 ** 5000)",
    "half of a literal": "1if 1else 2",
    "asserts": "assert 1 == 2, 'no'",
    "exits": "raise SystemExit",
}


@pytest.mark.parametrize("source", ODD.values(), ids=ODD.keys())
async def test_odd_code_ends_as_a_value_or_an_error_and_the_run_goes_on(source: str) -> None:
    executor = made(half=lambda: "a\ud800", give=lambda x: x)
    await executor.acall("kept = 7")
    with suppress(InterpreterError):
        await executor.acall(source)
    assert (await executor.acall("kept")).output == 7


async def test_an_endless_loop_of_tool_calls_ends() -> None:
    with pytest.raises(ExecutionTimeoutError):
        await made(timeout_seconds=0.1).acall("while True: double(0)")


#: Programs that do something else in Monty than in CPython, without a word; by a part of them.
QUIETLY_DIFFERENT = ("__slots__", "def __new__", "json.loads", "asyncio.run(", "await f()")


async def test_programs_do_what_they_do_in_cpython_or_say_what_is_missing() -> None:
    ran, wrong = 0, {}
    for source in CORPUS:
        expected = await asyncio.to_thread(in_cpython, source)
        executor = MontyExecutor()
        try:
            result = await executor.acall(source if ends_in_expression(source) else f"{source}\nNone")
        except InterpreterError:
            continue
        ran += 1
        got = ADDRESS.sub("0x", repr(result.output)), ADDRESS.sub("0x", result.logs), None
        if got != expected and not any(part in source for part in QUIETLY_DIFFERENT):
            wrong[source] = (expected, got)
    assert wrong == {}
    assert ran > len(CORPUS) / 4


async def test_attacks_get_nothing_of_the_host() -> None:
    canary = Canary()
    for source in [*ATTACKS, *PUBLISHED.values()]:
        executor = made(
            leak=canary.leak, failing=lambda: 1 / 0, host_module=lambda: None, secret=id, planted=id
        )
        with suppress(InterpreterError):
            assert (await executor.acall(source)).output is not PLANTED
        assert canary.found == [], source
