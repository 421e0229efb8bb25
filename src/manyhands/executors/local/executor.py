"""The executor: sources in, values out, variables kept between."""

from __future__ import annotations

import ast
import asyncio
import random
import threading
from collections import OrderedDict
from contextvars import Context, copy_context
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

from manyhands.errors import ExecutionTimeoutError, InterpreterError
from manyhands.executors.base import CodeOutput, PythonExecutor
from manyhands.executors.local import explain, policy
from manyhands.executors.local.aio import await_value
from manyhands.executors.local.builtins import base_builtins
from manyhands.executors.local.concurrency import TaskNames
from manyhands.executors.local.modules import BASE_BUILTIN_MODULES, Modules
from manyhands.executors.local.output import Output, shown
from manyhands.executors.local.rewrite import DUE, RESULT, Forbidden, Rewriter
from manyhands.executors.local.switch import Finished, Step, Stop, Strand, TimeUp, current_step, drive
from manyhands.executors.local.tools import ToolFunction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import CodeType

#: Seconds that one snippet may take, as users know it.
MAX_EXECUTION_TIME_SECONDS = 30

_BUILTINS = base_builtins()


class Kit(NamedTuple):
    """The tools of some code.

    Attributes:
        builtins: The builtins of the code, the tools among them.
        names: Names of the tools; they cannot be assigned.
        tools: The tools, kept alive: their ids are looked up.
    """

    builtins: dict[str, Any]
    names: frozenset[str]
    tools: list[Any]


class Shared:
    """What executors of one configuration have in common: rules, module views, compiled code, kits of
    tools.

    Args:
        authorized: Names of modules that may be imported.
        functions: Additional functions of the code.
    """

    def __init__(self, authorized: Iterable[str], functions: Mapping[str, Callable[..., Any]]) -> None:
        self.modules = Modules(authorized)
        self.functions = dict(functions)
        self._programs: OrderedDict[Any, CodeType] = OrderedDict()
        self._kits: OrderedDict[Any, Kit] = OrderedDict()
        self._lock = threading.Lock()
        self.bare = self.kit({})

    def program(self, source: str, mode: str, tools: frozenset[str]) -> CodeType:
        """Compiled code of ``source``; the same source is rewritten once."""
        if type(source) is not str:
            raise TypeError("source must be a plain string")  # it is a key that other runs look up
        key = (source, mode, tools)
        with self._lock:
            found = self._programs.get(key)
            if found is not None:
                self._programs.move_to_end(key)
                return found
        made = translate(source, mode, tools)
        with self._lock:
            self._programs[key] = made
            if len(self._programs) > 256:
                self._programs.popitem(last=False)
        return made

    def kit(self, tools: Mapping[str, Any]) -> Kit:
        """What code that has ``tools`` finds; runs with the same tools share one."""
        key = tuple((name, id(tool)) for name, tool in tools.items())
        with self._lock:
            found = self._kits.get(key)
            if found is None:
                called = {name: ToolFunction(name, tool) for name, tool in tools.items()}
                found = Kit({**_BUILTINS, **self.functions, **called}, frozenset(tools), list(tools.values()))
                self._kits[key] = found
                if len(self._kits) > 64:
                    self._kits.popitem(last=False)
            else:
                self._kits.move_to_end(key)
        return found


def translate(source: str, mode: str, tools: frozenset[str]) -> CodeType:
    """Parse, check, rewrite, compile."""
    if len(source) > policy.MAX_SOURCE:
        raise Forbidden(f"The code is longer than {policy.MAX_SOURCE:,} characters.")
    try:
        tree: Any = ast.parse(source, explain.FILENAME, "eval" if mode == "eval" else "exec")
        rewriter = Rewriter(tools, TaskNames(source, tree))
        if mode == "eval":
            new: Any = rewriter.expression(tree)
        else:
            new = rewriter.module(tree, keep_result=mode == "step")
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT if rewriter.needs_async else 0
        if rewriter.future_annotations:
            flags |= 0x1000000  # CO_FUTURE_ANNOTATIONS
        made: CodeType = compile(
            new, explain.FILENAME, "eval" if mode == "eval" else "exec", flags, dont_inherit=True
        )
        return made
    except (RecursionError, MemoryError):
        raise Forbidden("The code is nested too deeply.") from None
    except ValueError as error:
        raise Forbidden(f"The code cannot be compiled: {error}") from None


