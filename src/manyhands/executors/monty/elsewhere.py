"""Where blocks go that Monty cannot run, and the variables that go with them and come back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyhands.errors import InterpreterError
from manyhands.executors.monty.values import entering

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from manyhands.executors.base import CodeOutput, PythonExecutor


class Elsewhere:
    """Another executor, for the blocks that Monty cannot run.

    Args:
        executor: The executor of this run.

    Attributes:
        names: Variables that exist only there: a later block that reads one runs there too.
    """

    def __init__(self, executor: PythonExecutor) -> None:
        self.executor = executor
        self.names: set[str] = set()
        self._defined: dict[str, str] = {}
        #: Why variables of Monty did not come along, by name.
        self._left: dict[str, str] = {}

    def send_tools(self, tools: Mapping[str, Callable[..., Any]]) -> None:
        """Make ``tools`` callable there."""
        self.executor.send_tools(tools)

    async def bring(
        self, values: Mapping[str, Any], left: Mapping[str, str], definitions: Mapping[str, str]
    ) -> None:
        """Carry variables, functions, classes and imports over.

        Args:
            values: Plain variables.
            left: Variables that cannot be carried over, and why.
            definitions: Sources, by name.
        """
        self.executor.send_variables(dict(values))
        self._left = {name: why for name, why in left.items() if name not in definitions}
        new = {name: text for name, text in definitions.items() if self._defined.get(name) != text}
        if new:
            await self.executor.acall("\n".join(dict.fromkeys(new.values())))
            self._defined.update(new)

    async def run(self, code: str) -> CodeOutput:
        """Run a block.

        Raises:
            InterpreterError: It failed; where it missed a variable of Monty, the message says so.
        """
        try:
            return await self.executor.acall(code)
        except InterpreterError as error:
            for name, why in self._left.items():
                if f"name '{name}' is not defined" in error.message:
                    note = f"\n'{name}' could not be carried over from the block before: {why}"
                    raise InterpreterError(error.message + note, logs=error.logs) from error
            raise

    async def fetch(self, names: Iterable[str]) -> dict[str, Any]:
        """Return the variables that Monty can take; the others stay there alone."""
        found = {}
        for name in names:
            try:
                value = (await self.executor.acall(name)).output
                found[name] = entering(value, name)
                self.names.discard(name)
            except InterpreterError as error:
                if "is not defined" not in error.message:
                    self.names.add(name)
            except TypeError:
                self.names.add(name)
        return found
