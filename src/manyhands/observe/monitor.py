"""What an agent's steps have cost so far: their time and their tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyhands.messages import TokenUsage
from manyhands.steps import ActionStep, PlanningStep

if TYPE_CHECKING:
    from collections.abc import Iterable

    from manyhands.steps import MemoryStep


class Monitor:
    """Adds up time and tokens of steps; its :meth:`update_metrics` may be a step callback.

    Args:
        tracked_model: The model that is asked.
        logger: An ``AgentLogger``: what each step took is shown there as well, if it is given.

    Attributes:
        step_durations: Seconds of each step of action, in order.
        total_input_token_count: Tokens sent.
        total_output_token_count: Tokens received.
    """

    def __init__(self, tracked_model: Any = None, logger: Any = None) -> None:
        self.tracked_model = tracked_model
        self.logger = logger
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.step_durations: list[float] = []
        self.total_input_token_count = 0
        self.total_output_token_count = 0

    @classmethod
    def over(cls, steps: Iterable[MemoryStep], tracked_model: Any = None) -> Monitor:
        """Return a monitor that has seen these steps."""
        monitor = cls(tracked_model)
        for step in steps:
            monitor.update_metrics(step)
        return monitor

    def update_metrics(self, step_log: MemoryStep, agent: Any = None) -> None:
        """Take in a step that has ended.

        Args:
            step_log: The step.
            agent: Accepted, for callbacks are given one.
        """
        if not isinstance(step_log, ActionStep | PlanningStep):
            return
        if isinstance(step_log, ActionStep):
            self.step_durations.append(step_log.timing.duration or 0.0)
        if step_log.token_usage is not None:
            self.total_input_token_count += step_log.token_usage.input_tokens
            self.total_output_token_count += step_log.token_usage.output_tokens
        if self.logger is not None:
            self.logger.log(self._line(step_log))

    def _line(self, step: ActionStep | PlanningStep) -> str:
        what = f"Step {len(self.step_durations)}" if isinstance(step, ActionStep) else "Plan"
        return (
            f"\\[{what}: Duration {step.timing.duration or 0:.2f} seconds"
            f" | Input tokens: {self.total_input_token_count:,}"
            f" | Output tokens: {self.total_output_token_count:,}]"
        )

    def get_total_token_counts(self) -> TokenUsage:
        """Return the tokens of all steps, without those of managed agents (see ``run.usage``)."""
        return TokenUsage(self.total_input_token_count, self.total_output_token_count)

    def __repr__(self) -> str:
        seconds = sum(self.step_durations)
        return f"<Monitor: {len(self.step_durations)} steps, {seconds:.1f}s, {self.get_total_token_counts()}>"
