"""Giving up rights, then running a program: how a scratch server is kept from all but its own.

This file is run as a script, by ``python -I -S``, and becomes the server's program. Code between
``fork`` and ``exec`` in a process with threads, as ours is, could wait for ever on a lock that
another thread held; a program of its own costs some 20 ms and has neither threads nor locks. It
imports little, so that it starts fast, and nothing of ours.

What the kernel does not give is left out: the first line of its output, a JSON object, says what
stands. ``server.py`` reads it, and makes the order.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SET_PDEATHSIG, _SET_SECCOMP, _SET_NO_NEW_PRIVS = 1, 22, 38  # of prctl
_SECCOMP_MODE_FILTER = 2

# --- Landlock: what files it may reach ----------------------------------------------------------

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""System calls' numbers, the same on every machine that Linux runs on but Alpha and MIPS."""
_ASK_VERSION = 1
_PATH_BENEATH = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11
_FIRST_VERSION = (1 << 13) - 1
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_OF_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_TCP = 0b11  # bind, connect
_SCOPES = 0b11  # abstract unix sockets, signals

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def _prctl(option: int, value: int, pointer: object = 0) -> None:
    numbers = [ctypes.c_ulong(0), ctypes.c_ulong(0)]
    last = pointer if pointer else ctypes.c_ulong(0)
    _checked(_libc.prctl(option, ctypes.c_ulong(value), last, *numbers), "prctl")


def _syscall(number: int, *arguments: object) -> int:
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return int(_checked(_libc.syscall(ctypes.c_long(number), *words), f"system call {number}"))


def landlock_version() -> int:
    """Return the version of Landlock that the kernel has; 0 for none."""
    try:
        return _syscall(_CREATE_RULESET, None, 0, _ASK_VERSION)
    except OSError:
        return 0


def _rights(version: int) -> int:
    """Return every right to files that this version of Landlock can refuse."""
    rights = _FIRST_VERSION
    if version >= 2:
        rights |= _REFER
    if version >= 3:
        rights |= _TRUNCATE
    if version >= 5:
        rights |= _IOCTL_DEV
    return rights


def make_rules(version: int, reads: list[str], writes: list[str], devices: list[str]) -> int:
    """Return a file descriptor of rules: nothing may be reached but what is listed.

    :param reads: files and folders to read, and to run programs from; what is not there is left
        out.
    :param writes: files and folders to read and write.
    :param devices: devices to read and write.
    """
    handled = _rights(version)
    # The kernel takes a shorter structure than its own, but from an older one no longer one.
    attributes = struct.pack("=Q", handled)
    if version >= 4:
        attributes += struct.pack("=Q", _TCP)
    if version >= 6:
        attributes += struct.pack("=Q", _SCOPES)
    rules = _syscall(_CREATE_RULESET, ctypes.c_char_p(attributes), len(attributes), 0)
    reading = _EXECUTE | _READ_FILE | _READ_DIR
    writing = handled & ~(_EXECUTE | _MAKE_CHAR | _MAKE_BLOCK | _IOCTL_DEV)
    for path in writes:
        _add_rule(rules, path, writing)
    for path, rights in [(p, reading) for p in reads] + [
        (p, _READ_FILE | _WRITE_FILE) for p in devices
    ]:
        try:
            _add_rule(rules, path, rights)
        except OSError:
            continue
    return rules


