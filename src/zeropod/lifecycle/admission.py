"""Admission slots: only a few containers of a node move memory or are dumped at once, across all shims.

A slot is a lock (flock) on a FIFO, so the kernel releases it if its shim dies. A FIFO lets the others wait: they have
it open for reading, the holder for writing, and the kernel notifies readers when the last writer is gone. It does so
after releasing the lock (`__fput` in fs/file_table.c), so no reader looks too early, or has to look again.
"""

import fcntl
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import trio

from zeropod import paths
from zeropod.concurrency import race


def slots_for(cpus: int) -> int:
    """Return the number of slots: half of the CPUs are left to awake containers, and all share one disk."""
    return max(1, min(4, cpus // 2))


class AdmissionSlot:
    """The right to move memory or to be dumped, until `release`."""

    def __init__(self, reader: int, writer: int) -> None:
        self._descriptors = [reader, writer]

    def release(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())


class AdmissionSlots:
    def __init__(self, place: Path = paths.ADMISSION_SLOTS, number: int | None = None) -> None:
        number = slots_for(os.cpu_count() or 1) if number is None else number
        self._place = place
        self._files = [place / str(one) for one in range(number)]

    def try_acquire(self) -> AdmissionSlot | None:
        """Return a slot, if one is free. Raises OSError."""
        for file in self._files:
            reader = self._open(file)
            if slot := _locked(file, reader):
                return slot
            os.close(reader)
        return None

    async def wait_free(self) -> None:
        """Return when a slot may be free; another container may take it first. Raises OSError."""
        readers: list[int] = []
        try:
            waits: list[Callable[[], Awaitable[None]]] = []
            for file in self._files:
                readers.append(self._open(file))
                if slot := _locked(file, readers[-1]):
                    readers.pop()  # it is the slot's
                    slot.release()
                    await trio.lowlevel.checkpoint()
                    return
                waits.append(partial(trio.lowlevel.wait_readable, readers[-1]))
            await race(*waits)
        finally:
            for reader in readers:
                os.close(reader)

    def _open(self, file: Path) -> int:
        for _ in range(2):
            with suppress(FileNotFoundError):
                return os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            self._place.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(FileExistsError):
                os.mkfifo(file, 0o600)
        return os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def _locked(file: Path, reader: int) -> AdmissionSlot | None:
    # The kernel notifies a reader when the last writer closes. A failed attempt is a writer, too, for an instant: if
    # the holder releases the lock in that instant, the close below is the one that notifies the readers.
    writer = os.open(file, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(writer, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(writer)
        return None
    except OSError:
        os.close(writer)
        raise
    return AdmissionSlot(reader, writer)
