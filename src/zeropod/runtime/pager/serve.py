"""The pager's loop: page faults first, then the shim's requests, then the drain.

Owns the order of work in the child. An application waits for each page fault, so there are few operations between the
poll and the copy; everything else happens when nothing waits. While the container sleeps, no page is brought in unasked
beyond `Service.fill`, since it would grow: the rest of the working set follows when it wakes, the other pages when they
are drained. `Service` has the differences between kinds of service.
"""

import os
import select
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from zeropod.kernel import userfault
from zeropod.kernel.keeper import Keeper
from zeropod.kernel.userfault import FORK, MESSAGE, PAGE, PAGEFAULT
from zeropod.runtime.pager import wire
from zeropod.runtime.pager.copying import LARGE_SLICE, SMALL_SLICE, Copier
from zeropod.runtime.pager.journal import (
    BUSY,
    KEEPER,
    NUMBER,
    READER,
    READING,
    Event,
    Journal,
    Kind,
    Phase,
    Standing,
)
from zeropod.runtime.pager.pages import Pages
from zeropod.runtime.pager.service import Service
from zeropod.runtime.pager.space import Space, Spaces
from zeropod.runtime.pager.working_set import Page

QUIET: Final = 0.002
"""Seconds without a page fault after which the first request counts as served, and the drain begins."""
POLL: Final = 0.0001
"""Seconds of busy polling after a page fault, which serves the next one a quarter sooner than a wake-up; not more,
since the container may need the processor."""
FIRST_REQUEST: Final = 0.05
"""Seconds after which the drain begins in any case."""
GENTLE: Final = 0.001
"""Seconds after a page fault during which the drain's slices are small, since faults come in groups."""
ORPHAN_LOOK: Final = 0.2
"""Seconds between two checks, after the shim's death, whether the processes still live."""
KEEP: Final = 7200
"""Seconds after which a keeper ends by itself, in case pager and shim are both dead. For longer sleeps it is renewed at
the wake."""
RETRY: Final = 0.001
"""Seconds until the retry for a page that could not be brought in."""
ARRIVAL: Final = 0.0002
"""Seconds between two looks for a piece of a file that is being filled; later `RETRY`, since it will take long then."""
PROMPT: Final = 0.05
"""Seconds after which a piece is late."""
MANY: Final = 8
"""Number of address spaces from which on each fork checks for ended ones."""


