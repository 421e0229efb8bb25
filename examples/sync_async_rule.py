"""acquire_sync() for sync code, acquire() for async code: the wrong one says so instead of freezing the loop."""

import asyncio

from _model import API_BASE, API_KEY, MODEL_ID

from manyhands import Agent, LogLevel, OpenAIServerModel
from manyhands.limits import ConcurrencyRegistry

registry = ConcurrencyRegistry()
registry.set_limit("agent", 1)

model = OpenAIServerModel(model_id=MODEL_ID, api_base=API_BASE, api_key=API_KEY)
agent = Agent(name="agent", model=model, verbosity_level=LogLevel.OFF)


async def bad_example():
    registry.acquire_sync("agent")  # RuntimeError!


async def good_example():
    await registry.acquire("agent")  # Correct
    registry.release("agent")


# Good - sync context, sync acquire
def sync_handler():
    registry.acquire_sync("agent")
    try:
        return agent.start("task")
    finally:
        registry.release("agent")  # Always runs


# Good - async context, async acquire
async def async_handler():
    await registry.acquire("agent")
    try:
        return await agent.astart("task")
    finally:
        registry.release("agent")


try:
    asyncio.run(bad_example())
except RuntimeError as error:
    print(f"RuntimeError: {error}")

asyncio.run(good_example())
print("Sync:", sync_handler())
print("Async:", asyncio.run(async_handler()))
