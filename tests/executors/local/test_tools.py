"""Tools, final answers, results and errors, seen from both sides."""

from __future__ import annotations

import asyncio
import contextvars
import enum
import os
import subprocess
import threading
import time
from typing import Any

import pytest

from manyhands.errors import InterpreterError
from manyhands.executors.local import LocalPythonExecutor, evaluate_python_code

TRACE: contextvars.ContextVar[str] = contextvars.ContextVar("trace", default="none")


async def double(x: Any) -> Any:
    """An async tool."""
    await asyncio.sleep(0)
    return x * 2


def add(a: int, b: int = 1) -> int:
    """A sync tool."""
    return a + b


async def slow(x: Any) -> Any:
    """Waits long enough that calls one after the other would show."""
    await asyncio.sleep(0.1)
    return x


def made(**tools: Any) -> LocalPythonExecutor:
    """An executor with tools."""
    executor = LocalPythonExecutor(timeout_seconds=5)
    executor.send_tools(
        {"double": double, "add": add, "slow": slow, "final_answer": lambda answer: answer, **tools}
    )
    return executor


ANYWHERE = {
    "operator": ("double(1) + double(2) * 3", 14),
    "comparison": ("1 < double(1) < 3", True),
    "condition": ("'yes' if double(1) == 2 else 'no'", "yes"),
    "comprehension": ("[double(x) for x in range(3) if double(x)]", [2, 4]),
    "dict comprehension": ("{x: add(x) for x in range(2)}", {0: 1, 1: 2}),
    "generator": ("sum(double(x) for x in range(3))", 6),
    "f-string": ("f'{double(2)} {add(1, b=3)!r}'", "4 4"),
    "sort key": ("sorted([3, 1, 2], key=lambda x: -double(x))", [3, 2, 1]),
    "map": ("list(map(double, [1, 2]))", [2, 4]),
    "default argument": ("def f(x=double(4)): return x\nf()", 8),
    "decorator": (
        "def deco(f):\n    y = double(1)\n    return lambda: f() + y\n@deco\ndef g(): return 1\ng()",
        3,
    ),
    "method": ("class A:\n    def m(self): return double(5)\nA().m()", 10),
    "dunder method": ("class A:\n    def __len__(self): return double(2)\nlen(A())", 4),
    "property": ("class A:\n    @property\n    def p(self): return double(3)\nA().p", 6),
    "class body": ("class A:\n    x = double(3)\nA.x", 6),
    "yield": ("def g():\n    for i in range(2): yield double(i)\nlist(g())", [0, 2]),
    "nested": ("def a():\n    def b(): return double(1)\n    return b()\na()", 2),
    "with": (
        "class C:\n    def __enter__(self): return double(2)\n    def __exit__(self, *a): double(1)\n"
        "with C() as c: pass\nc",
        4,
    ),
    "except": ("try:\n    1 / 0\nexcept ZeroDivisionError:\n    r = double(3)\nr", 6),
    "walrus": ("(y := double(2)) + y", 8),
    "match": ("match double(1):\n    case 2: r = 'two'\nr", "two"),
    "await": ("await double(2)", 4),
    "await in async def": ("async def f(): return await double(2) + await add(1)\nawait f()", 6),
    "assert": ("assert double(1) == 2\n5", 5),
    "slice": ("[1, 2, 3][:double(1)]", [1, 2]),
    "keyword arguments": ("add(**{'a': double(1), 'b': 3})", 5),
    "lambda": ("(lambda: double(7))()", 14),
    "reduce": ("from functools import reduce\nreduce(lambda a, b: add(a, b), [1, 2, 3])", 6),
    "regex callback": ("import re\nre.sub('[0-9]', lambda m: str(double(int(m.group()))), 'a1b2')", "a2b4"),
}


@pytest.mark.parametrize(("source", "expected"), ANYWHERE.values(), ids=ANYWHERE.keys())
async def test_a_tool_is_a_plain_function_anywhere(source: str, expected: Any) -> None:
    """On the loop."""
    assert (await made().acall(source)).output == expected


@pytest.mark.parametrize(("source", "expected"), ANYWHERE.values(), ids=ANYWHERE.keys())
def test_a_tool_is_a_plain_function_from_sync_code(source: str, expected: Any) -> None:
    """Without a loop."""
    assert made()(source).output == expected


