"""Time limits, cancellation and fairness: code ends when told, and nobody waits for it meanwhile."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

import pytest

from manyhands.errors import ExecutionTimeoutError, InterpreterError
from manyhands.executors.local import LocalPythonExecutor

ENDLESS = {
    "while": "while True: pass",
    "for": "import itertools\nfor i in itertools.count(): pass",
    "bare except": "while True:\n    try:\n        while True: pass\n    except: pass",
    "base exception": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "finally": "try:\n    while True: pass\nfinally:\n    while True: pass",
    "finally return": "def f():\n    while True:\n        try:\n            while True: pass\n"
    "        finally:\n            continue\nf()",
    "finally return value": "def f():\n    try:\n        while True: pass\n    finally:\n        return 1\n"
    "while True: f()",
    "generator": "def g():\n    while True:\n        try:\n            yield 1\n     "
    "   except BaseException: pass\nfor x in g(): pass",
    "recursion": "def f(n):\n    return f(n - 1) + f(n - 1) if n else 1\nf(60)",
    "lambda recursion": "f = lambda n: f(n - 1) + f(n - 1) if n else 1\nf(60)",
    "comprehension": "import itertools\n[None for x in itertools.count() if x < 0]",
    "comprehension over range": "[x for x in range(10**12) if x < 0]",
    "nested comprehension": "[0 for a in range(10**5) for b in range(10**5) for c in range(10**5) if c < 0]",
    "exit returns true": (
        "class C:\n    def __enter__(self): return self\n    def __exit__(self, *a): return True\n"
        "while True:\n    with C():\n        while True: pass"
    ),
    "suppress": "import contextlib\nwhile True:\n    with contextlib.suppress(BaseException):\n"
    "        while True: pass",
    "contextmanager": (
        "import contextlib\n@contextlib.contextmanager\ndef cm():\n    while True:\n        try:\n"
        "            yield\n"
        "            return\n        except BaseException: return\nwhile True:\n    with cm():\n"
        "        while True: pass"
    ),
    "sum": "import itertools\nsum(itertools.count())",
    "max": "import itertools\nmax(itertools.repeat(1))",
    "in": "import itertools\n-1 in itertools.count()",
    "deque": "import itertools, collections\ncollections.deque(itertools.cycle([1]), maxlen=1)",
    "any map": "import itertools\nany(map(lambda x: False, itertools.count()))",
    "sum range": "sum(range(10**13))",
    "sum map range": "sum(map(abs, range(10**13)))",
    "zip": "import itertools\nall(zip(itertools.count(1), itertools.count(1)))",
    "iter sentinel": "sum(iter(int, 1))",
    "sort key": "sorted([1, 2], key=lambda x: sum(1 for _ in iter(int, 1)))",
    "product": "import itertools\nmax(itertools.product(range(1000), repeat=5))",
    "sleep": "import time\ntime.sleep(1000)",
    "async sleep": "import asyncio\nawait asyncio.sleep(1000)",
    "async event": "import asyncio\nawait asyncio.Event().wait()",
    "async loop": "import asyncio\nasync def f():\n    while True: await asyncio.sleep(0)\nasyncio.run(f())",
    "tasks": (
        "import asyncio\nasync def f():\n    while True: pass\nasync def main():\n"
        "    await asyncio.gather(f(), f(), f())\nasyncio.run(main())"
    ),
    "queue": "import queue\nqueue.Queue().get()",
    "del": "class C:\n    def __del__(self):\n        while True: pass\nc = C()\ndel c\nwhile True: pass",
    "exec": "exec('while True: pass')",
    "eval": "eval('[0 for x in iter(int, 1)]')",
    "exec in dict": "exec('while True: pass', {})",
    "class body": "class C:\n    while True: pass",
    "repr": "class C:\n    def __repr__(self):\n        while True: pass\nprint(C())",
    "property": "class C:\n    @property\n    def x(self):\n        while True: pass\nC().x",
    "hash": "class C:\n    def __hash__(self):\n        while True: pass\n{C(): 1}",
    "raise in handler": "def f():\n    try:\n        while True: pass\n    except BaseException:\n"
    "        f()\nf()",
    "except star": "while True:\n    try:\n        while True: pass\n    except* BaseException: pass",
    "reduce": "import functools, itertools\nfunctools.reduce(lambda a, b: a, itertools.count())",
}


@pytest.mark.parametrize("use", ["list(type)", "1 in type", "max(*type)", "[*type]", "[x for x in type]"])
async def test_the_class_of_classes_cannot_be_iterated(use: str) -> None:
    with pytest.raises(InterpreterError, match="iterable"):
        await LocalPythonExecutor(timeout_seconds=5).acall(use)


@pytest.mark.parametrize("bases", ["itertools.count()", "iter(int, 1)", "itertools.repeat(int)"])
async def test_a_class_cannot_be_made_from_endless_bases(bases: str) -> None:
    with pytest.raises(InterpreterError, match="bases must be a tuple"):
        await LocalPythonExecutor(timeout_seconds=5).acall(f"import itertools\ntype('X', {bases}, {{}})")


@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS.keys())
async def test_endless_code_ends_at_its_limit(source: str) -> None:
    """Whatever form the loop has, it ends soon after its time."""
    executor = LocalPythonExecutor(timeout_seconds=0.15)
    start = time.perf_counter()
    with pytest.raises(ExecutionTimeoutError):
        await executor.acall(source)
    assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS.keys())
async def test_endless_code_ends_when_cancelled(source: str) -> None:
    """``cancel()`` ends it too, and the executor is free for other code."""
    executor = LocalPythonExecutor(timeout_seconds=60)
    task = asyncio.create_task(executor.acall(source))
    await asyncio.sleep(0.03)
    task.cancel()
    start = time.perf_counter()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.perf_counter() - start < 0.3
    assert (await executor.acall("1 + 1")).output == 2


async def test_a_limit_is_kept_to_50_ms() -> None:
    """On a quiet machine the limit is kept to a few slices."""
    took = []
    for _ in range(5):
        start = time.perf_counter()
        with pytest.raises(ExecutionTimeoutError):
            await LocalPythonExecutor(timeout_seconds=0.1).acall("while True: pass")
        took.append(time.perf_counter() - start - 0.1)
    assert min(took) < 0.05


async def test_prints_survive_a_timeout() -> None:
    """The printed text so far comes with the error."""
    with pytest.raises(ExecutionTimeoutError, match=r"0\.1 seconds") as caught:
        await LocalPythonExecutor(timeout_seconds=0.1).acall("print('so far')\nwhile True: pass")
    assert caught.value.logs == "so far\n"


async def test_waiting_for_a_tool_is_not_code_time() -> None:
    """A slow tool does not use up the limit of the code."""
    executor = LocalPythonExecutor(timeout_seconds=0.1)

    async def slow() -> str:
        await asyncio.sleep(0.3)
        return "done"

    executor.send_tools({"slow": slow})
    assert (await executor.acall("slow()")).output == "done"


async def test_cancelling_a_tool_cancels_it() -> None:
    """The tool that the code waits for gets the cancellation, and ``finally`` of the code does not run on."""
    seen = []

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    executor = LocalPythonExecutor()
    executor.send_tools({"slow": slow, "note": seen.append})
    task = asyncio.create_task(
        executor.acall("try:\n    slow()\nexcept BaseException:\n    note(1)\nfinally:\n    note(2)")
    )
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cancelled"]


async def test_many_endless_loops_leave_the_loop_free() -> None:
    """A ticker beside 20 endless loops keeps its beat, and all of them end at once."""
    lags = []

    async def ticker() -> None:
        while True:
            start = time.perf_counter()
            await asyncio.sleep(0.001)
            lags.append(time.perf_counter() - start - 0.001)

    base = LocalPythonExecutor(timeout_seconds=60)
    tick = asyncio.create_task(ticker())
    tasks = [asyncio.create_task(base.spawn().acall("n = 0\nwhile True: n += 1")) for _ in range(20)]
    await asyncio.sleep(0.6)
    tick.cancel()
    start = time.perf_counter()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert time.perf_counter() - start < 0.2
    assert sorted(lags)[len(lags) // 2] < 0.06


async def test_slices_are_shared_evenly() -> None:
    """Of several endless loops none starves."""
    executors = [LocalPythonExecutor(timeout_seconds=60) for _ in range(4)]
    tasks = [asyncio.create_task(e.acall("n = 0\nwhile True: n += 1")) for e in executors]
    await asyncio.sleep(0.5)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    counts = [e.state["n"] for e in executors]
    assert min(counts) > max(counts) / 6


async def test_short_code_passes_long_code() -> None:
    """A small step beside endless loops does not wait for the whole round."""
    base = LocalPythonExecutor(timeout_seconds=60)
    tasks = [asyncio.create_task(base.spawn().acall("while True: pass")) for _ in range(10)]
    await asyncio.sleep(0.1)
    start = time.perf_counter()
    assert (await base.spawn().acall("1 + 1")).output == 2
    took = time.perf_counter() - start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert took < 0.15


async def test_wait_for_works_on_code() -> None:
    """The host's own timeouts reach the code."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(LocalPythonExecutor().acall("while True: pass"), 0.1)


