"""One agent on the console: what it was asked, planned, did, saw and answered.

An observer: it is told of events and draws them. Nothing else in manyhands knows how to draw.
"""

from __future__ import annotations

import threading
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.markdown import Markdown
from rich.panel import Panel
from rich.rule import Rule
from rich.syntax import Syntax
from rich.text import Text
from rich.tree import Tree

from manyhands.events import RunStart, StepStart
from manyhands.messages import ChatMessageStreamDelta
from manyhands.steps import ActionStep, FinalAnswerStep, PlanningStep, TaskStep, ToolCall, ToolOutput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from manyhands.memory import AgentMemory
    from manyhands.messages import ChatMessage
    from manyhands.run import Run

ACCENT = "#d4b702"


class LogLevel(IntEnum):
    """How much is shown."""

    OFF = -1
    ERROR = 0
    INFO = 1
    DEBUG = 2


class AgentLogger:
    """Shows runs on a console.

    Args:
        level: How much is shown.
        console: Where; by default the standard output.
    """

    def __init__(self, level: int = LogLevel.INFO, console: Console | None = None) -> None:
        self.level = LogLevel(level)
        self.console = console or Console(highlight=False)
        self._lock = threading.Lock()
        self._streaming: str | None = None

    # --- Writing ------------------------------------------------------------------------------

    def log(self, *items: RenderableType, level: int = LogLevel.INFO, **kwargs: Any) -> None:
        """Show ``items``, if ``level`` is within the logger's own."""
        if level <= self.level:
            self.console.print(*items, **kwargs)

    def log_error(self, message: str) -> None:
        """Show an error."""
        self.log(Text(message, style="bold red"), level=LogLevel.ERROR)

    def log_rule(self, title: str, level: int = LogLevel.INFO) -> None:
        """Show a line across, with a title."""
        self.log(Rule(Text(title, style="bold"), style=ACCENT), level=level)

    def log_markdown(
        self, content: str, title: str | None = None, level: int = LogLevel.INFO, style: str = ACCENT
    ) -> None:
        """Show Markdown, under a title."""
        heading = [Rule(Text(title, style="bold italic"), style=style, align="left")] if title else []
        self.log(Group(*heading, Markdown(content)), level=level)

    def log_code(self, title: str, content: str, level: int = LogLevel.INFO) -> None:
        """Show code in a frame."""
        code = Syntax(content, "python", theme="ansi_dark", word_wrap=True, background_color="default")
        self.log(Panel(code, title=Text(title, style="bold"), title_align="left"), level=level)

    def log_task(
        self, content: str, subtitle: str = "", title: str | None = None, level: int = LogLevel.INFO
    ) -> None:
        """Show a task in a frame."""
        heading = Text("New run" + (f" - {title}" if title else ""), style="bold")
        self.log(
            Panel(
                Text(f"\n{content}\n", style="bold"),
                title=heading,
                subtitle=subtitle,
                border_style=ACCENT,
                subtitle_align="left",
            ),
            level=level,
        )

    def log_messages(self, messages: Sequence[ChatMessage], level: int = LogLevel.DEBUG) -> None:
        """Show messages as they were sent."""
        for message in messages:
            self.log(Text(f"{message.role}: {message.render_as_markdown()}", style="dim"), level=level)

    # --- Observing runs --------------------------------------------------------------------------

    def observe(self, run: Run, event: Any) -> None:
        """Show one event of a run; an observer for ``Run.observers``."""
        if self.level == LogLevel.OFF:
            return
        with self._lock:
            if isinstance(event, ChatMessageStreamDelta):
                self._show_piece(run, event)
                return
            self._end_stream()
            show = _SHOWN.get(type(event))
            if show is not None:
                show(self, run, event)

    def _show_piece(self, run: Run, delta: ChatMessageStreamDelta) -> None:
        # Pieces of several runs on one console would mix: the first to speak finishes its reply.
        if self.level < LogLevel.INFO or self._streaming not in (None, run.id):
            return
        if delta.content:
            self._streaming = run.id
            self.console.print(Text(delta.content), end="")

    def _end_stream(self) -> None:
        if self._streaming is not None:
            self._streaming = None
            self.console.print()

    def _show_start(self, run: Run, event: RunStart) -> None:
        model = getattr(run.agent.model, "model_id", None) or type(run.agent.model).__name__
        self.log_task(run.task, f"{type(run.agent.model).__name__} - {model}", run.agent.name)

    def _show_step_start(self, run: Run, event: StepStart) -> None:
        self.log_rule(f"Step {event.step_number}")

    def _show_plan(self, run: Run, step: PlanningStep) -> None:
        self.log_markdown(step.plan, title="Plan")

    def _show_call(self, run: Run, call: ToolCall) -> None:
        if call.name == "python_interpreter" and isinstance(call.arguments, str):
            self.log_code("Executing this code:", call.arguments)
        else:
            self.log(Panel(Text(f"Calling tool: '{call.name}' with arguments: {call.arguments}")))

    def _show_result(self, run: Run, output: ToolOutput) -> None:
        if output.error is None:
            self.log(Text(f"Observations: {output.observation}"))

    def _show_step(self, run: Run, step: ActionStep) -> None:
        if step.model_input_messages is not None:
            self.log_messages(list(step.model_input_messages))
        if step.observations and not step.tool_outputs:
            self.log(Text(step.observations))
        if step.error is not None:
            self.log_error(str(step.error))
        self.log(Text(_footer(step), style="dim"))

    def _show_answer(self, run: Run, step: FinalAnswerStep) -> None:
        self.log(Text(f"Final answer: {step.output}", style=f"bold {ACCENT}"))

    # --- Afterwards ------------------------------------------------------------------------------

    def replay(self, memory: AgentMemory, detailed: bool = False) -> None:
        """Show all steps of a memory.

        Args:
            memory: The memory.
            detailed: Show also what the model was shown at each step.
        """
        self.log(Text("Replaying the agent's steps:", style="bold"))
        self.log_markdown(memory.system_prompt.system_prompt, title="System prompt", level=LogLevel.DEBUG)
        for step in memory.steps:
            if detailed and getattr(step, "model_input_messages", None):
                self.log_messages(list(step.model_input_messages), level=LogLevel.INFO)  # type: ignore[attr-defined]
            self._replay_step(step)

    def _replay_step(self, step: Any) -> None:
        if isinstance(step, TaskStep):
            self.log_task(step.task)
        elif isinstance(step, PlanningStep):
            self.log_markdown(step.plan, title="Plan")
        elif isinstance(step, ActionStep):
            self.log_rule(f"Step {step.step_number}")
            self.log_markdown(step.output_text, title="Agent output")
            if step.observations:
                self.log(Text(f"Observations: {step.observations}"))
            if step.error is not None:
                self.log_error(str(step.error))

    def visualize_agent_tree(self, agent: Any) -> None:
        """Show an agent, its tools and its team as a tree."""
        self.log(_tree(agent))


