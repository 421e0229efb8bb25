"""What a model has to write to call an async tool: a plain call, without await.

The model here is scripted, so that you see the exact code it writes.
"""

import asyncio

from manyhands import CodeAgent, tool
from manyhands.testing import ScriptedModel


@tool
async def human_approval(action: str) -> str:
    """Ask a person whether an action may be done.

    Args:
        action: The action.
    """
    await asyncio.sleep(0.1)
    return f"{action}: approved"


PLAIN_CALL = """
result = human_approval("delete file")
final_answer(result)
"""

ANYWHERE = """
answers = [human_approval(name) for name in ("read", "write") if "approved" in human_approval(name)]
final_answer(f"{', '.join(answers)}; {max(answers, key=lambda a: human_approval(a))}")
"""

AT_ONCE = """
import asyncio
final_answer(await asyncio.gather(*[human_approval(f"file {n}") for n in range(3)]))
"""


async def main():
    for code in (PLAIN_CALL, ANYWHERE, AT_ONCE):
        agent = CodeAgent(tools=[human_approval], model=ScriptedModel([f"<code>{code}</code>"]))
        print(code.strip())
        print("->", await agent.arun("Delete the file, with approval."), end="\n\n")


asyncio.run(main())
