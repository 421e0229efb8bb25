"""A FastAPI server that runs an agent for each request.

Start it, then ask it:

    python examples/fastapi_server.py
    curl -X POST 'http://127.0.0.1:8000/run-agent?task=What+is+2+%2B+2%3F'
    curl -N 'http://127.0.0.1:8000/stream?task=What+is+2+%2B+2%3F'

Everything that `manyhands serve` offers is mounted under /agents: see http://127.0.0.1:8000/agents/
"""

import os
from contextlib import asynccontextmanager

from _model import API_BASE, API_KEY, MODEL_ID
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from manyhands import CodeAgent, OpenAIServerModel
from manyhands.serve import create_app, sse_events

# Model can be shared (stateless)
model = OpenAIServerModel(model_id=MODEL_ID, api_base=API_BASE, api_key=API_KEY)
agents = create_app(CodeAgent(name="calculator", model=model, tools=[]))


@asynccontextmanager
async def lifespan(app):
    async with agents.state.service:  # at the end, its runs may finish
        yield


app = FastAPI(lifespan=lifespan)
app.mount("/agents", agents)


@app.post("/run-agent")
async def run_agent(task: str):
    # A new agent for each request: cheap, but there is no need for it
    agent = CodeAgent(model=model, tools=[])
    result = await agent.arun(task)
    return {"result": result}


# One agent for all requests does the same: each arun() has its own memory
shared_agent = CodeAgent(model=model, tools=[])


@app.post("/run-shared-agent")
async def run_shared_agent(task: str):
    return {"result": await shared_agent.arun(task)}


@app.get("/stream")
async def stream(task: str):
    """Send the events of a run as they happen. A client that leaves ends its run."""
    return StreamingResponse(sse_events(shared_agent.arun(task)), media_type="text/event-stream")


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
