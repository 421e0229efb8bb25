"""The loop watchdog: it says who blocked a loop and where, and blames nobody else."""

from __future__ import annotations

import asyncio
import logging
import queue
import selectors
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

import manyhands
from manyhands import CallerError, CodeAgent, ToolCallingAgent, tool
from manyhands.observe.watchdog import Blockage, watch_loop
from manyhands.testing import ScriptedModel
from tests.agents.replies import calls, code, final

THRESHOLD = 0.05


def spin(seconds: float) -> str:
    """Keep the thread busy, as a blocking call would."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    return "spun"


@tool
async def block(seconds: float = 0.15) -> str:
    """Block the loop.

    Args:
        seconds: How long.
    """
    return spin(seconds)


@tool
async def rest(seconds: float = 0.15) -> str:
    """Wait as one should.

    Args:
        seconds: How long.
    """
    await asyncio.sleep(seconds)
    return "rested"


# Where nothing blocks by itself: a busy computer may let the loop's thread stand there for a while.
OURS = tuple(str(Path(str(module.__file__)).parent) for module in (manyhands, asyncio))


class Reports:
    """Watches, and hands over reports one at a time; of what the tests did, not the computer."""

    def __init__(self, threshold: float = THRESHOLD) -> None:
        self.inbox: queue.SimpleQueue[Blockage] = queue.SimpleQueue()
        self.watch = watch_loop(threshold, self._keep)

    def _keep(self, blockage: Blockage) -> None:
        frames = [line for line in blockage.stack.splitlines() if line.startswith('  File "')]
        if not frames or not frames[-1].removeprefix('  File "').startswith(OURS):
            self.inbox.put(blockage)

    async def next(self) -> Blockage:
        return await asyncio.to_thread(self.inbox.get, timeout=10)


def calling(tools: Any, *wanted: Any, **options: Any) -> ToolCallingAgent:
    """An agent that makes some calls at once, and is done."""
    return ToolCallingAgent(tools, ScriptedModel({"": [calls(*wanted), final("done")]}), **options)


async def test_a_report_names_agent_run_tool_and_line(caplog: pytest.LogCaptureFixture) -> None:
    reports = Reports()
    with reports.watch:
        run = calling([block], ("block", {}), name="researcher").arun("go")
        assert await run == "done"
    report = await reports.next()
    assert (report.agent, report.run_id, report.activity) == ("researcher", run.id, "tool block")
    assert 0.1 < report.seconds < 5
    assert "return spin(seconds)" in report.stack
    assert "in spin" in report.stack.splitlines()[-2]
    assert "asyncio/events.py" not in report.stack
    (record,) = [record for record in caplog.records if record.name == "manyhands.watchdog"]
    assert record.levelno == logging.WARNING
    assert record.getMessage() == str(report)
    assert f"by agent researcher (run {run.id[:8]}, tool block)" in str(report)


async def test_one_blockage_is_one_report() -> None:
    reports = Reports()
    with reports.watch:
        for _ in range(2):
            await calling([block], ("block", {"seconds": 0.3})).arun("go")
    assert (await reports.next()).seconds > 0.2
    assert (await reports.next()).seconds > 0.2
    assert reports.inbox.empty()


async def test_whoever_waits_is_not_blamed() -> None:
    @tool
    def compute() -> str:
        """Work on a thread."""
        return spin(0.15)

    reports = Reports()
    with reports.watch:
        await calling([rest, compute], ("rest", {}), ("compute", {})).arun("go")
        culprit = calling([block], ("block", {})).arun("go")
        await culprit
    assert (await reports.next()).run_id == culprit.id


async def test_the_culprit_is_found_among_many_runs() -> None:
    reports = Reports()
    with reports.watch:
        resting = [asyncio.create_task(calling([rest], ("rest", {})).arun("go")) for _ in range(20)]
        culprit = calling([rest, block], ("rest", {"seconds": 0.01}), ("block", {}), name="culprit").arun(
            "go"
        )
        await culprit
        await asyncio.gather(*resting)
    report = await reports.next()
    assert (report.agent, report.run_id, report.activity) == ("culprit", culprit.id, "tool block")


async def test_a_task_that_a_tool_began_blocks_for_its_run() -> None:
    @tool
    async def delegate() -> str:
        """Let a task do it."""

        async def work() -> str:
            return spin(0.15)

        return await asyncio.create_task(work())

    reports = Reports()
    with reports.watch:
        run = calling([delegate], ("delegate", {})).arun("go")
        await run
    report = await reports.next()
    assert (report.run_id, report.activity) == (run.id, "tool delegate")
    assert "in work" in report.stack


async def test_generated_code_is_shown_with_its_own_lines() -> None:
    source = (
        "def twice(seconds):\n    return spin(seconds / 2) + spin(seconds / 2)\n\nfinal_answer(twice(0.3))"
    )
    model = ScriptedModel({"": [code(source)]})
    agent = CodeAgent(
        [], model, name="coder", executor_kwargs={"additional_functions": {"spin": spin}}, watch_loop=True
    )
    reports = Reports()
    with reports.watch:
        other, run = calling([rest], ("rest", {})).arun("go"), agent.arun("go")
        await asyncio.gather(other, run)
    assert run.output == "spunspun"
    report = await reports.next()
    assert (report.agent, report.run_id, report.activity) == ("coder", run.id, "code")
    assert "final_answer(twice(0.3))" in report.stack
    assert "return spin(seconds / 2) + spin(seconds / 2)" in report.stack


async def test_a_call_that_holds_the_interpreter_is_found_out_too() -> None:
    @tool
    async def hog() -> int:
        """Hold the lock of the interpreter."""
        numbers, end = list(range(200_000)) * 5, time.perf_counter() + 0.15
        while time.perf_counter() < end:
            numbers = numbers[1:] + numbers[:1]
            numbers.sort()
            numbers = numbers * 2
        return 0

    reports = Reports()
    with reports.watch:
        run = calling([hog], ("hog", {})).arun("go")
        await run
    report = await reports.next()
    assert report.run_id == run.id
    assert "in hog" in report.stack


async def test_a_loop_that_hangs_is_told_of_while_it_hangs(caplog: pytest.LogCaptureFixture) -> None:
    reports = Reports(0.02)
    with reports.watch:
        await calling([block], ("block", {"seconds": 0.5})).arun("go")
    assert (await reports.next()).seconds > 0.4
    first, last = [record.getMessage() for record in caplog.records if record.name == "manyhands.watchdog"]
    assert "and still is, by agent ToolCallingAgent" in first
    assert "still" not in last


async def test_loops_of_several_threads_are_watched_each_by_itself() -> None:
    reports, runs = Reports(), []

    def work(number: int) -> None:
        async def go() -> None:
            run = calling([block], ("block", {}), name=f"agent_{number}").arun("go")
            runs.append(run)
            await run

        asyncio.run(go())

    with reports.watch:
        await asyncio.gather(*(asyncio.to_thread(work, number) for number in range(3)))
    found = {(report.agent, report.run_id) for report in [await reports.next() for _ in range(3)]}
    assert found == {(run.agent.name, run.id) for run in runs}


def test_a_sync_tool_under_run_may_take_its_time_in_the_thread_of_its_caller() -> None:
    @tool
    def compute() -> str:
        """Work."""
        return spin(0.15)

    reports = Reports()
    with reports.watch:
        calling([compute], ("compute", {}), verbosity_level=-1).run("go")
        calling([block], ("block", {}), name="culprit", verbosity_level=-1).run("go")
    assert reports.inbox.get(timeout=10).agent == "culprit"


def test_a_stream_that_nobody_reads_for_a_while_is_no_blockage() -> None:
    reports = Reports()
    with reports.watch:
        events: Any = calling([rest], ("rest", {"seconds": 0})).run("go", stream=True)
        for _ in events:
            spin(0.15)
        calling([block], ("block", {}), name="culprit", verbosity_level=-1).run("go")
    assert reports.inbox.get(timeout=10).agent == "culprit"


# --- On and off ----------------------------------------------------------------------------------


class Heard(logging.Handler):
    """Collects what the watchdog logs."""

    def __init__(self) -> None:
        super().__init__()
        self.inbox: queue.SimpleQueue[str] = queue.SimpleQueue()

    def emit(self, record: logging.LogRecord) -> None:
        self.inbox.put(record.getMessage())


@pytest.fixture
def heard() -> Any:
    handler, logger = Heard(), logging.getLogger("manyhands.watchdog")
    logger.addHandler(handler)
    yield handler.inbox
    logger.removeHandler(handler)


@pytest.mark.parametrize("watch", [True, 0.05])
async def test_an_agent_may_ask_to_be_watched(watch: bool | float, heard: Any) -> None:
    await calling([block], ("block", {"seconds": 0.2}), name="watched", watch_loop=watch).arun("go")
    assert "by agent watched" in await asyncio.to_thread(heard.get, timeout=10)


@pytest.mark.parametrize("watch", ["yes", 0, -1])
def test_a_threshold_that_cannot_be_one_is_refused(watch: Any) -> None:
    with pytest.raises(CallerError, match="watch_loop must be a number of seconds above 0"):
        calling([], watch_loop=watch)
    with pytest.raises(CallerError, match="threshold must be a number of seconds above 0"):
        watch_loop(watch)
    with pytest.raises(CallerError, match="on_blockage must be a function"):
        watch_loop(on_blockage="print")  # type: ignore[arg-type]


def test_asyncios_debug_mode_turns_it_on(heard: Any) -> None:
    asyncio.run(calling([block], ("block", {"seconds": 0.2}), name="debugged").arun("go"), debug=True)
    assert "by agent debugged" in heard.get(timeout=10)


async def test_runs_that_begin_while_it_is_off_are_not_watched() -> None:
    reports = Reports()
    await calling([block], ("block", {})).arun("go")
    reports.watch.start()
    reports.watch.start()
    culprit = calling([block], ("block", {})).arun("go")
    await culprit
    reports.watch.stop()
    reports.watch.stop()
    await calling([block], ("block", {})).arun("go")
    assert (await reports.next()).run_id == culprit.id
    assert reports.inbox.empty()


async def test_each_watch_has_its_threshold_and_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    def fail(report: Blockage) -> None:
        raise ValueError("broken")

    reports, patient = Reports(), Reports(10)
    with watch_loop(THRESHOLD, fail), reports.watch, patient.watch:
        await calling([block], ("block", {})).arun("go")
        await calling([block], ("block", {})).arun("go")
    await reports.next()
    await reports.next()
    assert patient.inbox.empty()
    assert "A function told of blocked event loops failed" in caplog.text


SCRIPT = """
import asyncio, logging, sys, threading, time
from manyhands import ToolCallingAgent, tool
from manyhands.testing import ScriptedModel
from tests.agents.replies import calls, final

