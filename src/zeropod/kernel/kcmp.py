"""Whether two tasks share a resource of the kernel's, by kcmp(2)."""

import errno
import platform
from enum import IntEnum

from zeropod.kernel import libc

_NUMBERS = {"x86_64": 312, "aarch64": 272, "riscv64": 272, "loongarch64": 272, "ppc64le": 354, "s390x": 343}


class Resource(IntEnum):
    """What can be compared (include/uapi/linux/kcmp.h)."""

    ADDRESS_SPACE = 1
    FILES = 2
    DIRECTORIES = 3


def shared(first: int, second: int, resource: Resource) -> bool:
    """Return whether both tasks use the same one. Raises OSError: ENOSYS where the kernel cannot tell."""
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"kcmp(2): its number on {platform.machine()} is not known to zeropod")
    return libc.syscall("kcmp", number, first, second, int(resource), 0, 0) == 0
