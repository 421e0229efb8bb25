"""Agents whose code runs behind a wall: many at once, in conversations and teams, gone without a trace."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from manyhands import ActionStep, CodeAgent, InterpreterError, PythonInterpreterTool, ToolCallingAgent, tool
from manyhands.executors.isolated.process import ProcessExecutor
from manyhands.testing import FunctionModel, ScriptedModel
from tests.agents.replies import calls, code, final

if TYPE_CHECKING:
    from .conftest import MakeExecutor

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are counted in /proc")


@tool
async def double(number: int) -> int:
    """Double a number.

    Args:
        number: The number.
    """
    return 2 * number


def steps_of(run: Any) -> list[Any]:
    return [step for step in run.memory.steps if isinstance(step, ActionStep)]


async def test_an_agent_runs_its_code_in_a_process_by_name() -> None:
    model = ScriptedModel([code("import os\nx = double(4)\nprint(os.getpid())"), code("final_answer(x + 1)")])
    async with CodeAgent(
        [double], model, executor_type="process", executor_kwargs={"memory_mb": 512}
    ) as agent:
        run = agent.arun("go")
        assert await run == 9
    assert str(os.getpid()) not in steps_of(run)[0].observations
    assert "any module" in str(model.calls[0].messages[0].content)


async def test_an_agent_shows_prints_and_errors_as_with_the_local_executor(
    wall_executor: MakeExecutor,
) -> None:
    replies = [code("print('seen')\n1 / 0"), code("[1, double(2)]"), code("final_answer('done')")]
    shown = []
    for executor in (None, wall_executor()):
        agent = CodeAgent([double], ScriptedModel(list(replies)), executor=executor)
        run = agent.arun("go")
        assert await run == "done"
        shown.append([(s.observations, str(s.error)) for s in steps_of(run)])
    assert shown[0] == shown[1]


async def test_variables_live_on_in_sessions_and_with_reset_false(wall_executor: MakeExecutor) -> None:
    replies = [code("x = 20\nfinal_answer(1)"), code("final_answer(x + 1)"), code("x = 5\nfinal_answer(x)")]
    agent = CodeAgent([], ScriptedModel([*replies, code("final_answer(x + 2)")]), executor=wall_executor())
    session = agent.session()
    assert await session.arun("one") == 1
    assert await session.arun("two") == 21
    assert await agent.arun("three") == 5
    assert await agent.arun("four", reset=False) == 7
    await agent.acleanup()


async def test_additional_arguments_are_variables(wall_executor: MakeExecutor) -> None:
    agent = CodeAgent([], ScriptedModel([code("final_answer(sum(data))")]), executor=wall_executor())
    assert await agent.arun("go", additional_args={"data": [1, 2, 3]}) == 6


async def test_an_argument_that_cannot_cross_ends_the_run_at_once(wall_executor: MakeExecutor) -> None:
    agent = CodeAgent([], ScriptedModel([code("1")] * 9), executor=wall_executor())
    run = agent.arun("go", additional_args={"lock": asyncio.Lock()})
    with pytest.raises(Exception, match="variable 'lock'.*type Lock"):
        await run
    assert run.step_number == 1


async def test_managed_agents_work_from_behind_the_wall(wall_executor: MakeExecutor) -> None:
    helper = CodeAgent(
        [double], ScriptedModel([code("final_answer(double(21))")]), name="helper", description="Helps."
    )
    model = ScriptedModel([code("answer = helper(task='double 21')\nfinal_answer('42' in answer)")])
    agent = CodeAgent([], model, managed_agents=[helper], executor=wall_executor())
    assert await agent.arun("go") is True


async def test_the_interpreter_tool_runs_behind_the_wall(wall_executor: MakeExecutor) -> None:
    interpreter = PythonInterpreterTool(executor=wall_executor())
    model = ScriptedModel(
        [calls(("python_interpreter", {"code": "import os\nprint('hi')\n6 * 7"})), final("ok")]
    )
    run = ToolCallingAgent([interpreter], model).arun("go")
    assert await run == "ok"
    assert "Stdout:\nhi\n\nOutput: 42" in steps_of(run)[0].observations
    with pytest.raises(InterpreterError, match="Stdout until then:\na"):
        await interpreter.acall("print('a')\n1 / 0")


async def test_a_hundred_agents_share_eight_guests_and_lose_nothing() -> None:
    def reply(messages: Any) -> Any:
        number = int(str(messages[1].content).rsplit("number ", 1)[1].split()[0].strip("'\"}],"))
        if len(messages) < 4:
            return code(f"x = double({number})\nprint('step', x)")
        return code("final_answer(x)")

    executor = ProcessExecutor(max_workers=8, warm_workers=1)
    agent = CodeAgent([double], FunctionModel(reply), executor=executor)
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, executor._pool.slots.held)
            await asyncio.sleep(0.005)

    watching = asyncio.create_task(watch())
    answers = await asyncio.gather(*[agent.arun(f"Double the number {n}") for n in range(100)])
    watching.cancel()
    assert answers == [2 * n for n in range(100)]
    assert most == 8
    await agent.acleanup()
    assert executor._pool.slots.held == 0


async def test_a_parked_guest_makes_room_for_a_run_that_waits(wall_executor: MakeExecutor) -> None:
    first = wall_executor(max_workers=1)
    second = first.spawn()
    await first.acall("x = 1")
    waiting = asyncio.create_task(second.acall("2"))
    await asyncio.sleep(0)
    assert not waiting.done()
    await first.aend_run()
    assert (await waiting).output == 2
    await second.aend_run()
    with pytest.raises(InterpreterError, match="name 'x' is not defined") as caught:
        await first.acall("x")
    assert "earlier steps are gone" in caught.value.logs
    await second.acleanup()


async def test_variables_that_were_sent_are_there_again_after_a_loss(wall_executor: MakeExecutor) -> None:
    executor = wall_executor()
    executor.send_variables({"given": 3})
    with pytest.raises(InterpreterError, match="status 1"):
        await executor.acall("import os\nos._exit(1)")
    assert (await executor.acall("given")).output == 3


async def test_warm_guests_are_ready_when_a_run_asks() -> None:
    executor = ProcessExecutor(warm_workers=2)
    await executor.prepare()
    start = time.perf_counter()
    lease = await executor._pool.lease()
    assert time.perf_counter() - start < 0.1
    await lease.aclose()
    await executor.acleanup()


# --- Nothing is left behind ----------------------------------------------------------------------------


def descendants(parent: int) -> set[int]:
    """Processes below ``parent`` now."""
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            below.setdefault(int(fields[1]), []).append(int(entry.name))
    found: set[int] = set()
    open_parents = [parent]
    while open_parents:
        children = below.get(open_parents.pop(), [])
        found.update(children)
        open_parents.extend(children)
    return found


def until(condition: Any, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def leftovers() -> set[Path]:
    return set(Path(os.environ.get("TMPDIR", "/tmp")).glob("manyhands-*"))


@linux
async def test_an_executor_that_is_dropped_takes_its_guest_along() -> None:
    before = await asyncio.to_thread(descendants, os.getpid())
    executor = ProcessExecutor(warm_workers=0)
    await executor.acall("1")
    slots = executor._pool.slots
    mine = await asyncio.to_thread(descendants, os.getpid()) - before
    assert mine
    del executor
    gc.collect()
    assert slots.held == 0
    assert await asyncio.to_thread(until, lambda: not mine & descendants(os.getpid()))


@linux
@pytest.mark.parametrize("end", ["kill", "exit", "asyncio.run", "sync"])
def test_a_program_that_ends_leaves_nothing_behind(end: str) -> None:
    before = leftovers()
    program = f"""
