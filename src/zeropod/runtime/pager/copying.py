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
from collections.abc import Sequence
from typing import Final

from zeropod.kernel import userfault
from zeropod.kernel.userfault import PAGE
from zeropod.runtime.pager import wire
from zeropod.runtime.pager.journal import FULL, IN, MISSING, Event, Journal, Kind
from zeropod.runtime.pager.service import Service
from zeropod.runtime.pager.space import Space, Spaces
from zeropod.runtime.pager.wire import Lost
from zeropod.runtime.pager.working_set import WORKING_SET_PAGES, Page

SMALL_SLICE: Final = 32
LARGE_SLICE: Final = 64
"""Pages that the drain copies between two checks for page faults: about 50 and 100 microseconds."""
NO_MEMORY: Final = 10.0
"""Seconds without memory for the container's pages after which the pager gives up."""


class Copier(ABC):
    """A set of address spaces, and the files with their pages."""

    def __init__(
        self,
        journal: Journal,
        spaces: Spaces,
        files: Sequence[userfault.MappedFile],
        control: socket.socket,
        wanted: Sequence[Page],
        service: Service,
    ) -> None:
        self.service = service
        self.journal = journal
        self.spaces = spaces
        self.files = files
        self.control = control
        self.wanted = wanted
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
        """(userfaultfd, address) of page faults to retry: memory was short, or events had to be read first."""

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

    def _fault(self, uffd: int, address: int) -> None:
        """Bring in one page and missing pages around it."""
        while uffd in self.served:
            space = self.served[uffd]
            source, state = space.find(address)
            if source:
                if self.service.files:
                    self._check_files()
                if self.service.ahead > 1 and self._copy_around(uffd, space, address):
                    return
                _, error = userfault.copy(uffd, address, source, PAGE, protected=self.service.protected)
            else:
                error = userfault.zero(uffd, address)
            if not error:
                if source:
                    self._is_in(space, state, 1)
                self._refused_since = 0.0
                return
            if error == errno.EAGAIN:
                # An event must be read first, after which the page may belong elsewhere. Page faults read with it are
                # served after this one.
                self._retry.extend((uffd, other) for other in self._read(uffd))
            elif error in (errno.EEXIST, errno.ENOENT):
                # The page exists already or is unmapped: let the waiting thread fault again.
                if source:
                    self._is_in(space, state, 1)
                self._wake(uffd, address)
                return
            elif error in (errno.ENOMEM, errno.ENOSPC):
                self._refused()
                self._retry.append((uffd, address))
                return
            else:
                self._failed(uffd, error)

    def _copy_around(self, uffd: int, space: Space, address: int) -> bool:
        """Copy a page with missing pages around it; return whether the page itself is in."""
        start, source, first, pages = space.around(address, self.service.ahead)
        if pages < 2:
            return False
        done, _ = userfault.copy(uffd, start, source, pages * PAGE, protected=self.service.protected)
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

    def _check_files(self) -> None:
        """Raise Lost if a file has changed."""
        for descriptor, before in self.service.files:
            now = os.fstat(descriptor)
            if now.st_size != before.size or (now.st_ctime_ns != before.changed_ns and now.st_nlink):
                raise Lost("a file of the page store was written to, or cut short")

    def _wake(self, uffd: int, address: int) -> None:
        try:
            userfault.wake(uffd, address, PAGE)
        except OSError as error:
            self._failed(uffd, error.errno or errno.EIO)

    def _failed(self, uffd: int, error: int) -> None:
        """Drop a process that is gone; raise Lost for every other error."""
        if error == errno.ESRCH:
            return self.drop(uffd)
        if error == errno.EFAULT:
            raise Lost("the image cannot be read any more: it was cut short, or its disk fails")
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
        if self.service.completes and missing <= WORKING_SET_PAGES:
            while not self._refused_since and self._drain_slice(LARGE_SLICE):
                pass
            self.complete = not self._refused_since
            return missing
        by_pid = {space.pid: uffd for uffd, space in self.served.items() if space.pid}
        filled = 0
        if self.service.files and self.wanted:
            self._check_files()
        for pid, address in self.wanted:
            uffd = by_pid.get(pid)
            if uffd is None or uffd not in self.served:
                continue
            if filled >= self.service.fill:
                break
            space = self.served[uffd]
            source, state = space.find(address)
            if source and space.states[state] == MISSING:
                start, source, first, pages = space.around(address, self.service.ahead)
                done, error = userfault.copy(uffd, start, source, pages * PAGE, protected=self.service.protected)
                if done:
                    self._is_in(space, first, done // PAGE)
                    filled += done // PAGE
                elif error in (errno.ENOMEM, errno.ENOSPC):
                    break
                elif error == errno.EAGAIN:
                    self.faults(uffd)
        return filled

    def _drain_slice(self, limit: int) -> bool:
        """Copy a few missing pages; return False if there are none."""
        for uffd, space in self.served.items():
            address, source, first, pages = space.missing(limit)
            if pages:
                self._drain(uffd, space, address, source, first, pages)
                return True
        return False

    def _drain(self, uffd: int, space: Space, address: int, source: int, first: int, pages: int) -> None:
        if self.service.files:
            self._check_files()
        done, error = userfault.copy(uffd, address, source, pages * PAGE, protected=self.service.protected)
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
