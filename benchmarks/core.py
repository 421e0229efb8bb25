"""What the framework costs, beside a loop written by hand that does the same HTTP calls.

::

    python benchmarks/core.py                    # everything: about eight minutes
    python benchmarks/core.py --quick            # smaller and fewer rounds
    python benchmarks/core.py --only step memory --json core.json

The provider is another process and costs next to nothing. Agents and floor take turns; the medians count.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import itertools
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import _floor
import _meter
import _server
import _sides
from _meter import Figure, Report, median

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

GOAL_CPU = {"tools": 2.0, "code": 2.5}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to do.

    Attributes:
        url: The server.
        kinds: The kinds of agent to measure.
        rounds: How often each side takes its turn.
        few: Agents of the smaller figures.
        many: Agents of the larger ones.
        most: Agents of the largest one.
        longest: Steps of the longest conversation.
    """

    url: str
    kinds: tuple[str, ...]
    rounds: int = 9
    few: int = 200
    many: int = 1000
    most: int = 5000
    longest: int = 1000


# --- CPU per step ----------------------------------------------------------------------------------


async def _in_turns(
    plan: Plan, kind: str, count: int, manner: str, rounds: int, *, ticker: bool = False
) -> dict[str, list[_meter.Spent]]:
    """Let floor and agents do the same work by turns; everything must come out right."""
    async with _floor.session() as session:
        sides: list[_sides.Side] = [_sides.Floor(kind, plan.url, session), _sides.Agents(kind, plan.url)]
        spent: dict[str, list[_meter.Spent]] = {"floor": [], "agents": []}
        for side in sides:
            await side.work(count, manner.replace("1.0", "0.2"))
        for first in range(count, count * (rounds + 1), count):
            for name, side in zip(spent, sides, strict=True):
                work = functools.partial(side.work, count, manner, first)
                turn = await _meter.spend(work, ticker=ticker)
                assert _sides.right(turn.results, first) == count, f"{side.name}: answers lost or mixed up"
                turn.results = None
                spent[name].append(turn)
    return spent


def _step_cpu(turns: list[_meter.Spent], count: int) -> float:
    """Return microseconds of CPU per step of runs of three."""
    return median([turn.cpu for turn in turns]) / (3 * count) * 1e6


