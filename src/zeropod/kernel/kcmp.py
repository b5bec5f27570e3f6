"""Whether two tasks share a resource of the kernel's, by kcmp(2)."""

from enum import IntEnum

from zeropod.kernel import libc


class Resource(IntEnum):
    """What can be compared (include/uapi/linux/kcmp.h)."""

    ADDRESS_SPACE = 1
    FILES = 2
    DIRECTORIES = 3


def shared(first: int, second: int, resource: Resource) -> bool:
    """Return whether both tasks use the same one. Raises OSError: ENOSYS where the kernel cannot tell."""
    return libc.syscall("kcmp", first, second, int(resource), 0, 0) == 0
