"""ptrace(2) as far as borrowing a thread for a few system calls needs it.

Owns the requests, the layouts of their arguments, how a stop is reported, and what differs between architectures: the
order of the registers, the instruction that enters the kernel, the numbers of the calls that are made in other
processes.

Every call but `seize` must be made by the OS thread that has seized; when that thread ends, for whatever reason, the
kernel detaches from all its tracees, stopped or not.

x86-64 is run and tested. **aarch64 is tables only**: written after the kernel's headers, never run. One known
limitation there: the kernel rewinds an interrupted call before it reports the stop, so a call that should continue by
restart_syscall(2), such as nanosleep, starts over with its full time.

Source of facts: ptrace(2), include/uapi/linux/ptrace.h, kernel/ptrace.c, kernel/signal.c, include/uapi/linux/rseq.h,
arch/x86/include/uapi/asm/ptrace.h, arch/arm64/include/uapi/asm/ptrace.h, arch/*/kernel/signal.c, system call tables.
"""

import ctypes
import errno
import os
import platform
import signal
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from zeropod.kernel import libc

_CONT: Final = 7
_DETACH: Final = 17
_SYSCALL: Final = 24
_SETOPTIONS: Final = 0x4200
_GETREGSET: Final = 0x4204
_SETREGSET: Final = 0x4205
_SEIZE: Final = 0x4206
_INTERRUPT: Final = 0x4207
_GETSIGMASK: Final = 0x420A
_SETSIGMASK: Final = 0x420B
_GET_RSEQ_CONFIGURATION: Final = 0x420F
_GET_SYSCALL_USER_DISPATCH_CONFIG: Final = 0x4211

_NT_PRSTATUS: Final = 1
_NT_ARM_SYSTEM_CALL: Final = 0x404

_EVENT_STOP: Final = 128
_WALL: Final = 0x40000000

SYSGOOD: Final = 1
"""Option: a system call stop is reported as SIGTRAP | 0x80, so that it cannot be taken for a signal."""
EXITKILL: Final = 1 << 20
"""Option: the tracee is killed when its tracer ends."""
SUSPEND_SECCOMP: Final = 1 << 21
"""Option: seccomp filters do not apply. Needs CAP_SYS_ADMIN, no filter on the tracer, CONFIG_CHECKPOINT_RESTORE."""

EVERY_SIGNAL: Final = (1 << 64) - 1
_SIGNAL_SET: Final = 8
"""Bytes of the kernel's signal set."""

_ALL_BITS: Final = EVERY_SIGNAL
_NO_CALL: Final = _ALL_BITS
"""The number of the system call in a tracee's registers while it is not in one."""

_ERESTARTNOHAND: Final = 514
"""Kernel-internal: restart the call, unless a signal handler runs first; then it fails with EINTR."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """What differs between machines."""

    registers: tuple[str, ...]
    """NT_PRSTATUS, 64 bits each."""
    arguments: tuple[str, ...]
    result: str
    counter: str
    """The program counter."""
    number: str
    """The register that holds the number of the call when the instruction is executed."""
    current: str | None
    """The register that tells which call a stopped thread is in; None: NT_ARM_SYSTEM_CALL does."""
    instruction: bytes
    """The instruction that enters the kernel for a system call."""
    calls: Mapping[str, int]
    eintr: Mapping[int, tuple[str, int, int] | None]
    """Calls that fail with EINTR after a mere stop, with the condition under which they wait for ever: a register, a
    mask, and the value of those bits; None if they always do. Otherwise an unknown part of the timeout is over."""


_X86_64: Final = Architecture(
    registers=(
        *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi"),
        *("orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs"),
    ),
    arguments=("rdi", "rsi", "rdx", "r10", "r8", "r9"),
    result="rax",
    counter="rip",
    number="rax",
    current="orig_rax",
    instruction=b"\x0f\x05",
    calls={
        "mmap": 9,
        "munmap": 11,
        "madvise": 28,
        "close": 3,
        "ioctl": 16,
        "fcntl": 72,
        "socketpair": 53,
        "recvmsg": 47,
    },
    # semop, rt_sigtimedwait, semtimedop, epoll_wait, epoll_pwait, epoll_pwait2. Source: signal(7).
    eintr={
        65: None,
        128: ("rdx", _ALL_BITS, 0),
        220: ("r10", _ALL_BITS, 0),
        232: ("r10", 1 << 31, 1 << 31),
        281: ("r10", 1 << 31, 1 << 31),
        441: ("r10", _ALL_BITS, 0),
    },
)

_AARCH64: Final = Architecture(
    registers=(*(f"x{number}" for number in range(31)), "sp", "pc", "pstate"),
    arguments=("x0", "x1", "x2", "x3", "x4", "x5"),
    result="x0",
    counter="pc",
    number="x8",
    current=None,
    instruction=b"\x01\x00\x00\xd4",
    calls={
        "mmap": 222,
        "munmap": 215,
        "madvise": 233,
        "close": 57,
        "ioctl": 29,
        "fcntl": 25,
        "socketpair": 199,
        "recvmsg": 212,
    },
    # The result has overwritten the first argument, so no call can be made again.
    eintr={},
)

_ARCHITECTURES: Final = {"x86_64": _X86_64, "aarch64": _AARCH64}


@cache
def architecture() -> Architecture:
    """Return this machine's architecture. Raises OSError(ENOSYS) for one that is not listed."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"ptrace(2): the registers of {machine} are not known to zeropod")
    return _ARCHITECTURES[machine]


