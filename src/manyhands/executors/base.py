"""What every executor of generated code looks like to an agent."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from manyhands._bridge import call_user, run_sync
from manyhands.errors import AgentError, CallerError, InterpreterError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(slots=True)
class CodeOutput:
    """What one block of code gave.

    Attributes:
        output: The value of its last expression, or the final answer.
        logs: What it printed.
        is_final_answer: Whether it called ``final_answer``.
        shown: The text of ``output`` where the executor has made it; None to use ``str(output)``.
    """

    output: Any
    logs: str
    is_final_answer: bool
    shown: str | None = None


class PythonExecutor(ABC):
    """Runs code blocks one after the other; variables live from block to block.

    A subclass writes :meth:`acall`. Failures of the code are raised as
    :class:`~manyhands.errors.InterpreterError`, with what was printed in its ``logs``.

    Attributes:
        state: The variables of the code.
    """

    state: dict[str, Any]

    @abstractmethod
    async def acall(self, code: str) -> CodeOutput:
        """Run ``code`` and return its last value and prints.

        Raises:
            InterpreterError: The code failed, or ran out of time.
        """

    @abstractmethod
    def send_tools(self, tools: Mapping[str, Callable[..., Any]]) -> None:
        """Make ``tools`` callable by name from the code."""

    @abstractmethod
    def send_variables(self, variables: Mapping[str, Any]) -> None:
        """Set variables of the code."""

    def spawn(self) -> PythonExecutor:
        """Return an executor with the same configuration and no variables, for another run.

        One that cannot be multiplied leaves this as it is: it serves one run after the other.
        """
        return self

    @property
    def serves_one_run(self) -> bool:
        """Whether it is one for all runs, which then take turns."""
        return type(self).spawn is PythonExecutor.spawn

    async def async_call(self, code: str) -> CodeOutput:
        """Run ``code``: another name of :meth:`acall`."""
        return await self.acall(code)

    def __call__(self, code: str) -> CodeOutput:
        """Run ``code`` from sync code."""
        return run_sync(self.acall(code))

    def cleanup(self) -> None:
        """Release what the executor holds, from sync code."""
        run_sync(self.acleanup())

    async def acleanup(self) -> None:  # noqa: B027 - most executors hold nothing
        """Release what the executor holds."""

    async def aend_run(self) -> None:
        """Note that the run is over: releases everything, unless the executor can keep variables.

        A next turn of the same conversation may still come and ask for them.
        """
        await self.acleanup()

    @property
    def imports_anything(self) -> bool:
        """Whether the code may import whatever is installed where it runs."""
        return False


class ForeignExecutor(PythonExecutor):
    """An executor of another library: an object that is called with code.

    Args:
        executor: The object; it may have ``send_tools``, ``send_variables``, ``state`` and ``cleanup``.
    """

    def __init__(self, executor: Any) -> None:
        self.executor = executor
        self.state = getattr(executor, "state", {})

    async def acall(self, code: str) -> CodeOutput:
        """Run ``code``; whatever the executor raises is an error of the code."""
        try:
            result = await call_user(self.executor, code)
        except AgentError:
            raise
        except Exception as error:
            raise InterpreterError(f"{type(error).__name__}: {error}") from error
        return CodeOutput(result.output, result.logs, result.is_final_answer)

    def send_tools(self, tools: Mapping[str, Callable[..., Any]]) -> None:
        """Make ``tools`` callable by name from the code."""
        self.executor.send_tools(dict(tools))

    def send_variables(self, variables: Mapping[str, Any]) -> None:
        """Set variables of the code."""
        self.executor.send_variables(dict(variables))

    async def acleanup(self) -> None:
        """Release what the executor holds."""
        if hasattr(self.executor, "cleanup"):
            await call_user(self.executor.cleanup)


def as_executor(executor: Any) -> PythonExecutor:
    """Return ``executor`` as one of ours.

    Raises:
        CallerError: It cannot be called with code.
    """
    if isinstance(executor, PythonExecutor):
        return executor
    if callable(executor) and hasattr(executor, "send_tools"):
        return ForeignExecutor(executor)
    raise CallerError(f"{executor!r} cannot be an executor: subclass PythonExecutor and write acall().")


# Kinds of executor by name: imported when an agent asks for one.
_KINDS = {
    "local": ("manyhands.executors.local", "LocalPythonExecutor"),
    "process": ("manyhands.executors.isolated.process", "ProcessExecutor"),
    "docker": ("manyhands.executors.isolated.docker", "DockerExecutor"),
    "monty": ("manyhands.executors.monty", "MontyExecutor"),
    "e2b": ("manyhands.executors.isolated.e2b", "E2BExecutor"),
    "modal": ("manyhands.executors.isolated.modal", "ModalExecutor"),
}


def check_executor_kind(kind: str) -> None:
    """Check that ``kind`` names a kind of executor.

    Raises:
        CallerError: There is no such kind.
    """
    if kind not in _KINDS:
        raise CallerError(f"There is no executor_type {kind!r}; known are {', '.join(_KINDS)}.")


def make_executor(kind: str, *args: Any, **kwargs: Any) -> PythonExecutor:
    """Make an executor by the name of its kind.

    Args:
        kind: ``local``, ``process``, ``docker``, ``monty``, ``e2b`` or ``modal``.
        *args: Its parameters.
        **kwargs: Its parameters.

    Raises:
        CallerError: There is no such kind.
    """
    check_executor_kind(kind)
    module, name = _KINDS[kind]
    executor: PythonExecutor = getattr(importlib.import_module(module), name)(*args, **kwargs)
    return executor
