"""Borrowing a thread of a process: a userfaultfd of its memory, and pages dropped from it.

Owns stopping all threads of the processes of a container, the system calls that one thread of each makes for us, and
putting everything back. Which pages to drop, and serving the faults that follow, is its caller's. The rules:

1. No instruction of the application runs between `seize` and `release`. A thread that is seized while its cgroup is
   frozen stops as soon as it is thawed, before it gets there; one that is let go of while its cgroup is frozen
   freezes. The caller owns the freezer: `held` calls back for both.
2. Whatever the process could see is put back: registers, signal mask, an interrupted system call, the restartable
   sequence, descriptors, mappings. Arguments lie in a page that is mapped for it, so no byte of the application's
   is ever changed, not even for a moment: the kernel might be reading from a device into it.
3. While a thread has our registers the kernel is told to kill the process if we die (EXITKILL), and only then. A
   process that dies is better than one that runs on with them.
4. The OS thread that seizes makes every other call. When it ends the kernel lets go of what it still traces, which
   is the only way to let go of a thread that has not stopped. So run all of it in `own_thread`.

Traps:
- The kernel restarts an interrupted call (and decides, by the signals that wait, whether that fails with EINTR) only
  where it looks for signals. So a thread that is at the end of a borrowed call is stopped once more by
  PTRACE_INTERRUPT, and gets its own registers back there, with the kernel's -ERESTART... in them.
- Every stop takes a pending PTRACE_INTERRUPT away, also one for a signal or a system call: it has to be asked for
  again before the thread is resumed, or that runs on.
- After a drop the kernel itself faults on a thread's rseq area, on the way back to user mode and so within a borrowed
  call: `while_waiting` has to serve that. `kept_pages` spares it.
- The event of a drop must be read, by another thread or by `while_waiting`, or madvise(2) never returns.
- A restartable sequence that a borrowed thread was in is over: the kernel forgets it when it sees other code run.
  The thread goes on at its abort handler, as it does whenever it is preempted.
- PTRACE_SEIZE of a thread that is both stopped by a signal and frozen (v1) blocks until it is thawed. Only where it
  waits in the kernel (wchan) tells such a thread from others that are frozen.
- A wait for the end of a tracee takes its exit status away from a parent in the same process. Stops only, therefore.
- Injected calls are subject to the seccomp filter of the process, and a filter may kill. If it cannot be suspended
  nothing is tried.
- epoll_wait(2) and some others fail with EINTR for the stop alone; where they wait for ever they are made to wait on.
"""

import errno
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, TypeVar

from zeropod.kernel import pidfd, proc_stat, ptrace, userfault

PAGE: Final = userfault.PAGE

DROP_PRIVATE: Final = 4
"""MADV_DONTNEED: for private memory."""
DROP_SHARED: Final = 9
"""MADV_REMOVE: for shared memory; the pages are gone for all that map it."""

STOP_WITHIN: Final = 2.0
"""Seconds until all threads must have stopped. It takes some 100 µs; a thread that waits for a disk, or for a child to
exec (vfork), may take for ever, and all others stand still meanwhile."""
CALL_WITHIN: Final = 20.0
"""Seconds until a borrowed call must have returned: it waits for its event to be read, and for faults to be served."""
RECOVER_WITHIN: Final = 20.0
"""Seconds in which a thread whose call has not returned in time may still do so, before its process is killed."""
LET_GO_WITHIN: Final = 0.5
"""Seconds for a thread that has not stopped yet to do so when it is let go of; the end of our thread does the rest."""

_SPINS: Final = 40
"""Looks at a tracee before sleeping in between: most calls take less than a switch to another task and back."""
_PAUSE: Final = 0.00005

_SYNCHRONOUS: Final = frozenset(
    {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGSYS, signal.SIGTRAP}
)
"""Signals that our own code in the process would cause."""

# Of field 9 of /proc/PID/stat. Source: include/linux/sched.h.
_EXITING: Final = 0x4
_KERNEL_THREAD: Final = 0x200000

_READ, _WRITE = 1, 2
_PRIVATE_ANONYMOUS: Final = 0x22
_F_DUPFD_CLOEXEC: Final = 1030
_CMSG_CLOEXEC: Final = 0x40000000

