"""``manyhands map``: a file of tasks in, a file of results out, and nothing lost in between."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyhands._bridge import call_in_thread
from manyhands.cli import BAD_USAGE, FAILED, INTERRUPTED, OK
from manyhands.cli.building import build_agent, opened_model
from manyhands.crowd import Crowd
from manyhands.errors import AuthenticationError, BadRequestError, CallerError
from manyhands.messages import TokenUsage
from manyhands.observe.snapshot import Meter, counts, duration, progress_line
from manyhands.results import ResultsFile, result_line, same_answer
from manyhands.run import OUT_OF_BUDGET
from manyhands.tasks.files import BadLine, count_tasks, read_tasks

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Iterable, Iterator
    from typing import TextIO

    from manyhands.agents import MultiStepAgent
    from manyhands.crowd import MapResult
    from manyhands.limits.budget import Budget
    from manyhands.tasks.task import Task

_FIRST_LINE_SECONDS = 2.0
_PROGRESS_SECONDS = 5.0
# Complaints about lines of the input that are shown one by one.
_MOST_COMPLAINTS = 20
_STOP = (signal.SIGINT, signal.SIGTERM)


def execute(args: argparse.Namespace) -> int:
    """Do what is missing in the results, and say how it went."""
    source = _source(args)
    with ExitStack() as held:
        kept = StandardOutput() if args.output == "-" else held.enter_context(ResultsFile(Path(args.output)))
        agent = build_agent(args, held.enter_context(opened_model(args)))
        job = MapJob(args, agent, source, kept)
        asyncio.run(job.work())
    job.sum_up()
    return job.status()


def _source(args: argparse.Namespace) -> Path | int:
    if args.tasks == "-":
        return sys.stdin.fileno()
    path = Path(args.tasks)
    if not path.exists():
        raise CallerError(f"There is no file {path} to read tasks from.")
    if path.is_dir():
        raise CallerError(f"{path} is a folder; name a file of tasks.")
    output = Path(args.output)
    if args.output != "-" and output.exists() and output.samefile(path):
        raise CallerError(f"{path} holds the tasks; name another file for the results.")
    return path


class StandardOutput:
    """Results on the standard output, with the face of a results file in which nothing is yet."""

    repaired = False

    def succeeded(self, id: Any) -> bool | None:
        """Return ``None``: nobody knows what was printed before."""
        return None

    def write(self, results: Iterable[MapResult]) -> None:
        """Print results."""
        sys.stdout.buffer.write(b"".join(map(result_line, results)))
        sys.stdout.buffer.flush()


class MapJob:
    """One call of ``manyhands map``: reads, runs, writes, shows, and obeys Ctrl-C.

    Args:
        args: The options of the command.
        agent: The agent.
        source: Where tasks come from.
        kept: Where results go.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        agent: MultiStepAgent,
        source: Path | int,
        kept: ResultsFile | StandardOutput,
    ) -> None:
        self._args = args
        self._source = source
        self._kept = kept
        self.crowd = Crowd(
            agent,
            self._missing(),
            concurrency=args.concurrency,
            retries=args.retries,
            timeout=args.timeout,
            budget=_budget(args, agent),
            keep_runs=args.keep_steps,
        )
        self.meter = Meter(self.crowd.progress, [agent])
        self.interrupted = 0
        self._refused: BaseException | None = None
        self._failed_before = 0
        self._right = 0
        self._judged = 0
        # Results on the standard output are not to be mixed with words.
        self._out: TextIO = sys.stderr if args.output == "-" else sys.stdout
        self._say_above: Any = None

    # --- Reading ------------------------------------------------------------------------------

    def _missing(self) -> Iterator[Task]:
        """Yield the tasks that have to be done. Runs on a worker thread."""
        args = self._args
        items = read_tasks(self._source, args.format, args.template)
        for item in islice(items, args.limit):
            if isinstance(item, BadLine):
                self._complain(item)
                continue
            before = self._kept.succeeded(item.id)
            if before is None or (before is False and args.retry_failed):
                yield item
            else:
                self.meter.earlier += 1
                self._failed_before += not before

    def _complain(self, bad: BadLine) -> None:
        self.meter.bad += 1
        if self.meter.bad <= _MOST_COMPLAINTS:
            name = "the standard input" if isinstance(self._source, int) else self._source
            self.say(f"{name}, line {bad.line}: {bad.reason} It is left out.", sys.stderr)
        elif self.meter.bad == _MOST_COMPLAINTS + 1:
            self.say("Further bad lines are counted, and not shown.", sys.stderr)

    async def _count(self) -> None:
        """Find out how many tasks there are, beside the work."""
        total = await call_in_thread(self._counted, label="count")
        if total is not None:
            self.meter.total = total if self._args.limit is None else min(total, self._args.limit)

    def _counted(self) -> int | None:
        if isinstance(self._source, int) or not self._source.is_file():
            return None
        with suppress(OSError):  # whoever reads in earnest will say so
            return count_tasks(self._source, self._args.format)
        return None

    # --- Working ------------------------------------------------------------------------------

    async def work(self) -> None:
        """Do all tasks that are missing.

        Raises:
            AuthenticationError: The provider refuses the key.
            BadRequestError: The provider does not have the model.
        """
        counting = asyncio.create_task(self._count())
        async with self.crowd, self._shown():
            with self._obeying_signals():
                while results := await self.crowd.batch():
                    await self._keep(results)
            self.meter.note = ""
        counting.cancel()
        await asyncio.wait([counting])
        if self._refused is not None:
            raise self._refused

    async def _keep(self, results: list[MapResult]) -> None:
        if not self.crowd.progress.succeeded:
            # With a wrong key or model every task would fail, and that is no result of any of them.
            for result in filter(_is_refusal, results):
                self._refused = result.error
                self.crowd.stop()
            results = [result for result in results if not _is_refusal(result)]
        for result in results:
            if result.expected is not None:
                self._judged += 1
                self._right += same_answer(result.output, result.expected)
        await call_in_thread(partial(self._kept.write, results), label="results")

    # --- Ctrl-C -------------------------------------------------------------------------------

    @contextmanager
    def _obeying_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        with suppress(NotImplementedError):  # Windows: Ctrl-C stops at once there
            for number in _STOP:
                loop.add_signal_handler(number, self._interrupt)
        try:
            yield
        finally:
            with suppress(NotImplementedError):
                for number in _STOP:
                    loop.remove_signal_handler(number)

    def _interrupt(self) -> None:
        self.interrupted += 1
        if self.interrupted == 1:
            self.crowd.drain()
            in_flight = self.crowd.progress.in_flight
            self._note(
                f"Nothing new is started; {in_flight:,} in flight are finished. Ctrl-C again stops at once."
            )
        elif self.interrupted == 2:
            self._note("Stopped.")
            self.crowd.stop()
        else:
            # Something in flight does not let itself be stopped: whoever insists gets out all the same.
            raise KeyboardInterrupt

    def _note(self, text: str) -> None:
        self.meter.note = text
        if self._say_above is None:
            self.say(text, self._out)

    # --- Showing ------------------------------------------------------------------------------

    def say(self, text: str, stream: TextIO) -> None:
        """Write a line; above the board, if there is one on the same screen."""
        if self._say_above is not None and stream.isatty():
            self._say_above(text, markup=False, highlight=False)
        else:
            print(text, file=stream, flush=True)

    @asynccontextmanager
    async def _shown(self) -> AsyncIterator[None]:
        """Show the progress for as long as the work goes on: a board on a terminal, lines elsewhere."""
        if self._args.quiet:
            yield
            return
        if self._kept.repaired:
            self.say(
                f"{self._args.output}: a torn last line was taken off; its task is done again.", sys.stderr
            )
        showing = asyncio.create_task(self._board() if self._out.isatty() else self._lines())
        try:
            yield
        finally:
            showing.cancel()
            await asyncio.wait([showing])
            self._say_above = None

    async def _board(self) -> None:
        from rich.console import Console

        from manyhands.observe.board import Board

        console = Console(file=self._out, highlight=False)
        self._say_above = console.print
        title = f"manyhands map   {self._args.tasks} → {self._args.output}"
        await Board(self.meter, console, title).show()

    async def _lines(self) -> None:
        await asyncio.sleep(_FIRST_LINE_SECONDS)
        while True:
            self.say(progress_line(self.meter.read()), self._out)
            await asyncio.sleep(_PROGRESS_SECONDS)

    # --- The end ------------------------------------------------------------------------------

    def status(self) -> int:
        """Return the exit status."""
        if self.interrupted:
            return INTERRUPTED
        if self.meter.bad:
            return BAD_USAGE
        return FAILED if self.crowd.progress.failed or self._failed_before else OK

    def sum_up(self) -> None:
        """Say how it went."""
        if self._args.quiet:
            return
        for line in self._summary():
            print(line, file=self._out)

    def _summary(self) -> Iterator[str]:
        now = self.meter.read()
        kinds = f" ({counts(now.failures)})" if now.failures else ""
        parts = [f"{now.succeeded:,} succeeded", f"{now.failed:,} failed{kinds}"]
        if now.earlier:
            failed = f", {self._failed_before:,} of them failed" if self._failed_before else ""
            parts.append(f"{now.earlier:,} done before{failed}")
        if now.bad:
            parts.append(f"{now.bad:,} bad {'line' if now.bad == 1 else 'lines'}")
        if self.interrupted and now.total is not None:
            parts.append(f"{max(0, now.total - now.done):,} left, which the same command does next time")
        yield f"{'Interrupted' if self.interrupted else 'Done'}: {'; '.join(parts)}."
        if self._judged:
            yield f"Right answers: {self._right:,} of {self._judged:,}."
        done = now.succeeded + now.failed
        speed = f" ({done / now.elapsed:.1f} tasks/s)" if done and now.elapsed else ""
        yield (
            f"Time: {duration(now.elapsed)}{speed}. "
            f"Tokens: {now.input_tokens:,} in, {now.output_tokens:,} out."
        )
        if self._args.output != "-":
            yield f"Results: {self._args.output}"
        if self.crowd.used_up is not None:
            yield f"{self.crowd.used_up} With a larger budget, the same command does the rest."
            if self.crowd.progress.failures.keys() == {OUT_OF_BUDGET} and not self._failed_before:
                return
        if now.failed or self._failed_before:
            yield "To do the failed ones again, give the same command with --retry-failed."


def _budget(args: argparse.Namespace, agent: MultiStepAgent) -> Budget | None:
    """Return the budget of all runs together, ``None`` if there is none.

    Raises:
        CallerError: It is one of money, and nobody knows what the model costs.
    """
    kinds = ("tokens", "requests", "money", "seconds")
    limits = {kind: getattr(args, f"budget_{kind}") for kind in kinds}
    if all(limit is None for limit in limits.values()):
        return None
    from manyhands.limits.budget import Budget

    budget = Budget(**limits)
    try:
        budget.cost(agent.model.model_id, TokenUsage(1, 1))
    except KeyError as error:
        raise CallerError(f"--budget-money cannot be kept: {error.args[0]}") from error
    return budget


def _is_refusal(result: MapResult) -> bool:
    error = result.error
    return isinstance(error, AuthenticationError) or (
        isinstance(error, BadRequestError) and error.status == 404
    )
