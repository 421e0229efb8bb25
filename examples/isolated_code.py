"""The model's code in a process of its own: it sees no key, no file and no network, and calls your tools.

The model here is scripted, so that you see the exact code it writes.
"""

import asyncio
import os

from manyhands import CodeAgent, tool
from manyhands.testing import ScriptedModel


@tool
async def population(city: str) -> int:
    """Tell how many people live in a city.

    Args:
        city: The city.
    """
    await asyncio.sleep(0.05)
    return {"Bogota": 7_900_000, "Lima": 10_200_000, "Quito": 1_800_000}[city]


LOOK_AROUND = """
import os, socket, subprocess
print("Key:", os.environ.get("MY_API_KEY"))
print("Files of the user:", [name for name in ("/home", "/etc/shadow") if os.path.exists(name)])
try:
    socket.create_connection(("93.184.215.14", 80), timeout=2)
except OSError as error:
    print("Network:", error.strerror)
print(subprocess.run(["echo", "programs run, too"], capture_output=True, text=True).stdout.strip())
"""

WORK = """
import asyncio
cities = ["Bogota", "Lima", "Quito"]
sizes = await asyncio.gather(*[population(city) for city in cities])
largest = max(cities, key=lambda city: population(city))
"""

ANSWER = "final_answer({'largest': largest, 'together': sum(sizes)})"


def said(*codes: str) -> ScriptedModel:
    return ScriptedModel({"": [f"<code>\n{code}\n</code>" for code in codes]})


async def main():
    os.environ["MY_API_KEY"] = "a secret of the host"
    agent = CodeAgent(
        [population],
        said(LOOK_AROUND, WORK, ANSWER),
        executor_type="process",
        executor_kwargs={"memory_mb": 512, "timeout_seconds": 10, "max_workers": 4},
    )
    async with agent:
        run = agent.arun("Which of the three is the largest, and how many live there together?")
        print(await run)
        print(run.memory.steps[1].observations)
        print(await agent.python_executor.isolation())

        answers = await asyncio.gather(*[agent.arun(f"Question {n}") for n in range(12)])
        print(f"{len(answers)} runs through 4 processes, {len({str(a) for a in answers})} answer")


if __name__ == "__main__":
    asyncio.run(main())
