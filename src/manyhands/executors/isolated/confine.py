"""What a guest process does to itself before it runs any code: it gives up whatever it does not need.

Runs in the guest's process, stage by stage, each of which may be missing on a machine and says so: a
supervisor that ends with the host, namespaces, a root of its own with nothing of the host but the
interpreter, a user of its own, limits on resources, and a filter on calls of the kernel. Everything is done
with calls of the C library, so that nothing has to be installed.

Runs on Python 3.9 and later with nothing but the standard library.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import suppress
from typing import Any

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from manyhands.executors.isolated import kernel

_IS_LINUX = sys.platform.startswith("linux")
#: User ids of guests of a host that is root: this and the number of the process.
_FIRST_USER = 3_000_000_000
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_SETTINGS = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/etc/mime.types")
#: Seconds between looks at the memory of all processes of a guest.
_LOOK_SECONDS = 0.5
#: The status of a guest that was ended since its processes took too much memory together.
EXIT_OUT_OF_MEMORY = 77
_DEVICES = ("null", "zero", "full", "random", "urandom")


def confine(plan: dict[str, Any]) -> dict[str, Any]:
    """Confine this process as far as ``plan`` asks and the machine allows; return what was reached.

    The process is forked on the way: the child comes back from this function, the parent watches over it.

    Args:
        plan: Limits and paths, as :class:`~.process.ProcessWall` makes them.
    """
    facts: dict[str, Any] = {"problems": {}}
    wanted = plan["namespaces"] and _IS_LINUX
    is_root = hasattr(os, "getuid") and os.getuid() == 0
    if wanted:
        _stage(facts, "namespaces", lambda: _unshare(plan, is_root))
    if _IS_LINUX:
        with suppress(OSError):
            kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    child = os.fork()
    if child:
        _supervise(child, plan)
    if facts.get("namespaces"):
        os.setsid()  # what it signals to its group must not reach the supervisor
        _stage(facts, "files", lambda: _own_root(plan))
        if facts["files"] or not is_root:  # another user could not read the interpreter of root
            _stage(facts, "user", lambda: _give_up_rights(is_root))
    _go_home(plan, facts)
    _limit(plan, facts)
    if _IS_LINUX:
        _restrict(plan, facts, is_root)
    facts["network"] = bool(plan["network"])
    return facts


def _go_home(plan: dict[str, Any], facts: dict[str, Any]) -> None:
    """Work in a directory that goes with the guest."""
    home = "/tmp" if facts.get("files") else plan["work"]
    if not facts.get("files"):
        os.mkdir(home, 0o700)
    os.chdir(home)
    os.environ.update(HOME=home, TMPDIR=home)


def _restrict(plan: dict[str, Any], facts: dict[str, Any], is_root: bool) -> None:
    """Give up what Linux lets a process give up for good."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    _stage(facts, "no_new_privileges", lambda: kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1))
    if not facts.get("files"):
        writable = [plan["work"], "/dev/null"]
        readable = [*_readable(plan), "/dev/urandom", "/dev/random", "/dev/zero"]
        _stage(facts, "landlock", lambda: kernel.landlock(readable, writable, plan["network"]))
    if is_root and not facts.get("user"):
        _stage(facts, "capabilities", kernel.drop_capabilities)
    sockets = bool(plan["network"] or facts.get("namespaces"))
    _stage(facts, "seccomp", lambda: kernel.filter_calls(sockets))


def _stage(facts: dict[str, Any], name: str, act: Any) -> None:
    try:
        act()
        facts[name] = True
    except (OSError, NotImplementedError) as error:
        facts[name] = False
        facts["problems"][name] = str(error)


# --- Namespaces ----------------------------------------------------------------------------------


def _unshare(plan: dict[str, Any], is_root: bool) -> None:
    """Leave the host's processes, network and shared memory; the next child lives in the new ones."""
    flags = kernel.CLONE_NEWPID | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
    if not plan["network"]:
        flags |= kernel.CLONE_NEWNET
    if is_root:
        kernel.unshare(flags)
        return
    user, group = os.getuid(), os.getgid()
    kernel.unshare(flags | kernel.CLONE_NEWUSER)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _own_root(plan: dict[str, Any]) -> None:
    """Make a root with nothing in it but the interpreter, read-only, and a small writable /tmp."""
    kernel.check_read_only()  # before anything is changed for good
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    base = next(path for path in ("/tmp", "/run", "/mnt", "/home") if os.path.isdir(path))
    kernel.mount("tmpfs", base, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=0755,size=1m,nr_inodes=4k")
    os.mkdir(f"{base}/old")
    kernel.pivot_root(base, f"{base}/old")
    os.chdir("/")
    size = f"mode=1777,size={plan['disk_mb']}m,nr_inodes={max(1000, plan['disk_mb'] * 100)}"
    os.mkdir("/tmp")  # first, as something to be shown may lie in it
    kernel.mount("tmpfs", "/tmp", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, size)
    for path in _readable(plan):
        _show(path)
    _devices()
    os.makedirs("/proc", exist_ok=True)
    with suppress(OSError):  # refused where the host's own /proc is covered in places
        kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    _write_users()
    kernel.umount("/old")
    os.rmdir("/old")
    kernel.make_read_only("/", recursive=False)
    os.chdir("/tmp")


def _readable(plan: dict[str, Any]) -> list[str]:
    """What the guest may read: system libraries, its interpreter, and what the user has named."""
    wanted = [*_SYSTEM, *_SETTINGS, *plan["interpreter"], *plan["readable_paths"]]
    found: list[str] = []
    for path in wanted:
        if not any(path == other or path.startswith(other.rstrip("/") + "/") for other in found):
            found.append(path)
    return found


def _show(path: str) -> None:
    """Show ``path`` of the old root at its place in the new one, read-only."""
    old = f"/old{path}"
    if os.path.islink(old) and path in _SYSTEM:
        os.symlink(os.readlink(old), path)
        return
    if not os.path.exists(old):
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.isdir(old):
        os.makedirs(path, exist_ok=True)
    else:
        _touch(path)
    kernel.mount(old, path, None, kernel.MS_BIND | kernel.MS_REC)
    kernel.make_read_only(path, recursive=True)


def _touch(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))


