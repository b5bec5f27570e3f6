"""The shim's side of a pager: starts it, keeps a guard on every userfaultfd, replaces it when it dies.

While a guard (a duplicate of the userfaultfd) is open, missing pages stay missing: a process whose pager is dead blocks
instead of reading zeroes. `journal` defines when a successor can continue for a dead pager.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import trio

from zeropod.kernel import keeper, pidfd
from zeropod.runtime import pagemap
from zeropod.runtime.errors import CriuError
from zeropod.runtime.pager import child, handover, wire
from zeropod.runtime.pager.files import PagesFile
from zeropod.runtime.pager.journal import Journal, Phase, Standing
from zeropod.runtime.pager.process import PagerProcess
from zeropod.runtime.pager.service import Service
from zeropod.runtime.pager.working_set import Changed, WorkingSet, following, wanted_pages

HANDOVER: Final = 5.0
"""Seconds for CRIU's hand-over after `runc restore` has returned; normally none, since CRIU waits for it."""
FILL: Final = 2.0
"""Timeout of `fill` in seconds; it takes a few milliseconds."""
END: Final = 5.0
"""Seconds to wait for the pager's end after SIGKILL."""
USELESS: Final = 10
"""The most pagers in a row that may die before they have done anything."""
BREATH: Final = 0.01
"""Seconds from such a death to the successor, times its number in the row: a lack of memory may have ended by then."""


class PagerLost(Exception):  # noqa: N818 - what has happened to the memory
    """The container's missing pages cannot be brought in any more. The container has to be killed, and restored from
    its image if it has not run since; its missing pages stay missing until `Pager.kill` is called."""


