"""What all agents share: steps, plans, checks, callbacks, prompts, continuing, names."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from manyhands import (
    EMPTY_PROMPT_TEMPLATES,
    ActionStep,
    Agent,
    AgentMaxStepsError,
    CallerError,
    ChatMessage,
    ChatMessageStreamDelta,
    FinalAnswerStep,
    MemoryStep,
    MultiStepAgent,
    PlanningStep,
    TemplateError,
    ToolCallingAgent,
    UnknownToolError,
    tool,
)
from manyhands.testing import FunctionModel, ScriptedModel
from tests.agents.replies import calls, final


@tool
async def look(at: str) -> str:
    """Look at something.

    Args:
        at: What to look at.
    """
    return f"a {at}"


LOOKING = calls(("look", {"at": "tree"}))


def agent_of(*replies: Any, **options: Any) -> ToolCallingAgent:
    return ToolCallingAgent([look], ScriptedModel(list(replies)), **options)


def script_of(agent: MultiStepAgent) -> ScriptedModel:
    assert isinstance(agent.model, ScriptedModel)
    return agent.model


def asked(agent: MultiStepAgent, call: int = -1) -> list[ChatMessage]:
    messages: list[ChatMessage] = script_of(agent).calls[call].messages
    return messages


# --- steps and their limit ---


async def test_the_conversation_grows_by_what_happened() -> None:
    agent = agent_of(LOOKING, final("tree"))
    assert await agent.arun("what is it?") == "tree"
    assert [message.role for message in asked(agent)] == ["system", "user", "assistant", "tool-response"]
    assert asked(agent)[1].text == "New task:\nwhat is it?"


async def test_at_the_last_step_the_model_is_asked_for_an_answer() -> None:
    agent = agent_of(LOOKING, LOOKING, "It seems to be a tree.", max_steps=2)
    run = agent.arun("what is it?", return_full_result=True)
    result = await run
    assert (result.output, result.state) == ("It seems to be a tree.", "max_steps_error")
    last = run.memory.steps[-1]
    assert isinstance(last, ActionStep)
    assert isinstance(last.error, AgentMaxStepsError)
    assert run.step_number == 3
    assert "what is it?" in asked(agent)[-1].text


async def test_max_steps_of_a_run_wins_over_the_agents() -> None:
    agent = agent_of(LOOKING, "guess", max_steps=10)
    assert await agent.arun("x", max_steps=1) == "guess"


@pytest.mark.parametrize("number", [0, -3])
def test_steps_must_be_positive(number: int) -> None:
    with pytest.raises(CallerError, match="max_steps must be at least 1"):
        agent_of(max_steps=number)
    with pytest.raises(CallerError, match="max_steps must be at least 1"):
        agent_of().arun("x", max_steps=number)


# --- planning ---


async def test_plans_at_the_first_step_and_every_interval() -> None:
    agent = agent_of("plan A", LOOKING, LOOKING, "plan B", final(1), planning_interval=2)
    run = agent.arun("go")
    await run
    kinds = [type(step).__name__ for step in run.memory.steps]
    assert kinds == ["TaskStep", "PlanningStep", "ActionStep", "ActionStep", "PlanningStep", "ActionStep"]


async def test_an_updated_plan_knows_how_many_steps_remain() -> None:
    agent = agent_of("plan A", LOOKING, LOOKING, "plan B", final(1), planning_interval=2, max_steps=7)
    await agent.arun("go")
    assert "You have 5 steps left" in asked(agent, 3)[-1].text
    assert script_of(agent).calls[3].stop_sequences == ["<end_plan>"]


async def test_plans_stream_as_they_are_made() -> None:
    agent = agent_of("plan A is to look", final(1), planning_interval=1, stream_outputs=True)
    events = [event async for event in agent.arun("go")]
    place = [type(event) for event in events].index(PlanningStep)
    pieces = [event.content for event in events[:place] if isinstance(event, ChatMessageStreamDelta)]
    assert "".join(piece or "" for piece in pieces) == "plan A is to look"


# --- checks of the answer ---


async def test_an_answer_that_fails_a_check_goes_back_to_the_model() -> None:
    async def is_long(answer: str, memory: Any, agent: Any) -> bool:
        return len(answer) > 3

    agent = agent_of(final("no"), final("long enough"), final_answer_checks=[is_long])
    run = agent.arun("go")
    assert await run == "long enough"
    assert "Check is_long failed" in str(run.memory.steps[1].error)  # type: ignore[attr-defined]
    assert not run.memory.steps[1].is_final_answer  # type: ignore[attr-defined]


async def test_a_check_may_be_sync_and_take_two_arguments_and_raise() -> None:
    def strict(answer: str, memory: Any) -> bool:
        if answer == "bad":
            raise ValueError("too bad")
        return True

    agent = agent_of(final("bad"), final("good"), final_answer_checks=[strict])
    run = agent.arun("go")
    assert await run == "good"
    assert "Check strict failed with error: too bad" in str(run.memory.steps[1].error)  # type: ignore[attr-defined]


# --- callbacks ---


async def test_callbacks_are_called_by_kind_of_step() -> None:
    seen: list[tuple[str, str]] = []

    def on_action(step: MemoryStep) -> None:
        seen.append(("action", type(step).__name__))

    async def on_any(step: MemoryStep, agent: Any) -> None:
        assert isinstance(agent, ToolCallingAgent)
        seen.append(("any", type(step).__name__))

    agent = agent_of(
        "plan",
        final(1),
        planning_interval=5,
        step_callbacks={ActionStep: on_action, MemoryStep: [on_any]},
    )
    await agent.arun("go")
    assert seen == [
        ("any", "PlanningStep"),
        ("action", "ActionStep"),
        ("any", "ActionStep"),
        ("any", "FinalAnswerStep"),
    ]


async def test_a_list_of_callbacks_hears_of_action_steps() -> None:
    seen = []
    await agent_of(LOOKING, final(1), step_callbacks=[lambda step: seen.append(step.step_number)]).arun("go")
    assert seen == [1, 2]


async def test_a_callback_may_shorten_what_is_remembered() -> None:
    def shorten(step: ActionStep, agent: Any) -> None:
        for old in agent.memory.steps:
            if isinstance(old, ActionStep) and old.step_number < step.step_number:
                old.observations = "(old)"

    agent = agent_of(LOOKING, LOOKING, final(1), step_callbacks=[shorten])
    await agent.arun("go")
    texts = [message.text for message in asked(agent)]
    assert texts.count("Observation:\n(old)") == 1
    assert texts.count("Observation:\na tree") == 1


async def test_callbacks_can_be_registered_later() -> None:
    seen = []
    agent = agent_of(final(1))
    agent.step_callbacks.register(FinalAnswerStep, lambda step: seen.append(step.output))
    await agent.arun("go")
    assert seen == [1]


# --- continuing ---


async def test_a_run_begins_anew_unless_told_to_continue() -> None:
    agent = agent_of(final(1), final(2), final(3))
    await agent.arun("one")
    await agent.arun("two")
    assert len(asked(agent)) == 2
    await agent.arun("three", reset=False)
    assert [m.text for m in asked(agent) if m.role == "user"] == ["New task:\ntwo", "New task:\nthree"]


async def test_continuing_a_run_that_goes_on_is_refused() -> None:
    entered, release = asyncio.Event(), asyncio.Event()

    async def slow(messages: Any) -> Any:
        entered.set()
        await release.wait()
        return final(1)

    agent = ToolCallingAgent([], FunctionModel(slow))
    first = asyncio.create_task(agent.arun("one"))
    await entered.wait()
    with pytest.raises(CallerError, match="still going on"):
        agent.arun("two", reset=False)
    release.set()
    await first


async def test_the_agent_shows_the_last_run() -> None:
    agent = agent_of(final(1))
    assert agent.memory.steps == []
    await agent.arun("one", additional_args={"a": 1})
    assert agent.task is not None and agent.task == "one"
    assert agent.state == {"a": 1}
    assert agent.step_number == 1
    assert len(agent.write_memory_to_messages()) == 4


async def test_a_callback_sees_its_own_run_through_the_agent() -> None:
    seen = {}

    def note(step: ActionStep, agent: Any) -> None:
        seen[agent.state["number"]] = agent.task

    agent = ToolCallingAgent([], ScriptedModel({"": [final(1)]}), step_callbacks=[note])
    await asyncio.gather(*(agent.arun(f"task {n}", additional_args={"number": n}) for n in range(20)))
    assert seen == {n: f"task {n}\n".split("\n")[0] for n in range(20)}


async def test_one_step_at_a_time() -> None:
    agent = agent_of(LOOKING, LOOKING, final("done"))
    run = agent.arun("go")
    async for event in run:
        if isinstance(event, ActionStep):
            break
    await run.aclose()
    from manyhands import Timing

    action = await agent.astep(ActionStep(2, Timing.now()))
    assert action is not None and not action.is_final_answer
    action = await agent.astep(ActionStep(3, Timing.now()))
    assert action is not None and action.output == "done"
    assert len(agent.memory.steps) == 4


async def test_a_last_word_can_be_asked_for() -> None:
    agent = agent_of(final(1), "my last word")
    await agent.arun("go")
    assert (await agent.aprovide_final_answer("go")).text == "my last word"


def test_a_last_word_can_be_asked_for_in_sync_code() -> None:
    agent = agent_of(final(1), "my last word", verbosity_level=-1)
    agent.run("go")
    assert agent.provide_final_answer("go").text == "my last word"


# --- prompts ---


def test_instructions_and_tools_stand_in_the_system_prompt() -> None:
    prompt = agent_of(instructions="Answer in verse.").system_prompt
    assert "Answer in verse." in prompt
    assert "look: Look at something." in prompt


async def test_changed_templates_count_from_the_next_run() -> None:
    agent = agent_of(final(1), final(2))
    await agent.arun("one")
    agent.prompt_templates["system_prompt"] = "Be brief, {{ custom_instructions }}."
    agent.instructions = "please"
    await agent.arun("two")
    assert asked(agent)[0].text == "Be brief, please."


async def test_runs_share_one_system_prompt() -> None:
    agent = agent_of(final(1), final(2))
    await agent.arun("one")
    await agent.arun("two")
    assert asked(agent, 0)[0] is asked(agent, 1)[0]


def test_templates_that_lack_a_key_are_refused_at_once() -> None:
    with pytest.raises(TemplateError, match="lacks final_answer"):
        agent_of(prompt_templates={"system_prompt": "", "planning": {}, "managed_agent": {}})
    broken = {**EMPTY_PROMPT_TEMPLATES, "managed_agent": {"task": ""}}
    with pytest.raises(TemplateError, match=r"lacks managed_agent\.report"):
        agent_of(prompt_templates=broken)


@pytest.mark.parametrize("template", ["{{ nobody_knows }}", "{% if %}"])
def test_a_template_that_cannot_be_rendered_says_why(template: str) -> None:
    with pytest.raises(TemplateError):
        agent_of(prompt_templates={**EMPTY_PROMPT_TEMPLATES, "system_prompt": template}).system_prompt  # noqa: B018


# --- names ---


def test_agent_is_another_name_with_start_and_astart(capsys: pytest.CaptureFixture[str]) -> None:
    agent = Agent(
        name="researcher",
        instructions="Research topics",
        model=ScriptedModel([final("Mars"), final("Venus")]),
    )
    assert agent.start("Research Mars exploration") == "Mars"
    assert asyncio.run(agent.astart("and Venus")) == "Venus"


def test_tools_are_found_by_name() -> None:
    assert list(Agent(tools=["look"], model=ScriptedModel([])).tools) == ["look", "final_answer"]
    with pytest.raises(UnknownToolError, match="look"):
        Agent(tools=["lok"], model=ScriptedModel([]))


async def test_an_own_final_answer_tool_takes_its_own_inputs() -> None:
    @tool(name="final_answer")
    def verdict(yes: bool, why: str) -> dict[str, Any]:
        """Give the verdict.

        Args:
            yes: Whether it is so.
            why: The reason.
        """
        return {"yes": yes, "why": why}

    agent = Agent([verdict], ScriptedModel([calls(("final_answer", {"yes": True, "why": "seen"}))]))
    assert await agent.arun("is it?") == {"yes": True, "why": "seen"}
    from manyhands import FinalAnswerTool, register_tool

    register_tool(FinalAnswerTool())


def test_without_a_model_it_says_how_to_give_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MANYHANDS_MODEL", raising=False)
    with pytest.raises(CallerError, match="MANYHANDS_MODEL"):
        Agent()


def test_something_that_is_no_model_is_refused_at_once() -> None:
    with pytest.raises(CallerError, match="3 cannot be a model"):
        Agent(model=3)


async def test_a_plain_function_is_a_model() -> None:
    assert await Agent(model=lambda messages: final(len(messages))).arun("x") == 2


async def test_an_agent_is_an_async_context_manager() -> None:
    async with agent_of(final(1)) as agent:
        assert await agent.arun("x") == 1


def test_an_agent_shows_no_secrets() -> None:
    from manyhands import OpenAIModel

    agent = Agent(model=OpenAIModel("m", api_key="sk-secret"))
    assert "sk-secret" not in repr(agent) + str(vars(agent))


def test_every_run_is_shown_under_run_and_none_under_arun(capsys: pytest.CaptureFixture[str]) -> None:
    agent = agent_of(final(1), final(2), final(3))
    agent.run("one")
    agent.run("two")
    shown = capsys.readouterr().out
    assert "Final answer: 1" in shown and "Final answer: 2" in shown
    asyncio.run(agent.arun("three"))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("level", "shows"), [(-1, ""), (0, "no such tool"), (1, "Step 1")])
def test_the_verbosity_level_says_how_much_is_shown(
    level: int, shows: str, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = agent_of(calls(("no such tool", {})), final(1), verbosity_level=level)
    asyncio.run(agent.arun("go"))
    shown = capsys.readouterr().out
    assert shows in shown
    assert ("Step 1" in shown) == (level == 1)
    assert (shown == "") == (level == -1)


def test_an_agent_shows_itself_and_its_steps(capsys: pytest.CaptureFixture[str]) -> None:
    agent = agent_of(LOOKING, final(1), verbosity_level=1)
    agent.run("what is it?")
    agent.replay(detailed=True)
    agent.visualize()
    shown = capsys.readouterr().out
    assert "Observations: a tree" in shown
    assert "look: Look at something." in shown
