"""What a pager has done, in memory that outlives it: a successor continues from here.

A file without a name, mapped by the pager and by the shim:

    header      flags and counts, the messages of the last read of a userfaultfd, and a byte or two for each of the
                first address spaces: whether its memory is being moved out
    trace       the first page faults after the thaw: (pid as CRIU names it, address), the next wake's working set
    events      changes of the address spaces, in order: applied to the image they rebuild every Space
    states      one byte per page of the image for each address space, in the order of their numbers: 1 = it is in

Rules, which guarantee that no process reads wrong data after a pager's death:

1. Reading a userfaultfd acknowledges events (not page faults: a wake repeats those). So the kernel writes the messages
   into the header itself, where a successor finds those that its predecessor did not record: `busy` is set before the
   read, and cleared once every event of that read is recorded. A fork event opens a descriptor in the pager, which only
   the keeper shares: a pager that dies with one has a successor only if the descriptor can be taken from the keeper.
2. A page is marked after it has been copied. A mark that is missing costs one copy that finds the page there.
3. An event is counted after it has been written, so a counted event is complete.
4. An event that does not fit makes the journal unusable for good.
5. While the memory of an address space is moved out, discards in it are zeropod's and not the application's. The shim
   requests that, and the pager confirms when it has handled everything that it has read: before the first drop, and
   again before the processes are released. A successor confirms at its start.

How far each pager comes is recorded, too (`Standing`), so that one that cannot do anything is not replaced for ever.

The kernel ensures one more thing: it refuses copies (EAGAIN) from the moment an event happens until it has been read,
so that no page is copied to where it does not belong any more.
"""

import itertools
import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self

from zeropod.kernel import libc
from zeropod.kernel.userfault import FORK, MESSAGE, PAGE, PAGEFAULT, REMAP, Message, messages
from zeropod.runtime.pager.working_set import WORKING_SET_PAGES

_HEADER = PAGE
_TRACE = struct.Struct("=QQ")
_EVENT = struct.Struct("=IIQQQ")
_COUNT = struct.Struct("=Q")
_EVENTS_AT = _HEADER + WORKING_SET_PAGES * _TRACE.size
_EVENTS_ROOM = 32 << 20
"""Bytes for a million events; only the written ones take memory."""
_STATES_AT = _EVENTS_AT + _EVENTS_ROOM

BUSY: Final = 0
"""Offset in the header of the flags of rules 1 and 4; written directly, since every page fault does it."""
READING: Final = 1
FULL: Final = 2
_PHASE = 1
_DRAIN = 2
_STANDING = 3
_EVENT_COUNT = 8
_TRACE_COUNT = 16
_FAULT_COUNT = 24
KEEPER: Final = 32
"""Offset in the header of the pid of the process that shares the pager's descriptors."""
READER: Final = 36
"""Offset in the header of the number of the address space whose userfaultfd is being read."""
NUMBER: Final = struct.Struct("=i")
_RECORDED = 40
"""Offset of the number of events when that read began."""
_INBOX = 64
READ: Final = 16 * MESSAGE
"""Size of one read in bytes."""
_BROUGHT = 1024
_FORGOTTEN = 1032
_INHERITED = 1040
_MOVING = 2048
_CONFIRMED = 3072
MOVABLE: Final = 1024
"""Only address spaces with lower numbers can be moved out."""

MISSING: Final = 0
"""State of a page that is out."""
IN: Final = 1
"""State of a page that is in memory; the file has its content of when it was written or brought in."""
OUTDATED: Final = 2
"""State of a page that is in memory, and whose copy in the file must not be used again even if it looks unchanged."""

_PUNCH_HOLE = 0x02 | 0x01
"""fallocate(2): FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE."""


class Phase(IntEnum):
    """The progress of the pager."""

    HANDOVER = 0
    """CRIU is still handing over userfaultfds: only the pager knows which ones have arrived."""
    SERVING = 1
    DONE = 2
    """Every page is in."""
    WAITING = 4
    """Ready to serve, while another pager still does."""
    RETIRED = 3
    """Ended on request, with everything recorded: another pager continues with an index of its own."""


class Standing(IntEnum):
    """The progress of the present pager, not counting that of its predecessors."""

    NEW = 0
    """It is still starting."""
    WAITING = 1
    """It waits for its first piece of work."""
    WORKING = 2
    """It does its first piece of work."""
    PROVEN = 3
    """It has done a piece of work."""

    @property
    def useless(self) -> bool:
        """Whether a pager that dies with this standing has died before it completed a piece of work."""
        return self in (Standing.NEW, Standing.WORKING)


