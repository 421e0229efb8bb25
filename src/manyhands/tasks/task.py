"""One task of many, and the forms in which it may be given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from manyhands.errors import CallerError

if TYPE_CHECKING:
    from collections.abc import Mapping

_OWN_KEYS = frozenset({"task", "id", "expected", "images", "additional_args"})


@dataclass(frozen=True, slots=True)
class Task:
    """One task.

    Attributes:
        task: What to do.
        id: Its name among the others: text or a number; by default its position.
        additional_args: Values for tools and code, by name.
        images: Pictures that belong to it.
        expected: The right answer, if it is known. The agent is not told; the result carries it.
    """

    task: str
    id: str | int | float | None = None
    additional_args: dict[str, Any] | None = None
    images: list[Any] | None = None
    expected: Any = None


def as_task(item: Any) -> Task:
    """Return the task that ``item`` means.

    Args:
        item: Text, a :class:`Task`, or a mapping with the key ``task``. Of a mapping, ``id``,
            ``expected`` and ``images`` are the task's own; every other key becomes one of its
            ``additional_args``.

    Raises:
        CallerError: It means none; the message says why.
    """
    if isinstance(item, Task):
        return item
    if isinstance(item, str):
        return Task(_text(item))
    if isinstance(item, dict):
        return task_from_mapping(item)
    raise CallerError(f'A task is text, a dict with a "task", or a Task; this is {type(item).__name__}.')


def task_from_mapping(values: Mapping[str, Any]) -> Task:
    """Return the task that the keys of a mapping describe; see :func:`as_task`."""
    if "task" not in values:
        raise CallerError(f'There is no "task"; the keys are {", ".join(map(repr, values)) or "none"}.')
    given = values.get("additional_args") or {}
    if not isinstance(given, dict):
        raise CallerError(f'"additional_args" is {type(given).__name__}; it must be an object.')
    extra = {**given, **{key: value for key, value in values.items() if key not in _OWN_KEYS}}
    return Task(
        _text(values["task"]),
        _checked_id(values.get("id")),
        extra or None,
        values.get("images"),
        values.get("expected"),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise CallerError(f'The "task" is {type(value).__name__}; it must be text.')
    if not value.strip():
        raise CallerError("The task is empty.")
    return value


def _checked_id(value: Any) -> str | int | float | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise CallerError(f'The "id" is {type(value).__name__}; it must be text or a number.')
    return value
