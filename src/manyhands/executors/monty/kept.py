"""What a run has in Monty between two blocks, and what else is known of its code."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from manyhands.executors.monty.source import HELPERS, Source, read
from manyhands.executors.monty.values import leaving
from manyhands.executors.monty.workers import monty_package

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from pydantic_monty import MontySession

# Types whose values Monty hands out as their text.
_STAYS = frozenset({"function", "coroutine", "module", "type", "method", "generator", "iterator"})


@dataclass
class Kept:
    """What a run has in Monty between two blocks.

    Attributes:
        image: All variables, as a dump of Monty; None in the beginning.
        feeds: How many sources Monty has been given.
        together: Places of calls that begin without being waited for, by source.
        handed: Places of calls that hand over a function, by source.
        helpers: Helpers that are defined.
        names: Names that blocks have bound.
        callers: Functions that call tools.
        definitions: Sources of functions, classes and imports, by name.
    """

    image: bytes | None = None
    feeds: int = 0
    together: dict[str, Collection[tuple[int, int]]] = field(default_factory=dict)
    handed: dict[str, Mapping[tuple[int, int], str]] = field(default_factory=dict)
    helpers: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    callers: frozenset[str] = frozenset()
    definitions: dict[str, str] = field(default_factory=dict)

    def after(self, source: Source, names: Iterable[str]) -> tuple[Kept, list[str]]:
        """Return what there is when ``source`` has run, without its image, and the helpers to define before.

        Args:
            source: The block.
            names: Names that are bound beside those it binds itself.
        """
        missing = sorted(source.helpers - self.helpers)
        new = replace(self, together=dict(self.together), handed=dict(self.handed))
        for name in missing:
            new._add(_HELPERS[name])
        new._add(source)
        new.helpers |= source.helpers
        new.names |= source.binds | frozenset(names)
        new.callers = (self.callers - source.binds) | source.callers
        kept = {name: text for name, text in self.definitions.items() if name not in source.binds}
        new.definitions = {**kept, **source.definitions}
        return new, [_HELPERS[name].text for name in missing]

    def _add(self, source: Source) -> None:
        filename = f"<python-input-{self.feeds}>"
        self.feeds += 1
        if source.together:
            self.together[filename] = source.together
        if source.handed:
            self.handed[filename] = source.handed


def _helper(text: str) -> Source:
    """A helper: what ``parallel`` is given begins without being waited for."""
    source = read(text, ())
    if "parallel" not in source.binds:
        return source
    at = len(text[: text.index("function(item)")].encode())
    return replace(source, together=source.together | {(at, at + len("function(item)"))}, helpers=frozenset())


_HELPERS = {name: _helper(text) for name, text in HELPERS.items()}


def read_variables(
    image: bytes, names: Iterable[str], session: MontySession
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values of variables by name, and why the others are no plain data."""
    session.load_session(image)
    values, left = {}, {}
    for name in names:
        snapshot: Any = session.feed_start(f"({name}, str(type({name})))")
        if type(snapshot).__name__ == "NameLookupSnapshot":
            try:
                snapshot.resume()
            except monty_package().MontyError:
                continue
        value, kind = snapshot.output
        try:
            if kind.split("'")[1] in _STAYS:
                raise TypeError(f"it is a {kind.split(chr(39))[1]}")
            values[name] = leaving(value, "It")
        except TypeError as error:
            left[name] = str(error)
    return values, left


def loaded(text: str) -> frozenset[str]:
    """The names that a source reads."""
    tree = ast.parse(text)
    return frozenset(n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load))


def needed_definitions(loads: Collection[str], definitions: Mapping[str, str]) -> dict[str, str]:
    """The definitions that code with these names needs, those that others need before them."""
    needed = {name for name in definitions if name in loads}
    while True:
        more = {
            name for found in needed for name in loaded(definitions[found]) if name in definitions
        } - needed
        if not more:
            return {name: text for name, text in definitions.items() if name in needed}
        needed |= more
