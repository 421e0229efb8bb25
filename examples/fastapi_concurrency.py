"""A FastAPI route that lets five requests work at once; the others wait their turn.

Start it, then ask it:

    python examples/fastapi_concurrency.py
    curl -X POST 'http://127.0.0.1:8000/chat?message=Hello'
"""

import os

from _model import API_BASE, API_KEY, MODEL_ID
from fastapi import FastAPI

from manyhands import Agent, ConcurrencyRegistry, OpenAIServerModel

app = FastAPI()
model = OpenAIServerModel(model_id=MODEL_ID, api_base=API_BASE, api_key=API_KEY)

registry = ConcurrencyRegistry()
registry.set_limit("chat_agent", 5)

inside = 0
most = 0


@app.post("/chat")
async def chat_endpoint(message: str):
    global inside, most
    await registry.acquire("chat_agent")
    try:
        inside += 1
        most = max(most, inside)
        agent = Agent(name="chat_agent", instructions="Help users", model=model)
        response = await agent.astart(message)
        return {"response": response}
    finally:
        inside -= 1
        registry.release("chat_agent")


@app.get("/most-at-once")
async def most_at_once():
    return {"most": most}


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
