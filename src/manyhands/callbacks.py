"""Functions of the user that are called after steps, by the kind of step."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from manyhands._bridge import call_user, run_sync
from manyhands.steps import ActionStep, MemoryStep

Callback = Callable[..., Any]
StepCallbacks = Sequence[Callback] | Mapping[type[MemoryStep], Callback | Sequence[Callback]]


@functools.lru_cache(maxsize=1024)
def check_accepts(fn: Callback, name: str) -> bool:
    """Return whether ``fn`` takes a keyword argument ``name``."""
    try:
        parameters = inspect.signature(fn).parameters
    except (TypeError, ValueError):
        return True
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


@functools.lru_cache(maxsize=1024)
def _takes_one(fn: Callback) -> bool:
    try:
        return len(inspect.signature(fn).parameters) == 1
    except (TypeError, ValueError):
        return False


class CallbackRegistry:
    """Callbacks by class of step; one registered for a base class hears of all its kinds.

    Args:
        callbacks: A list, for action steps; or a mapping from class of step to one or several.
    """

    def __init__(self, callbacks: StepCallbacks | None = None) -> None:
        self._callbacks: dict[type[MemoryStep], list[Callback]] = {}
        if isinstance(callbacks, Mapping):
            for kind, given in callbacks.items():
                for callback in given if isinstance(given, Sequence) else [given]:
                    self.register(kind, callback)
        else:
            for callback in callbacks or ():
                self.register(ActionStep, callback)

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def register(self, step_cls: type[MemoryStep], callback: Callback) -> None:
        """Call ``callback`` after each step of class ``step_cls``.

        Args:
            step_cls: A class of step, or a base of several.
            callback: Sync or async; called as ``callback(step)`` if it takes one argument, else as
                ``callback(step, agent=agent)``.
        """
        self._callbacks.setdefault(step_cls, []).append(callback)

    async def acall(self, step: MemoryStep, **context: Any) -> None:
        """Call what is registered for ``step``, in order."""
        for kind in type(step).__mro__:
            for callback in self._callbacks.get(kind, ()):
                await call_user(callback, step, **({} if _takes_one(callback) else context))

    def callback(self, step: MemoryStep, **context: Any) -> None:
        """Call what is registered for ``step``, from sync code."""
        run_sync(self.acall(step, **context))
