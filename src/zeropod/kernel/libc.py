"""One handle on the C library, for the system calls that Python 3.11 does not wrap.

Owns the numbers of those calls per architecture and the translation of a failure into the
OSError subclass of its errno. Knows nothing about what any call means.
"""

import ctypes
import errno
import os
import platform
from functools import cache

_libc = ctypes.CDLL(None, use_errno=True)

# The calls added after 2011 have the same number on every architecture listed here but bpf(2).
# Source: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h.
PIDFD_GETFD = 438
_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280, "ppc64le": 361, "s390x": 351}

Argument = int | str | bytes | os.PathLike[str] | ctypes.Array[ctypes.c_char] | None
"""What a system call takes: numbers, paths, buffers; None is a null pointer."""


def call(function: str, *arguments: Argument) -> int:
    """Call a libc function that reports failure as -1 with errno. Raises OSError naming it.

    The interpreter lock is released meanwhile, so a call that blocks stops only its own thread.
    """
    return _checked(function, getattr(_libc, function), arguments)


def syscall(name: str, number: int, *arguments: Argument) -> int:
    """Make a system call by number; `name` only appears in the error."""
    return _checked(name, _libc.syscall, (number, *arguments))


@cache
def bpf_number() -> int:
    """Return the number of bpf(2) here. Raises OSError(ENOSYS) on an architecture that is not listed."""
    machine = platform.machine()
    if machine not in _BPF:
        raise OSError(errno.ENOSYS, f"bpf(2): its number on {machine} is not known to zeropod")
    return _BPF[machine]


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
