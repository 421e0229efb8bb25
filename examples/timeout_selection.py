"""One limit for tools of several kinds: long enough for the network, short enough to notice."""

from _model import API_BASE, API_KEY, MODEL_ID

from manyhands import Agent, OpenAIServerModel, tool

model = OpenAIServerModel(model_id=MODEL_ID, api_base=API_BASE, api_key=API_KEY)


def named_tool(name, description):
    """Register a small stand-in for a tool, so that the names below mean something."""

    def work(text: str) -> str:
        """Work on a text.

        Args:
            text: What to work on.
        """
        return f"{name} has worked on {text!r}"

    return tool(name=name, description=description)(work)


for name, description in {
    "web_search": "Search the web.",
    "file_processor": "Process a file.",
    "simple_math": "Do simple math.",
    "api_call": "Call an API.",
    "download_file": "Download a file.",
    "calculate": "Calculate something.",
    "format_text": "Format a text.",
    "parse_json": "Parse JSON.",
}.items():
    named_tool(name, description)


def get_agent_with_timeouts():
    return Agent(
        name="MultiTool Assistant",
        instructions="Help with various tasks",
        tools=[
            "web_search",      # Network IO
            "file_processor",  # Local computation
            "simple_math"      # Fast operation
        ],
        model=model,
        tool_timeout=45  # Good balance for mixed workload
    )  # fmt: skip


# Tools that need timeouts
network_tools = ["web_search", "api_call", "download_file"]
local_tools = ["calculate", "format_text", "parse_json"]

agent = Agent(
    name="Assistant",
    tools=network_tools + local_tools,
    model=model,
    tool_timeout=30  # Protects against slow network
)  # fmt: skip

print(get_agent_with_timeouts().start("Use file_processor on 'report.txt'"))
print(agent.start("Use format_text on 'hello'"))
