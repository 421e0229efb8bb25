"""What a tool is, how a function becomes one, and how tools are found by name.

A tool is a description (name, arguments as JSON schema, result) and a ``forward`` that does the
work, sync or async. It holds no state of a call: one tool object serves any number of runs at once,
and everything derived from its description is made once and kept on it.
"""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
import threading
from abc import ABC, abstractmethod
from asyncio import events
from typing import TYPE_CHECKING, Any, overload

from manyhands._bridge import call_sync, is_async_callable, run_sync
from manyhands.errors import ToolDefinitionError, UnknownToolError, check_seconds
from manyhands.schema import (
    NO_DEFAULT,
    FunctionDescription,
    Parameter,
    ResultDescription,
    Signature,
    describe_function,
    fields_text,
    nearest,
    python_type,
)
from manyhands.tools.definition import (
    check_approval,
    check_forward,
    check_inputs,
    check_texts,
    check_tool_name,
)
from manyhands.tools.setup import Turn, set_up, set_up_now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from manyhands.limits.tools import ToolCare


class BaseTool(ABC):
    """Anything an agent can call by name."""

    name: str

    @abstractmethod
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Do the work."""


# --- A tool ------------------------------------------------------------------------------------


def _checked(init: Callable[..., None]) -> Callable[..., None]:
    """Wrap an ``__init__`` so that the tool is checked once the outermost one has finished."""

    @functools.wraps(init)
    def checked_init(self: Tool, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if type(self).__init__ is checked_init:
            self._finish()

    checked_init.checks = True  # type: ignore[attr-defined]
    return checked_init


class Tool(BaseTool):
    """A function that an agent may call, with the description that its model sees.

    A subclass sets the class attributes and writes ``forward``, either ``def`` or ``async def``.
    If it leaves ``inputs`` out, they are read from the type hints and the docstring of ``forward``.

    Attributes:
        name: A Python identifier.
        description: What the tool does, for the model.
        inputs: For each argument of ``forward`` its JSON schema: ``type`` (one of
            ``AUTHORIZED_TYPES``, or a list of them), ``description``, and ``nullable`` if it may be
            left out.
        output_type: One of ``AUTHORIZED_TYPES``.
        output_schema: JSON schema of a structured result, or ``None``.
        forward: The work. A sync one never runs on the event loop of async callers.
        is_initialized: Whether :meth:`setup` has been done.
        timeout: Most seconds of a call by an agent; ``None`` leaves it to the agent's ``tool_timeout``.
        max_concurrency: Most calls at once, by all agents together.
        retries: How often a failed call is made again, after the errors in ``retry_on``, or after any if
            the tool is ``idempotent``.
        retry_on: Errors after which a call may be made again.
        idempotent: Whether calling twice does no harm.
        circuit_breaker: Failures in a row after which calls are refused for a minute, or a
            :class:`~manyhands.limits.tools.CircuitBreaker`.
        requires_approval: Whether a person has to approve each call by an agent; or a sync or async function
            of the arguments (a method, in a subclass) that returns whether, or why.
    """

    name: str
    description: str
    inputs: dict[str, dict[str, Any]]
    output_type: str
    output_schema: dict[str, Any] | None = None
    forward: Callable[..., Any]
    skip_forward_signature_validation = False
    is_initialized = False
    # A tool that keeps its own time is never cut.
    keeps_own_time = False
    timeout: float | None = None
    max_concurrency: int | None = None
    retries: int = 0
    retry_on: tuple[type[Exception], ...] | type[Exception] = ()
    idempotent = False
    circuit_breaker: Any = None
    requires_approval: Any = False
    care: ToolCare | None = None

    # What a function said about itself; an attribute that is set later wins over it.
    _parameters: list[Parameter] | None = None
    _result: ResultDescription | None = None
    # Derived from the description, made on first use, dropped when the description changes.
    _facts: _Facts | None = None
    _setting_up: Turn | None = None

    @_checked
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__ or not hasattr(cls.__init__, "checks"):
            cls.__init__ = _checked(cls.__init__)  # type: ignore[method-assign]

    def _finish(self) -> None:
        if not callable(getattr(self, "forward", None)):
            raise ToolDefinitionError(
                f"The tool class {type(self).__name__} has no `forward`: "
                "write `def forward(self, ...)` or `async def forward(self, ...)`."
            )
        if getattr(self, "inputs", None) is None:
            self._derive()
        check_texts(self)
        check_inputs(self)
        if not self.skip_forward_signature_validation and self._parameters is None:
            check_forward(self)
        if getattr(self.setup, "__func__", None) is Tool.setup:
            self.is_initialized = True
        check_seconds("timeout", self.timeout)
        check_approval(self)
        if self.max_concurrency or self.retries or self.circuit_breaker:
            self.care = self._make_care()

    def _make_care(self) -> ToolCare:
        from manyhands.limits.tools import ToolCare

        return ToolCare(
            max_concurrency=self.max_concurrency,
            retries=self.retries,
            retry_on=self.retry_on,
            idempotent=self.idempotent,
            circuit_breaker=self.circuit_breaker,
        )

    def _derive(self) -> None:
        """Fill in what the class does not say from its ``forward``."""
        name = getattr(self, "name", None) or type(self).__name__
        told = describe_function(self.forward, name=name, description=getattr(self, "description", None))
        self._describe(told)

    def _describe(self, told: FunctionDescription) -> None:
        """Take over what a function says about itself, except what is set already."""
        self.inputs = {parameter.name: parameter.schema for parameter in told.parameters}
        if not hasattr(self, "description"):
            self.description = told.description
        if not hasattr(self, "output_type"):
            self.output_type = told.result.type
            self.output_schema = self.output_schema or told.result.schema
            self._result = told.result
        self._parameters = told.parameters

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        if name in _DESCRIBING:
            object.__setattr__(self, "_facts", None)
            for derived in _OUTDATED.get(name, ()):
                object.__setattr__(self, derived, None)

    def setup(self) -> Any:
        """Prepare what is expensive (a client, a model); done once, before the first call.

        A subclass may write it as ``def`` or ``async def``.
        """

    # - Calling -

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """Call the tool.

        Args:
            *args: Arguments of ``forward``; a single dict whose keys are all inputs is unpacked.
            **kwargs: Arguments of ``forward``.

        Returns:
            What ``forward`` returns.
        """
        if not self.is_initialized:
            await set_up(self)
        facts = self._facts or self._learn()
        if (args and not kwargs) or facts.signature.converts:
            args, kwargs = _prepared(args, kwargs, facts.signature)
        if facts.is_async:
            return await self.forward(*args, **kwargs)
        result = await call_sync(functools.partial(self.forward, *args, **kwargs), label=facts.label)
        return await result if inspect.isawaitable(result) else result

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the tool from code of either kind.

        A sync tool runs right here, in the thread of the caller. An async tool is run to its end
        where no event loop runs, and returns an awaitable where one does: ``await tool(...)``.
        """
        facts = self._facts or self._learn()
        if facts.is_async or (not self.is_initialized and is_async_callable(self.setup)):
            call = self.acall(*args, **kwargs)
            return run_sync(call) if events._get_running_loop() is None else call
        if not self.is_initialized:
            set_up_now(self)
        args, kwargs = _prepared(args, kwargs, facts.signature)
        result = self.forward(*args, **kwargs)
        if inspect.isawaitable(result) and events._get_running_loop() is None:
            return run_sync(result)
        return result

    # - Describing -

    @property
    def is_async(self) -> bool:
        """Whether ``forward`` is async."""
        return (self._facts or self._learn()).is_async

    @property
    def signature(self) -> Signature:
        """The arguments, ready to check calls with."""
        return (self._facts or self._learn()).signature

    def check_arguments(self, arguments: Any) -> dict[str, Any]:
        """Check the arguments of a model's call.

        Args:
            arguments: A mapping, or the JSON text of one.

        Returns:
            The arguments, with values turned into the objects that ``forward`` expects.

        Raises:
            AgentToolCallError: An argument is unknown, missing or of the wrong type; the text names
                all of them and what is allowed.
        """
        return (self._facts or self._learn()).signature.check(arguments)

    def json_schema(self) -> dict[str, Any]:
        """Return the tool in OpenAI's function format; the same object every time."""
        facts = self._facts or self._learn()
        if facts.json_schema is None:
            function = {
                "name": self.name,
                "description": self.description,
                "parameters": facts.signature.json_schema(),
            }
            facts.json_schema = {"type": "function", "function": function}
        return facts.json_schema

    def to_code_prompt(self) -> str:
        """Return the tool as a Python function with a docstring, for a model that writes code."""
        facts = self._facts or self._learn()
        if facts.code_prompt is None:
            facts.code_prompt = _code_prompt(self, facts.signature)
        return facts.code_prompt

    def to_tool_calling_prompt(self) -> str:
        """Return the tool as text, for a model that writes tool calls."""
        return (
            f"{self.name}: {self.description}\n"
            f"    Takes inputs: {self.inputs}\n"
            f"    Returns an output of type: {self.output_type}"
        )

    def _learn(self) -> _Facts:
        facts = _Facts(self)
        object.__setattr__(self, "_facts", facts)
        return facts

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {getattr(self, 'name', '?')}>"


