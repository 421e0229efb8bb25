"""The executor: blocks in, values out, variables kept between as a few bytes."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from manyhands.errors import CallerError, ExecutionTimeoutError, InterpreterError, check_count, check_seconds
from manyhands.executors.base import CodeOutput, PythonExecutor, make_executor
from manyhands.executors.extras import need
from manyhands.executors.isolated.wall import Held, Isolation
from manyhands.executors.local.output import Output, shown
from manyhands.executors.monty.block import Block, TimeUp
from manyhands.executors.monty.elsewhere import Elsewhere
from manyhands.executors.monty.failures import Failure, failure_text
from manyhands.executors.monty.kept import Kept, loaded, needed_definitions, read_variables
from manyhands.executors.monty.source import MODULES, Source, read
from manyhands.executors.monty.values import entering
from manyhands.executors.monty.workers import default_workers, monty_package, shared_farm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

MAX_EXECUTION_TIME_SECONDS = 30
_NO_END = 2**31


class UnsupportedCodeError(InterpreterError):
    """Code needs something of Python that Monty does not have.

    Args:
        message: Source line and what is missing.
        logs: What the code had printed until then.
        lacks: What is missing, as a part of a sentence.
        rerun: Whether it may run elsewhere from its beginning: it has called no tool.
    """

    def __init__(self, message: str, *, logs: str = "", lacks: str = "", rerun: bool = False) -> None:
        super().__init__(message, logs=logs)
        self.lacks = lacks
        self.rerun = rerun


class MontyExecutor(PythonExecutor):
    """Runs the code of an agent in Monty: a small Python written in Rust, without files, network or system.

    A block runs in a worker process, of which there are few: while it waits for a tool or a person, and
    between blocks, all of its state is some kilobytes here and the worker serves others. Tools are plain
    functions, as with the local executor. Variables are plain data for the host: see :meth:`avariables`.

    A block that runs out of time or is cancelled leaves the variables as they were before it.

    Args:
        additional_authorized_imports: Modules beside those that Monty has; only a ``fallback`` has any.
        max_print_outputs_length: Characters of printed text that are kept.
        additional_functions: More functions for the code, called here like tools.
        timeout_seconds: Seconds that a block may take, without the time of its tools; None for no limit.
        memory_mb: Megabytes that the variables of a run may take.
        max_workers: Most worker processes at once, for all executors of this configuration; one for each
            processor unless given.
        park_after: Seconds after which a block that waits for a tool gives its worker back. Where others
            wait for a worker, it does so at once.
        fallback: Kind of executor, or an executor, for blocks with something that Monty does not have. Such
            a block runs there from its beginning if it has called no tool yet; plain variables, functions,
            classes and imports are carried over, and plain variables come back.
        fallback_kwargs: Parameters of an executor given by its kind.

    Attributes:
        authorized_imports: The modules that code may import.
        state: The variables that were sent to the code. :meth:`avariables` reads those that it has.

    Raises:
        MissingExtraError: ``pydantic_monty`` is not installed.
        CallerError: A module is asked for that Monty cannot have, or a limit is none.
    """

    def __init__(
        self,
        additional_authorized_imports: Iterable[str] = (),
        max_print_outputs_length: int | None = None,
        additional_functions: Mapping[str, Callable[..., Any]] | None = None,
        timeout_seconds: float | None = MAX_EXECUTION_TIME_SECONDS,
        *,
        memory_mb: int = 256,
        max_workers: int | None = None,
        park_after: float = 0.01,
        fallback: str | PythonExecutor | None = None,
        fallback_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        need("pydantic_monty", "MontyExecutor", "monty")
        self.timeout_seconds = check_seconds("timeout_seconds", timeout_seconds)
        self.memory_mb = check_count("memory_mb", memory_mb) or 256
        self.max_print_outputs_length = max_print_outputs_length
        self.park_after = park_after
        self.max_workers = check_count("max_workers", max_workers) or default_workers()
        self._functions = dict(additional_functions or {})
        modules = list(additional_authorized_imports)
        self._fallback = _fallback_executor(fallback, modules, fallback_kwargs)
        if self._fallback is None:
            _check_modules(modules)
        self.authorized_imports = sorted({*MODULES, *(modules if self._fallback else ())})
        self._farm = shared_farm(self.max_workers, self._limits())
        self._farm.owners += 1
        self._begin()
        self._owns = True

    def _limits(self) -> dict[str, Any]:
        limits = {"max_memory": self.memory_mb * 1024 * 1024, "max_suspensions": _NO_END}
        if self.timeout_seconds is not None:
            limits["max_feed_duration_secs"] = self.timeout_seconds  # type: ignore[assignment]
        return limits

    def _begin(self) -> None:
        self.state: dict[str, Any] = {}
        self._tools: dict[str, Any] = dict(self._functions)
        self._kept = Kept()
        self._inbox: dict[str, Any] = {}
        self._elsewhere: Elsewhere | None = None
        self._busy = False
        self._owns = False

    def spawn(self) -> MontyExecutor:
        """Return an executor with the same configuration, the same workers and no variables."""
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        new._begin()
        return new

    @property
    def imports_anything(self) -> bool:
        """Whether the code may import whatever is installed where its fallback runs."""
        return self._fallback is not None and self._fallback.imports_anything

    def send_tools(self, tools: Mapping[str, Callable[..., Any]]) -> None:
        """Make ``tools`` callable by name from the code."""
        self._tools = {**self._functions, **tools}
        if self._elsewhere is not None:
            self._elsewhere.send_tools(self._tools)

    def send_variables(self, variables: Mapping[str, Any]) -> None:
        """Set variables of the code.

        Raises:
            CallerError: One is no plain data; the message names it and its type.
        """
        try:
            ready = {name: entering(value, f"The variable '{name}'") for name, value in variables.items()}
        except TypeError as error:
            raise CallerError(str(error)) from error
        self._inbox.update(ready)
        self.state.update(variables)

    async def isolation(self) -> Isolation:
        """Say what Monty holds off from the code."""
        return Isolation(
            "monty",
            processes=Held(True, "the interpreter has no way to see or start a process"),
            memory=Held(
                True, f"at most {self.memory_mb} MB, in a process of its own with an empty environment"
            ),
            files=Held(True, "every access to a file is refused"),
            network=Held(True, "the interpreter has nothing that opens a connection"),
            syscalls=Held(False, "code has none, but the kernel does not confine the interpreter itself"),
        )

    async def aend_run(self) -> None:
        """Keep the variables for a next turn: they are a few kilobytes here."""
        if self._elsewhere is not None:
            await self._elsewhere.executor.aend_run()

    async def acleanup(self) -> None:
        """Drop the variables; end the workers if no other agent has them, and the fallback."""
        self._kept = Kept()
        if self._elsewhere is not None:
            elsewhere, self._elsewhere = self._elsewhere, None
            await elsewhere.executor.acleanup()
        if self._owns:
            self._owns = False
            self._farm.owners -= 1
            if self._fallback is not None:
                await self._fallback.acleanup()
            if not self._farm.owners:
                await self._farm.aclose()

    # --- One block ---------------------------------------------------------------------------------

    async def acall(self, code: str) -> CodeOutput:
        """Run ``code`` and return its last value and prints.

        Raises:
            UnsupportedCodeError: It needs something that Monty does not have.
            InterpreterError: It failed; its prints are in ``logs``.
            ExecutionTimeoutError: Its time is over, and it has ended.
        """
        if self._busy:
            raise RuntimeError("This executor runs code already; spawn() one for each run.")
        self._busy = True
        try:
            source = read(code, self._tools, self._kept.callers)
            if self._belongs_elsewhere(source):
                return await self._run_elsewhere(source)
            try:
                return await self._run(source)
            except UnsupportedCodeError as error:
                if self._fallback is None or not error.rerun:
                    raise
            return await self._run_elsewhere(source)
        finally:
            self._busy = False

    async def _run(self, source: Source) -> CodeOutput:
        output = Output(self.max_print_outputs_length)
        kept, prelude = self._kept.after(source, self._inbox)
        block = Block(self._farm, self._tools, kept, self.timeout_seconds, self.park_after, output)
        broken = True
        try:
            result = await self._produce(block, prelude, source, output)
            broken = False
            return result
        except _Failed as failed:
            broken = failed.broken
            raise failed.error from failed.origin
        finally:
            await block.end(broken=broken)

    async def _produce(self, block: Block, prelude: list[str], source: Source, output: Output) -> CodeOutput:
        package = monty_package()
        try:
            value = await block.run(prelude, source.text, self._inbox)
            await self._keep(block)
            if self._elsewhere is not None:
                self._elsewhere.names -= source.binds
        except TimeUp:
            if block.answer is None:
                raise _Failed(self._timeout(output), broken=True) from None
        except package.MontyCrashedError as error:
            failure = self._timeout(output) if error.timed_out else _crashed(error, output)
            raise _Failed(failure, broken=True) from error
        except package.MontyError as error:
            raise await self._failed(block, Failure.of(error), source, output) from None
        except (RuntimeError, RecursionError, ValueError, TypeError) as error:
            raise _Failed(_crashed(error, output), broken=True) from error
        if block.answer is not None:
            answer = block.answer[0]
            return CodeOutput(answer, output.text(), True, shown(answer))
        return CodeOutput(value, output.text(), False, shown(value))

    async def _keep(self, block: Block) -> None:
        """Keep the variables as they are now."""
        self._kept = replace(block.kept, image=await block.image())
        self._inbox = {}

    async def _failed(self, block: Block, failure: Failure, source: Source, output: Output) -> _Failed:
        """Return what to raise for a failure; the variables stay as the code left them, if they can."""
        if failure.is_timeout:
            return _Failed(self._timeout(output), broken=True)
        if failure.is_memory:
            note = f"\n(The variables of this run may take {self.memory_mb} MB.)"
            text = self._text(block, failure, source, failure.kind, "") + note
            return _Failed(InterpreterError(text, logs=output.text()), broken=True)
        error, origin = self._error(block, failure, source, output)
        runs_elsewhere = (
            isinstance(error, UnsupportedCodeError) and error.rerun and self._fallback is not None
        )
        if not runs_elsewhere:
            try:
                image = await block.image_after_error()
            except (RuntimeError, monty_package().MontyError):
                return _Failed(error, broken=True, origin=origin)
            self._kept = replace(block.kept, image=image, feeds=block.kept.feeds + 1)
            self._inbox = {}
        return _Failed(error, broken=False, origin=origin)

    def _error(
        self, block: Block, failure: Failure, source: Source, output: Output
    ) -> tuple[InterpreterError, BaseException | None]:
        """Return the error to raise, and the tool's own that caused it."""
        origin = block.raised.get(failure.message)
        if origin is not None:
            text = self._text(block, failure, source, type(origin).__name__, "")
            return InterpreterError(text, logs=output.text()), origin
        lacks = failure.lacks(block.missing_module)
        text = self._text(block, failure, source, failure.kind, lacks)
        if not lacks:
            return InterpreterError(text, logs=output.text()), None
        rerun = not block.called
        return UnsupportedCodeError(text, logs=output.text(), lacks=lacks, rerun=rerun), None

    def _text(self, block: Block, failure: Failure, source: Source, kind: str, lacks: str) -> str:
        names = [*self._tools, *block.kept.names]
        return failure_text(failure, kind, source.code, names, lacks)

    def _timeout(self, output: Output) -> ExecutionTimeoutError:
        return ExecutionTimeoutError(
            f"Code execution exceeded the maximum execution time of {self.timeout_seconds} seconds",
            logs=output.text(),
        )

    # --- Variables ---------------------------------------------------------------------------------

    async def avariables(self, names: Iterable[str] | None = None) -> dict[str, Any]:
        """Read variables of the code; those that are no plain data are left out.

        Args:
            names: Which; all unless given.
        """
        wanted = {*self._kept.names, *self._inbox} if names is None else set(names)
        values, _ = await self._read(sorted(wanted))
        return {
            **values,
            **{name: value for name, value in self._inbox.items() if name in wanted},
        }

    async def _read(self, names: Iterable[str]) -> tuple[dict[str, Any], dict[str, str]]:
        """Return values by name, and why the others cannot be read."""
        if self._kept.image is None or not names:
            return {}, {}
        place = await self._farm.enter()
        try:
            return await place.do(partial(read_variables, self._kept.image, list(names)))
        finally:
            await place.leave()

    # --- Elsewhere ---------------------------------------------------------------------------------

    def _belongs_elsewhere(self, source: Source) -> bool:
        if self._fallback is None:
            return False
        if self._elsewhere is not None and source.loads & self._elsewhere.names:
            return True
        return any(module not in MODULES for module in source.imports)

    async def _run_elsewhere(self, source: Source) -> CodeOutput:
        elsewhere = self._elsewhere
        if elsewhere is None:
            assert self._fallback is not None
            elsewhere = self._elsewhere = Elsewhere(self._fallback.spawn())
            elsewhere.send_tools(self._tools)
        definitions = needed_definitions(source.loads, self._kept.definitions)
        wanted = source.loads.union(*(loaded(text) for text in definitions.values()))
        wanted = (wanted & (self._kept.names | self._inbox.keys())) - elsewhere.names
        values, left = await self._read(sorted(wanted - self._inbox.keys()))
        values |= {name: value for name, value in self._inbox.items() if name in wanted}
        await elsewhere.bring(values, left, definitions)
        changed = sorted({*source.binds, *values})
        try:
            result = await elsewhere.run(source.code)
        except InterpreterError:
            self._inbox.update(await elsewhere.fetch(changed))
            raise
        self._inbox.update(await elsewhere.fetch(changed))
        return result


