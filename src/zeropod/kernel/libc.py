"""One handle on the C library, for the system calls that Python 3.11 does not wrap.

Owns the numbers of those calls per architecture and the translation of a failure into the OSError subclass of its
errno.
"""

import ctypes
import errno
import os
import platform

_libc = ctypes.CDLL(None, use_errno=True)

_EVERYWHERE = {
    "open_tree": 428,
    "move_mount": 429,
    "openat2": 437,
    "pidfd_getfd": 438,
    "process_madvise": 440,
    "mount_setattr": 442,
}
_GENERIC = {"ioprio_set": 30, "ioprio_get": 31, "kcmp": 272, "bpf": 280, "userfaultfd": 282, "statx": 291}
_MACHINES = {
    "x86_64": {"ioprio_set": 251, "ioprio_get": 252, "kcmp": 312, "bpf": 321, "userfaultfd": 323, "statx": 332},
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
    "loongarch64": _GENERIC,
    "ppc64le": {"ioprio_set": 273, "ioprio_get": 274, "kcmp": 354, "bpf": 361, "userfaultfd": 364, "statx": 383},
    "s390x": {"ioprio_set": 282, "ioprio_get": 283, "kcmp": 343, "bpf": 351, "userfaultfd": 355, "statx": 379},
}
_NUMBERS = _EVERYWHERE | _MACHINES.get(platform.machine(), {})
"""Source: arch/*/entry/syscalls/*.tbl, include/uapi/asm-generic/unistd.h."""

Argument = int | str | bytes | os.PathLike[str] | ctypes.Array[ctypes.c_char] | None
"""What a system call takes: numbers, paths, buffers; None is a null pointer."""


def call(function: str, *arguments: Argument) -> int:
    """Call a libc function that reports failure as -1 with errno. Raises OSError naming it.

    The interpreter lock is released meanwhile, so a call that blocks stops only its own thread.
    """
    return _checked(function, getattr(_libc, function), arguments)


def syscall(name: str, *arguments: Argument, what: str = "") -> int:
    """Make a system call; `what` tells more of it in an error. Raises OSError: ENOSYS also on an unlisted machine."""
    if (number := _NUMBERS.get(name)) is None:
        raise OSError(errno.ENOSYS, f"{name}(2): its number on {platform.machine()} is not known to zeropod")
    return _checked(name + what, _libc.syscall, (number, *arguments))


def _checked(name: str, function: "ctypes._NamedFuncPointer", arguments: tuple[Argument, ...]) -> int:
    ctypes.set_errno(0)
    result = int(function(*[_native(argument) for argument in arguments]))
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def _native(argument: Argument) -> "ctypes.c_long | bytes | ctypes.Array[ctypes.c_char] | None":
    # A Python int would be passed as a C int: the upper half of a 64-bit argument of the variadic
    # syscall(3) is then undefined. c_long fills the register.
    if isinstance(argument, int):
        return ctypes.c_long(argument)
    if isinstance(argument, str | os.PathLike):
        return os.fsencode(argument)
    return argument
