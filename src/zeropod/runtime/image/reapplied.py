"""Attributes that CRIU loses and that can be set from outside: recorded before a dump, set again after the restore.

Of threads: affinity, I/O priority, timer slack; of processes: the core dump filter; of sockets: options and multicast
memberships. Many programs could not go COLD otherwise: gRPC sets TCP_USER_TIMEOUT, the JVM the core dump filter. Call
`reapply` before any restored process runs (CRIU's leave-stopped), so that none sees an attribute missing. Threads are
identified by the id that they see themselves, sockets by process and descriptor: CRIU restores both.
"""

import os
import socket
from collections.abc import Collection, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field

from zeropod.kernel import pidfd, proc_stat, socket_options, sockets, task_attributes
from zeropod.kernel.socket_options import Defaults, Group, Option
from zeropod.kernel.task_attributes import Attributes
from zeropod.runtime.image.descriptors import text

_INET = (socket.AF_INET, socket.AF_INET6)


@dataclass(frozen=True, slots=True)
class Noted:
    """The recorded attributes, by a process's pid in its own pid namespace."""

    threads: Mapping[int, Mapping[int, Attributes]] = field(default_factory=dict)
    """By a thread's id in its own pid namespace."""
    core_filters: Mapping[int, str] = field(default_factory=dict)
    options: Mapping[int, Mapping[int, list[tuple[Option, bytes]]]] = field(default_factory=dict)
    """By descriptor number."""
    groups: Mapping[int, Mapping[int, list[Group]]] = field(default_factory=dict)


def note(pids: Collection[int]) -> Noted:
    """Record the attributes of these frozen processes that CRIU loses; skip processes that are gone. Raises OSError."""
    if not pids:
        return Noted()
    defaults = Defaults(f"/proc/{min(pids)}/ns/net")
    candidates = socket_options.groups_of(min(pids))
    usual = text("/proc/self/coredump_filter")
    threads: dict[int, dict[int, Attributes]] = {}
    filters: dict[int, str] = {}
    options: dict[int, dict[int, list[tuple[Option, bytes]]]] = {}
    groups: dict[int, dict[int, list[Group]]] = {}
    seen: set[int] = set()
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            own = _own(pid, pid)
            tids = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
            threads[own] = {_own(pid, tid): task_attributes.read(tid) for tid in tids}
            if (core := text(f"/proc/{pid}/coredump_filter")) not in ("", usual):
                filters[own] = core
            for number, sock in _sockets(pid, seen):
                with closing(sock):
                    state = socket_options.tcp_state(sock) if sock.type == socket.SOCK_STREAM else 0
                    if changed := defaults.changed(sock, state):
                        options.setdefault(own, {})[number] = changed
                    if candidates and (joined := socket_options.memberships(sock, candidates)):
                        groups.setdefault(own, {})[number] = joined
    return Noted(threads, filters, options, groups)


def reapply(pids: Collection[int], noted: Noted) -> list[str]:
    """Set the recorded attributes in restored processes; return a complaint for each that could not be set."""
    complaints: list[str] = []
    for pid in pids:
        try:
            own = _own(pid, pid)
            for tid in map(int, os.listdir(f"/proc/{pid}/task")):
                if attributes := noted.threads.get(own, {}).get(_own(pid, tid)):
                    task_attributes.write(tid, attributes)
            if (core := noted.core_filters.get(own)) is not None:
                with open(f"/proc/{pid}/coredump_filter", "w") as file:
                    file.write(f"0x{core.strip()}")
            _reapply_sockets(pid, noted.options.get(own, {}), noted.groups.get(own, {}), complaints)
        except OSError as error:
            complaints.append(f"process {pid}: {error}")
    return complaints


def _reapply_sockets(
    pid: int,
    options: Mapping[int, list[tuple[Option, bytes]]],
    groups: Mapping[int, list[Group]],
    complaints: list[str],
) -> None:
    numbers = options.keys() | groups.keys()
    if not numbers:
        return
    with pidfd.opened(pid) as handle:
        for number in numbers:
            with socket.socket(fileno=pidfd.getfd(handle, number)) as sock:
                for option, value in options.get(number, ()):
                    try:
                        socket_options.set_option(sock, option, value)
                    except OSError as error:
                        complaints.append(f"process {pid}, descriptor {number}, {option.name}: {error}")
                for group in groups.get(number, ()):
                    try:
                        socket_options.join(sock, group)
                    except OSError as error:
                        complaints.append(f"process {pid}, descriptor {number}, group {group.address}: {error}")


def _sockets(pid: int, seen: set[int]) -> list[tuple[int, socket.SocketType]]:
    """Return duplicates of a process's IP sockets, except those seen in another one, with their numbers."""
    found = []
    with pidfd.opened(pid) as handle:
        for number, inode in sockets.sockets_of(pid):
            if inode not in seen and (sock := _opened(pidfd.getfd(handle, number))) is not None:
                found.append((number, sock))
            seen.add(inode)
    return found


def _opened(duplicate: int) -> socket.SocketType | None:
    sock = sockets.adopt(duplicate)
    if sock.family in _INET and (sock.type != socket.SOCK_STREAM or sock.proto == socket.IPPROTO_TCP):
        return sock
    sock.close()
    return None


def _own(pid: int, tid: int) -> int:
    """Return a thread's id in its own pid namespace."""
    return int(proc_stat.fields(text(f"/proc/{pid}/task/{tid}/status"))["NSpid"].split()[-1])