class LocalPythonExecutor(PythonExecutor):
    """Runs the code of an agent in this process: real Python, checked, interruptible, with tools as plain
    functions.

    It is a guard rail against mistakes and many attacks, not a security boundary; where the code may be
    hostile,
    use an isolated executor.

    Args:
        additional_authorized_imports: Modules that may be imported besides the base modules: ``"pkg"``,
            ``"pkg.sub"``, ``"pkg.*"``, ``"*"``.
        max_print_outputs_length: Characters of printed text that are kept.
        additional_functions: More functions for the code, callable like builtins.
        timeout_seconds: Seconds that one snippet may take, not counting the time in tools; None for no limit.
    """

    def __init__(
        self,
        additional_authorized_imports: Iterable[str] = (),
        max_print_outputs_length: int | None = None,
        additional_functions: Mapping[str, Callable[..., Any]] | None = None,
        timeout_seconds: float | None = MAX_EXECUTION_TIME_SECONDS,
    ) -> None:
        self.additional_authorized_imports = list(additional_authorized_imports)
        self.authorized_imports = sorted({*BASE_BUILTIN_MODULES, *self.additional_authorized_imports})
        self.max_print_outputs_length = max_print_outputs_length
        self.timeout_seconds = timeout_seconds
        self._shared = Shared(self.authorized_imports, additional_functions or {})
        self._shared.modules.check_installed(self.additional_authorized_imports)
        self._begin()

    def _begin(self) -> None:
        self.state: dict[str, Any] = {"__name__": "__main__"}
        self._kit = self._shared.bare
        self._random: random.Random | None = None
        self._decimal: Any = None
        self._numpy_random: Any = None
        self._busy = False
        #: From which level on ``logging`` prints.
        self.log_level = 30

    def spawn(self) -> LocalPythonExecutor:
        """Return an executor with the same configuration and tools of its own, for another run."""
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        new._begin()
        return new

    def send_tools(self, tools: Mapping[str, Callable[..., Any]]) -> None:
        """Make ``tools`` callable by name from the code."""
        self._kit = self._shared.kit(tools)

    def send_variables(self, variables: Mapping[str, Any]) -> None:
        """Set variables of the code."""
        self.state.update({name: self.modules.shown(value) for name, value in variables.items()})

    async def acall(self, code: str) -> CodeOutput:
        """Run ``code`` and return its last value and prints.

        Raises:
            InterpreterError: The code failed, or was refused; its prints are in ``logs``.
            ExecutionTimeoutError: Its time is over, and it has ended.
        """
        output = Output(self.max_print_outputs_length)
        program = self._compiled(code)
        if self._busy:
            raise RuntimeError("This executor runs code already; spawn() one for each run.")
        step = Step(self.state, output, self.timeout_seconds, self)
        outcome = Outcome(step, program)
        self._busy = True
        self.state["__builtins__"] = self._kit.builtins
        self.state.setdefault("__name__", "__main__")
        self.state[DUE] = True
        try:
            await drive(self._main_strand(outcome))
        finally:
            step.close()
            try:
                if step.children:
                    await step.end_children()
            finally:
                self._busy = False
                self.state.pop(RESULT, None)
        return self._came_of(outcome, code)

    def _compiled(self, code: str) -> CodeType:
        try:
            return self._shared.program(code, "step", self._kit.names)
        except Forbidden as refused:
            raise InterpreterError(explain.refused_text(str(refused), code, refused.node)) from None
        except SyntaxError as error:
            raise InterpreterError(explain.syntax_text(error)) from error

    def _main_strand(self, outcome: Outcome) -> Strand:
        strand = Strand(outcome.step, outcome.produce, self._context())
        strand.driver = asyncio.current_task()
        outcome.step.main = strand
        return strand

    def _came_of(self, outcome: Outcome, code: str) -> CodeOutput:
        step = outcome.step
        logs = step.output.text()
        if step.stop is Finished:
            return CodeOutput(step.answer, logs, True, step.shown)
        if step.stop is TimeUp:
            raise ExecutionTimeoutError(self._timeout_text(), logs=logs)
        if outcome.error is not None:
            raise self._failure(step, outcome.error, code, logs)
        return CodeOutput(outcome.value, logs, False, step.shown)

    def _timeout_text(self) -> str:
        return f"Code execution exceeded the maximum execution time of {self.timeout_seconds} seconds"

    def _failure(self, step: Step, error: BaseException, code: str, logs: str) -> InterpreterError:
        names = [*self.state, *self._kit.builtins]
        failure = InterpreterError(explain.failure_text(error, code, names), logs=logs)
        _, origin = (step.origins or {}).get(id(error), (None, error))
        failure.__cause__ = origin
        return failure

    def _context(self) -> Context:
        context = copy_context()
        if self._decimal is not None:
            import decimal

            context.run(decimal.setcontext, self._decimal)
        return context

    # --- what the code's own functions ask of the executor -------------------------------------

    @property
    def modules(self) -> Modules:
        """The module views."""
        return self._shared.modules

    @property
    def random(self) -> random.Random:
        """The random numbers of this run."""
        if self._random is None:
            self._random = random.Random()
        return self._random

    @property
    def numpy_random(self) -> Any:
        """The random numbers of this run, as numpy makes them."""
        if self._numpy_random is None:
            import numpy  # type: ignore[import-not-found, unused-ignore]

            self._numpy_random = numpy.random.RandomState()
        return self._numpy_random

    def own_decimal_context(self) -> None:
        """Give the run a decimal context of its own."""
        import decimal

        if self._decimal is None:
            self._decimal = decimal.DefaultContext.copy()
            decimal.setcontext(self._decimal)

    def compile(self, source: str, mode: str) -> CodeType:
        """Compile the argument of ``eval`` or ``exec``."""
        try:
            return self._shared.program(source, mode, self._kit.names)
        except Forbidden as refused:
            raise InterpreterError(str(refused)) from None

    def execute(self, source: str, mode: str, globals: Any, locals: Any) -> Any:
        """``eval`` and ``exec``.

        Code under the same rules, in the variables of the run or in a dict of the code.
        """
        program = self.compile(source, mode)
        if globals is None and locals is None:
            return eval(program, self.state)
        names: dict[str, Any] = dict(self.state if globals is None else globals)
        before = dict(names)
        names["__builtins__"] = self.state["__builtins__"]
        names[DUE] = True  # nobody resets it here: each checkpoint asks the step itself
        if locals is not None:
            names.update(locals)
        value = eval(program, names)
        target = locals if locals is not None else globals
        for name, new in names.items():
            if "$" not in name and name != "__builtins__" and before.get(name, names) is not new:
                target[name] = new
        return value

    def bind_star(self, members: Mapping[str, Any]) -> None:
        """``from module import *``."""
        self.state.update({name: value for name, value in members.items() if name not in self._kit.names})


