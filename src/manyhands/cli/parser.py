"""The words of the command line. Only what reads them is imported here, so that ``--help`` is quick."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from manyhands import __version__

_MODELS = """\
models:
  --model NAME        a model at OpenAI, or at any server that speaks its format (--api-base);
                      the key comes from --api-key or OPENAI_API_KEY
  --model simulated   the built-in provider: no key, no network; solves arithmetic and look-ups
"""
_MAP_NOTES = """\
input:
  JSON lines   {"task": "...", "id": "..."} or "..."; further keys are values for tools and code,
               except "expected": the right answer, which the agent is not told
  CSV          a header with the column task (id, expected), or any columns and --template
  plain lines  one task each

results:
  One JSON line for each task, as it ends. Run the same command again and it does what is missing: a task
  is known by its id, or by its line number and content. What a budget did not reach is done, too. Failed
  tasks stay as they are, unless --retry-failed. Ctrl-C finishes what is in flight, a second one stops at
  once; the file is whole in both cases.

exit status:
  0  all tasks have succeeded        2    bad usage, or lines that are no tasks
  1  some have failed                130  interrupted
"""

_SHOW_NOTES = """\
Without an id the results are listed, failures first. The steps of a run are in the file if it was written
with manyhands map --keep-steps. A file of one result (RunResult.dict() or Trace.dict() as JSON) needs no id.

exit status:
  0  the run succeeded, or a list was shown        1  the run failed        2  bad usage
"""
_TOP_NOTES = """\
keys:
  q  quit      p  pause, and go on      s  sort by age, tokens, step, agent      up, down  scroll
"""
_SERVE_NOTES = """\
tokens:
  On this computer nobody is asked. Beyond it (--host) clients need a token: one from --tokens-file, or from
  the environment variable MANYHANDS_SERVE_TOKENS; without these, one is made and shown.

  MANYHANDS_SERVE_TOKENS    TOKEN, or TENANT:TOKEN,TENANT:TOKEN
  --tokens-file             [alice]
                            token = "..."
                            max_runs = 10
                            runs_per_minute = 60
