"""What can go wrong with a run, and how it is told: by an exception that knows the run."""

import asyncio

from _model import API_BASE, API_KEY, MODEL_ID

from manyhands import AgentError, CodeAgent, OpenAIServerModel
from manyhands.testing import SimulatedProvider

model = OpenAIServerModel(model_id=MODEL_ID, api_base=API_BASE, api_key=API_KEY)
agent = CodeAgent(model=model, tools=[])


async def handle_any_error(agent, task):
    try:
        result = await agent.arun(task)
        print(f"Result: {result}")
    except Exception as e:
        print(f"Error: {e}")


async def handle_by_kind(agent, task):
    try:
        await agent.arun(task, timeout=0.05)
    except TimeoutError as error:
        print(f"Out of time: {error}")
    except AgentError as error:
        steps = error.run.memory.steps
        print(f"{type(error).__name__} after {len(steps)} remembered steps: {error}")


async def keep_the_others(agent, tasks):
    results = await asyncio.gather(*[agent.arun(task) for task in tasks], return_exceptions=True)
    for task, result in zip(tasks, results):
        print(f"{task} -> {result if not isinstance(result, Exception) else type(result).__name__}")


async def main():
    await handle_any_error(agent, "What is 2 + 2?")
    await handle_by_kind(agent, "What is 3 + 3?")

    async with SimulatedProvider(api_key="the right key") as strict:
        locked_out = CodeAgent(
            model=OpenAIServerModel("simulated", api_base=strict.base_url, api_key="a wrong key"), tools=[]
        )
        await handle_any_error(locked_out, "What is 2 + 2?")
        await handle_by_kind(locked_out, "What is 2 + 2?")
        await keep_the_others(locked_out, ["What is 1 + 1?", "What is 2 + 2?"])


asyncio.run(main())
