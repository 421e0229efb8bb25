"""A FastAPI server that runs an agent for each request.

Start it, then ask it:

    python examples/fastapi_server.py
    curl -X POST 'http://127.0.0.1:8000/run-agent?task=What+is+2+%2B+2%3F'
"""

import os

from _model import API_BASE, API_KEY, MODEL_ID
from fastapi import FastAPI

from manyhands import CodeAgent, OpenAIServerModel

app = FastAPI()
# Model can be shared (stateless)
model = OpenAIServerModel(model_id=MODEL_ID, api_base=API_BASE, api_key=API_KEY)


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


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
