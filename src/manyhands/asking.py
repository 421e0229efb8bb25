"""How a run asks its model: streamed or whole, told to observers, counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyhands.errors import AgentError, AgentGenerationError
from manyhands.events import ModelEnd, ModelStart
from manyhands.messages import DeltaFold
from manyhands.models.base import ask, ask_stream, restarts_welcome
from manyhands.plugins import around_model, manager

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from manyhands.messages import ChatMessage
    from manyhands.run import Run


async def ask_model(
    run: Run, messages: list[ChatMessage], *, activity: str = "model", **options: Any
) -> ChatMessage:
    """Ask the model of ``run``, and count what it cost.

    Args:
        run: The run that asks.
        messages: The conversation.
        activity: What the run does, for those who watch.
        **options: Arguments of :meth:`manyhands.models.base.Model.agenerate`.

    Raises:
        AgentGenerationError: The model gave no reply.
        RefusedError: A plugin refused the question, or the reply.
    """
    run.activity = activity
    note = run.history.asked(run.agent.model, run.step_number)
    if run.observers:
        model_id = getattr(run.agent.model, "model_id", None)
        run.tell(ModelStart(run.id, model_id, len(messages), messages))
    try:
        if manager.in_use:
            reply = await around_model(run, messages, options, _ask)
        else:
            reply = await _ask(run, messages, options)
    except BaseException as error:
        note.fail(error)
        if run.observers:
            run.tell(ModelEnd(run.id, None, error))
        if isinstance(error, AgentError) or not isinstance(error, Exception):
            raise
        raise AgentGenerationError(
            f"Error while generating output: {type(error).__name__}: {error}"
        ) from error
    note.end("")
    if run.observers:
        run.tell(ModelEnd(run.id, reply, None))
    run.activity = ""
    run.count(reply.token_usage)
    return reply


# No coroutine, where one that it returns will do: thousands of runs may wait for their models at once.
def _ask(run: Run, messages: list[ChatMessage], options: dict[str, Any]) -> Awaitable[ChatMessage]:
    model = run.agent.model
    if run.budget is not None:
        from manyhands.limits.budgeted import BudgetedModel

        model = BudgetedModel(model, run.budget)
    if run.agent.stream_outputs:
        return _streamed(run, model, messages, options)
    return ask(model, messages, **options)


async def _streamed(
    run: Run, model: Any, messages: list[ChatMessage], options: dict[str, Any]
) -> ChatMessage:
    fold = DeltaFold()
    before = restarts_welcome.get()
    restarts_welcome.set(True)
    deltas = ask_stream(model, messages, **options)
    try:
        async for delta in deltas:
            fold.add(delta)
            await run.emit(delta)
    finally:
        restarts_welcome.set(before)
        await deltas.aclose()
    return fold.message()
