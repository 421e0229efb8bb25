"""What a run remembers: its steps, and the prompt they make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyhands.steps import (
    ActionStep,
    MemoryStep,
    Prefix,
    SystemPromptStep,
    edits,
    step_from_dict,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from manyhands.messages import ChatMessage


class AgentMemory:
    """The steps of a run, oldest first.

    ``steps`` is a plain list: append to it, edit its steps, delete from it. The prompt of the next
    step is that of the last one with the new messages behind it; after an edit it is made again.

    Args:
        system_prompt: The system prompt, or the step that holds it (shared by all runs of an agent).
    """

    __slots__ = ("_edits", "_prompt", "_rendered", "steps", "system_prompt")

    def __init__(self, system_prompt: str | SystemPromptStep) -> None:
        self.system_prompt = (
            SystemPromptStep(system_prompt) if isinstance(system_prompt, str) else system_prompt
        )
        self.steps: list[MemoryStep] = []
        self._forget_prompt()

    def _forget_prompt(self) -> None:
        self._prompt: list[ChatMessage] = []
        self._rendered: list[MemoryStep] = []
        self._edits = edits()

    def reset(self) -> None:
        """Forget all steps; the system prompt stays."""
        self.steps = []
        self._forget_prompt()

    def messages(self) -> list[ChatMessage]:
        """Return the prompt for the next step, as a list of the caller's own."""
        return self._extended().copy()

    def shown(self) -> Prefix:
        """Return what :meth:`messages` gives now, as a view that costs nothing to keep."""
        prompt = self._extended()
        return Prefix(prompt, len(prompt))

    def _extended(self) -> list[ChatMessage]:
        all_steps = [self.system_prompt, *self.steps]
        known = len(self._rendered)
        # Steps compare by identity, so this is a scan of pointers.
        if self._edits != edits() or self._rendered != all_steps[:known]:
            self._forget_prompt()
            known = 0
        for step in all_steps[known:]:
            self._prompt.extend(step.to_messages())
            self._rendered.append(step)
        return self._prompt

    def summary(self) -> list[ChatMessage]:
        """Return the messages without the agent's own words and plans, for a planner."""
        return [
            message
            for step in (self.system_prompt, *self.steps)
            for message in step.to_messages(summary_mode=True)
        ]

    def get_full_steps(self) -> list[dict[str, Any]]:
        """Return all steps as JSON values, with the messages that each was shown."""
        return [
            {**step.dict(), "model_input_messages": [message.dict() for message in _inputs(step)]}
            for step in self.steps
        ]

    def get_succinct_steps(self) -> list[dict[str, Any]]:
        """Return all steps as JSON values."""
        return [step.dict() for step in self.steps]

    def return_full_code(self) -> str:
        """Return all code that the run executed, joined."""
        return "\n\n".join(
            step.code_action for step in self.steps if isinstance(step, ActionStep) and step.code_action
        )

    def replay(self, logger: Any, detailed: bool = False) -> None:
        """Show the steps again.

        Args:
            logger: An :class:`~manyhands.observe.console.AgentLogger`.
            detailed: Show also what the model was shown at each step.
        """
        logger.replay(self, detailed=detailed)

    def dict(self) -> dict[str, Any]:
        """Return the whole memory as JSON values."""
        return {"system_prompt": self.system_prompt.system_prompt, "steps": self.get_succinct_steps()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AgentMemory:
        """Return the memory that :meth:`dict` described."""
        memory = cls(data["system_prompt"])
        memory.steps = [step_from_dict(step) for step in data["steps"]]
        return memory


def _inputs(step: MemoryStep) -> Any:
    return getattr(step, "model_input_messages", None) or ()