def test_several_loops_in_several_threads() -> None:
    """Executors on loops of their own in threads of their own do not disturb each other."""
    results: list[object] = []

    def work(k: int) -> None:
        async def main() -> None:
            base = LocalPythonExecutor(timeout_seconds=30)
            code = f"t = 0\nfor i in range(100_000): t += {k}\nt"
            results.extend(
                r.output for r in await asyncio.gather(*[base.spawn().acall(code) for _ in range(5)])
            )

        asyncio.run(main())

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted(k * 100_000 for k in range(4) for _ in range(5))  # type: ignore[type-var]


async def test_nothing_is_left_behind() -> None:
    """Tasks that the code started end with its step."""
    executor = LocalPythonExecutor()
    before = len(asyncio.all_tasks())
    await executor.acall(
        "import asyncio\nasync def f():\n    while True: await asyncio.sleep(0.001)\n"
        "t = [asyncio.create_task(f()) for _ in range(5)]\nawait asyncio.sleep(0.005)"
    )
    assert len(asyncio.all_tasks()) == before


async def test_suspended_generators_and_finalizers_do_not_act_later() -> None:
    """After the step neither ``finally`` of a generator nor ``__del__`` nor ``__repr__`` does anything."""
    acted: list[str] = []
    executor = LocalPythonExecutor()
    executor.send_tools({"act": acted.append})
    result = await executor.acall(
        "def g():\n    try:\n        yield 1\n    finally:\n        act('finally')\n"
        "class D:\n    def __del__(self): act('del')\n    def __repr__(self): act('repr'); return 'x'\n"
        "gen = g(); next(gen)\nd = D()\nd"
    )
    assert acted == ["repr"]  # within the step, for the text that is shown
    acted.clear()
    shown = repr(result.output)
    del result
    executor.state.clear()
    gc.collect()
    assert acted == []
    assert "D object" in shown


