"""What the code must not reach: secrets in the environment, files, memory and network of the host."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from manyhands.errors import InterpreterError
from manyhands.executors.isolated.process import ProcessExecutor

from ..local.attacks import ATTACKS, PUBLISHED
from ..local.canary import PLANTED, Canary

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import MakeExecutor

from .test_agents import descendants, until

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="walls of processes need Linux")
SECRET = "manyhands-secret-" + "5d41402a"


async def test_attacks_get_nothing_of_the_host(wall_executor: MakeExecutor) -> None:
    """They may do to the guest what they like."""
    canary = Canary()
    executor = wall_executor(timeout_seconds=2, grace_seconds=0.1)
    for number, source in enumerate([*ATTACKS, *PUBLISHED.values()]):
        executor.send_tools({"leak": canary.leak, "failing": lambda: 1 / 0, "secret": id, "planted": id})
        try:
            output: Any = (await executor.acall(source)).output
        except InterpreterError:
            continue
        assert output is not PLANTED
        assert canary.found == [], (number, source)


async def test_the_environment_of_the_host_is_not_there(
    wall_executor: MakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MANYHANDS_TEST_SECRET", SECRET)
    source = """
import glob, os, subprocess
found = [dict(os.environ), subprocess.run(["env"], capture_output=True, text=True).stdout]
for path in glob.glob("/proc/*/environ") + glob.glob("/proc/*/cmdline"):
    try: found.append(open(path, "rb").read())
    except OSError: pass
str(found)
"""
    assert SECRET not in (await wall_executor().acall(source)).output


async def test_files_of_the_host_are_not_there(wall_executor: MakeExecutor, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text(SECRET)
    executor = wall_executor()
    places = [str(tmp_path / "secret.txt"), __file__, "/root/.bashrc", "/etc/shadow"]
    executor.send_variables({"places": places})
    source = """
import os
def attempt(path):
    try: return open(path).read()
    except OSError as e: return type(e).__name__
got = [attempt(p) for p in places]
got += [attempt("/proc/1/root" + p) for p in places] + [attempt("/proc/self/cwd/../.." + p) for p in places]
set(got)
"""
    assert (await executor.acall(source)).output <= {
        "FileNotFoundError",
        "PermissionError",
        "NotADirectoryError",
    }


async def test_nothing_of_the_host_can_be_written(wall_executor: MakeExecutor, tmp_path: Path) -> None:
    source = """
import os, sys
def attempt(path):
    try:
        open(path, "w").write("x")
        return path
    except OSError as e: return type(e).__name__
places = ("/", "/usr", "/etc", "/usr/bin", "/dev", sys.prefix, *sys.path[1:])
[attempt(os.path.join(place, "planted")) for place in places]
"""
    assert set((await wall_executor().acall(source)).output) <= {
        "FileNotFoundError",
        "PermissionError",
        "OSError",
        "NotADirectoryError",
    }


async def test_memory_and_processes_of_the_host_are_out_of_reach(wall_executor: MakeExecutor) -> None:
    executor = wall_executor()
    executor.send_variables({"host": os.getpid()})
    source = """
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
def signalled(pid):
    try: os.kill(pid, 0); return True
    except OSError: return False
def opened(path):
    try: open(path, "rb").read(1); return True
    except (OSError, ValueError): return False
others = [int(p) for p in (os.listdir("/proc") if os.path.isdir("/proc") else []) if p.isdigit()]
seen = [opened(f"/proc/{host}/{name}") for name in ("environ", "maps", "mem")]
[host in others, *seen, libc.ptrace(16, host, 0, 0) == 0 and host in others]
"""
    assert (await executor.acall(source)).output == [False] * 5


async def test_no_network_leads_to_the_host(wall_executor: MakeExecutor) -> None:
    reached = asyncio.Event()
    server = await asyncio.start_server(lambda r, w: reached.set(), "127.0.0.1", 0)
    async with server:
        executor = wall_executor()
        executor.send_variables({"port": server.sockets[0].getsockname()[1]})
        source = """
import socket
def attempt(address):
    try: socket.create_connection(address, timeout=2); return "connected"
    except OSError as e: return "refused"
