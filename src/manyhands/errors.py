"""Every error that manyhands raises on purpose, in one tree, sorted by whose fault it is.

::

    AgentError                        something an agent run can fail with; knows its run
    ├── CallerError                   your code: raised at once, at construction where possible
    │   ├── ToolDefinitionError       a tool that cannot work as written     (also TypeError, ValueError)
    │   ├── UnknownToolError          a tool name nobody registered          (also KeyError)
    │   ├── TemplateError             a prompt template lacks a key or a variable (also ValueError)
    │   └── MissingExtraError         an optional package is not installed   (also ImportError)
    ├── AgentParsingError             the model's words hold no action
    ├── AgentExecutionError           acting failed: the model sees it and goes on
    │   ├── AgentToolCallError        the call itself is wrong: unknown tool, bad arguments
    │   ├── AgentToolExecutionError   the tool raised
    │   ├── ToolRefusedError          a plugin refused the call
    │   ├── ApprovalDeniedError       a person said no to the call, or had no answer to the question
    │   └── InterpreterError          generated code failed                  (also ValueError)
    │       └── ExecutionTimeoutError generated code ran out of time
    ├── AgentMaxStepsError            the run used all its steps
    ├── AgentGenerationError          the model gave no reply
    │   └── ProviderError             what its provider or the network said: status, retry_after
    │       ├── RateLimitError        429
    │       ├── AuthenticationError   401, 403
    │       ├── BadRequestError       400, 404, 422 ...
    │       ├── ServerError           5xx, 408, 409
    │       └── ConnectionFailedError no connection, a broken stream, or silence
    ├── RefusedError                  a plugin refused the run, a step, or a question to the model
    ├── BudgetExceededError           what the run may use up is used up (in manyhands.limits)
    ├── AgentInterruptedError         interrupt() was called
    └── RunTimeoutError               the run's own time limit passed        (also TimeoutError)

Errors carry data and never log or print. Cancellation is not in the tree: it is always
:class:`asyncio.CancelledError` and never swallowed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping


class AgentError(Exception):
    """Base of every error in manyhands.

    Args:
        message: One sentence on what happened and what to do.

    Attributes:
        message: The sentence.
        run: The run that failed, with its partial memory, usage and events; ``None`` outside a run.
        ends_run: Whether a run ends with it; otherwise the model is told, and the run goes on.
        run_status: The status of a run that ends with it.
    """

    ends_run: ClassVar[bool] = False
    run_status: ClassVar[str] = "error"

    def __init__(self, message: str, *_: object) -> None:
        # smolagents passes a logger as second argument; accepted, and left alone.
        super().__init__(message)
        self.message = message
        self.run: Any = None

    def __str__(self) -> str:
        return self.message

    def dict(self) -> dict[str, str]:
        """Return type and message, ready for JSON."""
        return {"type": type(self).__name__, "message": str(self.message)}


class CallerError(AgentError):
    """The calling code asked for something that cannot be done."""


class ToolDefinitionError(CallerError, TypeError, ValueError):
    """A tool cannot work as it is written; the message says which part and why."""


class UnknownToolError(CallerError, KeyError):
    """A tool was named that is not registered; the message gives the nearest name."""

    __str__ = AgentError.__str__


class TemplateError(CallerError, ValueError):
    """A prompt template lacks a key, or uses a variable that nobody gives."""


class MissingExtraError(CallerError, ImportError):
    """An optional package is not installed; the message holds the exact pip line.

    Args:
        feature: What was asked for, as the user would name it.
        extra: The extra of manyhands that brings the package.
    """

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f'{feature} needs an optional package. Install it: pip install "manyhands[{extra}]"')
        self.extra = extra


class AgentParsingError(AgentError):
    """The model's output holds no action that could be read."""


class AgentExecutionError(AgentError):
    """Acting on the model's output failed; the text goes to the model as an observation."""


class AgentToolCallError(AgentExecutionError):
    """A tool call is wrong in itself: no such tool, or arguments that do not fit."""


