"""Makes a process create a userfaultfd of its memory and drop pages, by borrowing one of its threads.

Owns the calls made in the process's address space and descriptor table; `stopped` stops its threads, and `remote_calls`
makes single calls. The caller decides which pages to drop, and serves the faults that follow. Descriptors and mappings
are restored, except for a duplicate that is meant to stay. Arguments lie in a page mapped for them, so that no byte of
the application changes even for a moment: the kernel might be reading from a device into it.

Traps:
- After a drop the kernel itself faults on a thread's rseq area when it returns to user mode, and so within a borrowed
  call, which does not return until another thread or process serves the fault. `kept_pages` avoids this.
- The event of a drop must be read by another thread or process, or madvise(2) never returns.
"""

import os
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from zeropod.kernel import pidfd, proc_stat, ptrace, userfault
from zeropod.kernel.userfault import PAGE
from zeropod.runtime.memory.userfault.remote_calls import Call, RemoteCalls
from zeropod.runtime.memory.userfault.stopped import LET_GO_WITHIN, StoppedProcess, Unsuitable

_DONTNEED: Final = 4
_READ, _WRITE = 1, 2
_PRIVATE_ANONYMOUS: Final = 0x22
_F_DUPFD_CLOEXEC: Final = 1030
_CMSG_CLOEXEC: Final = 0x40000000

# Offsets in the scratch page: socketpair's result; recvmsg's message, its vector, byte and control data.
_PAIR, _MESSAGE, _VECTOR, _BYTE, _CONTROL = 0, 64, 128, 160, 192
_CONTROL_SIZE: Final = 24


class Injection:
    """One process whose threads are all stopped, until `release`."""

    def __init__(self, process: StoppedProcess) -> None:
        """Wrap a process, whose threads need not have stopped yet."""
        self.kept_descriptor: int | None = None
        """The userfaultfd's descriptor number in the process, after `open_userfaultfd` with `keep_at`."""
        self._process = process
        self.calls = RemoteCalls(process)

    @classmethod
    def stop(
        cls,
        pid: int,
        *,
        deadline: float | None = None,
        even_stopped: bool = False,
        while_waiting: Callable[[], None] | None = None,
    ) -> "Injection":
        """Stop all threads of a process; see `StoppedProcess.stop`."""
        return cls(StoppedProcess.stop(pid, deadline=deadline, even_stopped=even_stopped, while_waiting=while_waiting))

    @property
    def pid(self) -> int:
        return self._process.pid

    def release(self, patience: float = LET_GO_WITHIN) -> None:
        """Release all threads; see `StoppedProcess.release`."""
        self._process.release(patience)
        self.calls.close()

    def open_userfaultfd(self, features: int, keep_at: int | None = None) -> int:
        """Make a userfaultfd of this process; return our descriptor of it (close-on-exec, non-blocking).

        The handshake for `features` is done. With `keep_at` a duplicate stays in the process, at that number or above
        (or below, where its limit forbids that): `kept_descriptor`. Raises Unsuitable naming a call that failed in the
        process, OSError for failures in this process; then no descriptor is left on either side.
        """
        self._process.check()
        device = userfault.device()
        try:
            with pidfd.opened(self.pid) as handle, self.calls.borrowed() as call:
                return self._make(call, handle, device, features, keep_at)
        finally:
            os.close(device)

    def drop(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Make the process drop the pages in each range (start, length), in this order.

        Returns after the last call; each call blocks until its event is read. Raises OSError: the ranges before the
        failing one are dropped. ProcessLookupError: it has ended.
        """
        self._process.check()
        with self.calls.borrowed() as call:
            for start, length in ranges:
                call("madvise", start, length, _DONTNEED)

    def close_descriptor(self, number: int) -> None:
        """Make the process close a userfaultfd; do nothing if the number belongs to another file by now.

        Raises OSError.
        """
        self._process.check()
        if self.holds(number):
            with self.calls.borrowed() as call:
                call("close", number)
        if number == self.kept_descriptor:
            self.kept_descriptor = None

    def holds(self, number: int) -> bool:
        """Return whether that descriptor of the process is a userfaultfd."""
        try:
            return os.readlink(f"/proc/{self.pid}/fd/{number}") == "anon_inode:[userfaultfd]"
        except OSError:
            return False

    def rseq_areas(self) -> list[tuple[int, int]]:
        """Return address and size of each thread's area for restartable sequences, which the kernel itself reads."""
        self._process.check()
        areas = (ptrace.rseq(tid) for tid in self._process.stops)
        return [(area.address, area.size) for area in areas if area is not None]

    @property
    def kept_pages(self) -> list[int]:
        """Return pages that should not be dropped, because each borrowed call would fault on them again."""
        self._process.check()
        area = ptrace.rseq(self.pid)
        if area is None:
            return []
        first = area.address & -PAGE
        return list(range(first, area.address + area.size, PAGE))

    def _make(self, call: Call, handle: int, device: int, features: int, keep_at: int | None) -> int:
        def in_it(name: str, *arguments: int) -> int:
            try:
                return call(name, *arguments)
            except ProcessLookupError:
                raise
            except OSError as error:
                raise Unsuitable(self.pid, f"cannot be given a userfaultfd: {error.strerror}") from error

        made: list[int] = []
        page = in_it("mmap", 0, PAGE, _READ | _WRITE, _PRIVATE_ANONYMOUS, -1, 0)
        try:
            in_it("socketpair", socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 0, page + _PAIR)
            made.extend(struct.unpack("=ii", self.calls.read(page + _PAIR, 8)))
            with socket.socket(fileno=pidfd.getfd(handle, made[0])) as ours:
                socket.send_fds(ours, [b"x"], [device])
            made.append(self._receive(in_it, made[1], page))
            made.append(in_it("ioctl", made[2], userfault.NEW, os.O_CLOEXEC | os.O_NONBLOCK))
            uffd = pidfd.getfd(handle, made[3])
            try:
                userfault.handshake(uffd, features)
                if keep_at is not None:
                    self.kept_descriptor = self._keep(call, made[3], keep_at)
            except BaseException:  # a cut, too: nothing stays open
                os.close(uffd)
                raise
            return uffd
        finally:
            with suppress(ProcessLookupError):
                for number in made:
                    call("close", number)
                call("munmap", page, PAGE)

    def _receive(self, call: Call, descriptor: int, page: int) -> int:
        """Make the process receive the descriptor that was sent to it; return its number there."""
        message = struct.pack("=QIxxxxQQQQixxxx", 0, 0, page + _VECTOR, 1, page + _CONTROL, _CONTROL_SIZE, 0)
        self.calls.write(page + _MESSAGE, message)
        self.calls.write(page + _VECTOR, struct.pack("=QQ", page + _BYTE, 1))
        call("recvmsg", descriptor, page + _MESSAGE, socket.MSG_DONTWAIT | _CMSG_CLOEXEC)
        length, level, kind, number = struct.unpack("=Qiii", self.calls.read(page + _CONTROL, 20))
        if (length, level, kind) != (20, socket.SOL_SOCKET, socket.SCM_RIGHTS):
            # Its descriptor table is full, or a security module denies it.
            raise Unsuitable(self.pid, "cannot be given a userfaultfd: recvmsg in it received no descriptor")
        return int(number)

    def _keep(self, call: Call, number: int, keep_at: int) -> int | None:
        for at in (keep_at, proc_stat.descriptor_limit(self.pid) * 7 // 8):
            try:
                return call("fcntl", number, _F_DUPFD_CLOEXEC, at)
            except ProcessLookupError:
                raise
            except OSError:
                continue
        return None
