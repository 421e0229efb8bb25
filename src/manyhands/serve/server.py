"""Running the app with uvicorn: what is served where, and an end that lets runs finish."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import logging
import signal
import socket
from typing import TYPE_CHECKING, Any

import uvicorn

from manyhands.errors import CallerError
from manyhands.serve.app import create_app
from manyhands.serve.auth import new_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import FrameType

    from starlette.applications import Starlette

    from manyhands.agents import MultiStepAgent
    from manyhands.serve.auth import Token
    from manyhands.serve.settings import Settings

logger = logging.getLogger("manyhands.serve")

# Seconds for answers that are still being sent when all runs have ended.
_LAST_WORDS = 5
_BACKLOG = 4096
# New objects after which the garbage collector looks at the youngest; Python's own is 700 or 2,000.
_COLLECT_AFTER = 10_000


def serve(
    agents: MultiStepAgent | Iterable[MultiStepAgent] | Mapping[str, MultiStepAgent],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    tokens: Iterable[Token] = (),
    settings: Settings | None = None,
    on_ready: Callable[[str, Token | None], None] | None = None,
) -> None:
    """Serve agents until SIGINT or SIGTERM; then let runs finish within ``settings.drain_seconds``.

    Beyond this computer nobody comes in without a token: where none is given, one is made.

    Args:
        agents: One agent, several, or a mapping from name to agent.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        tokens: What lets clients in.
        settings: Limits of the server.
        on_ready: Called with the address, and with the token where one was made.

    Raises:
        CallerError: The agents cannot be served.
        OSError: The address cannot be listened on.
    """
    tokens = list(tokens)
    made = new_token() if not tokens and not is_loopback(host) else None
    app = create_app(agents, tokens=[made] if made is not None else tokens, settings=settings)
    with _listening(host, port) as listener:
        server = Server(app, on_ready=lambda: on_ready(_address(listener), made) if on_ready else None)
        with _rare_collections():
            server.run([listener])


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """Have the garbage collector look less often, because all streams stand still while it does.

    What is there now stays. Runs leave no circles, and a burst of them is no reason to look through all.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def is_loopback(host: str) -> bool:
    """Return whether only this computer can reach what listens on ``host``."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


@contextlib.contextmanager
def _listening(host: str, port: int) -> Any:
    if not 0 <= port < 65536:
        raise CallerError(f"There is no port {port}.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise CallerError(f"{host!r} is no address of this computer: {error}") from None
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise OSError(error.errno, f"{host}:{port} cannot be listened on: {error.strerror}") from None
        yield listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Uvicorn, except that a signal first lets runs finish; a second one ends them.

    Args:
        app: The app.
        on_ready: Called when requests are accepted.
    """

    def __init__(self, app: Starlette, on_ready: Callable[[], None] | None = None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                backlog=_BACKLOG,
                timeout_graceful_shutdown=_LAST_WORDS,
                # Who asks is who is connected: anybody can write a header.
                proxy_headers=False,
                ws="none",
                # The other parser takes headers without an end.
                http="h11",
            )
        )
        self._service = app.state.service
        self._on_ready = on_ready
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started and self._on_ready is not None:
            self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal: the first drains, the second cancels."""
        if self._loop is None or self._loop.is_closed():
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self._stop, sig)

    def _stop(self, sig: int) -> None:
        if self._draining is None:
            logger.warning("%s: runs may finish, new ones are refused", signal.Signals(sig).name)
            self._draining = asyncio.get_running_loop().create_task(self._drain())
        else:
            self._service.store.cancel_all("the server was told to stop at once")

    async def _drain(self) -> None:
        cancelled = await self._service.store.drain(self._service.settings.drain_seconds)
        if cancelled:
            logger.warning("%s runs were cancelled", cancelled)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, and end everything."""
        await super().shutdown(sockets)
        if self._draining is not None:
            await self._draining