_DESCRIBING = frozenset({"name", "description", "inputs", "output_type", "output_schema", "forward"})
_OUTDATED = {"inputs": ("_parameters",), "output_type": ("_result",), "output_schema": ("_result",)}


class _Facts:
    """What follows from a tool's description."""

    __slots__ = ("code_prompt", "is_async", "json_schema", "label", "signature")

    def __init__(self, tool: Tool) -> None:
        self.is_async = is_async_callable(tool.forward)
        self.label = f"tool-{tool.name}"
        self.signature = Signature(tool.name, tool._parameters or _parameters_from_inputs(tool))
        self.json_schema: dict[str, Any] | None = None
        self.code_prompt: str | None = None


def _parameters_from_inputs(tool: Tool) -> list[Parameter]:
    if tool.skip_forward_signature_validation:
        # What is left out is left to `forward`, whose defaults nobody knows.
        return [
            Parameter(
                name, schema, not schema.get("nullable"), None if schema.get("nullable") else NO_DEFAULT
            )
            for name, schema in tool.inputs.items()
        ]
    taken = inspect.signature(tool.forward).parameters
    parameters = []
    for name, schema in tool.inputs.items():
        default = taken[name].default if name in taken else NO_DEFAULT
        required = default is NO_DEFAULT and not schema.get("nullable")
        parameters.append(Parameter(name, schema, required, default))
    return parameters


