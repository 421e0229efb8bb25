"""Sandboxes of clouds: how they are made, spoken to, rested and ended, and what is said when that fails."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands import CodeAgent
from manyhands.errors import CallerError, InterpreterError, MissingExtraError
from manyhands.executors.base import make_executor
from manyhands.executors.isolated.bundle import guest_command
from manyhands.executors.isolated.e2b import E2BExecutor
from manyhands.executors.isolated.modal import ModalExecutor
from manyhands.executors.isolated.textual import MAX_LINE, Lines, in_lines
from manyhands.executors.isolated.wall import SandboxError
from manyhands.testing import ScriptedModel

from . import clouds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from manyhands.executors.isolated.executor import IsolatedExecutor

KINDS: dict[str, tuple[type[IsolatedExecutor], Any]] = {
    "e2b": (E2BExecutor, clouds.AsyncSandbox),
    "modal": (ModalExecutor, clouds.Sandbox),
}


@pytest.fixture(autouse=True)
def sdks(fake_clouds: None) -> Iterator[None]:
    clouds.CALLS.clear()
    yield
    clouds.AsyncSandbox.refusal = clouds.Sandbox.refusal = None
    assert clouds.AsyncSandbox.there == {}
    assert clouds.Sandbox.there == {}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def cloud(kind: str) -> AsyncIterator[Any]:
    made: list[IsolatedExecutor] = []

    def make(**options: Any) -> IsolatedExecutor:
        made.append(KINDS[kind][0](**{"python": sys.executable, **options}))
        return made[-1]

    yield make
    for executor in made:
        await executor.acleanup()


def names() -> list[str]:
    """The calls of the SDK so far."""
    return [name for name, _, _ in clouds.CALLS]


# --- One run --------------------------------------------------------------------------------------


async def test_a_sandbox_lasts_as_long_as_its_run(kind: str, cloud: Any) -> None:
    there = KINDS[kind][1].there
    template = cloud()
    assert there == {}
    executor = template.spawn()
    executor.send_tools({"double": lambda x: 2 * x})
    await executor.acall("x = double(4)")
    assert len(there) == 1
    assert (await executor.acall("print('é\\U0001f600')\nx, b'\\xff', 'é'")).output == (8, b"\xff", "é")
    await executor.acleanup()
    assert there == {}


async def test_long_values_cross_in_pieces(cloud: Any) -> None:
    executor = cloud()
    text = "aé\0" * 700_000
    executor.send_variables({"text": text})
    assert (await executor.acall("text")).output == text


async def test_runs_have_sandboxes_of_their_own(kind: str, cloud: Any) -> None:
    base = cloud(max_workers=2)
    executors = [base.spawn() for _ in range(5)]

    async def run(executor: IsolatedExecutor, number: int) -> Any:
        try:
            await executor.acall(f"x = {number}")
            assert len(KINDS[kind][1].there) <= 2
            return (await executor.acall("x")).output
        finally:
            await executor.acleanup()

    assert await asyncio.gather(*[run(e, i) for i, e in enumerate(executors)]) == [0, 1, 2, 3, 4]


async def test_agents_run_their_code_in_a_cloud(kind: str) -> None:
    model = ScriptedModel(["<code>\nfinal_answer(sum(range(5)))\n</code>"])
    async with CodeAgent([], model, executor_type=kind, executor_kwargs={"python": sys.executable}) as agent:
        assert await agent.arun("Add") == 10


async def test_code_that_is_cancelled_takes_its_sandbox_along(kind: str, cloud: Any) -> None:
    begun = asyncio.Event()

    async def begin() -> None:
        begun.set()

    executor = cloud(grace_seconds=0.05)
    executor.send_tools({"begin": begin})
    source = "begin()\nimport signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
    task = asyncio.create_task(executor.acall(source))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert KINDS[kind][1].there == {}


async def test_variables_stay_when_code_obeys_its_end(cloud: Any) -> None:
    executor = cloud(grace_seconds=20)
    await executor.acall("x = 7")
    reached = asyncio.Event()
    executor.send_tools({"reached": reached.set})
    for _ in range(3):
        reached.clear()
        task = asyncio.create_task(executor.acall("reached()\nwhile True: pass"))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await executor.acall("x")).output == 7


async def test_a_start_that_is_cancelled_leaves_no_sandbox(kind: str, cloud: Any) -> None:
    executor = cloud()
    task = asyncio.create_task(executor.acall("1"))
    async with asyncio.timeout(20):
        while not KINDS[kind][1].there:  # noqa: ASYNC110 - it is the stand-in of a cloud that is looked at
            await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await executor.acleanup()
    assert KINDS[kind][1].there == {}


async def test_a_guest_that_ends_is_told_with_its_reason(cloud: Any) -> None:
    with pytest.raises(InterpreterError, match="it exited with status 3"):
        await cloud().acall("import os\nos._exit(3)")
    with pytest.raises(InterpreterError, match="it was killed"):
        await cloud().acall("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")


async def test_an_interpreter_that_is_not_there_is_named(cloud: Any) -> None:
    with pytest.raises(SandboxError, match="did not start|starts no sandbox"):
        await cloud(python="/no/such/python3").acall("1")


async def test_an_endless_flood_of_output_does_not_fill_this_computer(cloud: Any) -> None:
    executor = cloud(timeout_seconds=1.0)
    with pytest.raises(InterpreterError) as caught:
        await executor.acall("while True: print('x' * 10_000)")
    assert len(caught.value.logs) < 200_000


async def test_the_isolation_report_tells_of_the_network(cloud: Any) -> None:
    assert (await cloud().isolation()).network.holds
    assert not (await cloud(network=True).isolation()).network.holds


# --- Sandboxes that are there already ----------------------------------------------------------------


async def test_a_named_sandbox_is_used_and_stays(kind: str, cloud: Any) -> None:
    sandbox = KINDS[kind][1]()
    name = getattr(sandbox, "sandbox_id", None) or sandbox.object_id
    base = cloud(sandbox_id=name)
    try:
        for number in range(2):
            executor = base.spawn()
            assert (await executor.acall(f"{number} + 1")).output == number + 1
            await executor.acleanup()
        assert list(KINDS[kind][1].there) == [name]
        assert not (await base.isolation()).network.holds
        await base.acleanup()
    finally:
        await (sandbox.kill() if kind == "e2b" else sandbox.terminate.aio())


async def test_a_named_sandbox_that_is_gone_is_told(cloud: Any) -> None:
    with pytest.raises(SandboxError, match="has no sandbox 'gone' any more"):
        await cloud(sandbox_id="gone").acall("1")


# --- Configuration and refusals ------------------------------------------------------------------------


async def test_the_cloud_is_told_what_was_asked_for() -> None:
    e2b = E2BExecutor(
        template="mine", api_key="k-1", network=True, lifetime_seconds=60, environment={"A": "b"},
        python=sys.executable,
    )  # fmt: skip
    assert (await e2b.acall("import os\nos.environ['A']")).output == "b"
    await e2b.acleanup()
    options = next(kwargs for name, _, kwargs in clouds.CALLS if name == "AsyncSandbox.create")
    assert options["template"] == "mine"
    assert options["timeout"] == 60
    assert options["api_key"] == "k-1"
    assert options["allow_internet_access"] is True
    modal = ModalExecutor(
        packages=["numpy"], app_name="mine", memory_mb=256, cpus=2.0, create_kwargs={"region": "eu"},
        python=sys.executable,
    )  # fmt: skip
    await modal.acall("1")
    await modal.acleanup()
    options = next(kwargs for name, _, kwargs in clouds.CALLS if name == "Sandbox.create")
    assert options["app"] == "app mine"
    assert options["image"].packages == ("numpy",)
    assert options["memory"] == (256, 256)
    assert options["cpu"] == 2.0
    assert options["block_network"] is True
    assert options["region"] == "eu"


async def test_a_key_that_is_not_accepted_is_told_without_the_key(kind: str, cloud: Any) -> None:
    wrong = clouds.AuthenticationException("401: key k-secret") if kind == "e2b" else AuthError("no token")
    KINDS[kind][1].refusal = wrong
    with pytest.raises(SandboxError) as caught:
        await cloud(**({"api_key": "k-secret"} if kind == "e2b" else {})).acall("1")
    assert ("E2B_API_KEY" if kind == "e2b" else "MODAL_TOKEN_ID") in str(caught.value)
    assert "k-secret" not in str(caught.value)


class AuthError(Exception):
    """As Modal raises it."""


async def test_another_refusal_is_told_as_it_is(kind: str, cloud: Any) -> None:
    KINDS[kind][1].refusal = clouds.SandboxException("too many sandboxes")
    with pytest.raises(CallerError, match="starts no sandbox: SandboxException: too many sandboxes"):
        await cloud().acall("1")


def test_a_missing_sdk_is_named_with_its_extra(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "e2b_code_interpreter" if kind == "e2b" else "modal", None)
    with pytest.raises(MissingExtraError, match=rf'pip install "manyhands\[{kind}\]"'):
        make_executor(kind)


# --- E2B: rest ----------------------------------------------------------------------------------------


async def test_a_paused_sandbox_goes_on_where_it_was() -> None:
    executor = E2BExecutor(python=sys.executable)
    await executor.acall("x = 1\nimport itertools\nnumbers = itertools.count()\nnext(numbers)")
    assert await executor.apause()
    assert [sandbox.paused for sandbox in clouds.AsyncSandbox.there.values()] == [True]
    assert await executor.apause()
    assert (await executor.acall("x, next(numbers)")).output == (1, 1)
    assert [sandbox.paused for sandbox in clouds.AsyncSandbox.there.values()] == [False]
    assert names().count("AsyncSandbox.pause") == 1
    await executor.apause()
    await executor.acleanup()
    assert not await executor.apause()


async def test_a_sandbox_rests_between_the_turns_of_a_conversation() -> None:
    replies = ["<code>\nx = 41\nfinal_answer(x)\n</code>", "<code>\nfinal_answer(x + 1)\n</code>"]
    options = {"python": sys.executable, "pause": True}
    async with CodeAgent([], ScriptedModel(replies), executor_type="e2b", executor_kwargs=options) as agent:
        session = agent.session()
        assert await session.arun("First") == 41
        assert [sandbox.paused for sandbox in clouds.AsyncSandbox.there.values()] == [True]
        assert await session.arun("Second") == 42


async def test_a_sandbox_is_kept_alive_while_a_tool_takes_long() -> None:
    kept_alive = asyncio.Event()
    clouds.AsyncSandbox.on_set_timeout = kept_alive.set
    # The least that E2B is asked for is 15 seconds; a third of it is waited for here.
    executor = E2BExecutor(python=sys.executable, lifetime_seconds=1)
    executor.send_tools({"long": kept_alive.wait})
    assert (await executor.acall("long()")).output is True
    await executor.acleanup()
    assert ("AsyncSandbox.set_timeout", 15) in [(name, args[-1]) for name, args, _ in clouds.CALLS if args]


# --- Lines of text --------------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.integers(1, 7))
def test_lines_give_the_bytes_however_the_text_is_cut(pieces: list[bytes], size: int) -> None:
    import base64

    text = "".join(base64.b64encode(piece).decode() + "\n" for piece in pieces)
    lines = Lines()
    assert b"".join(lines.feed(text[i : i + size]) for i in range(0, len(text), size)) == b"".join(pieces)


@pytest.mark.parametrize(
    "text", ["no base64 \ufffd\n", "abc\n", "A" * (MAX_LINE + 1), "A" * (2 * MAX_LINE) + "\n"]
)
def test_what_is_no_line_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="line|base64|padding|character|ASCII|ascii"):
        Lines().feed(text)


PAST_US = """
import os, time
with open(f'/proc/{os.getppid()}/fd/1', 'w') as out:
    out.write('?!\\n')
