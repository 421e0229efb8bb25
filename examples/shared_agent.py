"""One agent for all tasks at once: what others call memory corruption is the normal way here.

An agent is a description. Each arun() makes a Run that owns its memory, variables and step count, so runs
of one agent cannot mix. The second half asks one agent for 200 runs at once and checks every answer.
"""

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

    agent = CodeAgent(model=model, tools=[])
    results = await asyncio.gather(*[agent.arun(task) for task in tasks])

    for task, result in zip(tasks, results):
        print(f"{task} = {result}")

    await check_many_runs(agent)


async def check_many_runs(agent, count=200):
    runs = [agent.arun(f"What is {number} * 3 + 1?") for number in range(count)]
    answers = await asyncio.gather(*runs)
    mixed = sum(answer != number * 3 + 1 for number, answer in enumerate(answers))
    print(f"{count} runs of one agent at once: {mixed} mixed up")
    print(f"Each kept its own memory: {len({id(run.memory) for run in runs})} memories")


asyncio.run(run_multiple_agents())