class _Failed(Exception):
    """A failure on its way out.

    Args:
        error: What to raise.
        broken: The worker holds something half done.
        origin: The error of a tool that caused it.
    """

    def __init__(self, error: InterpreterError, *, broken: bool, origin: BaseException | None = None) -> None:
        self.error = error
        self.broken = broken
        self.origin = origin


def _crashed(error: Exception, output: Output) -> InterpreterError:
    message = f"Code execution failed: the interpreter could not go on ({type(error).__name__}: {error})."
    return InterpreterError(message, logs=output.text())


def _fallback_executor(
    fallback: str | PythonExecutor | None, modules: list[str], options: Mapping[str, Any] | None
) -> PythonExecutor | None:
    if fallback is None or isinstance(fallback, PythonExecutor):
        return fallback
    if fallback == "monty":
        raise CallerError('The fallback of MontyExecutor must be another executor, not "monty".')
    return make_executor(fallback, modules, **(options or {}))


def _check_modules(modules: list[str]) -> None:
    for module in modules:
        top = module.partition(".")[0]
        if top != "*" and top not in MODULES and top not in sys.stdlib_module_names:
            raise CallerError(
                f"Monty cannot import '{module}': it has {len(MODULES)} modules of the standard library and "
                'no others. Use executor_type="process" or "docker", or give it a fallback: '
                'executor_kwargs={"fallback": "process"}.'
            )


__all__ = ["MontyExecutor", "UnsupportedCodeError"]
