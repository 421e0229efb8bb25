"""A person in the loop: a tool that waits for an answer while everything else goes on.

The tool's forward is async; the agent's code calls it as a plain function. While one run waits for its
person, other runs of the same agent finish.
"""

import asyncio

from _model import API_BASE, API_KEY, MODEL_ID

from manyhands import CodeAgent, OpenAIServerModel
from manyhands.tools import Tool


class MessageQueue:
    """Stands for what connects you to people: a message broker, a web page, a chat."""

    def __init__(self):
        self.asked = asyncio.Queue()
        self.answers = {}

    async def get(self, key):
        answer = self.answers[key] = asyncio.get_running_loop().create_future()
        await self.asked.put(key)
        return await answer


message_queue = MessageQueue()


class HumanApprovalTool(Tool):
    name = "human_approval"
    description = "Ask a person whether an action may be done."
    inputs = {"action": {"type": "string", "description": "The action."}}
    output_type = "string"

    async def forward(self, action: str):
        # Wait for human input from queue/webhook
        approval = await message_queue.get(f"approval:{action}")
        return approval


async def person():
    """Answers each question, in her own time."""
    while True:
        key = await message_queue.asked.get()
        await asyncio.sleep(1)
        print(f"Person: I was asked for {key!r}, and I say yes.")
        message_queue.answers[key].set_result("approved")


async def run(agent, task):
    result = await agent.arun(task)
    print(f"{task} -> {result}")


async def main():
    model = OpenAIServerModel(model_id=MODEL_ID, api_base=API_BASE, api_key=API_KEY)
    agent = CodeAgent(model=model, tools=[HumanApprovalTool()])

    async with asyncio.TaskGroup() as group:
        answering = group.create_task(person())
        runs = [
            group.create_task(run(agent, task))
            for task in ("Delete important file with approval", "What is 2 + 2?", "What is 10 * 5?")
        ]
        await asyncio.wait(runs)
        answering.cancel()


asyncio.run(main())
