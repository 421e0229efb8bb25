"""What a tool is, how a function becomes one, and how tools are found by name.

A tool is a description (name, arguments as JSON schema, result) and a ``forward`` that does the
work, sync or async. It holds no state of a call: one tool object serves any number of runs at once,
and everything derived from its description is made once and kept on it.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import importlib
import inspect
import keyword
import threading
from abc import ABC, abstractmethod
from asyncio import events
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, overload

from manyhands._bridge import call_sync, is_async_callable, run_sync
from manyhands.errors import ToolDefinitionError, UnknownToolError
from manyhands.schema import (
    AUTHORIZED_TYPES,
    Parameter,
    Signature,
    describe_function,
    is_optional_hint,
    nearest,
    python_type,
    resolve_hint,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


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
    def wrapper(self: Tool, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if type(self).__init__ is wrapper:
            self._finish()

    return wrapper


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
    """

    name: str
    description: str
    inputs: dict[str, dict[str, Any]]
    output_type: str
    output_schema: dict[str, Any] | None = None
    forward: Callable[..., Any]
    skip_forward_signature_validation = False
    is_initialized = False

    # Derived from the description, made on first use, dropped when the description changes.
    _facts: _Facts | None = None
    _setting_up: _Turn | None = None

    @_checked
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _checked(cls.__init__)  # type: ignore[method-assign]

    def _finish(self) -> None:
        _check_definition(self)
        if type(self).setup is Tool.setup and "setup" not in self.__dict__:
            self.is_initialized = True

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        if name in _DESCRIBING:
            object.__setattr__(self, "_facts", None)

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
            await _set_up(self)
        facts = self._facts or self._learn()
        if args and not kwargs:
            args, kwargs = _unpacked(args, facts.signature)
        if facts.signature.converts:
            args, kwargs = facts.signature.convert(args, kwargs)
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
            _set_up_now(self)
        if args and not kwargs:
            args, kwargs = _unpacked(args, facts.signature)
        if facts.signature.converts:
            args, kwargs = facts.signature.convert(args, kwargs)
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
            facts.json_schema = {
                "type": "function",
                "function": {
                    "name": self.name,
                    "description": self.description,
                    "parameters": facts.signature.json_schema(),
                },
            }
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

    def _parameters(self) -> list[Parameter]:
        return _parameters_from_inputs(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


_DESCRIBING = frozenset({"name", "description", "inputs", "output_type", "output_schema", "forward"})


class _Facts:
    """What follows from a tool's description."""

    __slots__ = ("code_prompt", "is_async", "json_schema", "label", "signature")

    def __init__(self, tool: Tool) -> None:
        self.is_async = is_async_callable(tool.forward)
        self.label = f"tool-{tool.name}"
        self.signature = Signature(tool.name, tool._parameters())
        self.json_schema: dict[str, Any] | None = None
        self.code_prompt: str | None = None


def _unpacked(args: tuple[Any, ...], signature: Signature) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Take ``tool({"city": "Paris"})`` for ``tool(city="Paris")``, as models write both."""
    if len(args) == 1 and isinstance(args[0], dict) and args[0]:
        given: dict[str, Any] = args[0]
        if all(key in signature.parameters for key in given):
            return (), given
    return args, {}


def _code_prompt(tool: Tool, signature: Signature) -> str:
    shown = []
    for name, parameter in signature.parameters.items():
        default = f" = {parameter.default_text}" if parameter.default is not inspect.Parameter.empty else ""
        shown.append(f"{name}: {python_type(parameter.schema)}{default}")
    lines = [tool.description]
    if signature.parameters:
        lines += ["", "Args:"]
        lines += [f"    {name}: {_described(p.schema)}" for name, p in signature.parameters.items()]
    returns = _described_result(tool)
    if returns:
        lines += ["", "Returns:", f"    {returns}"]
    body = "\n".join(lines).replace("\n", "\n    ").replace("\n    \n", "\n\n")
    output = python_type(tool.output_schema or {"type": tool.output_type})
    return f'def {tool.name}({", ".join(shown)}) -> {output}:\n    """{body}\n    """'


def _described(schema: Mapping[str, Any]) -> str:
    text = str(schema.get("description", "")).replace("\n", "\n        ")
    fields = fields_text(schema)
    return f"{text} {fields}" if fields else text


def _described_result(tool: Tool) -> str:
    words = getattr(tool, "returns", "")
    if tool.output_schema is None:
        return str(words)
    fields = fields_text(tool.output_schema) or f"JSON schema: {tool.output_schema}"
    return f"{words} {fields}".strip()


def fields_text(schema: Mapping[str, Any]) -> str:
    """Return the keys of an object's schema as one line for a prompt, "" if it names none."""
    properties = schema.get("properties")
    if not properties:
        return ""
    required = schema.get("required", ())
    fields = [
        f"{name!r}: {python_type(field)}{'' if name in required else ' (optional)'}"
        for name, field in properties.items()
    ]
    return f"A dict with the keys {{{', '.join(fields)}}}."


def get_tool_json_schema(tool: Tool) -> dict[str, Any]:
    """Return ``tool`` in OpenAI's function format."""
    return tool.json_schema()


def validate_tool_arguments(tool: Tool, arguments: Any) -> dict[str, Any]:
    """Check the arguments of a model's call: another name of :meth:`Tool.check_arguments`."""
    return tool.check_arguments(arguments)


# --- Checks of a definition --------------------------------------------------------------------


def _check_definition(tool: Tool) -> None:
    """Raise :class:`ToolDefinitionError` if ``tool`` cannot work as it is written."""
    kind = type(tool).__name__
    if not callable(getattr(tool, "forward", None)):
        raise ToolDefinitionError(
            f"The tool class {kind} has no `forward`: write `def forward(self, ...)` or `async def forward(self, ...)`."
        )
    name = _text_attribute(tool, "name")
    check_tool_name(name)
    if getattr(tool, "inputs", None) is None:
        _derive(tool)
    _text_attribute(tool, "description")
    output_type = _text_attribute(tool, "output_type")
    if output_type not in AUTHORIZED_TYPES:
        raise ToolDefinitionError(
            f"The tool '{name}' has the output type '{output_type}', which is not one of {', '.join(AUTHORIZED_TYPES)}."
        )
    _check_inputs(tool)
    if not tool.skip_forward_signature_validation:
        _check_forward(tool)


def _text_attribute(tool: Tool, attribute: str) -> str:
    value = getattr(tool, attribute, None)
    if not isinstance(value, str) or not value.strip():
        given = "has no" if value is None else f"has {value!r} as its"
        raise ToolDefinitionError(
            f"The tool class {type(tool).__name__} {given} `{attribute}`: set the class attribute `{attribute}` to a text."
        )
    return value


def check_tool_name(name: str) -> None:
    """Raise :class:`ToolDefinitionError` unless generated code can call a tool of this name."""
    if not name.isidentifier() or keyword.iskeyword(name):
        reason = "a reserved word of Python" if keyword.iskeyword(name) else "not a Python identifier"
        raise ToolDefinitionError(
            f"The tool name '{name}' is {reason}: use letters, digits and underscores, such as 'get_weather'."
        )


def _derive(tool: Tool) -> None:
    """Read what the class does not say from the hints and the docstring of its ``forward``."""
    told = describe_function(
        tool.forward, name=tool.name, description=getattr(tool, "description", None) or None
    )
    tool.inputs = {parameter.name: parameter.schema for parameter in told.parameters}
    if not hasattr(tool, "description"):
        tool.description = told.description
    if not hasattr(tool, "output_type"):
        tool.output_type = told.output_type
    object.__setattr__(tool, "_parameters", lambda: told.parameters)


def _check_inputs(tool: Tool) -> None:
    if not isinstance(tool.inputs, dict):
        raise ToolDefinitionError(
            f"The inputs of the tool '{tool.name}' must be a dict, not {tool.inputs!r}."
        )
    for name, schema in tool.inputs.items():
        where = f"The argument '{name}' of the tool '{tool.name}'"
        if not isinstance(schema, dict):
            raise ToolDefinitionError(f"{where} must be described by a dict with `type` and `description`.")
        for key in ("type", "description"):
            if not schema.get(key):
                raise ToolDefinitionError(f"{where} has no `{key}`: add it to its entry in `inputs`.")
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        for kind in kinds:
            if kind not in AUTHORIZED_TYPES:
                raise ToolDefinitionError(
                    f"{where} has the type {kind!r}, which is not one of {', '.join(AUTHORIZED_TYPES)}."
                )


def _check_forward(tool: Tool) -> None:
    """Compare ``forward`` with ``inputs``, argument by argument."""
    taken = inspect.signature(tool.forward).parameters
    extra = [name for name in taken if name not in tool.inputs]
    if extra:
        raise ToolDefinitionError(
            f"`forward` of the tool '{tool.name}' takes an argument '{extra[0]}' that `inputs` does not describe"
            f"{nearest(extra[0], tool.inputs) or ': add it there.'}"
        )
    for name, schema in tool.inputs.items():
        if name not in taken:
            raise ToolDefinitionError(
                f"The argument '{name}' of the tool '{tool.name}' is in `inputs`, but `forward` does not take it"
                f"{nearest(name, taken) or ': add it to the signature, or set skip_forward_signature_validation.'}"
            )
        optional = _may_be_left_out(tool, taken[name])
        if optional and not schema.get("nullable"):
            raise ToolDefinitionError(
                f"The argument '{name}' of the tool '{tool.name}' may be left out of `forward`: "
                "set `'nullable': True` in its entry in `inputs`."
            )
        if schema.get("nullable") and not optional:
            raise ToolDefinitionError(
                f"The argument '{name}' of the tool '{tool.name}' is nullable in `inputs`, but `forward` requires it: "
                f"give it a default, such as `{name}=None`."
            )


def _may_be_left_out(tool: Tool, parameter: inspect.Parameter) -> bool:
    if parameter.default is not parameter.empty:
        return True
    if parameter.annotation is parameter.empty:
        return False
    where = f"argument '{parameter.name}' of the tool '{tool.name}'"
    return is_optional_hint(resolve_hint(tool.forward, parameter.annotation, where))


def _parameters_from_inputs(tool: Tool) -> list[Parameter]:
    taken: Mapping[str, inspect.Parameter] = {}
    if not tool.skip_forward_signature_validation:
        taken = inspect.signature(tool.forward).parameters
    parameters = []
    for name, schema in tool.inputs.items():
        default = taken[name].default if name in taken else inspect.Parameter.empty
        parameters.append(Parameter(name, schema, not schema.get("nullable"), default))
    return parameters


# --- setup, once -------------------------------------------------------------------------------

_turns = threading.Lock()


class _Turn:
    """One attempt to set a tool up; the others wait for its end and then look again."""

    __slots__ = ("begun", "ended")

    def __init__(self) -> None:
        self.begun = False
        self.ended: Future[None] = Future()


def _take_turn(tool: Tool) -> tuple[_Turn, bool]:
    with _turns:
        turn = tool._setting_up
        if turn is not None:
            return turn, False
        turn = tool._setting_up = _Turn()
        return turn, True


def _end_turn(tool: Tool, turn: _Turn, done: bool) -> None:
    with _turns:
        tool._setting_up = None
        if done:
            tool.is_initialized = True
    turn.ended.set_result(None)


def _set_up_in_turn(tool: Tool, turn: _Turn) -> None:
    turn.begun = True
    done = False
    try:
        tool.setup()
        done = True
    finally:
        _end_turn(tool, turn, done)


def _set_up_now(tool: Tool) -> None:
    while not tool.is_initialized:
        turn, mine = _take_turn(tool)
        if mine:
            _set_up_in_turn(tool, turn)
        else:
            turn.ended.result()


async def _set_up(tool: Tool) -> None:
    """Run ``setup`` once, whichever thread or loop asks first; a failed attempt leaves it to the next."""
    while not tool.is_initialized:
        turn, mine = _take_turn(tool)
        if not mine:
            # Shielded: cancelling one who waits must not end the wait of the others.
            await asyncio.shield(asyncio.wrap_future(turn.ended))
        elif is_async_callable(tool.setup):
            await _await_setup(tool, turn)
        else:
            try:
                await call_sync(functools.partial(_set_up_in_turn, tool, turn), label=f"tool-{tool.name}")
            finally:
                if not turn.begun:  # cancelled before a thread was free
                    _end_turn(tool, turn, False)


async def _await_setup(tool: Tool, turn: _Turn) -> None:
    done = False
    try:
        await tool.setup()
        done = True
    finally:
        _end_turn(tool, turn, done)


# --- Functions as tools ------------------------------------------------------------------------


class FunctionTool(Tool):
    """A tool made of a function; :func:`tool` makes them.

    Args:
        fn: A sync or async function with type hints and a Google docstring.
        name: Name for the model; the function's own by default.
        description: Description for the model; the docstring's text by default.
        output_schema: JSON schema of a structured result; read from the return hint by default.

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
    ) -> None:
        self.fn = self.forward = fn
        self.name = name or _function_name(fn)
        check_tool_name(self.name)
        told = describe_function(fn, name=self.name, description=description)
        self.description = told.description
        self.inputs = {parameter.name: parameter.schema for parameter in told.parameters}
        self.output_type = told.output_type
        self.output_schema = output_schema or told.output_schema
        self.returns = told.returns
        self._told = told.parameters
        self.__name__ = self.name
        self.__doc__ = fn.__doc__
        self.__wrapped__ = fn

    def _finish(self) -> None:
        self.is_initialized = True

    def _parameters(self) -> list[Parameter]:
        return self._told


def _function_name(fn: Callable[..., Any]) -> str:
    name = getattr(fn, "__name__", None)
    if name == "<lambda>":
        raise ToolDefinitionError(
            "A lambda cannot be a tool: it has no name, no type hints and no docstring. Write it as a `def`."
        )
    if not isinstance(name, str):
        raise ToolDefinitionError(f"{fn!r} has no name that a model could call it by: give `name=`.")
    return name


@overload
def tool(fn: Callable[..., Any], /) -> FunctionTool: ...


@overload
def tool(
    *, name: str | None = None, description: str | None = None, output_schema: dict[str, Any] | None = None
) -> Callable[[Callable[..., Any]], FunctionTool]: ...


def tool(fn: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function a tool, and register it under its name.

    Args:
        fn: A sync or async function with type hints and a Google docstring that describes each
            argument under ``Args:``.
        **options: Arguments of :class:`FunctionTool`: ``name``, ``description``, ``output_schema``.

    Returns:
        The tool; without ``fn`` a decorator that makes one.

    Raises:
        ToolDefinitionError: The function cannot be a tool; the message names the argument and why.
    """
    unknown = options.keys() - _TOOL_OPTIONS
    if unknown:
        wrong = min(unknown)
        raise ToolDefinitionError(
            f"@tool has no option '{wrong}'{nearest(wrong, _TOOL_OPTIONS) or '.'} "
            f"Its options are: {', '.join(sorted(_TOOL_OPTIONS))}."
        )
    if fn is None:
        return lambda function: tool_from_function(function, **options)
    return tool_from_function(fn, **options)


_TOOL_OPTIONS = frozenset(inspect.signature(FunctionTool).parameters) - {"fn"}


def tool_from_function(fn: Callable[..., Any], **options: Any) -> FunctionTool:
    made = FunctionTool(fn, **options)
    register_tool(made)
    return made


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
                f"Two tools are named '{found.name}': {tools[found.name]!r} and {found!r}. Rename one of them."
            )
        tools[found.name] = found
    return tools
