"""Calls of the Linux kernel that Python has no names for, through the C library.

Each function raises ``OSError`` where the kernel refuses, and ``NotImplementedError`` where this kind of
processor is not known here. Runs on Python 3.9 and later with nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Any

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
_CLONE_NEW = (
    CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | 0x02000000
)

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_ATTR_RDONLY, _ATTR_NOSUID = 1, 2

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22

_libc: Any = None


def _call(name: str, *args: Any) -> int:
    """Call a function of the C library; raise its error."""
    global _libc
    if _libc is None:
        _libc = ctypes.CDLL(None, use_errno=True)
    result: int = getattr(_libc, name)(*args)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def _syscall(name: str, *args: Any) -> int:
    """Call the kernel by number."""
    try:
        number = _number(name)
        return _call("syscall", ctypes.c_long(number), *args)
    except OSError as error:
        raise OSError(error.errno, f"{name}: {os.strerror(error.errno or 0)}") from None


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process."""
    _call("prctl", option, ctypes.c_ulong(value), 0, 0, 0)


def unshare(flags: int) -> None:
    """Leave namespaces for new ones."""
    _call("unshare", flags)


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Mount ``source`` at ``target``."""
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    try:
        _call("mount", *encoded, ctypes.c_ulong(flags), os.fsencode(options) if options else None)
    except OSError as error:
        raise OSError(error.errno, f"mount {target}: {os.strerror(error.errno or 0)}") from None


def umount(target: str) -> None:
    """Take away the mount at ``target`` and all below it."""
    _call("umount2", os.fsencode(target), _MNT_DETACH)


def pivot_root(new: str, old: str) -> None:
    """Make ``new`` the root, and show the former one at ``old``."""
    _syscall("pivot_root", os.fsencode(new), os.fsencode(old))


def make_read_only(path: str, *, recursive: bool) -> None:
    """Let nothing be written below ``path``, nor programs there gain rights."""
    attributes = struct.pack("QQQQ", _ATTR_RDONLY | _ATTR_NOSUID, 0, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    _syscall(
        "mount_setattr", _AT_FDCWD, os.fsencode(path), flags, attributes, ctypes.c_size_t(len(attributes))
    )


def check_read_only() -> None:
    """Raise if the kernel is too old for :func:`make_read_only`: before Linux 5.12."""
    try:
        make_read_only("/no/such/place", recursive=False)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def drop_capabilities() -> None:
    """Keep no capability."""
    header = struct.pack("Ii", 0x20080522, 0)
    _call("capset", header, bytes(24))


# --- Landlock ------------------------------------------------------------------------------------

_READ = 1 | 4 | 8  # execute, read file, read directory
_ALL_FILES = (1 << 13) - 1  # what the first version knows
_BESIDES = {2: 1 << 13, 3: 1 << 14, 5: 1 << 15}  # refer, truncate, ioctl of devices
_OF_FILES = 1 | 2 | 4 | 1 << 14 | 1 << 15


def landlock(readable: list[str], writable: list[str], network: bool) -> None:
    """Let this process open nothing but what is below these paths.

    Args:
        readable: May be read and executed.
        writable: May be written as well.
        network: Whether it may open connections.
    """
    version = _syscall("landlock_create_ruleset", None, ctypes.c_size_t(0), 1)
    handled = _ALL_FILES | sum(bit for since, bit in _BESIDES.items() if version >= since)
    connections = 3 if version >= 4 and not network else 0  # to listen, to connect
    scopes = 3 if version >= 6 else 0  # abstract sockets, signals to others
    rules = struct.pack("QQQ", handled, connections, scopes)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = _syscall("landlock_create_ruleset", rules[:size], ctypes.c_size_t(size), 0)
    try:
        for paths, rights in ((readable, _READ), (writable, handled)):
            for path in paths:
                _allow(ruleset, path, rights)
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        _syscall("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)  # type: ignore[attr-defined, unused-ignore]
    except OSError:
        return  # what is not there needs no rule
    try:
        if not os.path.isdir(path):
            rights &= _OF_FILES
        _syscall("landlock_add_rule", ruleset, 1, struct.pack("=Qi", rights, opened), 0)
    finally:
        os.close(opened)


# --- Seccomp -------------------------------------------------------------------------------------

#: Calls that no code of an agent needs, and that have opened ways out of sandboxes. Numbers: x86-64, arm64.
_REFUSED = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "syslog": (103, 116),
    "quotactl": (179, 60),
    "personality": (135, 92),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "memfd_secret": (447, 447),
}
_OTHERS = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "socket": (41, 198),
    "prctl": (157, 167),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
}
_PROCESSORS = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

# The language of the filter: load a word, jump if equal, if greater or equal, if a bit is set; and return.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_CALL, _ARCH, _FIRST_ARGUMENT = 0, 4, 16


def _processor() -> tuple[int, int]:
    found = _PROCESSORS.get(os.uname().machine)
    if found is None or struct.calcsize("P") != 8:
        raise NotImplementedError(f"nothing is known of processors of the kind {os.uname().machine}")
    return found


def _number(name: str) -> int:
    return (_REFUSED.get(name) or _OTHERS[name])[_processor()[0]]


def filter_calls(sockets: bool) -> None:
    """Refuse calls that code does not need, for this process and all that it starts, for good.

    Args:
        sockets: Whether sockets of the internet may be made (in a namespace without a network, they lead
            nowhere); else no socket at all may be.
    """
    program = _program(sockets)
    code = b"".join(struct.pack("=HBBI", *step) for step in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    _call("prctl", _PR_SET_SECCOMP, ctypes.c_ulong(2), head, 0, 0)


def _program(sockets: bool) -> list[tuple[int, int, int, int]]:
    """The filter, as instructions (operation, jump if true, jump if false, constant)."""
    steps = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, _processor()[1]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _CALL),
        (_AT_LEAST, 0, 1, 0x40000000),  # the other numbers that x86-64 has for the same calls
        (_RETURN, 0, 0, _ERROR | errno.ENOSYS),
    ]
    for name in _REFUSED:
        steps += [(_EQUAL, 0, 1, _number(name)), (_RETURN, 0, 0, _ERROR | errno.EPERM)]
    # Its arguments are out of sight for a filter; the C library goes on with clone.
    steps += [(_EQUAL, 0, 1, _number("clone3")), (_RETURN, 0, 0, _ERROR | errno.ENOSYS)]
    steps += _if_call("clone", [(_ANY_BIT, 0, 1, _CLONE_NEW), (_RETURN, 0, 0, _ERROR | errno.EPERM)])
    steps += _if_call("prctl", [(_EQUAL, 0, 1, PR_SET_PDEATHSIG), (_RETURN, 0, 0, _ERROR | errno.EPERM)])
    refused = (_RETURN, 0, 0, _ERROR | errno.EAFNOSUPPORT)
    if sockets:
        families = (1, 2, 10)  # of this machine, and of the internet in both versions
        known = [(_EQUAL, len(families) - i, 0, family) for i, family in enumerate(families)]
        steps += _if_call("socket", [*known, refused])
    else:
        steps += [(_EQUAL, 0, 1, _number("socket")), refused]
    return [*steps, (_RETURN, 0, 0, _ALLOW)]


def _if_call(name: str, body: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """``body``, with the first argument loaded, for one call only."""
    body = [(_LOAD, 0, 0, _FIRST_ARGUMENT), *body, (_LOAD, 0, 0, _CALL)]
    return [(_EQUAL, 0, len(body), _number(name)), *body]
