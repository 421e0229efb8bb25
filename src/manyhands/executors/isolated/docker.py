"""The wall of containers: guests in Docker, or Podman, reached over their standard input and output only."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from manyhands._bridge import call_in_thread
from manyhands.errors import CallerError, check_count
from manyhands.executors.isolated.bundle import guest_command
from manyhands.executors.isolated.docker_address import find_engine
from manyhands.executors.isolated.docker_engine import EngineError, engine_at
from manyhands.executors.isolated.docker_images import Image, default_image
from manyhands.executors.isolated.docker_owner import LABEL, owner, reap
from manyhands.executors.isolated.executor import MAX_EXECUTION_TIME_SECONDS, IsolatedExecutor
from manyhands.executors.isolated.guest import EXIT_OUT_OF_MEMORY
from manyhands.executors.isolated.wall import Held, Isolation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from manyhands.executors.isolated.docker_engine import Attachment, Engine
    from manyhands.executors.isolated.docker_images import Found

_MB = 1024 * 1024
#: The working folder. An engine that finds one of that name in the image gives ours its mode, and one that
#: gets it as ``WorkingDir`` makes it first: so the name is a rare one, and the guest goes there by itself.
HOME = "/agent"
#: Seconds after which an engine is looked through again for containers that nobody owns.
_REAP_EVERY = 60.0
#: Seconds to wait for the engine to say how a container ended.
_LAST_WORDS = 3.0
#: The exit status of what was killed.
_KILLED = 137


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a container may use.

    Attributes:
        memory_mb: Most memory in MB, with what is in its folders.
        cpus: Most processors at a time.
        max_processes: Most processes and threads.
        max_open_files: Most files that a process may hold open.
        disk_mb: Most MB in its working folder, and as many in ``/tmp``; both are in memory.
        network: The engine's network that it is in; ``"none"`` for none.
        user: Numbers of the user and the group that it runs as.
        runtime: What runs containers, as the engine knows it; empty for its default.
    """

    memory_mb: int = 512
    cpus: float = 1.0
    max_processes: int = 64
    max_open_files: int = 1024
    disk_mb: int = 64
    network: str = "none"
    user: str = "65534:65534"
    runtime: str = ""

    def host_config(self, volumes: Sequence[str] = ()) -> dict[str, Any]:
        """Return the walls of the container, in the engine's words.

        Args:
            volumes: Folders that the image would have on the host's disk; they are in memory as well.
        """
        folder = f"rw,nosuid,nodev,mode=1777,size={self.disk_mb}m"
        config: dict[str, Any] = {
            "AutoRemove": True,
            "Init": True,
            "NetworkMode": self.network,
            "ReadonlyRootfs": True,
            "Tmpfs": dict.fromkeys(("/tmp", HOME, *volumes), folder),
            "ShmSize": 16 * _MB,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "PidsLimit": self.max_processes,
            "Memory": self.memory_mb * _MB,
            "MemorySwap": self.memory_mb * _MB,
            "NanoCpus": int(self.cpus * 1e9),
            "IpcMode": "private",
            "Ulimits": [
                _ulimit("nofile", self.max_open_files),
                _ulimit("core", 0),
                # Less than the container may use: so that Python says it is out of memory, and lives on.
                _ulimit("data", self.memory_mb * _MB // 8 * 7),
            ],
            # The engine would write all that a guest prints to the host's disk.
            "LogConfig": {"Type": "none"},
        }
        if self.network == "none":
            # Else the host's name servers can be read in there.
            config |= {"Dns": ["127.0.0.1"], "DnsSearch": ["."]}
        if self.runtime:
            config["Runtime"] = self.runtime
        return config


def _ulimit(name: str, most: int) -> dict[str, Any]:
    return {"Name": name, "Soft": most, "Hard": most}


class DockerWall:
    """Starts guests in containers.

    Args:
        image: What they are made of.
        bounds: What they may use.
        host: Where the engine is; ``None`` to look.
        python: The interpreter in the image.
        environment: Environment variables of the code.
    """

    name = "docker"

    def __init__(
        self,
        image: Image,
        bounds: Bounds,
        host: str | None = None,
        python: str = "python3",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.image = image
        self.bounds = bounds
        self.host = host
        self.python = python
        self._environment = {"HOME": HOME, "TMPDIR": "/tmp", "LANG": "C.UTF-8", **(environment or {})}
        self.memory_mb: int | None = bounds.memory_mb
        self._about: dict[str, Any] = {}

    async def start(self) -> ContainerChannel:
        """Start a guest in a container of its own.

        Raises:
            EngineError: There is no engine or no image, or the engine refuses.
        """
        engine = await self._engine()
        command = await call_in_thread(lambda: _command(self.python))
        whose = await call_in_thread(owner)
        for last in (False, True):
            name = f"manyhands-{os.getpid()}-{secrets.token_hex(6)}"
            found = await self.image.ready(engine)
            try:
                attachment = await engine.run(name, self._options(found, command, whose))
                return ContainerChannel(engine, name, attachment, self)
            except EngineError as error:
                # Somebody may have removed the image since it was found.
                if last or error.status != 404 or "image" not in error.message.lower():
                    raise self._explained(error) from error
                self.image.forget(engine)
        raise AssertionError("unreachable")

    async def _engine(self) -> Engine:
        engine = await engine_at(await call_in_thread(lambda: find_engine(self.host)))
        if not self._about:
            self._about = dict(await engine.ask("GET", "/info"))
        if engine.due("reap", _REAP_EVERY):
            engine.later(lambda: reap(engine))
        return engine

    def _options(self, found: Found, command: list[str], whose: str) -> dict[str, Any]:
        return {
            "Image": found.name,
            "Entrypoint": command,
            "Cmd": [],
            "User": self.bounds.user,
            "WorkingDir": "/",
            # In the host's network its name is the host's.
            "Hostname": "" if self.bounds.network == "host" else "guest",
            "Env": [f"{name}={value}" for name, value in self._environment.items()],
            "Labels": {LABEL: whose},
            "Healthcheck": {"Test": ["NONE"]},
            "OpenStdin": True,
            # With the connection ends the guest's stdin, and with that the guest.
            "StdinOnce": True,
            "AttachStdin": True,
            "AttachStdout": True,
            "AttachStderr": True,
            "HostConfig": self.bounds.host_config(found.volumes),
        }

    def _explained(self, error: EngineError) -> EngineError:
        text = error.message
        if self.python in text and ("executable file not found" in text or "no such file" in text):
            reason = self.no_python()
        else:
            reason = f"the container engine says: {error.message}"
        return EngineError(f"The docker sandbox did not start: {reason.rstrip('.')}.", status=error.status)

    def no_python(self) -> str:
        """Say that the image has no Python."""
        return (
            f"the image {self.image.tag!r} has no {self.python}: name an image with Python 3.9 or later, "
            f"such as {default_image()!r}, or the path of its interpreter with python=."
        )

    def isolation(self, facts: Mapping[str, Any]) -> Isolation:
        """Say what the wall holds off; before the first guest, what it would."""
        del facts
        return describe(self.bounds, self._about)

    async def aclose(self) -> None:
        """Wait until containers that are being removed are gone."""
        await (await engine_at(await call_in_thread(lambda: find_engine(self.host)))).settle()


# --- One container -------------------------------------------------------------------------------


class ContainerChannel:
    """The stdin and stdout of a guest in a container.

    Args:
        engine: Runs it.
        name: Its name there.
        attachment: What it says and hears.
        wall: Started it.
    """

    def __init__(self, engine: Engine, name: str, attachment: Attachment, wall: DockerWall) -> None:
        self._engine = engine
        self._name = name
        self._attachment = attachment
        self._wall = wall
        self._removing: asyncio.Task[None] | None = None
        self._was_heard = False

    async def send(self, data: bytes) -> None:
        """Hand ``data`` to the guest's stdin.

        Raises:
            OSError: The guest is gone.
        """
        await self._attachment.write(data)

    async def receive(self) -> bytes:
        """Wait for the next bytes of the guest's stdout; ``b""`` at the end."""
        data = await self._attachment.read()
        self._was_heard = self._was_heard or bool(data)
        return data

    async def kill(self) -> None:
        """End the container at once; return when it is gone."""
        # Who waits may be cancelled; the container goes all the same.
        await asyncio.shield(self._begin_to_remove())

    async def diagnose(self) -> str:
        """Say why the container ended."""
        starved = f"it ran out of memory (limit {self._wall.memory_mb} MB)"
        if self._name in self._engine.starved:
            self._engine.starved.discard(self._name)
            return starved
        if self._removing is not None:
            return "it was ended"
        try:
            status, out_of_memory = await self._end()
        except EngineError as error:
            return f"its container is out of reach: {error.message}"
        if out_of_memory or status == EXIT_OUT_OF_MEMORY:
            return starved
        said = self._attachment.errors.decode(errors="replace").strip()
        if status in (126, 127) and not self._was_heard:
            return self._wall.no_python()
        if status is None:
            return _with("it closed its output", said)
        if status == _KILLED:
            return _with(
                f"it was killed, by its own code or because memory ran out (limit {self._wall.memory_mb} MB)",
                said,
            )
        return _with(f"it exited with status {status}", said)

    async def _end(self) -> tuple[int | None, bool]:
        """Return the exit status, ``None`` while it runs, and whether memory ran out."""
        status: int | None = None
        try:
            async with asyncio.timeout(_LAST_WORDS):
                waited = await self._engine.ask("POST", f"/containers/{self._name}/wait", accept=(404,))
        except TimeoutError:
            # Podman does not always tell one who waits.
            about = await self._engine.ask("GET", f"/containers/{self._name}/json", accept=(404,))
            state = about["State"] if about else {}
            return None if state.get("Running") else state.get("ExitCode"), bool(state.get("OOMKilled"))
        if waited is not None:
            status = int(waited["StatusCode"])
        return (status, False) if status not in (None, _KILLED) else await self._remembered()

    async def _remembered(self) -> tuple[int | None, bool]:
        """Return the same from the engine's memory: a container is removed as soon as it has ended."""
        status: int | None = None
        out_of_memory = False
        filters = json.dumps({"container": [self._name]})
        events = self._engine.follow("GET", "/events", since="1", filters=filters)
        with contextlib.suppress(TimeoutError):
            async with contextlib.aclosing(events), asyncio.timeout(_LAST_WORDS / 3):
                async for event in events:
                    kind = event.get("Action")
                    out_of_memory = out_of_memory or kind == "oom"
                    if kind == "die":
                        status = int(event["Actor"]["Attributes"]["exitCode"])
                    if kind in ("destroy", "remove"):
                        break
        return status, out_of_memory and status is not None

    def abandon(self) -> None:
        """Begin to end the container, from any thread."""
        self._attachment.hang_up()
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it all its containers
            self._engine.loop.call_soon_threadsafe(self._begin_to_remove)

    def _begin_to_remove(self) -> asyncio.Task[None]:
        if self._removing is None:
            self._removing = self._engine.later(lambda: self._engine.remove(self._name))
        return self._removing


def _command(python: str) -> list[str]:
    *start, script = guest_command(python)
    return [*start, f"import os;os.chdir({HOME!r});{script}"]


def _with(what: str, said: str) -> str:
    return f"{what}: {said[-500:]}" if said else what


# --- What it holds off ---------------------------------------------------------------------------


def describe(bounds: Bounds, about: Mapping[str, Any]) -> Isolation:
    """Return what containers within ``bounds`` hold off.

    Args:
        bounds: What they may use.
        about: What the engine says of itself; empty where it was not asked yet.
    """

    def can(name: str) -> bool:
        return bool(about.get(name, True))

    security = [str(option) for option in about.get("SecurityOptions") or ()]
    filtered = not about or any("seccomp" in option and "unconfined" not in option for option in security)
    return Isolation(
        wall="docker",
        processes=Held(can("PidsLimit"), f"own processes, at most {bounds.max_processes}")
        if can("PidsLimit")
        else Held(False, "own processes; this engine does not bound their number"),
        memory=Held(True, f"at most {bounds.memory_mb} MB, {'no' if can('SwapLimit') else 'and'} swap")
        if can("MemoryLimit")
        else Held(False, "this engine does not bound memory"),
        files=Held(
            True, f"the image's, read-only; {bounds.disk_mb} MB each in {HOME} and /tmp, gone at the end"
        ),
        network=Held(True, "none but its own loopback")
        if bounds.network == "none"
        else Held(False, f"the engine's network {bounds.network!r}"),
        syscalls=Held(True, "no capabilities, no new privileges, the engine's seccomp filter")
        if filtered
        else Held(False, "no capabilities, no new privileges; this engine has no seccomp filter"),
    )


# --- The executor --------------------------------------------------------------------------------


class DockerExecutor(IsolatedExecutor):
    """Runs code in containers of Docker, or of Podman in its place.

    The engine is reached over its socket, the code over the container's standard input and output: no port
    is opened, and without ``network`` the container has none. Of this computer it has
    nothing but the image.

    Args:
        additional_authorized_imports: See :class:`IsolatedExecutor`.
        max_print_outputs_length: See :class:`IsolatedExecutor`.
        additional_functions: See :class:`IsolatedExecutor`.
        timeout_seconds: See :class:`IsolatedExecutor`.
        image: Name of an image with Python 3.9 or later, taken as it is; by default one that is built on the
            official image of the version that runs here. What the engine does not have it pulls.
        packages: What pip installs into the image, as ``"numpy>=2"``; built once, and kept in the engine.
        dockerfile: Text of a Dockerfile to build instead; it can copy no files of this computer.
        host: Where the engine is, as ``unix:///path`` or ``tcp://host:port``; by default what
            ``DOCKER_HOST`` says, or the first socket of Docker or Podman that is there.
        memory_mb: Most memory of a container in MB, with the files that it writes.
        cpus: Most processors of a container at a time.
        disk_mb: Most MB that the code may write to its working folder, and as many to ``/tmp``; nothing
            else can be written, and all of it is gone when the run is.
        max_processes: Most processes and threads of a container.
        max_open_files: Most files that a process of the code may hold open.
        network: ``True`` for the engine's default network, or the name of one of its networks.
        environment: Environment variables for the code; it sees those of the image and no others.
        user: Numbers of the user and group that the code runs as, not those of root.
        runtime: What runs containers, as the engine knows it, such as ``"runsc"``.
        python: The interpreter in the image.
        **options: ``restrict_imports``, ``max_workers``, ``warm_workers``, ``keep_seconds``,
            ``grace_seconds`` and ``max_message_mb`` of :class:`IsolatedExecutor`.
    """

    def __init__(
        self,
        additional_authorized_imports: Iterable[str] = (),
        max_print_outputs_length: int | None = None,
        additional_functions: Mapping[str, Callable[..., Any]] | None = None,
        timeout_seconds: float | None = MAX_EXECUTION_TIME_SECONDS,
        *,
        image: str | None = None,
        packages: Iterable[str] = (),
        dockerfile: str | None = None,
        host: str | None = None,
        memory_mb: int = 512,
        cpus: float = 1.0,
        disk_mb: int = 64,
        max_processes: int = 64,
        max_open_files: int = 1024,
        network: bool | str = False,
        environment: Mapping[str, str] | None = None,
        user: str = "65534:65534",
        runtime: str = "",
        python: str = "python3",
        **options: Any,
    ) -> None:
        for old, new in _OLD_NAMES.items():
            if old in options:
                raise CallerError(f"DockerExecutor has no parameter {old}: {new}.")
        bounds = Bounds(
            memory_mb=_checked_bound("memory_mb", memory_mb),
            cpus=_checked_cpus(cpus),
            max_processes=_checked_bound("max_processes", max_processes),
            max_open_files=_checked_bound("max_open_files", max_open_files),
            disk_mb=_checked_bound("disk_mb", disk_mb),
            network=("bridge" if network else "none") if isinstance(network, bool) else network,
            user=_checked_user(user),
            runtime=runtime,
        )
        wall = DockerWall(
            _checked_image(image, packages, dockerfile, python), bounds, host, python, environment
        )
        super().__init__(
            wall,
            additional_authorized_imports,
            max_print_outputs_length,
            additional_functions,
            timeout_seconds,
            **options,
        )


# What smolagents' executor takes, and what there is in its place.
_OLD_NAMES = {
    "image_name": "image= names the image",
    "dockerfile_content": "dockerfile= is the text of a Dockerfile",
    "build_new_image": "an image is built where it has to be",
    "container_run_kwargs": "limits, network, environment, user and runtime are parameters of their own",
    "port": "no port is used",
}


def _checked_image(image: str | None, packages: Iterable[str], dockerfile: str | None, python: str) -> Image:
    if isinstance(packages, str):
        raise CallerError(f"packages is a list, such as [{packages!r}].")
    if dockerfile is not None and (image is not None or packages):
        raise CallerError("dockerfile says all of an image: name the image and install the packages in it.")
    name = default_image() if image is None else image
    wanted = tuple(packages)
    # An image that is named and complete is taken as it is.
    return Image(name, wanted, dockerfile or "", compiled=image is None or bool(wanted), python=python)


def _checked_bound(name: str, value: int) -> int:
    count = check_count(name, value)
    if count is None:
        raise CallerError(f"{name} must be a number: a container without bounds is no wall.")
    return count


def _checked_user(user: str) -> str:
    if re.fullmatch(r"[0-9]+(:[0-9]+)?", user) is None:
        raise CallerError(f"user is a number, or two for user and group, such as '1000:1000', not {user!r}.")
    if int(user.partition(":")[0]) == 0:
        raise CallerError("user 0 is root, as which code that a model wrote never runs here.")
    return user


def _checked_cpus(cpus: float) -> float:
    if isinstance(cpus, bool) or not isinstance(cpus, int | float) or not 0.01 <= cpus < 1e6:
        raise CallerError(f"cpus must be a number from 0.01 on, not {cpus!r}.")
    return float(cpus)
