"""Where a model is asked: address, headers, key, proxy, time limits. Settled once, before the first call.

The key lives in :class:`Secret`, so that no repr, dump or traceback shows it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit, urlunsplit

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait for what, in seconds; ``None`` is for ever.

    Attributes:
        connect: Until the connection stands.
        first_byte: From the request until the first byte of the answer: a plain reply is written
            whole before it is sent, so this is the longest time a reply may take.
        between_tokens: From one piece of a stream to the next.
        total: For the whole call.
    """

    connect: float | None = 10.0
    first_byte: float | None = 600.0
    between_tokens: float | None = 120.0
    total: float | None = 1800.0

    @property
    def reply(self) -> float | None:
        """Seconds for a reply that comes in one piece."""
        return min((limit for limit in (self.first_byte, self.total) if limit is not None), default=None)

    @classmethod
    def of(cls, value: Timeouts | float | Mapping[str, float | None] | None) -> Timeouts:
        """Return ``value`` as time limits: a number limits the whole call, a mapping names its limits."""
        if isinstance(value, cls):
            return value
        if value is None:
            return cls()
        if isinstance(value, (int, float)):
            return cls(min(10.0, value), value, value, value)
        return cls(**value)  # type: ignore[arg-type]


class Secret:
    """A text that shows itself only when asked by name."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


@dataclass(frozen=True, slots=True, repr=False)
class Endpoint:
    """One address that takes requests.

    Attributes:
        url: The whole address.
        headers: What to send along, without the key.
        secret_headers: What to send along and never to show.
        key: The key, to strike it out where a server repeats it.
        timeouts: Time limits.
        ssl: A context of the user's own, or ``False`` to trust any certificate.
        proxy: Address of the proxy to go through.
    """

    url: str
    headers: tuple[tuple[str, str], ...] = ()
    secret_headers: tuple[tuple[str, Secret], ...] = ()
    key: Secret | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)
    ssl: ssl.SSLContext | bool = True
    proxy: str | None = None

    @property
    def shown(self) -> str:
        """The address, for messages."""
        return public_url(self.url)

    def __repr__(self) -> str:
        return f"Endpoint({self.shown!r})"


def public_url(url: str) -> str:
    """Return an address without what may be secret in it: its user and its query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def joined_url(base: str, path: str, query: Mapping[str, Any] | None = None) -> str:
    """Return ``path`` below ``base``; the base may have a path, a query, or end in ``path`` already."""
    parts = urlsplit(base if "://" in base else f"https://{base}")
    whole = parts.path.rstrip("/")
    if not whole.endswith(path):
        whole += path
    queries = [parts.query, urlencode(query or {}, doseq=True)]
    return urlunsplit((parts.scheme, parts.netloc, whole, "&".join(filter(None, queries)), ""))


def environment_proxy(url: str) -> str | None:
    """Return the proxy that the environment names for ``url``, heeding ``NO_PROXY``."""
    # 30 ms, at the first call only.
    from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

    parts = urlsplit(url)
    proxies = getproxies_environment()
    if not proxies or proxy_bypass_environment(parts.hostname or "", proxies):
        return None
    return proxies.get(parts.scheme) or proxies.get("all")


def environment_ssl(url: str) -> ssl.SSLContext | bool:
    """Return the certificates to trust for ``url``: the system's, or those the environment names."""
    bundle = os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE")
    if not bundle or not url.startswith("https:"):
        return True
    import ssl

    folder = os.path.isdir(bundle)
    return ssl.create_default_context(cafile=None if folder else bundle, capath=bundle if folder else None)
