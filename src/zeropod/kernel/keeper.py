"""Child processes that only keep something alive: a namespace or a descriptor table exists as long as a process uses
it.

They share the memory of this process, so they cost almost none, and sleep in the C library without running Python. An
out-of-memory kill of this process ends them, too.

Source of facts: clone(2).
"""

import ctypes
import mmap
import os
import signal
from contextlib import suppress
from pathlib import Path

from zeropod.kernel import libc, pidfd

_CLONE_VM = 0x100
_CLONE_FILES = 0x400
_CLONE_PARENT_SETTID = 0x100000
_STACK = 1 << 16
"""Size of its stack in bytes, of which it touches one page."""

_sleep = ctypes.cast(ctypes.CDLL(None).sleep, ctypes.c_void_p).value


class Sleeper:
    """A child process. It runs on a stack that this object owns, so keep the object as long as the child."""

    def __init__(self, flags: int, seconds: int, pid: ctypes.c_int32 | None = None) -> None:
        """Start it with these flags of clone(2); it ends by itself after `seconds`. Raises OSError.

        The kernel writes its process id to `pid` before it runs.
        """
        self._stack = mmap.mmap(-1, _STACK)
        self._pid = ctypes.c_int32() if pid is None else pid
        top = ctypes.addressof(ctypes.c_char.from_buffer(self._stack)) + _STACK
        flags |= _CLONE_VM | _CLONE_PARENT_SETTID | signal.SIGCHLD
        libc.call("clone", _sleep, top, flags, seconds, ctypes.addressof(self._pid))

    @property
    def pid(self) -> int:
        return self._pid.value

    def end(self) -> None:
        """End it. Call this in the process that has started it."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        self._pid.value = 0


class Keeper(Sleeper):
    """Shares our descriptor table, so that our open files outlive us.

    A descriptor that the kernel opens for us within a read(2) is lost if we are killed before passing it on. Only a
    process that shares the table holds it from the start. While the keeper exists its pid is in `memory` at `offset`
    (32 bits): processes that share the memory find it even if we are killed while starting it.
    """

    def __init__(self, seconds: int, memory: mmap.mmap, offset: int) -> None:
        """Start it; `seconds` is for the case that all processes that know it are dead. Raises OSError."""
        super().__init__(_CLONE_FILES, seconds, ctypes.c_int32.from_buffer(memory, offset))


def end(pid: int, name: str) -> None:
    """End the keeper of a dead process, unless the pid was reused by a process with another name."""
    with suppress(ProcessLookupError, FileNotFoundError), pidfd.opened(pid) as handle:
        if Path(f"/proc/{pid}/comm").read_text() == f"{name}\n":
            signal.pidfd_send_signal(handle, signal.SIGKILL)