async def test_a_function_cannot_be_called_from_outside() -> None:
    """The host is told when it calls a function of code that has ended."""
    function = (await LocalPythonExecutor().acall("def f():\n    while True: pass\nf")).output
    with pytest.raises(RuntimeError, match="belongs to the code of an agent"):
        function()


async def test_deep_things_end_as_errors() -> None:
    """Depth is an error of the code, never of the process."""
    programs = [
        "def f(): return f()\nf()",
        "(" * 500 + ")" * 500,
        "-" * 100_000 + "1",
        "x = " + "[" * 3000 + "]" * 3000,
        "1" + "+1" * 50_000,
        "it = iter([])\nfor _ in range(100_000): it = map(abs, it)\nlist(it)",
        "import itertools\nit = iter([])\nfor _ in range(100_000): it = itertools.chain(it)\nlist(it)",
        "a = []\nfor _ in range(100_000): a = [a]\nrepr(a)",
        "class A:\n    def __repr__(self): return repr(self)\nrepr(A())",
        "class A:\n    def __getattr__(self, n): return getattr(self, n + 'x')\nA().y",
        "import copy\na = []\nfor _ in range(10_000): a = [a]\ncopy.deepcopy(a)",
        "lambda: " + "lambda: " * 2000 + "1",
        "if 1:\n" + "".join(" " * i + "if 1:\n" for i in range(1, 150)) + " " * 150 + "pass",
    ]
    for source in programs:
        with pytest.raises(InterpreterError):
            await LocalPythonExecutor().acall(source)


