"""Code of the model in Monty: a small Python without files, network or system, and no worker held while it waits.

Needs pip install "manyhands[monty]". The model is scripted, so that you see the exact code.
"""

import asyncio

from manyhands import CodeAgent, tool
from manyhands.testing import ScriptedModel

PEOPLE = 50
asked = 0
everybody = asyncio.Event()


@tool
async def approve(action: str) -> bool:
    """Ask a person whether something may be done.

    Args:
        action: What is to be done.
    """
    global asked
    asked += 1
    if asked == PEOPLE:
        everybody.set()
    await everybody.wait()  # nobody answers before all are asked: all runs wait at once
    return "delete" not in action


CODE = """
actions = ["read the report", "delete the report"]
allowed = [action for action in actions if approve(action)]
print(allowed)
final_answer(len(allowed))
"""

LACKING = """
def numbers():
    yield from [1, 2, 3]
final_answer(sum(numbers()))
"""


async def main():
    # One worker serves all runs: each gives it back while it waits for its person.
    agent = CodeAgent(
        tools=[approve],
        model=ScriptedModel([f"<code>{CODE}</code>"] * PEOPLE),
        executor_type="monty",
        executor_kwargs={"max_workers": 1, "memory_mb": 64},
    )
    async with agent:
        answers = await asyncio.gather(*[agent.arun("What may I do?") for _ in range(PEOPLE)])
    print(f"{PEOPLE} runs waited for their people at once, on one worker. Allowed: {set(answers)}")

    # What Monty does not have runs elsewhere, if you say where.
    agent = CodeAgent(
        tools=[],
        model=ScriptedModel([f"<code>{LACKING}</code>"]),
        executor_type="monty",
        executor_kwargs={"fallback": "local"},
    )
    async with agent:
        print("With generators, elsewhere:", await agent.arun("Add them up."))


asyncio.run(main())
