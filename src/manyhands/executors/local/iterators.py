"""Iterators that C code can consume for ever, or at any depth, made interruptible and bounded.

A loop in generated code has checkpoints; ``sum(itertools.count())`` is one C call and has none. So the
producers are
subclasses whose ``__iter__`` hands out pieces of a few thousand items with a checkpoint between: the speed
is C's.
"""

from __future__ import annotations

import builtins
import itertools
from typing import TYPE_CHECKING, Any

from manyhands.executors.local.policy import MAX_ITEMS
from manyhands.executors.local.switch import checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: Items between two checkpoints.
_PIECE = 2048
#: Iterators over iterators over ...: their C code recurses without a check of its own.
_MAX_DEPTH = 150
#: Ranges of up to this many items are handed to C as they are.
_SHORT = 100_000
#: The same for containers, whose items are there already.
_LONG = 1_000_000
_SIZED = frozenset({list, tuple, dict, set, frozenset, str, bytes})


def _pieces(iterator: Iterator[Any], limit: float) -> Iterator[Iterator[Any]]:
    taken = 0
    for item in iterator:
        checkpoint()
        taken += _PIECE
        if taken > limit:
            raise MemoryError(f"Refused: a collection of more than {MAX_ITEMS:,} items.")
        yield builtins.iter((item,))
        yield itertools.islice(iterator, _PIECE)


def interruptible(iterator: Iterator[Any], limit: float = float("inf")) -> Iterator[Any]:
    """The same items, with checkpoints."""
    made: Iterator[Any] = _chained(_pieces(iterator, limit))
    return made


def limited(value: Any) -> Any:
    """An argument on its way into a C function that will consume it whole."""
    kind = type(value)
    if (kind is range and len_of_range(value) > _SHORT) or (kind in _SIZED and len(value) > _LONG):
        return interruptible(builtins.iter(value))
    return value


def collected(value: Any) -> Any:
    """Like :func:`limited`, for functions that keep every item, or as many items as a number says."""
    kind = type(value)
    if (kind is range and len_of_range(value) > MAX_ITEMS) or (kind is int and value > MAX_ITEMS):
        raise MemoryError(f"Refused: a collection of more than {MAX_ITEMS:,} items.")
    if isinstance(value, _Nested):
        return interruptible(value.__iter__(), MAX_ITEMS)
    return limited(value)


def len_of_range(value: range) -> int:
    """``len`` without its limit."""
    return max(0, (value.stop - value.start + value.step - (1 if value.step > 0 else -1)) // value.step)


def _depth_of(arguments: tuple[Any, ...]) -> int:
    depth = 1 + max((a.depth for a in arguments if isinstance(a, _Nested)), default=0)
    if depth > _MAX_DEPTH:
        raise RecursionError(f"iterators are nested more than {_MAX_DEPTH} deep")
    return depth


class _Nested:
    """Mixin of iterators that know how deep they are nested."""

    __slots__ = ()
    depth: int

    def __iter__(self) -> Iterator[Any]:
        return super().__iter__()  # type: ignore[misc, no-any-return]


def _nested(base: Any) -> Any:
    """A subclass of the iterator type ``base`` that counts its nesting."""

    def __new__(cls: Any, *args: Any, **kwargs: Any) -> Any:
        depth = _depth_of(args)
        made = base.__new__(cls, *builtins.map(limited, args), **kwargs)
        made.depth = depth
        return made

    namespace = {
        "__new__": __new__,
        "__slots__": ("depth",),
        "__module__": base.__module__,
        "__doc__": base.__doc__,
    }
    namespace["__manyhands_frozen__"] = True
    return type(base.__name__, (base, _Nested), namespace)


def _endless(base: Any) -> Any:
    """The same, for iterators that give items without end or without measure."""
    made = _nested(base)

    def __iter__(self: Any) -> Iterator[Any]:
        left = _PIECE
        while True:
            left -= 1
            if not left:
                checkpoint()
                left = _PIECE
            try:
                item = base.__next__(self)
            except StopIteration:
                return
            yield item

    made.__iter__ = __iter__
    return made


map = _nested(builtins.map)
filter = _nested(builtins.filter)
zip = _nested(builtins.zip)
enumerate = _nested(builtins.enumerate)


def iter(*args: Any) -> Any:
    """``iter``, interruptible in its form with a sentinel."""
    made = builtins.iter(*args)
    return interruptible(made) if len(args) == 2 else made


ENDLESS = (
    "count",
    "cycle",
    "repeat",
    "product",
    "permutations",
    "combinations",
    "combinations_with_replacement",
)
_LAZY = (
    "accumulate",
    "chain",
    "compress",
    "dropwhile",
    "filterfalse",
    "groupby",
    "islice",
    "starmap",
    "takewhile",
    "zip_longest",
    "pairwise",
)


_Chain: Any = _nested(itertools.chain)


def _chained(pieces: Iterable[Any]) -> Any:
    """``chain.from_iterable``: the class of what it gives builds no deep nest either."""
    made = super(_Chain, _Chain).from_iterable(limited(pieces))
    made.depth = _depth_of((pieces,))
    return made


_Chain.from_iterable = staticmethod(_chained)


def itertools_members() -> dict[str, Any]:
    """The members of ``itertools`` for the code."""
    members: dict[str, Any] = {name: _endless(getattr(itertools, name)) for name in ENDLESS}
    members.update({name: _nested(getattr(itertools, name)) for name in _LAZY})
    members["chain"] = _Chain
    members["tee"] = itertools.tee
    if hasattr(itertools, "batched"):
        members["batched"] = _nested(itertools.batched)
    return members
