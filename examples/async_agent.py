"""One agent, async: await a run for its answer, or iterate it for its events."""

import asyncio

from _model import API_BASE, API_KEY, MODEL_ID

from manyhands import CodeAgent, OpenAIServerModel


async def example():
    model = OpenAIServerModel(model_id=MODEL_ID, api_base=API_BASE, api_key=API_KEY)
    agent = CodeAgent(model=model, tools=[])

    # Simple async execution
    result = await agent.arun("What is 2 + 2?")
    print(result)

    # Async streaming
    async for step in agent.arun("Calculate 10 * 5", stream=True):
        print(f"Step: {step}")


asyncio.run(example())
