"""What every executor of generated code looks like to an agent."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from manyhands._bridge import run_sync
from manyhands.errors import CallerError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(slots=True)
class CodeOutput:
    """What one block of code gave.

    Attributes:
        output: The value of its last expression, or the final answer.
        logs: What it printed.
        is_final_answer: Whether it called ``final_answer``.
    """

    output: Any
    logs: str
    is_final_answer: bool


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

        An executor that cannot be multiplied returns itself; its runs then take turns.
        """
        return self

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


# Kinds of executor by name: imported when an agent asks for one.
_KINDS = {"local": ("manyhands.executors.local", "LocalPythonExecutor")}


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
        kind: ``local``.
        *args: Its parameters.
        **kwargs: Its parameters.

    Raises:
        CallerError: There is no such kind.
    """
    check_executor_kind(kind)
    module, name = _KINDS[kind]
    executor: PythonExecutor = getattr(importlib.import_module(module), name)(*args, **kwargs)
    return executor