import asyncio, json, os, sys
from manyhands.executors.isolated.process import ProcessExecutor
CODE = "import subprocess; p = subprocess.Popen(['sleep', '1000'])"
executors = [ProcessExecutor(warm_workers=1) for _ in range(2)]
async def main():
    for executor in executors: await executor.acall(CODE)
    print("ready", flush=True)
    if {end!r} == "kill": await asyncio.sleep(1000)
    if {end!r} == "exit": os._exit(0)
if {end!r} == "sync":
    for executor in executors: executor(CODE)
    print("ready", flush=True)
    sys.stdin.read()
else:
    asyncio.run(main())
    sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None and process.stderr is not None and process.stdin is not None
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        below = descendants(process.pid)
        if end == "kill":
            assert len(below) >= 6  # watcher, guest and what it has started, twice
            os.kill(process.pid, signal.SIGKILL)
        process.stdin.close()
        errors = process.stderr.read()
        process.wait()
    assert until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below))
    assert until(lambda: leftovers() <= before)
    assert errors == ""


def test_json_is_what_agents_get(tmp_path: Path) -> None:
    """The same from sync code, in one process after another."""
    agent = CodeAgent(
        [double], ScriptedModel([code("final_answer({'n': double(3)})")] * 2), executor_type="process"
    )
    with agent:
        assert [json.dumps(agent.run("go")) for _ in range(2)] == ['{"n": 6}'] * 2
