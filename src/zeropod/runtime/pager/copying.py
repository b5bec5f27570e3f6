"""Copies pages into the memory of processes: for a fault, for the working set, for the drain.

Owns the handling of every failure of a copy, and the states of pages. `serve` decides what to copy when.
"""

import errno
import os
import select
import socket
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Final

from zeropod.kernel import userfault
from zeropod.kernel.userfault import PAGE
from zeropod.runtime.pager import wire
from zeropod.runtime.pager.journal import FULL, IN, MISSING, Event, Journal, Kind
from zeropod.runtime.pager.pages import LARGEST, Pages, Place
from zeropod.runtime.pager.service import Service
from zeropod.runtime.pager.space import Space, Spaces
from zeropod.runtime.pager.wire import Lost
from zeropod.runtime.pager.working_set import WORKING_SET_PAGES, Page

SMALL_SLICE: Final = 32
LARGE_SLICE: Final = LARGEST
"""Pages that the drain copies between two checks for page faults: about 50 and 100 microseconds."""
BRIDGED: Final = 2
"""Pages between two wanted ones that are copied as well: a page costs 2 µs, a call 6."""
READY: Final = 512
"""The most copies that are worked out before the wake, 300 bytes each."""
STALLED: Final = 8
"""The most runs that the drain looks past for pages that have arrived."""
ASK_AGAIN: Final = 1.0
"""Seconds after which a piece that has not arrived is asked for again."""
ASKED: Final = 1024
"""The most pieces of which it is known that they were asked for."""
NO_MEMORY: Final = 10.0
"""Seconds without memory for the container's pages after which the pager gives up."""


@dataclass(slots=True)
class Copy:
    """A copy to be made: pages that are contiguous both in memory and in a file."""

    number: int
    """Of its first page in the working set."""
    uffd: int
    space: Space
    first: int
    """Number of the first page's state."""
    address: int
    source: int
    pages: int = 1
    argument: bytearray = field(default_factory=bytearray)

    def take(self, uffd: int, address: int, bridged: int) -> bool:
        """Copy this page together with these, and at most `bridged` missing pages in between; return whether that is
        possible."""
        pages = (address - self.address) // PAGE + 1
        if uffd != self.uffd or not 0 < pages - self.pages <= bridged + 1 or pages > LARGEST:
            return False
        # Pages in between may have been discarded since, or be in another file.
        for page in range(self.pages, pages):
            expected = self.source + page * PAGE, self.first + page
            if self.space.find(self.address + page * PAGE) != expected or self.space.states[expected[1]] != MISSING:
                return False
        self.pages = pages
        return True

    def prepare(self, buffer: int, protected: bool) -> bytearray:
        """Work out the argument of the call, and return it."""
        self.argument = userfault.prepare(self.address, buffer, self.pages * PAGE, protected=protected)
        return self.argument