class Kind(IntEnum):
    """The kind of an event, which determines its three values."""

    ADOPT = 1
    """A restored process: pid."""
    FORK = 2
    """A child of the address space, with the same missing pages."""
    REMAP = 3
    """From, to, length."""
    REMOVE = 4
    """Start, end: discarded; reads as zero afterwards."""
    GONE = 5
    """The address space has ended; its states are freed."""


@dataclass(frozen=True, slots=True)
class Event:
    kind: Kind
    space: int
    """Number of the address space; for ADOPT its own."""
    first: int = 0
    second: int = 0
    third: int = 0

    @classmethod
    def of(cls, message: Message, space: int) -> Self:
        """Return the event of a userfaultfd message that is not a page fault."""
        if message.event == FORK:
            return cls(Kind.FORK, space)
        if message.event == REMAP:
            return cls(Kind.REMAP, space, message.first, message.second, message.third)
        return cls(Kind.REMOVE, space, message.first, message.second)


class Journal:
    """Created by the shim before the fork, and opened again by every successor."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.memory = mmap.mmap(descriptor, _STATES_AT)
        self._end = _STATES_AT
        self._regions: list[int] = []
        """Where each address space's states begin."""

    @classmethod
    def create(cls) -> "Journal":
        descriptor = os.memfd_create("zeropod-pager", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, _STATES_AT)
        return cls(descriptor)

    def close(self) -> None:
        self.memory.close()
        os.close(self.descriptor)

    def states(self, pages: int) -> mmap.mmap:
        """Map the page states of the next address space."""
        length = -(-max(pages, 1) // PAGE) * PAGE
        at, self._end = self._end, self._end + length
        if os.fstat(self.descriptor).st_size < self._end:
            os.ftruncate(self.descriptor, self._end)
        states = mmap.mmap(self.descriptor, length, offset=at)
        self._regions.append(at)
        return states

    def release(self, number: int, states: mmap.mmap) -> None:
        """Free the memory of an address space's states; its range in the file is not used again."""
        length = len(states)
        states.close()
        with suppress(OSError):
            libc.call("fallocate", self.descriptor, _PUNCH_HOLE, self._regions[number], length)

    def inbox(self) -> memoryview:
        """Return the buffer to read a userfaultfd into. While it exists the journal cannot be closed."""
        return memoryview(self.memory)[_INBOX : _INBOX + READ]

    def doubt(self) -> str:
        """Return why a dead pager's state is incomplete; empty if a successor can continue."""
        if self.full:
            return "there was no room to record what happened to the memory"
        return "a process was forking" if self.forks() else ""

    @property
    def full(self) -> bool:
        """Whether an event did not fit (rule 4)."""
        return bool(self.memory[BUSY] & FULL)

    def forks(self) -> dict[int, int]:
        """Return the userfaultfds of forks that a dead pager had just read: the child's address space number (which a
        successor assigns if it has none yet) to the descriptor number in the table of pager and keeper."""
        if not self.memory[BUSY]:
            return {}
        (space,) = NUMBER.unpack_from(self.memory, READER)
        messages = [message for message in self._read() if message.event != PAGEFAULT and not self.moving(space)]
        before = self._count(_RECORDED)
        number = sum(event.kind in (Kind.ADOPT, Kind.FORK) for event in itertools.islice(self.events(), before))
        found = {}
        for message in messages:
            if message.event == FORK:
                found[number] = message.first
                number += 1
        return found

    def unrecorded(self) -> Iterator[Event]:
        """Yield the events that a dead pager had read but not recorded."""
        if not self.memory[BUSY]:
            return
        (space,) = NUMBER.unpack_from(self.memory, READER)
        if self.moving(space):
            return
        events = [message for message in self._read() if message.event != PAGEFAULT]
        for message in events[self._count(_EVENT_COUNT) - self._count(_RECORDED) :]:
            yield Event.of(message, space)

    def is_recorded(self) -> None:
        """Note that every event of the last read is recorded."""
        # A pager killed here leaves fewer messages than it has recorded, or none.
        self.memory[_INBOX : _INBOX + READ] = bytes(READ)
        _COUNT.pack_into(self.memory, _RECORDED, self._count(_EVENT_COUNT))

    def _read(self) -> Iterator[Message]:
        read = self.memory[_INBOX : _INBOX + READ]
        return itertools.takewhile(lambda message: message.event, messages(read))

    @property
    def phase(self) -> Phase:
        return Phase(self.memory[_PHASE])

    @phase.setter
    def phase(self, phase: Phase) -> None:
        self.memory[_PHASE] = phase

    @property
    def standing(self) -> Standing:
        return Standing(self.memory[_STANDING])

    @standing.setter
    def standing(self, standing: Standing) -> None:
        self.memory[_STANDING] = standing

    @property
    def draining(self) -> bool:
        """Whether the container runs, so that all pages are to be brought in. Set by the shim."""
        return bool(self.memory[_DRAIN])

    def drain(self) -> None:
        self.memory[_DRAIN] = 1

    def record(self, event: Event) -> bool:
        """Append an event; return False if it does not fit (the caller then applies rule 4)."""
        count = self._count(_EVENT_COUNT)
        at = _EVENTS_AT + count * _EVENT.size
        if at + _EVENT.size > _STATES_AT:
            return False
        _EVENT.pack_into(self.memory, at, event.kind, event.space, event.first, event.second, event.third)
        _COUNT.pack_into(self.memory, _EVENT_COUNT, count + 1)
        if not self.memory[BUSY]:
            _COUNT.pack_into(self.memory, _RECORDED, count + 1)
        return True

    @property
    def event_count(self) -> int:
        """Return how many events have been recorded."""
        return self._count(_EVENT_COUNT)

    def events(self, first: int = 0) -> Iterator[Event]:
        """Yield the events in order, from number `first` on."""
        for number in range(first, self._count(_EVENT_COUNT)):
            kind, *values = _EVENT.unpack_from(self.memory, _EVENTS_AT + number * _EVENT.size)
            yield Event(Kind(kind), *values)

    def fault(self, pid: int, address: int, *, noted: bool) -> None:
        """Count a page fault; with `noted`, also append it to the trace of the first faults."""
        count = self._count(_FAULT_COUNT)
        _COUNT.pack_into(self.memory, _FAULT_COUNT, count + 1)
        if noted and (number := self._count(_TRACE_COUNT)) < WORKING_SET_PAGES:
            _TRACE.pack_into(self.memory, _HEADER + number * _TRACE.size, pid, address)
            _COUNT.pack_into(self.memory, _TRACE_COUNT, number + 1)

    def forget_faults(self) -> None:
        _COUNT.pack_into(self.memory, _TRACE_COUNT, 0)

    @property
    def faults(self) -> int:
        """Return how many page faults were served since the start."""
        return self._count(_FAULT_COUNT)

    def trace(self) -> Iterator[tuple[int, int]]:
        """Yield (pid, address) of the first faults, in order."""
        for number in range(self._count(_TRACE_COUNT)):
            pid, address = _TRACE.unpack_from(self.memory, _HEADER + number * _TRACE.size)
            yield pid, address

    def brought(self, pages: int) -> None:
        """Count missing pages that were brought in."""
        self._add(_BROUGHT, pages)

    def forgotten(self, pages: int) -> None:
        """Count missing pages that are not needed any more."""
        self._add(_FORGOTTEN, pages)

    def inherited(self, pages: int) -> None:
        """Count pages that are missing in a forked child."""
        self._add(_INHERITED, pages)

    @property
    def pages_brought(self) -> int:
        """Return how many missing pages were brought in since the start."""
        return self._count(_BROUGHT)

    @property
    def pages_missing(self) -> int:
        """Return the change in missing pages since the start (negative if fewer), not counting pages dropped since."""
        return self._count(_INHERITED) - self._count(_BROUGHT) - self._count(_FORGOTTEN)

    def move(self, spaces: Iterable[int], *, begins: bool) -> None:
        """From the shim: request that discards in these address spaces count as zeropod's, or not any more."""
        for number in spaces:
            self.memory[_MOVING + number] = begins

    def confirm(self) -> None:
        """From the pager: confirm the request of `move`, once everything that was read has been handled."""
        self.memory[_CONFIRMED : _CONFIRMED + MOVABLE] = self.memory[_MOVING : _MOVING + MOVABLE]

    @property
    def confirmed(self) -> bool:
        """Return whether the pager has confirmed the last request."""
        asked, done = (self.memory[at : at + MOVABLE] for at in (_MOVING, _CONFIRMED))
        return asked == done

    def moving(self, space: int) -> bool:
        """Return whether discards in this address space are zeropod's."""
        return space < MOVABLE and bool(self.memory[_CONFIRMED + space])

    @property
    def keeper(self) -> int:
        """Pid of the process that shares the pager's descriptors; 0 without one."""
        (pid,) = NUMBER.unpack_from(self.memory, KEEPER)
        return int(pid)

    def forget_keeper(self) -> None:
        NUMBER.pack_into(self.memory, KEEPER, 0)

    def _add(self, at: int, count: int) -> None:
        _COUNT.pack_into(self.memory, at, self._count(at) + count)

    def _count(self, at: int) -> int:
        (count,) = _COUNT.unpack_from(self.memory, at)
        return int(count)
