"""The wall of Modal's cloud: guests in its sandboxes, reached through the streams of a command."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from manyhands._bridge import call_in_thread
from manyhands.errors import check_count, check_seconds
from manyhands.executors.extras import need
from manyhands.executors.isolated.bundle import guest_command
from manyhands.executors.isolated.cloud import CloudChannel, CloudWall
from manyhands.executors.isolated.executor import MAX_EXECUTION_TIME_SECONDS, IsolatedExecutor
from manyhands.executors.isolated.guest import EXIT_OUT_OF_MEMORY
from manyhands.executors.isolated.wall import Held, Isolation, SandboxError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

#: Most bytes that are handed to the guest's stdin at once: Modal's buffer takes twice as many.
_CHUNK = 1024 * 1024
#: Pieces of output that wait to be read; then the cloud's stream waits.
_PIECES = 64
_STDERR_CHARS = 500
#: Seconds that the cloud has to end a sandbox; then it ends by its own lifetime.
_END_SECONDS = 15.0
_KILLED = 137


def _modal() -> Any:
    import modal  # type: ignore[import-not-found, unused-ignore]

    return modal


class ModalWall(CloudWall["ModalChannel"]):
    """Starts guests in sandboxes of Modal.

    Args:
        app: Name of the app that they belong to; it is made where there is none.
        image: Modal's description of an image, or None for Debian with Python.
        packages: What pip installs into that Debian.
        sandbox_id: A sandbox that is there already, and stays.
        lifetime_seconds: Seconds after which a sandbox ends, whatever it does.
        memory_mb: Most memory of a sandbox in MB.
        cpus: Processors of a sandbox.
        network: Whether code may reach the network.
        environment: Environment variables of the code.
        python: The interpreter in the image.
        options: Further parameters of Modal's ``Sandbox.create``.
    """

    name = "modal"

    def __init__(
        self,
        app: str,
        image: Any,
        packages: Iterable[str],
        sandbox_id: str | None,
        lifetime_seconds: int,
        memory_mb: int | None,
        cpus: float | None,
        network: bool,
        environment: Mapping[str, str] | None,
        python: str,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(sandbox_id, environment)
        self.memory_mb = memory_mb
        self._app = app
        self._image = image
        self._packages = list(packages)
        self._lifetime_seconds = lifetime_seconds
        self._cpus = cpus
        self._network = network
        self._python = python
        self._options = dict(options)

    def _sdk(self) -> Any:
        return _modal()

    def _channel(self, sandbox: Any) -> ModalChannel:
        return ModalChannel(self, sandbox, owned=self._sandbox_id is None)

    def _command(self) -> tuple[str, ...]:
        return guest_command(self._python)

    async def _sandbox(self, modal: Any) -> Any:
        if self._sandbox_id is not None:
            return await modal.Sandbox.from_id.aio(self._sandbox_id)
        app = await modal.App.lookup.aio(self._app, create_if_missing=True)
        return await modal.Sandbox.create.aio(
            app=app,
            image=await call_in_thread(lambda: self._image or self._debian(modal)),
            timeout=self._lifetime_seconds,
            cpu=self._cpus,
            # As much as it asks for is the most it gets.
            memory=None if self.memory_mb is None else (self.memory_mb, self.memory_mb),
            block_network=not self._network,
            **self._options,
        )

    def _debian(self, modal: Any) -> Any:
        image = modal.Image.debian_slim()
        return image.pip_install(*self._packages) if self._packages else image

    def _refused(self, error: Exception) -> SandboxError:
        if type(error).__name__ == "AuthError":
            return SandboxError(
                "Modal does not know you: run 'modal setup', or set the environment variables "
                "MODAL_TOKEN_ID and MODAL_TOKEN_SECRET."
            )
        if type(error).__name__ == "NotFoundError" and self._sandbox_id is not None:
            return SandboxError(f"Modal has no sandbox {self._sandbox_id!r} any more.")
        return SandboxError(f"Modal starts no sandbox: {type(error).__name__}: {str(error)[:300]}")

    def isolation(self, facts: Mapping[str, Any]) -> Isolation:
        """Say what the wall holds off."""
        network = Held(True, "the sandbox was made without a network")
        if self._sandbox_id is not None:
            network = Held(False, "the sandbox was made elsewhere: nothing is known of its network")
        elif self._network:
            network = Held(False, "asked for with network=True")
        bounded = "bounded by Modal" if self.memory_mb is None else f"at most {self.memory_mb} MB"
        return Isolation(
            "modal",
            processes=Held(True, "a sandbox of its own in Modal's cloud"),
            memory=Held(True, f"the sandbox's own, {bounded}"),
            files=Held(True, "the sandbox's own"),
            network=network,
            syscalls=Held(True, "gVisor, a kernel of its own between code and machine"),
        )


class ModalChannel(CloudChannel):
    """The stdin and stdout of a guest in a sandbox.

    Args:
        wall: Started it.
        sandbox: The SDK's object.
        owned: Whether the sandbox ends with the guest.
    """

    _wall: ModalWall

    def __init__(self, wall: ModalWall, sandbox: Any, *, owned: bool) -> None:
        super().__init__(wall, sandbox, owned=owned)
        self._process: Any = None
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue(_PIECES)
        self._tasks: list[asyncio.Task[None]] = []
        self._errors = ""
        self._reason = ""

    async def begin(self, command: tuple[str, ...], environment: Mapping[str, str]) -> None:
        """Start the guest."""
        self._process = await self._sandbox.exec.aio(*command, text=False, env=dict(environment))
        self._tasks = [
            asyncio.create_task(self._listen(), name="modal guest's stdout"),
            asyncio.create_task(self._note(), name="modal guest's stderr"),
        ]

    async def _listen(self) -> None:
        """Read the guest's output, in a task of its own: a read that is cancelled ends Modal's stream."""
        try:
            async for piece in self._process.stdout:
                if piece:
                    await self._pieces.put(piece)
        except Exception as error:
            self._reason = self._reason or f"its sandbox is out of reach ({error})"
        await self._pieces.put(b"")

    async def _note(self) -> None:
        with suppress(Exception):  # the end of the sandbox ends the stream in its own way
            async for piece in self._process.stderr:
                self._errors = (self._errors + piece.decode(errors="replace"))[-_STDERR_CHARS:]

    async def send(self, data: bytes) -> None:
        """Hand ``data`` to the guest's stdin.

        Raises:
            OSError: The guest is gone.
        """
        try:
            for start in range(0, len(data), _CHUNK):
                self._process.stdin.write(data[start : start + _CHUNK])
                await self._process.stdin.drain.aio()
        except Exception as error:
            raise OSError(f"Modal does not take it: {error}") from error

    async def receive(self) -> bytes:
        """Wait for the next bytes of the guest's stdout; ``b""`` at the end."""
        piece = await self._pieces.get()
        if not piece:
            self._pieces.put_nowait(b"")  # for whoever asks again: there is room, one was taken out
        return piece

    async def _finish(self) -> None:
        self._reason = self._reason or "it was ended"
        with suppress(Exception):
            async with asyncio.timeout(_END_SECONDS):
                if self._owned:
                    await self._sandbox.terminate.aio()
                elif self._process is not None:  # a guest ends when there is nothing more to read
                    self._process.stdin.write_eof()
                    await self._process.stdin.drain.aio()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._pieces.full():
            self._pieces.get_nowait()
        self._pieces.put_nowait(b"")

    async def diagnose(self) -> str:
        """Say why the guest ended."""
        reason = self._reason
        if not reason:
            status = None
            with suppress(Exception):
                async with asyncio.timeout(_END_SECONDS):
                    status = await self._process.wait.aio()
            reason = self._told(status)
        words = self._errors.strip()
        return f"{reason}; its last words: {words}" if words else reason

    def _told(self, status: int | None) -> str:
        """What the exit status of the guest says."""
        if status == EXIT_OUT_OF_MEMORY:
            return f"it ran out of memory (limit {self._wall.memory_mb} MB)"
        if status == _KILLED:
            return "it was killed, by its own code or because memory ran out"
        if status in (126, 127):
            return "the image has no such Python: name its interpreter with python="
        return "it closed its output" if status is None else f"it exited with status {status}"