TOGETHER = {
    "gather of a list": "import asyncio\nawait asyncio.gather(*[slow(i) for i in range(6)])",
    "gather of a generator": "import asyncio\nlist(await asyncio.gather(*(slow(i) for i in range(6))))",
    "gather of a variable": "import asyncio\ntasks = [slow(i) for i in range(6)]\nawait "
    "asyncio.gather(*tasks)",
    "append": (
        "import asyncio\ntasks = []\nfor i in range(6):\n    tasks.append(slow(i))\nprint(len(tasks))\n"
        "await asyncio.gather(*tasks)"
    ),
    "single names": "import asyncio\na = slow(0)\nb = slow(1)\n(await asyncio.gather(a, b)) + [2, 3, 4, 5]",
    "written out": "import asyncio\nawait asyncio.gather(slow(0), slow(1), slow(2),"
    " slow(3), slow(4), slow(5))",
    "create_task": (
        "import asyncio\nts = [asyncio.create_task(slow(i)) for i in range(6)]\n[await t for t in ts]"
    ),
    "task group": (
        "import asyncio\nasync def main():\n    async with asyncio.TaskGroup() as tg:\n"
        "        ts = [tg.create_task(slow(i)) for i in range(6)]\n    return [t.result() for t in ts]\n"
        "asyncio.run(main())"
    ),
    "coroutines": (
        "import asyncio\nasync def one(i): return await slow(i)\nasync def main():\n"
        "    return await asyncio.gather(*[one(i) for i in range(6)])\nasyncio.run(main())"
    ),
    "to_thread": "import asyncio\nawait asyncio.gather(*[asyncio.to_thread(slow, i) for i in range(6)])",
    "parallel": "parallel(slow, range(6))",
    "parallel function": "parallel(lambda i: slow(i), range(6))",
    "wait": "import asyncio\ndone, _ = await asyncio.wait([slow(i) for i in range(6)])\n"
    "sorted(t.result() for t in done)",
    "as_completed": "import asyncio\nsorted([await f for f in asyncio.as_completed([slow(i) "
    "for i in range(6)])])",
    "loop": "import asyncio\nasyncio.get_event_loop().run_until_complete(asyncio.gather(*[slow(i) "
    "for i in range(6)]))",
}


@pytest.mark.parametrize("source", TOGETHER.values(), ids=TOGETHER.keys())
async def test_calls_run_side_by_side(source: str) -> None:
    """However the code says it."""
    start = time.perf_counter()
    assert (await made().acall(source)).output == [0, 1, 2, 3, 4, 5]
    assert time.perf_counter() - start < 0.35


async def test_one_failing_call_of_gather() -> None:
    """``return_exceptions`` gives the error in its place; without it the error is raised."""
    executor = made(bad=lambda: 1 / 0)
    source = (
        "import asyncio\nr = await asyncio.gather(slow(1), bad(), return_exceptions=True)\n"
        "[type(x).__name__ for x in r]"
    )
    assert (await executor.acall(source)).output == ["int", "ZeroDivisionError"]
    with pytest.raises(InterpreterError, match="ZeroDivisionError: division by zero"):
        await executor.acall("import asyncio\nawait asyncio.gather(slow(1), bad())")


async def test_wait_for_a_tool() -> None:
    """A timeout in the code cancels the tool."""
    source = (
        "import asyncio\ntry:\n    await asyncio.wait_for(slow(1), 0.01)\nexcept "
        "asyncio.TimeoutError:\n    r = 'late'\nr"
    )
    assert (await made().acall(source)).output == "late"


async def test_a_blocking_tool_blocks_its_own_run_only() -> None:
    """On the loop a sync tool works in a thread."""

    def block() -> bool:
        time.sleep(0.2)
        return threading.current_thread() is threading.main_thread()

    executors = [made(block=block) for _ in range(3)]
    start = time.perf_counter()
    results = await asyncio.gather(*[executor.acall("block()") for executor in executors])
    assert [r.output for r in results] == [False] * 3
    assert time.perf_counter() - start < 0.5


def test_a_sync_tool_runs_in_the_thread_of_its_caller() -> None:
    """Without a loop a sync tool runs where the caller is."""
    executor = made(where=threading.get_ident)
    assert executor("where()").output == threading.get_ident()


