"""Watch the open files of a frozen container for events that wake it.

Nothing is accepted, read or changed: connections and data wait in the application's sockets, pipes and terminals until
the thaw. `watchable` says which open files count.

Only events after `take` wake. Earlier input may stay forever, in a listener that is never accepted from or a connection
that is never read, and must not keep the container awake: `pending` reports it, and the caller decides. So the epoll
set is edge-triggered (EPOLLET): the kernel reports each further connection, message or byte, even if others are unread,
and each end, reset, error and urgent byte.

Call `take` just before the freeze: events during the freeze are edges then, even if the processes have handled them.
`renew` after the freeze adds files opened meanwhile. If `take` is called after the freeze instead, a connect(2) that
finished in between, or a queue that became writable in between, is not noticed.

Traps: a duplicate keeps a file open when the application ends, so that a peer, or the reader of its output, sees no
end: call `close` at once then. A closed duplicate stays in an epoll set as long as the application has the file open,
so the set is closed first. A child that is forked without execve(2) has the duplicates as well.
"""

import errno
import os
import resource
import select
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from typing import TypeVar

import trio

from zeropod.activator.hold import watchable
from zeropod.activator.hold.watchable import ASKED, Found, Key, Watched
from zeropod.kernel import open_files, pidfd

_Made = TypeVar("_Made")


class Arrived(Enum):
    """What has arrived for the application."""

    CONNECTION = auto()
    """A connection in a listener's accept queue."""
    DATA = auto()
    """Data, end of file or an error, a finished connect(2), or room to write again."""


@dataclass(frozen=True, slots=True)
class Unread:
    """The unread data of one object."""

    inode: int
    amount: int
    """Bytes or connections, plus one for an end or error. Only for comparison: for message queues it is the size of the
    first message, or the kernel's memory for all."""
    where: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.amount} in a {self.where}"


@dataclass(frozen=True, slots=True)
class Pending:
    """Unread data at one moment; false if all of it was known before."""

    unread: tuple[Unread, ...] = ()
    """Unread data that was not known before."""
    amounts: Mapping[int, int] = field(default_factory=dict)
    """All unread data, by inode, for the next attempt."""

    def __bool__(self) -> bool:
        return bool(self.unread)

    def __str__(self) -> str:
        return ", ".join(sorted({str(unread) for unread in self.unread}))


