"""``manyhands serve``: agents over HTTP, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING, Any

from manyhands.cli import OK
from manyhands.cli.building import SIMULATED, build_agent, load_objects, opened_model
from manyhands.errors import CallerError
from manyhands.serve import Settings, read_tokens, serve

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from manyhands.agents import MultiStepAgent
    from manyhands.serve import Token


def execute(args: argparse.Namespace) -> int:
    """Serve, after the agents have been found or made."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    tokens = read_tokens(args.tokens_file)
    settings = Settings(
        max_runs=args.max_runs,
        max_queued=args.max_queued,
        drain_seconds=args.drain,
        keep_runs=args.keep,
    )
    with _agents(args) as agents:
        serve(
            agents,
            host=args.host,
            port=args.port,
            tokens=tokens,
            settings=settings,
            on_ready=lambda url, made: _announce(url, made, agents, bool(tokens)),
        )
    return OK


@contextlib.contextmanager
def _agents(args: argparse.Namespace) -> Iterator[list[MultiStepAgent]]:
    """Give the agents that are named; without any, one that the options describe."""
    if args.agents:
        if args.model or args.tools or args.instructions:
            raise CallerError(
                "--model, --tools and --instructions make an agent; the ones you name have theirs."
            )
        yield [_checked(found) for word in args.agents for found in load_objects(word)]
        return
    if not args.model and not os.environ.get("MANYHANDS_MODEL"):
        args.model = SIMULATED
        print("No agent and no model is named: a simulated model answers, without a key.")
    with opened_model(args) as model:
        yield [build_agent(args, model, name="agent", stream_outputs=True)]


def _checked(found: Any) -> MultiStepAgent:
    from manyhands.agents import MultiStepAgent

    if not isinstance(found, MultiStepAgent):
        raise CallerError(f"{found!r:.80} is no agent.")
    return found


def _announce(url: str, made: Token | None, agents: list[MultiStepAgent], tokens: bool) -> None:
    names = ", ".join(agent.name or "agent" for agent in agents)
    print(f"Serving {names} at {url} (Ctrl-C ends it)")
    if made is not None:
        print(f"Nobody comes in without this token, which is shown only now: {made.secret}")
    header = " -H 'Authorization: Bearer TOKEN'" if tokens or made else ""
    agent = "" if len(agents) == 1 else f'"agent": "{agents[0].name}", '
    task = f'{{{agent}"task": "What is 17 * 23?", "wait": true}}'
    print(f"Try: curl {url}/v1/runs{header} -H 'Content-Type: application/json' -d '{task}'", flush=True)
