"""The wall of E2B's cloud: guests in small virtual machines, reached through its command streams."""

from __future__ import annotations

import asyncio
import shlex
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from manyhands.errors import check_seconds
from manyhands.executors.extras import need
from manyhands.executors.isolated.bundle import guest_command
from manyhands.executors.isolated.cloud import CloudChannel, CloudWall
from manyhands.executors.isolated.executor import MAX_EXECUTION_TIME_SECONDS, IsolatedExecutor
from manyhands.executors.isolated.guest import EXIT_OUT_OF_MEMORY
from manyhands.executors.isolated.textual import Lines, in_lines
from manyhands.executors.isolated.wall import Held, Isolation, SandboxError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

#: Most bytes in one request to the guest's stdin.
_CHUNK = 512 * 1024
#: Pieces of output that wait to be read; then the cloud's stream waits.
_PIECES = 64
_STDERR_CHARS = 500
#: Seconds that the cloud has to end a sandbox; then it ends by its own lifetime.
_END_SECONDS = 15.0
_KILLED = 137


def _sandbox_class() -> Any:
    from e2b_code_interpreter import AsyncSandbox  # type: ignore[import-not-found, unused-ignore]

    return AsyncSandbox


class E2BWall(CloudWall["E2BChannel"]):
    """Starts guests in sandboxes of E2B.

    Args:
        template: What a sandbox is made of; E2B's own for Python unless given.
        sandbox_id: A sandbox that is there already, and stays.
        lifetime_seconds: Seconds after which a sandbox ends that this program does not keep alive any more.
        network: Whether code may reach the network.
        environment: Environment variables of the code.
        python: The interpreter in the template.
        metadata: What the sandbox is labelled with.
        connection: ``api_key``, ``domain`` and other parameters of E2B's connection.
    """

    name = "e2b"
    memory_mb: int | None = None

    def __init__(
        self,
        template: str | None,
        sandbox_id: str | None,
        lifetime_seconds: int,
        network: bool,
        environment: Mapping[str, str] | None,
        python: str,
        metadata: Mapping[str, str] | None,
        connection: Mapping[str, Any],
    ) -> None:
        super().__init__(sandbox_id, environment)
        self.lifetime_seconds = lifetime_seconds
        self._template = template
        self._network = network
        self._python = python
        self._metadata = {"made-by": "manyhands", **(metadata or {})}
        self._connection = dict(connection)

    def _sdk(self) -> Any:
        return _sandbox_class()

    def _channel(self, sandbox: Any) -> E2BChannel:
        return E2BChannel(self, sandbox, owned=self._sandbox_id is None)

    async def _sandbox(self, kind: Any) -> Any:
        if self._sandbox_id is not None:
            return await kind.connect(self._sandbox_id, timeout=self.lifetime_seconds, **self._connection)
        return await kind.create(
            template=self._template,
            timeout=self.lifetime_seconds,
            metadata=self._metadata,
            allow_internet_access=self._network,
            **self._connection,
        )

    def _command(self) -> str:
        return "exec " + shlex.join(in_lines(guest_command(self._python)))

    def _refused(self, error: Exception) -> SandboxError:
        if type(error).__name__ == "AuthenticationException":
            return SandboxError(
                "E2B does not accept the key: set the environment variable E2B_API_KEY, or give api_key=."
            )
        if type(error).__name__ in ("NotFoundException", "SandboxNotFoundException") and self._sandbox_id:
            return SandboxError(f"E2B has no sandbox {self._sandbox_id!r} any more.")
        return SandboxError(f"E2B starts no sandbox: {type(error).__name__}: {str(error)[:300]}")

    def isolation(self, facts: Mapping[str, Any]) -> Isolation:
        """Say what the wall holds off."""
        network = Held(True, "the sandbox was made without internet access")
        if self._sandbox_id is not None:
            network = Held(False, "the sandbox was made elsewhere: nothing is known of its network")
        elif self._network:
            network = Held(False, "asked for with network=True")
        return Isolation(
            "e2b",
            processes=Held(True, "a virtual machine of its own in E2B's cloud"),
            memory=Held(True, "the virtual machine's own, of the size that the template has"),
            files=Held(True, "the virtual machine's own"),
            network=network,
            syscalls=Held(True, "the kernel is the virtual machine's own"),
        )


