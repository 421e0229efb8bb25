"""A provider without a key: a real HTTP server that speaks the OpenAI chat-completions format.

::

    async with SimulatedProvider(latency=0.2) as provider:          # on the running loop
        model = OpenAIModel("simulated", api_base=provider.base_url, api_key="any")

    with SimulatedProvider(faults={"500": 0.02}) as provider:       # on a thread of its own
        ...

By default it solves arithmetic and look-up tasks by writing code or calling tools, as a model would. It never
works out an answer itself: what it says is what the agent's code or tools have shown it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections import deque
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from manyhands.testing.desk import Desk, Stats
from manyhands.testing.faults import FaultPlan, Faults, Latency, latency_source
from manyhands.testing.quota import Quota
from manyhands.testing.solver import solve
from manyhands.testing.wire import Call, ChatRequest, Reply, WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from manyhands.testing.desk import Policy

__all__ = ["Call", "ChatRequest", "Reply", "SimulatedProvider", "Stats", "WireError"]

_LARGEST_BODY = 64 * 2**20
# As many connections as may arrive in one turn of the loop; the kernel lowers it to its own limit.
_BACKLOG = 8192


class SimulatedProvider:
    """A simulated provider of language models.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one and keeps it over a restart.
        latency: Seconds until the first byte of an answer: a number, a range ``(low, high)``, a function of
            a ``random.Random``, or text such as ``"lognormal:0.5,0.4"`` (mean in seconds, sigma).
        tokens_per_second: Speed at which an answer is written; a plain answer comes when all of it is.
        requests_per_minute: Rate limit for each key.
        tokens_per_minute: Rate limit of prompt and completion tokens for each key.
        burst: Seconds of these rates that a key can save up.
        faults: Rates by kind (``"429"``, ``"500"``, ``"503"`` or another status, ``"reset"``, ``"stall"``,
            ``"truncate"``, ``"freeze"``, ``"bad_json"``, ``"drip"``), the same as text
            (``"500=0.02,reset=0.01"``), or a sequence that says what each request in turn meets
            (``["429", None, "reset"]``).
        seed: Makes faults and latency repeatable.
        policy: Says what to reply; sync or async. Without one, tasks are solved as described above.
        api_key: The key, or the keys, that are let in; without it any client is.
        models: Models on offer; without them every name is answered.
        retry_after: Seconds that an injected 429 or 503 asks the client to wait.
        drip_seconds: How long a dripped answer takes.
        record: How many of the latest requests to keep in :attr:`received`.

    Raises:
        ValueError: If a setting makes no sense; the message says which.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        latency: Latency = 0.0,
        tokens_per_second: float | None = None,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        burst: float = 60.0,
        faults: Faults | None = None,
        seed: int = 0,
        policy: Policy | None = None,
        api_key: str | Iterable[str] | None = None,
        models: Iterable[str] | None = None,
        retry_after: float = 1.0,
        drip_seconds: float = 2.0,
        record: int = 0,
    ) -> None:
        if tokens_per_second is not None and not tokens_per_second > 0:
            raise ValueError(f"tokens_per_second is {tokens_per_second}; it must be above 0.")
        self.host = host
        self.port = port
        self.received: deque[ChatRequest] = deque(maxlen=record)
        self._desk = Desk(
            policy=policy or solve,
            latency=latency_source(latency, seed),
            quota=Quota(requests_per_minute, tokens_per_minute, burst),
            faults=FaultPlan(faults, seed),
            tokens_per_second=tokens_per_second,
            api_keys=frozenset([api_key] if isinstance(api_key, str) else api_key or ()),
            models=tuple(models or ()),
            retry_after=retry_after,
            drip_seconds=drip_seconds,
            stats=Stats(),
            observe=self.received.append if record else None,
        )
        self._runner: web.ServerRunner | None = None
        self._thread: _ServerThread | None = None

    def __repr__(self) -> str:
        state = "running" if self._runner else "stopped"
        return f"<SimulatedProvider {self.base_url} {state}>"

    @property
    def stats(self) -> Stats:
        """Live figures: requests, statuses, peak in flight, tokens, faults."""
        return self._desk.stats

    @property
    def base_url(self) -> str:
        """Where clients send their requests: ``http://127.0.0.1:PORT/v1``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/v1"

    async def __aenter__(self) -> Self:
        await self.astart()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.astop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def astart(self) -> None:
        """Start serving on the running loop.

        Raises:
            OSError: If the port is taken.
            RuntimeError: If it is running already.
        """
        if self._runner is not None:
            raise RuntimeError(f"{self!r} has been started already.")
        server = web.Server(
            self._desk.handle,
            request_factory=partial(_request, asyncio.get_running_loop()),
            # A client that leaves ends its request here too: a stalled one would stay for ever.
            handler_cancellation=True,
            access_log=None,
        )
        runner = self._runner = web.ServerRunner(server)
        try:
            await runner.setup()
            await web.TCPSite(runner, self.host, self.port, backlog=_BACKLOG).start()
        except BaseException:
            self._runner = None
            await runner.cleanup()
            raise
        self.port = runner.addresses[0][1]

    async def astop(self) -> None:
        """Stop serving at once: open requests are cut off, and nothing is left behind."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        for site in list(runner.sites):
            await site.stop()
        # Not asked to finish: a stalled request never would. Its handler is cancelled with its connection.
        for connection in runner.server.connections if runner.server else ():
            if connection.transport is not None:
                connection.transport.abort()
        await runner.cleanup()

    def start(self) -> None:
        """Start serving on a thread of its own; returns when it accepts requests.

        Raises:
            OSError: If the port is taken.
            RuntimeError: If it is running already.
        """
        if self._thread is not None:
            raise RuntimeError(f"{self!r} has been started already.")
        thread = _ServerThread(self)
        thread.start()
        thread.ready.result()
        self._thread = thread

    def stop(self) -> None:
        """Stop what :meth:`start` started, and wait for its thread to end."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.end()

    async def serve(self, on_ready: Callable[[SimulatedProvider], None] | None = None) -> None:
        """Serve on the running loop until cancelled.

        Args:
            on_ready: Called once requests are accepted.
        """
        async with self:
            if on_ready is not None:
                on_ready(self)
            await asyncio.get_running_loop().create_future()

    def run_forever(self, on_ready: Callable[[SimulatedProvider], None] | None = None) -> Stats:
        """Serve until Ctrl-C or SIGTERM; the body of a command.

        Args:
            on_ready: Called once requests are accepted, to tell the user the address.

        Returns:
            The final figures.
        """
        # Without a way to add signal handlers (Windows), Ctrl-C comes as an exception.
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(self._serve_until_signal(on_ready))
        return self.stats

    async def _serve_until_signal(self, on_ready: Callable[[SimulatedProvider], None] | None) -> None:
        loop = asyncio.get_running_loop()
        serving = asyncio.create_task(self.serve(on_ready))
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, serving.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await serving


class _ServerThread(threading.Thread):
    """Runs a provider on a loop of its own until told to end."""

    def __init__(self, provider: SimulatedProvider) -> None:
        super().__init__(name="manyhands-simulated-provider", daemon=True)
        self.ready: Future[None] = Future()
        self._provider = provider
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()

    def run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            await self._provider.astart()
        except BaseException as error:
            self.ready.set_exception(error)
            return
        try:
            self.ready.set_result(None)
            await self._ended.wait()
        finally:
            await self._provider.astop()

    def end(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._ended.set)
        self.join()


def _request(
    loop: asyncio.AbstractEventLoop,
    message: Any,
    payload: Any,
    protocol: Any,
    writer: Any,
    task: asyncio.Task[None],
) -> web.BaseRequest:
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=_LARGEST_BODY)
