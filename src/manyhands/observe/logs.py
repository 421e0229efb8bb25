"""Logs that say which run and which agent they are about, as text or as JSON, without secrets.

Every record of the loggers ``manyhands`` and ``manyhands.*`` is written by ordinary :mod:`logging`. Here is
what a handler needs to make more of it: a filter that knows the run, and a formatter.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import IO, TYPE_CHECKING, Any

from manyhands.errors import CallerError
from manyhands.observe.masking import Masker
from manyhands.run import current_run
from manyhands.steps import plain

if TYPE_CHECKING:
    from types import TracebackType

# What every record has; the rest came from `extra=`.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_OURS = ("run_id", "agent", "trace_id", "span_id")


class RunFilter(logging.Filter):
    """Gives each record ``run_id``, ``agent``, ``trace_id`` and ``span_id``; empty where there is none.

    For a handler of your own: ``handler.addFilter(RunFilter())``. It lets everything through.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Note on a record whose it is; called in the task or thread that logs."""
        run = current_run.get()
        record.run_id = "" if run is None else run.id
        record.agent = "" if run is None else run.agent.name or type(run.agent).__name__
        record.trace_id, record.span_id = _span()
        return True


def _span() -> tuple[str, str]:
    """Return the ids of the current span, without importing OpenTelemetry where nobody has."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return "", ""
    ids = trace.get_current_span().get_span_context()
    return (f"{ids.trace_id:032x}", f"{ids.span_id:016x}") if ids.is_valid else ("", "")


class _Masking(logging.Formatter):
    """A formatter whose texts hold no secrets."""

    def __init__(self, pattern: str | None = None) -> None:
        super().__init__(pattern)
        self._mask = Masker()


class JsonFormatter(_Masking):
    """Writes each record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a line: time (UTC), level, logger, message, run and span, extras, exception."""
        line: dict[str, Any] = {
            "time": _utc(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": self._mask(record.getMessage()),
        }
        line |= {name: told for name in _OURS if (told := getattr(record, name, ""))}
        for name, value in vars(record).items():
            if name not in _USUAL and name not in _OURS:
                line.setdefault(name, self._plain(name, value))
        if record.exc_info:
            line["exception"] = self._mask(self.formatException(record.exc_info))
        if record.stack_info:
            line["stack"] = self._mask(self.formatStack(record.stack_info))
        return json.dumps(line, ensure_ascii=False)

    def _plain(self, name: str, value: Any) -> Any:
        if isinstance(value, int | float | None):
            return value
        # With its name, so that a secret is known by what it is called.
        marked = f"{name}="
        masked = self._mask(marked + (value if isinstance(value, str) else json.dumps(plain(value))))
        return masked.removeprefix(marked)


class TextFormatter(_Masking):
    """Writes records for people: time, level, logger, agent and run, message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s%(whose)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as text, a traceback below it."""
        run_id, agent = getattr(record, "run_id", ""), getattr(record, "agent", "")
        record.whose = f" [{agent} {run_id[:8]}]" if run_id else ""
        return self._mask(super().format(record))


def _utc(seconds: float) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(seconds % 1 * 1000):03d}Z"


class Logs:
    """Logs as :func:`configure` has set them up; ``stop()``, or the end of a ``with``, undoes it.

    Attributes:
        handler: The handler that writes.
    """

    def __init__(self, handler: logging.Handler, level: int | str) -> None:
        self.handler = handler
        self._logger = logging.getLogger("manyhands")
        self._before = (self._logger.level, self._logger.propagate)
        try:
            self._logger.setLevel(level.upper() if isinstance(level, str) else level)
        except (TypeError, ValueError) as error:
            raise CallerError(f"level={level!r} is no level of logging: {error}.") from error
        self._logger.propagate = False
        self._logger.addHandler(handler)

    def stop(self) -> None:
        """Write nothing more, and leave the logger as it was."""
        if self.handler in self._logger.handlers:
            self._logger.removeHandler(self.handler)
            self.handler.flush()
            level, self._logger.propagate = self._before
            self._logger.setLevel(level)

    def __enter__(self) -> Logs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


_configured: Logs | None = None


def configure(json: bool = True, level: int | str = "INFO", stream: IO[str] | None = None) -> Logs:
    """Write the logs of manyhands, each record with its run and agent, and with secrets masked.

    They go nowhere else then, so that nothing is written twice. Calling it again replaces what was before.

    Args:
        json: One line of JSON per record; ``False`` for text.
        level: The lowest level that is written.
        stream: Where to; by default the standard error.

    Returns:
        What undoes it.

    Raises:
        CallerError: There is no such level.
    """
    global _configured
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if json else TextFormatter())
    handler.addFilter(RunFilter())
    if _configured is not None:
        _configured.stop()
    _configured = Logs(handler, level)
    return _configured
