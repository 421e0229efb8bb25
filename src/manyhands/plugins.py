"""Plugins: named sets of hooks around runs, steps, questions to the model, and tool calls.

Plugins lie around a call like the skins of an onion, the first one outermost: it is asked first before
the call, and last after it. The set is one tuple that is never changed, only swapped for another. Each
call takes the tuple once, when it begins, and so has the same plugins before and after whatever happens
to the set meanwhile, on whichever loop or thread.

A before hook that fails refuses: a guard that is broken must not let everything through. An after hook
that fails is logged, and the result stays.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, overload

from manyhands._bridge import call_user, is_async_callable, worker_terms
from manyhands.errors import AgentToolCallError, CallerError, RefusedError, ToolRefusedError, check_seconds
from manyhands.events import ActionOutput
from manyhands.messages import ChatMessage
from manyhands.schema.words import nearest
from manyhands.steps import FinalAnswerStep, ToolCall

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from manyhands.run import Run, RunResult
    from manyhands.steps import ActionStep
    from manyhands.tools.base import Tool

logger = logging.getLogger("manyhands.plugins")


# --- What hooks say ------------------------------------------------------------------------------


class Refuse(Exception):
    """A hook's decision: this must not happen. Return it, or raise it.

    Args:
        reason: Why; the model reads it (of a tool call), or the caller (of all else).
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclasses.dataclass(frozen=True, slots=True)
class Replace:
    """A hook's decision: take this as the result. From a before hook, it skips the call.

    Attributes:
        value: The result.
    """

    value: Any


# --- What a plugin is ----------------------------------------------------------------------------


