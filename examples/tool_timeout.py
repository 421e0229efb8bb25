"""A limit on the time of each tool call, with tools by name."""

import time

from _model import API_BASE, API_KEY, MODEL_ID

from manyhands import Agent, OpenAIServerModel, tool

model = OpenAIServerModel(model_id=MODEL_ID, api_base=API_BASE, api_key=API_KEY)


@tool
def get_weather(city: str) -> str:
    """Get the weather in a city.

    Args:
        city: Name of the city.
    """
    return f"Sunny in {city}, 22 degrees"


@tool
def get_slow_weather(city: str) -> str:
    """Get the weather in a city from a station that has fallen asleep.

    Args:
        city: Name of the city.
    """
    time.sleep(5)
    return f"It was sunny in {city}, five seconds ago"


agent = Agent(
    name="Assistant",
    instructions="Use tools to help users",
    tools=["get_weather"],
    model=model,
    tool_timeout=30,  # seconds; slow tools return a timeout dict
)
print(agent.start("What's the weather in Tokyo?"))

hasty = Agent(name="Hasty", tools=["get_slow_weather"], model=model, tool_timeout=0.5)
start = time.perf_counter()
print(hasty.start("What's the weather in Tokyo?"))
print(f"The agent did not wait for its tool: {time.perf_counter() - start:.1f} s in all")
