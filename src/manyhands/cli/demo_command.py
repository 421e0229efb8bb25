"""``manyhands demo``: a few hundred tasks at once, and what they take one after the other."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from manyhands.cli import OK, map_command
from manyhands.cli.building import build_agent, opened_model
from manyhands.cli.parser import make_parser
from manyhands.crowd import amap
from manyhands.errors import CallerError
from manyhands.observe.snapshot import duration
from manyhands.tasks import Task, read_tasks

if TYPE_CHECKING:
    import argparse

_SAMPLE = 8


def execute(args: argparse.Namespace) -> int:
    """Run the tasks, then a sample of them one by one, and say how both compare."""
    folder = Path(args.examples)
    tasks, tools = folder / "tasks.jsonl", folder / "lookup_tools.py"
    if not tasks.is_file() or not tools.is_file():
        raise CallerError(
            f"There are no examples in {folder}; go to the project's folder, or give --examples."
        )
    # A demo begins anew each time, where a map would find that everything is done.
    Path(args.output).unlink(missing_ok=True)
    words = f"map {tasks} --tools {tools} --concurrency {args.concurrency}"
    simulated = f"{words} --model simulated --latency {args.latency} -o {args.output}"
    print(
        "A code agent over a file of small tasks, on a simulated provider (no key, no network), which takes"
    )
    print(f"{args.latency} s for each reply. This runs now:\n\n  {_program()} {simulated}\n", flush=True)
    map_args = make_parser().parse_args(simulated.split())
    began = time.monotonic()
    status = map_command.execute(map_args)
    if status != OK:
        return status
    _compare(map_args, tasks, time.monotonic() - began)
    print("\nWith a real provider:\n")
    print(f"  OPENAI_API_KEY=sk-... {_program()} {words} --model gpt-5-mini -o results.jsonl")
    return OK


def _program() -> str:
    """Return what to type for this program: its name if the shell finds it, else where it is."""
    here = Path(sys.argv[0])
    found = shutil.which("manyhands")
    return "manyhands" if found and os.path.samefile(found, here) else os.path.relpath(here)


def _compare(args: argparse.Namespace, tasks: Path, took: float) -> None:
    everything = [task for task in read_tasks(tasks) if isinstance(task, Task)]
    sample = everything[:: max(1, len(everything) // _SAMPLE)][:_SAMPLE]
    print(
        f"\nThe same one after the other: measuring on {len(sample)} of the {len(everything)} ...", flush=True
    )
    seconds = asyncio.run(_one_by_one(args, sample))
    whole = seconds / len(sample) * len(everything)
    print(
        f"{len(sample)} tasks took {duration(seconds)}; all {len(everything)} would take about "
        f"{duration(whole)} (extrapolated), {whole / took:.0f} times as long."
    )


async def _one_by_one(args: argparse.Namespace, sample: list[Task]) -> float:
    with opened_model(args) as model:
        agent = build_agent(args, model)
        began = time.monotonic()
        async for _ in amap(agent, sample, concurrency=1):
            pass
        return time.monotonic() - began
