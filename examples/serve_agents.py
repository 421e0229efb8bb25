"""Two agents behind one server, with everything that `manyhands serve` offers: runs, events, approvals, chat.

Start it, open http://127.0.0.1:8000 in a browser, or ask it:

    python examples/serve_agents.py
    curl http://127.0.0.1:8000/v1/runs -H 'Content-Type: application/json' \
        -d '{"agent": "calculator", "task": "What is 17 * 23?", "wait": true}'

The same as a command:

    manyhands serve examples/serve_agents.py:agents
"""

import os

from _model import API_BASE, API_KEY, MODEL_ID

from manyhands import CodeAgent, OpenAIServerModel, ToolCallingAgent, tool
from manyhands.serve import Settings, serve


@tool(requires_approval=True)
def delete_file(path: str) -> str:
    """Delete a file.

    Args:
        path: The file.
    """
    return f"{path} is gone (not really: this is an example)"


model = OpenAIServerModel(model_id=MODEL_ID, api_base=API_BASE, api_key=API_KEY)
agents = [
    CodeAgent(
        name="calculator",
        description="Computes.",
        model=model,
        stream_outputs=True,  # clients see words as they are written
        max_steps=8,
    ),
    ToolCallingAgent(
        [delete_file],
        name="janitor",
        description="Deletes files, after somebody has approved it.",
        model=model,
        stream_outputs=True,
    ),
]

if __name__ == "__main__":
    serve(
        agents,
        port=int(os.environ.get("PORT", "8000")),
        settings=Settings(max_runs=50),
        on_ready=lambda url, token: print(f"Running on {url} (Ctrl-C ends it)"),
    )
