"""A process of this computer as the wall: quick to start, and on Linux cut off from nearly everything."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import secrets
import shutil
import signal
import site
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
import threading
from asyncio import events
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyhands._bridge import call_in_thread
from manyhands.errors import check_count
from manyhands.executors.isolated.bundle import compiled_program
from manyhands.executors.isolated.executor import MAX_EXECUTION_TIME_SECONDS, IsolatedExecutor
from manyhands.executors.isolated.guest import EXIT_OUT_OF_MEMORY
from manyhands.executors.isolated.wall import Held, Isolation, SandboxError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

#: All that stands on the command line: takes program and plan from the socket.
_BOOT = """
import marshal, os
def take():
    got, wanted = b"", None
    while wanted is None or len(got) < wanted:
        piece = os.read(0, 4 - len(got) if wanted is None else wanted - len(got))
        if not piece:
            os._exit(0)
        got += piece
        if wanted is None and len(got) == 4:
            got, wanted = b"", int.from_bytes(got, "big")
    return got
names = {}
code, names["CONFINING"], names["GUEST"] = marshal.loads(take())
exec(code, names)
names["boot"](take())
"""
_CHUNK = 1 << 16
#: How long a supervisor may take to end its guest.
_SUPERVISOR_SECONDS = 3.0


class ProcessWall:
    """Starts guests as processes that confine themselves before they run any code.

    Args:
        memory_mb: Most address space of a process of the guest, in MB.
        disk_mb: Most that the guest may write to its working directory, in MB.
        max_processes: Most processes and threads of a guest.
        max_open_files: Most files that a process of the guest may hold open.
        cpu_seconds: Most processor time of a process of the guest, over all steps.
        network: Whether code may reach the network.
        readable_paths: Files and directories of this computer that code may read, at the same place; of a
            program that runs as root those that others may read, too.
        environment: Environment variables for the code; it sees no others.
        namespaces: Use namespaces where the kernel offers them.
    """

    name = "process"

    def __init__(
        self,
        memory_mb: int | None = 1024,
        disk_mb: int = 64,
        max_processes: int = 64,
        max_open_files: int = 256,
        cpu_seconds: int = 3600,
        network: bool = False,
        readable_paths: Sequence[str | os.PathLike[str]] = (),
        environment: Mapping[str, str] | None = None,
        namespaces: bool = True,
    ) -> None:
        self.memory_mb = check_count("memory_mb", memory_mb)
        self._environment = dict(environment or {})
        self._plan: dict[str, Any] = {
            "memory_mb": self.memory_mb,
            "disk_mb": check_count("disk_mb", disk_mb),
            "processes": check_count("max_processes", max_processes),
            "open_files": check_count("max_open_files", max_open_files),
            "cpu_seconds": check_count("cpu_seconds", cpu_seconds),
            "network": network,
            "namespaces": namespaces,
            "readable_paths": [os.fspath(path) for path in readable_paths],
        }

    async def start(self) -> ProcessChannel:
        """Start a guest.

        Raises:
            SandboxError: The system starts no further process.
        """
        if not hasattr(os, "fork"):
            raise SandboxError('Processes are a wall on Linux and macOS only; take "docker" or "monty" here.')
        launch = _Launch(self._plan, self._environment)
        try:
            await call_in_thread(launch.start, label="sandbox")
            reader, writer = await asyncio.open_connection(sock=launch.socket)
            launch.streaming = True
        except OSError as error:
            launch.give_up()
            raise SandboxError(f"No process can be started for a sandbox: {error}.") from error
        except BaseException:
            launch.give_up()
            raise
        channel = ProcessChannel(launch, reader, writer, self.memory_mb)
        await channel.send(launch.first_bytes)
        return channel

    def isolation(self, facts: Mapping[str, Any]) -> Isolation:
        """Say what the wall holds off, from what a guest reached."""
        return _isolation(facts, self._plan)

    async def aclose(self) -> None:
        """Nothing is left to release."""


@functools.cache
def _interpreter_paths() -> list[str]:
    """Where the interpreter and what is installed for it live; nothing of the user's is beside it."""
    paths = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}
    paths |= {
        path for name, path in sysconfig.get_paths().items() if name in ("purelib", "platlib", "stdlib")
    }
    paths |= set(site.getsitepackages())
    links = {os.path.realpath(path) for path in [*paths, sys.executable]}
    home = str(Path.home())
    return [path for path in sorted(paths | links) if path not in ("/", home) and os.path.exists(path)]


