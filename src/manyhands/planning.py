"""Planning: a survey of facts and a list of steps, made before acting and again on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyhands.asking import ask_model
from manyhands.messages import MessageRole, message
from manyhands.prompts import populate_template
from manyhands.steps import PlanningStep, Prefix, Timing

if TYPE_CHECKING:
    from manyhands.messages import ChatMessage
    from manyhands.run import Run

_FIRST = "Here are the facts I know and the plan of action that I will follow to solve the task:"
_UPDATED = (
    "I still need to solve the task I was given:\n```\n{task}\n```\n\n"
    "Here are the facts I know and my new/updated plan of action to solve the task:"
)


def plan_is_due(run: Run) -> bool:
    """Return whether ``run`` plans before its next step."""
    interval = run.agent.planning_interval
    return interval is not None and (run.step_number - 1) % interval == 0


async def make_plan(run: Run) -> PlanningStep:
    """Ask the model of ``run`` for a plan, and return it as a step."""
    timing = Timing.now()
    first = run.step_number == 1
    messages = _first_messages(run) if first else _update_messages(run)
    reply = await ask_model(run, messages, activity="planning", stop_sequences=["<end_plan>"])
    heading = _FIRST if first else _UPDATED.format(task=run.task)
    return PlanningStep(
        model_input_messages=Prefix(messages, len(messages)),
        model_output_message=reply,
        plan=f"{heading}\n```\n{reply.text}\n```",
        timing=timing,
        token_usage=reply.token_usage,
    )


def _render(run: Run, name: str) -> str:
    agent = run.agent
    variables: dict[str, Any] = {
        "task": run.task,
        "tools": agent.tools,
        "managed_agents": {name: member.as_tool() for name, member in agent.managed_agents.items()},
        "remaining_steps": run.options.max_steps - run.step_number + 1,
    }
    template: str = agent.prompt_templates["planning"][name]  # type: ignore[literal-required]
    return populate_template(template, variables)


def _first_messages(run: Run) -> list[ChatMessage]:
    return [message(MessageRole.USER, _render(run, "initial_plan"), run.options.images or ())]


def _update_messages(run: Run) -> list[ChatMessage]:
    return [
        message(MessageRole.SYSTEM, _render(run, "update_plan_pre_messages")),
        *run.memory.summary(),
        message(MessageRole.USER, _render(run, "update_plan_post_messages")),
    ]
