"""Code of the model in containers: it sees neither your files nor your keys, and calls your tools all the same.

Needs Docker or Podman. The first time, the official Python image is pulled; IMAGE names any other with Python.
The model is scripted, so that you see the exact code.
"""

import asyncio
import os

from manyhands import CodeAgent, tool
from manyhands.testing import ScriptedModel

os.environ["SERVICE_KEY"] = "only the host knows"


@tool
async def population(country: str) -> int:
    """Ask a service that wants a key how many people live in a country.

    Args:
        country: Its name.
    """
    assert os.environ["SERVICE_KEY"] == "only the host knows"
    await asyncio.sleep(0.1)
    return {"Peru": 34_352_719, "Iceland": 393_600}[country]


CODE = """
import os, socket
print("I am", socket.gethostname(), "and know the key:", os.environ.get("SERVICE_KEY"))
print("Networks:", [name for _, name in socket.if_nameindex()])
final_answer(max(["Peru", "Iceland"], key=population))
"""


async def main():
    agent = CodeAgent(
        tools=[population],
        model=ScriptedModel([f"<code>{CODE}</code>"] * 3),
        executor_type="docker",
        executor_kwargs={"image": os.environ.get("IMAGE"), "memory_mb": 256, "max_workers": 2},
    )
    async with agent:
        run = agent.arun("Where do more people live, in Peru or in Iceland?")
        print("->", await run)
        print(run.memory.steps[-1].observations)
        answers = await asyncio.gather(*[agent.arun("And now?") for _ in range(2)])
        print("Two more at once:", answers)


asyncio.run(main())