async def test_context_variables_reach_tools() -> None:
    """Tracing works."""

    async def traced() -> str:
        return TRACE.get()

    executor = made(traced=traced, traced_sync=lambda: TRACE.get())
    token = TRACE.set("span")
    try:
        assert (await executor.acall("traced(), traced_sync()")).output == ("span", "span")
    finally:
        TRACE.reset(token)


async def test_objects_with_acall_are_tools() -> None:
    """Tools and managed agents of the framework are awaited through ``acall``."""

    class Agent:
        async def acall(self, task: str) -> str:
            await asyncio.sleep(0)
            return f"done: {task}"

    assert (await made(helper=Agent()).acall("helper(task='x')")).output == "done: x"


FINAL = {
    "plain": "final_answer(42)\nwhile True: pass",
    "bare except": "try:\n    final_answer(42)\nexcept:\n    final_answer(0)",
    "base exception": "try:\n    final_answer(42)\nexcept BaseException as e:\n    print(e)\nfinal_answer(0)",
    "finally": "try:\n    final_answer(42)\nfinally:\n    final_answer(0)",
    "finally return": "def f():\n    try:\n        final_answer(42)\n    finally:\n        return 1\nf()\n"
    "final_answer(0)",
    "in function": "def f():\n    for i in range(3):\n        final_answer(42)\nf()",
    "in lambda": "sorted([1, 2], key=lambda x: final_answer(42))",
    "in generator": "list(final_answer(42) for _ in range(2))",
    "in task": (
        "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    final_answer(42)\n"
        "async def g(): await asyncio.sleep(10)\nasyncio.run(asyncio.wait([f(), g()]))"
    ),
    "suppress": "import contextlib\nwith contextlib.suppress(BaseException):\n    final_answer(42)\n"
    "final_answer(0)",
    "exit": "class C:\n    def __enter__(self): pass\n    def __exit__(self, *a): return True\nwith C():\n"
    "    final_answer(42)\nfinal_answer(0)",
    "in exec": "exec('final_answer(42)')",
    "in eval": "eval('final_answer(42)')",
    "keyword": "final_answer(answer=42)",
    "in del": "class C:\n    def __del__(self): final_answer(42)\nc = C()\ndel c\nx = "
    "[1 for _ in range(3)]\nfor i in x: pass\n",
}


@pytest.mark.parametrize("source", FINAL.values(), ids=FINAL.keys())
async def test_a_final_answer_ends_the_code(source: str) -> None:
    """From anywhere, and nothing in the code can keep it."""
    result = await made().acall(source)
    assert result.is_final_answer
    assert result.output == 42


async def test_an_async_final_answer_with_arguments_of_its_own() -> None:
    """``final_answer`` is a tool like others."""

    async def final_answer(text: str, score: float = 0.5) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"text": text, "score": score}

    result = await made(final_answer=final_answer).acall("print('p')\nfinal_answer('a', score=1.0)")
    assert (result.output, result.is_final_answer, result.logs) == ({"text": "a", "score": 1.0}, True, "p\n")


async def test_final_answer_that_fails_is_an_error() -> None:
    """Its error can be caught like another's."""
    executor = made(final_answer=lambda x: 1 / 0)
    with pytest.raises(InterpreterError, match="ZeroDivisionError"):
        await executor.acall("final_answer(1)")


@pytest.mark.parametrize(
    "source",
    [
        "add = 1",
        "def add(): pass",
        "class add: pass",
        "import math as add",
        "for add in []: pass",
        "(add := 1)",
        "[add := 1 for _ in [1]]",
        "def f():\n    global add\n    add = 1",
        "add += 1",
        "a, add = 1, 2",
        "with x as add: pass",
        "try:\n    pass\nexcept E as add: pass",
        "exec('add = 1')",
        "from math import pi as add",
    ],
)
async def test_a_tool_cannot_be_overwritten(source: str) -> None:
    """The error names the tool; afterwards it still works."""
    executor = made()
    with pytest.raises(InterpreterError, match="add"):
        await executor.acall(source)
    assert (await executor.acall("add(1)")).output == 2