@dataclass(frozen=True, slots=True)
class Stop:
    """The reason for which a tracee has stopped."""

    signal: int
    event: int

    @property
    def trap(self) -> bool:
        """Whether `interrupt` or a group stop has stopped it: before it checks for signals on its return to user mode.

        Only here may registers be restored that describe an interrupted system call: the kernel acts on them next.
        """
        return self.event == _EVENT_STOP

    @property
    def group(self) -> bool:
        """Whether a stop signal, such as SIGSTOP, has stopped its process as well."""
        return self.event == _EVENT_STOP and self.signal != signal.SIGTRAP

    @property
    def syscall(self) -> bool:
        """Whether it is at the entry or the exit of a system call."""
        return self.event == 0 and self.signal == signal.SIGTRAP | 0x80


@dataclass(frozen=True, slots=True)
class Rseq:
    address: int
    size: int
    signature: int
    """The 4 bytes before every abort handler."""


Registers = dict[str, int]
"""By name, in the kernel's order."""


def seize(tid: int, options: int = 0) -> None:
    """Become the tracer of a thread, which runs on. Raises OSError: EPERM if it already has a tracer or has ended.

    If a stop signal holds the thread *and* the v1 freezer has frozen it, blocks until it is thawed.
    """
    libc.call("ptrace", _SEIZE, tid, 0, options)


def interrupt(tid: int) -> None:
    """Make a tracee stop (`Stop.trap`) before it next executes an instruction of its own.

    A stopped tracee stops there again when it is resumed; a frozen one when it is thawed. Any other stop before that (a
    signal, a system call) cancels the request.
    """
    libc.call("ptrace", _INTERRUPT, tid, 0, 0)


def resume(tid: int, signal_number: int = 0) -> None:
    """Let a stopped tracee continue, and deliver the signal that it has stopped for (0: discard it)."""
    libc.call("ptrace", _CONT, tid, 0, signal_number)


def resume_to_syscall(tid: int, signal_number: int = 0) -> None:
    """Let a stopped tracee continue to the next entry or exit of a system call."""
    libc.call("ptrace", _SYSCALL, tid, 0, signal_number)


def detach(tid: int) -> None:
    """Detach from a stopped tracee, which continues. Raises OSError: ESRCH if it is not stopped."""
    libc.call("ptrace", _DETACH, tid, 0, 0)


def set_options(tid: int, options: int) -> None:
    """Replace the options of a stopped tracee. Raises OSError: EPERM and EINVAL for SUSPEND_SECCOMP."""
    libc.call("ptrace", _SETOPTIONS, tid, 0, options)


def next_stop(tid: int) -> Stop | None:
    """Return the reason of a tracee's stop, once for each stop; None while it runs.

    Never takes an exit status away from the parent, which may be another thread of ours. Raises ChildProcessError when
    the tracee has ended.
    """
    result = os.waitid(os.P_PID, tid, os.WSTOPPED | os.WNOHANG | _WALL)
    if result is None:
        return None
    return Stop(result.si_status & 0xFF, result.si_status >> 8)


def reap(tid: int) -> bool:
    """Collect the exit of a tracee that is not our child, so that its parent gets it.

    Returns whether it had exited: the first thread of a process exits after all others. Raises ChildProcessError.
    """
    return os.waitid(os.P_PID, tid, os.WEXITED | os.WNOHANG | _WALL) is not None


class OtherWidth(Exception):  # noqa: N818 - named for what was found
    """The tracee is a 32-bit program: its registers have another layout."""


def registers(tid: int) -> Registers:
    """Return a stopped tracee's registers. Raises OtherWidth, OSError."""
    names = architecture().registers
    raw = _regset(tid, _NT_PRSTATUS, 8 * len(names) + 8)
    if len(raw) != 8 * len(names):
        raise OtherWidth
    return dict(zip(names, struct.unpack(f"={len(names)}Q", raw), strict=True))


