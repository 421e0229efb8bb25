"""The loop: ask the model, act on what it says, remember, tell; until there is an answer.

It knows only protocols. How a reply becomes an action is the business of ``agent.acting``; who looks on
is the business of the run's observers. The model's mistakes, and those of tools and code, become part of
the step that made them, and the model reads of them in the next one; everything else ends the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from manyhands import run as states
from manyhands._bridge import call_user
from manyhands.asking import ask_model
from manyhands.callbacks import check_accepts
from manyhands.errors import AgentError, AgentMaxStepsError
from manyhands.events import ActionOutput, StepEnd, StepStart
from manyhands.messages import MessageRole, message
from manyhands.planning import make_plan, plan_is_due
from manyhands.plugins import around_step, manager
from manyhands.prompts import populate_template
from manyhands.steering import between_steps, keep_unheard
from manyhands.steps import ActionStep, FinalAnswerStep, MemoryStep, TaskStep, Timing

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from manyhands.messages import ChatMessage
    from manyhands.run import Run


class Acting(Protocol):
    """A way to act: asks the model and does what the reply says."""

    async def begin(self, run: Run) -> None:
        """Prepare ``run``, before its first step."""

    async def act(self, run: Run, step: ActionStep) -> ActionOutput:
        """Take one step, and fill ``step`` with what happened.

        Raises:
            AgentError: The action failed; what was filled in so far stays.
        """

    async def end(self, run: Run) -> None:
        """Release what ``run`` held."""


async def drive(run: Run) -> Any:
    """Work on the task of ``run`` until there is an answer, and return it."""
    run.memory.steps.append(TaskStep(_full_task(run), run.options.images))
    await run.agent.acting.begin(run)
    try:
        while run.step_number <= run.options.max_steps:
            if plan_is_due(run):
                await between_steps(run, close_step)
                await close_step(run, await make_plan(run))
            await between_steps(run, close_step)
            action = await take_step(run)
            if action is not None and action.is_final_answer:
                return await _answer(run, action.output)
            run.step_number += 1
        await between_steps(run, close_step)
        return await _answer(run, await _out_of_steps(run))
    finally:
        keep_unheard(run)
        await run.agent.acting.end(run)


def _full_task(run: Run) -> str:
    extra = run.options.additional_args
    if not extra:
        return run.task
    return (
        f"{run.task}\nYou have been provided with these additional arguments, "
        f"that you can access directly using the keys as variables:\n{extra}"
    )


async def take_step(run: Run) -> ActionOutput | None:
    """Take one step of ``run`` and put it into its memory.

    Returns:
        What the action gave, ``None`` if it failed in a way that the model can mend.
    """
    step, hooked = _begun(run), manager.in_use
    action: ActionOutput | None = None
    try:
        if hooked:
            action = await around_step(run, step, _act)
        else:
            # Not through _act: a run that waits holds each coroutine on the way, and thousands may wait.
            action = await run.agent.acting.act(run, step)
            if action.is_final_answer:
                await _check_answer(run, step, action.output)
    except BaseException as error:
        if isinstance(error, AgentError):
            step.error = error
        if hooked or not _can_mend(error):
            _remember(run, step)
            raise
        action = None
    await close_step(run, step)
    return action


def _begun(run: Run) -> ActionStep:
    if run.budget is not None:
        run.budget.charge(steps=1)
    step = ActionStep(run.step_number, Timing.now())
    if run.observers:
        run.tell(StepStart(run.id, run.step_number))
    return step


async def _act(run: Run, step: ActionStep) -> ActionOutput | None:
    """Act, and check an answer; what the model can mend becomes the step's error. For plugins."""
    try:
        action = await run.agent.acting.act(run, step)
        if action.is_final_answer:
            await _check_answer(run, step, action.output)
    except AgentError as error:
        if not _can_mend(error):
            raise
        step.error = error
        return None
    return action


def _can_mend(error: BaseException) -> bool:
    """Whether the model may hear of ``error`` and try again."""
    return isinstance(error, AgentError) and not error.ends_run


def _remember(run: Run, step: ActionStep | Any) -> None:
    step.timing.stop()
    run.memory.steps.append(step)


def close_step(run: Run, step: MemoryStep) -> Awaitable[None]:
    """Put a finished step into memory, and return what tells of it."""
    _remember(run, step)
    return announce(run, step)


async def announce(run: Run, step: MemoryStep) -> None:
    """Call the step callbacks for ``step``, and give it to whoever watches."""
    callbacks = run.agent.callbacks
    if callbacks:
        await callbacks.acall(step, agent=run.agent)
    if run.observers:
        run.tell(StepEnd(run.id, step))
    await run.emit(step)  # type: ignore[arg-type]


async def _check_answer(run: Run, step: ActionStep, answer: Any) -> None:
    for check in run.agent.final_answer_checks:
        name = getattr(check, "__name__", type(check).__name__)
        extra = {"agent": run.agent} if check_accepts(check, "agent") else {}
        try:
            passed = await call_user(check, answer, run.memory, **extra)
        except Exception as error:
            raise AgentError(f"Check {name} failed with error: {error}") from error
        if not passed:
            raise AgentError(f"Check {name} failed with error: it returned {passed!r} for the answer.")
    step.is_final_answer = True


async def _answer(run: Run, output: Any) -> Any:
    if run.hooks is not None:
        output = await run.hooks.answered(output)
    await announce(run, FinalAnswerStep(output))
    return output


async def _out_of_steps(run: Run) -> Any:
    step = ActionStep(run.step_number, Timing.now())
    reply = await provide_final_answer(run)
    step.error = AgentMaxStepsError("Reached max steps.")
    step.action_output = step.model_output = reply.text
    step.model_output_message = reply
    step.token_usage = reply.token_usage
    run.status = states.MAX_STEPS
    await close_step(run, step)
    return step.action_output


async def provide_final_answer(run: Run) -> ChatMessage:
    """Ask the model for an answer from what ``run`` has found out so far."""
    templates = run.agent.prompt_templates["final_answer"]
    asked = populate_template(templates["post_messages"], {"task": run.task})
    messages = [
        message(MessageRole.SYSTEM, templates["pre_messages"]),
        *run.memory.messages()[1:],
        message(MessageRole.USER, asked),
    ]
    return await ask_model(run, messages, activity="final answer")
