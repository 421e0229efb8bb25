"""Limits and cancellation are real: code ends when told, or its guest does."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from manyhands.errors import ExecutionTimeoutError, InterpreterError

from ..local.test_time import ENDLESS

if TYPE_CHECKING:
    from .conftest import MakeExecutor


async def test_endless_code_ends_at_its_limit(wall_executor: MakeExecutor) -> None:
    base = wall_executor(timeout_seconds=0.15, grace_seconds=0.1, max_workers=4)

    async def ends(source: str) -> bool:
        executor = base.spawn()
        try:
            await executor.acall(source)
        except ExecutionTimeoutError as error:
            return "exceeded the maximum execution time of 0.15 seconds" in str(error)
        finally:
            await executor.acleanup()
        return False

    async with asyncio.timeout(100):
        ended = await asyncio.gather(*map(ends, ENDLESS.values()))
    assert [name for name, fine in zip(ENDLESS, ended, strict=True) if not fine] == []


async def test_endless_code_ends_when_cancelled_and_variables_stay(wall_executor: MakeExecutor) -> None:
    executor = wall_executor(grace_seconds=5)
    await executor.acall("x = 7")
    for source in (
        "while True: pass",
        "import time\ntime.sleep(1000)",
        "import asyncio\nawait asyncio.Event().wait()",
    ):
        reached = asyncio.Event()
        executor.send_tools({"reached": reached.set})
        task = asyncio.create_task(executor.acall(f"reached()\n{source}"))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await executor.acall("x")).output == 7


async def test_variables_stay_after_a_timeout_that_the_code_obeys(wall_executor: MakeExecutor) -> None:
    executor = wall_executor(timeout_seconds=0.2, grace_seconds=5)
    await executor.acall("x = 7")
    with pytest.raises(ExecutionTimeoutError) as caught:
        await executor.acall("print('so far')\nwhile True: pass")
    assert caught.value.logs == "so far\n"
    assert "lost" not in str(caught.value)
    assert (await executor.acall("x")).output == 7


# One call of C hears no signal.
DISOBEDIENT = "print('so far')\nsum(range(10 ** 13))"


async def test_code_that_does_not_obey_costs_the_variables_and_says_so(wall_executor: MakeExecutor) -> None:
    executor = wall_executor(timeout_seconds=0.5, grace_seconds=0.1)
    await executor.acall("x = 7")
    with pytest.raises(ExecutionTimeoutError, match="variables of earlier steps are lost") as caught:
        await executor.acall(DISOBEDIENT)
    assert caught.value.logs == "so far\n"
    executor.timeout_seconds = 20
    with pytest.raises(InterpreterError, match="name 'x' is not defined"):
        await executor.acall("x")


async def test_threads_that_run_on_end_with_the_guest(wall_executor: MakeExecutor) -> None:
    executor = wall_executor(timeout_seconds=0.5, grace_seconds=5)
    source = (
        "import threading\ndef spin():\n    while True: pass\n"
        "t = threading.Thread(target=spin)\nt.start()\nt.join()"
    )
    with pytest.raises(ExecutionTimeoutError, match="are lost"):
        await executor.acall(source)


async def test_waiting_for_a_tool_is_not_code_time(wall_executor: MakeExecutor) -> None:
    executor = wall_executor(timeout_seconds=0.4)
    await executor.acall("1")

    async def slow() -> str:
        await asyncio.sleep(0.8)
        return "done"

    executor.send_tools({"slow": slow})
    assert (await executor.acall("slow()")).output == "done"


async def test_cancelling_reaches_the_tool_and_code_does_not_go_on(wall_executor: MakeExecutor) -> None:
    seen: list[object] = []
    waiting = asyncio.Event()

    async def slow() -> None:
        waiting.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    executor = wall_executor(grace_seconds=5)
    executor.send_tools({"slow": slow, "note": seen.append})
    task = asyncio.create_task(
        executor.acall("try:\n    slow()\nexcept BaseException:\n    note(1)\nfinally:\n    note(2)")
    )
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cancelled"]


async def test_a_final_answer_is_given_though_the_code_runs_on(wall_executor: MakeExecutor) -> None:
    executor = wall_executor(grace_seconds=0.1)
    executor.send_tools({"final_answer": lambda x: x})
    result = await executor.acall(f"try:\n    final_answer('yes')\nexcept BaseException: pass\n{DISOBEDIENT}")
    assert (result.output, result.is_final_answer, result.logs) == ("yes", True, "")
    assert (await executor.acall("2")).output == 2


async def test_nothing_is_left_behind_on_the_loop(wall_executor: MakeExecutor) -> None:
    executor = wall_executor(timeout_seconds=0.3, grace_seconds=0.1)
    await executor.acall("1")
    before = asyncio.all_tasks()
    for source in ("x = 1", "1 / 0", DISOBEDIENT):
        with contextlib.suppress(InterpreterError):
            await executor.acall(source)
    assert asyncio.all_tasks() <= before


# --- Bombs -------------------------------------------------------------------------------------------


async def test_a_memory_bomb_is_an_error_that_names_the_limit(wall_executor: MakeExecutor) -> None:
    executor = wall_executor(memory_mb=256)
    with pytest.raises(InterpreterError, match=r"(?i)memory.*\b256 ?MB"):
        await executor.acall("x = []\nwhile True: x.append('a' * 10_000_000)")
    with pytest.raises(InterpreterError, match=r"(?i)memory.*\b256 ?MB"):
        await executor.acall("x = []\nwhile True: x.append(x[-20:])")
    assert (await executor.acall("1")).output == 1


async def test_processes_together_may_not_take_more_than_one_may(wall_executor: MakeExecutor) -> None:
    executor = wall_executor(memory_mb=256)
    source = (
        "import os, time\nfor _ in range(8):\n    if not os.fork():\n        x = os.urandom(100_000_000)\n"
        "        time.sleep(60)\ntime.sleep(60)"
    )
    with pytest.raises(InterpreterError, match=r"(?i)memory.*\b256 ?MB"):
        await executor.acall(source)


async def test_a_fork_bomb_ends_with_its_guest(wall_executor: MakeExecutor) -> None:
    executor = wall_executor(timeout_seconds=1, grace_seconds=0.2)
    source = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    with pytest.raises(InterpreterError):
        await executor.acall(source)
    with pytest.raises(InterpreterError, match="BlockingIOError|RuntimeError|OSError"):
        await executor.acall("import os, time\nfor _ in range(500):\n    if not os.fork(): time.sleep(60)")
    executor.timeout_seconds = 20
    assert (await executor.acall("1")).output == 1


async def test_a_full_disk_is_an_error(wall_executor: MakeExecutor) -> None:
    executor = wall_executor(disk_mb=8)
    with pytest.raises(InterpreterError, match="OSError: .*(No space left|File too large)"):
        await executor.acall("for i in range(100): open(f'f{i}', 'wb').write(bytes(1_000_000))")


async def test_a_flood_of_output_is_cut(wall_executor: MakeExecutor) -> None:
    executor = wall_executor(timeout_seconds=0.5, grace_seconds=0.5)
    for source in (
        "while True: print('x' * 1000)",
        "import os\nwhile True: os.write(1, b'x' * 10_000)",
        "import subprocess\nsubprocess.run(['sh', '-c', 'yes'])",
    ):
        with pytest.raises(InterpreterError) as caught:
            await executor.acall(source)
        assert len(caught.value.logs) < 60_000
