"""A model by itself: one whole answer, and one that arrives in pieces."""

import asyncio

from _model import API_BASE, API_KEY, MODEL_ID

from manyhands import OpenAIServerModel
from manyhands.models import ChatMessage, MessageRole


async def example():
    model = OpenAIServerModel(model_id=MODEL_ID, api_base=API_BASE, api_key=API_KEY)

    messages = [
        ChatMessage(
            role=MessageRole.USER,
            content=[{"type": "text", "text": "Hello!"}]
        )
    ]  # fmt: skip

    # Async generate
    response = await model.agenerate(messages)
    print(response.content)

    # Async streaming
    async for delta in model.agenerate_stream(messages):
        print(delta.content or "", end="", flush=True)
    print()


asyncio.run(example())
