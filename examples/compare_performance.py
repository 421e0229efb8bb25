"""Ten agents at once and ten one after the other: most of an agent's time is waiting."""

import asyncio
import time

from _model import API_BASE, API_KEY, MODEL_ID

from manyhands import CodeAgent, LogLevel, OpenAIServerModel


async def compare_performance():
    model = OpenAIServerModel(model_id=MODEL_ID, api_base=API_BASE, api_key=API_KEY)

    tasks = ["Task " + str(i) for i in range(10)]

    # The first run of a process imports what it needs
    await CodeAgent(model=model, tools=[]).arun("Warm up")

    # Async (concurrent) - separate agent per task
    start = time.time()
    agents = [CodeAgent(model=model, tools=[]) for _ in tasks]
    await asyncio.gather(*[agent.arun(task) for agent, task in zip(agents, tasks)])
    async_time = time.time() - start

    # Sync (sequential); silent, like the async runs
    start = time.time()
    for task in tasks:
        agent = CodeAgent(model=model, tools=[], verbosity_level=LogLevel.OFF)
        agent.run(task)
    sync_time = time.time() - start

    print(f"Async: {async_time:.2f}s")
    print(f"Sync: {sync_time:.2f}s")
    print(f"Speedup: {sync_time / async_time:.2f}x")


asyncio.run(compare_performance())
