"""Code behind a wall means what it means in the local executor and in CPython."""

from __future__ import annotations

import asyncio
import contextvars
import time
from typing import TYPE_CHECKING, Any

import pytest

from manyhands.errors import InterpreterError

from ..local.corpus import PROGRAMS
from ..local.test_fidelity import _ADDRESS, in_cpython
from ..local.test_programs import PROGRAMS as WHOLE_PROGRAMS
from ..local.test_tools import ANYWHERE, ERRORS, FINAL, TOGETHER, add, double, slow

if TYPE_CHECKING:
    from manyhands.executors.isolated.executor import IsolatedExecutor

    from .conftest import MakeExecutor

TRACE: contextvars.ContextVar[str] = contextvars.ContextVar("trace", default="none")
_FORGET = "for _n in [n for n in globals() if not n.startswith('__')]: del globals()[_n]"


def armed(make: MakeExecutor, **tools: Any) -> IsolatedExecutor:
    executor = make()
    executor.send_tools(
        {"double": double, "add": add, "slow": slow, "final_answer": lambda answer: answer, **tools}
    )
    return executor


async def outcome(executor: IsolatedExecutor, source: str) -> tuple[str, str, str | None]:
    """Value, prints and error of a program, as the referee tells them."""
    await executor.acall(_FORGET)
    try:
        result = await executor.acall(source)
    except InterpreterError as error:
        text = str(error).split("due to: ", 1)[-1].split("\n(in ")[0]
        return "None", _ADDRESS.sub("0x", error.logs), text.split(". Did you mean")[0]
    return _ADDRESS.sub("0x", result.shown or ""), _ADDRESS.sub("0x", result.logs), None


async def test_programs_do_what_they_do_in_cpython(wall_executor: MakeExecutor) -> None:
    executor = wall_executor()
    wrong = {}
    for source in PROGRAMS:
        # What a sandbox shows of a value is its str; the referee gives its repr.
        expected = await asyncio.to_thread(in_cpython, source)
        value, logs, error = await outcome(executor, f"{source}\n")
        if (logs, error) != expected[1:] or (value != expected[0] and not expected[0].startswith(("'", '"'))):
            wrong[source] = (expected, (value, logs, error))
    assert wrong == {}


async def test_whole_programs_run_right(wall_executor: MakeExecutor) -> None:
    executor = wall_executor()
    for source in WHOLE_PROGRAMS:
        await executor.acall(_FORGET)
        await executor.acall(source)


async def test_a_tool_is_a_plain_function_anywhere(wall_executor: MakeExecutor) -> None:
    executor = armed(wall_executor)
    for source, expected in ANYWHERE.values():
        assert (await executor.acall(source)).output == expected, source


async def test_calls_run_side_by_side_however_the_code_says_it(wall_executor: MakeExecutor) -> None:
    under_way = wanted = 0
    all_here = asyncio.Event()

    async def slow(x: Any) -> Any:
        nonlocal under_way
        under_way += 1
        if under_way == wanted:
            all_here.set()
        async with asyncio.timeout(20):
            await all_here.wait()
        return x

    executor = armed(wall_executor, slow=slow)
    for name, source in TOGETHER.items():
        under_way, wanted = 0, 2 if name == "single names" else 6
        all_here.clear()
        assert (await executor.acall(source)).output == [0, 1, 2, 3, 4, 5], name


async def test_a_final_answer_ends_the_code(wall_executor: MakeExecutor) -> None:
    executor = armed(wall_executor)
    for name, source in FINAL.items():
        result = await executor.acall(source)
        assert (result.output, result.is_final_answer) == (42, True), name


LOCAL_RULES = {"import os", "from os import path", "().__subclasses__", "open('x')"}


async def test_errors_name_line_type_and_way_out(wall_executor: MakeExecutor) -> None:
    executor = armed(wall_executor)
    for source, text in ERRORS.items():
        if source in LOCAL_RULES:
            continue
        with pytest.raises(InterpreterError) as caught:
            await executor.acall(source)
        assert text in str(caught.value), source


# --- Tools -----------------------------------------------------------------------------------------


async def test_context_variables_reach_tools(wall_executor: MakeExecutor) -> None:
    async def traced() -> str:
        return TRACE.get()

    executor = armed(wall_executor, traced=traced, traced_sync=lambda: TRACE.get())
    token = TRACE.set("span")
    try:
        assert (await executor.acall("traced(), traced_sync()")).output == ("span", "span")
    finally:
        TRACE.reset(token)


async def test_objects_with_acall_are_tools(wall_executor: MakeExecutor) -> None:
    class Helper:
        async def acall(self, task: str) -> str:
            return f"done: {task}"

    executor = armed(wall_executor, helper=Helper())
    assert (await executor.acall("helper(task='x')")).output == "done: x"


