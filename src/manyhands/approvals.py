"""People decide: tool calls that wait for a yes, and questions that wait for an answer.

A tool may ask for approval of its calls, and so may a policy of the agent. The call is then parked: a
request is open, told to all who watch the run, and whoever answers it first decides. A parked call is one
coroutine that waits for one future; it holds no thread, no slot of a tool and none of a model.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal
from weakref import WeakSet

from manyhands._bridge import call_user
from manyhands.errors import AgentToolCallError, ApprovalDeniedError, CallerError, check_seconds
from manyhands.events import ApprovalEnd, Lifecycle, event, waiting
from manyhands.plugins import by_name
from manyhands.steps import plain

if TYPE_CHECKING:
    from manyhands.agents import MultiStepAgent
    from manyhands.run import Run
    from manyhands.steps import ToolCall
    from manyhands.tools.base import Tool

logger = logging.getLogger("manyhands")

Handler = Callable[["ApprovalRequest"], Any]
Demand = bool | Collection[str] | Callable[[str, dict[str, Any]], Any]

# What can become of a request.
APPROVED: Final = "approved"
CHANGED: Final = "changed"
DENIED: Final = "denied"
ANSWERED: Final = "answered"
CANCELLED: Final = "cancelled"


@dataclass(frozen=True, slots=True)
class ApprovalDecision:
    """What was decided.

    Attributes:
        decision: ``approved``, ``changed``, ``denied`` or ``answered``; ``cancelled`` where the run did
            not wait any longer.
        reason: Why; the model is told the reason of a denial.
        arguments: The arguments to call with, where they were changed.
        text: The answer to a question.
    """

    decision: Literal["approved", "changed", "denied", "answered", "cancelled"]
    reason: str = ""
    arguments: dict[str, Any] | None = None
    text: str = field(default="", repr=False)


# --- A request -----------------------------------------------------------------------------------


# Answering is a moment's work, and waits for nothing: one lock for all.
_answering = threading.Lock()


class _Wait:
    """The other side of a request: who waits for the answer, and what it was."""

    __slots__ = ("decision", "future", "tool")

    def __init__(self, tool: Tool) -> None:
        self.tool = tool
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.decision: ApprovalDecision | None = None

    def take(self, decision: ApprovalDecision) -> bool:
        """Take the first decision and wake who waits; refuse later ones. From any thread."""
        with _answering:
            if self.decision is not None:
                return False
            self.decision = decision
        loop = self.future.get_loop()
        if asyncio._get_running_loop() is loop:
            self._wake()
        else:
            with suppress(RuntimeError):  # the loop has ended, and the run with it
                loop.call_soon_threadsafe(self._wake)
        return True

    def _wake(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


@event(eq=False)
class ApprovalRequest(Lifecycle):
    """Somebody is asked: may this tool be called with these arguments? Or: what is the answer?

    It is open from the moment observers are told of it until it is answered, its time runs out, or its run
    ends. It may be answered from any thread. The first answer counts: the methods that answer return
    whether theirs was the one.

    Attributes:
        run_id: The run that asks, and waits.
        id: Unique name of the request.
        agent: Name of the agent.
        tool: Name of the tool.
        arguments: The arguments of the call, by name.
        reason: Why a person is asked; for a question the question itself.
        created: When it was opened, in seconds since the epoch.
        expires: When its time runs out, in seconds since the epoch; ``None`` for never.
        kind: ``approval``, or ``question`` for one that wants an answer in words.
        call_id: The id of the call in the model's reply; empty for a call from generated code.
    """

    id: str
    agent: str
    tool: str
    arguments: dict[str, Any]
    reason: str
    created: float
    expires: float | None
    kind: str
    call_id: str
    _wait: _Wait = field(repr=False)

    @property
    def answered(self) -> bool:
        """Whether it is open no more: answered, out of time, or given up by its run."""
        return self._wait.decision is not None

    @property
    def decision(self) -> ApprovalDecision | None:
        """What was decided; ``None`` while it is open."""
        return self._wait.decision

    def approve(self) -> bool:
        """Let the call be made as it is.

        Returns:
            Whether this decided; ``False`` if the request is open no more.

        Raises:
            CallerError: It is a question.
        """
        return self.decide(ApprovalDecision(APPROVED))

    def deny(self, reason: str = "") -> bool:
        """Refuse the call, or to answer; the run goes on, and its model is told.

        Args:
            reason: Why, for the model.

        Returns:
            Whether this decided; ``False`` if the request is open no more.
        """
        return self.decide(ApprovalDecision(DENIED, reason))

    def change(self, arguments: dict[str, Any]) -> bool:
        """Let the call be made with other arguments.

        Args:
            arguments: All arguments of the call, by name, as JSON values.

        Returns:
            Whether this decided; ``False`` if the request is open no more.

        Raises:
            CallerError: The tool does not take these arguments, or it is a question; it stays open.
        """
        return self.decide(ApprovalDecision(CHANGED, arguments=arguments))

    def answer(self, text: str) -> bool:
        """Answer a question.

        Args:
            text: The answer.

        Returns:
            Whether this decided; ``False`` if the question is open no more.

        Raises:
            CallerError: It is no question, or the answer is no text.
        """
        return self.decide(ApprovalDecision(ANSWERED, text=text))

    def decide(self, decision: ApprovalDecision) -> bool:
        """Answer with a decision; the other methods are shorter ways to do so.

        Raises:
            CallerError: The decision does not fit the request; it stays open.
        """
        _check(self, decision)
        if decision.decision == CHANGED:
            decision = ApprovalDecision(CHANGED, decision.reason, self._fitting(decision.arguments))
        return self._wait.take(decision)

    def _fitting(self, arguments: Any) -> dict[str, Any]:
        try:
            return self._wait.tool.check_arguments(arguments)
        except AgentToolCallError as error:
            raise CallerError(str(error)) from error

    def dict(self) -> dict[str, Any]:
        """Return the request as JSON values."""
        return {
            "id": self.id,
            "run_id": self.run_id,
            "kind": self.kind,
            "agent": self.agent,
            "tool": self.tool,
            "call_id": self.call_id,
            "arguments": {name: _shown(value) for name, value in self.arguments.items()},
            "reason": self.reason,
            "created": self.created,
            "expires": self.expires,
        }


def _check(request: ApprovalRequest, decision: ApprovalDecision) -> None:
    fitting = (ANSWERED, DENIED) if request.kind == "question" else (APPROVED, CHANGED, DENIED)
    if decision.decision not in fitting:
        what = "a question: answer() or deny() it" if request.kind == "question" else "about a call of a tool"
        raise CallerError(f"The request {request.id} cannot be {decision.decision}, for it is {what}.")
    if decision.decision == ANSWERED and not isinstance(decision.text, str):
        raise CallerError(f"The answer to a question is a text, not {decision.text!r}.")
    if not isinstance(decision.reason, str):
        raise CallerError(f"The reason of a decision is a text, not {decision.reason!r}.")


def _shown(value: Any) -> Any:
    try:
        return plain(value)
    except Exception:  # an object of generated code may refuse to be shown out here
        return f"<{type(value).__name__}>"


# --- Who decides, and what needs a decision -------------------------------------------------------


class ApprovalPolicy:
    """Which calls of an agent's runs need approval, who is asked, and for how long.

    It holds as well for the runs that these start, where their agents have no policy of their own.

    Args:
        handler: A sync or async function of the :class:`ApprovalRequest`, or ``"console"`` for the person at
            the terminal. It returns ``True`` to approve, ``False`` or a text (the reason) to deny, a dict to
            approve with other arguments, an :class:`ApprovalDecision`, or ``None`` to leave the request
            open; to a question a text is the answer. Without a handler, and beside it, a request is
            answered by whoever finds it: in ``run.pending``, as an event, over HTTP.
        timeout: Most seconds that a request stays open; ``None`` for no limit.
        default: What happens then: ``"deny"`` or ``"approve"``.
        require: What needs approval beside the calls of tools that ask for it themselves: names of tools,
            ``True`` for every tool but ``final_answer``, or a sync or async function of name and arguments
            that returns whether, or why.

    Raises:
        CallerError: A parameter cannot be right; the message says which and why.
    """

    def __init__(
        self,
        handler: Handler | Literal["console"] | None = None,
        *,
        timeout: float | None = None,
        default: Literal["deny", "approve"] = "deny",
        require: Demand = False,
    ) -> None:
        self.handler = _as_handler(handler)
        self.timeout = check_seconds("timeout", timeout)
        if default not in ("deny", "approve"):
            raise CallerError(f'default is "deny" or "approve", not {default!r}.')
        if isinstance(require, str) or not isinstance(require, bool | Collection | Callable):
            raise CallerError(
                f"require is True, tool names, or a function of name and arguments, not {require!r}."
            )
        self.default = default
        self.require = require

    def may_demand(self, tool: str) -> bool:
        """Return whether calls of ``tool`` may need approval, whatever their arguments."""
        require = self.require
        if isinstance(require, bool):
            return require and tool != "final_answer"
        return callable(require) or tool in require

    async def demand(self, tool: str, arguments: dict[str, Any]) -> str:
        """Return why the policy wants a call approved; empty if it does not.

        Args:
            tool: Name of the tool.
            arguments: Arguments of the call, by name.
        """
        if callable(self.require):
            why = f"The policy asks about this call of '{tool}'."
            return await _reason(self.require, tool, arguments, why=why)
        return f"The policy asks about every call of '{tool}'." if self.may_demand(tool) else ""


def as_policy(given: Any) -> ApprovalPolicy | None:
    """Return what an agent was given as ``approvals`` as a policy.

    Raises:
        CallerError: It can be none.
    """
    if given is None or isinstance(given, ApprovalPolicy):
        return given
    return ApprovalPolicy(given)


def _as_handler(given: Any) -> Handler | None:
    if given == "console":
        from manyhands.terminal import ask_at_console

        return ask_at_console
    if given is None or callable(given):
        return given  # type: ignore[no-any-return]
    raise CallerError(
        f'approvals are handled by a function of the request or by "console", not by {given!r}.'
    )


def policy_of(run: Run) -> ApprovalPolicy | None:
    """Return the policy that ``run`` is under: its agent's own, else that of the run that started it."""
    one: Run | None = run
    while one is not None:
        if one.agent.approvals is not None:
            return one.agent.approvals
        one = one.parent
    return None


