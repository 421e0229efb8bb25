"""Several agents at once, one for each task. It works; shared_agent.py shows that one is enough."""

import asyncio

from _model import API_BASE, API_KEY, MODEL_ID

from manyhands import CodeAgent, OpenAIServerModel


async def run_multiple_agents():
    model = OpenAIServerModel(model_id=MODEL_ID, api_base=API_BASE, api_key=API_KEY)

    tasks = [
        "What is 2 + 2?",
        "What is 10 * 5?",
        "What is 100 / 4?",
    ]

    agents = [CodeAgent(model=model, tools=[]) for _ in tasks]
    results = await asyncio.gather(*[agent.arun(task) for agent, task in zip(agents, tasks)])

    for task, result in zip(tasks, results):
        print(f"{task} = {result}")


asyncio.run(run_multiple_agents())