class Server(Copier):
    """Serves a set of address spaces until every page is in or every process is gone."""

    def __init__(
        self,
        journal: Journal,
        spaces: Spaces,
        pages: Pages,
        control: socket.socket,
        wanted: Sequence[Page],
        service: Service | None = None,
    ) -> None:
        super().__init__(journal, spaces, pages, control, wanted, service or Service())
        self.retired = False
        """Whether another pager is to continue."""
        self._first_fault = 0.0
        self._many = MANY
        self.drain_began = 0.0
        """When the container was thawed; its first request takes precedence over the drain."""
        self._draining = False
        self._last_fault = 0.0
        self._inbox = journal.inbox()
        self._awaiting_since = 0.0
        self._keeper: Keeper | None = None
        self._kept_until = 0.0
        self._standing = Standing.NEW

    def adopt(self, uffd: int, pid: int) -> None:
        """Add a process that CRIU has restored."""
        self._happened(Event(Kind.ADOPT, len(self.spaces.all), pid))
        self.serve_space(uffd, self.spaces.all[-1])

    def serve_space(self, uffd: int, space: Space) -> None:
        self.served[uffd] = space
        os.set_blocking(uffd, False)
        self.poll.register(uffd, select.EPOLLIN)

    def recover(self) -> None:
        """Continue for a pager that has died."""
        for event in self.journal.unrecorded():
            self._happened(event)
        self.journal.is_recorded()
        self.journal.memory[BUSY] = self._full
        self.journal.confirm()

    def run(self) -> None:
        """Serve until nothing is left to serve. Raises Lost when memory cannot be completed."""
        self._look_whether_it_runs()  # the shim may have requested it before this pager ran
        while not self.retired and (self.served or not (self.orphan or self.service.completes)) and not self.complete:
            idle = self._step(self._timeout())
            if self._woken:
                # After each fault, too: an application that needs the same pages in the same order would never let
                # it be idle.
                self._bring_wanted(SMALL_SLICE)
            elif idle and self.drain_began:
                now = time.monotonic()
                quiet = now - self._last_fault
                if not self._draining and quiet < QUIET and now - self.drain_began < FIRST_REQUEST:
                    continue
                self._draining = True
                self._works()
                if not self._drain_slice(SMALL_SLICE if quiet < GENTLE else LARGE_SLICE):
                    return
            elif idle and self.orphan:
                self._drop_dead()

    def _timeout(self) -> float | None:
        if self._retry:
            return RETRY
        if self._draining or self._woken:
            return 0
        if time.monotonic() - self._last_fault < POLL:
            return 0
        if self.drain_began:
            return QUIET
        return ORPHAN_LOOK if self.orphan else None

    def wait(self, descriptor: int) -> bool:
        """Serve until an event occurs; return whether it was on `descriptor`, which is polled with the others."""
        ready = self.poll.poll(RETRY if self._retry else None)
        self._serve(ready)
        return any(descriptor == one for one, _ in ready)

    def _step(self, timeout: float | None) -> bool:
        """Do one round of pending work; return whether there was none."""
        if self._standing is not Standing.PROVEN:
            self._stands(Standing.PROVEN if self._standing is Standing.WORKING else Standing.WAITING)
        if self.awaiting:
            timeout = self._arrival_look()
        else:
            self._awaiting_since = 0.0
        ready = self.poll.poll(timeout)
        if ready:
            self._works()
        self._serve(ready)
        return not ready

    def _arrival_look(self) -> float:
        """Let a little time pass for a piece to arrive; return how long to wait for other things before the look."""
        self.awaiting = False
        now = time.monotonic()
        self._awaiting_since = self._awaiting_since or now
        if now - self._awaiting_since > PROMPT:
            return RETRY
        time.sleep(ARRIVAL)  # epoll's own time-out is in milliseconds
        return 0

    def _works(self) -> None:
        if self._standing is Standing.WAITING:
            self._stands(Standing.WORKING)

    def _stands(self, standing: Standing) -> None:
        self._standing = self.journal.standing = standing

    def _serve(self, ready: list[tuple[int, int]]) -> None:
        for descriptor, _ in ready:
            if descriptor in self.served:
                self.faults(descriptor)
            elif not self.orphan and descriptor == self.control.fileno():
                self._command()
        for _ in range(len(self._retry)):
            uffd, address = self._retry.popleft()
            if uffd in self.served:
                self._fault(uffd, address)
        if len(self.served) >= self._many:
            # Each forked child adds one, and its end is not reported.
            self._drop_dead()
            self._many = max(MANY, 2 * len(self.served))
        if not self.service.completes:
            self.keep()
        self._look_whether_it_runs()

    def _look_whether_it_runs(self) -> None:
        if self.journal.draining and not self.drain_began:
            self.drain_began = self._last_fault = time.monotonic()
            self.keep()

    def keep(self) -> None:
        """Start a keeper before the processes run and may fork: reading a fork event opens a userfaultfd only here."""
        now = time.monotonic()
        if self._keeper and now < self._kept_until:
            return
        self.end_keeper()
        self._kept_until = now + KEEP / 2
        with suppress(OSError):
            self._keeper = Keeper(KEEP, self.journal.memory, KEEPER)

    def end_keeper(self) -> None:
        if self._keeper:
            self._keeper.end()
        self._keeper = None

    def faults(self, uffd: int) -> None:
        """Read the messages of a userfaultfd, and serve the page faults among them."""
        for address in self._read(uffd):
            if uffd not in self.served:
                return
            space = self.served[uffd]
            self.journal.fault(space.pid, address, noted=self._noted())
            self._fault(uffd, address)
        self._last_fault = time.monotonic()

    def _noted(self) -> bool:
        if self._draining or self.service.noted == float("inf"):
            return not self._draining
        now = time.monotonic()
        self._first_fault = self._first_fault or now
        return now - self._first_fault < self.service.noted

    def _read(self, uffd: int) -> list[int]:
        """Record the events and return the addresses of the page faults."""
        memory, inbox, number = self.journal.memory, self._inbox, self.served[uffd].number
        NUMBER.pack_into(memory, READER, number)
        memory[BUSY] = READING | self._full
        try:
            length = os.readv(uffd, [inbox])
        except BlockingIOError:
            length = 0
        if length == MESSAGE and inbox[0] == PAGEFAULT:
            address = int.from_bytes(inbox[16:24], "little") & -PAGE
            inbox[0] = 0
            memory[BUSY] = self._full
            return [address]
        addresses: list[int] = []
        for message in userfault.messages(bytes(inbox[:length])):
            if message.event == PAGEFAULT:
                addresses.append(message.second & -PAGE)
                continue
            if self.journal.moving(number):
                continue  # a drop of ours
            self._happened(Event.of(message, number))
            if message.event == FORK:
                self._forked(message.first)
        self.journal.is_recorded()
        memory[BUSY] = self._full
        return addresses

    def _forked(self, uffd: int) -> None:
        child = self.spaces.all[-1]
        wire.send(self.control, wire.GUARD, child.number, uffd)
        self.serve_space(uffd, child)

    def _command(self) -> None:
        command = wire.command(self.control)
        if command == wire.FILL:
            self.journal.forget_faults()
            wire.send(self.control, wire.FILLED, self._fill())
            self._first_fault = 0.0
        elif command == wire.WAKE:
            self._woken = True
        elif command == wire.LOOK:
            self.journal.confirm()
        elif command == wire.RETIRE:
            self.retired = True
        elif command == wire.GONE:
            self.orphan = True
            self.poll.unregister(self.control)
        # wire.DRAIN only ends the poll: the request itself is in the journal.

    def _drop_dead(self) -> None:
        for uffd in [uffd for uffd in self.served if not userfault.alive(uffd)]:
            self.drop(uffd)

    def finish(self) -> None:
        """After every page is in, serve faults on memory outside of the image until the shim has closed its guards.

        Until then the userfaultfds are in effect, and first accesses to memory block until they are served.
        """
        if self.retired:
            self.journal.phase = Phase.RETIRED
            return
        self.journal.phase = Phase.DONE
        wire.send(self.control, wire.DONE)
        while self.served and not self.orphan:
            self._step(RETRY if self._retry else None)
