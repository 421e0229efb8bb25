"""Agents that work for other agents: a managed agent is a tool, and each call of it is a run of its own."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from manyhands.errors import CallerError
from manyhands.messages import MessageRole
from manyhands.prompts import populate_template
from manyhands.run import RunOptions
from manyhands.tools.base import Tool

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from manyhands.agents import MultiStepAgent
    from manyhands.run import Run

MAX_SUMMARY_CHARS = 1000


class AgentTool(Tool):
    """An agent as a tool.

    Args:
        agent: The agent; it needs a name that is an identifier, and a description.

    Raises:
        CallerError: Name or description are missing or cannot be used.
    """

    inputs = {
        "task": {"type": "string", "description": "Long detailed description of the task."},
        "additional_args": {
            "type": "object",
            "description": "Dictionary of extra values for the managed agent: images, data, whatever helps.",
            "nullable": True,
        },
    }
    output_type = "string"
    keeps_own_time = True  # a run has a time limit of its own

    def __init__(self, agent: MultiStepAgent) -> None:
        if not agent.name or not agent.description:
            raise CallerError(f"A managed agent needs a name and a description; {agent!r} lacks one.")
        if not agent.name.isidentifier():
            raise CallerError(
                f"A managed agent is called by its name, so the name must be a Python identifier, "
                f"not {agent.name!r}."
            )
        self.name = agent.name
        self.description = agent.description
        self.agent = agent
        super().__init__()

    @classmethod
    def of(cls, agent: MultiStepAgent) -> AgentTool:
        """Return the tool of ``agent``: always the same, while name and description stay."""
        known = _tools.get(agent)
        if known is None or (known.name, known.description) != (agent.name, agent.description):
            known = _tools[agent] = cls(agent)
        return known

    async def forward(self, task: str, additional_args: dict[str, Any] | None = None) -> str:
        """Give the agent the task, and return its report."""
        agent = self.agent
        templates = agent.prompt_templates["managed_agent"]
        full_task = populate_template(templates["task"], {"name": agent.name, "task": task})
        options = RunOptions(agent.max_steps, additional_args=additional_args, timeout=agent.timeout)
        run = agent.new_run(full_task, options)
        with run.tree.branch(agent.name or "") if run.tree else nullcontext():
            answer = await run
        report = populate_template(templates["report"], {"name": agent.name, "final_answer": answer})
        return report + _summary(run) if agent.provide_run_summary else report


_tools: WeakKeyDictionary[MultiStepAgent, AgentTool] = WeakKeyDictionary()


def _summary(run: Run) -> str:
    work = []
    for sent in run.memory.summary():
        text = sent.text
        if sent.role != MessageRole.SYSTEM:
            work.append(text if len(text) <= MAX_SUMMARY_CHARS else text[:MAX_SUMMARY_CHARS] + "…")
    return (
        "\n\nFor more detail, find below a summary of this agent's work:\n<summary_of_work>\n"
        + "\n---\n".join(work)
        + "\n</summary_of_work>"
    )


def check_names(
    tools: Mapping[str, Tool], team: Sequence[MultiStepAgent], own: str | None
) -> dict[str, MultiStepAgent]:
    """Return the team by name.

    Raises:
        CallerError: Two of tools, team members and the agent itself share a name, or a member cannot
            be called.
    """
    taken = {*tools, own}
    members = {}
    for agent in team:
        name = AgentTool.of(agent).name
        if name in taken:
            raise CallerError(
                f"The name {name!r} is used twice; tools, managed agents and the agent need their own."
            )
        taken.add(name)
        members[name] = agent
    return members