class FrozenSockets:
    """Duplicates of the open files of one container's processes; without any, nothing ever arrives."""

    def __init__(self, known_unread: Mapping[int, int] | None = None) -> None:
        self._known = dict(known_unread or {})
        self._watched: dict[int, Watched] = {}
        """Watched duplicates, by descriptor."""
        self._ignored: set[Key] = set()
        """Objects that do not count."""
        self._epoll: select.epoll | None = None
        self._connected: set[int] = set()
        """Listeners at which a connection has arrived."""
        self._first: Watched | None = None
        """The object at which data was first seen."""

    @classmethod
    def take(cls, pids: Collection[int], *, known_unread: Mapping[int, int] | None = None) -> "FrozenSockets":
        """Duplicate the open files of these processes, and watch them from now on.

        `known_unread` is the unread data that a former attempt found: as long as it is the same, `pending` does not
        report it. Raises OSError if the kernel refuses or this process reaches its limit of descriptors; then nothing
        stays open.
        """
        frozen = cls(known_unread)
        frozen.renew(pids)
        return frozen

    def renew(self, pids: Collection[int]) -> None:
        """Also watch files opened since, and close duplicates of closed ones. On OSError, everything is closed."""
        try:
            present = self._duplicate(pids)
            self._forget(watched for watched in list(self._watched.values()) if watched.found.key not in present)
        except BaseException:
            self.close()
            raise

    def __bool__(self) -> bool:
        return bool(self._watched)

    def __len__(self) -> int:
        return len(self._watched)

    def pending(self, ports: Collection[int] = ()) -> Pending:
        """Return unread data, for the last look at a container that seems to be idle; `ports` as in `event`."""
        chosen = frozenset(ports)
        amounts: dict[int, int] = {}
        where: dict[int, str] = {}
        for descriptor, events in _polled(self._watched, ASKED):
            watched = self._watched[descriptor]
            inode = watched.found.inode
            if inode and watched.counts(chosen) and (amount := watched.unread(events)):
                # Both ends of a pipe have its inode.
                amounts[inode] = amounts.get(inode, 0) + amount
                where[inode] = str(watched)
        new = (Unread(inode, amount, where[inode]) for inode, amount in amounts.items())
        return Pending(tuple(unread for unread in new if self._known.get(unread.inode) != unread.amount), amounts)

    def ready(self, ports: Collection[int] = ()) -> Arrived | None:
        """Return what has arrived since `take` or `disregard`; `ports` as in `event`."""
        for descriptor, _ in self._edges():
            self._note(descriptor)
        if self._first:
            return Arrived.DATA
        chosen = frozenset(ports)
        return Arrived.CONNECTION if any(self._watched[each].counts(chosen) for each in self._connected) else None

    async def event(self, ports: Collection[int] = ()) -> Arrived:
        """Wait for an arrival without consuming it; one task at a time.

        TCP listeners count only on one of `ports` (empty: all); everything else always counts. If there are both a new
        connection and data, the result is DATA, which is certainly for the application.
        """
        while (arrived := self.ready(ports)) is None:
            if self._epoll is None:
                await trio.sleep_forever()
            else:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
        return arrived

    def disregard(self) -> None:
        """Disregard all arrivals until now."""
        self._edges()
        self._connected, self._first = set(), None

    def close(self) -> None:
        """Close all duplicates; the application keeps its files. Not while `event` waits."""
        if self._epoll:
            self._epoll.close()
            self._epoll = None
        for watched in self._watched.values():
            watched.close()
        self._watched, self._connected, self._first = {}, set(), None
        _limit.release(self)

    def _duplicate(self, pids: Collection[int]) -> set[Key]:
        """Watch new objects, and return the keys of all current ones."""
        known = {watched.found.key for watched in self._watched.values()}
        present: set[Key] = set()
        fresh: dict[int, Watched] = {}
        try:
            for pid in pids:
                with suppress(*open_files.GONE):
                    self._duplicate_from(pid, known, present, fresh)
            self._watch(fresh)
        except BaseException:
            for watched in fresh.values():
                watched.close()
            raise
        self._watched |= fresh
        return present

    def _duplicate_from(self, pid: int, known: set[Key], present: set[Key], fresh: dict[int, Watched]) -> None:
        with open_files.table(pid) as table, pidfd.opened(pid) as process:
            for found in watchable.found(pid, table):
                if found.key in present:
                    continue
                if found.key in known or found.key in self._ignored:
                    present.add(found.key)
                    continue
                duplicate = _limit.make(self, partial(pidfd.getfd_if_open, process, found.number))
                if duplicate is not None:
                    present.add(found.key)
                    self._sort(found, duplicate, fresh)

    def _sort(self, found: Found, duplicate: int, fresh: dict[int, Watched]) -> None:
        try:
            watched = watchable.watched(found, duplicate) if found.is_behind(duplicate) else None
        except BaseException:
            os.close(duplicate)
            raise
        if watched:
            fresh[duplicate] = watched
        else:
            self._ignored.add(found.key)
            os.close(duplicate)

    def _watch(self, fresh: Mapping[int, Watched]) -> None:
        if not fresh:
            return
        if self._epoll is None:
            self._epoll = _limit.make(self, select.epoll)
        before = dict(_polled(fresh, ASKED | select.POLLOUT))
        for descriptor, watched in fresh.items():
            events = ASKED | select.EPOLLET
            # Not watched for writing if it was writable all along. If it was full, the application may be waiting for
            # the peer to read, or for its connect(2) to finish.
            if not watched.listens and not before.get(descriptor, 0) & select.POLLOUT:
                events |= select.EPOLLOUT
            _register(self._epoll, descriptor, events)
        # The kernel reports once what was ready before.
        for descriptor, events in self._epoll.poll(0, len(self._watched) + len(fresh)):
            if descriptor not in fresh:
                self._note(descriptor)
            elif events & ~before.get(descriptor, 0):
                self._note(descriptor, fresh[descriptor])

    def _forget(self, closed: Iterable[Watched]) -> None:
        for watched in closed:
            if self._epoll:
                self._epoll.unregister(watched.descriptor)
            self._connected.discard(watched.descriptor)
            del self._watched[watched.descriptor]
            watched.close()

    def _note(self, descriptor: int, watched: Watched | None = None) -> None:
        watched = watched or self._watched[descriptor]
        if watched.listens:
            self._connected.add(descriptor)
        else:
            self._first = self._first or watched

    def _edges(self) -> list[tuple[int, int]]:
        return self._epoll.poll(0, len(self._watched)) if self._epoll and self._watched else []


def _polled(descriptors: Iterable[int], events: int) -> list[tuple[int, int]]:
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, events)
    return poll.poll(0)


def _register(epoll: select.epoll, descriptor: int, events: int) -> None:
    try:
        epoll.register(descriptor, events)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OSError(
                error.errno, "no more files can be watched on this node (fs.epoll.max_user_watches)"
            ) from error
        raise


class DescriptorLimit:
    """The soft limit of this process on descriptors: 1,024, while a container may have thousands of sockets.

    It is raised to the hard limit while that is needed, and restored with the last user, because children of the shim
    inherit it, and some programs iterate over all descriptors up to it.
    """

    def __init__(self) -> None:
        self._needed_by: set[object] = set()
        self._before = 0

    def make(self, needed_by: object, make: Callable[[], _Made]) -> _Made:
        """Return the result of `make`, with the limit raised if necessary. Raises OSError; EMFILE names the limit if
        the hard one is reached."""
        try:
            return make()
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
        self._raise(needed_by)
        try:
            return make()
        except OSError as error:
            if error.errno == errno.EMFILE:
                raise OSError(errno.EMFILE, f"{os.strerror(errno.EMFILE)}: {self._words()}") from error
            raise

    def release(self, needed_by: object) -> None:
        """Restore the limit if this was the last user. Descriptors above it stay open."""
        if needed_by not in self._needed_by:
            return
        self._needed_by.remove(needed_by)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if not self._needed_by and soft == hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(self._before, hard), hard))

    def _raise(self, needed_by: object) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if not self._needed_by:
            self._before = soft
        self._needed_by.add(needed_by)
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    @staticmethod
    def _words() -> str:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return f"zeropod may not open more than {hard} files (RLIMIT_NOFILE, the hard limit)"


_limit = DescriptorLimit()
"""The process-wide limit."""