class AgentToolExecutionError(AgentExecutionError):
    """A tool raised while it ran."""


class ToolRefusedError(AgentExecutionError):
    """A plugin refused a tool call, or its result; the model is told why.

    Args:
        message: One sentence with plugin and reason in it.
        plugin: Name of the plugin.
        reason: Why, in the plugin's words.
    """

    def __init__(self, message: str, plugin: str, reason: str) -> None:
        super().__init__(message)
        self.plugin = plugin
        self.reason = reason


class ApprovalDeniedError(AgentExecutionError):
    """A person said no to a tool call, or did not answer a question; the model is told why.

    Args:
        message: One sentence with the reason in it.
        reason: Why, in the words of who decided; may be empty.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class InterpreterError(AgentExecutionError, ValueError):
    """Code written by the model failed.

    Args:
        message: Source line, type and reason.
        logs: What the code had printed until then.
    """

    def __init__(self, message: str, *args: object, logs: str = "") -> None:
        super().__init__(message, *args)
        self.logs = logs


class ExecutionTimeoutError(InterpreterError):
    """Code written by the model used up its time; it has really ended."""


class AgentMaxStepsError(AgentError):
    """The run reached its last step without a final answer."""


class AgentGenerationError(AgentError):
    """The model gave no reply; the cause says why."""

    ends_run = True


class ProviderError(AgentGenerationError):
    """What a model's provider, or the network on the way, answered instead of a reply.

    Args:
        message: One sentence with the provider's own reason in it.
        status: HTTP status, or ``None`` when none arrived.
        retry_after: Seconds the provider asked to wait, or ``None``.
        body: The provider's error object, for programs.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.body = body


class RateLimitError(ProviderError):
    """The provider says: too many requests or tokens (429)."""


class AuthenticationError(ProviderError):
    """The key is missing, wrong, or not allowed to do this (401, 403)."""


class BadRequestError(ProviderError):
    """The provider rejects the request itself; sending it again cannot help."""


class ServerError(ProviderError):
    """The provider failed (5xx) or timed out on its side (408, 409)."""


class ConnectionFailedError(ProviderError):
    """No connection, a connection that broke, or one that stayed silent."""


class RefusedError(AgentError):
    """A plugin refused the run, a step of it, or a question to its model; the run has ended.

    Args:
        message: One sentence with plugin and reason in it.
        plugin: Name of the plugin.
        reason: Why, in the plugin's words.
    """

    ends_run = True

    def __init__(self, message: str, plugin: str, reason: str) -> None:
        super().__init__(message)
        self.plugin = plugin
        self.reason = reason


class AgentInterruptedError(AgentError):
    """The run was stopped by ``interrupt()``."""

    ends_run = True
    run_status = "interrupted"


class RunTimeoutError(AgentError, TimeoutError):
    """The run's own time limit passed."""

    ends_run = True
    run_status = "timeout"


class FinalAnswerException(BaseException):
    """Carries a final answer out of code; a ``BaseException`` so that no handler keeps it.

    Args:
        value: The answer.
    """

    def __init__(self, value: object) -> None:
        super().__init__(value)
        self.value = value


def as_agent_error(error: Exception) -> AgentError:
    """Return ``error`` itself if it is ours, else its text as an execution error caused by it."""
    if isinstance(error, AgentError):
        return error
    ours = AgentExecutionError(f"{type(error).__name__}: {error}")
    ours.__cause__ = error
    return ours


def check_count(name: str, value: int | None) -> int | None:
    """Return ``value`` if it can be a number of things, ``None`` included.

    Raises:
        CallerError: It is no whole number of at least 1.
    """
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise CallerError(f"{name} must be at least 1, not {value!r}.")


def check_seconds(name: str, value: float | None) -> float | None:
    """Return ``value`` if it can be a length of time, ``None`` included.

    Raises:
        CallerError: It is no number above 0.
    """
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and value > 0):
        return value
    raise CallerError(f"{name} must be a number of seconds above 0, not {value!r}.")
