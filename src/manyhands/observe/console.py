"""Agents on the console: what they were asked, planned, did, saw and answered.

An observer: it is told of events and draws them. Nothing else in manyhands knows how to draw.
"""

from __future__ import annotations

import functools
from contextlib import contextmanager
from contextvars import ContextVar
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.box import HORIZONTALS
from rich.console import Console, Group
from rich.panel import Panel
from rich.rule import Rule
from rich.text import Text

from manyhands import events
from manyhands.approvals import ApprovalRequest
from manyhands.messages import ChatMessageStreamDelta
from manyhands.observe.live import Stream
from manyhands.observe.looks import ACCENT, Indented, arguments_of, footer, highlighted, renderable, tree_of
from manyhands.observe.screen import Screen
from manyhands.observe.words import visible
from manyhands.run import CANCELLED, MAX_STEPS, SUCCESS
from manyhands.steps import ActionStep, FinalAnswerStep, PlanningStep, TaskStep, ToolCall, ToolOutput

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from rich.console import RenderableType

    from manyhands.memory import AgentMemory
    from manyhands.messages import ChatMessage
    from manyhands.run import Run

# Names of runs that are shown side by side, told apart by these.
_COLORS = ("cyan", "magenta", "green", "blue", "yellow", "red")
_LONGEST_NAME = 16
_OUTPUT = "Output message of the LLM:"
# Most seconds that a run waits at its end for a console that is slow.
_PATIENCE = 2.0


class LogLevel(IntEnum):
    """How much is shown."""

    OFF = -1
    ERROR = 0
    INFO = 1
    DEBUG = 2


