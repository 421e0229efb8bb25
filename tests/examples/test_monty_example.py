"""The example of code in Monty."""

from __future__ import annotations

from tests.examples.running import shown_by


def test_runs_wait_on_one_worker_and_what_monty_lacks_runs_elsewhere() -> None:
    assert shown_by("monty_code").splitlines() == [
        "50 runs waited for their people at once, on one worker. Allowed: {1}",
        "With generators, elsewhere: 6",
    ]