class ModalExecutor(IsolatedExecutor):
    """Runs code in sandboxes of Modal's cloud.

    Code and values cross through the streams of a command; no port of the sandbox is opened.

    Args:
        additional_authorized_imports: See :class:`IsolatedExecutor`.
        max_print_outputs_length: See :class:`IsolatedExecutor`.
        additional_functions: See :class:`IsolatedExecutor`.
        timeout_seconds: See :class:`IsolatedExecutor`.
        app_name: Name of the app at Modal that sandboxes belong to; it is made where there is none.
        image: A ``modal.Image``; Debian with Python unless given.
        packages: What pip installs into that Debian, as ``"numpy>=2"``; built once, and kept at Modal.
        sandbox_id: A sandbox that is there already: it is used, one run at a time, and stays.
        lifetime_seconds: Seconds after which a sandbox ends, whatever it does: Modal does not put it off.
        memory_mb: Most memory of a sandbox in MB; ``None`` for what Modal gives.
        cpus: Processors of a sandbox.
        network: Let the code reach the network.
        environment: Environment variables for the code.
        python: The interpreter in the image.
        create_kwargs: Further parameters of Modal's ``Sandbox.create``, such as ``gpu`` or ``region``.
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
        app_name: str = "manyhands",
        image: Any = None,
        packages: Iterable[str] = (),
        sandbox_id: str | None = None,
        lifetime_seconds: float = 3600,
        memory_mb: int | None = 512,
        cpus: float | None = None,
        network: bool = False,
        environment: Mapping[str, str] | None = None,
        python: str = "python3",
        create_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        need("modal", "ModalExecutor", "modal")
        wall = ModalWall(
            app_name,
            image,
            packages,
            sandbox_id,
            max(15, round(check_seconds("lifetime_seconds", lifetime_seconds) or 3600)),
            check_count("memory_mb", memory_mb),
            cpus,
            network,
            environment,
            python,
            create_kwargs or {},
        )
        if sandbox_id is not None:
            options["max_workers"] = 1
        super().__init__(
            wall,
            additional_authorized_imports,
            max_print_outputs_length,
            additional_functions,
            timeout_seconds,
            **{"warm_workers": 0, **options},
        )


__all__ = ["ModalExecutor", "ModalWall"]