"""


class _Parser(argparse.ArgumentParser):
    """Complains in one sentence instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}. See {self.prog} --help.", file=sys.stderr)
        raise SystemExit(2)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = _Parser(prog="manyhands", description="Run an LLM agent over one task, or over very many.")
    parser.add_argument("--version", action="version", version=f"manyhands {__version__}")
    parser.set_defaults(debug=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for add in (_add_run, _add_map, _add_show, _add_top, _add_simulate, _add_demo, _add_serve):
        add(commands).add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def _command(
    commands: argparse._SubParsersAction[_Parser], name: str, text: str, notes: str = ""
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=text,
        description=text,
        epilog=notes,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_run(commands: argparse._SubParsersAction[_Parser]) -> argparse.ArgumentParser:
    parser = _command(commands, "run", "run an agent on one task", _MODELS)
    parser.add_argument("task", help="what to do; - reads it from the standard input")
    _add_agent_options(parser)
    parser.add_argument("--stream", action="store_true", help="show replies while they are written")
    parser.add_argument("--timeout", type=positive, metavar="S", help="most seconds")
    parser.add_argument("-q", "--quiet", action="store_true", help="show the answer only")
    return parser


def _add_map(commands: argparse._SubParsersAction[_Parser]) -> argparse.ArgumentParser:
    parser = _command(commands, "map", "run an agent over a file of tasks", f"{_MAP_NOTES}\n{_MODELS}")
    parser.add_argument("tasks", help="file of tasks; - reads the standard input")
    parser.add_argument(
        "-o", "--output", required=True, help="file of results; - writes to the standard output"
    )
    work = parser.add_argument_group("work")
    work.add_argument(
        "-c", "--concurrency", type=count, default=100, metavar="N", help="most runs at once (100)"
    )
    work.add_argument("--retries", type=whole, default=0, metavar="N", help="tries again after a failure (0)")
    work.add_argument("--timeout", type=positive, metavar="S", help="most seconds of one try")
    work.add_argument(
        "--retry-failed", action="store_true", help="do tasks again that failed at an earlier time"
    )
    work.add_argument(
        "--keep-steps", action="store_true", help="write what each run did to the results, for manyhands show"
    )
    _add_budget_options(parser)
    reading = parser.add_argument_group("input")
    reading.add_argument("--format", choices=("jsonl", "csv", "lines"), help="by default the extension says")
    reading.add_argument("--template", help='makes tasks of fields: "What does {company} sell?"')
    reading.add_argument("--limit", type=count, metavar="N", help="only the first N tasks")
    _add_agent_options(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="show nothing but complaints")
    return parser


def _add_show(commands: argparse._SubParsersAction[_Parser]) -> argparse.ArgumentParser:
    parser = _command(commands, "show", "show what a run did, from a file of results", _SHOW_NOTES)
    parser.add_argument("results", metavar="FILE[#ID]", help="file of results, and the id of one of them")
    parser.add_argument("--html", metavar="FILE", help="write a page of HTML; - writes it to the output")
    parser.add_argument("--markdown", metavar="FILE", help="write Markdown; - writes it to the output")
    parser.add_argument("--limit", type=count, default=50, metavar="N", help="most results to list (50)")
    return parser


def _add_top(commands: argparse._SubParsersAction[_Parser]) -> argparse.ArgumentParser:
    parser = _command(commands, "top", "watch the runs of a server (manyhands serve)", _TOP_NOTES)
    parser.add_argument(
        "url", nargs="?", default="http://127.0.0.1:8000", help="the server (http://127.0.0.1:8000)"
    )
    parser.add_argument("--token", metavar="TOKEN", help="token of the server (default: MANYHANDS_TOKEN)")
    parser.add_argument("--once", action="store_true", help="show it once, also without a terminal")
    return parser


def _add_budget_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "budget", "of all runs together; what is left when it is used up is done next time"
    )
    group.add_argument("--budget-tokens", type=count, metavar="N", help="most tokens, in and out")
    group.add_argument("--budget-requests", type=count, metavar="N", help="most questions to the model")
    group.add_argument("--budget-money", type=positive, metavar="USD", help="most US dollars")
    group.add_argument("--budget-seconds", type=positive, metavar="S", help="most seconds")


def _add_agent_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("agent")
    group.add_argument(
        "--agent", choices=("code", "tools"), default="code", help="acts by code (default) or calls"
    )
    group.add_argument(
        "--tools",
        default="",
        metavar="A,B",
        help="names of tools, Python files (path/to/file.py) or objects (package.module:name)",
    )
    group.add_argument("--imports", default="", metavar="A,B", help="modules that generated code may import")
    group.add_argument("--instructions", metavar="TEXT", help="added to the system prompt")
    group.add_argument("--max-steps", type=count, default=20, metavar="N", help="most steps of a run (20)")
    group.add_argument("--planning-interval", type=count, metavar="N", help="make a plan every N steps")
    group = parser.add_argument_group("model")
    group.add_argument("--model", metavar="NAME", help="model, or 'simulated' (default: MANYHANDS_MODEL)")
    group.add_argument("--api-base", metavar="URL", help="address of the provider (default: OPENAI_BASE_URL)")
    group.add_argument("--api-key", metavar="KEY", help="key (default: OPENAI_API_KEY)")
    group.add_argument("--temperature", type=float, metavar="T", help="passed to the model")
    group.add_argument(
        "--latency",
        default="0.4",
        metavar="S",
        help="seconds that a reply of the simulated model takes (0.4)",
    )


def _add_simulate(commands: argparse._SubParsersAction[_Parser]) -> argparse.ArgumentParser:
    parser = _command(commands, "simulate", "serve a simulated provider that speaks OpenAI's format")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument(
        "--port", type=whole, default=8080, help="port to listen on (8080); 0 takes a free one"
    )
    parser.add_argument(
        "--latency",
        default="0.5",
        metavar="S",
        help="seconds (0.5), uniform:LOW,HIGH or lognormal:MEAN,SIGMA",
    )
    parser.add_argument("--tokens-per-second", type=positive, metavar="N", help="speed of writing")
    parser.add_argument("--rpm", type=positive, metavar="N", help="requests per minute and key")
    parser.add_argument("--tpm", type=positive, metavar="N", help="tokens per minute and key")
    parser.add_argument(
        "--burst", type=positive, default=60.0, metavar="S", help="seconds of limits saved up (60)"
    )
    parser.add_argument(
        "--faults", metavar="KIND=RATE,...", help="429, 500, 503, reset, stall, truncate, bad_json, drip"
    )
    parser.add_argument(
        "--retry-after", type=positive, default=1.0, metavar="S", help="asked for by a 429 (1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="makes latency and faults repeatable (0)")
    parser.add_argument("--api-key", metavar="KEY", help="the only key that is let in")
    parser.add_argument("--models", default="", metavar="A,B", help="the only models on offer")
    return parser


def _add_demo(commands: argparse._SubParsersAction[_Parser]) -> argparse.ArgumentParser:
    parser = _command(commands, "demo", "show a few hundred agents at work, without a key")
    parser.add_argument(
        "--examples", default="examples", metavar="DIR", help="folder of the examples (examples)"
    )
    parser.add_argument("-o", "--output", default="results-demo.jsonl", help="file of results, written anew")
    parser.add_argument(
        "-c", "--concurrency", type=count, default=100, metavar="N", help="most runs at once (100)"
    )
    parser.add_argument("--latency", default="0.4", metavar="S", help="seconds that a reply takes (0.4)")
    return parser


def _add_serve(commands: argparse._SubParsersAction[_Parser]) -> argparse.ArgumentParser:
    parser = _command(commands, "serve", "serve agents over HTTP", f"{_SERVE_NOTES}\n{_MODELS}")
    parser.add_argument(
        "agents",
        nargs="*",
        metavar="AGENT",
        help="package.module:name or path/to/file.py:name; without one, the options below make an agent",
    )
    door = parser.add_argument_group("server")
    door.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    door.add_argument("--port", type=whole, default=8000, help="port to listen on (8000); 0 takes a free one")
    door.add_argument("--tokens-file", metavar="FILE", help="tokens of clients, in TOML")
    door.add_argument("--max-runs", type=count, default=100, metavar="N", help="most runs at once (100)")
    door.add_argument(
        "--max-queued", type=whole, default=1000, metavar="N", help="most that wait; then 429 (1000)"
    )
    door.add_argument(
        "--drain", type=positive, default=30.0, metavar="S", help="seconds for runs to finish at the end (30)"
    )
    door.add_argument(
        "--keep", type=count, default=10_000, metavar="N", help="most finished runs kept (10000)"
    )
    _add_agent_options(parser)
    return parser


def positive(text: str) -> float:
    """Read a number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def count(text: str) -> int:
    """Read a whole number from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def whole(text: str) -> int:
    """Read a whole number from 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value
