"""Makes system calls in the first thread of a stopped process.

Owns the registers of that thread while it is borrowed, and restoring its state. The rules:

1. Whatever the process could observe is restored: registers, signal mask, an interrupted system call, the restartable
   sequence.
2. While a thread has our registers, and only then, the kernel kills the process if we die (EXITKILL): a dead process
   is better than one that runs on with them.

Traps:
- The kernel restarts an interrupted call (or lets it fail with EINTR, depending on pending signals) only where it
  checks for signals. So a thread at the end of a borrowed call is stopped once more by PTRACE_INTERRUPT, and gets its
  own registers back there, with the kernel's -ERESTART... in them.
- A borrowed call aborts a restartable sequence that the thread was in: the kernel forgets it when other code runs.
  The thread continues at its abort handler, as after any preemption.
- Injected calls are subject to the seccomp filter of the process, which may kill it. If the filter cannot be
  suspended, no call is made.
"""

import errno
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from zeropod.kernel import proc_stat, ptrace
from zeropod.runtime.memory.userfault.stopped import StoppedProcess, Unsuitable, pause

CALL_WITHIN: Final = 20.0
"""Seconds within which a borrowed call must return: it waits for its event to be read and for faults to be served."""
RECOVER_WITHIN: Final = 20.0
"""Further seconds for a call that has not returned in time, before its process is killed."""

_SYNCHRONOUS: Final = frozenset(
    {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGSYS, signal.SIGTRAP}
)
"""Signals that the borrowed call itself would cause."""

_EXITING: Final = 0x4
"""PF_EXITING in field 9 of /proc/PID/stat. Source: include/linux/sched.h."""

_NO_OPTION: Final = (errno.EPERM, errno.EINVAL)


Call = Callable[..., int]
"""Makes a system call, by its name and with its arguments, and returns its result. Raises OSError."""


