"""Taking rights away from the process that calls: files by Landlock, network and more by seccomp, memory by rlimits.

All of it works for an ordinary user, stays in force for the process and its children, and cannot be undone. Where the
kernel lacks a means, the others still apply; :meth:`Confinement.apply` says which are in force.

Sources: ``landlock(7)`` and ``include/uapi/linux/landlock.h`` (numbers of rights by ABI version), ``seccomp(2)`` and
``include/uapi/linux/filter.h`` (the classic BPF program), ``getrlimit(2)``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2

LANDLOCK_CREATE_RULESET = 444
LANDLOCK_ADD_RULE = 445
LANDLOCK_RESTRICT_SELF = 446
LANDLOCK_CREATE_RULESET_VERSION = 1
LANDLOCK_RULE_PATH_BENEATH = 1

READ_RIGHTS = 1 << 0 | 1 << 2 | 1 << 3
"""EXECUTE (of libraries), READ_FILE, READ_DIR."""

FILE_RIGHTS = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15
"""Rights that a rule about a file, rather than a folder, may have: EXECUTE, WRITE_FILE, READ_FILE, TRUNCATE,
IOCTL_DEV."""

FILE_SYSTEM_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""All rights about files by the ABI version that brought them."""

NETWORK_RIGHTS = 0b11
"""BIND_TCP and CONNECT_TCP, from ABI version 4 on."""

SCOPES = 0b11
"""Abstract UNIX sockets and signals of other processes, from ABI version 6 on."""

MEANS = ("landlock", "seccomp")
"""What a kernel may lack."""

SYSTEM_PATHS = (
    "/usr/lib",
    "/usr/lib64",
    "/lib",
    "/lib64",
    "/usr/local/lib",
    "/etc/ld.so.cache",
    "/dev",
    "/proc",
    "/sys",
)

AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

X32_BIT = 0x40000000
"""Set in the numbers of a second set of system calls on x86-64, which nothing here uses."""

SYSTEM_CALLS = {
    "x86_64": {"socket": 41, "forbidden": (101, 165, 175, 246, 272, 298, 310, 311, 321, 323, 425)},
    "aarch64": {"socket": 198, "forbidden": (117, 40, 105, 104, 97, 241, 270, 271, 280, 282, 425)},
}
"""Numbers of ``socket``, and of ptrace, mount, init_module, kexec_load, unshare, perf_event_open, process_vm_readv,
process_vm_writev, bpf, userfaultfd and io_uring_setup."""


@dataclass(frozen=True, slots=True)
class Confinement:
    """What a process may do.

    Attributes:
        reads: files and folders that it may read; it may execute libraries there.
        writes: folders that it may read and write.
        memory_bytes: memory of its own that it may take, beyond what it has; ``None`` for no limit.
        file_bytes: largest file that it may write; ``None`` for no limit.
    """

    reads: tuple[Path, ...] = ()
    writes: tuple[Path, ...] = ()
    memory_bytes: int | None = None
    file_bytes: int | None = None

    def apply(self) -> list[str]:
        """Gives up everything else, for good. Returns the names of the means that are in force."""
        in_force = self._limit_resources()
        _prctl(PR_SET_NO_NEW_PRIVS, 1)
        for means, apply in zip(MEANS, (self._restrict_files, _filter_system_calls), strict=True):
            if apply():
                in_force.append(means)
        return in_force

    def _limit_resources(self) -> list[str]:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        in_force = []
        if self.memory_bytes is not None:
            most = _data_bytes() + self.memory_bytes
            resource.setrlimit(resource.RLIMIT_DATA, (most, most))
            in_force.append("memory limit")
        if self.file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.file_bytes, self.file_bytes))
            in_force.append("file limit")
        return in_force

    def _restrict_files(self) -> bool:
        version = _system_call(LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_CREATE_RULESET_VERSION)
        if version < 1:
            return False
        handled = FILE_SYSTEM_RIGHTS[max(known for known in FILE_SYSTEM_RIGHTS if known <= version)]
        attributes = struct.pack("=QQQ", handled, NETWORK_RIGHTS if version >= 4 else 0, SCOPES if version >= 6 else 0)[
            : 24 if version >= 6 else 16 if version >= 4 else 8
        ]
        ruleset = _system_call(LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
        if ruleset < 0:
            return False
        try:
            _allow(ruleset, self.reads, READ_RIGHTS)
            _allow(ruleset, self.writes, handled)
            return _system_call(LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0
        finally:
            os.close(ruleset)


def library_paths() -> tuple[Path, ...]:
    """What Python and compiled libraries read: their own files, and what the system says of the machine."""
    paths = {sys.prefix, sys.base_prefix, sys.exec_prefix, *(path for path in sys.path if path), *SYSTEM_PATHS}
    return tuple(Path(path).resolve() for path in sorted(paths) if os.path.exists(path))


def _allow(ruleset: int, paths: Iterable[Path], rights: int) -> None:
    for path in paths:
        try:
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:  # what cannot be found, such as a link in a circle, cannot be read later either
            continue
        try:
            allowed = rights if path.is_dir() else rights & FILE_RIGHTS
            rule = struct.pack("=Qi", allowed, handle)
            if _system_call(LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_PATH_BENEATH, rule, 0):
                raise OSError(ctypes.get_errno(), f"Landlock refuses a rule for {path}")
        finally:
            os.close(handle)


def _filter_system_calls() -> bool:
    """Only UNIX sockets, and none of the calls that look into other processes or widen what the kernel exposes."""
    machine = platform.machine()
    if machine not in SYSTEM_CALLS:
        return False
    program = _program(machine)
    buffer = ctypes.create_string_buffer(program)
    header = struct.pack("@HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    return _prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header) == 0


def _program(machine: str) -> bytes:
    """The filter in classic BPF: instructions of code, jumps if true and false, and an operand."""
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    allow, deny = 0x7FFF0000, 0x00050000 | errno.EPERM
    calls = SYSTEM_CALLS[machine]
    forbidden: Sequence[int] = calls["forbidden"]  # type: ignore[assignment]
    instructions = [(load, 0, 0, 4), (equal, 1, 0, AUDIT_ARCHITECTURE[machine]), (give, 0, 0, deny), (load, 0, 0, 0)]
    instructions += [(at_least, 0, 1, X32_BIT), (give, 0, 0, deny)]
    for number in forbidden:
        instructions += [(equal, 0, 1, number), (give, 0, 0, deny)]
    # The first argument of socket(2) is the address family, in the lower half of 64 bits.
    instructions += [
        (equal, 0, 3, calls["socket"]),  # type: ignore[list-item]
        (load, 0, 0, 16),
        (equal, 1, 0, 1),
        (give, 0, 0, deny),
        (give, 0, 0, allow),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)


def _data_bytes() -> int:
    """Private writable memory of this process, which ``RLIMIT_DATA`` counts."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0


def end_with(parent: int) -> None:
    """Has the kernel end this process when its parent, which is given, ends: ``PR_SET_PDEATHSIG`` in ``prctl(2)``."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        os._exit(1)


_libc = ctypes.CDLL(None, use_errno=True)


def _system_call(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(ctypes.c_long(number), *arguments)
    return result


def _prctl(option: int, value: int, pointer: bytes | None = None) -> int:
    result: int = _libc.prctl(option, ctypes.c_ulong(value), pointer, 0, 0)
    return result
