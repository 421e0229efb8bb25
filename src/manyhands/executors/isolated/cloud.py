"""What the walls of clouds share: a sandbox for each guest, and an end that nobody has to wait for."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from manyhands._bridge import call_in_thread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from manyhands.executors.isolated.wall import SandboxError


class CloudChannel(ABC):
    """The stdin and stdout of a guest in a sandbox of a cloud.

    Args:
        wall: Started it.
        sandbox: The SDK's object.
        owned: Whether the sandbox ends with the guest.
    """

    def __init__(self, wall: CloudWall[Any], sandbox: Any, *, owned: bool) -> None:
        self._wall = wall
        self._sandbox = sandbox
        self._owned = owned
        self._loop = asyncio.get_running_loop()
        self._end: asyncio.Task[None] | None = None

    @abstractmethod
    async def begin(self, command: Any, environment: Mapping[str, str]) -> None:
        """Start the guest."""

    @abstractmethod
    async def _finish(self) -> None:
        """End the guest, and its sandbox if it was made for it."""

    async def kill(self) -> None:
        """End the guest, and its sandbox if it was made for it."""
        # Who waits may be cancelled; the sandbox goes all the same.
        await asyncio.shield(self._begin_to_end())

    def _begin_to_end(self) -> asyncio.Task[None]:
        if self._end is None:
            ending = asyncio.create_task(self._finish(), name=f"{self._wall.name} sandbox ends")
            self._end = self._wall.later(ending)
        return self._end

    def abandon(self) -> None:
        """Begin to end the guest, from any thread; where no loop runs any more, its lifetime ends it."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._begin_to_end)


Channel = TypeVar("Channel", bound=CloudChannel)


class CloudWall(ABC, Generic[Channel]):
    """Starts guests in sandboxes of a cloud.

    Args:
        sandbox_id: A sandbox that is there already, and stays.
        environment: Environment variables of the code.
    """

    name: str

    def __init__(self, sandbox_id: str | None, environment: Mapping[str, str] | None) -> None:
        self._sandbox_id = sandbox_id
        self._environment = dict(environment or {})
        self._ending: set[asyncio.Task[None]] = set()

    async def start(self) -> Channel:
        """Start a guest in a sandbox of its own, or in the one that was named.

        Raises:
            SandboxError: The cloud gives none; the message says why.
        """
        sdk = await call_in_thread(self._sdk)
        try:
            sandbox = await self._sandbox(sdk)
        except Exception as error:
            raise self._refused(error) from error
        channel = self._channel(sandbox)
        try:
            await channel.begin(await call_in_thread(self._command), self._environment)
        except Exception as error:
            await channel.kill()
            raise self._refused(error) from error
        except BaseException:
            channel.abandon()
            raise
        return channel

    @abstractmethod
    def _sdk(self) -> Any:
        """Import what makes sandboxes."""

    @abstractmethod
    async def _sandbox(self, sdk: Any) -> Any:
        """Make a sandbox, or find the one that was named."""

    @abstractmethod
    def _channel(self, sandbox: Any) -> Channel:
        """Make the channel of a guest."""

    @abstractmethod
    def _command(self) -> Any:
        """Return what starts the guest."""

    @abstractmethod
    def _refused(self, error: Exception) -> SandboxError:
        """Say why the cloud gives no sandbox."""

    def later(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        """Keep a task that ends a sandbox, whoever waits for it."""
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    async def aclose(self) -> None:
        """Wait until the sandboxes of this loop that are to end have ended."""
        loop = asyncio.get_running_loop()
        ours = [task for task in self._ending if task.get_loop() is loop]
        if ours:
            await asyncio.wait(ours)
