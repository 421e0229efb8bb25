"""At most five runs at once: with a semaphore of asyncio's own, and with map()."""

import asyncio

from _model import API_BASE, API_KEY, MODEL_ID

from manyhands import CodeAgent, OpenAIServerModel

model = OpenAIServerModel(model_id=MODEL_ID, api_base=API_BASE, api_key=API_KEY)
agent = CodeAgent(model=model, tools=[])


async def run_with_limit(tasks, limit=5):
    semaphore = asyncio.Semaphore(limit)

    async def run_task(task):
        async with semaphore:
            return await agent.arun(task)

    return await asyncio.gather(*[run_task(task) for task in tasks])


async def main():
    tasks = [f"What is {number} * {number}?" for number in range(1, 13)]
    print(await run_with_limit(tasks))

    # The same, built in: results come as they finish, and a failed task does not stop the others.
    async for result in agent.amap(tasks, concurrency=5):
        print(result.output, end=" ", flush=True)
    print()


asyncio.run(main())
