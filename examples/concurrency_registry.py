"""At most two runs of "researcher" at once, from sync code and from async code."""

import asyncio
import threading

from _model import API_BASE, API_KEY, MODEL_ID

from manyhands import Agent, ConcurrencyRegistry, LogLevel, OpenAIServerModel

model = OpenAIServerModel(model_id=MODEL_ID, api_base=API_BASE, api_key=API_KEY)

registry = ConcurrencyRegistry()
registry.set_limit("researcher", 2)  # at most 2 concurrent runs

agent = Agent(name="researcher", instructions="Research topics", model=model, verbosity_level=LogLevel.OFF)


def sync_use():
    # Sync context
    registry.acquire_sync("researcher")
    try:
        print(agent.start("Research Mars exploration"))
    finally:
        registry.release("researcher")


async def async_use():
    await registry.acquire("researcher")
    try:
        print(await agent.astart("Research Mars exploration"))
    finally:
        registry.release("researcher")


class Watch:
    """Counts how many are inside at once."""

    def __init__(self):
        self.inside = self.most = 0
        self._lock = threading.Lock()

    def __enter__(self):
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)

    def __exit__(self, *_):
        with self._lock:
            self.inside -= 1


async def many_at_once():
    watch = Watch()

    async def research(topic):
        async with registry.throttle("researcher"):
            with watch:
                return await agent.astart(f"Research {topic}")

    await asyncio.gather(*[research(f"planet {number}") for number in range(8)])
    print(f"8 tasks at once, at most {watch.most} of them inside")


sync_use()
asyncio.run(async_use())
asyncio.run(many_at_once())
