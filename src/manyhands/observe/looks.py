"""How things look on the console: code, calls, margins, agents as trees."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.segment import Segment
from rich.syntax import Syntax
from rich.text import Text
from rich.tree import Tree

from manyhands.observe.words import visible

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from manyhands.steps import ActionStep, PlanningStep

ACCENT = "#d4b702"


class Indented:
    """Something with a margin left of each of its lines."""

    def __init__(self, inner: RenderableType, margin: Text) -> None:
        self._inner = inner
        self._margin = margin

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        margin = list(self._margin.render(console))
        width = max(20, options.max_width - self._margin.cell_len)
        for line in console.render_lines(self._inner, options.update(width=width), pad=False):
            yield from margin
            yield from line
            yield Segment.line()


def renderable(item: Any) -> RenderableType:
    """Return an item as rich can draw it."""
    return item if hasattr(item, "__rich_console__") or isinstance(item, str) else str(item)


def highlighted(content: str, language: str) -> Syntax:
    """Return code with its words in colors, and nothing in it taken for markup."""
    return Syntax(visible(content), language, theme="ansi_dark", word_wrap=True, background_color="default")


def arguments_of(arguments: Any) -> str:
    """Return the arguments of a call as people read them."""
    if isinstance(arguments, list) and arguments and isinstance(arguments[-1], dict):
        *positional, named = arguments  # as generated code calls
        parts = [repr(value) for value in positional] + [f"{key}={value!r}" for key, value in named.items()]
        return ", ".join(parts)
    return json.dumps(arguments, default=repr, ensure_ascii=False)


def footer(what: str, step: ActionStep | PlanningStep) -> str:
    """Return what a step took."""
    words = f"[{what}: Duration {step.timing.duration or 0:.2f} seconds"
    if step.token_usage is not None:
        words += f" | Input tokens: {step.token_usage.input_tokens:,}"
        words += f" | Output tokens: {step.token_usage.output_tokens:,}"
    return words + "]"


def tree_of(agent: Any) -> Tree:
    """Return an agent with its tools and its team as a tree."""
    model = getattr(agent.model, "model_id", None) or type(agent.model).__name__
    name = f"{agent.name or type(agent).__name__} | {type(agent).__name__} | {model}"
    tree = Tree(Text(visible(name), style=f"bold {ACCENT}"))
    tools = tree.add("Tools")
    for tool in agent.tools.values():
        tools.add(Text(visible(f"{tool.name}: {tool.description}")))
    if agent.managed_agents:
        team = tree.add("Managed agents")
        for member in agent.managed_agents.values():
            team.add(tree_of(member))
    return tree