async def test_errors_of_tools_can_be_caught_by_type_and_keep_their_cause(
    wall_executor: MakeExecutor,
) -> None:
    class QuotaError(KeyError):
        def __init__(self) -> None:
            super().__init__("quota")
            self.client = object()

    def bad() -> None:
        raise QuotaError

    executor = armed(wall_executor, bad=bad)
    source = (
        "try:\n    bad()\nexcept KeyError as e:\n    r = type(e).__name__, str(e), hasattr(e, 'client')\nr"
    )
    assert (await executor.acall(source)).output == ("QuotaError", "'quota'", False)
    with pytest.raises(InterpreterError, match="QuotaError: 'quota'") as caught:
        await executor.acall("bad()")
    assert isinstance(caught.value.__cause__, QuotaError)


async def test_one_failing_call_of_gather(wall_executor: MakeExecutor) -> None:
    executor = armed(wall_executor, bad=lambda: 1 / 0)
    source = (
        "import asyncio\nr = await asyncio.gather(slow(1), bad(), return_exceptions=True)\n"
        "[type(x).__name__ for x in r]"
    )
    assert (await executor.acall(source)).output == ["int", "ZeroDivisionError"]
    with pytest.raises(InterpreterError, match="ZeroDivisionError: division by zero"):
        await executor.acall("import asyncio\nawait asyncio.gather(slow(1), bad())")


async def test_a_timeout_in_the_code_cancels_the_tool(wall_executor: MakeExecutor) -> None:
    cancelled = asyncio.Event()

    async def stuck() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    source = (
        "import asyncio\ntry:\n    await asyncio.wait_for(stuck(), 0.01)\nexcept asyncio.TimeoutError:\n"
        "    r = 'late'\nr"
    )
    assert (await armed(wall_executor, stuck=stuck).acall(source)).output == "late"
    assert cancelled.is_set()


async def test_many_calls_at_once_all_come_back(wall_executor: MakeExecutor) -> None:
    executor = armed(wall_executor)
    assert (await executor.acall("parallel(double, range(1500))")).output == [2 * i for i in range(1500)]


async def test_threads_of_the_code_may_call_tools(wall_executor: MakeExecutor) -> None:
    source = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(8) as pool: r = list(pool.map(double, range(50)))\nr"
    )
    assert (await armed(wall_executor).acall(source)).output == [2 * i for i in range(50)]


async def test_a_tool_cannot_be_overwritten(wall_executor: MakeExecutor) -> None:
    executor = armed(wall_executor)
    for source in (
        "add = 1",
        "def add(): pass",
        "class add: pass",
        "import math as add",
        "for add in []: pass",
        "(add := 1)",
        "[add := 1 for _ in [1]]",
        "def f():\n    global add\n    add = 1",
        "a, add = 1, 2",
        "try:\n    pass\nexcept E as add: pass",
    ):
        with pytest.raises(InterpreterError, match="Cannot assign to name 'add'"):
            await executor.acall(source)
        assert (await executor.acall("add(1)")).output == 2
    await executor.acall("exec('add = 1')")
    assert (await executor.acall("add(1)")).output == 2


async def test_tools_may_change_from_step_to_step(wall_executor: MakeExecutor) -> None:
    executor = armed(wall_executor)
    assert (await executor.acall("add(1)")).output == 2
    executor.send_tools({"len": lambda x: "mine"})
    assert (await executor.acall("len([])")).output == "mine"
    executor.send_tools({})
    assert (await executor.acall("len([])")).output == 0
    with pytest.raises(InterpreterError, match="name 'add' is not defined"):
        await executor.acall("add(1)")


async def test_additional_functions_are_there_like_tools(wall_executor: MakeExecutor) -> None:
    executor = wall_executor(additional_functions={"triple": lambda x: x * 3})
    executor.send_tools({"add": add})
    assert (await executor.acall("triple(add(4))")).output == 15


# --- Values, variables, prints -----------------------------------------------------------------------


async def test_variables_live_from_step_to_step_and_not_beyond_the_run(wall_executor: MakeExecutor) -> None:
    executor = wall_executor()
    executor.send_variables({"data": [1, 2]})
    await executor.acall("data.append(3)\ndef f(): return data")
    assert (await executor.acall("f()")).output == [1, 2, 3]
    other = executor.spawn()
    with pytest.raises(InterpreterError, match="name 'data' is not defined"):
        await other.acall("data")
    await other.acleanup()


async def test_the_value_of_a_last_assignment(wall_executor: MakeExecutor) -> None:
    executor = wall_executor()
    assert (await executor.acall("x = 2 + 2")).output == 4
    assert (await executor.acall("if x: pass")).output is None


