"""A helper that limits how many agents work at once: one that does not, and one that does.

The first is often seen. It makes a new registry at each use, so nobody ever meets anybody: nothing is
limited. The second has one registry for all.
"""

import asyncio
from contextlib import asynccontextmanager

from _model import API_BASE, API_KEY, MODEL_ID

from manyhands import Agent, ConcurrencyRegistry, OpenAIServerModel

model = OpenAIServerModel(model_id=MODEL_ID, api_base=API_BASE, api_key=API_KEY)


@asynccontextmanager
async def throttled_agent(name: str, max_concurrent: int = 3):
    registry = ConcurrencyRegistry()
    registry.set_limit(name, max_concurrent)
    await registry.acquire(name)
    try:
        yield
    finally:
        registry.release(name)


registry = ConcurrencyRegistry()
registry.set_limit("researcher", 2)


async def most_inside(make_throttle):
    """Start eight agents at once; return how many of them worked at the same time."""
    inside = most = 0

    async def work():
        nonlocal inside, most
        async with make_throttle():
            inside += 1
            most = max(most, inside)
            agent = Agent(name="researcher", instructions="Research topics", model=model)
            await agent.astart("Study quantum computing")
            inside -= 1

    await asyncio.gather(*[work() for _ in range(8)])
    return most


async def main():
    # Usage
    async with throttled_agent("researcher", 2):
        agent = Agent(name="researcher", instructions="Research topics", model=model)
        result = await agent.astart("Study quantum computing")
    print(result)

    most = await most_inside(lambda: throttled_agent("researcher", 2))
    print(f"A registry for each use, limit 2: {most} at once")
    most = await most_inside(lambda: registry.throttle("researcher"))
    print(f"One registry for all, limit 2: {most} at once")


asyncio.run(main())
