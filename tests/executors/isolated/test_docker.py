"""Code in containers: what it cannot reach, what ends it, and that nothing of it stays."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

import pytest

from manyhands import CodeAgent, tool
from manyhands.errors import CallerError, ExecutionTimeoutError, InterpreterError
from manyhands.executors.isolated.docker import DockerExecutor
from manyhands.executors.isolated.docker_images import Image
from manyhands.testing import ScriptedModel
from tests.executors.isolated.engine import IMAGE, NO_PYTHON, engine_or_skip

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from manyhands.executors.isolated.executor import IsolatedExecutor
    from tests.executors.isolated.engine import LocalEngine

    Make = Callable[..., DockerExecutor]


def containers(engine: LocalEngine) -> set[str]:
    """Names of the containers that are there."""
    return {entry["Names"][0] for entry in json.loads(engine.ask("GET", "/containers/json?all=1"))}


@pytest.fixture
async def make(engine: LocalEngine) -> AsyncIterator[Make]:
    """Makes executors that are cleaned up; afterwards no container is left."""
    made: list[DockerExecutor] = []

    def make(**options: Any) -> DockerExecutor:
        given = {"image": IMAGE, "host": engine.host, "warm_workers": 0, "timeout_seconds": 20, **options}
        made.append(DockerExecutor(**given))
        return made[-1]

    yield make
    for executor in made:
        await executor.acleanup()
    assert containers(engine) == set()


async def value(executor: IsolatedExecutor, code: str) -> Any:
    """The value of the last line of ``code``."""
    return (await executor.acall(textwrap.dedent(code))).output


# --- What it cannot reach ------------------------------------------------------------------------


async def test_nothing_of_the_host_is_in_reach(
    make: Make, engine: LocalEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MH_SECRET", "swordfish")
    (tmp_path / "secret").write_text("swordfish")
    executor = make()
    found = await value(
        executor,
        f"""
        import os, pathlib, socket, subprocess
        found = []
        for path in ({str(tmp_path / "secret")!r}, {engine.host[7:]!r}, "/run/docker.sock", "/etc/shadow"):
            if os.path.exists(path):
                found.append(path)
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                text = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
            except OSError:
                continue
            if b"swordfish" in text or b"pytest" in text or b"dockerd" in text:
                found.append(str(process))
        found + [name for name in os.environ if "SECRET" in name]
        """,
    )
    assert found == []


async def test_the_hosts_network_is_out_of_reach(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as abstract:
        port = listener.getsockname()[1]
        abstract.bind(f"\0manyhands-{port}")
        abstract.listen()
        code = f"""
            import socket
            reached = []
            for family, address in (
                (socket.AF_INET, ("127.0.0.1", {port})),
                (socket.AF_INET, ("8.8.8.8", 53)),
                (socket.AF_UNIX, "\\0manyhands-{port}"),
            ):
                with socket.socket(family) as one:
                    one.settimeout(2)
                    try:
                        one.connect(address)
                        reached.append(address)
                    except OSError:
                        pass
            reached, [name for _, name in socket.if_nameindex()]
        """
        assert await value(make(), code) == ([], ["lo"])


async def test_the_code_has_no_rights(make: Make) -> None:
    status = await value(
        make(),
        """
        import os
        lines = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
        {name: lines[name].split() for name in ("Uid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")}
        """,
    )
    assert status == {
        "Uid": ["65534"] * 4,
        "CapEff": ["0" * 16],
        "CapBnd": ["0" * 16],
        "NoNewPrivs": ["1"],
        "Seccomp": ["2"],
    }


async def test_only_its_own_folders_can_be_written(make: Make) -> None:
    writable = await value(
        make(),
        """
        import os
        writable = []
        for folder, folders, files in os.walk("/"):
            if folder.startswith(("/proc", "/sys")):
                folders.clear()
            elif os.access(folder, os.W_OK):
                writable.append(folder)
        sorted(writable), os.getcwd()
        """,
    )
    assert writable == (["/agent", "/dev/mqueue", "/dev/shm", "/tmp"], "/agent")


async def test_folders_that_the_image_wants_on_the_hosts_disk_are_in_memory(make: Make) -> None:
    executor = make(image=None, dockerfile=f"FROM {IMAGE}\nVOLUME /data\n")
    mounts = await value(executor, "[line.split()[2] for line in open('/proc/mounts') if ' /data ' in line]")
    assert mounts == ["tmpfs"]


async def test_what_the_executor_says_of_its_isolation_is_what_was_asked_for(make: Make) -> None:
    told = await make().isolation()
    assert told.complete, str(told)
    assert "512 MB" in told.memory.how
    connected = make(network="some-net").wall.isolation({})
    assert not connected.network.holds
    assert "some-net" in connected.network.how
    assert not connected.complete


# --- What ends it --------------------------------------------------------------------------------


async def test_too_much_memory_is_an_error_like_any_other(make: Make) -> None:
    executor = make(memory_mb=128)
    await executor.acall("kept = 5")
    with pytest.raises(InterpreterError, match=r"MemoryError: .*limit 128 MB"):
        await executor.acall("hoard = [bytearray(1 << 20) for _ in range(10_000)]")
    assert await value(executor, "kept") == 5


async def test_memory_that_python_does_not_count_ends_the_container_only(make: Make) -> None:
    executor = make(memory_mb=128)
    bomb = """
        import mmap
        maps = [mmap.mmap(-1, 1 << 20) for _ in range(1000)]
        for one in maps:
            one.write(b"x" * (1 << 20))
    """
    with pytest.raises(InterpreterError, match=r"ran out of memory.*variables of earlier steps are lost"):
        await value(executor, bomb)
    assert await value(executor, "1 + 1") == 2


async def test_a_fork_bomb_ends_with_its_step(make: Make, engine: LocalEngine) -> None:
    executor = make(max_processes=32, timeout_seconds=3)
    bomb = """
        import os
        while True:
            try:
                os.fork()
            except OSError:
                pass
    """
    with pytest.raises(ExecutionTimeoutError):
        await value(executor, bomb)
    assert await value(executor, "1 + 1") == 2


async def test_threads_are_bounded(make: Make) -> None:
    code = """
        import threading, time
        for _ in range(1000):
            threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
    """
    with pytest.raises(InterpreterError, match="can't start new thread"):
        await value(make(max_processes=32), code)


@pytest.mark.parametrize("folder", ["/agent", "/tmp", "/dev/shm"])
async def test_a_full_disk_is_an_error_of_the_code(make: Make, folder: str) -> None:
    executor = make(disk_mb=8)
    with pytest.raises(InterpreterError, match="No space left on device"):
        await value(executor, f"open('{folder}/x', 'wb').write(bytes(50 << 20))")
    assert await value(executor, "1 + 1") == 2


async def test_a_flood_of_output_is_cut_and_costs_the_host_nothing(make: Make) -> None:
    executor = make(timeout_seconds=1)
    with pytest.raises(ExecutionTimeoutError) as caught:
        await value(executor, "import os\nwhile True: os.write(2, b'x' * 65536); print('y' * 1000)")
    assert len(caught.value.logs) < 200_000


async def test_a_guest_that_leaves_says_how(make: Make) -> None:
    executor = make()
    with pytest.raises(InterpreterError, match="it exited with status 5"):
        await value(executor, "import os; os._exit(5)")
    with pytest.raises(InterpreterError, match="it exited with status 127"):
        await value(executor, "import os; os._exit(127)")
    with pytest.raises(InterpreterError, match="it was killed, by its own code or because memory ran out"):
        await value(executor, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")


async def test_time_that_is_over_ends_the_container_of_code_that_does_not_listen(
    make: Make, engine: LocalEngine
) -> None:
    executor = make(timeout_seconds=0.5)
    await executor.acall("1")
    before = containers(engine)
    deaf = "import ctypes\nctypes.pythonapi.PyErr_CheckSignals()\nimport re\nre.match('(a+)+b', 'a' * 60)"
    with pytest.raises(ExecutionTimeoutError):
        await executor.acall(deaf)
    assert containers(engine).isdisjoint(before)


async def test_a_cancelled_run_leaves_no_container(make: Make, engine: LocalEngine) -> None:
    executor = make()
    begun = asyncio.Event()
    executor.send_tools({"begin": begun.set})
    running = asyncio.create_task(executor.acall("begin()\nimport time\ntime.sleep(100)"))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await executor.acleanup()
    assert containers(engine) == set()


async def drop_a_run(engine: LocalEngine) -> None:
    executor = DockerExecutor(image=IMAGE, host=engine.host, warm_workers=0)
    run = executor.spawn()
    await run.acall("1")
    del run
    await executor.acleanup()


async def test_an_executor_that_is_dropped_ends_its_container(engine: LocalEngine) -> None:
    await drop_a_run(engine)
    assert containers(engine) == set()


def test_all_of_it_works_on_uvloop(engine: LocalEngine) -> None:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(drop_a_run(engine))
        assert containers(engine) == set()


def test_containers_end_with_the_loop_when_nobody_cleans_up(engine: LocalEngine) -> None:
    async def forgetful() -> Any:
        executor = DockerExecutor(image=IMAGE, host=engine.host, warm_workers=1)
        return (await executor.acall("6 * 7")).output

    assert [asyncio.run(forgetful()), asyncio.run(forgetful())] == [42, 42]
    assert containers(engine) == set()


# --- When the parent is killed -------------------------------------------------------------------

_PARENT = """
    import asyncio
    from manyhands.executors.isolated.docker import DockerExecutor
    async def main():
        executor = DockerExecutor(image={image!r}, host={host!r}, warm_workers=0)
        await executor.acall({code!r})
        print("ready", flush=True)
        await asyncio.sleep(1000)
    asyncio.run(main())
