"""``manyhands simulate``: a provider without a key, until Ctrl-C."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manyhands.cli import OK
from manyhands.errors import CallerError
from manyhands.testing.simulated import SimulatedProvider

if TYPE_CHECKING:
    import argparse


def execute(args: argparse.Namespace) -> int:
    """Serve, and say afterwards what was served."""
    try:
        provider = SimulatedProvider(
            host=args.host,
            port=args.port,
            latency=args.latency,
            tokens_per_second=args.tokens_per_second,
            requests_per_minute=args.rpm,
            tokens_per_minute=args.tpm,
            burst=args.burst,
            faults=args.faults,
            seed=args.seed,
            api_key=args.api_key,
            models=[name for name in args.models.split(",") if name],
            retry_after=args.retry_after,
        )
    except ValueError as error:
        raise CallerError(str(error)) from error
    stats = provider.run_forever(_announce)
    print(
        f"\n{stats.requests:,} requests, at most {stats.peak_in_flight:,} at once; "
        f"{stats.prompt_tokens:,} tokens in, {stats.completion_tokens:,} out.",
        flush=True,
    )
    return OK


def _announce(provider: SimulatedProvider) -> None:
    url = provider.base_url
    print(f"Simulated provider at {url} (Ctrl-C ends it; figures at {url.removesuffix('/v1')}/stats)")
    print(f'Try: manyhands run "What is 17 * 23?" --model any --api-base {url} --api-key any', flush=True)