BOUNDED = {
    "power": "10 ** 10 ** 9",
    "power of name": "x = 7\ny = 10 ** 8\nx ** y",
    "power in place": "x = 7\nx **= 10 ** 8",
    "power of item": "d = {'k': 7}\nd['k'] **= 10 ** 8",
    "pow": "pow(7, 10 ** 8)",
    "dunder": "(7).__pow__(10 ** 8)",
    "unbound": "int.__pow__(7, 10 ** 8)",
    "operator": "import operator\noperator.pow(7, 10 ** 8)",
    "getattr": "getattr(7, '__pow__')(10 ** 8)",
    "shift": "1 << 10 ** 10",
    "shift in place": "x = 1\nx <<= 10 ** 10",
    "text": "'a' * 10 ** 10",
    "text reversed": "10 ** 10 * 'a'",
    "text in place": "s = 'a'\ns *= 10 ** 10",
    "list": "[0] * 10 ** 10",
    "dunder mul": "'a'.__mul__(10 ** 10)",
    "range": "list(range(10 ** 10))",
    "star range": "[*range(10 ** 10)]",
    "tuple": "tuple(range(10 ** 11))",
    "zfill": "'a'.zfill(10 ** 10)",
    "ljust": "'a'.ljust(10 ** 10)",
    "unbound ljust": "str.ljust('a', 10 ** 10)",
    "f-string": "f'{1:>10000000000}'",
    "dynamic f-string": "w = 10 ** 10\nf'{1:>{w}}'",
    "format": "'{:>10000000000}'.format(1)",
    "dynamic format": "'{:>{}}'.format(1, 10 ** 10)",
    "builtin format": "format(1, '>10000000000')",
    "dunder format": "(1).__format__('>10000000000')",
    "percent": "'%10000000000d' % 1",
    "percent star": "'%*d' % (10 ** 10, 1)",
    "factorial": "import math\nmath.factorial(10 ** 8)",
    "bytes": "bytes(10 ** 11)",
    "bytearray": "bytearray(10 ** 11)",
    "to_bytes": "(1).to_bytes(10 ** 10, 'big')",
    "int to text": "str(10 ** 6000)",
    "regex": "import re\nre.match(r'(a+)+$', 'a' * 40 + 'b')",
    "regex compiled": "import re\nre.compile(r'(.*)*x').match('a' * 40)",
    "choices": "import random\nrandom.choices([1], k=10 ** 11)",
}


@pytest.mark.parametrize("source", BOUNDED.values(), ids=BOUNDED.keys())
async def test_one_giant_call_is_refused(source: str) -> None:
    """What one C call would do for minutes, or with all the memory, is refused at once."""
    start = time.perf_counter()
    with pytest.raises(InterpreterError):
        await LocalPythonExecutor(timeout_seconds=5).acall(source)
    assert time.perf_counter() - start < 1
