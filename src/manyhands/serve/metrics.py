"""Figures of a server in the text format of Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Iterator, Mapping

    from manyhands.serve.auth import Principal
    from manyhands.serve.service import Service

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Sample = tuple["Mapping[str, object]", float]


def exposition(service: Service, principal: Principal, answers: Counter[tuple[str, str, int]]) -> str:
    """Return all figures.

    Args:
        service: The service.
        principal: Who asks.
        answers: Answers by method, path and status.
    """
    families = [*_runs(service, service.fleet(principal).dict(0)), *_requests(service, answers)]
    return "".join(line for family in families for line in _family(*family))


Family = tuple[str, str, str, "Iterable[Sample]"]


def _runs(service: Service, fleet: dict[str, Any]) -> Iterator[Family]:
    store, settings = service.store, service.settings
    runs = fleet["runs"]
    ended = [({"outcome": name}, runs[name]) for name in ("succeeded", "failed", "cancelled")]
    failures = [({"kind": kind}, count) for kind, count in fleet["failures"].items()]
    waiting = [({"for": what}, count) for what, count in fleet["waiting_on"].items()]
    tokens = [({"kind": kind}, fleet["tokens"][kind]) for kind in ("input", "output", "cached")]
    refused = [({"reason": reason}, count) for reason, count in store.refused.items()]
    yield (
        "runs_started_total",
        "counter",
        "Runs that began, those of managed agents included.",
        _one(runs["started"]),
    )
    yield "runs_ended_total", "counter", "Runs that ended, by outcome.", ended
    yield "run_failures_total", "counter", "Runs that failed, by kind.", failures
    yield "runs_in_flight", "gauge", "Runs by what they do or wait for.", waiting
    yield "runs_running", "gauge", "Runs at work that hold a slot of the server.", _one(store.running)
    yield "runs_queued", "gauge", "Runs that wait for a slot of the server.", _one(store.queued)
    yield "runs_max", "gauge", "Slots of the server.", _one(settings.max_runs)
    yield "runs_refused_total", "counter", "Runs that were refused, by reason.", refused
    yield "model_calls_total", "counter", "Questions to models.", _one(fleet["model_calls"])
    yield "tool_calls_total", "counter", "Calls of tools.", _one(fleet["tool_calls"])
    yield "retries_total", "counter", "Calls that were tried again.", _one(fleet["retries"])
    yield "tokens_total", "counter", "Tokens, by kind; cached ones are among the input.", tokens
    if fleet["money"] is not None:
        yield (
            "cost_dollars_total",
            "counter",
            "What models cost, as far as prices are known.",
            _one(fleet["money"]),
        )


def _requests(service: Service, answers: Counter[tuple[str, str, int]]) -> Iterator[Family]:
    counted = [
        ({"method": method, "path": path, "status": status}, count)
        for (method, path, status), count in sorted(answers.items())
    ]
    yield "http_requests_total", "counter", "Requests that were answered.", counted
    yield "draining", "gauge", "Whether the server is about to stop.", _one(int(service.store.draining))


def _one(value: float) -> list[Sample]:
    return [({}, value)]


def _family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> Iterator[str]:
    yield f"# HELP manyhands_{name} {text}\n# TYPE manyhands_{name} {kind}\n"
    for labels, value in samples:
        inside = ",".join(f'{key}="{_escaped(str(label))}"' for key, label in labels.items())
        yield f"manyhands_{name}{{{inside}}} {value!r}\n" if inside else f"manyhands_{name} {value!r}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
