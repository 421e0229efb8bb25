"""Where a container engine answers: as told, as the environment says, or where it usually does."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from manyhands.errors import CallerError

if TYPE_CHECKING:
    from collections.abc import Mapping

_PLACES = (
    "/var/run/docker.sock",
    "{runtime}/docker.sock",
    "{home}/.docker/run/docker.sock",
    "{home}/.docker/desktop/docker.sock",
    "{home}/.colima/default/docker.sock",
    "{home}/.orbstack/run/docker.sock",
    "{runtime}/podman/podman.sock",
    "/run/podman/podman.sock",
)


@dataclass(frozen=True)
class Address:
    """Where an engine answers.

    Attributes:
        path: Its Unix socket, or empty.
        host: Its host, where it has no socket here.
        port: Its port there.
        certificates: Folder with ``ca.pem``, ``cert.pem`` and ``key.pem`` for TLS, or empty.
    """

    path: str = ""
    host: str = ""
    port: int = 0
    certificates: str = ""

    def __str__(self) -> str:
        return f"unix://{self.path}" if self.path else f"tcp://{self.place}"

    @property
    def place(self) -> str:
        """Host and port as URLs have them."""
        if self.path:
            return "engine"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def tls(self) -> ssl.SSLContext | None:
        """Return what TLS needs, read from the files; ``None`` where there is no TLS."""
        if not self.certificates:
            return None
        folder = Path(self.certificates)
        try:
            context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
            context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        except (OSError, ssl.SSLError) as error:
            raise CallerError(
                f"The engine at {self} wants TLS, and the certificates in {folder} cannot be used: {error}. "
                "DOCKER_CERT_PATH names the folder with ca.pem, cert.pem and key.pem."
            ) from error
        return context


def find_engine(host: str | None = None, environment: Mapping[str, str] = os.environ) -> Address:
    """Return where the engine is: as told, as ``DOCKER_HOST`` says, or the first socket that is there.

    Args:
        host: ``unix:///path`` or ``tcp://host:port``.
        environment: The environment to look into.

    Raises:
        CallerError: The address is of a kind that cannot be used.
    """
    host = host or environment.get("DOCKER_HOST")
    if host:
        return _parsed(host, environment)
    home = environment.get("HOME", "")
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    places = [
        place.format(home=home, runtime=runtime)
        for place in _PLACES
        if (home or "{home}" not in place) and (runtime or "{runtime}" not in place)
    ]
    return Address(path=next((place for place in places if os.path.exists(place)), places[0]))


def _parsed(host: str, environment: Mapping[str, str]) -> Address:
    if host.startswith("/"):
        return Address(path=host)
    try:
        parts = urlsplit(host)
        port = parts.port
    except ValueError as error:
        raise CallerError(f"{host!r} is no address of a container engine: {error}.") from error
    if parts.scheme == "unix" and parts.path:
        return Address(path=parts.netloc + parts.path)
    if parts.scheme in ("tcp", "http", "https") and parts.hostname:
        secure = parts.scheme == "https" or bool(environment.get("DOCKER_TLS_VERIFY"))
        home = environment.get("HOME", "~")
        folder = environment.get("DOCKER_CERT_PATH") or f"{home}/.docker"
        return Address(
            host=parts.hostname,
            port=port or (2376 if secure else 2375),
            certificates=folder if secure else "",
        )
    hint = ""
    if parts.scheme == "ssh":
        hint = " Forward the socket (ssh -L /tmp/docker.sock:/var/run/docker.sock host) and name that."
    raise CallerError(
        f"{host!r} is no address of a container engine that can be used here: unix:///path/to/docker.sock or "
        f"tcp://host:port.{hint}"
    )