# Where in the scratch page what lies: socketpair's result; recvmsg's message, its vector, byte and control data.
_PAIR, _MESSAGE, _VECTOR, _BYTE, _CONTROL = 0, 64, 128, 160, 192
_CONTROL_SIZE: Final = 24

_NO_OPTION: Final = (errno.EPERM, errno.EINVAL)

T = TypeVar("T")


class Unsuitable(Exception):  # noqa: N818 - named for what was found
    """A process whose thread cannot be borrowed, and why. It is as it was before."""

    def __init__(self, pid: int, reason: str) -> None:
        super().__init__(f"process {pid} {reason}")
        self.pid = pid
        self.reason = reason


def own_thread(work: Callable[[], T]) -> T:
    """Run `work` in an OS thread made for it; return, or raise, what it does when that thread has really ended.

    By then nothing is traced by it any more.
    """
    result: list[T] = []
    failure: list[BaseException] = []
    tid: list[int] = []

    def run() -> None:
        tid.append(threading.get_native_id())
        try:
            result.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            failure.append(error)

    thread = threading.Thread(target=run, name="injection", daemon=True)
    thread.start()
    thread.join()
    # join() returns a moment before the thread's end in the kernel, which is what detaches.
    while tid and os.path.exists(f"/proc/self/task/{tid[0]}"):
        time.sleep(_PAUSE)
    if failure:
        raise failure[0]
    return result[0]


