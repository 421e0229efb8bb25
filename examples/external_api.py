"""A tool that asks a web service, without blocking anything meanwhile.

The service is a small one started here, so that the example needs no network. Ten runs ask it at once.
"""

import asyncio
import time

import aiohttp
from _model import API_BASE, API_KEY, MODEL_ID
from aiohttp import web

from manyhands import CodeAgent, OpenAIServerModel, Tool

POPULATIONS = {"Norway": 5_474_360, "Peru": 34_352_719, "Kenya": 55_100_586}


class ExternalAPITool(Tool):
    name = "population"
    description = "Look up how many people live in a country."
    inputs = {"country": {"type": "string", "description": "Name of the country."}}
    output_type = "integer"

    def __init__(self, address):
        self.address = address
        super().__init__()

    async def forward(self, country: str):
        async with aiohttp.ClientSession() as session:
            # Use session
            async with session.get(f"{self.address}/population/{country}") as response:
                return (await response.json())["population"]


async def population(request):
    await asyncio.sleep(0.2)  # the service is not a fast one
    return web.json_response({"population": POPULATIONS[request.match_info["country"]]})


async def start_service():
    app = web.Application()
    app.router.add_get("/population/{country}", population)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


async def main():
    runner, address = await start_service()
    model = OpenAIServerModel(model_id=MODEL_ID, api_base=API_BASE, api_key=API_KEY)
    agent = CodeAgent(model=model, tools=[ExternalAPITool(address)])

    start = time.perf_counter()
    tasks = [f"How many people live in {country}?" for country in POPULATIONS] * 4
    answers = await asyncio.gather(*[agent.arun(task) for task in tasks])
    took = time.perf_counter() - start

    for task, answer in list(zip(tasks, answers))[:3]:
        print(f"{task} {answer}")
    print(f"{len(tasks)} runs, each with its call of the service, took {took:.1f} s together")
    await runner.cleanup()


asyncio.run(main())
