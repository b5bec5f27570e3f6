"""openat2(2): opens a name below a directory, and never leads elsewhere.

Source of facts: include/uapi/linux/openat2.h; openat2(2). Since Linux 5.6.
"""

import ctypes
import os
import struct
from typing import Final

from zeropod.kernel import libc

_NO_XDEV: Final = 0x01
_NO_MAGICLINKS: Final = 0x02
_NO_SYMLINKS: Final = 0x04
_BENEATH: Final = 0x08
_RESOLVE: Final = _NO_XDEV | _NO_MAGICLINKS | _NO_SYMLINKS | _BENEATH
_how = struct.Struct("=QQQ")


def beneath(directory: int, name: bytes, flags: int, mode: int = 0) -> int:
    """Open a path below a directory, without symbolic links, "..", and mounts on the way or at its end.

    Raises OSError: ELOOP for a symbolic link, EXDEV for a mount, or a path that leads out.
    """
    how = ctypes.create_string_buffer(_how.pack(flags | os.O_CLOEXEC, mode, _RESOLVE), _how.size)
    return libc.syscall("openat2", directory, name, how, _how.size)
