"""See what agents do: replies as they are written, the whole fleet, and one run as a tree and as a page.

python examples/watching.py
"""

import asyncio
import tempfile
from pathlib import Path

from _model import API_BASE, API_KEY, MODEL_ID

from manyhands import AgentLogger, CodeAgent, Fleet, LogLevel, OpenAIServerModel

model = OpenAIServerModel(MODEL_ID, api_base=API_BASE, api_key=API_KEY, max_concurrency=4)
fleet = Fleet()


async def main():
    # Two agents on one console: each has its own lines while it writes, and its name before them.
    console = AgentLogger(LogLevel.INFO)
    shown = CodeAgent(model=model, name="solver", stream_outputs=True, logger=console)
    await asyncio.gather(shown.arun("What is 17 * 23?"), shown.arun("What is 100 - 58?"))

    # Twenty more that show nothing, and a fleet that knows what each of them waits for.
    quiet = CodeAgent(model=model, name="quiet", observers=[fleet.observe])
    runs = [asyncio.ensure_future(quiet.arun(f"What is {number} * 3?")) for number in range(20)]
    await asyncio.sleep(0.1)
    now = fleet.dict()
    print(f"\n{now['runs']['in_flight']} in flight, waiting on {now['waiting_on']}")
    for limit in now["limits"]:
        print(f"{limit['name']}: {limit.get('held')} of {limit.get('limit')} taken, {limit['waiting']} wait")
    await asyncio.gather(*runs)
    print(f"{fleet.dict()['runs']['succeeded']} succeeded, {fleet.dict()['tokens']['total']} tokens\n")

    # One run, read afterwards.
    run = quiet.arun("What is 6 * 7?")
    await run
    trace = run.trace()
    print(trace)
    page = Path(tempfile.gettempdir()) / "manyhands-trace.html"
    page.write_text(trace.html(), encoding="utf-8")
    print(f"\nThe same as a page: {page}")


asyncio.run(main())