class RemoteCalls:
    """The first thread of a stopped process, borrowed for system calls."""

    def __init__(self, process: StoppedProcess) -> None:
        self._process = process
        self._memory: int | None = None
        self._instruction: int | None = None
        self._in_call = False
        """Whether a call has begun whose end was not seen."""

    def close(self) -> None:
        """Close the descriptor of its memory."""
        if self._memory is not None:
            os.close(self._memory)
            self._memory = None

    @contextmanager
    def borrowed(self) -> Iterator[Call]:
        """Borrow the first thread for calls; restore its state afterwards. Raises Unsuitable, ProcessLookupError."""
        tid = self._process.pid
        if self._process.ended or tid not in self._process.stops:
            raise ProcessLookupError(errno.ESRCH, f"process {tid} has ended")
        own = self._out_of_sequence(ptrace.registers(tid))
        mask = ptrace.signal_mask(tid)
        at = self._find_instruction()
        self._set_foreign_options()
        try:
            ptrace.set_signal_mask(tid, ptrace.EVERY_SIGNAL)
            yield lambda name, *arguments: self._call(own, at, name, arguments)
        finally:
            try:
                self._back_to_trap(own)
                ptrace.set_registers(tid, own)
                ptrace.set_signal_mask(tid, mask)
                ptrace.set_options(tid, 0)
            except (ProcessLookupError, ChildProcessError):
                self._process.note_end(tid)

    def _set_foreign_options(self) -> None:
        options = ptrace.SYSGOOD | ptrace.EXITKILL
        try:
            ptrace.set_options(self._process.pid, options | ptrace.SUSPEND_SECCOMP)
        except OSError as error:
            if error.errno not in _NO_OPTION:
                raise
            if proc_stat.status(self._process.pid).get("Seccomp", "0") != "0":
                reason = f"has a seccomp filter, which may kill it and which we cannot suspend: {error.strerror}"
                raise Unsuitable(self._process.pid, reason) from error
            ptrace.set_options(self._process.pid, options)

    def _call(self, own: ptrace.Registers, at: int, name: str, arguments: tuple[int, ...]) -> int:
        """Make the first thread do a system call; return its result. Raises OSError."""
        tid = self._process.pid
        if self._in_call:
            # The previous call did not return in time.
            self._back_to_trap(own)
        ptrace.prepare_call(tid, own, at, name, arguments)
        self._in_call = True
        for _ in ("begin", "end"):
            self._resume_to_syscall()
        self._in_call = False
        result = ptrace.registers(tid)[ptrace.architecture().result]
        if result > (1 << 64) - 4096:
            number = (1 << 64) - result
            raise OSError(number, f"{name} in process {tid}: {os.strerror(number)}")
        return result

    def _resume_to_syscall(self) -> None:
        tid = self._process.pid
        until = time.monotonic() + CALL_WITHIN
        ptrace.resume_to_syscall(tid)
        while True:
            stop = self._next_stop(until)
            if stop.syscall:
                return
            if stop.trap:
                # A stop signal has stopped the process, or SIGCONT has just continued it.
                ptrace.resume_to_syscall(tid)
            elif stop.signal in _SYNCHRONOUS:
                name = signal.Signals(stop.signal).name
                raise OSError(errno.EFAULT, f"process {tid}: {name} in a system call made for zeropod")
            else:
                # SIGSTOP: all other signals are blocked. It stops the process after the release.
                ptrace.resume_to_syscall(tid, stop.signal)

    def _next_stop(self, until: float) -> ptrace.Stop:
        """Wait for the first thread to stop. Raises TimeoutError, and ProcessLookupError when it has ended."""
        tid = self._process.pid
        self._process.stops.pop(tid, None)
        looks = 0
        while True:
            try:
                stop = ptrace.next_stop(tid)
            except ChildProcessError:
                self._process.note_end(tid)
                raise ProcessLookupError(errno.ESRCH, f"process {tid} has ended") from None
            if stop is not None:
                self._process.stops[tid] = stop
                return stop
            if looks % 16 == 15 and self._is_exiting():
                # The init of a pid namespace does not end before all other tasks there are reaped; only their tracer
                # reaps traced ones, including init's own other threads: `release` does that.
                self._process.note_end(tid)
                raise ProcessLookupError(errno.ESRCH, f"process {tid} has ended")
            if looks % 16 == 15 and time.monotonic() > until:
                raise TimeoutError(errno.ETIMEDOUT, f"process {tid} does not return from a call made for zeropod")
            pause(looks := looks + 1)

    def _is_exiting(self) -> bool:
        try:
            return proc_stat.read(self._process.pid).flags & _EXITING != 0
        except (FileNotFoundError, ProcessLookupError):
            return True

    def _back_to_trap(self, own: ptrace.Registers) -> None:
        """Bring the first thread from wherever it is to a stop where its own registers may be restored."""
        tid = self._process.pid
        if self._process.ended:
            raise ProcessLookupError(errno.ESRCH, f"process {tid} has ended")
        stop = self._process.stops.get(tid)
        if stop is not None and stop.trap:
            self._in_call = False
            return
        if stop is None:
            # Interrupt the call, if it is in an interruptible wait.
            ptrace.interrupt(tid)
        until = time.monotonic() + RECOVER_WITHIN
        killed = False
        while stop is None or not stop.trap:
            if stop is not None:
                passed_on = 0 if stop.syscall or stop.signal in _SYNCHRONOUS else stop.signal
                ptrace.set_in_no_call(tid, own)
                ptrace.interrupt(tid)
                ptrace.resume(tid, passed_on)
            try:
                stop = self._next_stop(until)
            except TimeoutError:
                if killed:
                    # Stuck in the kernel, and will never execute anything again.
                    raise ProcessLookupError(errno.ESRCH, f"process {tid} is killed and does not end") from None
                # It can neither continue with our registers nor be restored.
                os.kill(tid, signal.SIGKILL)
                killed = True
                until = time.monotonic() + RECOVER_WITHIN
        self._in_call = False

    def _out_of_sequence(self, own: ptrace.Registers) -> ptrace.Registers:
        """Return registers that are at the abort handler, if the first thread is in a restartable sequence."""
        area = None if ptrace.in_syscall(own) else ptrace.rseq(self._process.pid)
        if area is None:
            return own
        counter = ptrace.architecture().counter
        try:
            (sequence,) = struct.unpack("=Q", self.read(area.address + 8, 8))
            if sequence == 0:
                return own
            _, _, start, length, abort = struct.unpack("=IIQQQ", self.read(sequence, 32))
            (signature,) = struct.unpack("=I", self.read(abort - 4, 4))
        except OSError:
            # The page is missing since an earlier drop: the thread has not run since; its sequence was aborted then.
            return own
        if not 0 <= own[counter] - start < length or 0 <= abort - start < length or signature != area.signature:
            return own
        return own | {counter: abort}

    def _find_instruction(self) -> int:
        """Return the address of an instruction in the process that enters the kernel. Raises Unsuitable."""
        if self._instruction is not None:
            return self._instruction
        wanted = ptrace.architecture().instruction
        step = len(wanted) if len(wanted) == 4 else 1
        places = []
        with open(f"/proc/{self._process.pid}/maps") as maps:
            for line in maps:
                span, permissions, _, _, _, *name = line.split(None, 5)
                if permissions[2] == "x" and permissions[0] == "r":
                    start, end = (int(number, 16) for number in span.split("-"))
                    # The vdso first: it is small, and mapped in all programs but those that have unmapped it.
                    places.append(("[vdso]" not in "".join(name), start, end))
        if not places:
            raise ProcessLookupError(errno.ESRCH, f"process {self._process.pid} has ended")
        for _, start, end in sorted(places):
            for at in range(start, end, 1 << 20):
                with suppress(OSError):
                    code = self.read(at, min(end - at, 1 << 20))
                    found = code.find(wanted)
                    while found >= 0 and found % step:
                        found = code.find(wanted, found + 1)
                    if found >= 0:
                        self._instruction = at + found
                        return self._instruction
        raise Unsuitable(self._process.pid, "has no instruction for a system call mapped")

    def read(self, address: int, length: int) -> bytes:
        """Read `length` bytes of its memory. Raises OSError."""
        data = os.pread(self._mem(), length, address)
        if len(data) != length:
            raise OSError(errno.EIO, f"process {self._process.pid}: {length} bytes at {address:#x} cannot be read")
        return data

    def write(self, address: int, data: bytes) -> None:
        """Write to its memory, in the scratch page. Raises OSError."""
        os.pwrite(self._mem(), data, address)

    def _mem(self) -> int:
        if self._memory is None:
            self._memory = os.open(f"/proc/{self._process.pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        return self._memory
