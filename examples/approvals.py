"""Approvals: a run waits for a person before it does what cannot be undone.

Three runs of one agent ask to delete something. The person approves one call, changes one, and denies one.
At a terminal, `approvals="console"` would ask you.
"""

import asyncio

from manyhands import ApprovalRequest, CodeAgent, tool
from manyhands.testing import ScriptedModel


@tool(requires_approval=lambda arguments: f"{arguments['path']} cannot be brought back")
async def delete(path: str) -> str:
    """Delete a file.

    Args:
        path: Which one.
    """
    return f"{path} is deleted"


model = ScriptedModel(
    {
        name: [
            f"<code>final_answer('Done: ' + delete('{path}'))</code>",
            "<code>final_answer('I left it alone.')</code>",
        ]
        for name, path in {"logs": "old.log", "notes": "notes.txt", "system": "/etc/passwd"}.items()
    }
)
requests = asyncio.Queue()


def desk(run, event):
    """An observer: what needs a decision goes to the person's desk."""
    if isinstance(event, ApprovalRequest):
        requests.put_nowait(event)


async def person():
    """Answers each request, in her own time. A web page would call the same methods."""
    while True:
        request = await requests.get()
        await asyncio.sleep(0.2)
        path = request.arguments["path"]
        if path == "old.log":
            request.approve()
        elif path == "notes.txt":
            request.change({"path": "notes.bak"})
        else:
            request.deny("never touch the system")


async def main():
    agent = CodeAgent([delete], model, observers=[desk])
    answering = asyncio.create_task(person())
    async for result in agent.amap(["Delete the logs", "Delete the notes", "Clean the system"], ordered=True):
        print(f"{result.task}: {result.output}")
    answering.cancel()


asyncio.run(main())
