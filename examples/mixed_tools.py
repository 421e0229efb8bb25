"""Sync and async tools side by side: the agent's code cannot tell them apart, and neither blocks the loop.

A sync tool that sleeps or computes runs in a worker thread under arun(). The clock below ticks on while it
does.
"""

import asyncio
import time

from _model import API_BASE, API_KEY, MODEL_ID

from manyhands import CodeAgent, OpenAIServerModel, ToolCallingAgent, tool


@tool
def capital(country: str) -> str:
    """Look up the capital of a country.

    Args:
        country: Name of the country.
    """
    time.sleep(0.3)  # a blocking library
    return {"Norway": "Oslo", "Peru": "Lima"}[country]


@tool
async def population(country: str) -> int:
    """Look up how many people live in a country.

    Args:
        country: Name of the country.
    """
    await asyncio.sleep(0.3)  # an async library
    return {"Norway": 5_474_360, "Peru": 34_352_719}[country]


async def clock():
    """Measures how late the event loop is."""
    worst = 0.0
    try:
        while True:
            due = time.perf_counter() + 0.01
            await asyncio.sleep(0.01)
            worst = max(worst, time.perf_counter() - due)
    finally:
        print(f"The loop was never more than {worst * 1000:.0f} ms late.")


async def main():
    model = OpenAIServerModel(model_id=MODEL_ID, api_base=API_BASE, api_key=API_KEY)
    tasks = [
        "What are the capitals of Norway and Peru?",
        "How many more people live in Peru than in Norway?",
        "How many letters are in the capital of Norway?",
    ]
    ticking = asyncio.create_task(clock())
    agent = CodeAgent(model=model, tools=[capital, population])
    for task, answer in zip(tasks, await asyncio.gather(*[agent.arun(task) for task in tasks])):
        print(f"{task} {answer}")

    # A tool-calling agent makes the calls of one reply side by side.
    agent = ToolCallingAgent(model=model, tools=[capital, population])
    print(tasks[0], await agent.arun(tasks[0]))
    ticking.cancel()
    await asyncio.wait([ticking])


asyncio.run(main())