def set_registers(tid: int, values: Registers) -> None:
    """Replace a stopped tracee's registers. At a system call stop on aarch64 the kernel ignores x7."""
    _set_regset(tid, _NT_PRSTATUS, struct.pack(f"={len(values)}Q", *values.values()))


def prepare_call(tid: int, own: Registers, at: int, name: str, arguments: tuple[int, ...]) -> None:
    """Have a stopped tracee make a system call when it is next resumed, by the instruction at address `at`."""
    table = architecture()
    changed = own | {table.counter: at, table.number: table.calls[name]}
    for register, value in zip(table.arguments, arguments, strict=False):
        changed[register] = value & _ALL_BITS
    set_in_no_call(tid, changed)


def set_in_no_call(tid: int, own: Registers) -> None:
    """Set a stopped tracee's registers and mark it as not in a system call.

    At a trap the kernel then restarts none, and at the entry of a call it skips that call.
    """
    table = architecture()
    if table.current is not None:
        set_registers(tid, own | {table.current: _NO_CALL})
    else:
        set_registers(tid, own)
        _set_regset(tid, _NT_ARM_SYSTEM_CALL, struct.pack("=i", -1))


def in_syscall(own: Registers) -> bool:
    """Return whether a thread that has stopped at a trap was returning from a system call. False if unknown."""
    current = architecture().current
    return current is not None and own[current] < 1 << 63


def without_spurious_eintr(own: Registers) -> Registers:
    """Return registers that restart a call which failed with EINTR only because of the stop.

    If a signal handler runs first, it fails with EINTR as it should. Returns `own` itself if nothing is to be changed.
    """
    table = architecture()
    if table.current is None or own[table.result] != -errno.EINTR & _ALL_BITS or own[table.current] not in table.eintr:
        return own
    for_ever = table.eintr[own[table.current]]
    if for_ever is not None:
        register, bits, value = for_ever
        if own[register] & bits != value:
            return own
    return own | {table.result: -_ERESTARTNOHAND & _ALL_BITS}


def signal_mask(tid: int) -> int:
    """Return a stopped tracee's blocked signals; inside sigsuspend, ppoll and the like, those blocked outside of it."""
    buffer = ctypes.create_string_buffer(_SIGNAL_SET)
    libc.call("ptrace", _GETSIGMASK, tid, _SIGNAL_SET, buffer)
    return int.from_bytes(buffer.raw, "little")


def set_signal_mask(tid: int, mask: int) -> None:
    """Replace a stopped tracee's blocked signals; also discards the temporary mask of sigsuspend and the like."""
    buffer = ctypes.create_string_buffer(mask.to_bytes(_SIGNAL_SET, "little"), _SIGNAL_SET)
    libc.call("ptrace", _SETSIGMASK, tid, _SIGNAL_SET, buffer)


def rseq(tid: int) -> Rseq | None:
    """Return a stopped tracee's rseq area; None if it has none, or the kernel has no rseq(2)."""
    address, size, signature = struct.unpack_from("=QII", _configuration(tid, _GET_RSEQ_CONFIGURATION, 24))
    return Rseq(address, size, signature) if address else None


def dispatches_syscalls(tid: int) -> bool:
    """Return whether a stopped tracee handles its system calls itself (PR_SET_SYSCALL_USER_DISPATCH)."""
    # Kernels before 6.4 cannot tell; aarch64 does not have it.
    return any(_configuration(tid, _GET_SYSCALL_USER_DISPATCH_CONFIG, 32)[:8])


def _configuration(tid: int, request: int, size: int) -> bytes:
    """Return so many bytes from the kernel; zeroes if it has no such configuration. Raises OSError."""
    buffer = ctypes.create_string_buffer(size)
    try:
        libc.call("ptrace", request, tid, size, buffer)
    except OSError as error:
        if error.errno not in (errno.EIO, errno.EINVAL):
            raise
    return buffer.raw


def _regset(tid: int, kind: int, size: int) -> bytes:
    buffer = ctypes.create_string_buffer(size)
    vector = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(buffer), size), 16)
    libc.call("ptrace", _GETREGSET, tid, kind, vector)
    return buffer.raw[: struct.unpack_from("=Q", vector.raw, 8)[0]]


def _set_regset(tid: int, kind: int, data: bytes) -> None:
    buffer = ctypes.create_string_buffer(data, len(data))
    vector = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(buffer), len(data)), 16)
    libc.call("ptrace", _SETREGSET, tid, kind, vector)