class Plugin:
    """Hooks under a name. A subclass writes those it needs, as ``def`` or ``async def``.

    Every hook may return ``None`` (go on), :class:`Replace` or :class:`Refuse`, or what its own text says.

    Attributes:
        name: What it is called; by default the name of the class.
        version: Its version.
        description: What it does; by default the first line of the docstring.
        timeout: Most seconds for each call of a hook; ``None`` for no limit.
    """

    name: str = ""
    version: str = ""
    description: str = ""
    timeout: float | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in vars(cls):
            cls.name = cls.__name__
        if "description" not in vars(cls):
            cls.description = _first_line(cls)
        _check_hook_names(name for name in vars(cls) if name.startswith(("before_", "after_")))

    def before_run(self, run: Run) -> Any:
        """A run is about to begin: return another task, ``Replace(answer)``, or ``Refuse(reason)``."""

    def after_run(self, run: Run, result: RunResult) -> Any:
        """A run has ended, however it did: return another answer, which counts if there was one."""

    def before_step(self, run: Run, step: ActionStep) -> Any:
        """A step is about to begin: return ``Replace(answer)`` to end the run with it, or ``Refuse``."""

    def after_step(self, run: Run, step: ActionStep) -> Any:
        """A step is done but not yet in memory; change it in place, or return ``Replace(answer)``."""

    def before_model(self, run: Run, messages: list[ChatMessage], options: dict[str, Any]) -> Any:
        """The model is about to be asked: return other messages, or a pair of messages and options."""

    def after_model(self, run: Run, reply: ChatMessage) -> Any:
        """The model has replied: return another message, or its text."""

    def before_tool(self, run: Run, call: ToolCall) -> Any:
        """A tool is about to be called: return other arguments, as a dict or in another call."""

    def after_tool(self, run: Run, call: ToolCall, result: Any) -> Any:
        """A tool has given a result: return another one (``Replace(None)`` for ``None``)."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


HOOKS = tuple(name for name in vars(Plugin) if name.startswith(("before_", "after_")))
_UNWRITTEN = {name: vars(Plugin)[name] for name in HOOKS}


def _first_line(documented: Any) -> str:
    return (documented.__doc__ or "").strip().partition("\n")[0]


def _check_hook_names(names: Iterable[str]) -> None:
    for name in names:
        if name not in HOOKS:
            raise CallerError(
                f"There is no hook {name!r}{nearest(name, HOOKS) or '.'} The hooks are: {', '.join(HOOKS)}."
            )


class FunctionPlugin(Plugin):
    """A plugin made of functions.

    Args:
        name: What it is called.
        version: Its version.
        description: What it does.
        timeout: Most seconds for each call of a hook.
        **hooks: Functions, sync or async, by the hook that they are: ``before_tool=check``.

    Raises:
        CallerError: There is no hook of such a name.
    """

    def __init__(
        self,
        name: str,
        *,
        version: str = "",
        description: str = "",
        timeout: float | None = None,
        **hooks: Callable[..., Any],
    ) -> None:
        _check_hook_names(hooks)
        self.name = name
        self.version = version
        self.description = description
        self.timeout = timeout
        for hook, function in hooks.items():
            setattr(self, hook, function)


@overload
def plugin(hook: Callable[..., Any], /) -> FunctionPlugin: ...


@overload
def plugin(
    hook: str | None = None,
    /,
    *,
    name: str | None = None,
    version: str = "",
    description: str = "",
    timeout: float | None = None,
) -> Callable[[Callable[..., Any]], FunctionPlugin]: ...


def plugin(hook: Any = None, /, *, name: str | None = None, **details: Any) -> Any:
    """Make a function a plugin with one hook; a decorator.

    Args:
        hook: Which hook the function is; by default its own name says so.
        name: What the plugin is called; by default the function's name.
        **details: ``version``, ``description`` (by default the docstring's first line), ``timeout``.

    Returns:
        The plugin, for ``register`` or ``Agent(plugins=[...])``.
    """
    if callable(hook):
        return plugin(name=name, **details)(hook)

    def make(function: Callable[..., Any]) -> FunctionPlugin:
        own = getattr(function, "__name__", type(function).__name__)
        told = {"description": _first_line(function), **details, hook or own: function}
        return FunctionPlugin(name or own, **told)

    return make


def _checked(candidate: Any) -> Plugin:
    """Return ``candidate`` if it can serve as a plugin, else say why not."""
    if not isinstance(candidate, Plugin):
        hint = " Give an instance of it." if isinstance(candidate, type) else ""
        raise CallerError(f"A plugin is a Plugin or a FunctionPlugin, not {candidate!r}.{hint}")
    if not isinstance(candidate.name, str) or not candidate.name:
        raise CallerError(f"{type(candidate).__name__} needs a name, not {candidate.name!r}.")
    check_seconds(f"The timeout of plugin {candidate.name!r}", candidate.timeout)
    for hook in HOOKS:
        if not callable(getattr(candidate, hook)):
            raise CallerError(f"The hook {hook} of plugin {candidate.name!r} is not a function.")
    return candidate


# --- Which plugins there are ---------------------------------------------------------------------


class PluginManager:
    """The plugins of the process: known by name, each enabled or not.

    Safe to change at any time from any thread; calls that have begun keep the plugins they began with.

    Attributes:
        in_use: False while no plugin can have a say anywhere; the one thing that is asked of all calls.
    """

    def __init__(self) -> None:
        self.in_use = False
        self._lock = threading.Lock()
        self._known: dict[str, Plugin] = {}
        self._on: set[str] = set()
        self._enabled: tuple[Plugin, ...] = ()
        self._agents_have_some = False

    def register(self, plugin: Plugin, *, enabled: bool = True) -> Plugin:
        """Make ``plugin`` known, and by default enable it.

        Args:
            plugin: The plugin.
            enabled: Whether it takes part in calls that begin from now on.

        Returns:
            The plugin.

        Raises:
            CallerError: It cannot be a plugin, or another one has its name.
        """
        _checked(plugin)
        with self._lock:
            if self._known.get(plugin.name, plugin) is not plugin:
                raise CallerError(
                    f"A plugin named {plugin.name!r} is registered already; unregister it first."
                )
            self._known[plugin.name] = plugin
            if enabled:
                self._on.add(plugin.name)
            self._swap()
        return plugin

    def unregister(self, plugin: str | Plugin) -> None:
        """Forget a plugin, by itself or by name.

        Raises:
            CallerError: No such plugin is registered.
        """
        with self._lock:
            (name,) = self._named([plugin.name if isinstance(plugin, Plugin) else plugin])
            del self._known[name]
            self._on.discard(name)
            self._swap()

    def enable(self, names: str | Iterable[str] | None = None) -> None:
        """Let plugins take part in calls that begin from now on.

        Args:
            names: One name or several; ``None`` for all that are registered.

        Raises:
            CallerError: A name is not registered; nothing has changed.
        """
        with self._lock:
            self._on.update(self._named(names))
            self._swap()

    def disable(self, names: str | Iterable[str] | None = None) -> None:
        """Keep plugins out of calls that begin from now on.

        Args:
            names: One name or several; ``None`` for all that are registered.

        Raises:
            CallerError: A name is not registered; nothing has changed.
        """
        with self._lock:
            self._on.difference_update(self._named(names))
            self._swap()

    def list_plugins(self) -> list[dict[str, Any]]:
        """Return name, version, description and ``enabled`` of each registered plugin, in their order."""
        with self._lock:
            return [
                {
                    "name": name,
                    "version": known.version,
                    "description": known.description,
                    "enabled": name in self._on,
                }
                for name, known in self._known.items()
            ]

    def is_enabled(self, name: str) -> bool:
        """Return whether a plugin of this name is registered and enabled."""
        return name in self._on

    def accept(self, plugins: Iterable[Plugin]) -> tuple[Plugin, ...]:
        """Return the plugins of an agent, checked.

        Raises:
            CallerError: One cannot be a plugin, or two have the same name.
        """
        if isinstance(plugins, str | Plugin):
            raise CallerError(f"`plugins` must be a list: write plugins=[{plugins!r}].")
        accepted: dict[str, Plugin] = {}
        for candidate in plugins:
            if accepted.setdefault(_checked(candidate).name, candidate) is not candidate:
                raise CallerError(f"Two plugins are named {candidate.name!r}; rename one.")
        with self._lock:
            self._agents_have_some = self._agents_have_some or bool(accepted)
            self._swap()
        return tuple(accepted.values())

    def of(self, run: Run) -> tuple[Plugin, ...]:
        """Return the plugins around a call of ``run`` that begins now: the process's, then its agent's."""
        enabled, own = self._enabled, run.agent.plugins
        return enabled if not own else (*enabled, *(one for one in own if one not in enabled))

    def _named(self, names: str | Iterable[str] | None) -> list[str]:
        if names is None:
            return list(self._known)
        wanted = [names] if isinstance(names, str) else list(names)
        for name in wanted:
            if name not in self._known:
                raise CallerError(
                    f"There is no plugin named {name!r}{nearest(name, self._known) or '.'} "
                    f"Registered are: {', '.join(self._known) or 'none'}."
                )
        return wanted

    def _swap(self) -> None:
        self._enabled = tuple(known for name, known in self._known.items() if name in self._on)
        self.in_use = bool(self._enabled) or self._agents_have_some


manager = PluginManager()
register = manager.register
unregister = manager.unregister
enable = manager.enable
disable = manager.disable
list_plugins = manager.list_plugins
is_enabled = manager.is_enabled
accept_plugins = manager.accept


# --- Around a call -------------------------------------------------------------------------------


class _Around:
    """The plugins around one call, from its beginning to its end.

    Args:
        plugins: The plugins, outermost first.
        run: The run whose call it is.
        kind: ``run``, ``step``, ``model`` or ``tool``.
        what: The call in the words of a refusal.
    """

    __slots__ = ("_entered", "_kind", "_plugins", "_run", "_what")

    def __init__(self, plugins: tuple[Plugin, ...], run: Run, kind: str, what: str) -> None:
        self._plugins = plugins
        self._run = run
        self._kind = kind
        self._what = what
        self._entered: list[Plugin] = []

    async def before(
        self, arguments: Callable[[], tuple[Any, ...]], take: Callable[[Any], None]
    ) -> Replace | None:
        """Ask the before hooks, each about what the one before it has left.

        Args:
            arguments: Gives what the next hook is asked about.
            take: Takes a change over, or raises a ``TypeError``.

        Returns:
            The result, if a hook gave one: the call is not to be made.
        """
        for one in self._plugins:
            hook = _hook(one, f"before_{self._kind}")
            if hook is not None:
                try:
                    said = _decision(await _call(one, hook, self._run, *arguments()))
                    if isinstance(said, Replace):
                        return said
                    if said is not None:
                        take(said)
                except Refuse as refusal:
                    raise self._refused(one, refusal.reason) from None
                except Exception as error:
                    logger.exception("Plugin %s failed before %s and refuses it", one.name, self._what)
                    raise self._refused(one, f"its hook failed: {type(error).__name__}: {error}") from error
            self._entered.append(one)
        return None

    async def after(
        self, result: Any, arguments: Callable[[Any], tuple[Any, ...]], take: Callable[[Any], Any]
    ) -> Any:
        """Ask the after hooks of the plugins that let the call through, each about the last one's result.

        Args:
            result: What the call gave.
            arguments: Gives what the next hook is asked about, of the result.
            take: Makes a result of what a hook said, or raises a ``TypeError``.

        Returns:
            The result in the end.
        """
        while self._entered:
            one = self._entered.pop()
            hook = _hook(one, f"after_{self._kind}")
            if hook is None:
                continue
            try:
                said = _decision(await _call(one, hook, self._run, *arguments(result)))
                if said is not None:
                    result = take(said)
            except Refuse as refusal:
                raise self._refused(one, refusal.reason) from None
            except Exception:
                logger.exception("Plugin %s failed after %s", one.name, self._what)
        return result

    def waits_for_end(self) -> bool:
        """Return whether any plugin that let the call through has an after hook still to be asked."""
        return any(_hook(one, f"after_{self._kind}") for one in self._entered)

    def _refused(self, one: Plugin, reason: str) -> RefusedError | ToolRefusedError:
        kind = ToolRefusedError if self._kind == "tool" else RefusedError
        return kind(f"Plugin '{one.name}' refused {self._what}: {reason}", one.name, reason)


def _hook(one: Plugin, name: str) -> Callable[..., Any] | None:
    """Return a hook of a plugin, ``None`` if it was never written: asking it would cost a thread."""
    hook: Callable[..., Any] = getattr(one, name)
    return None if getattr(hook, "__func__", None) is _UNWRITTEN[name] else hook


def _value(said: Any) -> Any:
    return said.value if isinstance(said, Replace) else said


def _decision(said: Any) -> Any:
    if isinstance(said, Refuse):
        raise said
    return said


async def _call(one: Plugin, hook: Callable[..., Any], *args: Any) -> Any:
    """Call a hook within its time; that of a sync one begins when a thread begins with it."""
    seconds, waits = one.timeout, is_async_callable(hook)
    if seconds is None and waits:
        return await hook(*args)
    limit = asyncio.timeout(seconds if waits else None)
    begin = None if seconds is None or waits else functools.partial(_begin, limit, seconds)
    try:
        async with limit:
            with worker_terms(f"plugin-{one.name}", begin):
                return await call_user(hook, *args)
    except TimeoutError:
        if not limit.expired():
            raise
        raise TimeoutError(f"it took longer than {seconds}s") from None


def _begin(limit: asyncio.Timeout, seconds: float) -> None:
    with suppress(RuntimeError):  # it may be over before the loop hears that it began
        limit.reschedule(asyncio.get_running_loop().time() + seconds)


# --- The four kinds of calls ---------------------------------------------------------------------


class RunHooks:
    """The plugins around a run.

    Args:
        run: The run.
    """

    __slots__ = ("_around", "_run")

    def __init__(self, run: Run) -> None:
        self._run = run
        self._around = _Around(manager.of(run), run, "run", "the run")

    async def work(self, drive: Callable[[Run], Awaitable[Any]]) -> Any:
        """Ask whether the run may begin, and let ``drive`` work on it."""
        replaced = await self._around.before(tuple, self._take_task)
        if replaced is None:
            return await drive(self._run)
        answer = await self.answered(replaced.value)
        await self._run.emit(FinalAnswerStep(answer))
        return answer

    def _take_task(self, said: Any) -> None:
        if not isinstance(said, str):
            raise TypeError(_not(said, "the task as text"))
        self._run.task = said

    async def answered(self, answer: Any) -> Any:
        """Ask about the answer of the run, and return the one that it shall have."""
        if not self._around.waits_for_end():
            return answer
        self._run.output = answer
        result = self._run.result()
        if result.state == "running":
            result.state = "success"
        return (await self._ask(result)).output

    async def failed(self) -> None:
        """Tell those not yet told that the run has ended without an answer; nothing can be changed there."""
        while self._around.waits_for_end():
            with suppress(RefusedError):
                await self._ask(self._run.result())

    async def _ask(self, result: RunResult) -> RunResult:
        def take(said: Any) -> RunResult:
            result.output = said.output if isinstance(said, type(result)) else _value(said)
            return result

        asked: RunResult = await self._around.after(result, lambda given: (given,), take)
        return asked


async def around_step(
    run: Run, step: ActionStep, act: Callable[[Run, ActionStep], Awaitable[ActionOutput | None]]
) -> ActionOutput | None:
    """Take a step of ``run`` with its plugins around it.

    Args:
        run: The run.
        step: The step, still empty.
        act: Takes it.

    Raises:
        RefusedError: A plugin refused it.
    """
    around = _Around(manager.of(run), run, "step", f"step {step.step_number}")
    action: ActionOutput | None = None

    def take(said: Any) -> None:
        if said is not step:
            raise TypeError(_not(said, "Replace(answer)"))

    def end(said: Any) -> None:
        nonlocal action
        if isinstance(said, Replace):
            action = _ending(step, said.value)
        else:
            take(said)

    replaced = await around.before(lambda: (step,), take)
    if replaced is None:
        action = await act(run, step)
    else:
        action = _ending(step, replaced.value)
        await run.emit(action)
    await around.after(action, lambda _: (step,), end)
    return action


def _ending(step: ActionStep, answer: Any) -> ActionOutput:
    step.action_output = answer
    step.is_final_answer = True
    return ActionOutput(answer, is_final_answer=True)


async def around_model(
    run: Run,
    messages: list[ChatMessage],
    options: dict[str, Any],
    ask: Callable[[Run, list[ChatMessage], dict[str, Any]], Awaitable[ChatMessage]],
) -> ChatMessage:
    """Ask the model of ``run`` with its plugins around the question.

    Args:
        run: The run.
        messages: The conversation.
        options: The other arguments.
        ask: Asks the model.

    Raises:
        RefusedError: A plugin refused the question, or the reply.
    """
    plugins = manager.of(run)
    if not plugins:
        return await ask(run, messages, options)
    around = _Around(plugins, run, "model", "the question to the model")
    question = list(messages), dict(options)

    def take(said: Any) -> None:
        nonlocal question
        question = _question(said, question[1])

    replaced = await around.before(lambda: question, take)
    reply: ChatMessage = await ask(run, *question) if replaced is None else _reply(replaced.value)
    usage = reply.token_usage
    reply = await around.after(reply, lambda given: (given,), _reply)
    if reply.token_usage is None:
        reply.token_usage = usage  # a reply that stands in for another has cost what that one cost
    return reply


def _question(said: Any, options: dict[str, Any]) -> tuple[list[ChatMessage], dict[str, Any]]:
    if isinstance(said, tuple) and len(said) == 2:
        said, options = said
    if not isinstance(said, list) or not isinstance(options, dict):
        raise TypeError(_not(said, "a list of messages, or a pair of messages and options"))
    return [ChatMessage.from_any(one) for one in said], options


def _reply(said: Any) -> ChatMessage:
    said = _value(said)
    if not isinstance(said, ChatMessage | str | dict):
        raise TypeError(_not(said, "a message or its text"))
    return dataclasses.replace(ChatMessage.from_any(said))  # one that a plugin keeps stays the plugin's


async def around_tool(
    run: Run,
    call: ToolCall,
    tool: Tool,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    work: Callable[[Run, Tool, tuple[Any, ...], dict[str, Any]], Awaitable[Any]],
) -> Any:
    """Call a tool for ``run`` with its plugins around the call.

    Args:
        run: The run.
        call: The call, as the run's memory has it.
        tool: The tool.
        args: Its arguments.
        kwargs: Its arguments.
        work: Calls it.

    Raises:
        ToolRefusedError: A plugin refused the call, or its result.
    """
    plugins = manager.of(run)
    if not plugins:
        return await work(run, tool, args, kwargs)
    around = _Around(plugins, run, "tool", f"the call of '{call.name}'")
    # The model has called it as it has: what plugins change is a call of their own.
    shown = ToolCall(call.name, by_name(tool, args, kwargs), call.id)

    def take(said: Any) -> None:
        arguments = said.arguments if isinstance(said, ToolCall) else said
        if not isinstance(arguments, dict):
            raise TypeError(_not(said, "the arguments as a dict"))
        shown.arguments = arguments

    replaced = await around.before(lambda: (shown,), take)
    result = await work(run, tool, (), shown.arguments) if replaced is None else replaced.value
    return await around.after(result, lambda given: (shown, given), _value)


def by_name(tool: Tool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by name, so that hooks find them in one form whoever calls."""
    if not args:
        return dict(kwargs)
    names = list(tool.signature.parameters)
    if len(args) == 1 and not kwargs and isinstance(args[0], dict) and args[0] and {*args[0]} <= {*names}:
        return dict(args[0])  # `tool({"city": "Paris"})` means `tool(city="Paris")`, as tools have it
    if len(args) > len(names):
        raise AgentToolCallError(
            f"The tool '{tool.name}' takes {len(names)} arguments, and was given {len(args)}."
        )
    placed = dict(zip(names, args, strict=False))
    for name in placed.keys() & kwargs.keys():
        raise AgentToolCallError(f"The tool '{tool.name}' was given its argument '{name}' twice.")
    return {**placed, **kwargs}


def _not(said: Any, wanted: str) -> str:
    return f"it returned {said!r:.80}, and should return None, {wanted}, Replace(...) or Refuse(...)"
