"""The command line: ``manyhands run``, ``map``, ``simulate``, ``demo`` and ``serve``.

This file holds what is common to them: one clear sentence for whatever goes wrong, and the exit status.
Each command lives in a file of its own, which is imported when the command is asked for.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

from manyhands.cli.parser import make_parser

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

OK, FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Its words; by default those of the process.

    Returns:
        The exit status: 0 if all went well, 1 if something failed, 2 for bad usage or bad input, 130 if
        it was interrupted.
    """
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return BAD_USAGE
    try:
        command = importlib.import_module(f"manyhands.cli.{args.command}_command")
        status: int = command.execute(args)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Nobody reads on: what follows would fail at the exit, when Python flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if args.debug:
            raise
        return _complain(args, error)


def _complain(args: argparse.Namespace, error: Exception) -> int:
    from manyhands.errors import AgentError, AuthenticationError, CallerError

    if isinstance(error, AgentError | OSError):
        words = str(error)
    else:
        words = f"{type(error).__name__}: {error} (--debug shows where)"
    print(f"manyhands {args.command}: {words}", file=sys.stderr)
    return BAD_USAGE if isinstance(error, CallerError | AuthenticationError | OSError) else FAILED
