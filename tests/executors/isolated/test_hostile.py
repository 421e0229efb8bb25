"""A guest that does not keep to the protocol costs its own run, and nothing else."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands.errors import InterpreterError
from manyhands.executors.isolated.executor import IsolatedExecutor
from manyhands.executors.isolated.link import GuestGone, GuestLink
from manyhands.executors.isolated.wall import Held, Isolation, SandboxError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

_TOOLS = """
import json, os, sys, time
def raw(data): os.write(1, data)
def send(**message):
    body = json.dumps(message).encode()
    raw(len(body).to_bytes(4, "big") + body)
def receive():
    size = int.from_bytes(os.read(0, 4), "big")
    body = b""
    while len(body) < size: body += os.read(0, size - len(body))
    return json.loads(body)
"""
_HELLO = 'send(t="ready", python="3", pid=1, facts={})\nfirst = receive()\n'


class PipeChannel:
    """A subprocess without any confinement: what counts here is what it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        await self.process.stdin.drain()

    async def receive(self) -> bytes:
        assert self.process.stdout is not None
        return await self.process.stdout.read(65536)

    async def kill(self) -> None:
        self.process._transport.close()  # type: ignore[attr-defined]
        await self.process.wait()

    async def diagnose(self) -> str:
        return f"it exited with status {await self.process.wait()}"

    def abandon(self) -> None:
        if self.process.returncode is None:
            self.process.kill()


class ScriptWall:
    """Starts a script in place of the guest."""

    name = "script"
    memory_mb: int | None = None

    def __init__(self, script: str) -> None:
        self.script = script

    async def start(self) -> PipeChannel:
        pipe = asyncio.subprocess.PIPE
        return PipeChannel(
            await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-u", "-c", _TOOLS + self.script, stdin=pipe, stdout=pipe
            )
        )

    def isolation(self, facts: Mapping[str, Any]) -> Isolation:
        none = Held(False, "nothing is held off")
        return Isolation("script", none, none, none, none, none)

    async def aclose(self) -> None:
        """Nothing to release."""


async def stuck() -> None:
    await asyncio.Event().wait()


@pytest.fixture
async def run() -> AsyncIterator[Callable[..., Any]]:
    made: list[IsolatedExecutor] = []

    async def run(script: str, **options: Any) -> Any:
        executor = IsolatedExecutor(
            ScriptWall(_HELLO + script),
            warm_workers=0,
            **{"timeout_seconds": 10, "grace_seconds": 0.1, "max_message_mb": 1, **options},
        )
        made.append(executor)
        executor.send_tools({"add": lambda a, b: a + b, "final_answer": lambda x: x, "stuck": stuck})
        return await executor.acall("1")

    yield run
    for executor in made:
        await executor.acleanup()


LIES = {
    "garbage": ("raw(b'hello world, this is no frame')", "no message"),
    "giant head": ("raw(b'\\xff\\xff\\xff\\xff')", "no message"),
    "empty frame": ("raw(b'\\0\\0\\0\\0')", "no message"),
    "no json": ("raw(b'\\0\\0\\0\\3abc')", "no message"),
    "no object": ("raw(b'\\0\\0\\0\\3[1]')", "no message"),
    "deep json": ("b = b'[' * 100000\nraw(len(b).to_bytes(4, 'big') + b)", "no message"),
    "unknown kind": ("send(t='shutdown')", "unknown kind"),
    "no kind": ("send(a=1)", "unknown kind"),
    "ready again": ("send(t='ready', facts={})", "unknown kind"),
    "done for another step": ("send(t='done', step=99, value=1, shown='1')", "unknown kind"),
    "print of no text": ("send(t='print', text=[1])", "no text"),
    "call without id": ("send(t='call', tool='add', args=[], kwargs={})", "under a number"),
    "call with text as id": ("send(t='call', id='1', tool='add', args=[], kwargs={})", "under a number"),
    "call with a negative id": ("send(t='call', id=-1, tool='add', args=[], kwargs={})", "under a number"),
    "call without arguments": ("send(t='call', id=1, tool='add')", "without arguments"),
    "arguments of no kind": (
        "send(t='call', id=1, step=1, tool='add', args=5, kwargs={})",
        "without arguments",
    ),
    "forged value": (
        "send(t='call', id=1, step=1, tool='add', args=[{'pickle': 'x'}], kwargs={})",
        "no value",
    ),
    "forged last value": ("send(t='done', step=1, value={'eval': 'x'}, shown='1')", "no value"),
    "too many calls": (
        "for i in range(1, 3000): send(t='call', id=i, step=1, tool='stuck', args=[], kwargs={})",
        "more than 1000 times at once",
    ),
    "exit": ("sys.exit(5)", "exited with status 5"),
    "closed": ("os.close(1)\nos.close(0)", "exited with status"),
    "endless prints": ("while True: send(t='print', text='x' * 100000)", "printed more than"),
}