class Copier(ABC):
    """A set of address spaces, and the files with their pages."""

    def __init__(
        self,
        journal: Journal,
        spaces: Spaces,
        pages: Pages,
        control: socket.socket,
        wanted: Sequence[Page],
        service: Service,
    ) -> None:
        self.service = service
        self.journal = journal
        self.spaces = spaces
        self.pages = pages
        self.control = control
        self.wanted = wanted
        self._coming: Iterator[Copy] = self._copies()
        """What is left to bring in of the working set. Made anew after each event, which may have changed addresses."""
        self._next_wanted = 0
        """The number of the first page that may be left."""
        self._woken = False
        """Whether the container has been woken, and part of the working set may still be out."""
        self.served: dict[int, Space] = {}
        """The address spaces, by userfaultfd."""
        self.poll = select.epoll()
        self.poll.register(control, select.EPOLLIN)
        self.complete = False
        """Whether all pages are in before the container runs."""
        self._full = 0
        """FULL if the journal is full, else 0."""
        self._refused_since = 0.0
        self._retry: deque[tuple[int, int]] = deque()
        """(userfaultfd, address) of page faults to retry: memory was short, events had to be read first, or the page
        has not arrived."""
        self.orphan = False
        """Whether the shim is dead."""
        self.awaiting = False
        """Whether something waits for a piece that has not arrived."""
        self._asked: dict[tuple[bytes, Place], float] = {}
        """When pieces were asked for, and how."""

    @abstractmethod
    def faults(self, uffd: int) -> None:
        """Read the messages of a userfaultfd, and serve the page faults among them."""

    @abstractmethod
    def _read(self, uffd: int) -> list[int]:
        """Record the events and return the addresses of the page faults."""

    def drop(self, uffd: int) -> None:
        """Drop the address space of a process that is gone."""
        space = self.served.pop(uffd)
        self.poll.unregister(uffd)
        os.close(uffd)
        self._happened(Event(Kind.GONE, space.number))
        wire.send(self.control, wire.ENDED, space.number)

    def _happened(self, event: Event) -> None:
        if not self.spaces.happen([event]):
            self._full = FULL
        self._coming = self._copies()

    def _fault(self, uffd: int, address: int) -> None:
        """Bring in one page and missing pages around it."""
        while uffd in self.served:
            space = self.served[uffd]
            source, state = space.find(address)
            known = state >= 0
            if known:
                if absent := self.pages.absent(source):
                    self._await(wire.NEED, absent)
                    self._retry.append((uffd, address))
                    return
                if self.service.ahead > 1 and self._copy_around(uffd, space, address):
                    return
                _, error = self._copy(uffd, address, source, 1)
            else:
                error = userfault.zero(uffd, address, 1 + space.unknown_after(address, self.service.ahead - 1))
            if not error:
                if known:
                    self._is_in(space, state, 1)
                self._refused_since = 0.0
                return
            if error == errno.EAGAIN:
                # An event must be read first, after which the page may belong elsewhere. Page faults read with it are
                # served after this one.
                self._retry.extend((uffd, other) for other in self._read(uffd))
            elif error in (errno.EEXIST, errno.ENOENT):
                # The page exists already or is unmapped: let the waiting thread fault again.
                if known:
                    self._is_in(space, state, 1)
                self._wake(uffd, address)
                return
            elif error in (errno.ENOMEM, errno.ENOSPC):
                self._refused()
                self._retry.append((uffd, address))
                return
            else:
                self._failed(uffd, error)

    def _await(self, kind: bytes, absent: Sequence[Place]) -> None:
        """Ask for pieces, and look for them again soon. Raises Lost if no shim can answer."""
        if self.orphan:
            raise Lost("pages have not arrived, and the shim, which fetches them, is dead")
        self.awaiting = True
        self._ask(kind, absent)

    def _ask(self, kind: bytes, absent: Sequence[Place]) -> None:
        now = time.monotonic()
        if len(self._asked) > ASKED:
            self._asked.clear()
        for place in absent:
            due = now - self._asked.get((kind, place), 0.0) > ASK_AGAIN
            if due and wire.ask(self.control, kind, wire.place_value(*place)):
                self._asked[kind, place] = now

    def _copy(self, uffd: int, address: int, source: int, pages: int) -> tuple[int, int]:
        """Copy pages from a source to an address; return (bytes copied, errno or 0). Raises Lost."""
        self.pages.check()
        self.pages.read(source, pages)
        return userfault.copy(uffd, address, self.pages.buffer, pages * PAGE, protected=self.service.protected)

    def _copy_around(self, uffd: int, space: Space, address: int) -> bool:
        """Copy a page with missing pages around it; return whether the page itself is in."""
        start, source, first, pages = space.around(address, self.service.ahead)
        skipped, pages = self.pages.there_around(source, pages, (address - start) // PAGE)
        start, source, first = start + skipped * PAGE, source + skipped * PAGE, first + skipped
        if pages < 2:
            return False
        done, _ = self._copy(uffd, start, source, pages)
        if done:
            self._is_in(space, first, done // PAGE)
            self._refused_since = 0.0
        # A failure shows again when the page itself is copied.
        return start + done > address

    def _is_in(self, space: Space, first: int, pages: int) -> None:
        """Mark pages after they have been copied, except those marked already."""
        if pages == 1:
            if space.states[first] == MISSING:
                space.states[first] = IN
                self.journal.brought(1)
            return
        states = space.states[first : first + pages]
        if missing := states.count(MISSING):
            space.states[first : first + pages] = states.replace(b"\0", bytes([IN]))
            self.journal.brought(missing)

    def _wake(self, uffd: int, address: int) -> None:
        try:
            userfault.wake(uffd, address, PAGE)
        except OSError as error:
            self._failed(uffd, error.errno or errno.EIO)

    def _failed(self, uffd: int, error: int) -> None:
        """Drop a process that is gone; raise Lost for every other error."""
        if error == errno.ESRCH:
            return self.drop(uffd)
        raise Lost(f"a page cannot be brought in: {os.strerror(error)}")

    def _refused(self) -> None:
        now = time.monotonic()
        self._refused_since = self._refused_since or now
        if now - self._refused_since > NO_MEMORY:
            raise Lost(f"for {NO_MEMORY:g} s there was no memory for the container's pages: raise its memory limit")

    def _fill(self) -> int:
        """Bring in the working set while the container is frozen; return the number of pages.

        A small image is brought in completely: that costs less memory than the pager itself, which then ends.
        """
        missing = sum(space.count_missing() for space in self.served.values())
        if self.service.completes and missing <= WORKING_SET_PAGES and self.pages.complete:
            while not self._refused_since and self._drain_slice(LARGE_SLICE):
                pass
            self.complete = not self._refused_since
            return missing
        self._next_wanted, self._coming = 0, self._copies()
        filled = self._bring_wanted(self.service.fill)
        # At the wake each microsecond counts, so the next ones are worked out now.
        ready = list(islice(self._coming, READY))
        for copy in ready:
            copy.prepare(self.pages.buffer, self.service.protected)
        self._coming = chain(ready, self._coming)
        return filled

    def _copies(self) -> Iterator[Copy]:
        """Yield the copies that bring in what is missing of the rest of the working set, in its order."""
        by_pid = {space.pid: uffd for uffd, space in self.served.items() if space.pid}
        bridged = BRIDGED if self.service.ahead > 1 else 0
        copy: Copy | None = None
        for number in range(self._next_wanted, len(self.wanted)):
            pid, address = self.wanted[number]
            if (uffd := by_pid.get(pid)) is None:
                continue
            space = self.served[uffd]
            source, state = space.find(address)
            if state < 0 or space.states[state] != MISSING:
                continue
            if copy and copy.take(uffd, address, bridged):
                continue
            if copy:
                yield copy
            copy = Copy(number, uffd, space, state, address, source)
        if copy:
            yield copy

    def _bring_wanted(self, limit: int) -> int:
        """Bring in the next pages of the working set, about `limit`; return their number."""
        self.pages.check()
        brought = 0
        for copy in self._coming:
            if copy.space.states[copy.first] != MISSING:
                continue
            if absent := self.pages.absent(copy.source, copy.pages):
                self._ask(wire.WANT, absent)  # and go on: these come by page faults
                continue
            self.pages.read(copy.source, copy.pages)
            argument = copy.argument or copy.prepare(self.pages.buffer, self.service.protected)
            done, error = userfault.copy_prepared(copy.uffd, argument)
            if done:
                self._is_in(copy.space, copy.first, done // PAGE)
                brought += done // PAGE
            elif error in (errno.ENOMEM, errno.ENOSPC):
                self._woken = False
                break
            if error == errno.EAGAIN:
                # Addresses change with an event.
                self._next_wanted, self._coming = copy.number, self._copies()
                self.faults(copy.uffd)
                break
            self._next_wanted = copy.number + 1
            if brought >= limit:
                break
        else:
            self._woken = False
        return brought

    def _drain_slice(self, limit: int) -> bool:
        """Copy a few missing pages; return False if there are none."""
        stalled = False
        for uffd, space in self.served.items():
            begin = -1
            for _ in range(STALLED):
                address, source, first, pages = space.missing(limit)
                if not pages:
                    break
                if absent := self.pages.absent(source, pages):
                    self._await(wire.WANT, absent)
                    begin = address if begin < 0 else begin
                    space.cursor = address + pages * PAGE
                    continue
                self._drain(uffd, space, address, source, first, pages)
                if begin >= 0:
                    space.cursor = min(space.cursor, begin)
                return True
            if begin >= 0:
                space.cursor, stalled = min(space.cursor, begin), True
        return stalled

    def _drain(self, uffd: int, space: Space, address: int, source: int, first: int, pages: int) -> None:
        done, error = self._copy(uffd, address, source, pages)
        copied = done // PAGE
        if copied:
            self._is_in(space, first, copied)
            self._refused_since = 0.0
        if not error or copied:
            return
        if error == errno.EAGAIN:
            self.faults(uffd)
        elif error == errno.ENOENT and pages > 1:
            # The run crosses the end of a mapping, or was unmapped: halve it until single pages show where it ends.
            self._drain(uffd, space, address, source, first, pages // 2)
        elif error in (errno.EEXIST, errno.ENOENT):
            self._is_in(space, first, 1)
        elif error in (errno.ENOMEM, errno.ENOSPC):
            self._refused()
            time.sleep(0.01)
        else:
            self._failed(uffd, error)
