"""From sync to async: the same agent before and after."""

import asyncio

from _model import API_BASE, API_KEY, MODEL_ID

from manyhands import CodeAgent, OpenAIServerModel


# Before (sync)
def before():
    model = OpenAIServerModel(model_id=MODEL_ID, api_base=API_BASE, api_key=API_KEY)
    agent = CodeAgent(model=model, tools=[])

    result = agent.run("What is 2 + 2?")
    print(result)


# After (async)
async def main():
    model = OpenAIServerModel(model_id=MODEL_ID, api_base=API_BASE, api_key=API_KEY)
    agent = CodeAgent(model=model, tools=[])

    result = await agent.arun("What is 2 + 2?")
    print(result)


before()
asyncio.run(main())
