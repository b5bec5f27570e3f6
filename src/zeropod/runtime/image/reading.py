"""Reads a container's snapshot from /proc: its processes and their environment.

All I/O is here, and handles its failures. A process that vanishes or cannot be examined is put into `unreadable`; a
descriptor that vanishes is left out, since the container is frozen when the result matters.
"""

import os
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from zeropod.kernel import kcmp, mappings, mountinfo, proc_stat
from zeropod.kernel.kcmp import Resource
from zeropod.kernel.mountinfo import Mount
from zeropod.runtime import ipcns
from zeropod.runtime.image import parsers, surroundings
from zeropod.runtime.image.descriptors import MOST_DESCRIPTORS, Table, text
from zeropod.runtime.image.duplicates import read_sockets, read_unix, with_polls
from zeropod.runtime.image.snapshot import Facts, Process, Snapshot, Socket, Stranger, Thread

_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts")
_THREADS_OWN = ("ipc", "mnt", "net", "uts")

_Part = TypeVar("_Part")


class _Reader:
    """Reads one snapshot of a container; `complaints` collects what could not be read."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self.complaints: list[str] = []
        self._boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        self._tick = os.sysconf("SC_CLK_TCK")

    def part(self, what: str, read: Callable[[], _Part], default: _Part) -> _Part:
        try:
            return read()
        except (OSError, ValueError, IndexError) as error:
            self.complaints.append(f"{what}: {error}")
            return default

    def processes(self, pids: Collection[int]) -> list[Process]:
        found: list[Process] = []
        left = MOST_DESCRIPTORS
        for pid in sorted(pids):
            try:
                process = self._process(pid, left)
            except (OSError, ValueError, IndexError) as error:
                self.complaints.append(f"process {pid}: {error}")
                continue
            left -= len(process.descriptors)
            found.append(process)
        return found

    def _process(self, pid: int, left: int) -> Process:
        base = f"/proc/{pid}"
        status = proc_stat.fields(text(f"{base}/status"))
        started = self._boot + proc_stat.read(pid).start / self._tick
        name = status.get("Name", "?")
        if status.get("State", "").startswith("Z"):
            return Process(pid, name, status, started=started)
        namespaces = links(base, _NAMESPACES)
        table = Table(pid, self._facts.ours)
        areas = list(mappings.of(pid, sizes=False))
        parent = int(status.get("PPid", "0"))
        shares = bool(parent) and _shared(pid, parent, Resource.ADDRESS_SPACE)
        return Process(
            pid,
            name,
            status,
            int(text(f"{base}/personality"), 16),
            namespaces,
            table.descriptors(left),
            table.held(parsers.files(areas)),
            ipcns.mapped(areas),
            self._threads(pid, namespaces),
            started,
            text(f"{base}/wchan"),
            parent if shares else 0,
        )

    def _threads(self, pid: int, namespaces: dict[str, str]) -> Sequence[Thread]:
        found = []
        for name in os.listdir(f"/proc/{pid}/task"):
            tid = int(name)
            own: list[str] = []
            with suppress(FileNotFoundError, ProcessLookupError):
                if tid != pid:
                    theirs = links(f"/proc/{pid}/task/{tid}", _THREADS_OWN)
                    own = [kind for kind, link in theirs.items() if namespaces.get(kind) != link]
                    own += [] if _shared(pid, tid, Resource.FILES) else ["files"]
                    own += [] if _shared(pid, tid, Resource.DIRECTORIES) else ["directories"]
                found.append(Thread(tid, tuple(own)))
        return found


def read(pids: Collection[int], facts: Facts) -> Snapshot:
    """Return a snapshot of these processes. Blocks for some tens of milliseconds; raises nothing."""
    reader = _Reader(facts)
    processes = reader.processes(pids)
    first = Snapshot(facts, processes).init
    if first is None:
        return Snapshot(facts, unreadable=tuple(reader.complaints) or ("it has no process",))
    part = reader.part
    mounts: list[Mount] = []
    processes = part("pipes", lambda: with_polls(processes), processes)
    mounts = part("mounts", lambda: mountinfo.read(first.pid), mounts)
    sockets: list[Socket] = []
    sockets = part("sockets", lambda: read_sockets(processes), sockets)
    around = surroundings.look(frozenset(pids))
    segments = [segment for process in processes for segment in process.segments]
    in_namespace = [each for each in around if each.pid_namespace == first.namespaces.get("pid")]
    return Snapshot(
        facts,
        processes,
        mounts,
        part("volumes", lambda: surroundings.binds(facts, mounts, first.pid, around), []),
        part("locks", lambda: parsers.locks(text("/proc/locks")), []),
        sockets,
        part("Unix sockets", lambda: read_unix(processes, first.pid, sockets), []),
        [Stranger(each.pid, each.name) for each in in_namespace if facts.pid_namespace == ""],
        part("shared memory", lambda: ipcns.shared(segments, f"/proc/{first.pid}/ns/ipc"), []),
        part("message queues", lambda: surroundings.queues(mounts, first.pid), []),
        part("keys", lambda: _keys(facts.id), []),
        part("user namespace", lambda: own_namespace("user"), ""),
        part("pid namespace", lambda: own_namespace("pid"), ""),
        tuple(reader.complaints),
    )


def own_namespace(kind: str) -> str:
    """Return the PID namespace of this process, which is the node's."""
    return os.readlink(f"/proc/self/ns/{kind}")


def links(base: str, kinds: Sequence[str]) -> dict[str, str]:
    """Return the namespaces of a task by kind, except those that it does not have."""
    found = {}
    for kind in kinds:
        with suppress(FileNotFoundError):
            found[kind] = os.readlink(f"{base}/ns/{kind}")
    return found


def _shared(first: int, second: int, resource: Resource) -> bool:
    """Return whether both share a resource; without kcmp(2), which CRIU needs too, give no reason against a dump."""
    try:
        return kcmp.shared(first, second, resource)
    except OSError:
        return resource is not Resource.ADDRESS_SPACE


def _keys(id: str) -> list[str]:
    """Return the session keyring that runc has made for the container, if it holds a key."""
    keys = Path("/proc/keys")
    if not id or not keys.exists():
        return []
    wanted = f"_ses.{id}: "
    return [line for line in text(str(keys)).splitlines() if wanted in line and not line.endswith(": empty")]