async def step(plan: Plan, report: Report) -> None:
    """Measure the CPU of a step, and the wall of slow models."""
    for kind, (count, manner) in itertools.product(plan.kinds, ((plan.few, "0.05/3"), (plan.many, "1.0/3"))):
        rounds = 2 * plan.rounds if count == plan.few else max(3, plan.rounds // 2)
        spent = await _in_turns(plan, kind, count, manner, rounds)
        floor, agents = _step_cpu(spent["floor"], count), _step_cpu(spent["agents"], count)
        name = f"{kind} agent: CPU per step, {count:,} agents x 3 steps"
        made_of = f"{agents:.0f} µs, floor {floor:.0f} µs"
        report.add(Figure(name, agents / floor, "x floor", GOAL_CPU[kind], note=made_of))


async def wall(plan: Plan, report: Report) -> None:
    """Measure how long many agents take on a model that takes a second, and the loop's lag."""
    for kind in plan.kinds:
        spent = await _in_turns(plan, kind, plan.many, "1.0/3", max(3, plan.rounds // 2), ticker=True)
        floor, agents = (median([turn.wall for turn in spent[side]]) for side in ("floor", "agents"))
        name = f"{kind} agent: wall, {plan.many:,} agents x 3 steps, 1-s model"
        report.add(Figure(name, agents / floor, "x floor", 1.2, note=f"{agents:.2f} s, floor {floor:.2f} s"))
        lags = {side: median([turn.lag() for turn in turns]) * 1e3 for side, turns in spent.items()}
        lag = Figure("   loop lag, p99", lags["agents"], "ms", note=f"floor {lags['floor']:.1f} ms")
        report.add(lag)


# --- Memory ------------------------------------------------------------------------------------------


async def memory(plan: Plan, report: Report) -> None:
    """Measure what runs hold while they wait for their third reply."""
    for kind, count in itertools.product(plan.kinds, (plan.many, plan.most)):
        held, lost = {}, 0
        for side in ("floor", "agent"):
            probes = [_probe("memory", side, kind, plan.url, str(count)) for _ in range(3)]
            held[side] = median([probe["bytes_per_run"] for probe in probes]) / 1024
            lost += sum(count - int(probe["right"]) for probe in probes)
        traced = _probe("memory", "agent", kind, plan.url, str(count), "traced")["bytes_per_run"] / 1024
        name = f"{kind} agent: memory per run, {count:,} waiting"
        made_of = f"floor {held['floor']:.1f} KiB; Python's own account {traced:.1f} KiB"
        report.add(Figure(name, held["agent"], "KiB", 35, note=made_of))
        report.add(Figure("   answers lost or mixed up", lost, "", 0, note=f"of {6 * count:,}"))


def _probe(*arguments: str) -> dict[str, float]:
    found: dict[str, float] = _meter.fresh("_probes.py", *arguments)
    return found


async def construction(plan: Plan, report: Report) -> None:
    """Measure what one more agent costs."""
    for kind in plan.kinds:
        probe = _probe("construction", kind)
        name = f"{kind} agent: construction, one tool, shared model"
        report.add(Figure(name, probe["seconds"] * 1e6, "µs", 5))
        report.add(Figure("   memory", probe["bytes"] / 1024, "KiB", 2))


# --- Growth ------------------------------------------------------------------------------------------


def _clocked() -> tuple[list[float], Callable[[str], Awaitable[str]]]:
    """Return a tool that notes the CPU time of each call, and its notes."""
    times: list[float] = []

    async def look_up(key: str) -> str:
        """Look up what a key stands for.

        Args:
            key: The key that the task names.
        """
        times.append(time.process_time())
        return await _sides.look_up(key)

    return times, look_up


async def _grown(plan: Plan, kind: str, floor: _sides.Floor | None) -> list[float]:
    """Return the CPU time at each step of one long conversation."""
    times, look_up = _clocked()
    manner = f"0/{plan.longest}"
    if floor is not None:
        await floor.growing(manner, look_up)
    else:
        address = f"{plan.url}/{kind}/{manner}"
        await _sides.make_agent(kind, address, look_up, max_steps=plan.longest).arun(_sides.task(0))
    return times


def _at(times: list[float], step: int) -> float:
    """Return microseconds per step around ``step``."""
    half = max(4, step // 10)
    first, last = max(1, step - half), min(len(times) - 1, step + half)
    return (times[last] - times[first]) / (last - first) * 1e6


async def growth(plan: Plan, report: Report) -> None:
    """Measure how the CPU of a step grows with the conversation."""
    for kind in plan.kinds:
        notes: dict[str, list[list[float]]] = {"floor": [], "agents": []}
        async with _floor.session() as session:
            floor = _sides.Floor(kind, plan.url, session)
            for _ in range(max(3, plan.rounds // 2)):
                notes["floor"].append(await _grown(plan, kind, floor))
                notes["agents"].append(await _grown(plan, kind, None))
        for step in (10, 50, 200, plan.longest):
            cost = {side: median([_at(times, step) for times in rounds]) for side, rounds in notes.items()}
            name = f"{kind} agent: CPU per step, at step {step:,} of one run"
            made_of = f"{cost['agents']:.0f} µs, floor {cost['floor']:.0f} µs"
            goal = 1.5 if step == 200 else None
            report.add(Figure(name, cost["agents"] / cost["floor"], "x floor", goal, note=made_of))


# --- From nothing to the first answer --------------------------------------------------------------------

_FIRST_ANSWER = """
from manyhands import {agent}, Model, tool

@tool
def lookup(key: str) -> str:
    '''Look up what a key stands for.

    Args:
        key: The key.
    '''
    return "value of " + key

class Own(Model):
    async def agenerate(self, messages, stop_sequences=None):
        return {reply}

print({agent}([lookup], {model}, verbosity_level=-1).run("What does key-1 stand for?"))
"""
_CALL = '\'{"name": "final_answer", "arguments": {"answer": "value of key-1"}}\''
_CODE = "'<code>final_answer(lookup(\"key-1\"))</code>'"


def _life(code: str, times: int) -> tuple[float, float, str]:
    """Return the milliseconds and the CPU of a fresh interpreter for ``code``, and what it printed last."""
    taken, cpu, printed = [], [], ""
    for _ in range(times):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        begin = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        taken.append((time.perf_counter() - begin) * 1e3)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3)
        printed = done.stdout.strip().rpartition("\n")[2]
    return median(taken), median(cpu), printed


async def start(plan: Plan, report: Report) -> None:
    """Measure importing, and the way to the first answer in a fresh process."""
    bare, _, _ = _life("", plan.rounds)
    for name, code, goal in (
        ("import manyhands", "import manyhands", 100),
        ("   and its classes", "from manyhands import CodeAgent, OpenAIModel, ToolCallingAgent, tool", None),
    ):
        taken, cpu, _ = _life(code, plan.rounds)
        note = f"CPU {cpu:.0f} ms, all told; an empty program takes {bare:.0f} ms, which is taken off"
        report.add(Figure(name, taken - bare, "ms", goal, note=note))
    for kind in plan.kinds:
        agent, reply = ("CodeAgent", _CODE) if kind == "code" else ("ToolCallingAgent", _CALL)
        url = f"{plan.url}/{kind}/0/2/v1"
        models = {
            "own model": ("Own()", 250),
            "over HTTP": (f"__import__('manyhands').OpenAIModel('m', api_base='{url}', api_key='k')", None),
        }
        for words, (model, goal) in models.items():
            code = _FIRST_ANSWER.format(agent=agent, reply=reply, model=model)
            taken, cpu, printed = _life(code, plan.rounds)
            assert printed == _sides.answer(1), printed
            name = f"{kind} agent: fresh process to first answer, {words}"
            note = f"the whole life of the process; CPU {cpu:.0f} ms"
            report.add(Figure(name, taken, "ms", goal, note=note))


# --- Side by side -----------------------------------------------------------------------------------------


async def blocking(plan: Plan, report: Report) -> None:
    """Measure agents whose tool is sync and sleeps 200 ms."""
    for kind in plan.kinds:
        agents = _sides.Agents(kind, plan.url, fn=_sides.look_up_slowly)
        turns = []
        for _ in range(max(3, plan.rounds // 2)):
            turn = await _meter.spend(functools.partial(agents.work, 50, "0/2"), ticker=True)
            assert _sides.right(turn.results) == 50, "answers lost or mixed up"
            turns.append(turn)
        name = f"{kind} agent: 50 agents with a sync tool of 200 ms, 2 steps"
        report.add(Figure(name, median([turn.wall for turn in turns]), "s", 0.5))
        lags = [median([turn.lag(share) for turn in turns]) * 1e3 for share in (0.99, 1.0)]
        report.add(Figure("   loop lag, p99", lags[0], "ms", 20, note=f"longest {lags[1]:.1f} ms"))


async def speedup(plan: Plan, report: Report) -> None:
    """Measure ten agents with three calls of 200 ms, one after another and at once."""
    for kind in plan.kinds:
        agent = _sides.make_agent(kind, f"{plan.url}/{kind}/0.2/3")
        await agent.arun(_sides.task(0))
        begin = time.perf_counter()
        for number in range(10):
            await agent.arun(_sides.task(number))
        one_by_one = time.perf_counter() - begin
        taken = []
        for _ in range(plan.rounds):
            begin = time.perf_counter()
            await asyncio.gather(*(agent.arun(_sides.task(number)) for number in range(10)))
            taken.append(time.perf_counter() - begin)
        name = f"{kind} agent: 10 agents x 3 calls of 200 ms, at once"
        made_of = f"{one_by_one:.2f} s one after another, {median(taken):.3f} s at once"
        report.add(Figure(name, one_by_one / median(taken), "x faster", 9.5, at_least=True, note=made_of))


# --- The command --------------------------------------------------------------------------------------------

FIGURES: dict[str, Callable[[Plan, Report], Coroutine[Any, Any, None]]] = {
    "step": step,
    "wall": wall,
    "memory": memory,
    "growth": growth,
    "construction": construction,
    "start": start,
    "blocking": blocking,
    "speedup": speedup,
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller and fewer rounds")
    parser.add_argument("--only", nargs="+", choices=FIGURES, default=list(FIGURES), metavar="FIGURE")
    parser.add_argument("--kinds", nargs="+", choices=_sides.KINDS, default=None, help="kinds of agent")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    parser.add_argument("--markdown", action="store_true", help="print them once more, as Markdown")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a goal is missed")
    return parser.parse_args()


def _plan(url: str, given: argparse.Namespace) -> Plan:
    kinds = tuple(given.kinds or _sides.KINDS)
    if given.quick:
        return Plan(url, kinds, rounds=3, few=100, many=300, most=1000, longest=300)
    return Plan(url, kinds)


def main() -> int:
    """Measure and print; with ``--strict`` the exit status says whether every goal was reached."""
    given = _arguments()
    _meter.raise_file_limit()
    report = Report()
    with _server.server() as url:
        plan = _plan(url, given)
        for name in given.only:
            asyncio.run(FIGURES[name](plan, report))
    if given.json:
        report.write(given.json, quick=given.quick)
    if given.markdown:
        print("", *report.markdown(), sep="\n")
    missed = report.missed()
    print(f"\n{len(missed)} of {sum(f.goal is not None for f in report.figures)} goals missed.")
    return 1 if missed and given.strict else 0


if __name__ == "__main__":
    sys.exit(main())
