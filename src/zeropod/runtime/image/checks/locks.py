"""Checks of locks that other processes may take, and of watches whose events would be lost."""

from collections.abc import Iterator, Mapping

from zeropod.runtime.image import parsers as parse
from zeropod.runtime.image.obstacle import Kind, Obstacle
from zeropod.runtime.image.snapshot import DELETED, Descriptor, Lock, Process, Snapshot

_INOTIFY, _FANOTIFY = "anon_inode:inotify", "anon_inode:[fanotify]"
_ONE_SHOT = 0x80000000
"""IN_ONESHOT; CRIU keeps the events of a mask, but not its flags."""
_MINOR_BITS = 20
"""Minor bits of a device number in the kernel's encoding, which fdinfo uses."""


def locks(snapshot: Snapshot) -> Iterator[Obstacle]:
    """Find locks that other processes may take, and keep, while the container is in COLD and holds none."""
    held = _held(snapshot)
    mine = {lock.text for _, _, lock in held.values()}
    wanted = {(lock.device, lock.inode) for _, _, lock in held.values()}
    for process, file, lock in held.values():
        bind = snapshot.bind_of(file.path)
        if bind is not None and bind.is_shared:
            yield Kind.LOCK_SHARED.found(f"{process}, {file.path} ({lock.kind})")
    for lock in snapshot.locks:
        if (lock.device, lock.inode) not in wanted or lock.text in mine or lock.pid in snapshot.pids:
            continue
        if not lock.waits or lock.pid > 0:  # the kernel does not show the pid of a waiter for an OFD lock
            yield Kind.LOCK_WAITED.found(f"process {lock.pid}" if lock.pid > 0 else lock.kind)


def _held(snapshot: Snapshot) -> Mapping[str, tuple[Process, Descriptor, Lock]]:
    """Return the locks on the container's files, by their text."""
    return {
        lock.text: (process, file, lock)
        for process in snapshot.processes
        for file in process.descriptors
        if "\nlock:" in file.info
        for lock in parse.locks(
            "\n".join(line.partition(":")[2] for line in file.info.splitlines() if line.startswith("lock:"))
        )
    }


def watches(snapshot: Snapshot) -> Iterator[Obstacle]:
    """Find watches that lose events: unread ones, those of removed files, and those of changes while in COLD."""
    removed = {
        file.inode
        for process in snapshot.processes
        for file in process.files
        if file.mode and (not file.links or file.link.endswith(DELETED))
    }
    for process in snapshot.processes:
        for file in process.descriptors:
            where = f"{process}, descriptor {file.number}"
            if file.link in (_INOTIFY, _FANOTIFY) and file.readable:
                yield Kind.EVENTS_PENDING.found(where)
            if file.link == _INOTIFY:
                for watch in parse.watches(file.info):
                    yield from _watch(snapshot, watch, removed, where)


def _watch(snapshot: Snapshot, watch: parse.Watch, removed: set[int], where: str) -> Iterator[Obstacle]:
    if watch.inode in removed:
        yield Kind.WATCH_REMOVED.found(where)
    if watch.mask & _ONE_SHOT:
        yield Kind.WATCH_FLAGS.found(where)
    device = f"{watch.device >> _MINOR_BITS}:{watch.device & (1 << _MINOR_BITS) - 1}"
    for bind in snapshot.binds:
        if bind.mount.device == device and bind.is_shared and bind.is_directory:
            yield Kind.WATCH_SHARED.found(f"{where}, in {bind.place}")
            return


CHECKS = (locks, watches)
