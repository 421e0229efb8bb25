"""A fleet on a full screen: what :meth:`manyhands.observe.fleet.Fleet.dict` tells, drawn to fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from manyhands.observe.columns import Columns
from manyhands.observe.snapshot import counts, duration, money, room
from manyhands.observe.words import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rich.console import RenderableType

_ACCENT = "#d4b702"
_MOST_LIMITS = 4
_MOST_APPROVALS = 3
# Blank lines and heads around the table of runs.
_AROUND_TABLE = 5

# Ways to sort the runs, each with what it looks at; the greatest first, names from A.
SORTS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "age": lambda row: -float(row.get("age") or 0),
    "tokens": lambda row: -int((row.get("tokens") or {}).get("total", 0)),
    "step": lambda row: -int(row.get("step") or 0),
    "waiting on": lambda row: str(row.get("activity")),
    "agent": lambda row: str(row.get("agent")),
}


@dataclass(slots=True)
class View:
    """How somebody looks at a fleet.

    Attributes:
        title: What is looked at.
        sort: By what the runs are sorted, one of ``SORTS``.
        offset: How many runs are scrolled past.
        paused: Whether the picture stands still.
        problem: What is wrong, such as that the server is gone.
    """

    title: str = ""
    sort: str = "age"
    offset: int = 0
    paused: bool = False
    problem: str = ""

    def next_sort(self) -> None:
        """Sort by the next."""
        names = list(SORTS)
        self.sort = names[(names.index(self.sort) + 1) % len(names)]


def render(fleet: Mapping[str, Any], view: View, height: int | None = None) -> RenderableType:
    """Return a fleet as something that rich can draw.

    Args:
        fleet: What ``Fleet.dict()`` gave, perhaps of another version: what is missing is not shown.
        view: How it is looked at.
        height: Lines of the screen; ``None`` for as many as it takes.
    """
    lines = _figures(fleet)
    rows = sorted(fleet.get("in_flight") or (), key=SORTS[view.sort])
    total = int((fleet.get("runs") or {}).get("in_flight", len(rows)))
    space = len(rows) if height is None else max(0, height - lines.row_count - _AROUND_TABLE)
    view.offset = max(0, min(view.offset, len(rows) - space))
    shown = rows[view.offset : view.offset + space]
    table: RenderableType = Text("\nNothing is in flight.", style="dim")
    if shown:
        table = _table(shown)
    below = Text(_keys(view), style="dim", no_wrap=True, overflow="ellipsis")
    if len(shown) < total:
        below = Text(f"{view.offset + 1} to {view.offset + len(shown)} of {total:,}   ", style="bold")
        below.append(_keys(view), style="not bold dim")
        below.no_wrap, below.overflow = True, "ellipsis"
    parts: list[RenderableType] = [_title(fleet, view), lines, table]
    return Group(*parts, *([] if height is None else [below]))


def _keys(view: View) -> str:
    return f"q quit   p {'go on' if view.paused else 'pause'}   s sort (by {view.sort})   up, down"


def _title(fleet: Mapping[str, Any], view: View) -> Text:
    text = Text(visible(view.title), style="bold", no_wrap=True, overflow="ellipsis")
    if fleet.get("uptime") is not None:
        text.append(f"   up {duration(fleet['uptime'])}", style="not bold dim")
    if view.paused:
        text.append("   paused", style=f"bold {_ACCENT}")
    if view.problem:
        text.append(f"   {visible(view.problem)}", style="bold red")
    return text


def _figures(fleet: Mapping[str, Any]) -> Table:
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style="dim", no_wrap=True, min_width=10)
    lines.add_column(overflow="ellipsis", no_wrap=True)
    lines.add_row("runs", _totals(fleet))
    lines.add_row("speed", Text(_speed(fleet)))
    tokens = fleet.get("tokens") or {}
    words = f"{tokens.get('input', 0):,} in   {tokens.get('output', 0):,} out{money(fleet.get('money'))}"
    lines.add_row("tokens", Text(words))
    lines.add_row("waiting on", Text(visible(_counted(fleet.get("waiting_on")) or "nothing")))
    failures = _counted(fleet.get("failures"))
    lines.add_row("failures", Text(visible(failures or "none"), style="red" if failures else ""))
    for number, limit in enumerate((fleet.get("limits") or [])[:_MOST_LIMITS]):
        lines.add_row("" if number else "limits", Text(visible(room(limit))))
    _add_approvals(lines, fleet.get("approvals") or [])
    return lines


def _add_approvals(lines: Table, requests: list[Mapping[str, Any]]) -> None:
    for number, request in enumerate(requests[:_MOST_APPROVALS]):
        arguments = ", ".join(f"{name}={value!r}" for name, value in (request.get("arguments") or {}).items())
        age, agent, tool = (request.get(name) for name in ("age", "agent", "tool"))
        words = f"since {duration(age)}: {agent}, {tool}({arguments})"
        text = Text("" if number else f"{len(requests):,} wait   ", style=f"bold {_ACCENT}")
        lines.add_row("" if number else "approvals", text.append(visible(" ".join(words.split()))))


def _counted(pairs: Mapping[str, int] | None) -> str:
    return counts(tuple((pairs or {}).items()))


def _totals(fleet: Mapping[str, Any]) -> Text:
    runs, server = fleet.get("runs") or {}, fleet.get("server") or {}
    text = Text(f"{runs.get('in_flight', 0):,} in flight", style="bold")
    if server.get("queued"):
        text.append(f"   {server['queued']:,} queued", style="default not bold")
    text.append(f"   {runs.get('succeeded', 0):,} succeeded", style="green not bold")
    failed = runs.get("failed", 0)
    text.append(f"   {failed:,} failed", style="red not bold" if failed else "default not bold")
    if runs.get("cancelled"):
        text.append(f"   {runs['cancelled']:,} cancelled", style="default not bold")
    if server.get("draining"):
        text.append("   draining", style=f"bold {_ACCENT}")
    return text


def _speed(fleet: Mapping[str, Any]) -> str:
    words = f"{fleet.get('rate', 0):.1f}/s   {fleet.get('model_calls', 0):,} model calls"
    words += f"   {fleet.get('tool_calls', 0):,} tool calls"
    if fleet.get("retries"):
        refused = f" ({fleet['refusals']:,} refused for the rate)" if fleet.get("refusals") else ""
        words += f"   {fleet['retries']:,} retries{refused}"
    return words


def _table(rows: list[Mapping[str, Any]]) -> Columns:
    head = ("run", "agent", "age", "step", "tokens", "waiting on", "task")
    return Columns(head, [_cells(row) for row in rows], right=(2, 3, 4), most=(8, 16, 10, 6, 14, 24))


def _cells(row: Mapping[str, Any]) -> list[str]:
    waits = row.get("waits") or []
    name = f" {waits[-1]['name']}" if waits and waits[-1].get("name") else ""
    nested = "└ " if row.get("parent_id") else ""
    cells = [
        str(row.get("id", ""))[:8],
        f"{nested}{row.get('agent', '')}",
        duration(row.get("age")),
        str(row.get("step", "")),
        f"{(row.get('tokens') or {}).get('total', 0):,}",
        f"{row.get('activity', '')}{name}",
        str(row.get("task", ""))[:300],
    ]
    return [visible(" ".join(cell.split())) for cell in cells]
