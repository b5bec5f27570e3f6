"""A process or a thread as /proc describes it: its stat, its status and signals, where in the kernel it waits.

Owns the only parsers of these files. Fields of stat are numbered from 1, as in proc_pid_stat(5).

Source of facts: proc_pid_stat(5), proc_pid_status(5), proc_pid_wchan(5), proc_pid_limits(5).
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

_FIRST = 3
"""The number of the first field after the name."""


@dataclass(frozen=True, slots=True)
class Stat:
    name: str
    fields: tuple[str, ...]
    """The third and all later fields."""

    def number(self, field: int) -> int:
        """Return the field of this number. Raises IndexError where the kernel has no such field."""
        return int(self.fields[field - _FIRST])

    @property
    def state(self) -> str:
        """One letter: R, S, D, T, t, Z, X, I."""
        return self.fields[0]

    @property
    def parent(self) -> int:
        return self.number(4)

    @property
    def flags(self) -> int:
        """The kernel's PF_ flags."""
        return self.number(9)

    @property
    def start(self) -> int:
        """Start time in clock ticks since boot: with the pid it identifies a process even if the pid is reused."""
        return self.number(22)


def pids() -> Iterator[int]:
    """Yield all processes."""
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())


def read(pid: int | str, tid: int | None = None) -> Stat:
    """Return the stat of a process, or of one of its threads.

    Raises OSError: FileNotFoundError or ProcessLookupError when it is gone.
    """
    return parse(content(f"{_directory(pid, tid)}/stat").decode(errors="replace"))


def status(pid: int | str, tid: int | None = None) -> dict[str, str]:
    """Return the status of a process, or of one of its threads, by field. Raises OSError as `read` does."""
    with open(f"{_directory(pid, tid)}/status", errors="replace") as file:
        return fields(file.read())


def wchan(pid: int, tid: int) -> str:
    """Return the kernel function in which a thread waits; empty if unknown, or while it runs."""
    try:
        return content(f"{_directory(pid, tid)}/wchan").decode().strip().removeprefix("0")
    except OSError:
        return ""


def has_due_signal(pid: int) -> bool:
    """Return whether a signal is pending that a thread of the process will handle as soon as it runs (signal(7)).

    One that all threads block, or that is ignored, is not. False for a process that has ended.
    """
    try:
        return any(_is_due(status(pid, int(task))) for task in os.listdir(f"/proc/{pid}/task"))
    except (FileNotFoundError, ProcessLookupError):
        return False


def _is_due(found: dict[str, str]) -> bool:
    own, shared, blocked, ignored = (int(found[name], 16) for name in ("SigPnd", "ShdPnd", "SigBlk", "SigIgn"))
    return bool((own | shared) & ~blocked & ~ignored)


def descriptor_limit(pid: int) -> int:
    """Return how many descriptors a process may have; 0 if unknown."""
    with suppress(OSError, StopIteration, ValueError), open(f"/proc/{pid}/limits") as file:
        return int(next(line for line in file if line.startswith("Max open files")).split()[3])
    return 0


def _directory(pid: int | str, tid: int | None) -> str:
    return f"/proc/{pid}" if tid is None else f"/proc/{pid}/task/{tid}"


def content(path: str) -> bytes:
    """Return a file of /proc with up to 4 KiB. Raises OSError."""
    # Not a buffered file: inspecting a sleeping container takes many of these reads.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def fields(text: str) -> dict[str, str]:
    """Return the lines `name: value` of a file such as /proc/PID/status; of several of one name the last."""
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def parse(text: str) -> Stat:
    """Parse the content of this file. Raises ValueError for any other text."""
    # The name may hold blanks and parentheses: the last parenthesis ends it.
    head, end, rest = text.rpartition(")")
    fields = tuple(rest.split())
    if not end or not fields:
        raise ValueError(f"not the content of /proc/PID/stat: {text!r}")
    return Stat(head.partition("(")[2], fields)
