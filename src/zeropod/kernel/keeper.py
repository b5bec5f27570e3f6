"""A process that does nothing but share our table of descriptors, so that what we have open outlives us.

A descriptor that the kernel opens for us in a read(2), and that nobody else can have got yet, closes when we are killed
in that instant. Sharing the table with another process is the only way to have it twice from the start. It shares our
memory too and costs next to none; and it sleeps in the C library, without running a line of Python.

Source of facts: clone(2). An out-of-memory kill takes both, since they share memory.
"""

import ctypes
import mmap
import os
import signal
from contextlib import suppress
from pathlib import Path

from zeropod.kernel import pidfd

_CLONE_VM = 0x100
_CLONE_FILES = 0x400
_CLONE_PARENT_SETTID = 0x100000
_STACK = 1 << 16
"""Bytes, of which it touches a page."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.clone.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]


class Keeper:
    """Our child. Its pid is in `memory` at `offset` (32 bits) as long as it exists, written by the kernel before it
    runs: where that memory is shared, others find it even if we are killed while we start it. It runs on a stack that
    this object owns, so the object must live as long.
    """

    def __init__(self, seconds: int, memory: mmap.mmap, offset: int) -> None:
        """It ends by itself after so long, should everybody who knows it be dead. Raises OSError."""
        self._stack = mmap.mmap(-1, _STACK)
        self._pid = ctypes.c_int32.from_buffer(memory, offset)
        top = ctypes.addressof(ctypes.c_char.from_buffer(self._stack)) + _STACK
        flags = _CLONE_VM | _CLONE_FILES | _CLONE_PARENT_SETTID | signal.SIGCHLD
        sleep = ctypes.cast(_libc.sleep, ctypes.c_void_p)
        if _libc.clone(sleep, top, flags, seconds, ctypes.addressof(self._pid)) < 0:
            raise OSError(ctypes.get_errno(), "clone: no process to keep the descriptors")

    def end(self) -> None:
        """Ends it, from the process that has started it."""
        with suppress(ProcessLookupError):
            os.kill(self._pid.value, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self._pid.value, 0)
        self._pid.value = 0


def end(pid: int, name: str) -> None:
    """Ends the keeper of a process that is dead, unless the number has come to mean a process of another name."""
    with suppress(ProcessLookupError, FileNotFoundError):
        handle = pidfd.open(pid)
        try:
            if Path(f"/proc/{pid}/comm").read_text() == f"{name}\n":
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)