[attempt(("127.0.0.1", port)), attempt(("8.8.8.8", 53)), attempt(("localhost", port))]
"""
        assert (await executor.acall(source)).output == ["refused"] * 3
    assert not reached.is_set()


async def test_runs_do_not_see_each_other(wall_executor: MakeExecutor) -> None:
    first = wall_executor()
    second = first.spawn()
    await first.acall("open('/tmp/mine', 'w').write('x')\nimport builtins\nbuiltins.mine = 1")
    assert (
        await second.acall("import os\nos.path.exists('/tmp/mine'), 'mine' in dir(__builtins__)")
    ).output == (
        False,
        False,
    )
    await second.acleanup()


# --- The wall of processes ----------------------------------------------------------------------------


@linux
async def test_isolation_says_what_was_reached() -> None:
    executor = ProcessExecutor(warm_workers=0)
    isolation = await executor.isolation()
    await executor.acleanup()
    assert isolation.network.holds
    assert isolation.syscalls.holds
    assert "NO" not in str(isolation) or not isolation.complete


@linux
async def test_landlock_stands_in_where_there_are_no_namespaces(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text(SECRET)
    executor = ProcessExecutor(namespaces=False, warm_workers=0)
    isolation = await executor.isolation()
    executor.send_variables({"place": str(tmp_path / "secret.txt"), "host": os.getpid()})
    if not isolation.files.holds:
        await executor.acleanup()
        pytest.skip(str(isolation.files))
    assert not isolation.processes.holds
    assert not isolation.complete
    for source in ("open(place)", "open(f'/proc/{host}/environ')", "import socket\nsocket.socket()"):
        with pytest.raises(InterpreterError, match="OSError|PermissionError"):
            await executor.acall(source)
    where = (await executor.acall("import os\nopen('f', 'w').write('x')\nos.getcwd()")).output
    assert await asyncio.to_thread(os.path.isdir, where)
    await executor.acleanup()
    assert not await asyncio.to_thread(os.path.exists, where)


@linux
@pytest.mark.parametrize("namespaces", [True, False])
async def test_what_the_code_starts_ends_with_its_guest(namespaces: bool) -> None:
    executor = ProcessExecutor(namespaces=namespaces, warm_workers=0)
    source = (
        "import subprocess\nsubprocess.Popen(['sleep', '1000'], start_new_session={})\nimport os\nos.getpid()"
    )
    before = await asyncio.to_thread(descendants, os.getpid())  # a container engine of other tests
    for own_session in (True, False):
        await executor.acall(source.format(own_session))
        below = await asyncio.to_thread(descendants, os.getpid()) - before
        assert len(below) >= 3
        with pytest.raises(InterpreterError, match="status 4" if own_session else "was killed|crashed"):
            await executor.acall(
                "os._exit(4)" if own_session else "os.kill(os.getpid(), 9)\nos.kill(0, 9)\nos.abort()"
            )
        assert await asyncio.to_thread(until, lambda gone=below: not gone & descendants(os.getpid()))
    await executor.acall(source.format(True))
    below = await asyncio.to_thread(descendants, os.getpid()) - before
    await executor.acleanup()
    assert await asyncio.to_thread(until, lambda: not below & descendants(os.getpid()))


@linux
async def test_rights_cannot_be_won_back() -> None:
    executor = ProcessExecutor(warm_workers=0)
    source = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def allowed(name, *args): return getattr(libc, name)(*args) >= 0
status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
results = [
    allowed("unshare", 0x10000000), allowed("unshare", 0x00020000), allowed("setuid", 0),
    allowed("mount", b"none", b"/tmp", b"tmpfs", 0, None), allowed("chroot", b"/tmp"),
    allowed("prctl", 1, 0, 0, 0, 0), allowed("syscall", 321, 0, 0, 0), allowed("ptrace", 0, 0, 0, 0),
]
results, int(status["CapEff"], 16), int(status["NoNewPrivs"]), int(status["Seccomp"])
"""
    result = await executor.acall(source)
    await executor.acleanup()
    assert result.output == ([False] * 8, 0, 1, 2)


async def test_paths_and_variables_of_the_environment_can_be_given(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("a,b\n1,2\n")
    os.chmod(tmp_path, 0o755)
    executor = ProcessExecutor(readable_paths=[tmp_path], environment={"MODE": "test"}, warm_workers=0)
    executor.send_variables({"place": str(tmp_path / "data.csv")})
    assert (await executor.acall("import os\nopen(place).read(), os.environ['MODE']")).output == (
        "a,b\n1,2\n",
        "test",
    )
    with pytest.raises(InterpreterError, match="OSError|PermissionError"):
        await executor.acall("open(place, 'w')")
    await executor.acleanup()


async def test_a_readable_path_that_is_not_there_is_told() -> None:
    from manyhands.executors.isolated.wall import SandboxError

    executor = ProcessExecutor(readable_paths=["/no/such/place"], warm_workers=0)
    with pytest.raises(SandboxError, match="/no/such/place"):
        await executor.acall("1")
    await executor.acleanup()


async def test_the_network_can_be_given() -> None:
    reached = asyncio.Event()

    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        executor = ProcessExecutor(network=True, warm_workers=0)
        executor.send_variables({"port": server.sockets[0].getsockname()[1]})
        await executor.acall("import socket\nsocket.create_connection(('127.0.0.1', port)).recv(1)")
        assert not (await executor.isolation()).network.holds
        await executor.acleanup()
    assert reached.is_set()
