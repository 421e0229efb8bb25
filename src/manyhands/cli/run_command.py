"""``manyhands run``: one task; the steps on the console, the answer last on the standard output."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from manyhands.cli import FAILED, OK
from manyhands.cli.building import build_agent, opened_model
from manyhands.run import SUCCESS

if TYPE_CHECKING:
    import argparse


def execute(args: argparse.Namespace) -> int:
    """Run the agent, show what it does, and print the answer."""
    task = sys.stdin.read().strip() if args.task == "-" else args.task
    with opened_model(args) as model:
        agent = build_agent(args, model, stream_outputs=args.stream, **_watching(args.quiet))
        result: Any = agent.run(task, return_full_result=True, timeout=args.timeout)
    print(result.output)
    if result.state == SUCCESS:
        return OK
    print(
        f"manyhands run: the agent used all its {args.max_steps} steps; this is its best guess.",
        file=sys.stderr,
    )
    return FAILED


def _watching(quiet: bool) -> dict[str, Any]:
    """Return the parameters for what is shown: on the error output; the other one is for the answer."""
    from rich.console import Console

    from manyhands.observe.console import AgentLogger, LogLevel

    if quiet:
        return {"verbosity_level": LogLevel.OFF}
    return {"logger": AgentLogger(LogLevel.INFO, Console(stderr=True, highlight=False))}
