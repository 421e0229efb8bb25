"""A Starlette server with an agent: awaited, in a thread, and as a stream of events of two kinds.

Start it, then ask it:

    python examples/starlette_server.py
    curl http://127.0.0.1:8000/run-agent -d '{"task": "What is 2 + 2?"}'
    curl -N http://127.0.0.1:8000/stream -d '{"task": "What is 2 + 2?"}'
    curl -N 'http://127.0.0.1:8000/events?task=What+is+2+%2B+2%3F'
"""

import json
import os

import anyio.to_thread
from _model import API_BASE, API_KEY, MODEL_ID
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from manyhands import CodeAgent, LogLevel, OpenAIServerModel
from manyhands.serve import sse_events

model = OpenAIServerModel(model_id=MODEL_ID, api_base=API_BASE, api_key=API_KEY)
agent = CodeAgent(model=model, tools=[], verbosity_level=LogLevel.OFF)


async def run_agent(request):
    """Await the run: thousands of these wait in one thread."""
    task = (await request.json())["task"]
    return JSONResponse({"result": await agent.arun(task)})


async def run_agent_in_thread(request):
    """Run the sync way in a thread: works too, at the cost of one thread for each request."""
    task = (await request.json())["task"]
    return JSONResponse({"result": await anyio.to_thread.run_sync(agent.run, task)})


async def stream_agent(request):
    """Send each event as one line of JSON. A client that leaves ends its run."""
    task = (await request.json())["task"]
    return StreamingResponse(lines_of(agent.arun(task, stream=True)), media_type="application/x-ndjson")


async def lines_of(run):
    async for event in run:
        yield json.dumps({"event": type(event).__name__, "output": getattr(event, "output", None)}) + "\n"


async def events(request):
    """Send every event as a server-sent event, in the form of `manyhands serve`."""
    run = agent.arun(request.query_params["task"])
    return StreamingResponse(sse_events(run), media_type="text/event-stream")


app = Starlette(
    routes=[
        Route("/run-agent", run_agent, methods=["POST"]),
        Route("/run-agent-in-thread", run_agent_in_thread, methods=["POST"]),
        Route("/stream", stream_agent, methods=["POST"]),
        Route("/events", events),
    ]
)

if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