async def test_builtins_may_be_shadowed() -> None:
    """``list = [1]`` is the code's own affair, and lasts for its run only."""
    executor = made()
    await executor.acall("list = [1]\nsum = 3\ndef len(x): return 7")
    assert (await executor.acall("list, sum, len([])")).output == ([1], 3, 7)
    assert (await executor.spawn().acall("len(list((1, 2)))")).output == 2


async def test_arguments_arrive_as_plain_values() -> None:
    """Objects of subclasses of ``str`` and ``int`` do not reach tools."""
    seen: list[Any] = []
    executor = made(take=lambda *a, **k: seen.extend([*a, *k.values()]))
    await executor.acall(
        "class S(str): pass\nclass I(int): pass\nfrom enum import Enum\nclass E(str, Enum):\n    A = 'a'\n"
        "take(S('x'), I(3), [S('y')], {S('k'): I(1)}, k=(S('z'),), e=E.A)"
    )
    assert seen == ["x", 3, ["y"], {"k": 1}, ("z",), "a"]
    assert [type(v) for v in seen] == [str, int, list, dict, tuple, str]
    assert type(seen[2][0]) is str
    assert not isinstance(seen[5], enum.Enum)


async def test_errors_of_tools_can_be_caught_by_type() -> None:
    """The type and text stay, what else the error held does not."""

    class QuotaError(KeyError):
        def __init__(self) -> None:
            super().__init__("quota")
            self.client = object()

    def bad() -> None:
        raise QuotaError

    source = (
        "try:\n    bad()\nexcept KeyError as e:\n    r = (type(e).__name__, str(e), hasattr(e, 'client'))\nr"
    )
    assert (await made(bad=bad).acall(source)).output == ("QuotaError", "'quota'", False)
    with pytest.raises(InterpreterError, match="QuotaError: 'quota'") as caught:
        await made(bad=bad).acall("bad()")
    assert isinstance(caught.value.__cause__, QuotaError)


# --- results, prints, state ----------------------------------------------------------------------


async def test_variables_live_from_step_to_step_and_not_beyond_the_run() -> None:
    """Steps of a run share variables; runs do not."""
    executor = made()
    await executor.acall("x = 1\ndef f(): return x")
    assert (await executor.acall("x = 5\nf()")).output == 5
    with pytest.raises(InterpreterError, match="name 'x' is not defined"):
        await executor.spawn().acall("x")


async def test_variables_can_be_sent() -> None:
    """``send_variables`` and ``state`` are the code's variables."""
    executor = made()
    executor.send_variables({"data": [1, 2]})
    assert (await executor.acall("data.append(3)\ntotal = sum(data)\ntotal")).output == 6
    assert executor.state["total"] == 6


async def test_the_value_of_a_last_assignment() -> None:
    """As smolagents does it."""
    assert (await made().acall("x = 2 + 2")).output == 4
    assert (await made().acall("x = 2\nif x: pass")).output is None


async def test_prints_of_concurrent_runs_do_not_mix() -> None:
    """Each run has its own prints."""
    sources = [f"for i in range(50):\n    print({k})\n    if i % 10 == 0: slow(1)" for k in range(5)]
    results = await asyncio.gather(*[made().acall(s) for s in sources])
    assert [set(r.logs.split()) for r in results] == [{str(k)} for k in range(5)]


async def test_long_prints_are_cut_in_the_middle_in_linear_time() -> None:
    """The beginning and the end are kept."""
    executor = LocalPythonExecutor(max_print_outputs_length=1000)
    start = time.perf_counter()
    result = await executor.acall("for i in range(100_000): print('line', i)")
    assert time.perf_counter() - start < 3
    assert result.logs.startswith("line 0\n")
    assert result.logs.endswith("line 99999\n")
    assert "truncated to stay below 1000 characters" in result.logs
    assert len(result.logs) < 1200


async def test_prints_survive_an_error() -> None:
    """They come with the error."""
    with pytest.raises(InterpreterError) as caught:
        await made().acall("print('before')\n1 / 0")
    assert caught.value.logs == "before\n"


async def test_additional_functions() -> None:
    """Functions given to the constructor are there like builtins."""
    executor = LocalPythonExecutor([], additional_functions={"triple": lambda x: x * 3})
    assert (await executor.acall("triple(4)")).output == 12


async def test_async_call_is_acall() -> None:
    """Both names."""
    assert (await made().async_call("1 + 1")).output == 2


