"""The shim's side of a pager: starts it, keeps a guard on every userfaultfd, replaces it when it dies.

As long as a guard (a duplicate) is open, a missing page stays missing: a process whose pager is dead waits, instead of
reading zeroes. `journal` says when a successor can go on where the dead one has stopped.
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
from zeropod.runtime.pager.working_set import WorkingSet, beforehand, following

HANDOVER: Final = 5.0
"""Seconds for CRIU's hand-over after `runc restore` has returned; it takes none, since CRIU waits for it."""
FILL: Final = 2.0
"""Seconds; it takes a few milliseconds."""
END: Final = 5.0
"""Seconds between SIGKILL and the end of the pager."""
USELESS: Final = 10
"""How many pagers in a row may die of the first thing that they do; one that has done something ends the row."""
BREATH: Final = 0.01
"""Seconds from such a death to the successor, times its number in the row: a lack of memory, say, may be over then."""


class PagerLost(Exception):  # noqa: N818 - what has happened to the memory
    """The container's memory can no longer be completed. It has to be killed, and restored from its image if it has
    not run since; its missing pages stay missing until `Pager.kill` is called."""


class Pager:
    """One container's missing pages: until the last is in, or until it is retired.

    For one that CRIU restores: `start` or `at`. For processes that live, whose userfaultfds are there: the constructor
    with a journal in which their address spaces are recorded, and `guards`. That one, `move` and `retire` may be called
    from another thread than trio's.
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
        """Takes over the files, the journal and the guards. Raises OSError: the guards remain the caller's then."""
        self.working_set = wanted
        """For the next pager, once `run` has returned."""
        self.filled = 0
        """Pages that the last `fill` has brought in."""
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
        """Pagers in a row that died of the first thing that they did."""
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
        """Of the process that serves, or did so last."""
        return self._process.pid

    @classmethod
    def start(cls, images: Path, work: Path, wanted: WorkingSet = (), *, say: Callable[[str], None]) -> "Pager":
        """Listens on `work`/lazy-pages.socket and starts the pager; `say` logs a warning.

        Raises CriuError when the image's pagemap is damaged, OSError when a file cannot be read.
        """
        with handover.listen(work) as listener:
            return cls.at(listener, images, wanted, say=say)

    @classmethod
    def at(
        cls, listener: socket.socket, images: Path, wanted: WorkingSet = (), *, say: Callable[[str], None]
    ) -> "Pager":
        """The same where somebody listens already, as CRIU may be on its way. The listener remains the caller's."""
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
        """After the restore: returns once every userfaultfd is guarded. Raises CriuError when that does not happen."""
        with trio.move_on_after(HANDOVER):
            await self._until(lambda: self._handed_over or bool(self._lost))
        if self._handed_over:
            return
        reason = self._lost or ("it died" if self._process.dead else f"CRIU did not finish within {HANDOVER:g} s")
        raise CriuError(f"the pager has not got the container's memory: {reason}")

    async def died(self) -> None:
        """During the restore: returns when it is dead, and can have no successor since not everything is guarded."""
        await self._until(lambda: False)

    async def fill(self) -> int:
        """The container is frozen: brings in the working set, and returns the number of pages.

        Of a small image everything is brought in; then `run` returns before the container has run.
        """
        self.filled, expected = 0, self._fillings + 1
        with trio.move_on_after(FILL):
            self._process.send(wire.FILL)
            await self._until(lambda: self._fillings >= expected)
        return self.filled

    def drain(self) -> None:
        """The container runs: everything is brought in, page faults first."""
        if not self._ended and not self.journal.draining:
            self.journal.drain()
            self._process.send(wire.DRAIN)

    async def drained(self) -> None:
        """Returns when everything is in, of a pager that then goes on serving until it is killed."""
        await self._drained.wait()

    @property
    def guards(self) -> Mapping[int, int]:
        """The userfaultfds by number of their address space."""
        return self._guards

    async def run(self) -> None:
        """Supervises the pager until every page is in; then the guards are closed. Raises PagerLost."""
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
                    # What is not registered any more is the caller's to see to, before the guards are closed.
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
        """Until `close`; the journal is read by another thread before that."""
        try:
            await self._until(lambda: False)
            await self._process.reap()
            self._retired.set()
            await self._released.wait()
        finally:
            if self._released.is_set() and not self._closed:
                self._close()

    def begin(self) -> None:
        """From another thread: have one that was made with `waits` serve from now on, instead of a retired one."""
        self.journal.phase = Phase.SERVING
        self._process.send(wire.BEGIN)

    def abandon(self) -> None:
        """From another thread: end one that waits, and was not run; the guards remain the caller's."""
        self._process.end_now()
        self._guards.clear()
        self._close()

    def retire(self, patience: float) -> bool:
        """From another thread: end the service with everything recorded; `run` returns when the process has ended.

        Afterwards the journal says what has happened, `take_guards` gives the userfaultfds, and `close` is due. One
        that has not done so within `patience` seconds is killed. False when even that has not ended it.
        """
        self._retiring = True
        self._process.send(wire.RETIRE)
        return self._is_retired(patience) or self._ended_by_force(patience)

    def _is_retired(self, patience: float) -> bool:
        until = time.monotonic() + patience
        # Not waiting for its end: whatever asks for a page meanwhile waits, too.
        while self.journal.phase is not Phase.RETIRED and not self._retired.is_set():
            if time.monotonic() > until:
                return False
            time.sleep(0.00005)
        return True

    def _ended_by_force(self, patience: float) -> bool:
        self._process.kill()
        return self._retired.wait(patience)

    def learnt(self) -> WorkingSet:
        """Return the working set for the next wake, from what has been touched since the last fill."""
        return following(self.journal.trace(), self._wanted)

    def take_guards(self) -> dict[int, int]:
        """The userfaultfds by number of their address space, which are the caller's from now on; of a retired pager."""
        guards, self._guards = self._guards, {}
        return guards

    def close(self) -> None:
        """From another thread: wait for the end of a retired pager, and have the task that looks after it close it."""
        self._retired.wait(END)
        assert self._token
        self._token.run_sync_soon(self._released.set)

    def move(self, spaces: Sequence[int], *, begins: bool, patience: float) -> bool:
        """From another thread: whether the pager takes discards in these address spaces for ours from now on, or no
        longer takes them so; a successor's word counts. The processes must be stopped."""
        self.journal.move(spaces, begins=begins)
        until, looks = time.monotonic() + patience, 0
        while not self.journal.confirmed and not self._ended and time.monotonic() < until:
            if looks % 200 == 0:
                self._process.send(wire.LOOK)
            looks += 1
            time.sleep(0.00005)
        return self.journal.confirmed

    async def kill(self) -> None:
        """Ends it for good: the process that it served has been killed, or is about to be."""
        if self._ended:
            return
        self._ended = True
        with trio.CancelScope(shield=True):
            with trio.move_on_after(END):
                self._process.kill()
                await self._until(lambda: False)  # nobody may be waiting for a message when the socket is closed
                await self._process.reap()
            self._close()
            self._released.set()

    @property
    def phase(self) -> Phase:
        """How far it is."""
        return Phase.DONE if self._closed else self.journal.phase

    @property
    def ended(self) -> bool:
        """Every page is in, or it was killed."""
        return self._closed

    @property
    def faults(self) -> int:
        """Page faults served so far; 0 once it has ended."""
        return 0 if self._closed else self.journal.faults

    def damage(self) -> str:
        """What has happened to the image since the start; empty if it is good. Takes microseconds."""
        return next(filter(None, (file.damage() for file in self._files)), "")

    def doubt(self) -> str:
        """Why a pager that is dead can have no successor; empty if it can. Gets hold of what only its keeper has."""
        forks = self.journal.forks()
        missing = {number: descriptor for number, descriptor in forks.items() if number not in self._guards}
        with suppress(OSError):
            handle = pidfd.open(self.journal.keeper)
            try:
                for number, descriptor in missing.items():
                    self._guards[number] = pidfd.getfd(handle, descriptor)
            finally:
                os.close(handle)
        doubt = self.journal.doubt()
        return "" if forks and all(number in self._guards for number in forks) and not self.journal.full else doubt

    def _inheritance(self, listener: socket.socket | None) -> child.Inheritance:
        files = tuple(file.descriptor for file in self._files)
        service = self._service
        if not service.completes:
            service = replace(service, files=tuple((file.descriptor, file.fingerprint) for file in self._files))
        return child.Inheritance(
            self._image,
            files,
            self.journal.descriptor,
            beforehand(self._wanted),
            listener,
            dict(self._guards),
            service,
        )

    async def _take_breath(self) -> None:
        """Between a pager and its successor; a `retire` or a `kill` may come meanwhile."""
        self._useless = self._useless + 1 if not self._ended and self.journal.standing.useless else 0
        if self._useless <= USELESS:
            await trio.sleep(BREATH * self._useless)

    def _succeed(self) -> None:
        """Puts a successor in the place of a dead pager, or raises PagerLost."""
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
        self._say(f"the pager (pid {dead}) died; pid {self.pid} goes on in its place")

    async def _until(self, happened: Callable[[], bool]) -> None:
        """Takes the pager's messages until something has happened, or it is dead. Several tasks may wait, each for
        another message: whoever has the lock takes it for all."""
        while not (happened() or self._silent):
            async with self._reports:
                if happened() or self._silent:
                    return
                if report := await self._process.receive():
                    self._take(report)

    @property
    def _silent(self) -> bool:
        """It will say nothing more."""
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
        elif report.kind in (wire.LOST, wire.BROKEN):
            self._lost = report.text

    def _end_keeper(self) -> None:
        """It has what the pager had open, and would keep it so."""
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