time.sleep(20)
"""


async def test_code_that_writes_past_us_costs_only_its_own_run() -> None:
    executor = E2BExecutor(python=sys.executable)
    with pytest.raises(InterpreterError, match="no message"):
        await executor.acall(PAST_US)
    await executor.acleanup()


def test_the_commands_are_short_enough_for_a_command_line() -> None:
    assert sum(map(len, in_lines(guest_command()))) < 2**16


# --- Against the real SDKs --------------------------------------------------------------------------------


def real(name: str) -> Any:
    """The real SDK, or a skipped test."""
    sys.modules.pop(name, None)
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: the calls are not held against its signatures")
    return importlib.import_module(name)


async def _every_call(kind: str, cloud: Any) -> None:
    """Make every call of the SDK that we know."""
    executor = cloud(**({"packages": ["numpy"]} if kind == "modal" else {}))
    await executor.acall("1")
    if kind == "e2b":
        await executor.apause()
        await executor.acall("1")
    await executor.acleanup()
    sandbox = KINDS[kind][1]()
    named = cloud(sandbox_id=getattr(sandbox, "sandbox_id", None) or sandbox.object_id)
    with pytest.raises(InterpreterError):
        await named.acall("import os\nos._exit(3)")
    await named.acall("1")
    await named.acleanup()
    await (sandbox.kill() if kind == "e2b" else sandbox.terminate.aio())


async def test_the_calls_fit_the_real_sdk(kind: str, cloud: Any, fake_clouds: None) -> None:
    await _every_call(kind, cloud)
    calls = list(clouds.CALLS)
    assert calls
    sdk = real("e2b_code_interpreter" if kind == "e2b" else "modal")
    for name, args, kwargs in calls:
        bound = inspect.signature(_real_function(sdk, kind, name)).bind(*args, **kwargs)
        assert "opts" not in bound.arguments, f"{name} may not know {bound.arguments['opts']}"


def _real_function(sdk: Any, kind: str, name: str) -> Any:
    owner, method = name.split(".")
    if kind == "e2b":
        if owner == "AsyncSandbox":
            # These answer differently on the class and on an object; the signature is the object's.
            return getattr(sdk.AsyncSandbox, method)
        module = "command" if owner == "Commands" else "command_handle"
        return _without_self(
            getattr(importlib.import_module(f"e2b.sandbox_async.commands.{module}"), owner), method
        )
    if owner in ("ContainerProcess", "StreamWriter"):
        module = "container_process" if owner == "ContainerProcess" else "io_streams"
        return getattr(getattr(importlib.import_module(f"modal.{module}"), owner), method)
    return getattr(getattr(sdk, owner), method)


def _without_self(owner: Any, method: str) -> Any:
    signature = inspect.signature(getattr(owner, method))
    parameters = list(signature.parameters.values())[1:]

    def function() -> None: ...

    function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return function


# --- Live -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "variable"), [("e2b", "E2B_API_KEY"), ("modal", "MODAL_TOKEN_ID")])
async def test_the_real_cloud(kind: str, variable: str) -> None:
    if variable not in os.environ:
        pytest.skip(f"{variable} is not set: nothing runs in the real cloud")
    real("e2b_code_interpreter" if kind == "e2b" else "modal")
    executor = make_executor(kind)
    executor.send_tools({"double": lambda x: 2 * x})
    try:
        await executor.acall("x = double(21)\nprint('there')")
        assert (await executor.acall("x")).output == 42
        with pytest.raises(InterpreterError, match="ZeroDivisionError"):
            await executor.acall("1 / 0")
    finally:
        await executor.acleanup()