"""


@contextlib.contextmanager
def killed_parent(engine: LocalEngine, code: str) -> Iterator[set[str]]:
    """A process that ran ``code`` in a container and was killed; gives the container's name."""
    script = textwrap.dedent(_PARENT.format(image=IMAGE, host=engine.host, code=code))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline() == b"ready\n"
            names = containers(engine)
        finally:
            parent.send_signal(signal.SIGKILL)
    yield names


def test_a_container_ends_when_its_parent_is_killed(engine: LocalEngine) -> None:
    with killed_parent(engine, "1") as names:
        assert names
        deadline = time.monotonic() + 30
        while containers(engine) & names:
            assert time.monotonic() < deadline
            time.sleep(0.05)


async def test_one_that_does_not_is_ended_by_the_next_who_starts_one(make: Make, engine: LocalEngine) -> None:
    deaf = "import os, time\nos._exit = lambda status: time.sleep(1000)"
    with killed_parent(engine, deaf) as names:
        assert names
        executor = make()
        await executor.acall("1")
        await executor.acleanup()
        assert not names & containers(engine)


# --- Many at once --------------------------------------------------------------------------------


async def test_many_at_once_through_a_cap_lose_nothing(make: Make, engine: LocalEngine) -> None:
    executor = make(max_workers=4)
    most = 0

    async def echo(number: int) -> int:
        nonlocal most
        await asyncio.sleep(0)
        most = max(most, len(await asyncio.to_thread(containers, engine)))
        return number

    async def one(number: int) -> int:
        run = executor.spawn()
        run.send_tools({"echo": echo})
        try:
            await run.acall(f"x = {number}")
            return int((await run.acall("echo(x) + x")).output)
        finally:
            await run.acleanup()

    assert await asyncio.gather(*(one(number) for number in range(16))) == [2 * n for n in range(16)]
    assert most <= 4


