"""The pager's process, a fork (`seed`), so that it shares the interpreter's memory and starts in a millisecond.

Owns what a forked copy of a trio program must undo first: signal handlers, inherited descriptors (a copy would keep an
application's closed connection open), and the event loop, to which it never returns.
"""

import gc
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn, Self

from zeropod.kernel import pidfd, userfault
from zeropod.runtime.pagemap import Image
from zeropod.runtime.pager import handover, wire
from zeropod.runtime.pager.journal import Journal, Phase
from zeropod.runtime.pager.pages import Pages
from zeropod.runtime.pager.serve import ORPHAN_LOOK, Server
from zeropod.runtime.pager.service import Service
from zeropod.runtime.pager.space import Spaces
from zeropod.runtime.pager.wire import Lost
from zeropod.runtime.pager.working_set import Page

NAME = "zeropod-pager"
_DESCRIPTORS = 1 << 20


@dataclass(frozen=True, slots=True)
class Inheritance:
    """Everything that a pager needs, whether it is the first one or a successor."""

    image: Image
    files: tuple[int, ...]
    """Descriptors of the image's files."""
    journal: int
    wanted: Sequence[Page]
    """The pages that a wake will probably touch."""
    listener: socket.socket | None
    """The socket for CRIU; None if the userfaultfds exist already."""
    guards: Mapping[int, int]
    """Userfaultfds by number of the address space, for a successor or for memory that was not restored."""
    service: Service
    presences: Mapping[int, int] = field(default_factory=dict)
    """Descriptors of the maps of files that are still being filled, by number of the file."""

    @property
    def descriptors(self) -> list[int]:
        """Return the descriptors, without the listener's."""
        return [self.journal, *self.files, *self.guards.values(), *self.presences.values()]

    def renumbered(self, places: Mapping[int, int]) -> Self:
        """Return the same with other numbers for its descriptors."""
        return replace(
            self,
            journal=places[self.journal],
            files=tuple(places[file] for file in self.files),
            guards={number: places[guard] for number, guard in self.guards.items()},
            presences={number: places[presence] for number, presence in self.presences.items()},
        )


def forked(run: Callable[[], None]) -> None:
    """Fork the shim: the child does `run`, and ends. Raises OSError."""
    # A signal between the fork and the reset of the handlers would run the shim's handler in the child.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        if os.fork() == 0:
            try:
                gc.disable()
                run()
            finally:
                os._exit(0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def become(inheritance: Inheritance, control: socket.socket) -> NoReturn:
    """Be the pager at this end of `control`."""
    status = 1
    try:
        listener = [] if inheritance.listener is None else [inheritance.listener.fileno()]
        forget_the_shim({control.fileno(), *inheritance.descriptors, *listener}, NAME)
        _serve(inheritance, control)
        status = 0
    except BaseException:  # noqa: BLE001 - nothing may return into the shim's event loop
        wire.say(control, wire.LOST, f"the pager failed: {traceback.format_exc(limit=-3)}")
    finally:
        os._exit(status)


def forget_the_shim(own: set[int], name: str) -> None:
    """Undo what a fork has of the shim, except for descriptors of its own."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    null = os.open(os.devnull, os.O_RDWR)
    for standard in {0, 1, 2} - own:
        os.dup2(null, standard)
    low = 3
    for descriptor in sorted(own - {0, 1, 2}):
        os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, _DESCRIPTORS)
    os.setsid()
    pidfd.set_name(name)


def _serve(inheritance: Inheritance, control: socket.socket) -> None:
    journal = Journal(inheritance.journal)
    pages = Pages(inheritance.files, inheritance.service.fingerprints, inheritance.presences)
    spaces = Spaces(inheritance.image, range(len(inheritance.files)), journal)
    server = Server(journal, spaces, pages, control, inheritance.wanted, inheritance.service)
    try:
        if inheritance.listener is not None:
            handover.receive(server, inheritance.listener)
        else:
            inheritance.image.processes.clear()  # it is in the tables
            server.keep()
            while journal.phase is Phase.WAITING:
                if wire.command(control) == wire.GONE:
                    server.retired = True
                    break
            else:
                _take_over(server, inheritance.guards)
        server.keep()
        server.run()
        server.finish()
    except Lost as lost:
        wire.say(control, wire.LOST if journal.phase else wire.BROKEN, str(lost))
        _hold(server)
    server.end_keeper()


def _take_over(server: Server, guards: Mapping[int, int]) -> None:
    """Continue for a pager that has died: wake the threads whose page faults it had read, so that they fault again."""
    server.recover()
    for number, uffd in guards.items():
        if server.spaces.all[number].gone:
            continue
        server.serve_space(uffd, server.spaces.all[number])
        userfault.wake_all(uffd)


def _hold(server: Server) -> None:
    """Keep the userfaultfds open if the shim is dead, so that missing pages are not read as zeroes."""
    while server.orphan and any(map(userfault.alive, server.served)):
        time.sleep(ORPHAN_LOOK)