async def test_what_cannot_leave_says_so_by_name_and_place(wall_executor: MakeExecutor) -> None:
    executor = armed(wall_executor)
    with pytest.raises(
        InterpreterError, match=r"a value of type Plan at argument 0, \['a'\]\[1\] cannot leave"
    ):
        await executor.acall("class Plan: pass\nadd({'a': [1, Plan()]})")
    result = await executor.acall("Plan")
    assert str(result.output) == result.shown == "<class '__main__.Plan'>"


async def test_what_cannot_enter_says_so(wall_executor: MakeExecutor) -> None:
    executor = armed(wall_executor, connect=lambda: {"open": [object()]})
    with pytest.raises(
        InterpreterError, match=r"result of connect\(\).*type object at \['open'\]\[0\] cannot enter"
    ):
        await executor.acall("connect()")
    executor.send_variables({"lock": asyncio.Lock()})
    with pytest.raises(ValueError if False else Exception, match="variable 'lock'.*type Lock cannot enter"):
        await executor.acall("1")


async def test_what_subprocesses_and_c_code_print_is_printed(wall_executor: MakeExecutor) -> None:
    executor = wall_executor()
    source = (
        "import os, subprocess, sys\nprint('a')\nos.write(1, b'b\\n')\nsubprocess.run([sys.executable, '-c', "
        "\"print('c')\"])\nprint('d', file=sys.stderr)\nsys.stdout.buffer.write(b'e\\n')\ninput.__name__"
    )
    assert sorted((await executor.acall(source)).logs.split()) == ["a", "b", "c", "d", "e"]


async def test_stdin_is_empty(wall_executor: MakeExecutor) -> None:
    with pytest.raises(InterpreterError, match="EOFError"):
        await wall_executor().acall("input()")


async def test_prints_come_with_errors_and_long_ones_are_cut(wall_executor: MakeExecutor) -> None:
    executor = wall_executor(max_print_outputs_length=1000)
    with pytest.raises(InterpreterError) as caught:
        await executor.acall("print('before')\n1 / 0")
    assert caught.value.logs == "before\n"
    logs = (await executor.acall("for i in range(100_000): print('line', i)")).logs
    assert logs.startswith("line 0\n")
    assert logs.endswith("line 99999\n")
    assert "truncated to stay below 1000 characters" in logs
    assert len(logs) < 1300


async def test_prints_before_a_crash_are_there(wall_executor: MakeExecutor) -> None:
    executor = wall_executor()
    with pytest.raises(
        InterpreterError, match="exited with status 3.*variables of earlier steps are lost"
    ) as caught:
        await executor.acall("import os\nprint('one')\nprint('two')\nos._exit(3)")
    assert caught.value.logs == "one\ntwo\n"
    assert (await executor.acall("1 + 1")).output == 2


async def test_a_fork_of_the_code_says_nothing_twice(wall_executor: MakeExecutor) -> None:
    executor = armed(wall_executor)
    source = (
        "import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)\nprint('here')\n"
        "add(1) if pid else None\npid > 0"
    )
    result = await executor.acall(source)
    assert (result.output, sorted(result.logs.split())) == (True, ["here", "here"])
    assert (await executor.acall("add(2)")).output == 3


async def test_imports_can_be_restricted(wall_executor: MakeExecutor) -> None:
    free, held = (
        wall_executor(),
        wall_executor(restrict_imports=True, additional_authorized_imports=["os.path"]),
    )
    await free.acall("import os, subprocess")
    await held.acall("import math, os.path, collections.abc\nfrom datetime import date\ndate.today()")
    with pytest.raises(InterpreterError, match="Import of subprocess is not allowed. Authorized imports are"):
        await held.acall("import subprocess")


async def test_an_executor_runs_one_code_at_a_time(wall_executor: MakeExecutor) -> None:
    executor = armed(wall_executor)
    await executor.acall("1")
    task = asyncio.create_task(executor.acall("slow(1)"))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match=r"spawn\(\)"):
        await executor.acall("1")
    await task


def test_it_works_from_sync_code() -> None:
    from manyhands.executors.isolated.process import ProcessExecutor

    executor = ProcessExecutor(warm_workers=0)
    executor.send_tools({"add": add})
    assert executor("x = add(1)\nx").output == 2
    assert executor("x").output == 2
    executor.cleanup()


async def test_a_large_value_does_not_hold_up_the_loop(wall_executor: MakeExecutor) -> None:
    executor = armed(wall_executor, table=lambda: list(range(300_000)), count=len)
    await executor.acall("1")
    lags: list[float] = []

    async def tick() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            lags.append(time.perf_counter() - before)

    ticking = asyncio.create_task(tick())
    result = await executor.acall("t = table()\n(count(t), t)")
    ticking.cancel()
    assert result.output[0] == 300_000
    assert len(lags) > 5
