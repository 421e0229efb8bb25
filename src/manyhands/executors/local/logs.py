"""``logging`` for the code: records are printed with its other output.

Handlers and settings of the process stay away.
"""

from __future__ import annotations

import logging
from typing import Any

from manyhands.executors.local.policy import words
from manyhands.executors.local.switch import current_step

_LEVELS = words("CRITICAL DEBUG ERROR FATAL INFO NOTSET WARN WARNING")


class Logger:
    """A logger that prints ``LEVEL:name:message``, from the level on that the run has set."""

    __manyhands_frozen__ = True
    __slots__ = ("name",)

    def __init__(self, name: str = "root") -> None:
        self.name = name

    def log(self, level: int, message: Any, *args: Any, exc_info: Any = None, **_: Any) -> None:
        step = current_step()
        if level < step.session.log_level:
            return
        text = str(message)
        if args:
            # Logging takes a single mapping for named fields.
            text = text % (args[0] if len(args) == 1 and isinstance(args[0], dict) else args)
        step.output.write(f"{logging.getLevelName(level)}:{self.name}:{text}\n")

    def debug(self, message: Any, *args: Any, **options: Any) -> None:
        self.log(logging.DEBUG, message, *args, **options)

    def info(self, message: Any, *args: Any, **options: Any) -> None:
        self.log(logging.INFO, message, *args, **options)

    def warning(self, message: Any, *args: Any, **options: Any) -> None:
        self.log(logging.WARNING, message, *args, **options)

    def error(self, message: Any, *args: Any, **options: Any) -> None:
        self.log(logging.ERROR, message, *args, **options)

    exception = error

    def critical(self, message: Any, *args: Any, **options: Any) -> None:
        self.log(logging.CRITICAL, message, *args, **options)

    def setLevel(self, level: Any) -> None:
        _set_level(level)

    def isEnabledFor(self, level: int) -> bool:
        return bool(level >= current_step().session.log_level)

    def addHandler(self, handler: Any) -> None:
        """There is one place to write to."""


def _set_level(level: Any) -> None:
    known = {name: getattr(logging, name) for name in _LEVELS}
    current_step().session.log_level = level if type(level) is int else known[str(level).upper()]


def _basic_config(*, level: Any = None, **_: Any) -> None:
    if level is not None:
        _set_level(level)


def _get_logger(name: Any = None) -> Logger:
    return Logger("root" if name is None else str(name))


_root = Logger()

#: The members of ``logging`` for the code.
LOGGING: dict[str, Any] = {
    **{name: getattr(logging, name) for name in _LEVELS},
    **{
        name: getattr(_root, name)
        for name in ("critical", "debug", "error", "exception", "info", "log", "warning")
    },
    "Logger": Logger,
    "basicConfig": _basic_config,
    "getLevelName": lambda level: logging.getLevelName(level),
    "getLogger": _get_logger,
}