class Pager:
    """Serves one container's missing pages until the last is in, or until it is retired.

    For a container that CRIU restores, use `start` or `at`. For live processes that have userfaultfds, use the
    constructor with `guards` and a journal in which their address spaces are recorded. The constructor, `move` and
    `retire` may be called outside trio's thread.
    """

    def __init__(
        self,
        image: pagemap.Image,
        files: list[PagesFile],
        journal: Journal,
        wanted: WorkingSet,
        say: Callable[[str], None],
        *,
        listener: socket.socket | None = None,
        guards: Mapping[int, int] | None = None,
        service: Service | None = None,
    ) -> None:
        """Take ownership of files, journal and guards. Raises OSError: the caller then keeps the guards."""
        self.working_set = wanted
        """The working set for the next pager, once `run` has returned."""
        self.filled = 0
        """Pages that the last `fill` brought in."""
        self._image = image
        self._wanted = wanted
        self._say = say
        self._guards: dict[int, int] = dict(guards or {})
        self._service = service or Service()
        self._retiring = False
        self._retired = threading.Event()
        self._released = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._drained = trio.Event()
        self._reports = trio.Lock()
        self._handed_over = False
        self._fillings = 0
        self._lost = ""
        self._done = False
        self._closed = False
        self._ended = False
        self._useless = 0
        """How many pagers in a row died before they had done anything."""
        self.journal = journal
        self._files = files
        try:
            self._process = PagerProcess(self._inheritance(listener))
        except OSError:
            self._guards.clear()
            self._close()
            raise

    @property
    def pid(self) -> int:
        """The pid of the process that serves, or of the last one."""
        return self._process.pid

    @classmethod
    def start(cls, images: Path, work: Path, wanted: WorkingSet = (), *, say: Callable[[str], None]) -> "Pager":
        """Listen on `work`/lazy-pages.socket and start the pager; `say` logs a warning.

        Raises CriuError when the image's pagemap is damaged, OSError when a file cannot be read.
        """
        with handover.listen(work) as listener:
            return cls.at(listener, images, wanted, say=say)

    @classmethod
    def at(
        cls, listener: socket.socket, images: Path, wanted: WorkingSet = (), *, say: Callable[[str], None]
    ) -> "Pager":
        """Start the pager with a socket that listens already, since CRIU may connect any time. The caller closes it."""
        image, files = pagemap.read(images), list[PagesFile]()
        try:
            files.extend(PagesFile.open(path) for path in image.files)
            journal = Journal.create()
        except OSError:
            for file in files:
                os.close(file.descriptor)
            raise
        return cls(image, files, journal, wanted, say, listener=listener)

    async def guarded(self) -> None:
        """After the restore, wait until every userfaultfd is guarded. Raises CriuError if that does not happen."""
        with trio.move_on_after(HANDOVER):
            await self._until(lambda: self._handed_over or bool(self._lost))
        if self._handed_over:
            return
        reason = self._lost or ("it died" if self._process.dead else f"CRIU did not finish within {HANDOVER:g} s")
        raise CriuError(f"the pager has not got the container's memory: {reason}")

    async def died(self) -> None:
        """During the restore, wait until it is dead without a possible successor, as not everything is guarded."""
        await self._until(lambda: False)

    async def fill(self) -> int:
        """Bring in the working set while the container is frozen; return the number of pages.

        A small image is brought in completely; `run` then returns before the container has run.
        """
        self.filled, expected = 0, self._fillings + 1
        with trio.move_on_after(FILL):
            self._process.send(wire.FILL)
            await self._until(lambda: self._fillings >= expected)
        return self.filled

    def drain(self) -> None:
        """Bring in all pages, page faults first, because the container runs."""
        if not self._ended and not self.journal.draining:
            self.journal.drain()
            self._process.send(wire.DRAIN)

    async def drained(self) -> None:
        """Wait until all pages are in, with a pager that then serves until it is killed."""
        await self._drained.wait()

    @property
    def guards(self) -> Mapping[int, int]:
        """Return the userfaultfds by number of their address space."""
        return self._guards

    async def run(self) -> None:
        """Supervise the pager until every page is in, then close the guards. Raises PagerLost."""
        self._token = trio.lowlevel.current_trio_token()
        while True:
            await self._until(lambda: self._done)
            if self._ended:
                return
            if self._retiring:
                await self._retire()
                return
            if self._done or self.journal.phase is Phase.DONE:
                if not self._service.completes:
                    # The caller unregisters the mappings before the guards are closed.
                    self._drained.set()
                    await self._until(lambda: False)
                    await self._process.reap()
                    return
                break
            await self._process.reap()
            await self._take_breath()
            if self._retiring:
                await self._retire()
                return
            if not self._ended:
                self._succeed()
                if self._retiring:
                    self._process.send(wire.RETIRE)
        self.working_set = self.learnt()
        self._close()
        await self._process.reap()

    async def _retire(self) -> None:
        """Wait for `close`, since another thread reads the journal before that."""
        try:
            await self._until(lambda: False)
            await self._process.reap()
            self._retired.set()
            await self._released.wait()
        finally:
            if self._released.is_set() and not self._closed:
                self._close()

    def wake(self) -> None:
        """Bring in the rest of the working set, in the background: the container runs."""
        self._process.send(wire.WAKE)

    def begin(self) -> None:
        """From another thread: make a pager created with `waits` take over from a retired one."""
        self.journal.phase = Phase.SERVING
        self._process.send(wire.BEGIN)

    def abandon(self) -> None:
        """From another thread: end a waiting pager that was not run; the caller keeps the guards."""
        self._process.end_now()
        self._guards.clear()
        self._close()

    def retire(self, patience: float) -> bool:
        """From another thread: end the service with everything recorded; `run` returns when the process has ended.

        Afterwards read the journal, get the userfaultfds by `take_guards`, and call `close`. A pager that does not end
        within `patience` seconds is killed. Returns False if even that does not end it.
        """
        self._retiring = True
        self._process.send(wire.RETIRE)
        if self._is_retired(patience):
            return True
        self._process.kill()
        return self._retired.wait(patience)

    def _is_retired(self, patience: float) -> bool:
        until = time.monotonic() + patience
        # Do not wait for its end: page faults block meanwhile.
        while self.journal.phase is not Phase.RETIRED and not self._retired.is_set():
            if time.monotonic() > until:
                return False
            time.sleep(0.00005)
        return True

    def learnt(self, changed: Changed | None = None) -> WorkingSet:
        """Return the working set for the next wake, from the faults since the last fill, and what was changed."""
        return following(self.journal.trace(), self._wanted, changed)

    def take_guards(self) -> dict[int, int]:
        """Return a retired pager's userfaultfds by number of their address space; the caller owns them from now on."""
        guards, self._guards = self._guards, {}
        return guards

    def close(self) -> None:
        """From another thread: wait for the end of a retired pager, and have its supervising task close it."""
        # Not retired, or without a token: the task that looks after it has ended, and so does the shim.
        if self._retired.wait(END) and self._token:
            self._token.run_sync_soon(self._released.set)

    def move(self, spaces: Sequence[int], *, begins: bool, patience: float) -> bool:
        """From another thread: request that discards in these address spaces count as zeropod's, or not any more.
        Returns whether the pager, or its successor, has confirmed that. The processes must be stopped."""
        self.journal.move(spaces, begins=begins)
        until, looks = time.monotonic() + patience, 0
        while not self.journal.confirmed and not self._ended and time.monotonic() < until:
            if looks % 200 == 0:
                self._process.send(wire.LOOK)
            looks += 1
            time.sleep(0.00005)
        return self.journal.confirmed

    async def kill(self) -> None:
        """End it for good: the process that it served has been killed, or is about to be."""
        if self._ended:
            return
        self._ended = True
        with trio.CancelScope(shield=True):
            with trio.move_on_after(END):
                self._process.kill()
                await self._until(lambda: False)  # no task may wait for a message when the socket is closed
                await self._process.reap()
            self._close()
            self._released.set()

    @property
    def ended(self) -> bool:
        """Whether every page is in, or it was killed."""
        return self._closed

    def damage(self) -> str:
        """Return how the image has changed since the start; empty if it has not. Takes microseconds."""
        return next(filter(None, (file.damage() for file in self._files)), "")

    def doubt(self) -> str:
        """Return why a dead pager cannot have a successor, or ""; first take userfaultfds that only its keeper has."""
        forks = self.journal.forks()
        missing = {number: descriptor for number, descriptor in forks.items() if number not in self._guards}
        with suppress(OSError):
            with pidfd.opened(self.journal.keeper) as handle:
                for number, descriptor in missing.items():
                    self._guards[number] = pidfd.getfd(handle, descriptor)
        doubt = self.journal.doubt()
        return "" if forks and all(number in self._guards for number in forks) and not self.journal.full else doubt

    def _inheritance(self, listener: socket.socket | None) -> child.Inheritance:
        files = tuple(file.descriptor for file in self._files)
        wanted = wanted_pages(self._wanted)
        if self._service.completes:
            wanted.sort()  # all of them come before the wake, so the order is that of the files
        presences = {
            number: file.presence.descriptor
            for number, file in enumerate(self._files)
            if file.presence and not file.complete
        }
        service = self._service
        if not service.completes:
            service = replace(service, fingerprints=tuple(file.current for file in self._files))
        return child.Inheritance(
            self._image,
            files,
            self.journal.descriptor,
            wanted,
            listener,
            dict(self._guards),
            service,
            presences,
        )

    async def _take_breath(self) -> None:
        """Wait a moment between a pager's death and its successor; `retire` or `kill` may be called meanwhile."""
        self._useless = self._useless + 1 if not self._ended and self.journal.standing.useless else 0
        if self._useless <= USELESS:
            await trio.sleep(BREATH * self._useless)

    def _succeed(self) -> None:
        """Replace a dead pager by a successor. Raises PagerLost."""
        reason = self._lost
        if not reason and self.journal.phase is Phase.HANDOVER:
            reason = "the pager died while CRIU handed over the processes"
        elif not reason and (doubt := self.doubt()):
            reason = f"the pager died, and {doubt}"
        elif not reason and self._useless > USELESS:
            reason = f"{self._useless} pagers in a row died before they had done anything"
        if reason:
            raise PagerLost(reason)
        dead = self.pid
        self._end_keeper()
        self._process.hang_up()
        self.journal.standing = Standing.NEW
        try:
            self._process = PagerProcess(self._inheritance(None))
        except OSError as error:
            raise PagerLost(f"the pager died, and no other can be started: {error}") from error
        self._say(f"the pager (pid {dead}) died; pid {self.pid} replaces it")

    async def _until(self, happened: Callable[[], bool]) -> None:
        """Receive the pager's messages until `happened` is true, or it is dead. Several tasks may wait for different
        messages: the one with the lock receives for all."""
        while not (happened() or self._silent):
            async with self._reports:
                if happened() or self._silent:
                    return
                if report := await self._process.receive():
                    self._take(report)

    @property
    def _silent(self) -> bool:
        """Whether no more messages will come from it."""
        return self._process.dead or self._closed

    def _take(self, report: wire.Report) -> None:
        if report.kind == wire.GUARD and report.descriptor is not None:
            self._guards[report.value] = report.descriptor
        elif report.kind == wire.ENDED:
            if (guard := self._guards.pop(report.value, None)) is not None:
                os.close(guard)
        elif report.kind == wire.COMPLETE:
            self._handed_over = True
        elif report.kind == wire.FILLED:
            self.filled = report.value
            self._fillings += 1
        elif report.kind == wire.DONE:
            self._done = True
        elif report.kind in (wire.NEED, wire.WANT):
            number, piece = wire.place_of(report.value)
            if presence := self._files[number].presence:
                presence.need(piece, report.kind == wire.NEED)
        elif report.kind in (wire.LOST, wire.BROKEN):
            self._lost = report.text

    def _end_keeper(self) -> None:
        """End the keeper, which would keep the pager's files open."""
        if pid := self.journal.keeper:
            keeper.end(pid, child.NAME)
            self.journal.forget_keeper()

    def _close(self) -> None:
        while self._guards:
            os.close(self._guards.popitem()[1])
        while self._files:
            os.close(self._files.pop().descriptor)
        self._end_keeper()
        self._process.hang_up()
        self.journal.close()
        self._ended = self._closed = True
