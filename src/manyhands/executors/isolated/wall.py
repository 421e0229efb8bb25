"""What a wall is: something that starts guests, carries bytes to and from them, and says what it holds off.

A wall is a transport and nothing else. It starts the guest program (see :mod:`.bundle`), hands over its
stdin and stdout as a :class:`Channel`, and can end it. All else, from framing to tools, is the same behind
every wall.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

from manyhands.errors import CallerError

if TYPE_CHECKING:
    from collections.abc import Mapping


class SandboxError(CallerError):
    """A sandbox cannot be had, or not with these variables; the run ends."""

    ends_run = True


@dataclass(frozen=True, slots=True)
class Held:
    """One thing that a wall holds off, or does not.

    Attributes:
        holds: Whether it does.
        how: By what, or why not; a short sentence.
    """

    holds: bool
    how: str

    def __str__(self) -> str:
        return f"{'yes' if self.holds else 'NO'}: {self.how}"


@dataclass(frozen=True, slots=True)
class Isolation:
    """What a wall really holds off, as found out on this machine.

    Attributes:
        wall: Name of the wall.
        processes: Processes of the host are out of sight and reach, and the guest's own are bounded.
        memory: The host's memory cannot be read, and the guest's own is bounded.
        files: The host's files are out of reach, and what the guest writes is bounded and goes with it.
        network: Nothing can be reached over a network.
        syscalls: Calls of the kernel that code does not need are refused.
    """

    wall: str
    processes: Held
    memory: Held
    files: Held
    network: Held
    syscalls: Held

    @property
    def complete(self) -> bool:
        """Whether all of it holds."""
        return all(held.holds for held in self._parts().values())

    def _parts(self) -> dict[str, Held]:
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: part for name, part in parts.items() if isinstance(part, Held)}

    def __str__(self) -> str:
        lines = [f"{name:<10} {held}" for name, held in self._parts().items()]
        return "\n".join([f"wall       {self.wall}", *lines])


class Channel(Protocol):
    """The stdin and stdout of one started guest.

    One task sends at a time, and one receives. All methods may be called after the guest has ended.
    """

    async def send(self, data: bytes) -> None:
        """Hand ``data`` to the guest's stdin, waiting while its pipe is full.

        Raises:
            OSError: The guest is gone. (Receiving tells the same, so that callers may let it pass.)
        """

    async def receive(self) -> bytes:
        """Wait for the next bytes of the guest's stdout, as they come; ``b""`` at the end.

        It is cancelled only when the guest is to be ended.
        """

    async def kill(self) -> None:
        """End the guest at once, whatever it does, and release all that belongs to it.

        Return when it is gone. A second call does nothing.
        """

    async def diagnose(self) -> str:
        """Say why the guest ended, as the second half of a sentence, or ``""``.

        For instance ``it ran out of memory (limit 512 MB)`` or ``it exited with status 3``, with the last
        lines of its stderr, shortened, where they help. Called after ``receive`` gave ``b""``.
        """

    def abandon(self) -> None:
        """Begin to end the guest without waiting, from any thread, when nobody can wait any more.

        Called by the garbage collector and at the end of the process. It must not raise, and may do
        nothing where something else reaps the guest.
        """


class Wall(Protocol):
    """Starts guests. One wall serves any number of guests, on any number of event loops.

    Attributes:
        name: ``process``, ``docker``, ...; appears in messages.
        memory_mb: Most memory of a guest in MB, as a failure of memory is explained; ``None`` for no limit.
    """

    name: str
    memory_mb: int | None

    async def start(self) -> Channel:
        """Start a guest.

        Return as soon as its stdin and stdout exist: its first frame says that it is ready.

        Raises:
            CallerError: It cannot be started here; the message says what is missing and what to do. One
                whose ``ends_run`` is set, such as :class:`SandboxError`, ends the run at once.
        """

    def isolation(self, facts: Mapping[str, Any]) -> Isolation:
        """Say what the wall holds off.

        Args:
            facts: What a guest reported about its own confinement before it ran any code.
        """

    async def aclose(self) -> None:
        """Release what the wall holds beside its guests (connections, images); the guests are gone."""