def _checked_path(path: str) -> str:
    absolute = os.path.abspath(path)
    if not os.path.exists(absolute):
        raise SandboxError(f"readable_paths names {absolute!r}, which does not exist.")
    if hasattr(os, "getuid") and os.getuid() == 0 and not os.stat(absolute).st_mode & stat.S_IROTH:
        raise SandboxError(
            f"readable_paths names {absolute!r}, which only its owner may read; the code runs as another "
            "user, since this program runs as root. Let others read it (chmod o+rX)."
        )
    return absolute


class _Launch:
    """A process on its way, started in a thread; whoever waits may give up at any time."""

    def __init__(self, plan: dict[str, Any], environment: Mapping[str, str]) -> None:
        self._plan = plan
        self._environment = environment
        self._lock = threading.Lock()
        self._given_up = False
        self.process: subprocess.Popen[bytes] | None = None
        self.work = ""
        self.first_bytes = b""
        self.socket, self._theirs = socket.socketpair()
        self.errors: Any = None
        #: Whether a stream has the socket, and closes it.
        self.streaming = False

    def start(self) -> None:
        """Start the process; on a thread."""
        try:
            self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in clear()
            # The guest makes it, and only where it gets no root of its own: nobody else would remove it.
            self.work = os.path.join(tempfile.gettempdir(), f"manyhands-{secrets.token_hex(8)}")
            program = compiled_program()
            plan = {
                **self._plan,
                "work": self.work,
                "interpreter": _interpreter_paths(),
                "readable_paths": [_checked_path(path) for path in self._plan["readable_paths"]],
            }
            parts = (program, json.dumps(plan).encode())
            self.first_bytes = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
            process = self._popen()
        except BaseException:
            self.clear()
            raise
        finally:
            self._theirs.close()
        with self._lock:
            self.process = process
            given_up = self._given_up
        if given_up:
            self._destroy(process)

    def _popen(self) -> subprocess.Popen[bytes]:
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            # Each thread takes address space, which is limited: of the C library, and of these.
            "MALLOC_ARENA_MAX": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            **self._environment,
        }
        theirs = self._theirs.fileno()
        return subprocess.Popen(
            [sys.executable, "-I", "-B", "-u", "-c", _BOOT],
            stdin=theirs,
            stdout=theirs,
            stderr=self.errors,
            env=environment,
            cwd="/",
            start_new_session=True,
        )

    def give_up(self) -> None:
        """End the process, or let the thread that starts it end it; from any thread, without waiting."""
        with self._lock:
            first, self._given_up = not self._given_up, True
            process = self.process
        if not first:
            return
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        if not self.streaming:
            self.socket.close()
        if process is not None:
            try:
                threading.Thread(target=self._destroy, args=(process,), daemon=True).start()
            except RuntimeError:  # at the end of the process no thread starts any more
                self._destroy(process)

    def _destroy(self, process: subprocess.Popen[bytes]) -> None:
        """End the process and remove what belongs to it; on a thread."""
        _end(process)
        self.clear()

    def clear(self) -> None:
        """Remove what belongs to a process that has ended."""
        if self.errors is not None:
            self.errors.close()
        shutil.rmtree(self.work, ignore_errors=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the guest through its supervisor, or with it, and wait until both are gone."""
    process.terminate()
    try:
        process.wait(_SUPERVISOR_SECONDS)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()


class ProcessChannel:
    """The socket of a guest that is a process.

    Args:
        launch: The process.
        reader: What the guest sends.
        writer: What it is sent.
        memory_mb: Its limit, for messages.
    """

    def __init__(
        self,
        launch: _Launch,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        memory_mb: int | None,
    ) -> None:
        assert launch.process is not None
        self._launch = launch
        self._process = launch.process
        self._reader = reader
        self._writer = writer
        self._memory_mb = memory_mb
        self._loop = asyncio.get_running_loop()
        self._killed = False
        self._reason: str | None = None

    @property
    def pid(self) -> int:
        """Number of the process that watches over the guest."""
        return self._process.pid

    async def send(self, data: bytes) -> None:
        """Hand ``data`` to the guest."""
        self._writer.write(data)
        await self._writer.drain()

    async def receive(self) -> bytes:
        """Wait for the next bytes of the guest."""
        try:
            return await self._reader.read(_CHUNK)
        except ConnectionError:
            return b""

    async def kill(self) -> None:
        """End the guest and wait until it and its directory are gone."""
        if self._killed:
            return
        self._killed = True
        self._process.terminate()
        self._writer.close()
        try:
            await call_in_thread(self._finish, label="sandbox")
        except RuntimeError:  # at the end of the process no thread starts any more
            self._finish()
        with suppress(OSError):
            await self._writer.wait_closed()

    def _finish(self) -> None:
        _end(self._process)
        self._reason = self._reason or self._told()
        self._launch.clear()

    async def diagnose(self) -> str:
        """Say why the guest ended."""
        if self._killed:
            return self._reason or "it was ended"
        try:
            async with asyncio.timeout(5):
                await call_in_thread(self._process.wait, label="sandbox")
        except TimeoutError:
            return "it closed its channel"
        self._reason = await call_in_thread(self._told, label="sandbox")
        return self._reason

    def _told(self) -> str:
        """What status and last words of the process say."""
        reason = _reason(self._process.returncode, self._memory_mb)
        with suppress(OSError, ValueError):
            self._launch.errors.seek(max(0, self._launch.errors.seek(0, os.SEEK_END) - 500))
            words = self._launch.errors.read().decode("utf-8", "replace").strip()
            if words:
                reason = f"{reason}; its last words: {words}"
        return reason

    def abandon(self) -> None:
        """Begin to end the guest, from any thread."""
        if self._killed:
            return
        self._killed = True
        self._launch.give_up()
        with suppress(RuntimeError):  # the loop may be closed
            if events._get_running_loop() is self._loop:
                self._writer.transport.abort()
            else:
                self._loop.call_soon_threadsafe(self._writer.transport.abort)


def _reason(status: int, memory_mb: int | None) -> str:
    """What the exit status of the supervisor says about the guest."""
    if status == EXIT_OUT_OF_MEMORY:
        return f"it ran out of memory (limit {memory_mb} MB)"
    if status < 0:
        return "it was ended"
    number = status - 128
    if number == signal.SIGKILL:
        return "it was killed: by its own code, or by the system for want of memory or processor time"
    if number == getattr(signal, "SIGXCPU", None):
        return "it used up its processor time"
    if number in set(signal.Signals):
        name = signal.Signals(number).name
        return f"it crashed ({name}), which is what some libraries do when they run out of memory"
    return f"it exited with status {status}"


# --- What holds ----------------------------------------------------------------------------------


def _isolation(facts: Mapping[str, Any], plan: Mapping[str, Any]) -> Isolation:
    problems: Mapping[str, str] = facts.get("problems") or {}
    return Isolation(
        "process",
        processes=_processes(facts, plan, problems),
        memory=_memory(facts, plan),
        files=_files(facts, plan, problems),
        network=_network(facts),
        syscalls=_syscalls(facts, problems),
    )


def _why(problems: Mapping[str, str], name: str) -> str:
    return f" ({problems[name]})" if name in problems else ""


def _processes(facts: Mapping[str, Any], plan: Mapping[str, Any], problems: Mapping[str, str]) -> Held:
    if facts.get("namespaces") and facts.get("user") and "RLIMIT_NPROC" in facts.get("limits", ()):
        return Held(
            True, f"a process namespace of its own, at most {plan['processes']} processes and threads"
        )
    return Held(False, f"it sees the processes of this computer{_why(problems, 'namespaces')}")


def _memory(facts: Mapping[str, Any], plan: Mapping[str, Any]) -> Held:
    bounded = "RLIMIT_AS" in facts.get("limits", ())
    closed = (facts.get("namespaces") or facts.get("landlock")) and facts.get("seccomp")
    limit = f"at most {plan['memory_mb']} MB of its own" if bounded else "no limit on its own"
    if closed:
        return Held(bounded, f"memory of other processes cannot be read; {limit}")
    return Held(False, f"memory of the user's other processes is as open as to any program; {limit}")


def _files(facts: Mapping[str, Any], plan: Mapping[str, Any], problems: Mapping[str, str]) -> Held:
    if facts.get("files"):
        return Held(
            True, f"a root of its own: the interpreter, read-only, and {plan['disk_mb']} MB that go with it"
        )
    if facts.get("landlock"):
        return Held(
            True,
            "Landlock: the interpreter, read-only, and a directory that goes with it, "
            f"with files of at most {plan['disk_mb']} MB",
        )
    return Held(False, f"code may do with files what the user may{_why(problems, 'files')}")


def _network(facts: Mapping[str, Any]) -> Held:
    if facts.get("network"):
        return Held(False, "asked for with network=True")
    if facts.get("namespaces"):
        return Held(True, "a network namespace of its own with nothing in it")
    if facts.get("seccomp"):
        return Held(True, "no socket can be made")
    return Held(False, "this system cannot take it away from a process")


def _syscalls(facts: Mapping[str, Any], problems: Mapping[str, str]) -> Held:
    if facts.get("seccomp"):
        return Held(True, "a filter refuses mounts, namespaces, tracing, kernel modules and the like")
    return Held(False, f"no filter{_why(problems, 'seccomp')}")


# --- The executor --------------------------------------------------------------------------------


class ProcessExecutor(IsolatedExecutor):
    """Runs code in a process of its own, cut off from files, network, memory and processes of the host.

    On Linux the wall is made of namespaces, an empty root, limits, and a filter on kernel calls; ask
    :meth:`isolation` what a machine allows. On other systems it is a process with limits and no more.

    Args:
        additional_authorized_imports: See :class:`IsolatedExecutor`.
        max_print_outputs_length: See :class:`IsolatedExecutor`.
        additional_functions: See :class:`IsolatedExecutor`.
        timeout_seconds: See :class:`IsolatedExecutor`.
        memory_mb: Most address space of a process of the code, in MB; ``None`` for no limit.
        disk_mb: Most that the code may write, in MB; it is gone when the run is.
        max_processes: Most processes and threads of one run.
        max_open_files: Most files that a process of the code may hold open.
        cpu_seconds: Most processor time of a process of the code, over all steps.
        network: Let the code reach the network.
        readable_paths: Files and directories that the code may read, at the same place.
        environment: Environment variables for the code; it sees no others.
        namespaces: Use namespaces where the kernel offers them.
        **options: ``restrict_imports``, ``max_workers``, ``warm_workers``, ``keep_seconds``,
            ``grace_seconds`` and ``max_message_mb`` of :class:`IsolatedExecutor`.
    """

    def __init__(
        self,
        additional_authorized_imports: Iterable[str] = (),
        max_print_outputs_length: int | None = None,
        additional_functions: Mapping[str, Callable[..., Any]] | None = None,
        timeout_seconds: float | None = MAX_EXECUTION_TIME_SECONDS,
        *,
        memory_mb: int | None = 1024,
        disk_mb: int = 64,
        max_processes: int = 64,
        max_open_files: int = 256,
        cpu_seconds: int = 3600,
        network: bool = False,
        readable_paths: Sequence[str | os.PathLike[str]] = (),
        environment: Mapping[str, str] | None = None,
        namespaces: bool = True,
        **options: Any,
    ) -> None:
        wall = ProcessWall(
            memory_mb,
            disk_mb,
            max_processes,
            max_open_files,
            cpu_seconds,
            network,
            readable_paths,
            environment,
            namespaces,
        )
        super().__init__(
            wall,
            additional_authorized_imports,
            max_print_outputs_length,
            additional_functions,
            timeout_seconds,
            **options,
        )
