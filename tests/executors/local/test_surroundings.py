"""The executor where people run it: on another event loop, on several at once, in a notebook."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from manyhands.errors import InterpreterError
from manyhands.executors.local import LocalPythonExecutor
from tests.notebook import Kernel, kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CALLS = "import asyncio\nawait asyncio.gather(*[slow(i) for i in range(5)])"
ENDLESS = "while True:\n    try:\n        pass\n    except:\n        pass"


async def slow(x: int) -> int:
    """Waits a moment."""
    await asyncio.sleep(0.01)
    return x * 2


async def agents(count: int) -> list[Any]:
    """Many agents that compute and wait at once, beside one that never ends."""
    base = LocalPythonExecutor()
    executors = [base.spawn() for _ in range(count)]
    for executor in executors:
        executor.send_tools({"slow": slow})
    endless = asyncio.create_task(LocalPythonExecutor(timeout_seconds=0.3).acall(ENDLESS))
    results = await asyncio.gather(*(executor.acall(CALLS) for executor in executors))
    with pytest.raises(InterpreterError, match="0.3 seconds"):
        await endless
    return [result.output for result in results]


def uv_run(make: Callable[[], Any]) -> Any:
    """Run on uvloop."""
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(make())


def test_under_uvloop() -> None:
    assert uv_run(lambda: agents(50)) == [[0, 2, 4, 6, 8]] * 50


def test_on_loops_of_several_threads_at_once() -> None:
    found: list[Any] = []
    runs = [uv_run, lambda make: asyncio.run(make())]
    threads = [
        threading.Thread(target=lambda run=run: found.extend(run(lambda: agents(20)))) for run in runs * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[0, 2, 4, 6, 8]] * 80


# --- In a notebook -------------------------------------------------------------------------------

SETUP = """
from manyhands import CodeAgent, LocalPythonExecutor, tool
from manyhands.testing import ScriptedModel

@tool
async def look_up(word: str) -> int:
    '''Look something up.

    Args:
        word: What.
    '''
    import asyncio
    await asyncio.sleep(0.01)
    return len(word)

REPLY = "<code>\\nfinal_answer(look_up('four') + 1)\\n</code>"
agent = CodeAgent([look_up], ScriptedModel([REPLY] * 3))
executor = LocalPythonExecutor()
"""


@pytest.fixture(scope="module")
def cell() -> Iterator[Kernel]:
    """Run a cell; gives what it shows."""
    with kernel() as run:
        run(SETUP)
        yield run


@pytest.mark.skipif(sys.platform == "win32", reason="kernels are interrupted in another way there")
class TestNotebook:
    """A cell runs on the kernel's event loop: `run` has to find a way beside it, `await` goes on it."""

    def test_run_in_a_cell(self, cell: Kernel) -> None:
        cell("answer = agent.run('go')")
        assert cell("answer") == "5"

    def test_await_in_a_cell(self, cell: Kernel) -> None:
        assert cell("await agent.arun('go')") == "5"

    def test_variables_live_from_cell_to_cell(self, cell: Kernel) -> None:
        assert cell("executor('x = 20').output") == "20"
        assert cell("(await executor.acall('x + 1')).output") == "21"

    def test_interrupting_the_kernel_stops_code_without_end(self, cell: Kernel) -> None:
        assert "KeyboardInterrupt" in cell(
            "print('begun')\nexecutor('while True: pass')", interrupt_at="begun"
        )
        assert cell("executor('1 + 1').output") == "2"
