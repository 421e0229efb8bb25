"""An aiohttp server that runs an agent for each request.

Start it, then ask it:

    python examples/aiohttp_server.py
    curl http://127.0.0.1:8080/run-agent -d '{"task": "What is 2 + 2?"}'
"""

import os

from _model import API_BASE, API_KEY, MODEL_ID
from aiohttp import web

from manyhands import CodeAgent, OpenAIServerModel

# Model can be shared (stateless)
model = OpenAIServerModel(model_id=MODEL_ID, api_base=API_BASE, api_key=API_KEY)


async def handle_agent(request):
    data = await request.json()
    task = data['task']  # fmt: skip
    # A new agent for each request: cheap, but there is no need for it
    agent = CodeAgent(model=model, tools=[])
    result = await agent.arun(task)
    return web.json_response({'result': result})  # fmt: skip


# One agent for all requests does the same: each arun() has its own memory
shared_agent = CodeAgent(model=model, tools=[])


async def handle_shared_agent(request):
    data = await request.json()
    return web.json_response({"result": await shared_agent.arun(data["task"])})


app = web.Application()
app.router.add_post('/run-agent', handle_agent)  # fmt: skip
app.router.add_post("/run-shared-agent", handle_shared_agent)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
