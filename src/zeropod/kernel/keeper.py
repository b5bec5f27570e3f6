"""A process that only shares our descriptor table, so that our open files outlive us.

A descriptor that the kernel opens for us within a read(2) is lost if we are killed before passing it on. Only a process
that shares the table holds it from the start. The keeper shares our memory too, so it costs almost none, and sleeps in
the C library without running a line of Python.

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
"""Size of its stack in bytes, of which it touches one page."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.clone.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]


class Keeper:
    """Our child. While it exists its pid is in `memory` at `offset` (32 bits). The kernel writes it before the child
    runs, so processes that share the memory find it even if we are killed while starting it. It runs on a stack that
    this object owns, so the object must live as long.
    """

    def __init__(self, seconds: int, memory: mmap.mmap, offset: int) -> None:
        """Start it; it ends by itself after `seconds`, in case all processes that know it are dead. Raises OSError."""
        self._stack = mmap.mmap(-1, _STACK)
        self._pid = ctypes.c_int32.from_buffer(memory, offset)
        top = ctypes.addressof(ctypes.c_char.from_buffer(self._stack)) + _STACK
        flags = _CLONE_VM | _CLONE_FILES | _CLONE_PARENT_SETTID | signal.SIGCHLD
        sleep = ctypes.cast(_libc.sleep, ctypes.c_void_p)
        if _libc.clone(sleep, top, flags, seconds, ctypes.addressof(self._pid)) < 0:
            raise OSError(ctypes.get_errno(), "clone: no process to keep the descriptors")

    def end(self) -> None:
        """End it. Call this in the process that has started it."""
        with suppress(ProcessLookupError):
            os.kill(self._pid.value, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self._pid.value, 0)
        self._pid.value = 0


def end(pid: int, name: str) -> None:
    """End the keeper of a dead process, unless the pid was reused by a process with another name."""
    with suppress(ProcessLookupError, FileNotFoundError):
        handle = pidfd.open(pid)
        try:
            if Path(f"/proc/{pid}/comm").read_text() == f"{name}\n":
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)