class E2BChannel(CloudChannel):
    """The stdin and stdout of a guest in a sandbox.

    Args:
        wall: Started it.
        sandbox: The SDK's object.
        owned: Whether the sandbox ends with the guest.
    """

    _wall: E2BWall

    def __init__(self, wall: E2BWall, sandbox: Any, *, owned: bool) -> None:
        super().__init__(wall, sandbox, owned=owned)
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue(_PIECES)
        self._lines = Lines()
        self._errors = ""
        self._reason = ""
        self._handle: Any = None
        self._tasks: list[asyncio.Task[None]] = []
        self._switching = asyncio.Lock()
        self._paused = False

    @property
    def sandbox_id(self) -> str:
        """The sandbox's name at E2B."""
        return str(self._sandbox.sandbox_id)

    async def begin(self, command: str, environment: Mapping[str, str]) -> None:
        """Start the guest."""
        self._handle = await self._sandbox.commands.run(
            command,
            background=True,
            envs=dict(environment),
            on_stdout=self._hear,
            on_stderr=self._note,
            stdin=True,
            timeout=0,
            retain_output=False,
        )
        self._attend()

    def _attend(self) -> None:
        """Watch the guest and keep its sandbox alive."""
        self._tasks = [
            asyncio.create_task(self._watch(), name="e2b guest"),
            asyncio.create_task(self._keep_alive(), name="e2b sandbox kept alive"),
        ]

    async def _hear(self, text: str) -> None:
        try:
            data = self._lines.feed(text)
        except ValueError as error:
            self._reason = self._reason or f"it sent what is no message ({error})"
            await self._pieces.put(None)
        else:
            if data:
                await self._pieces.put(data)

    def _note(self, text: str) -> None:
        self._errors = (self._errors + text)[-_STDERR_CHARS:]

    async def _watch(self) -> None:
        """Wait for the end of the guest, and note how it ended."""
        try:
            await self._handle.wait()
        except Exception as error:
            status = getattr(error, "exit_code", None)
            told = _status(status) if status is not None else f"its sandbox is out of reach ({error})"
            self._reason = self._reason or told
        await self._pieces.put(None)

    async def _keep_alive(self) -> None:
        """Put off the end of the sandbox, again and again, as long as this program is there."""
        seconds = self._wall.lifetime_seconds
        while True:
            await asyncio.sleep(seconds / 3)
            with suppress(Exception):  # then whoever talks to it is told
                await self._sandbox.set_timeout(seconds)

    async def send(self, data: bytes) -> None:
        """Hand ``data`` to the guest's stdin, taking its sandbox into use again where it is paused.

        Raises:
            OSError: The guest is gone.
        """
        try:
            await self.resume()
            for start in range(0, len(data), _CHUNK):
                await self._sandbox.commands.send_stdin(self._handle.pid, data[start : start + _CHUNK])
        except Exception as error:
            raise OSError(f"E2B does not take it: {error}") from error

    async def receive(self) -> bytes:
        """Wait for the next bytes of the guest's stdout; ``b""`` at the end."""
        piece = await self._pieces.get()
        if piece is None:
            self._pieces.put_nowait(None)  # for whoever asks again: there is room, one was taken out
            return b""
        return piece

    async def pause(self) -> bool:
        """Let the sandbox rest, with all that is in it, until something is sent; return whether it does."""
        async with self._switching:
            if self._paused or self._end is not None or self._handle is None:
                return self._paused
            await self._unattend()
            try:
                await self._handle.disconnect()
                await self._sandbox.pause()
            except Exception:
                await self._reconnect()
                return False
            self._paused = True
            return True

    async def resume(self) -> None:
        """Take a paused sandbox into use again."""
        async with self._switching:
            if self._paused:
                await self._sandbox.connect(timeout=self._wall.lifetime_seconds)
                await self._reconnect()
                self._paused = False

    async def _reconnect(self) -> None:
        self._handle = await self._sandbox.commands.connect(
            self._handle.pid, timeout=0, on_stdout=self._hear, on_stderr=self._note, retain_output=False
        )
        self._attend()

    async def _unattend(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _finish(self) -> None:
        await self._unattend()
        with suppress(Exception):
            async with asyncio.timeout(_END_SECONDS):
                if self._owned:
                    await self._sandbox.kill()
                elif self._handle is not None:
                    await self._handle.kill()
        with suppress(Exception):
            async with asyncio.timeout(_END_SECONDS):
                if self._handle is not None:
                    await self._handle.disconnect()
        self._reason = self._reason or "it was ended"
        if self._pieces.full():
            self._pieces.get_nowait()
        self._pieces.put_nowait(None)

    async def diagnose(self) -> str:
        """Say why the guest ended."""
        words = self._errors.strip()
        reason = self._reason or "it closed its output"
        return f"{reason}; its last words: {words}" if words else reason


def _status(status: int) -> str:
    """What the exit status of the guest says."""
    if status == EXIT_OUT_OF_MEMORY:
        return "it ran out of memory"
    if status == _KILLED:
        return "it was killed, by its own code or because memory ran out"
    if status in (126, 127):
        return "the sandbox has no such Python: name its interpreter with python="
    return f"it exited with status {status}"


class E2BExecutor(IsolatedExecutor):
    """Runs code in sandboxes of E2B: virtual machines in its cloud.

    Code and values cross through E2B's command streams; no port of the sandbox is opened.

    Args:
        additional_authorized_imports: See :class:`IsolatedExecutor`.
        max_print_outputs_length: See :class:`IsolatedExecutor`.
        additional_functions: See :class:`IsolatedExecutor`.
        timeout_seconds: See :class:`IsolatedExecutor`.
        template: What a sandbox is made of; E2B's own for Python, with data libraries, unless given.
        sandbox_id: A sandbox that is there already: it is used, one run at a time, and stays.
        api_key: Key for E2B; the environment variable ``E2B_API_KEY`` unless given.
        lifetime_seconds: Seconds after which a sandbox ends that this program does not keep alive any more.
        pause: Let the sandbox rest between two turns of a conversation; it costs no computing time then.
        network: Let the code reach the network.
        environment: Environment variables for the code.
        python: The interpreter in the template.
        metadata: What sandboxes are labelled with at E2B.
        connection: Further parameters of E2B's connection, such as ``domain`` or ``request_timeout``.
        **options: ``restrict_imports``, ``max_workers``, ``warm_workers``, ``keep_seconds``,
            ``grace_seconds`` and ``max_message_mb`` of :class:`IsolatedExecutor`. No sandbox is kept ready
            unless ``warm_workers`` says so, since each costs money.
    """

    def __init__(
        self,
        additional_authorized_imports: Iterable[str] = (),
        max_print_outputs_length: int | None = None,
        additional_functions: Mapping[str, Callable[..., Any]] | None = None,
        timeout_seconds: float | None = MAX_EXECUTION_TIME_SECONDS,
        *,
        template: str | None = None,
        sandbox_id: str | None = None,
        api_key: str | None = None,
        lifetime_seconds: float = 300,
        pause: bool = False,
        network: bool = False,
        environment: Mapping[str, str] | None = None,
        python: str = "python3",
        metadata: Mapping[str, str] | None = None,
        connection: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        need("e2b_code_interpreter", "E2BExecutor", "e2b")
        key = {"api_key": api_key} if api_key is not None else {}
        lifetime = check_seconds("lifetime_seconds", lifetime_seconds) or 300
        wall = E2BWall(
            template,
            sandbox_id,
            max(15, round(lifetime)),
            network,
            environment,
            python,
            metadata,
            {**key, **(connection or {})},
        )
        if sandbox_id is not None:
            options["max_workers"] = 1
        self.pause = pause
        super().__init__(
            wall,
            additional_authorized_imports,
            max_print_outputs_length,
            additional_functions,
            timeout_seconds,
            **{"warm_workers": 0, **options},
        )

    async def apause(self) -> bool:
        """Let the sandbox of this run rest until its next code; return whether it does."""
        channel = self._lease.link.channel if self._lease is not None else None
        return isinstance(channel, E2BChannel) and await channel.pause()

    async def aend_run(self) -> None:
        """Keep the variables for a next turn, in a sandbox that rests meanwhile where ``pause`` is set."""
        await super().aend_run()
        if self.pause:
            await self.apause()


__all__ = ["E2BExecutor", "E2BWall"]
