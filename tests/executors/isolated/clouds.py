"""Stand-ins for the SDKs of clouds: exactly the calls that are used, with real processes of this computer.

They hold nothing off: they show that guests are started, spoken to and ended through those calls. Each call
is noted, so that a test can hold it against the signatures of a real SDK.
"""

from __future__ import annotations

import asyncio
import codecs
import inspect
import os
import signal
import types
from contextlib import suppress
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    Output = Callable[[str], Any]

#: Calls so far: the name of the method, and its arguments.
CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []


def noted(name: str, *args: Any, **kwargs: Any) -> None:
    """Note a call."""
    CALLS.append((name, args, kwargs))


async def started(command: list[str], env: dict[str, str]) -> asyncio.subprocess.Process:
    """Start a command with pipes, in a process group of its own."""
    pipe = asyncio.subprocess.PIPE
    environment = {"PATH": os.environ["PATH"], **env}
    return await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, cwd="/", start_new_session=True
    )


def tell(process: asyncio.subprocess.Process, what: signal.Signals) -> None:
    """Send a signal to all processes of a command."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, what)


async def write(process: asyncio.subprocess.Process, data: bytes) -> None:
    """Write to a command's stdin."""
    assert process.stdin is not None
    process.stdin.write(data)
    await process.stdin.drain()


async def end(process: asyncio.subprocess.Process) -> None:
    """End a command and all that it started."""
    tell(process, signal.SIGCONT)
    tell(process, signal.SIGKILL)
    await process.wait()
    if process.stdin is not None:
        process.stdin.close()


# --- E2B ------------------------------------------------------------------------------------------


class AuthenticationException(Exception):
    """As E2B raises it."""


class SandboxException(Exception):
    """As E2B raises it."""


class CommandExitException(SandboxException):
    """As E2B raises it: a command ended with another status than 0."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"Command exited with code {exit_code}")
        self.exit_code = exit_code


class Handle:
    """``AsyncCommandHandle``: what reads the output of a command."""

    def __init__(
        self, process: asyncio.subprocess.Process, on_stdout: Output | None, on_stderr: Output | None
    ) -> None:
        self._process = process
        self._task = asyncio.create_task(self._read(on_stdout, on_stderr))

    @property
    def pid(self) -> int:
        return self._process.pid

    async def _read(self, on_stdout: Output | None, on_stderr: Output | None) -> None:
        async with asyncio.TaskGroup() as both:
            both.create_task(self._forward(self._process.stdout, on_stdout))
            both.create_task(self._forward(self._process.stderr, on_stderr))

    async def _forward(self, stream: asyncio.StreamReader | None, callback: Output | None) -> None:
        assert stream is not None
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        while data := await stream.read(10_000):
            if callback is not None:
                waiting = callback(decoder.decode(data))
                if inspect.isawaitable(waiting):
                    await waiting

    async def wait(self) -> None:
        await self._task
        status = await self._process.wait()
        if status:
            raise CommandExitException(status if status > 0 else 128 - status)

    async def kill(self) -> bool:
        noted("AsyncCommandHandle.kill")
        await end(self._process)
        return True

    async def disconnect(self) -> None:
        noted("AsyncCommandHandle.disconnect")
        self._task.cancel()
        await asyncio.wait([self._task])


class Commands:
    """``AsyncSandbox.commands``."""

    def __init__(self) -> None:
        self.processes: dict[int, asyncio.subprocess.Process] = {}

    async def run(self, cmd: str, **options: Any) -> Handle:
        noted("Commands.run", cmd, **options)
        assert options["background"] and options["stdin"] and options["timeout"] == 0
        process = await started(["/bin/bash", "-c", cmd], options["envs"])
        self.processes[process.pid] = process
        return Handle(process, options["on_stdout"], options["on_stderr"])

    async def connect(self, pid: int, **options: Any) -> Handle:
        noted("Commands.connect", pid, **options)
        return Handle(self.processes[pid], options["on_stdout"], options["on_stderr"])

    async def send_stdin(self, pid: int, data: bytes) -> None:
        noted("Commands.send_stdin", pid, data)
        try:
            await write(self.processes[pid], data)
        except OSError as error:
            raise SandboxException("not found") from error


class _Both:
    """A method that is called on the class with an id, or on an object: as the SDK has it."""

    def __get__(self, sandbox: AsyncSandbox | None, kind: type[AsyncSandbox]) -> Any:
        return kind.connected if sandbox is None else sandbox.taken_up


class AsyncSandbox:
    """``e2b_code_interpreter.AsyncSandbox``."""

    there: dict[str, AsyncSandbox] = {}
    #: What the next ``create`` raises.
    refusal: Exception | None = None
    connect = _Both()
    on_set_timeout: Callable[[], Any] = staticmethod(lambda: None)

    def __init__(self) -> None:
        self.sandbox_id = f"sandbox-{len(self.there)}"
        self.commands = Commands()
        self.paused = False
        self.there[self.sandbox_id] = self

    @classmethod
    async def create(cls, **options: Any) -> AsyncSandbox:
        noted("AsyncSandbox.create", **options)
        await asyncio.sleep(0)
        if cls.refusal is not None:
            raise cls.refusal
        return cls()

    @classmethod
    async def connected(cls, sandbox_id: str, **options: Any) -> AsyncSandbox:
        noted("AsyncSandbox.connect", sandbox_id, **options)
        if sandbox_id not in cls.there:
            raise type("NotFoundException", (SandboxException,), {})("no such sandbox")
        return cls.there[sandbox_id]

    async def taken_up(self, **options: Any) -> AsyncSandbox:
        noted("AsyncSandbox.connect", "its id", **options)
        self.paused = False
        for process in self.commands.processes.values():
            tell(process, signal.SIGCONT)
        return self

    async def pause(self) -> bool:
        noted("AsyncSandbox.pause", self)
        self.paused = True
        for process in self.commands.processes.values():
            tell(process, signal.SIGSTOP)
        return True

    async def set_timeout(self, timeout: int) -> None:  # noqa: ASYNC109 - its name in the SDK
        noted("AsyncSandbox.set_timeout", self, timeout)
        self.on_set_timeout()

    async def kill(self) -> bool:
        noted("AsyncSandbox.kill", self)
        self.there.pop(self.sandbox_id, None)
        for process in self.commands.processes.values():
            await end(process)
        return True


# --- Modal ----------------------------------------------------------------------------------------


class Aio:
    """A function of Modal: its ``aio`` is the one that is awaited."""

    def __init__(self, name: str, function: Callable[..., Any], *, object_first: bool = False) -> None:
        async def aio(*args: Any, **kwargs: Any) -> Any:
            noted(name, *(["the object"] if object_first else []), *args, **kwargs)
            return await function(*args, **kwargs)

        self.aio = aio


class Writer:
    """``StreamWriter``: takes bytes, and hands them on when told to."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._buffer = b""
        self._closed = False
        self.drain = Aio("StreamWriter.drain", self._drain, object_first=True)

    def write(self, data: bytes) -> None:
        noted("StreamWriter.write", self, data)
        if len(self._buffer) + len(data) > 2 * 1024 * 1024:
            raise BufferError("Buffer size exceed limit. Call drain to flush the buffer.")
        self._buffer += data

    def write_eof(self) -> None:
        noted("StreamWriter.write_eof", self)
        self._closed = True

    async def _drain(self) -> None:
        data, self._buffer = self._buffer, b""
        await write(self._process, data)
        if self._closed and self._process.stdin is not None:
            self._process.stdin.close()