def _devices() -> None:
    os.makedirs("/dev/shm", exist_ok=True)
    for name in _DEVICES:
        _touch(f"/dev/{name}")
        kernel.mount(f"/old/dev/{name}", f"/dev/{name}", None, kernel.MS_BIND)
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(target, f"/dev/{name}")
    kernel.mount("tmpfs", "/dev/shm", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=1777,size=16m")


def _write_users() -> None:
    """A user without a name makes ``getpass`` and others fail."""
    os.makedirs("/etc", exist_ok=True)
    own = _own_user(os.getuid() == 0)
    with open("/etc/passwd", "w") as file:
        file.write(f"guest:x:{own}:{own}:guest:/tmp:/bin/sh\n")
    with open("/etc/group", "w") as file:
        file.write(f"guest:x:{own}:\n")


def _own_user(is_root: bool) -> int:
    return _FIRST_USER + _number if is_root else os.getuid()


#: Number of the process as the host knows it.
_number = os.getpid()


def _give_up_rights(is_root: bool) -> None:
    """Become a user of its own where the host is root; keep no right of the namespaces else."""
    if is_root:
        own = _own_user(True)
        os.setgroups([])
        os.setresgid(own, own, own)
        os.setresuid(own, own, own)
    else:
        kernel.drop_capabilities()


# --- Limits --------------------------------------------------------------------------------------


def _limit(plan: dict[str, Any], facts: dict[str, Any]) -> None:
    """Set what the kernel counts for a process; on some systems some of it cannot be set."""
    if resource is None:
        return
    megabyte = 1024 * 1024
    limits = {
        "RLIMIT_CORE": 0,
        "RLIMIT_NOFILE": plan["open_files"],
        "RLIMIT_FSIZE": plan["disk_mb"] * megabyte,
        "RLIMIT_CPU": plan["cpu_seconds"],
        "RLIMIT_AS": None if plan["memory_mb"] is None else plan["memory_mb"] * megabyte,
    }
    if facts.get("user"):  # else all processes of the host's user would be counted
        limits["RLIMIT_NPROC"] = plan["processes"]
    facts["limits"] = [name for name, value in limits.items() if value is not None and _set(name, value)]


def _set(name: str, value: int) -> bool:
    try:
        number = getattr(resource, name)
        _, most = resource.getrlimit(number)
        if most != resource.RLIM_INFINITY:
            value = min(value, most)
        resource.setrlimit(number, (value, value))
    except (AttributeError, ValueError, OSError):
        return False
    return True


# --- The supervisor ------------------------------------------------------------------------------


def _supervise(child: int, plan: dict[str, Any]) -> None:
    """Wait until the guest ends or the host is gone, leave nothing behind, and end as the guest did."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    poller = select.poll()
    poller.register(0, 0)  # only its end is of interest: what comes is for the guest
    poller.register(woken, select.POLLIN)
    status = _ended(child)
    while status is None:
        events = dict(poller.poll(_LOOK_SECONDS * 1000))
        told = woken in events and signal.SIGTERM in os.read(woken, 100)
        status = _ended(child)
        exceeds = not events and _takes_more(child, plan["memory_mb"])
        if status is None and (0 in events or told or exceeds):
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            status = EXIT_OUT_OF_MEMORY << 8 if exceeds else status
    _end_family()
    if os.path.isdir(plan["work"]):
        import shutil

        shutil.rmtree(plan["work"], ignore_errors=True)
    _end_as(status)


def _end_family() -> None:
    """End what the guest has started and left behind: with a process namespace, nothing is left."""
    while _IS_LINUX and (left := _family(os.getpid())[1:]):
        for pid in left:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(-1, 0)


def _takes_more(guest: int, megabytes: int | None) -> bool:
    """Whether the processes of the guest take more memory together than one may."""
    if not _IS_LINUX or megabytes is None:
        return False
    several = _family(guest)
    if len(several) < 2 or _sum_of(several, "status", "VmRSS") < megabytes * 1024:
        return False
    return _sum_of(several, "smaps_rollup", "Pss") > megabytes * 1024  # what they share counts once


def _family(guest: int) -> list[int]:
    """The guest and all processes below it."""
    found = [guest]
    for pid in found:
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children") as file:
                    found += map(int, file.read().split())
    return found


def _sum_of(pids: list[int], file: str, field: str) -> int:
    """A figure in KiB that the kernel gives of each process, summed up."""
    total = 0
    for pid in pids:
        with suppress(OSError), open(f"/proc/{pid}/{file}") as lines:
            total += sum(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
    return total


def _ended(child: int) -> int | None:
    done, status = os.waitpid(child, os.WNOHANG)
    return status if done else None


def _end_as(status: int) -> None:
    """Exit with the guest's status; a signal is told as shells do it."""
    if os.WIFSIGNALED(status):
        os._exit(128 + os.WTERMSIG(status))
    os._exit(os.WEXITSTATUS(status))