@tool
async def block() -> str:
    '''Block.'''
    time.sleep(0.3)
    return "x"

logging.basicConfig(format="%(message)s")
agent = ToolCallingAgent([block], ScriptedModel([calls(("block", {})), final(1)]), name="blocker")

async def main():
    await agent.arun("go")
    await asyncio.sleep(0.1)

asyncio.run(main())
print("manyhands.observe.watchdog" in sys.modules, threading.active_count())
"""


@pytest.mark.parametrize(("value", "watched"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_the_environment_turns_it_on_and_off_it_costs_no_thread(value: str, watched: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)],
        env={"MANYHANDS_DEBUG": value, "PYTHONPATH": ":".join(sys.path)},
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [str(watched), str(1 + watched)]
    assert ("by agent blocker" in done.stderr) == watched
    assert ("time.sleep(0.3)" in done.stderr or "in block" in done.stderr) == watched


class CountingSelector(selectors.DefaultSelector):
    """Counts how often its loop went round."""

    rounds = 0

    def select(self, timeout: float | None = None) -> Any:
        self.rounds += 1
        return super().select(timeout)


def test_a_loop_without_runs_has_nothing_to_do() -> None:
    selector = CountingSelector()

    async def main() -> int:
        with watch_loop(0.01):
            await calling([rest], ("rest", {"seconds": 0.05})).arun("go")
            await asyncio.sleep(0.02)
            before = selector.rounds
            await asyncio.sleep(0.2)
            return selector.rounds - before

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        assert runner.run(main()) <= 3