async def test_an_executor_runs_one_code_at_a_time() -> None:
    """Using one for two runs at once is a mistake that is told."""
    executor = made()
    task = asyncio.create_task(executor.acall("slow(1)"))
    await asyncio.sleep(0.01)
    with pytest.raises(RuntimeError, match=r"spawn\(\)"):
        await executor.acall("1")
    await task


# --- errors ---------------------------------------------------------------------------------------

ERRORS = {
    "1 / 0": "Code execution failed at line '1 / 0' due to: ZeroDivisionError: division by zero",
    "x = 1\ny = x + nam": "Code execution failed at line 'y = x + nam' due to: NameError: "
    "name 'nam' is not defined",
    "value_one = 1\nvalue_on + 1": "Did you mean: 'value_one'?",
    "slwo(1)": "Did you mean: 'slow'?",
    "d = {'apple': 1}\nd['aple']": "KeyError: 'aple'. Did you mean: 'apple'?",
    "'x'.uper()": "Did you mean: 'upper'?",
    "import os": "Import of os is not allowed. Authorized imports are: ['collections', 'datetime'",
    "from os import path": "Import of os is not allowed",
    "x = = 1": "SyntaxError: invalid syntax\nx = = 1\n    ^",
    "().__subclasses__": "InterpreterError: Forbidden access to dunder attribute: __subclasses__",
    "def f():\n    return 1 / 0\nf()": "at line 'f()' due to: ZeroDivisionError: division by zero\n"
    "(in f, line 2: 'return 1 / 0')",
    "open('x')": "Forbidden function: open",
    "raise SystemExit(1)": "SystemExit: 1",
    "raise KeyboardInterrupt": "KeyboardInterrupt",
    "raise BaseException('b')": "BaseException: b",
    "raise GeneratorExit": "GeneratorExit",
    "exit()": "SystemExit",
    "class E(BaseException): pass\nraise E('own')": "E: own",
    "def f():\n  x = 1\n yield x": "IndentationError",
    "return 5": "SyntaxError: 'return' outside function",
    "for i in range(3):\n    for j in range(3):\n        k = i / j": "at line 'k = i / j'",
}


@pytest.mark.parametrize(("source", "text"), ERRORS.items(), ids=range(len(ERRORS)))
async def test_errors_name_line_type_and_way_out(source: str, text: str) -> None:
    """What a model needs to repair its code."""
    with pytest.raises(InterpreterError) as caught:
        await made().acall(source)
    assert text in str(caught.value)


def test_evaluate_python_code() -> None:
    """The function that users of smolagents know."""
    state: dict[str, Any] = {"x": 2}
    assert evaluate_python_code("print('p')\ny = add(x)\ny", {"add": add}, state=state) == (3, False)
    assert state["y"] == 3
    assert state["_print_outputs"] == "p\n"
    assert evaluate_python_code("final_answer(1)", {"final_answer": lambda x: x}) == (1, True)
    with pytest.raises(InterpreterError, match="not allowed"):
        evaluate_python_code("import json", authorized_imports=["math"]) if False else evaluate_python_code(
            "import os"
        )


class Client:
    """An object of the host that a tool returns, with modules where its users find them."""

    os = os
    alias = subprocess
    code = 7

    def system(self) -> str:
        """A method that has the name of a dangerous one."""
        return "own"


@pytest.mark.parametrize(
    "source",
    [
        "client().os",
        "client().os.getcwd()",
        "getattr(client(), 'os')",
        "client().alias.Popen('true')",
        "client().alias.os",
        "[c.os for c in [client()]]",
        "from operator import attrgetter\nattrgetter('os.path')(client())",
        "match client():\n    case object(os=found): found.getcwd()",
    ],
)
def test_modules_of_the_host_stay_behind_the_objects_that_tools_return(source: str) -> None:
    executor = LocalPythonExecutor(["operator"])
    executor.send_tools({"client": Client})
    with pytest.raises(InterpreterError):
        executor(source)


def test_names_that_modules_have_too_are_free_for_others() -> None:
    executor = made(client=Client)
    assert executor("(client().code, client().system())").output == (7, "own")
    own = "class Own:\n    def __init__(self):\n        self.os = 'linux'\n        self.code = 1\n"
    assert executor(own + "Own().os, Own().code").output == ("linux", 1)
