"""Tools as the code sees them: opaque functions that wait without a word."""

from __future__ import annotations

import asyncio
import builtins
import functools
from typing import TYPE_CHECKING, Any

from manyhands._bridge import call_user
from manyhands.executors.local import explain
from manyhands.executors.local.output import shown
from manyhands.executors.local.switch import Finished, Step, Stop, current_step, wait_tool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

FINAL_ANSWER = "final_answer"

_ATOMS = frozenset({str, int, float, bool, bytes, complex, type(None)})
_PLAIN: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (bool, bool),
    (int, int.__int__),
    (float, float.__float__),
    (bytes, lambda value: bytes.join(b"", [bytes.__getitem__(value, slice(None))])),
)
_MAX_DEPTH = 20


def plain(value: Any, depth: int = 0) -> Any:
    """``value`` without objects of subclasses of ``str``, ``int``, ...

    In it, also inside plain containers.
    """
    kind = type(value)
    if kind in _ATOMS or depth > _MAX_DEPTH:
        return value
    if kind is list or kind is tuple or kind is set or kind is frozenset:
        if not set(map(type, value)) - _ATOMS:
            return value
        return kind([plain(item, depth + 1) for item in value])
    if kind is dict:
        if not (set(map(type, value)) | set(map(type, value.values()))) - _ATOMS:
            return value
        return {plain(key, depth + 1): plain(item, depth + 1) for key, item in value.items()}
    for base, make in _PLAIN:
        if issubclass(kind, base):
            return make(value)
    return value


class ToolFunction:
    """A tool, callable and nothing else."""

    __slots__ = ("__name__", "_acall")
    __manyhands_frozen__ = True

    def __init__(self, name: str, target: Any) -> None:
        self.__name__ = name
        #: Calls the tool itself; to be awaited on the loop's side.
        self._acall: Callable[..., Awaitable[Any]] = _way_to_call(target)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        step = current_step()
        args, kwargs = plain(args), plain(kwargs)
        failed: BaseException | None = None
        try:
            value = wait_tool(self._acall(*args, **kwargs))
        except Stop:
            raise
        except BaseException as error:
            failed = cleaned(error, step)
        if failed is not None:
            raise failed  # out here, where the error of the tool is not its context
        if self.__name__ == FINAL_ANSWER:
            finish(value)
        return step.session.modules.shown(value)

    def __repr__(self) -> str:
        return f"<tool {self.__name__}>"


def _way_to_call(target: Any) -> Callable[..., Awaitable[Any]]:
    if hasattr(type(target), "begin_call"):
        return target.begin_call  # type: ignore[no-any-return]
    acall = getattr(target, "acall", None)
    return acall if asyncio.iscoroutinefunction(acall) else functools.partial(call_user, target)


def finish(value: Any) -> None:
    """End the step with ``value`` as its answer."""
    step = current_step()
    step.shown = shown(value)
    step.answer = value
    step.halt(Finished)
    raise Finished


_classes: dict[tuple[str, type], type[BaseException]] = {}


def cleaned(error: BaseException, step: Step) -> BaseException:
    """An error of the same kind and text that holds nothing of the host: no traceback, cause or objects."""
    cls = type(error)
    if isinstance(error, asyncio.CancelledError):
        clean: BaseException = asyncio.CancelledError()
    else:
        base = next(b for b in cls.__mro__ if explain.is_builtin_exception(b))
        if not issubclass(base, Exception):
            base = RuntimeError
        clean = _made(base if base is cls else _named(cls.__name__, base), error)
    if step.origins is None:
        step.origins = {}
    step.origins[id(clean)] = (clean, error)
    return clean


def _made(cls: type[BaseException], error: BaseException) -> BaseException:
    args = error.args if isinstance(error, KeyError) else (_text(error),)
    try:
        return cls(*[_text(arg) if type(arg) not in _ATOMS else arg for arg in args])
    except Exception:  # UnicodeDecodeError and others whose constructor takes more than a text
        return RuntimeError(f"{type(error).__name__}: {_text(error)}")


def _text(error: object) -> str:
    try:
        return plain(str(error))  # type: ignore[no-any-return]
    except Exception:
        return "<no text>"


def _named(name: str, base: type) -> type[BaseException]:
    key = (name, base)
    if key not in _classes:
        if len(_classes) > 1000:
            _classes.clear()
        _classes[key] = type(name, (base,), {"__module__": builtins.__name__, "__slots__": ()})
    return _classes[key]