async def reading(stream: asyncio.StreamReader | None) -> AsyncIterator[bytes]:
    """``StreamReader``: what a command writes, as it comes."""
    assert stream is not None
    while data := await stream.read(10_000):
        yield data


class ContainerProcess:
    """``ContainerProcess``: a command in a sandbox."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.stdin = Writer(process)
        self.stdout = reading(process.stdout)
        self.stderr = reading(process.stderr)
        self.wait = Aio("ContainerProcess.wait", self._wait, object_first=True)
        self._process = process

    async def _wait(self) -> int:
        status = await self._process.wait()
        return status if status >= 0 else 128 - status


class Sandbox:
    """``modal.Sandbox``."""

    there: dict[str, Sandbox] = {}
    #: What the next ``create`` raises.
    refusal: Exception | None = None

    def __init__(self) -> None:
        self.object_id = f"sb-{len(self.there)}"
        self.processes: list[asyncio.subprocess.Process] = []
        self.exec = Aio("Sandbox.exec", self._exec, object_first=True)
        self.terminate = Aio("Sandbox.terminate", self._terminate, object_first=True)
        self.there[self.object_id] = self

    async def _exec(self, *command: str, text: bool, env: dict[str, str]) -> ContainerProcess:
        assert not text
        assert sum(map(len, command)) < 2**16  # as the SDK demands
        process = await started(list(command), env)
        self.processes.append(process)
        return ContainerProcess(process)

    async def _terminate(self) -> None:
        self.there.pop(self.object_id, None)
        for process in self.processes:
            await end(process)

    @staticmethod
    async def _create(**options: Any) -> Sandbox:
        await asyncio.sleep(0)
        if Sandbox.refusal is not None:
            raise Sandbox.refusal
        return Sandbox()

    @staticmethod
    async def _from_id(sandbox_id: str) -> Sandbox:
        if sandbox_id not in Sandbox.there:
            raise type("NotFoundError", (Exception,), {})("no such sandbox")
        return Sandbox.there[sandbox_id]

    create: Aio
    from_id: Aio


Sandbox.create = Aio("Sandbox.create", Sandbox._create)
Sandbox.from_id = Aio("Sandbox.from_id", Sandbox._from_id)


class Image:
    """``modal.Image``."""

    def __init__(self, *packages: str) -> None:
        self.packages = packages

    @staticmethod
    def debian_slim() -> Image:
        noted("Image.debian_slim")
        return Image()

    def pip_install(self, *packages: str) -> Image:
        noted("Image.pip_install", self, *packages)
        return Image(*packages)


async def _lookup(name: str, create_if_missing: bool) -> str:
    return f"app {name}"


def module(name: str, **names: Any) -> types.ModuleType:
    """A module with these names in it."""
    made = types.ModuleType(name)
    made.__spec__ = ModuleSpec(name, None)
    vars(made).update(names)
    return made


E2B = module("e2b_code_interpreter", AsyncSandbox=AsyncSandbox)
MODAL = module(
    "modal",
    Sandbox=Sandbox,
    Image=Image,
    App=types.SimpleNamespace(lookup=Aio("App.lookup", _lookup)),
)
