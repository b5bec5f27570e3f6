"""The shim's side of a pager: starts it, keeps a guard on every userfaultfd, replaces it when it dies.

As long as a guard (a duplicate) is open, a missing page stays missing: a process whose pager is dead waits, instead of
reading zeroes. `journal` says when a successor can go on where the dead one has stopped.
"""

import os
import select
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from zeropod.kernel import keeper, pidfd
from zeropod.runtime import command, pagemap
from zeropod.runtime.errors import CriuError
from zeropod.runtime.images import Fingerprint
from zeropod.runtime.pager import child, handover, wire
from zeropod.runtime.pager.journal import Journal, Phase
from zeropod.runtime.pager.working_set import WorkingSet, beforehand, following

HANDOVER: Final = 5.0
"""Seconds for CRIU's hand-over after `runc restore` has returned; it takes none, since CRIU waits for it."""
FILL: Final = 2.0
"""Seconds; it takes a few milliseconds."""
END: Final = 5.0
"""Seconds between SIGKILL and the end of the pager."""
SUCCESSORS: Final = 5

_SO_SNDBUFFORCE: Final = 32
_ROOM: Final = 1 << 20


class PagerLost(Exception):  # noqa: N818 - what has happened to the memory
    """The container's memory can no longer be completed. It has to be killed, and restored from its image if it has
    not run since; its missing pages stay missing until `Pager.kill` is called."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One pages file, held open: a deleted image can still be served."""

    path: Path
    descriptor: int
    fingerprint: Fingerprint

    @classmethod
    def open(cls, path: Path) -> "ImageFile":
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return cls(path, descriptor, Fingerprint.of(os.fstat(descriptor)))

    def damage(self) -> str:
        now = Fingerprint.of(os.fstat(self.descriptor))
        if now.size != self.fingerprint.size:
            return f"{self.path} has {now.size} bytes instead of {self.fingerprint.size}"
        # Deleting a file changes its times as well, and harms nobody who has it open.
        if now != self.fingerprint and os.fstat(self.descriptor).st_nlink:
            return f"{self.path} was written to"
        return ""


