"""An aiohttp server that runs an agent for each request.

Start it, then ask it:

    python examples/aiohttp_server.py
    curl http://127.0.0.1:8080/run-agent -d '{"task": "What is 2 + 2?"}'
    curl -N 'http://127.0.0.1:8080/stream?task=What+is+2+%2B+2%3F'
"""

import os
from contextlib import aclosing

from _model import API_BASE, API_KEY, MODEL_ID
from aiohttp import web

from manyhands import CodeAgent, OpenAIServerModel
from manyhands.serve import sse_events

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


async def handle_stream(request):
    """Send the events of a run as they happen. A client that leaves ends its run."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    async with aclosing(sse_events(shared_agent.arun(request.query["task"]))) as chunks:
        async for chunk in chunks:
            await response.write(chunk)
    return response


app = web.Application()
app.router.add_post('/run-agent', handle_agent)  # fmt: skip
app.router.add_post("/run-shared-agent", handle_shared_agent)
app.router.add_get("/stream", handle_stream)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