async def _why(tool: Tool, policy: ApprovalPolicy | None, arguments: dict[str, Any]) -> str:
    """Return why a call needs approval; empty if it needs none."""
    own = tool.requires_approval
    why = f"The tool '{tool.name}' asks for approval."
    if callable(own):
        why = await _reason(own, arguments, why=why)
    if own and why:
        return why
    return await policy.demand(tool.name, arguments) if policy is not None else ""


async def _reason(demand: Callable[..., Any], *args: Any, why: str) -> str:
    """Ask a function of the user whether approval is needed; if it cannot tell, it is."""
    try:
        said = await call_user(demand, *args)
    except Exception as error:
        logger.exception("What decides whether a call needs approval failed; approval is asked for")
        return f"{why} (Whether it needs to could not be told: {type(error).__name__}: {error})"
    if isinstance(said, str):
        return said
    return why if said else ""


# --- Asking ----------------------------------------------------------------------------------------


async def approved(
    run: Run, call: ToolCall, tool: Tool, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments that ``tool`` may be called with, once somebody who may has said yes, if needed.

    Args:
        run: The run that calls.
        call: The call, as the model made it.
        tool: The tool.
        args: Its arguments.
        kwargs: Its arguments.

    Raises:
        ApprovalDeniedError: Somebody said no, or nobody said yes in time.
    """
    policy = policy_of(run)
    if not tool.requires_approval and (policy is None or not policy.may_demand(tool.name)):
        return args, kwargs
    # A copy: what is approved is what is called, whatever the code does with its lists meanwhile.
    arguments = _frozen(by_name(tool, args, kwargs))
    reason = await _why(tool, policy, arguments)
    if not reason:
        return (), arguments
    policy = policy or _NOBODY
    request = _open(run, call, tool, arguments, reason, "approval", policy.timeout)
    decision = await _decision(run, request, policy.handler, policy.timeout, policy.default)
    if decision.decision == DENIED:
        because = f": {decision.reason}" if decision.reason else "."
        raise ApprovalDeniedError(f"The call of '{tool.name}' was denied{because}", decision.reason)
    return (), arguments if decision.arguments is None else decision.arguments


async def ask_question(
    run: Run, tool: Tool, question: str, handler: Handler | None, seconds: float | None
) -> str:
    """Ask a person something for ``run``, and return the answer.

    Args:
        run: The run that asks.
        tool: The tool that asks for it.
        question: The question.
        handler: Who is asked first; ``None`` for the handler of the run's policy.
        seconds: Most seconds to wait; ``None`` for those of the run's policy.

    Raises:
        ApprovalDeniedError: Nobody answers.
    """
    policy = policy_of(run) or _NOBODY
    seconds = policy.timeout if seconds is None else seconds
    request = _open(run, None, tool, {"question": question}, question, "question", seconds)
    decision = await _decision(run, request, handler or policy.handler, seconds, "deny")
    if decision.decision == DENIED:
        because = f": {decision.reason}" if decision.reason else "."
        raise ApprovalDeniedError(f"The question was not answered{because}", decision.reason)
    return decision.text


_NOBODY = ApprovalPolicy()


def _frozen(value: Any) -> Any:
    """Return ``value`` with copies of the lists, dicts and sets in it."""
    try:
        return _copied(value)
    except RecursionError:
        raise AgentToolCallError(
            "The arguments hold themselves, or are nested too deep, so nobody can approve them. "
            "Pass plain values."
        ) from None


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in dict.items(value)}
    if isinstance(value, list):
        return [_copied(item) for item in list.__iter__(value)]
    if type(value) is tuple:
        return tuple(_copied(item) for item in value)
    return set(set.__iter__(value)) if isinstance(value, set) else value


def _open(
    run: Run,
    call: ToolCall | None,
    tool: Tool,
    arguments: dict[str, Any],
    reason: str,
    kind: str,
    seconds: float | None,
) -> ApprovalRequest:
    now = time.time()
    return ApprovalRequest(
        run_id=run.id,
        id=uuid.uuid4().hex,
        agent=run.agent.name or type(run.agent).__name__,
        tool=tool.name,
        arguments=arguments,
        reason=reason,
        created=now,
        expires=None if seconds is None else now + seconds,
        kind=kind,
        call_id=call.id if call is not None else "",
        _wait=_Wait(tool),
    )


async def _decision(
    run: Run, request: ApprovalRequest, handler: Handler | None, seconds: float | None, default: str
) -> ApprovalDecision:
    """Open ``request``, wait for its answer, and close it."""
    wait = request._wait
    timer = None
    if handler is None and seconds is None and not run.observers:
        _warn(run, request)
    if seconds is not None:
        timer = wait.future.get_loop().call_later(seconds, wait.take, _out_of_time(seconds, default))
    with waiting("approval", request.tool):
        run.list_request(request)
        try:
            if run.observers:
                run.tell(request)
            if handler is None or wait.decision is not None:
                await wait.future
            else:
                await _handled(request, handler)
        finally:
            if timer is not None:
                timer.cancel()
            _close(run, request)
    assert wait.decision is not None
    return wait.decision


# Agents whose runs wait without anybody knowing: each is reported once.
_unheard: WeakSet[MultiStepAgent] = WeakSet()


def _warn(run: Run, request: ApprovalRequest) -> None:
    if run.agent not in _unheard:
        _unheard.add(run.agent)
        logger.warning(
            "%r waits for somebody to answer about '%s', and nobody was told: give its agent approvals=..., "
            "or answer what is in run.pending",
            run,
            request.tool,
        )


def _close(run: Run, request: ApprovalRequest) -> None:
    """Let nobody answer ``request`` any more, and tell what became of it."""
    wait = request._wait
    wait.take(ApprovalDecision(CANCELLED))
    run.unlist_request(request)
    came = wait.decision
    if run.observers and came is not None:
        run.tell(ApprovalEnd(run.id, request.id, came.decision, came.reason, came.arguments))


def _out_of_time(seconds: float, default: str) -> ApprovalDecision:
    return ApprovalDecision(
        APPROVED if default == "approve" else DENIED, f"nobody answered within {seconds:g} seconds"
    )


async def _handled(request: ApprovalRequest, handler: Handler) -> None:
    """Let ``handler`` decide, unless somebody else is faster."""
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(_ask(request, handler))
        await request._wait.future
        asking.cancel()


async def _ask(request: ApprovalRequest, handler: Handler) -> None:
    try:
        said = await call_user(handler, request)
        if said is not None:
            request.decide(_understood(request, said))
    except Exception as error:
        logger.exception("The handler of approvals failed; '%s' is denied", request.tool)
        request.deny(f"whoever decides could not be asked ({type(error).__name__}: {error})")


def _understood(request: ApprovalRequest, said: Any) -> ApprovalDecision:
    """Return what a handler means by what it returned."""
    if isinstance(said, ApprovalDecision):
        return said
    if said is False:
        return ApprovalDecision(DENIED)
    if isinstance(said, str):
        return (
            ApprovalDecision(ANSWERED, text=said)
            if request.kind == "question"
            else ApprovalDecision(DENIED, said)
        )
    if request.kind == "approval" and said is True:
        return ApprovalDecision(APPROVED)
    if request.kind == "approval" and isinstance(said, dict):
        return ApprovalDecision(CHANGED, arguments=said)
    wanted = "a text" if request.kind == "question" else "True, False, a text, a dict"
    raise TypeError(f"it returned {said!r:.80}, and should return {wanted}, an ApprovalDecision or None")
