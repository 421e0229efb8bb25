"""Threads named after the agent whose tool they run, to filter logs by.

Only what the researcher's tools do:

    python examples/thread_names.py 2>&1 | grep tool-researcher
"""

import asyncio
import logging

from _model import API_BASE, API_KEY, MODEL_ID

from manyhands import Agent, OpenAIServerModel, tool

logging.basicConfig(format='%(threadName)s: %(message)s')  # fmt: skip
log = logging.getLogger("example")
log.setLevel(logging.INFO)

model = OpenAIServerModel(model_id=MODEL_ID, api_base=API_BASE, api_key=API_KEY)


@tool
def capital(country: str) -> str:
    """Look up the capital of a country.

    Args:
        country: Name of the country.
    """
    log.info("looking up %s", country)
    return {"Norway": "Oslo", "Peru": "Lima"}[country]


async def main():
    researcher = Agent(name="researcher", tools=[capital], model=model, tool_timeout=30)
    writer = Agent(name="writer", tools=[capital], model=model, tool_timeout=30)
    answers = await asyncio.gather(
        researcher.arun("What is the capital of Norway?"), writer.arun("What is the capital of Peru?")
    )
    print(answers)


asyncio.run(main())