class Outcome:
    """Runs a program inside its strand and catches whatever comes out: nothing passes but through here."""

    __slots__ = ("error", "program", "step", "value")

    def __init__(self, step: Step, program: CodeType) -> None:
        self.step = step
        self.program = program
        self.value: Any = None
        self.error: BaseException | None = None

    def produce(self) -> None:
        namespace = self.step.namespace
        try:
            # As eval() does it, without eval()'s own C stack: that would be kept while the code waits.
            pending = FunctionType(self.program, namespace)()
            if pending is not None:
                await_value(pending)
            self.value = namespace.pop(RESULT, None)
            self.step.shown = shown(self.value)
        except Stop:
            self.step.halt(TimeUp if self.step.stop is None else self.step.stop)
        except BaseException as error:
            self.error = error


def evaluate_python_code(
    code: str,
    static_tools: Mapping[str, Callable[..., Any]] | None = None,
    custom_tools: Mapping[str, Callable[..., Any]] | None = None,
    state: dict[str, Any] | None = None,
    authorized_imports: Iterable[str] = BASE_BUILTIN_MODULES,
    max_print_outputs_length: int | None = None,
    timeout_seconds: float | None = MAX_EXECUTION_TIME_SECONDS,
) -> tuple[Any, bool]:
    """Run one snippet and return its value and whether that is a final answer.

    Args:
        code: The source.
        static_tools: Functions that the code may call and not overwrite.
        custom_tools: Functions that it may call; they are variables.
        state: Its variables; changed in place.
        authorized_imports: Modules that may be imported.
        max_print_outputs_length: Characters of printed text that are kept.
        timeout_seconds: Seconds it may take.

    Returns:
        The value of the last expression or the final answer, and whether it is one.
    """
    executor = LocalPythonExecutor(authorized_imports, max_print_outputs_length, None, timeout_seconds)
    executor.state = {"__name__": "__main__"} if state is None else state
    executor.send_tools({**(custom_tools or {}), **(static_tools or {})})
    try:
        result = executor(code)
        executor.state["_print_outputs"] = result.logs
    except InterpreterError as error:
        executor.state["_print_outputs"] = error.logs
        raise
    return result.output, result.is_final_answer


__all__ = ["LocalPythonExecutor", "current_step", "evaluate_python_code"]