async def test_a_run_takes_a_container_that_is_ready(make: Make, engine: LocalEngine) -> None:
    executor = make(warm_workers=1, max_workers=1)
    await executor.prepare()
    ready = containers(engine)
    assert len(ready) == 1
    await executor.spawn().acall("1")
    assert containers(engine) == ready


# --- When it cannot be had -----------------------------------------------------------------------


async def test_no_engine_is_told_to_the_caller(tmp_path: Path) -> None:
    executor = DockerExecutor(host=f"unix://{tmp_path}/none.sock")
    with pytest.raises(CallerError, match="No container engine answers at .* install Docker or Podman"):
        await executor.acall("1")


async def test_an_image_without_python_says_so(make: Make) -> None:
    with pytest.raises(CallerError, match=r"did not start: the image 'manyhands-test/bare:1' has no python3"):
        await make(image=NO_PYTHON).acall("1")
    with pytest.raises(CallerError, match="has no /opt/python"):
        await make(python="/opt/python").acall("1")


async def test_what_the_engine_refuses_is_told_in_its_words(make: Make) -> None:
    with pytest.raises(CallerError, match=r"did not start: .*[Mm]inimum memory"):
        await make(memory_mb=1).acall("1")
    with pytest.raises(CallerError, match=r"did not start: .*no-such-runtime"):
        await make(runtime="no-such-runtime").acall("1")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"memory_mb": 0}, "memory_mb must be at least 1"),
        ({"memory_mb": None}, "a container without bounds is no wall"),
        ({"cpus": 0}, "cpus must be a number from 0.01"),
        ({"disk_mb": -1}, "disk_mb must be at least 1"),
        ({"max_processes": True}, "max_processes must be at least 1"),
        ({"user": "root"}, "user is a number"),
        ({"user": "0:5"}, "user 0 is root"),
        ({"packages": "numpy"}, r"packages is a list, such as \['numpy'\]"),
        ({"image": "x", "dockerfile": "FROM x"}, "dockerfile says all"),
        ({"image": ""}, "image must be the name"),
        ({"image_name": "x"}, "image= names the image"),
    ],
)
def test_parameters_that_cannot_be_right_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(CallerError, match=text):
        DockerExecutor(**options)