@pytest.mark.parametrize(("script", "text"), LIES.values(), ids=LIES.keys())
async def test_a_lie_ends_the_guest_with_a_clear_error(
    run: Callable[..., Any], script: str, text: str
) -> None:
    with pytest.raises(InterpreterError, match=f"The sandbox that ran the code is gone: .*({text})"):
        await run(script)


@pytest.mark.parametrize(
    "script",
    [
        "time.sleep(60)",
        "while True:\n    raw(b'\\0')\n    time.sleep(0.01)",
        "b = (1000000).to_bytes(4, 'big')\nraw(b)\nwhile True:\n    raw(b' ')\n    time.sleep(0.001)",
        "while True: receive()",
        "while True: send(t='print', text='')",
    ],
    ids=["silence", "drip of heads", "drip of a body", "listens only", "empty prints"],
)
async def test_a_guest_that_never_ends_is_ended_when_the_time_is_over(
    run: Callable[..., Any], script: str
) -> None:
    start = time.perf_counter()
    with pytest.raises(InterpreterError, match="maximum execution time|gone"):
        await run(script, timeout_seconds=0.5)
    assert time.perf_counter() - start < 20


async def test_a_forged_call_of_a_tool_that_is_none_is_an_error_for_the_guest_alone(
    run: Callable[..., Any],
) -> None:
    result = await run(
        "for i, name in enumerate(['os.system', '__init__', 'send', 'add'], 1):\n"
        "    send(t='call', id=i, step=1, tool=name, args=[1, 2], kwargs={})\n"
        "got = sorted((receive() for _ in range(4)), key=lambda m: m['id'])\n"
        "send(t='done', step=1, value=[m['t'] for m in got], shown='')"
    )
    assert result.output == ["failed", "failed", "failed", "result"]


async def test_a_call_for_a_step_that_is_over_is_refused(run: Callable[..., Any]) -> None:
    result = await run(
        "send(t='call', id=1, step=0, tool='final_answer', args=[1], kwargs={})\n"
        "send(t='done', step=1, value=receive()['t'], shown='')"
    )
    assert (result.output, result.is_final_answer) == ("failed", False)


async def test_a_final_answer_that_was_not_given_is_none(run: Callable[..., Any]) -> None:
    result = await run("send(t='done', step=1, value=5, shown='5', final=True, is_final_answer=True)")
    assert (result.output, result.is_final_answer) == (5, False)


async def test_a_reply_that_nobody_reads_holds_up_its_own_run_only(run: Callable[..., Any]) -> None:
    script = (
        "for i in range(1, 900): send(t='call', id=i, step=1, tool='add', args=['x' * 900, 'y'], kwargs={})\n"
    )
    with pytest.raises(InterpreterError, match="maximum execution time"):
        await run(script + "time.sleep(60)", timeout_seconds=0.5)


async def test_a_guest_that_is_none_is_told_at_the_start() -> None:
    for script, text in (
        ("sys.exit(3)", "status 3"),
        ("send(t='done')", "did not say"),
        ("raw(b'x' * 99)", "no message"),
    ):
        executor = IsolatedExecutor(ScriptWall(script), warm_workers=0)
        with pytest.raises(SandboxError, match=f"script sandbox did not start: .*{text}"):
            await executor.acall("1")
        await executor.acleanup()


class Scripted:
    """A channel that says what it is told to say, and then ends."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    async def send(self, data: bytes) -> None:
        """Nobody listens."""

    async def receive(self) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    async def kill(self) -> None:
        self.pieces.clear()

    async def diagnose(self) -> str:
        return "it is over"

    def abandon(self) -> None:
        self.pieces.clear()


@given(st.lists(st.binary(min_size=1)))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_messages_or_an_end(pieces: list[bytes]) -> None:
    async def read() -> None:
        link = GuestLink(Scripted(pieces), 1000)
        with pytest.raises(GuestGone):
            while True:
                assert type(await link.receive()) is dict

    asyncio.run(read())