class Injection:
    """One process whose threads are all stopped, until `release`."""

    def __init__(self, pid: int, *, even_stopped: bool = False) -> None:
        """Not for callers: `seize` or `stop`."""
        self.pid = pid
        self.while_waiting: Callable[[], None] | None = None
        """Called again and again while a call in the process has not returned: serve its faults.

        What it raises ends `drop` and `open_userfaultfd`, but only when that call has returned.
        """
        self.kept_descriptor: int | None = None
        """The number of the userfaultfd's duplicate in the process, after `open_userfaultfd` with `keep_at`."""
        self._even_stopped = even_stopped
        self._tracer = threading.get_native_id()
        self._running: set[int] = set()
        """Seized and not stopped yet."""
        self._dead: set[int] = set()
        """Ended, and to be taken note of."""
        self._stopped: dict[int, ptrace.Stop] = {}
        self._memory: int | None = None
        self._instruction: int | None = None
        self._in_call = False
        """A call has begun and has not been seen to end."""
        self._failure: Exception | None = None
        """What `while_waiting` has raised first."""
        self._gone = False
        self._released = False

    @classmethod
    def stop(
        cls,
        pid: int,
        *,
        deadline: float | None = None,
        even_stopped: bool = False,
        while_waiting: Callable[[], None] | None = None,
    ) -> "Injection":
        """Stop all threads of a process that is not frozen (v1), and return when they are.

        `deadline` is in seconds of time.monotonic(). `even_stopped` takes one that a stop signal holds, which it does
        again afterwards. Raises Unsuitable, OSError; then nothing is traced any more, but for a thread that could not
        be stopped, until the calling OS thread ends (`own_thread`).
        """
        injection = cls.seize(pid, even_stopped=even_stopped)
        try:
            injection.wait_stopped(deadline, while_waiting)
        except BaseException:
            injection.release()
            raise
        return injection

    @classmethod
    def seize(cls, pid: int, *, even_stopped: bool = False) -> "Injection":
        """Have all threads of a process stop: now, or when it is thawed. `wait_stopped` comes next, or `release`.

        Raises Unsuitable, OSError.
        """
        self = cls(pid, even_stopped=even_stopped)
        self._look(even_stopped)
        try:
            self._seize_new()
            if not self._running:
                raise Unsuitable(pid, "has ended")
        except BaseException:
            self.release(LET_GO_WITHIN if self._running else 0)
            raise
        return self

    def wait_stopped(self, deadline: float | None = None, while_waiting: Callable[[], None] | None = None) -> None:
        """Return when all threads are stopped, those started meanwhile too. They must have been thawed (v1).

        `while_waiting` may raise in order to give up. Raises Unsuitable: `release` is due in any case.
        """
        self._check()
        until = time.monotonic() + STOP_WITHIN if deadline is None else deadline
        looks = 0
        while True:
            self._collect()
            if not self._running and not self._seize_new():
                break
            if time.monotonic() > until:
                self._unstoppable()
            if while_waiting is not None:
                while_waiting()
            _pause(looks := looks + 1)
        self._check_borrowable()

    def open_userfaultfd(self, features: int, keep_at: int | None = None) -> int:
        """Make a userfaultfd of this process; return our descriptor of it (close-on-exec, non-blocking).

        The handshake for `features` is done. With `keep_at` a duplicate stays in the process, at that number or above
        (or below, where its limit forbids that): `kept_descriptor`. Raises Unsuitable with the call that fails in the
        process, OSError for what fails here; then no descriptor is left on either side.
        """
        self._check()
        device = userfault.device()
        try:
            handle = pidfd.open(self.pid)
            try:
                with self._borrowed() as call:
                    return self._make(call, handle, device, features, keep_at)
            finally:
                os.close(handle)
        finally:
            os.close(device)

    def drop(self, ranges: Sequence[tuple[int, int]], advice: int = DROP_PRIVATE) -> None:
        """Have the process give back the pages in each range (start, length), in this order.

        Returns when the last call has; each of them waits for its event to be read. Raises OSError: the ranges before
        the failing one are dropped. ProcessLookupError: it has ended.
        """
        self._check()
        with self._borrowed() as call:
            for start, length in ranges:
                call("madvise", start, length, advice)
                self._raise_failure()

    def close_descriptor(self, number: int) -> None:
        """Have the process close a userfaultfd in its table; does nothing where that number is something else by now.

        Raises OSError.
        """
        self._check()
        if self.holds(number):
            with self._borrowed() as call:
                call("close", number)
        if number == self.kept_descriptor:
            self.kept_descriptor = None

    def holds(self, number: int) -> bool:
        """Whether that descriptor of the process is a userfaultfd."""
        try:
            return os.readlink(f"/proc/{self.pid}/fd/{number}") == "anon_inode:[userfaultfd]"
        except OSError:
            return False

    def rseq_areas(self) -> list[tuple[int, int]]:
        """Return address and size of each thread's area for restartable sequences: the kernel itself looks there."""
        self._check()
        areas = (ptrace.rseq(tid) for tid in self._stopped)
        return [(area.address, area.size) for area in areas if area is not None]

    @property
    def kept_pages(self) -> list[int]:
        """Addresses of pages that should not be dropped: each borrowed call would fault on them again."""
        self._check()
        area = ptrace.rseq(self.pid)
        if area is None:
            return []
        first = area.address & -PAGE
        return list(range(first, area.address + area.size, PAGE))

    @property
    def threads(self) -> list[int]:
        """The threads that are stopped."""
        return list(self._stopped)

    def release(self, patience: float = LET_GO_WITHIN) -> None:
        """Let go of all threads. They run on, or freeze if their cgroup is frozen.

        Idempotent, and never raises for a process that has ended. A thread that has not stopped within `patience`
        seconds is let go of by the end of the calling OS thread.
        """
        if self._released:
            return
        self._released = True
        until = time.monotonic() + patience
        looks = 0
        while True:
            self._let_go()
            self._reap()
            if (not self._running and not self._dead) or time.monotonic() > until:
                break
            _pause(looks := looks + 1)
            self._collect()
        if self._memory is not None:
            os.close(self._memory)
            self._memory = None

    # Stopping

    def _check(self) -> None:
        if self._released:
            raise RuntimeError(f"process {self.pid} has been released")
        if threading.get_native_id() != self._tracer:
            raise RuntimeError(f"process {self.pid} was seized by another thread")

    def _look(self, even_stopped: bool) -> None:
        """Raise Unsuitable for what can be told without touching the process."""
        try:
            status = _status(f"/proc/{self.pid}/status")
            flags = proc_stat.read(self.pid).flags
            threads = os.listdir(f"/proc/{self.pid}/task")
        except (FileNotFoundError, ProcessLookupError):
            raise Unsuitable(self.pid, "has ended") from None
        if flags & _KERNEL_THREAD:
            raise Unsuitable(self.pid, "is a thread of the kernel")
        # Its first thread may have ended while others live on: they can be held, but not borrowed from.
        if len(threads) == 1 and status["State"][0] in "ZX":
            raise Unsuitable(self.pid, "is a zombie")
        if len(threads) == 1 and flags & _EXITING:
            raise Unsuitable(self.pid, "is exiting")
        if status["TracerPid"] != "0":
            raise Unsuitable(self.pid, f"is traced by {status['TracerPid']}")
        if not even_stopped and status["State"][0] == "T":
            raise Unsuitable(self.pid, "is stopped by a signal")

    def _seize_new(self) -> bool:
        """Seize and interrupt threads that are not yet; return whether there were any."""
        found = False
        try:
            names = os.listdir(f"/proc/{self.pid}/task")
        except (FileNotFoundError, ProcessLookupError):
            return False
        for tid in map(int, names):
            if tid in self._running or tid in self._stopped:
                continue
            if _wchan(self.pid, tid) == "do_signal_stop" and not self._even_stopped:
                raise Unsuitable(self.pid, "is stopped by a signal")
            try:
                ptrace.seize(tid)
            except ProcessLookupError:
                continue
            except PermissionError as error:
                self._refused(tid, error)
                continue
            self._running.add(tid)
            found = True
            with suppress(ProcessLookupError):
                ptrace.interrupt(tid)
        return found

    def _refused(self, tid: int, error: OSError) -> None:
        """Raise why a thread cannot be seized, unless it has ended."""
        try:
            status = _status(f"/proc/{self.pid}/task/{tid}/status")
        except (FileNotFoundError, ProcessLookupError):
            return
        if status["State"][0] in "ZX":
            return
        if status["TracerPid"] != "0":
            raise Unsuitable(self.pid, f"is traced by {status['TracerPid']}") from error
        raise Unsuitable(self.pid, f"cannot be traced: {error.strerror}") from error

    def _collect(self) -> None:
        """Take note of the threads that have stopped."""
        for tid in list(self._running):
            try:
                stop = ptrace.next_stop(tid)
                if stop is None:
                    continue
                if stop.trap:
                    self._stopped[tid] = stop
                    self._running.discard(tid)
                    self._undo_interruption(tid)
                else:
                    # A signal was on its way. Its handler's frame is made, and then the thread stops.
                    ptrace.interrupt(tid)
                    ptrace.resume(tid, stop.signal)
            except (ChildProcessError, ProcessLookupError):
                self._ended(tid)

    def _undo_interruption(self, tid: int) -> None:
        with suppress(ptrace.OtherWidth):
            own = ptrace.registers(tid)
            changed = ptrace.without_spurious_eintr(own)
            if changed is not own:
                ptrace.set_registers(tid, changed)

    def _unstoppable(self) -> None:
        waits = ", ".join(f"{tid} in {_wchan(self.pid, tid) or 'user mode'}" for tid in sorted(self._running))
        raise Unsuitable(self.pid, f"has threads that do not stop: {waits}" if waits else "starts threads all the time")

    def _check_borrowable(self) -> None:
        """Raise Unsuitable for what can be told once all threads are stopped."""
        if self.pid not in self._stopped:
            # Without it there is neither /proc/PID/mem nor pidfd_getfd(2).
            raise Unsuitable(self.pid, "has ended" if not self._stopped else "has lost its first thread")
        if not self._even_stopped and any(stop.group for stop in self._stopped.values()):
            raise Unsuitable(self.pid, "is stopped by a signal")
        try:
            ptrace.registers(self.pid)
            if ptrace.dispatches_syscalls(self.pid):
                raise Unsuitable(self.pid, "handles its system calls itself")
        except ptrace.OtherWidth:
            raise Unsuitable(self.pid, "is a 32-bit program") from None
        except ProcessLookupError:
            raise Unsuitable(self.pid, "has ended") from None

    def _let_go(self) -> None:
        for tid in list(self._stopped):
            try:
                ptrace.detach(tid)
                del self._stopped[tid]
            except ProcessLookupError:
                self._ended(tid)

    def _ended(self, tid: int) -> None:
        self._stopped.pop(tid, None)
        self._running.discard(tid)
        self._dead.add(tid)
        if tid == self.pid:
            self._gone = True

    def _reap(self) -> None:
        """Take note of the end of threads, which stay until their tracer has, and their process with them."""
        for tid in list(self._dead):
            with suppress(OSError, KeyError):
                # The exit status of our own child is for whoever waits for it.
                ours = tid == self.pid and _status(f"/proc/{tid}/status")["PPid"] == str(os.getpid())
                if not ours and not ptrace.reap(tid):
                    continue
            self._dead.discard(tid)

    # Borrowing

    @contextmanager
    def _borrowed(self) -> Iterator[Callable[..., int]]:
        """The first thread makes calls for us; afterwards it is as it was. Raises Unsuitable, ProcessLookupError."""
        tid = self.pid
        if self._gone or tid not in self._stopped:
            raise ProcessLookupError(errno.ESRCH, f"process {tid} has ended")
        own = self._out_of_sequence(ptrace.registers(tid))
        mask = ptrace.signal_mask(tid)
        at = self._find_instruction()
        self._failure = None
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
                self._ended(tid)

    def _set_foreign_options(self) -> None:
        options = ptrace.SYSGOOD | ptrace.EXITKILL
        try:
            ptrace.set_options(self.pid, options | ptrace.SUSPEND_SECCOMP)
        except OSError as error:
            if error.errno not in _NO_OPTION:
                raise
            if _status(f"/proc/{self.pid}/status").get("Seccomp", "0") != "0":
                reason = f"has a seccomp filter, which may kill it and which we cannot suspend: {error.strerror}"
                raise Unsuitable(self.pid, reason) from error
            ptrace.set_options(self.pid, options)

    def _call(self, own: ptrace.Registers, at: int, name: str, arguments: tuple[int, ...]) -> int:
        """Have the first thread make a system call; return its result. Raises OSError."""
        tid = self.pid
        if self._in_call:
            # The one before was given up.
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
        tid = self.pid
        until = time.monotonic() + CALL_WITHIN
        ptrace.resume_to_syscall(tid)
        while True:
            stop = self._next_stop(until)
            if stop.syscall:
                return
            if stop.trap:
                # A stop signal holds the process, or has just let go of it.
                ptrace.resume_to_syscall(tid)
            elif stop.signal in _SYNCHRONOUS:
                name = signal.Signals(stop.signal).name
                raise OSError(errno.EFAULT, f"process {tid}: {name} in a system call made for zeropod")
            else:
                # SIGSTOP: all others are blocked. It holds the process when we have let go.
                ptrace.resume_to_syscall(tid, stop.signal)

    def _next_stop(self, until: float) -> ptrace.Stop:
        """Wait for the first thread to stop. Raises TimeoutError, and ProcessLookupError when it has ended."""
        tid = self.pid
        self._stopped.pop(tid, None)
        looks = 0
        while True:
            try:
                stop = ptrace.next_stop(tid)
            except ChildProcessError:
                self._ended(tid)
                raise ProcessLookupError(errno.ESRCH, f"process {tid} has ended") from None
            if stop is not None:
                self._stopped[tid] = stop
                return stop
            self._serve()
            if looks % 16 == 15 and self._is_exiting():
                # The first process of a pid namespace does not end before all others there are reaped, and those that
                # are traced, its own other threads among them, are so by their tracer alone: by `release`.
                self._ended(tid)
                raise ProcessLookupError(errno.ESRCH, f"process {tid} has ended")
            if looks % 16 == 15 and time.monotonic() > until:
                raise TimeoutError(errno.ETIMEDOUT, f"process {tid} does not return from a call made for zeropod")
            _pause(looks := looks + 1)

    def _is_exiting(self) -> bool:
        try:
            return proc_stat.read(self.pid).flags & _EXITING != 0
        except (FileNotFoundError, ProcessLookupError):
            return True

    def _serve(self) -> None:
        if self.while_waiting is None:
            return
        try:
            self.while_waiting()
        except Exception as error:  # noqa: BLE001 - the call has to be waited for, whatever goes wrong here
            self._failure = self._failure or error

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _back_to_trap(self, own: ptrace.Registers) -> None:
        """Bring the first thread, wherever it is, to where it may get its own registers back."""
        tid = self.pid
        if self._gone:
            raise ProcessLookupError(errno.ESRCH, f"process {tid} has ended")
        stop = self._stopped.get(tid)
        if stop is not None and stop.trap:
            self._in_call = False
            return
        if stop is None:
            # A wait that this can end need not be waited for.
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
                    # Stuck in the kernel: it will never execute anything again.
                    raise ProcessLookupError(errno.ESRCH, f"process {tid} is killed and does not end") from None
                # It can neither go on as it is nor be put back.
                os.kill(tid, signal.SIGKILL)
                killed = True
                until = time.monotonic() + RECOVER_WITHIN
        self._in_call = False

    def _out_of_sequence(self, own: ptrace.Registers) -> ptrace.Registers:
        """Return registers that are at the abort handler, if the first thread is in a restartable sequence."""
        area = None if ptrace.in_syscall(own) else ptrace.rseq(self.pid)
        if area is None:
            return own
        counter = ptrace.architecture().counter
        try:
            (sequence,) = struct.unpack("=Q", self._read(area.address + 8, 8))
            if sequence == 0:
                return own
            _, _, start, length, abort = struct.unpack("=IIQQQ", self._read(sequence, 32))
            (signature,) = struct.unpack("=I", self._read(abort - 4, 4))
        except OSError:
            # Not there since an earlier drop: the thread has not run since, and had been taken out of it then.
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
        with open(f"/proc/{self.pid}/maps") as maps:
            for line in maps:
                span, permissions, _, _, _, *name = line.split(None, 5)
                if permissions[2] == "x" and permissions[0] == "r":
                    start, end = (int(number, 16) for number in span.split("-"))
                    # The vdso first: it is small, and there in every program but for those that have unmapped it.
                    places.append(("[vdso]" not in "".join(name), start, end))
        if not places:
            raise ProcessLookupError(errno.ESRCH, f"process {self.pid} has ended")
        for _, start, end in sorted(places):
            for at in range(start, end, 1 << 20):
                with suppress(OSError):
                    code = self._read(at, min(end - at, 1 << 20))
                    found = code.find(wanted)
                    while found >= 0 and found % step:
                        found = code.find(wanted, found + 1)
                    if found >= 0:
                        self._instruction = at + found
                        return self._instruction
        raise Unsuitable(self.pid, "has no instruction for a system call mapped")

    def _read(self, address: int, length: int) -> bytes:
        data = os.pread(self._mem(), length, address)
        if len(data) != length:
            raise OSError(errno.EIO, f"process {self.pid}: {length} bytes at {address:#x} cannot be read")
        return data

    def _mem(self) -> int:
        if self._memory is None:
            self._memory = os.open(f"/proc/{self.pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        return self._memory

    # The userfaultfd

    def _make(self, call: Callable[..., int], handle: int, device: int, features: int, keep_at: int | None) -> int:
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
            made.extend(struct.unpack("=ii", self._read(page + _PAIR, 8)))
            with socket.socket(fileno=pidfd.getfd(handle, made[0])) as ours:
                socket.send_fds(ours, [b"x"], [device])
            made.append(self._receive(in_it, made[1], page))
            made.append(in_it("ioctl", made[2], userfault.NEW, os.O_CLOEXEC | os.O_NONBLOCK))
            uffd = pidfd.getfd(handle, made[3])
            try:
                userfault.handshake(uffd, features)
                self._raise_failure()
                if keep_at is not None:
                    self.kept_descriptor = self._keep(call, made[3], keep_at)
            except BaseException:
                os.close(uffd)
                raise
            return uffd
        finally:
            with suppress(ProcessLookupError):
                for number in made:
                    call("close", number)
                call("munmap", page, PAGE)

    def _receive(self, call: Callable[..., int], descriptor: int, page: int) -> int:
        """Have the process take the descriptor that was sent to it; return the number."""
        message = struct.pack("=QIxxxxQQQQixxxx", 0, 0, page + _VECTOR, 1, page + _CONTROL, _CONTROL_SIZE, 0)
        os.pwrite(self._mem(), message, page + _MESSAGE)
        os.pwrite(self._mem(), struct.pack("=QQ", page + _BYTE, 1), page + _VECTOR)
        call("recvmsg", descriptor, page + _MESSAGE, socket.MSG_DONTWAIT | _CMSG_CLOEXEC)
        length, level, kind, number = struct.unpack("=Qiii", self._read(page + _CONTROL, 20))
        if (length, level, kind) != (20, socket.SOL_SOCKET, socket.SCM_RIGHTS):
            # Its table is full, or a security module is against it.
            raise Unsuitable(self.pid, "cannot be given a userfaultfd: recvmsg in it received no descriptor")
        return int(number)

    def _keep(self, call: Callable[..., int], number: int, keep_at: int) -> int | None:
        for at in (keep_at, _limit(self.pid) * 7 // 8):
            try:
                return call("fcntl", number, _F_DUPFD_CLOEXEC, at)
            except ProcessLookupError:
                raise
            except OSError:
                continue
        return None


@dataclass(slots=True)
class Held:
    """The processes of a container, all stopped."""

    injections: list[Injection] = field(default_factory=list)
    """Those whose threads can be borrowed."""
    unsuitable: dict[int, str] = field(default_factory=dict)
    """Those that cannot, and why; they are stopped all the same, or ended, or held by a stop signal."""


@contextmanager
def held(
    pids: Sequence[int],
    *,
    thaw: Callable[[], None],
    freeze: Callable[[], None],
    deadline: float | None = None,
    while_waiting: Callable[[], None] | None = None,
) -> Iterator[Held]:
    """All processes of a frozen cgroup, held by ptrace instead of by the freezer; afterwards by the freezer again.

    `thaw` is called once all are seized; `freeze` before they are let go of, on every way out after `thaw`. Freezing
    tasks that are stopped is a matter of microseconds, and it need not be waited for until it is complete: a task that
    is let go of freezes before it runs. If the container is to run on, `freeze` does nothing. `while_waiting` is
    called until all are stopped, and may raise in order to give up.

    Raises Unsuitable where a process that could run cannot be held, because it has another tracer; nothing has been
    thawed then. Must run in `own_thread`: that is what undoes a `seize` of what is still frozen.
    """
    result = Held()
    seized: list[Injection] = []
    thawed = False
    try:
        for pid in pids:
            try:
                seized.append(Injection.seize(pid))
            except Unsuitable as unsuitable:
                if not _cannot_run(pid):
                    raise
                result.unsuitable[pid] = unsuitable.reason
        thawed = True
        thaw()
        until = time.monotonic() + STOP_WITHIN if deadline is None else deadline
        for injection in seized:
            try:
                injection.wait_stopped(until, while_waiting)
                result.injections.append(injection)
            except Unsuitable as unsuitable:
                result.unsuitable[injection.pid] = unsuitable.reason
        yield result
    finally:
        try:
            if thawed:
                freeze()
        finally:
            for injection in seized:
                # What is still frozen does not stop, however long that is waited for.
                injection.release(LET_GO_WITHIN if thawed else 0)


def _cannot_run(pid: int) -> bool:
    """Whether a process that has not been seized executes nothing when it is thawed."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        return all(
            _wchan(pid, int(tid)) == "do_signal_stop" or _status(f"/proc/{pid}/task/{tid}/status")["State"][0] in "ZXT"
            for tid in threads
        )
    except (FileNotFoundError, ProcessLookupError):
        return True


def _pause(looks: int) -> None:
    if looks < _SPINS:
        os.sched_yield()
    else:
        time.sleep(_PAUSE)


def _status(path: str) -> dict[str, str]:
    with open(path, errors="replace") as file:
        return {key: value.strip() for key, _, value in (line.partition(":") for line in file)}


def _wchan(pid: int, tid: int) -> str:
    """Where in the kernel a thread waits; empty where that is not known."""
    try:
        with open(f"/proc/{pid}/task/{tid}/wchan") as file:
            name = file.read()
    except OSError:
        return ""
    return "" if name == "0" else name


def _limit(pid: int) -> int:
    """How many descriptors a process may have."""
    try:
        with open(f"/proc/{pid}/limits") as file:
            for line in file:
                if line.startswith("Max open files"):
                    return int(line.split()[3])
    except (OSError, ValueError):
        pass
    return 0