async def test_an_image_that_somebody_removed_is_made_again(make: Make, engine: LocalEngine) -> None:
    recipe = f"FROM {IMAGE}\nENV AGAIN=1\n"
    executor = make(image=None, dockerfile=recipe)
    assert await value(executor.spawn(), "import os; os.environ['AGAIN']") == "1"
    await executor.acleanup()
    engine.ask("DELETE", f"/images/{Image(IMAGE, dockerfile=recipe).tag}?force=1")
    assert await value(executor.spawn(), "import os; os.environ['AGAIN']") == "1"


async def test_an_engine_that_dies_is_an_error_of_the_step() -> None:
    with engine_or_skip() as doomed:
        executor = DockerExecutor(image=IMAGE, host=doomed.host, warm_workers=0)
        executor.send_tools({"end": doomed.server.kill})
        with pytest.raises(InterpreterError, match="its container is out of reach"):
            await executor.acall("end()\nimport time\ntime.sleep(100)")
        with pytest.raises(CallerError, match="No container engine answers"):
            await executor.acall("1")
        await executor.acleanup()


# --- Agents --------------------------------------------------------------------------------------


def test_an_agent_uses_containers_from_sync_code(engine: LocalEngine) -> None:
    @tool
    def secret_length(word: str) -> int:
        """Count letters.

        Args:
            word: What to count.
        """
        return len(word)

    code = "import socket\nn = secret_length('swordfish')\nfinal_answer((n, socket.gethostname()))"
    agent = CodeAgent(
        tools=[secret_length],
        model=ScriptedModel([f"<code>\n{code}\n</code>"]),
        executor_type="docker",
        executor_kwargs={"image": IMAGE, "host": engine.host},
    )
    assert agent.run("Count.") == (9, "guest")
    agent.cleanup()
    assert containers(engine) == set()
