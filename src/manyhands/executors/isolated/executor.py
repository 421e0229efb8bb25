"""The face of every executor behind a wall: the same for a process, a container or a cloud."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from manyhands.errors import check_count, check_seconds
from manyhands.executors.base import CodeOutput, PythonExecutor
from manyhands.executors.isolated.pool import Pool
from manyhands.executors.isolated.step import HostStep
from manyhands.executors.isolated.values import CannotCross
from manyhands.executors.isolated.wall import SandboxError
from manyhands.executors.local.modules import BASE_BUILTIN_MODULES
from manyhands.executors.local.output import DEFAULT_MAX_PRINT, Output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from manyhands.executors.isolated.pool import Lease
    from manyhands.executors.isolated.wall import Isolation, Wall

#: Seconds that one snippet may take unless told otherwise, as in the local executor.
MAX_EXECUTION_TIME_SECONDS = 30

_LOST = (
    "Note: the sandbox was ended after the last step, so variables and functions of earlier steps are gone.\n"
)


class IsolatedExecutor(PythonExecutor):
    """Runs code in a guest behind a wall; tools run here, and look to the code like plain functions.

    Args:
        wall: Starts guests.
        additional_authorized_imports: Modules that the code may import beside the basic ones, where
            ``restrict_imports`` is set.
        max_print_outputs_length: Most printed characters that are kept.
        additional_functions: More functions for the code, called here like tools.
        timeout_seconds: Seconds that one snippet may take, not counting the time in tools; ``None`` for no
            limit.
        restrict_imports: Let the code import only the basic modules and those named. By default it imports
            whatever is installed behind the wall: it is the wall that protects. A guard rail, no more.
        max_workers: Most guests at once, of all runs; further runs wait, first come first served.
        warm_workers: Guests kept ready, so that a run does not wait for one to start.
        keep_seconds: How long variables are kept after a run, for a next turn with ``reset=False`` or in a
            session; they are given up earlier where another run needs the place.
        grace_seconds: How long code may take to end when told to, before its guest is ended.
        max_message_mb: Largest value that crosses the wall, as JSON.

    Attributes:
        state: The variables that were sent; those that the code makes live behind the wall.
    """

    def __init__(
        self,
        wall: Wall,
        additional_authorized_imports: Iterable[str] = (),
        max_print_outputs_length: int | None = None,
        additional_functions: Mapping[str, Callable[..., Any]] | None = None,
        timeout_seconds: float | None = MAX_EXECUTION_TIME_SECONDS,
        *,
        restrict_imports: bool = False,
        max_workers: int | None = 32,
        warm_workers: int = 1,
        keep_seconds: float = 300.0,
        grace_seconds: float = 0.25,
        max_message_mb: float = 16,
    ) -> None:
        self.wall = wall
        self.additional_authorized_imports = list(additional_authorized_imports)
        self.authorized_imports = sorted({*BASE_BUILTIN_MODULES, *self.additional_authorized_imports})
        self.restrict_imports = restrict_imports
        self.max_print_outputs_length = check_count("max_print_outputs_length", max_print_outputs_length)
        self.timeout_seconds = check_seconds("timeout_seconds", timeout_seconds)
        self.grace_seconds = check_seconds("grace_seconds", grace_seconds) or 0.25
        self._functions = dict(additional_functions or {})
        self._pool = Pool(
            wall,
            check_count("warm_workers", warm_workers or None) or 0,
            check_count("max_workers", max_workers),
            int((check_seconds("max_message_mb", max_message_mb) or 16) * 1024 * 1024),
            check_seconds("keep_seconds", keep_seconds) or 300.0,
        )
        self._owns_pool = True
        self._begin()

    def _begin(self) -> None:
        self.state: dict[str, Any] = {}
        self._tools: dict[str, Any] = dict(self._functions)
        self._unsent: dict[str, Any] = {}
        self._lease: Lease | None = None
        self._finalizer: Any = None
        self._tools_told = False
        self._step = 0
        self._lost = ""
        self._busy = False

    def spawn(self) -> IsolatedExecutor:
        """Return an executor of the same kind for another run; both take guests from one pool."""
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        new._owns_pool = False
        new._begin()
        return new

    @property
    def imports_anything(self) -> bool:
        """Whether the code may import whatever is installed behind the wall."""
        return not self.restrict_imports

    def send_tools(self, tools: Mapping[str, Callable[..., Any]]) -> None:
        """Make ``tools`` callable by name from the code."""
        self._tools = {**self._functions, **tools}
        self._tools_told = False

    def send_variables(self, variables: Mapping[str, Any]) -> None:
        """Set variables of the code, when it runs next."""
        self.state.update(variables)
        self._unsent.update(variables)

    async def acall(self, code: str) -> CodeOutput:
        """Run ``code`` and return its last value and prints.

        Raises:
            InterpreterError: The code failed, or its guest did; its prints are in ``logs``.
            ExecutionTimeoutError: Its time is over, and it has ended.
            SandboxError: No guest can be started, or a variable cannot cross the wall.
        """
        if self._busy:
            raise RuntimeError("This executor runs code already; spawn() one for each run.")
        self._busy = True
        try:
            return await self._run(code)
        finally:
            self._busy = False

    async def _run(self, code: str) -> CodeOutput:
        lease = await self._leased()
        message = await self._message(lease, code)
        output = Output(self.max_print_outputs_length)
        if self._lost:
            output.write(self._lost)
        self._step += 1
        step = HostStep(lease.link, self._step, self._tools, output, self.timeout_seconds, self.grace_seconds)
        self._tools_told, self._unsent, self._lost = True, {}, ""
        try:
            return await step.run(message)
        finally:
            if not lease.link.alive:
                await self._let_go()
                self._lost = ""  # the error says so

    async def _leased(self) -> Lease:
        """The guest of this run, a new one where there is none that can be used."""
        if self._lease is not None:
            self._lease.unpark()
            if self._lease.usable:
                return self._lease
            await self._let_go()
            self._lost = _LOST
        lease = await self._pool.lease()
        self._lease, self._tools_told = lease, False
        self._unsent = dict(self.state)
        self._finalizer = weakref.finalize(self, lease.abandon)
        return lease

    async def _message(self, lease: Lease, code: str) -> dict[str, Any]:
        message: dict[str, Any] = {"code": code, "prints": self.max_print_outputs_length or DEFAULT_MAX_PRINT}
        if self.wall.memory_mb is not None:
            message["memory"] = f"{self.wall.memory_mb} MB"
        if self.restrict_imports:
            message["imports"] = self.authorized_imports
        if not self._tools_told:
            message["tools"] = list(self._tools)
        if self._unsent:
            message["set"] = {name: await _sent(lease, name, v) for name, v in self._unsent.items()}
        return message

    async def isolation(self) -> Isolation:
        """Say what the wall holds off here, as found out on this machine."""
        lease = await self._leased()
        return self.wall.isolation(lease.link.facts)

    async def prepare(self) -> None:
        """Start the guests that are kept ready, and wait for them."""
        await self._pool.until_warm()

    async def aend_run(self) -> None:
        """Keep the variables for a next turn, as long as nobody else needs the place."""
        if self._lease is None:
            return
        if not self._lease.usable or not self._lease.park():
            await self._let_go()
            self._lost = _LOST

    async def acleanup(self) -> None:
        """End the guest; of the executor that others were spawned from, end all guests of this loop."""
        await self._let_go()
        if self._owns_pool:
            await self._pool.aclose()

    async def _let_go(self) -> None:
        lease, self._lease = self._lease, None
        if self._finalizer is not None:
            self._finalizer.detach()
        if lease is not None:
            await lease.aclose()


async def _sent(lease: Lease, name: str, value: Any) -> Any:
    try:
        return await lease.link.encode(value)
    except CannotCross as error:
        raise SandboxError(f"The variable {name!r} cannot be used: {error}.") from None
