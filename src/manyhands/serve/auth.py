"""Who may come in, whose runs they see, and how many they may have.

A server without tokens answers only programs on its own computer, and only under the names of that
computer: a web page that points its own name at 127.0.0.1 gets nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import secrets
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from manyhands.errors import CallerError, check_count
from manyhands.limits.bucket import Bucket
from manyhands.serve.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from starlette.requests import Request

TOKENS_VARIABLE = "MANYHANDS_SERVE_TOKENS"
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_SHORTEST_TOKEN = 16
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Token:
    """What lets a client in.

    Attributes:
        secret: The token itself; at least 16 characters.
        tenant: Whose runs it stands for. Several tokens may stand for one tenant.
        operator: Whether it sees the runs of all tenants, and the metrics.
        max_runs: Most runs of the tenant at once, waiting ones included; ``None`` for no limit.
        runs_per_minute: Most runs that the tenant may start in a minute; ``None`` for no limit.

    Raises:
        CallerError: It cannot be one.
    """

    secret: str = field(repr=False)
    tenant: str = "default"
    operator: bool = False
    max_runs: int | None = None
    runs_per_minute: int | None = None

    def __post_init__(self) -> None:
        if len(self.secret) < _SHORTEST_TOKEN or not _is_word(self.secret):
            raise CallerError(
                f"A token of tenant {self.tenant!r} has fewer than {_SHORTEST_TOKEN} characters, or such as "
                "cannot stand in a header. Make one with: python -c 'import secrets; "
                "print(secrets.token_urlsafe())'"
            )
        if not self.tenant:
            raise CallerError("A token needs a tenant with a name.")
        check_count("max_runs", self.max_runs)
        check_count("runs_per_minute", self.runs_per_minute)


def _is_word(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks.

    Attributes:
        tenant: Whose runs it stands for.
        operator: Whether it sees the runs of all.
        max_runs: Most runs of the tenant at once.
        rate: How many runs the tenant may still start.
    """

    tenant: str
    operator: bool
    max_runs: int | None = None
    rate: Bucket | None = field(default=None, repr=False, compare=False)

    def sees(self, tenant: str) -> bool:
        """Return whether what belongs to ``tenant`` is shown."""
        return self.operator or tenant == self.tenant

    def seconds_to_wait(self) -> float:
        """Return 0 and count one run, or the seconds until the tenant may start the next one."""
        if self.rate is None:
            return 0.0
        now = time.monotonic()
        wait = self.rate.wait_for(1, now)
        if wait <= 0:
            self.rate.take(1, now)
        return wait


class Doorkeeper:
    """Lets requests in.

    Args:
        tokens: What lets in; without any, only this computer is.
        open_to_all: Ask nothing: whoever stands in front has asked already.
    """

    def __init__(self, tokens: Iterable[Token] = (), *, open_to_all: bool = False) -> None:
        self._open = open_to_all
        self._anonymous = Principal("", operator=True)
        rates: dict[str, Bucket] = {}
        self._known = [(_digest(token.secret), _principal(token, rates)) for token in tokens]

    @property
    def tenants(self) -> set[str]:
        """The names of all tenants."""
        return {principal.tenant for _, principal in self._known}

    def admit(self, request: Request) -> Principal:
        """Return who asks.

        Raises:
            Problem: The request is not let in.
        """
        if self._known:
            return self._bearer(request.headers.get("authorization", ""))
        if not self._open:
            _refuse_strangers(request)
        return self._anonymous

    def _bearer(self, header: str) -> Principal:
        scheme, _, secret = header.partition(" ")
        digest = _digest(secret.strip())
        found: Principal | None = None
        for known, principal in self._known:
            # All are compared, so that the time tells nothing.
            if hmac.compare_digest(known, digest):
                found = principal
        if found is None or scheme.lower() != "bearer":
            raise Problem(
                401,
                "This needs a token: send the header 'Authorization: Bearer TOKEN'.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return found


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _principal(token: Token, rates: dict[str, Bucket]) -> Principal:
    rate = None
    if token.runs_per_minute is not None:
        per_minute = float(token.runs_per_minute)
        rate = rates.setdefault(token.tenant, Bucket(per_minute, per_minute, time.monotonic()))
    return Principal(token.tenant, token.operator, token.max_runs, rate)


# --- A server without tokens ------------------------------------------------------------------------


def _refuse_strangers(request: Request) -> None:
    """Let in only programs of this computer, and no web page of anybody else."""
    if not _is_local(request):
        raise Problem(
            401, "This server has no tokens, so it answers only its own computer. Start it with tokens."
        )
    host = request.headers.get("host", "")
    if _without_port(host) not in LOOPBACK_NAMES:
        raise Problem(421, "This server answers under the names localhost, 127.0.0.1 and [::1] only.")
    origin = request.headers.get("origin")
    if request.method not in _READING and origin is not None and urlsplit(origin).netloc != host:
        raise Problem(403, "Web pages of other sites may not use this server.")


def _is_local(request: Request) -> bool:
    if request.client is None:
        return True  # a socket in the file system, whose permissions say who may come
    try:
        return ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()


# --- Where tokens come from -------------------------------------------------------------------------


def read_tokens(file: str | None = None, environ: Mapping[str, str] = os.environ) -> list[Token]:
    """Return the tokens of a file, or else those of the environment variable ``MANYHANDS_SERVE_TOKENS``.

    Args:
        file: A TOML file with a table for each tenant, which holds ``token`` or ``tokens``, and perhaps
            ``operator``, ``max_runs`` and ``runs_per_minute``.
        environ: The environment. The variable holds ``TOKEN`` (which sees everything) or ``TENANT:TOKEN``,
            several with commas between them.

    Raises:
        CallerError: They cannot be read so.
    """
    if file is not None:
        return _tokens_of_file(Path(file))
    words = [word.strip() for word in environ.get(TOKENS_VARIABLE, "").split(",")]
    return [_token_of_word(word) for word in words if word]


def _token_of_word(word: str) -> Token:
    tenant, colon, secret = word.rpartition(":")
    return Token(secret, tenant) if colon else Token(secret, operator=True)


def _tokens_of_file(path: Path) -> list[Token]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CallerError(f"{path} is no TOML file: {error}") from None
    tokens = [token for tenant, table in tables.items() for token in _tokens_of_table(path, tenant, table)]
    if not tokens:
        raise CallerError(f"{path} holds no tokens.")
    return tokens


_KEYS = {"token": str, "tokens": list, "operator": bool, "max_runs": int, "runs_per_minute": int}


def _tokens_of_table(path: Path, tenant: str, table: Any) -> list[Token]:
    if not isinstance(table, dict):
        raise CallerError(f"{path}: {tenant!r} must be a table, such as [{tenant}], with a token in it.")
    for key, value in table.items():
        if key not in _KEYS:
            raise CallerError(f"{path}: [{tenant}] has {key!r}; known are {', '.join(_KEYS)}.")
        if type(value) is not _KEYS[key]:
            raise CallerError(f"{path}: {key!r} of [{tenant}] must be a {_KEYS[key].__name__}.")
    limits = {key: value for key, value in table.items() if not key.startswith("token")}
    secrets_of = [*([table["token"]] if "token" in table else ()), *table.get("tokens", ())]
    if not secrets_of or not all(isinstance(secret, str) for secret in secrets_of):
        raise CallerError(f"{path}: [{tenant}] needs a token, which is a text.")
    return [Token(secret, tenant, **limits) for secret in secrets_of]


def new_token() -> Token:
    """Return a fresh token that sees everything."""
    return Token(secrets.token_urlsafe(32), operator=True)