def _add_rule(rules: int, path: str, rights: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not _is_folder(place):
            rights &= _OF_A_FILE
        rule = ctypes.c_char_p(struct.pack("=Qi", rights, place))
        _syscall(_ADD_RULE, rules, _PATH_BENEATH, rule, 0)
    finally:
        os.close(place)


def _is_folder(descriptor: int) -> bool:
    return os.fstat(descriptor).st_mode & 0o170000 == 0o040000


# --- seccomp: what it may ask of the kernel -----------------------------------------------------

_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_NUMBER_AT, _MACHINE_AT, _ARGUMENTS_AT = 0, 4, 16
_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | 13  # with EACCES
_NOT_THERE = 0x00050000 | 38  # with ENOSYS, upon which callers use the older call
_AF_UNIX, _SOCK_STREAM, _SOCK_TYPE_MASK = 1, 1, 0xF

# For each kind of machine: its number for seccomp, and the numbers of system calls.
_MACHINES = {
    "x86_64": (
        0xC000003E,
        {
            "socket": 41, "connect": 42, "socketpair": 53, "io_uring_setup": 425,
            "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311,
            "add_key": 248, "request_key": 249, "keyctl": 250,
            "unshare": 272, "setns": 308, "clone": 56, "clone3": 435,
            "bpf": 321, "perf_event_open": 298, "userfaultfd": 323,
            "pidfd_getfd": 438, "prlimit64": 302,
            "chmod": 90, "fchmod": 91, "fchmodat": 268, "fchmodat2": 452,
            "chown": 92, "fchown": 93, "lchown": 94, "fchownat": 260,
            "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "setxattrat": 463,
            "removexattr": 197, "lremovexattr": 198, "fremovexattr": 199, "removexattrat": 466,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "socket": 198, "connect": 203, "socketpair": 199, "io_uring_setup": 425,
            "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271,
            "add_key": 217, "request_key": 218, "keyctl": 219,
            "unshare": 97, "setns": 268, "clone": 220, "clone3": 435,
            "bpf": 280, "perf_event_open": 241, "userfaultfd": 282,
            "pidfd_getfd": 438, "prlimit64": 261,
            "fchmod": 52, "fchmodat": 53, "fchmodat2": 452,
            "fchown": 55, "fchownat": 54,
            "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "setxattrat": 463,
            "removexattr": 14, "lremovexattr": 15, "fremovexattr": 16, "removexattrat": 466,
        },
    ),
}  # fmt: skip
_ABSENT = ("io_uring_setup", "clone3", "fchmodat2", "setxattrat", "removexattrat")
"""These are new enough for every caller to be prepared for a kernel without them. io_uring opens
and connects sockets past this filter, and clone3 has its flags where a filter can't look."""
_CLONE_NEWUSER = 0x10000000
_MODES = (0o600, 0o700)
_ONLY_WITH: dict[str, tuple[int, tuple[int, ...]]] = {
    # PostgreSQL gives its socket and its folders one of these modes; no other file's mode, which
    # Landlock does not look at, can be widened by them.
    "chmod": (1, _MODES),
    "fchmod": (1, _MODES),
    "fchmodat": (2, _MODES),
    # Its own limits alone: with another process's one could be ended.
    "prlimit64": (0, (0,)),
}
"""The number of an argument, and the values that it may have."""


def make_filter(machine: str) -> bytes | None:
    """Return the program that the kernel asks at each system call; None on other machines.

    The server takes connections but makes none: it may have stream sockets of the unix family
    only, and not connect them. That is also what keeps it from other programs' unix sockets, which
    neither Landlock nor a network namespace does: as the user who verifies it could ask that
    user's service manager to run a program.
    """
    if machine not in _MACHINES:
        return None
    own_machine, numbers = _MACHINES[machine]
    code = _step(_LOAD, _MACHINE_AT)
    # 32-bit calls have other numbers, and so have those of x32, from 0x40000000.
    code += _step(_EQUAL, own_machine, 1, 0) + _step(_RETURN, _NOT_THERE)
    code += _step(_LOAD, _NUMBER_AT)
    code += _step(_AT_LEAST, 0x40000000, 0, 1) + _step(_RETURN, _NOT_THERE)
    for name, number in numbers.items():
        if name in ("socket", "socketpair"):
            then = (
                _step(_LOAD, _ARGUMENTS_AT)
                + _step(_EQUAL, _AF_UNIX, 1, 0)
                + _step(_RETURN, _REFUSE)
                + _step(_LOAD, _ARGUMENTS_AT + 8)
                + _step(_AND, _SOCK_TYPE_MASK)
                + _step(_EQUAL, _SOCK_STREAM, 1, 0)
                + _step(_RETURN, _REFUSE)
                + _step(_RETURN, _ALLOW)
            )
        elif name == "clone":
            then = (
                _step(_LOAD, _ARGUMENTS_AT)
                + _step(_AND, _CLONE_NEWUSER)
                + _step(_EQUAL, 0, 1, 0)
                + _step(_RETURN, _REFUSE)
                + _step(_RETURN, _ALLOW)
            )
        elif name in _ONLY_WITH:
            argument, values = _ONLY_WITH[name]
            then = _step(_LOAD, _ARGUMENTS_AT + 8 * argument)
            for value in values:
                then += _step(_EQUAL, value, 0, 1) + _step(_RETURN, _ALLOW)
            then += _step(_RETURN, _REFUSE)
        else:
            then = _step(_RETURN, _NOT_THERE if name in _ABSENT else _REFUSE)
        code += _step(_EQUAL, number, 0, len(then) // 8) + then
    return code + _step(_RETURN, _ALLOW)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


class _Program(ctypes.Structure):
    """The kernel's ``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def _install(code: bytes) -> None:
    program = _Program(len(code) // 8, code)
    _prctl(_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program))


def _works(code: bytes) -> bool:
    child = os.fork()
    if child == 0:
        try:
            _install(code)
            os.stat("/")  # noqa: PTH116 - pathlib would take as long to import as all the rest
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


# --- all of it ----------------------------------------------------------------------------------


def main(order: dict[str, Any]) -> None:
    """Give up rights, report what stands, and become a program.

    :param order: ``reads``, ``writes`` and ``devices`` as for :func:`make_rules`; ``user``, the uid
        and gid to change to, or None; ``death_signal``, the signal to get when the thread of
        process ``parent`` that started us ends, or 0; ``command`` and ``environment``.
    """
    stands = {"no_new_privileges": False, "landlock": 0, "seccomp": False}
    rules, version = -1, landlock_version()
    if version:
        # The folders are opened before the user changes, who need not be able to walk to them.
        with _reported():
            rules = make_rules(version, order["reads"], order["writes"], order["devices"])
    user = order["user"]
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    if order["death_signal"]:
        # After the change of user, which clears it. It is not sent for a death before.
        _prctl(_SET_PDEATHSIG, order["death_signal"])
        if os.getppid() != order["parent"]:
            sys.exit("the process that started this one has ended")
    with _reported():
        _prctl(_SET_NO_NEW_PRIVS, 1)
        stands["no_new_privileges"] = True
    if rules >= 0:
        with _reported():
            _syscall(_RESTRICT_SELF, rules, 0)
            stands["landlock"] = version
    code = make_filter(os.uname().machine)
    # A child tries it first: an emulator may say of a machine that it is another than the kernel's,
    # whose system calls the filter would all refuse.
    if code and _works(code):
        with _reported():
            _install(code)
            stands["seccomp"] = True
    print(json.dumps(stands), flush=True)  # noqa: T201
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores them, and so would the program
    os.execve(order["command"][0], order["command"], order["environment"])  # noqa: S606


class _reported:
    """Go on after an error of the system, which is printed."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, OSError):
            print(error, file=sys.stderr)  # noqa: T201
            return True
        return False


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