class Pager:
    """One restored container's missing pages, until the last is in."""

    def __init__(
        self, image: pagemap.Image, listener: socket.socket, wanted: WorkingSet, say: Callable[[str], None]
    ) -> None:
        self.working_set = wanted
        """For the next pager, once `run` has returned."""
        self.filled = 0
        """Pages that the last `fill` has brought in."""
        self._image = image
        self._wanted = wanted
        self._say = say
        self._guards: dict[int, int] = {}
        self._reports = trio.Lock()
        self._reaping = trio.Lock()
        self._handed_over = False
        self._fillings = 0
        self._lost = ""
        self._done = False
        self._closed = False
        self._dead = False
        self._ended = False
        self._reaped = False
        self._successors = 0
        self._journal = Journal.create()
        self._files: list[ImageFile] = []
        self._control: socket.socket | None = None
        self._events: select.epoll | None = None
        """Readable when the pager has said something or has died. Its end of `control` may be open after that."""
        try:
            self._files.extend(ImageFile.open(path) for path in image.files)
            self.pid = self._fork(listener)
        except OSError:
            self._close()
            raise

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
        return cls(pagemap.read(images), listener, wanted, say)

    async def guarded(self) -> None:
        """After the restore: returns once every userfaultfd is guarded. Raises CriuError when that does not happen."""
        with trio.move_on_after(HANDOVER):
            await self._until(lambda: self._handed_over or bool(self._lost))
        if self._handed_over:
            return
        reason = self._lost or ("it died" if self._dead else f"CRIU did not finish within {HANDOVER:g} s")
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
            self._send(wire.FILL)
            await self._until(lambda: self._fillings >= expected)
        return self.filled

    def drain(self) -> None:
        """The container runs: everything is brought in, page faults first."""
        if not self._ended and not self._journal.draining:
            self._journal.drain()
            self._send(wire.DRAIN)

    async def run(self) -> None:
        """Supervises the pager until every page is in; then the guards are closed. Raises PagerLost."""
        while True:
            await self._until(lambda: self._done)
            if self._ended:
                return
            if self._done or self._journal.phase is Phase.DONE:
                break
            await self._reap()
            if not self._ended:
                self._succeed()
        self.working_set = following(self._journal.trace(), self._wanted)
        self._close()
        await self._reap()

    async def kill(self) -> None:
        """Ends it for good: the process that it served has been killed, or is about to be."""
        if self._ended:
            return
        self._ended = True
        with trio.CancelScope(shield=True):
            with trio.move_on_after(END):
                if not self._reaped:
                    with suppress(ProcessLookupError):
                        os.kill(self.pid, signal.SIGKILL)
                await self._until(lambda: False)  # nobody may be waiting for a message when the socket is closed
                await self._reap()
            self._close()

    @property
    def phase(self) -> Phase:
        """How far it is."""
        return Phase.DONE if self._closed else self._journal.phase

    @property
    def ended(self) -> bool:
        """Every page is in, or it was killed."""
        return self._closed

    @property
    def faults(self) -> int:
        """Page faults served so far; 0 once it has ended."""
        return 0 if self._closed else self._journal.faults

    def damage(self) -> str:
        """What has happened to the image since the start; empty if it is good. Takes microseconds."""
        return next(filter(None, (file.damage() for file in self._files)), "")

    def _fork(self, listener: socket.socket | None) -> int:
        files = tuple(file.descriptor for file in self._files)
        inheritance = child.Inheritance(
            self._image, files, self._journal.descriptor, beforehand(self._wanted), listener, dict(self._guards)
        )
        self._hang_up()
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Nobody reads while runc restores: the guards of a thousand processes have to fit.
        theirs.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _ROOM)
        control.setblocking(False)
        self._control = control
        try:
            pid = child.fork(inheritance, theirs)
        finally:
            theirs.close()
        command.RUNNING.add(pid)
        self._process = pidfd.open(pid)
        self._events = select.epoll()
        for descriptor in (control.fileno(), self._process):
            self._events.register(descriptor, select.EPOLLIN)
        self._dead = self._reaped = False
        return pid

    def _succeed(self) -> None:
        """Puts a successor in the place of a dead pager, or raises PagerLost."""
        reason = self._lost
        if not reason and self._journal.phase is Phase.HANDOVER:
            reason = "the pager died while CRIU handed over the processes"
        elif not reason and (doubt := self._journal.doubt()):
            reason = f"the pager died, and {doubt}"
        elif not reason and self._successors == SUCCESSORS:
            reason = f"the pager died {SUCCESSORS + 1} times"
        if reason:
            raise PagerLost(reason)
        self._successors += 1
        dead = self.pid
        self._end_keeper()
        try:
            self.pid = self._fork(None)
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
                await self._message()

    async def _message(self) -> None:
        assert self._control
        assert self._events
        await trio.lowlevel.wait_readable(self._events.fileno())
        try:
            self._take(wire.receive(self._control))
        except BlockingIOError:
            self._dead = _has_ended(self._process)

    @property
    def _silent(self) -> bool:
        """It will say nothing more."""
        return self._dead or self._closed

    def _take(self, report: wire.Report | None) -> None:
        if report is None:
            self._dead = True
        elif report.kind == wire.GUARD and report.descriptor is not None:
            self._guards[report.value] = report.descriptor
        elif report.kind == wire.COMPLETE:
            self._handed_over = True
        elif report.kind == wire.FILLED:
            self.filled = report.value
            self._fillings += 1
        elif report.kind == wire.DONE:
            self._done = True
        elif report.kind in (wire.LOST, wire.BROKEN):
            self._lost = report.text

    def _send(self, what: bytes) -> None:
        if self._control:
            with suppress(OSError):  # it is dead, which is seen where its messages are taken
                self._control.send(what)

    def _hang_up(self) -> None:
        if self._control:
            self._control.close()
        if self._events:
            self._events.close()
            os.close(self._process)
        self._control = self._events = None

    def _end_keeper(self) -> None:
        """It has what the pager had open, and would keep it so."""
        if pid := self._journal.keeper:
            keeper.end(pid, child.NAME)
            self._journal.forget_keeper()

    async def _reap(self) -> None:
        async with self._reaping:
            if self._reaped:
                return
            handle = pidfd.open(self.pid)
            try:
                await pidfd.wait_exit(handle)
            finally:
                os.close(handle)
            self._reaped = True
            command.RUNNING.discard(self.pid)

    def _close(self) -> None:
        while self._guards:
            os.close(self._guards.popitem()[1])
        while self._files:
            os.close(self._files.pop().descriptor)
        self._end_keeper()
        self._hang_up()
        self._journal.close()
        self._ended = self._closed = True


def _has_ended(process: int) -> bool:
    return os.waitid(os.P_PIDFD, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