def _prepared(
    args: tuple[Any, ...], kwargs: dict[str, Any], signature: Signature
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Take ``tool({"city": "Paris"})`` for ``tool(city="Paris")``, and make objects of plain values."""
    if len(args) == 1 and not kwargs and isinstance(args[0], dict) and args[0]:
        given: dict[str, Any] = args[0]
        if all(key in signature.parameters for key in given):
            args, kwargs = (), given
    return signature.convert(args, kwargs) if signature.converts else (args, kwargs)


# --- The text that models see ------------------------------------------------------------------


def _code_prompt(tool: Tool, signature: Signature) -> str:
    shown = []
    for name, parameter in signature.parameters.items():
        default = "" if parameter.default is NO_DEFAULT else f" = {parameter.default_text}"
        shown.append(f"{name}: {python_type(parameter.schema)}{default}")
    lines = [tool.description]
    if signature.parameters:
        lines += ["", "Args:"]
        lines += [f"    {name}: {_argument_words(p.schema)}" for name, p in signature.parameters.items()]
    result = tool._result or _result_from_attributes(tool)
    if result.words:
        lines += ["", "Returns:", f"    {result.words}"]
    body = "\n".join(f"    {line}" if line.strip() else "" for line in "\n".join(lines).splitlines())
    return f'def {tool.name}({", ".join(shown)}) -> {result.hint}:\n    """{body.lstrip()}\n    """'


def _argument_words(schema: Mapping[str, Any]) -> str:
    text = str(schema.get("description", "")).replace("\n", "\n        ")
    fields = fields_text(schema)
    return f"{text.rstrip('.')}. Keys: {{{fields}}}." if fields else text


def _result_from_attributes(tool: Tool) -> ResultDescription:
    hint = python_type({"type": tool.output_type})
    if tool.output_schema is None:
        return ResultDescription(hint=hint)
    fields = fields_text(tool.output_schema)
    words = f"{hint} with the keys {{{fields}}}." if fields else f"Fits the JSON schema {tool.output_schema}."
    return ResultDescription(hint=hint, words=words)


def get_tool_json_schema(tool: Tool) -> dict[str, Any]:
    """Return ``tool`` in OpenAI's function format."""
    return tool.json_schema()


def validate_tool_arguments(tool: Tool, arguments: Any) -> dict[str, Any]:
    """Check the arguments of a model's call: another name of :meth:`Tool.check_arguments`."""
    return tool.check_arguments(arguments)


# --- Functions as tools ------------------------------------------------------------------------


class FunctionTool(Tool):
    """A tool made of a function; :func:`tool` makes them.

    Args:
        fn: A sync or async function with type hints and a Google docstring.
        name: Name for the model; the function's own by default.
        description: Description for the model; the docstring's text by default.
        output_schema: JSON schema of a structured result; read from the return hint by default.
        timeout: See :class:`Tool`.
        max_concurrency: See :class:`Tool`.
        retries: See :class:`Tool`.
        retry_on: See :class:`Tool`.
        idempotent: See :class:`Tool`.
        circuit_breaker: See :class:`Tool`.
        requires_approval: See :class:`Tool`.

    Attributes:
        fn: The function itself.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        name: str | None = None,
        description: str | None = None,
        output_schema: dict[str, Any] | None = None,
        timeout: float | None = None,
        max_concurrency: int | None = None,
        retries: int = 0,
        retry_on: tuple[type[Exception], ...] | type[Exception] = (),
        idempotent: bool = False,
        circuit_breaker: Any = None,
        requires_approval: bool | Callable[[dict[str, Any]], Any] = False,
    ) -> None:
        self.timeout = timeout
        self.max_concurrency = max_concurrency
        self.retries = retries
        self.retry_on = retry_on
        self.idempotent = idempotent
        self.circuit_breaker = circuit_breaker
        self.requires_approval = requires_approval
        self.fn = self.forward = fn
        self.name = name or _function_name(fn)
        check_tool_name(self.name)
        self._describe(describe_function(fn, name=self.name, description=description))
        if output_schema is not None:
            self.output_schema = output_schema
        self.__name__ = self.name
        self.__doc__ = fn.__doc__
        self.__wrapped__ = fn


def _function_name(fn: Callable[..., Any]) -> str:
    name = getattr(fn, "__name__", None)
    if name == "<lambda>":
        raise ToolDefinitionError(
            "A lambda cannot be a tool: it has no name, no type hints and no docstring. Write it as a `def`."
        )
    if not isinstance(name, str):
        raise ToolDefinitionError(f"{fn!r} has no name that a model could call it by: give `name=`.")
    return name


_TOOL_OPTIONS = frozenset(inspect.signature(FunctionTool).parameters) - {"fn"}


@overload
def tool(fn: Callable[..., Any], /) -> FunctionTool: ...


@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    output_schema: dict[str, Any] | None = None,
    timeout: float | None = None,
    max_concurrency: int | None = None,
    retries: int = 0,
    retry_on: tuple[type[Exception], ...] | type[Exception] = (),
    idempotent: bool = False,
    circuit_breaker: Any = None,
    requires_approval: bool | Callable[[dict[str, Any]], Any] = False,
) -> Callable[[Callable[..., Any]], FunctionTool]: ...


def tool(fn: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function a tool, and register it under its name.

    Args:
        fn: A sync or async function with type hints and a Google docstring that describes each
            argument under ``Args:``.
        **options: Arguments of :class:`FunctionTool`: ``name``, ``description``, ``output_schema``,
            ``timeout``, ``max_concurrency``, ``retries``, ``retry_on``, ``idempotent``, ``circuit_breaker``,
            ``requires_approval``.

    Returns:
        The tool; without ``fn`` a decorator that makes one.

    Raises:
        ToolDefinitionError: The function cannot be a tool; the message names the argument and why.
    """
    for option in options.keys() - _TOOL_OPTIONS:
        raise ToolDefinitionError(
            f"@tool has no option '{option}'{nearest(option, _TOOL_OPTIONS) or '.'} "
            f"Its options are: {', '.join(sorted(_TOOL_OPTIONS))}."
        )

    def make(function: Callable[..., Any]) -> Tool:
        return register_tool(FunctionTool(function, **options))

    return make if fn is None else make(fn)


# --- Tools by name -----------------------------------------------------------------------------


class _Registry:
    """Tools by name, for the whole process; a later definition of a name replaces the earlier."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tools: dict[str, Tool] = {}

    def add(self, tool: Tool) -> None:
        with self._lock:
            self._tools[tool.name] = tool

    def find(self, name: str) -> Tool:
        """Return the tool of this name; a ready-made one is built when it is first asked for."""
        with self._lock:
            found = self._tools.get(name)
        if found is not None:
            return found
        if name in _READY_MADE:
            module, kind = _READY_MADE[name].split(":")
            made: Tool = getattr(importlib.import_module(module), kind)()
            with self._lock:
                return self._tools.setdefault(name, made)
        raise UnknownToolError(
            f"There is no tool named '{name}'{nearest(name, self.names()) or '.'} "
            f"Known tools: {', '.join(self.names())}. Define it with @tool or add it with register_tool()."
        )

    def names(self) -> list[str]:
        with self._lock:
            return sorted({*self._tools, *_READY_MADE})


_READY_MADE = {
    "final_answer": "manyhands.tools.builtin:FinalAnswerTool",
    "python_interpreter": "manyhands.tools.builtin:PythonInterpreterTool",
    "user_input": "manyhands.tools.builtin:UserInputTool",
    "visit_webpage": "manyhands.tools.web:VisitWebpageTool",
    "web_search": "manyhands.tools.search:DuckDuckGoSearchTool",
    "wikipedia_search": "manyhands.tools.search:WikipediaSearchTool",
}

_registry = _Registry()


def register_tool(fn_or_tool: Any, name: str | None = None) -> Tool:
    """Make a tool known by name in this process, so that ``tools=["name"]`` finds it.

    Args:
        fn_or_tool: A tool, or a function that :func:`tool` would take.
        name: Another name than its own.

    Returns:
        The tool that was registered.
    """
    made = as_tool(fn_or_tool)
    if name is not None and name != made.name:
        check_tool_name(name)
        made = copy.copy(made)
        made.name = name
    _registry.add(made)
    return made


def registered_tools() -> list[str]:
    """Return the names that ``tools=[...]`` knows, sorted."""
    return _registry.names()


def as_tool(item: Any) -> Tool:
    """Return ``item`` as a tool.

    Args:
        item: A tool, the name of a registered one, a function, or a tool of smolagents.

    Raises:
        UnknownToolError: No tool of that name is registered.
        ToolDefinitionError: It cannot be a tool.
    """
    if isinstance(item, Tool):
        return item
    if isinstance(item, str):
        return _registry.find(item)
    from manyhands.tools.adapters import adapt

    return adapt(item)


def resolve_tools(items: Iterable[Any] | None) -> dict[str, Tool]:
    """Return tools by name, in the order given.

    Args:
        items: Tools, names of registered tools, functions, tools of smolagents.

    Raises:
        UnknownToolError: A name is not registered.
        ToolDefinitionError: Two tools have the same name, or an item cannot be a tool.
    """
    if isinstance(items, str):
        raise ToolDefinitionError(f"`tools` must be a list: write tools=[{items!r}].")
    tools: dict[str, Tool] = {}
    for item in items or ():
        found = as_tool(item)
        if found.name in tools:
            raise ToolDefinitionError(
                f"Two tools are named '{found.name}': {tools[found.name]!r} and {found!r}. Rename one."
            )
        tools[found.name] = found
    return tools