class AgentLogger:
    """Shows runs on a console: any number at once, those of managed agents inside of their manager's.

    Where the console is a terminal, replies are shown while they are written, if the agent streams them.
    Drawing is done in the background; call :meth:`flush` to have everything drawn.

    Args:
        level: How much is shown.
        console: Where; by default the standard output.
    """

    def __init__(self, level: int = LogLevel.INFO, console: Console | None = None) -> None:
        self.level = LogLevel(level)
        self.console = console or _standard_console()
        self._screen = Screen.of(self.console)
        self._runs: dict[str, _Shown] = self._screen.runs

    # --- Writing ------------------------------------------------------------------------------

    def log(self, *items: RenderableType, level: int | str = LogLevel.INFO, **kwargs: Any) -> None:
        """Show ``items``, if ``level`` (a number, or its name) is within the logger's own."""
        if (LogLevel[level.upper()] if isinstance(level, str) else level) > self.level:
            return
        margin = _margin.get()
        if margin is None:
            self.console.print(*items, **kwargs)
        else:
            self.console.print(Indented(Group(*map(renderable, items)), margin), **kwargs)

    def log_error(self, error_message: str) -> None:
        """Show an error."""
        self.log(Text(visible(error_message), style="bold red"), level=LogLevel.ERROR)

    def log_rule(self, title: str, level: int = LogLevel.INFO) -> None:
        """Show a line across, with a title."""
        self.log(Rule(Text(visible(title), style="bold"), characters="━", style=ACCENT), level=level)

    def log_markdown(
        self, content: str, title: str | None = None, level: int = LogLevel.INFO, style: str = ACCENT
    ) -> None:
        """Show Markdown as it was written, under a title."""
        heading = (
            [Rule(Text(visible(title), style="bold italic"), style=style, align="left")] if title else []
        )
        self.log(Group(*heading, highlighted(content, "markdown")), level=level)

    def log_code(self, title: str, content: str, level: int = LogLevel.INFO) -> None:
        """Show code between two lines."""
        frame = Panel(
            highlighted(content, "python"),
            title=Text(visible(title), style="bold"),
            title_align="left",
            box=HORIZONTALS,
        )
        self.log(frame, level=level)

    def log_task(
        self, content: str, subtitle: str = "", title: str | None = None, level: int = LogLevel.INFO
    ) -> None:
        """Show a task in a frame."""
        frame = Panel(
            Text(f"\n{visible(content)}\n", style="bold"),
            title=Text("New run" + (f" - {visible(title)}" if title else ""), style="bold"),
            subtitle=Text(visible(subtitle)),
            border_style=ACCENT,
            subtitle_align="left",
        )
        self.log(frame, level=level)

    def log_messages(self, messages: Sequence[ChatMessage], level: int = LogLevel.DEBUG) -> None:
        """Show messages as they were sent."""
        for message in messages:
            words = visible(f"{message.role}: {message.render_as_markdown()}")
            self.log(Text(words, style="dim"), level=level)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything told so far is drawn.

        Args:
            timeout: Most seconds to wait.

        Returns:
            Whether it is drawn.
        """
        return self._screen.flush(timeout)

    # --- Observing runs --------------------------------------------------------------------------

    def observe(self, run: Run, event: Any) -> Awaitable[None] | None:
        """Show one event of a run; an observer for ``observers=``.

        Returns:
            At the answer something to wait for, so that whoever prints next prints below; else ``None``.
        """
        kind = type(event)
        if kind is ChatMessageStreamDelta:
            shown = self._runs.get(run.id)
            if shown is not None and shown.stream is not None and shown.logger is self:
                shown.stream.add(event)
            return None
        act = _TAKEN.get(kind)
        if act is None or self.level == LogLevel.OFF:
            return None
        shown = self._of(run)
        if shown.logger is not self:  # a managed agent with a console of its own, on the same terminal
            return None
        act(self, shown, run, event)
        if kind is FinalAnswerStep and run.parent is None:
            return self._screen.drawn(_PATIENCE)
        return None

    def _of(self, run: Run) -> _Shown:
        shown = self._runs.get(run.id)
        if shown is None:
            above = self._runs.get(run.parent.id) if run.parent is not None else None
            shown = self._runs[run.id] = _Shown(self, run, above)
            firsts = [one for one in list(self._runs.values()) if one.first is one]
            for first in firsts:
                first.shares = first.shares or len(firsts) > 1
        return shown

    def _post(self, shown: _Shown, show: Callable[[], object]) -> None:
        """Have something shown in its turn, with a margin that tells whose it is."""
        self._screen.post(partial(_indented, shown, show))

    # What follows runs on the loop, and only leaves what is to be shown.

    def _take_start(self, shown: _Shown, run: Run, event: events.RunStart) -> None:
        self._post(shown, partial(self._show_start, run))

    def _take_end(self, shown: _Shown, run: Run, event: events.RunEnd) -> None:
        self._end_stream(shown)
        if event.status not in (SUCCESS, MAX_STEPS):
            self._post(shown, partial(self._show_end, run, event))
        self._runs.pop(run.id, None)

    def _take_step_start(self, shown: _Shown, run: Run, event: events.StepStart) -> None:
        shown.calls = 0
        self._post(shown, partial(self.log_rule, f"{shown.title}Step {event.step_number}"))

    def _take_asking(self, shown: _Shown, run: Run, event: events.ModelStart) -> None:
        shown.planning = run.activity == "planning"
        if run.agent.stream_outputs and self.level >= LogLevel.INFO:
            what = "plan" if shown.planning else f"step {run.step_number}"
            shown.stream = Stream(f"{shown.label} · {what}", f"bold {shown.color}")
            self._screen.open(shown.stream)

    def _take_reply(self, shown: _Shown, run: Run, event: events.ModelEnd) -> None:
        self._end_stream(shown)
        if event.reply is not None and not run.agent.stream_outputs:
            text = event.reply.text
            self._post(shown, partial(self.log_markdown, text, "Output message of the LLM:", LogLevel.DEBUG))

    def _end_stream(self, shown: _Shown) -> None:
        stream, shown.stream = shown.stream, None
        if stream is None:
            return
        self._screen.close(stream)
        # A plan is shown whole when it is in memory.
        if stream.text.strip() and not shown.planning:
            self._post(shown, partial(self.log_markdown, stream.text, _OUTPUT))

    def _take(self, show: Callable[..., None], shown: _Shown, run: Run, event: Any) -> None:
        self._post(shown, partial(show, self, shown, event))

    # What follows runs on the thread that draws, in order.

    def _show_start(self, run: Run) -> None:
        model = getattr(run.agent.model, "model_id", None) or type(run.agent.model).__name__
        self.log_task(run.task.strip(), f"{type(run.agent.model).__name__} - {model}", run.agent.name)

    def _show_end(self, run: Run, event: events.RunEnd) -> None:
        if event.status == CANCELLED:
            self.log(Text("The run was cancelled.", style="bold"), level=LogLevel.ERROR)
        else:
            self.log_error(f"The run ended: {type(event.error).__name__}: {event.error}")

    def _show_plan(self, shown: _Shown, step: PlanningStep) -> None:
        self.log_markdown(step.plan, title=f"{shown.title}Plan")
        self.log(Text(footer("Plan", step), style="dim"))

    def _show_call(self, shown: _Shown, call: ToolCall) -> None:
        shown.calls += 1
        if call.name == "python_interpreter" and isinstance(call.arguments, str):
            self.log_code("Executing parsed code:", call.arguments)
        else:
            words = f"Calling tool: '{call.name}' with arguments: {arguments_of(call.arguments)}"
            self.log(Panel(Text(visible(words))))

    def _show_code_call(self, shown: _Shown, event: events.ToolStart) -> None:
        if not event.call.id:  # generated code calls; calls of the loop are shown already
            words = f"Calling from code: {event.call.name}({arguments_of(event.call.arguments)})"
            self.log(Text(visible(words), style="dim"), level=LogLevel.DEBUG)

    def _show_result(self, shown: _Shown, output: ToolOutput) -> None:
        if output.error is None:
            whose = f" of {output.tool_call.name}" if shown.calls > 1 else ""
            self.log(Text(visible(f"Observations{whose}: {output.observation}")))

    def _show_step(self, shown: _Shown, step: ActionStep) -> None:
        if step.model_input_messages is not None and self.level >= LogLevel.DEBUG:
            self.log_messages(list(step.model_input_messages))
        if step.observations and not step.tool_outputs:
            self.log(Text(visible(step.observations)))
        if step.error is not None:
            self.log_error(str(step.error))
        self.log(Text(footer(f"Step {step.step_number}", step), style="dim"))

    def _show_answer(self, shown: _Shown, step: FinalAnswerStep) -> None:
        self.log(Text(visible(f"Final answer: {step.output}"), style=f"bold {ACCENT}"))

    def _show_retry(self, shown: _Shown, event: events.Retry) -> None:
        when = f"in {event.delay:.1f}s" if event.delay else "when the rate limit allows"
        what = f"{event.what} {event.key}".strip()
        words = f"Asking {what} again {when}: {type(event.error).__name__}: {event.error}"
        self.log(Text(visible(words), style="yellow"))

    def _show_request(self, shown: _Shown, request: ApprovalRequest) -> None:
        words = f"Waiting for an answer: {request.reason} {request.tool}({arguments_of(request.arguments)})"
        self.log(Text(visible(words), style="bold yellow"))

    def _show_decision(self, shown: _Shown, event: events.ApprovalEnd) -> None:
        reason = f": {event.reason}" if event.reason else ""
        self.log(Text(visible(f"The request was {event.decision}{reason}"), style="yellow"))

    def _show_pause(self, shown: _Shown, event: events.RunPaused) -> None:
        self.log(Text("Paused: the next step waits.", style="yellow"))

    def _show_resumption(self, shown: _Shown, event: events.RunResumed) -> None:
        self.log(Text("The run goes on.", style="yellow"))

    def _show_message(self, shown: _Shown, event: events.MessageInjected) -> None:
        self.log(Text(visible(f"Said to the run: {event.text}"), style="bold"))

    # --- Afterwards ------------------------------------------------------------------------------

    def replay(self, memory: AgentMemory, detailed: bool = False) -> None:
        """Show all steps of a memory.

        Args:
            memory: The memory.
            detailed: Show also what the model was shown at each step.
        """
        self.flush()
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
            if step.output_text.strip():
                self.log_markdown(step.output_text, title="Agent output")
            for call in step.tool_calls or ():
                if call.name != "python_interpreter":
                    self.log(Text(visible(f"Tool call: {call.name}({arguments_of(call.arguments)})")))
            if step.observations:
                self.log(Text(visible(f"Observations: {step.observations}")))
            if step.error is not None:
                self.log_error(str(step.error))

    def visualize_agent_tree(self, agent: Any) -> None:
        """Show an agent, its tools and its team as a tree."""
        self.flush()
        self.log(tree_of(agent))


class _Shown:
    """A run as it is shown: under which name, how deep inside others, and what it is writing.

    Args:
        logger: Who shows it.
        run: The run.
        above: The run that started it, if it is shown, too.
    """

    __slots__ = (
        "_short",
        "calls",
        "color",
        "depth",
        "first",
        "logger",
        "name",
        "planning",
        "shares",
        "stream",
    )

    def __init__(self, logger: AgentLogger, run: Run, above: _Shown | None) -> None:
        self.logger = logger
        self.first: _Shown = self if above is None else above.first
        self.depth: int = 0 if above is None else above.depth + 1
        agent = visible(run.agent.name or type(run.agent).__name__)
        self.name = agent if len(agent) <= _LONGEST_NAME else agent[: _LONGEST_NAME - 1] + "…"
        self._short = run.id[:4]
        self.color = _COLORS[int(self._short, 16) % len(_COLORS)]
        self.shares = False  # whether others have been shown beside it
        self.stream: Stream | None = None
        self.planning = False
        self.calls = 0

    @property
    def title(self) -> str:
        """What stands before its headings."""
        return f"{self.name} · " if self.depth else ""

    @property
    def label(self) -> str:
        """What it is called among others."""
        return f"{self.name} {self._short}" if self.first.shares else self.name

    def margin(self) -> Text | None:
        """Return what stands left of each of its lines, ``None`` for nothing."""
        margin = Text()
        if self.first.shares:
            margin.append(f"{self.label} │ ", style=self.color)
        margin.append("│ " * self.depth, style="dim")
        return margin if margin else None


_TAKEN: dict[type, Any] = {
    events.RunStart: AgentLogger._take_start,
    events.RunEnd: AgentLogger._take_end,
    events.StepStart: AgentLogger._take_step_start,
    events.ModelStart: AgentLogger._take_asking,
    events.ModelEnd: AgentLogger._take_reply,
} | {
    kind: (lambda logger, shown, run, event, show=show: logger._take(show, shown, run, event))
    for kind, show in {
        PlanningStep: AgentLogger._show_plan,
        ToolCall: AgentLogger._show_call,
        ToolOutput: AgentLogger._show_result,
        ActionStep: AgentLogger._show_step,
        FinalAnswerStep: AgentLogger._show_answer,
        events.ToolStart: AgentLogger._show_code_call,
        events.Retry: AgentLogger._show_retry,
        ApprovalRequest: AgentLogger._show_request,
        events.ApprovalEnd: AgentLogger._show_decision,
        events.RunPaused: AgentLogger._show_pause,
        events.RunResumed: AgentLogger._show_resumption,
        events.MessageInjected: AgentLogger._show_message,
    }.items()
}


# --- How things look -------------------------------------------------------------------------------


@functools.cache
def _standard_console() -> Console:
    """The console on the standard output: one for all, so that they do not draw over each other."""
    # In a notebook plain text, which finds its cell from any thread; pictures of text do not.
    return Console(highlight=False, force_jupyter=False)


_margin: ContextVar[Text | None] = ContextVar("manyhands_margin", default=None)


def _indented(shown: _Shown, show: Callable[[], object]) -> None:
    # Worked out only now: others may have begun since it was posted.
    with _margin_set(shown.margin()):
        show()


@contextmanager
def _margin_set(margin: Text | None) -> Iterator[None]:
    before = _margin.set(margin)
    try:
        yield
    finally:
        _margin.reset(before)