_SHOWN: dict[type, Any] = {
    RunStart: AgentLogger._show_start,
    StepStart: AgentLogger._show_step_start,
    PlanningStep: AgentLogger._show_plan,
    ToolCall: AgentLogger._show_call,
    ToolOutput: AgentLogger._show_result,
    ActionStep: AgentLogger._show_step,
    FinalAnswerStep: AgentLogger._show_answer,
}


def _footer(step: ActionStep) -> str:
    footer = f"[Step {step.step_number}: Duration {step.timing.duration or 0:.2f} seconds"
    if step.token_usage is not None:
        footer += f" | Input tokens: {step.token_usage.input_tokens:,}"
        footer += f" | Output tokens: {step.token_usage.output_tokens:,}"
    return footer + "]"


def _tree(agent: Any) -> Tree:
    model = getattr(agent.model, "model_id", None) or type(agent.model).__name__
    tree = Tree(
        Text(
            f"{agent.name or type(agent).__name__} | {type(agent).__name__} | {model}", style=f"bold {ACCENT}"
        )
    )
    tools = tree.add("Tools")
    for tool in agent.tools.values():
        tools.add(Text(f"{tool.name}: {tool.description}"))
    if agent.managed_agents:
        team = tree.add("Managed agents")
        for member in agent.managed_agents.values():
            team.add(_tree(member))
    return tree
