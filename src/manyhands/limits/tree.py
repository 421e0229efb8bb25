"""A cap on the tree of runs that one run grows: how deep, and how many sub-agents at once."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from manyhands.errors import AgentExecutionError

if TYPE_CHECKING:
    from collections.abc import Iterator


class TreeLimitError(AgentExecutionError):
    """A sub-agent would make its tree too deep or too broad; the text goes to the model that asked for it."""


class RunTree:
    """Counts the sub-agents below one run, in all branches together.

    A sub-agent too many is refused, not queued: whoever waited would hold its own place meanwhile, and
    a tree full of waiting parents would wait for ever.

    Args:
        max_depth: Most generations below the first run; ``None`` for no limit.
        max_breadth: Most sub-agents at work at once in the whole tree; ``None`` for no limit.

    Raises:
        ValueError: A limit is negative.
    """

    def __init__(self, max_depth: int | None = None, max_breadth: int | None = None) -> None:
        for limit in (max_depth, max_breadth):
            if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
                raise TypeError(f"A limit of a tree is a whole number or None, not {limit!r}.")
            if limit is not None and limit < 0:
                raise ValueError(f"A limit of a tree cannot be {limit}.")
        self.max_depth = max_depth
        self.max_breadth = max_breadth
        self._lock = threading.Lock()
        self._alive = 0
        self._most = 0

    @property
    def alive(self) -> int:
        """Sub-agents at work now."""
        return self._alive

    @property
    def most(self) -> int:
        """Most sub-agents that were at work at once."""
        return self._most

    @contextmanager
    def branch(self, name: str = "") -> Iterator[int]:
        """Count a sub-agent of whoever runs here while it works, and yield its depth.

        Args:
            name: Of the sub-agent, for the message.

        Raises:
            TreeLimitError: There is no room for it.
        """
        tree, parent_depth = _place.get() or (None, 0)
        depth = parent_depth + 1 if tree is self else 1
        what = f"Sub-agent {name!r}" if name else "A sub-agent"
        if self.max_depth is not None and depth > self.max_depth:
            raise TreeLimitError(
                f"{what} was not started: it would be at depth {depth}, and the limit is {self.max_depth}. "
                "Do this part of the work yourself."
            )
        self._enter(what)
        before = _place.get()
        _place.set((self, depth))
        try:
            yield depth
        finally:
            _place.set(before)
            with self._lock:
                self._alive -= 1

    def _enter(self, what: str) -> None:
        with self._lock:
            if self.max_breadth is not None and self._alive >= self.max_breadth:
                raise TreeLimitError(
                    f"{what} was not started: {self._alive} sub-agents are at work already, and the limit "
                    f"for all of them together is {self.max_breadth}. Wait for one to end, or do it yourself."
                )
            self._alive += 1
            self._most = max(self._most, self._alive)


_place: ContextVar[tuple[RunTree, int] | None] = ContextVar("manyhands_tree", default=None)


def current_tree() -> RunTree | None:
    """Return the tree that this run is a branch of, ``None`` if it is none."""
    place = _place.get()
    return None if place is None else place[0]
