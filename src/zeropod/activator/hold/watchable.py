"""Which open files of frozen processes count: those that a process outside can fill, or make room in.

| watched                                                | what wakes                                                |
|--------------------------------------------------------|-----------------------------------------------------------|
| TCP, MPTCP, Unix, vsock and all other sockets          | a connection, data, an end, an error, room where none was |
| pipes, FIFOs, terminals, POSIX message queues          | data, an end, room where none was                         |
| eventfd, pidfd, /dev/net/tun, /dev/fuse, seccomp notify, fanotify that is asked for permission | it is readable    |

Left out, because they would keep a container awake, or report only events of others:

- inotify, fanotify that only notifies, netlink sockets with multicast groups (routes, neighbours): a log file, a
  mounted ConfigMap or a neighbour's address changes all the time. What they were told lies there at the next wake.
- packet sockets for all protocols or for IP, and raw sockets for TCP or UDP: they get copies of what is sent to
  others, probes included.
- timerfd, which repeats every few milliseconds: timers do not wake, as any other timer in a process does not.
- epoll (what is in it is watched itself), signalfd (signals go through the shim), userfaultfd (it may be zeropod's),
  io_uring, bpf, perf; AF_XDP, whose poll(2) sends what is in the ring.

An eventfd is nearly always used only within the container, and then has no events; but a process that has handed it to
the container may write to it. One that a cgroup v1 memory threshold is bound to wakes when the threshold is crossed.

Not to be seen at all, so that it waits for the next wake: a socket that is only registered with an io_uring or only in
flight in another socket, one in the private descriptor table of a thread, a wait for a file lock or a System V
semaphore or message, a connect(2) to a Unix listener whose queue is full.
"""

import os
import select
import socket
import stat
from collections.abc import Hashable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from zeropod.kernel import mountinfo, open_files, sockets
from zeropod.kernel.open_files import Identity, Table

_AF_KEY, _AF_ALG, _AF_XDP = 15, 38, 44
_NEVER = frozenset({_AF_KEY, _AF_ALG, _AF_XDP})
_COPIES_OF_OTHERS = frozenset({0, 0x0003, 0x0800, 0x0806, 0x86DD})
"""Protocols of a packet socket that see packets of others: none, ETH_P_ALL, IP, ARP, IPv6."""
_TRANSPORT = frozenset({socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_UDPLITE})
_MESSAGES = frozenset({socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_RDM})

_IP = frozenset({int(socket.AF_INET), int(socket.AF_INET6)})

_TERMINALS = frozenset({4, 5, 188, 204, *range(136, 144)})
"""Major numbers: consoles and serial lines, /dev/tty and its like, USB and other serial lines, pseudo-terminals."""
_MULTIPLEXER = (5, 2)
"""/dev/ptmx: each open file of it is a terminal of its own."""
_DEVICES = {(10, 200): "/dev/net/tun", (10, 203): "/dev/cuse", (10, 229): "/dev/fuse"}
_NOT_QUEUES = frozenset({"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"})
_ANONYMOUS = {
    "anon_inode:[eventfd]": "eventfd",
    "anon_inode:[pidfd]": "pidfd",
    "anon_inode:seccomp notify": "seccomp notification",
}
_FANOTIFY = "anon_inode:[fanotify]"
_FAN_CLASS_CONTENT, _FAN_CLASS_PRE_CONTENT = 0x4, 0x8

_ENDED = select.POLLRDHUP | select.POLLERR
ASKED = select.POLLIN | select.POLLPRI | select.POLLRDHUP
"""Poll events: data, a lone urgent byte (POLLPRI only), end. Errors are always reported. EPOLL's values are the
same."""


class FileKind(Enum):
    SOCKET = auto()
    STREAM = auto()
    """A byte stream: a pipe, a FIFO, a terminal."""
    OTHER = auto()
    """An object that is readable or not, without an amount."""


Key = Hashable
"""Identifies one open file description."""


class Found(NamedTuple):
    """One descriptor of a frozen process that may count. A tuple, because a container may have thousands."""

    pid: int
    number: int
    kind: FileKind
    key: Key
    """Equal for all descriptors of one object, as far as the kernel tells."""
    inode: int
    """0 if the object has no inode of its own."""
    link: str
    what: str

    def is_behind(self, duplicate: int) -> bool:
        """Return whether this duplicate is the file that was found: its number may have been reused meanwhile."""
        if self.inode:
            return os.fstat(duplicate).st_ino == self.inode
        return os.readlink(f"/proc/self/fd/{duplicate}") == self.link


@dataclass(slots=True)
class Watched:
    """A duplicate that counts."""

    descriptor: int
    found: Found
    sock: socket.SocketType | None = None
    listens: bool = False
    port: int | None = None
    """The port of a TCP listener."""

    def __str__(self) -> str:
        if self.sock is None:
            return self.found.what
        kind = "listener" if self.listens else "connection" if self.sock.type == socket.SOCK_STREAM else "socket"
        return f"{_name(self.sock)} {kind}" + (f" on port {self.port}" if self.port else "")

    def counts(self, ports: frozenset[int]) -> bool:
        """Return whether arrivals count; TCP listeners count only on one of `ports`, or all if `ports` is empty."""
        return not (self.listens and ports and self.port is not None) or self.port in ports

    def unread(self, events: int) -> int:
        """Return the amount of unread data, given poll(2)'s events: bytes or connections, plus one for an end or error.

        For objects without an amount, 1. It stays the same as long as nothing arrives and nothing is read.
        """
        ended = bool(events & _ENDED) or bool(self.found.kind is FileKind.STREAM and events & select.POLLHUP)
        return self._lying(events) + ended

    def _lying(self, events: int) -> int:
        if not events & (select.POLLIN | select.POLLPRI):
            return 0
        if self.sock is None:
            amount = open_files.unread(self.descriptor) if self.found.kind is FileKind.STREAM else 0
        elif self.listens:
            amount = sockets.in_accept_queue(self.sock) or 0
        else:
            amount = open_files.unread(self.descriptor)
            if self.sock.type in _MESSAGES:
                amount = max(amount, sockets.receive_memory(self.sock))
        # A stream at its end without data is readable as well.
        return amount or (0 if events & _ENDED else 1)

    def close(self) -> None:
        if self.sock is None:
            os.close(self.descriptor)
        else:
            self.sock.close()


def found(pid: int, table: Table) -> Iterator[Found]:
    """Yield the open files of a process that may count; an object with several descriptors repeatedly."""
    queues: set[tuple[int, int]] | None = None
    for number, link in table:
        if (inode := open_files.inode_in(link, "socket")) is not None:
            yield Found(pid, number, FileKind.SOCKET, inode, inode, link, "socket")
        elif (inode := open_files.inode_in(link, "pipe")) is not None:
            yield Found(pid, number, FileKind.STREAM, ("pipe", inode, table.access(number)), inode, link, "pipe")
        elif link.startswith("/"):
            if link in _NOT_QUEUES:
                continue
            with suppress(OSError):  # of a network file system that does not answer; queues are in the kernel
                if (identity := table.identity(number)) is None:
                    continue
                if stat.S_ISREG(identity.mode) and link.count("/") == 1:
                    queues = _message_queues(pid) if queues is None else queues
                    if identity.device in queues:
                        opened = ("queue", identity.device, identity.inode, table.access(number))
                        yield Found(pid, number, FileKind.OTHER, opened, identity.inode, link, "message queue")
                elif special := _special(pid, number, link, identity, table):
                    yield special
        elif what := _anonymous(pid, number, link):
            yield Found(pid, number, FileKind.OTHER, (pid, number, link), 0, link, what)


def watched(found: Found, duplicate: int) -> Watched | None:
    """Return how to watch a duplicate, taking ownership of it; None if it does not count."""
    if found.kind is not FileKind.SOCKET:
        return Watched(duplicate, found)
    sock = sockets.adopt(duplicate)
    try:
        if _counts(sock):
            listens = sockets.is_listening(sock)
            port = sock.getsockname()[1] if listens and sock.family in _IP else None
            return Watched(duplicate, found, sock, listens, port)
    except BaseException:
        sock.detach()
        raise
    sock.detach()
    return None


def _special(pid: int, number: int, link: str, identity: Identity, table: Table) -> Found | None:
    if stat.S_ISFIFO(identity.mode):
        opened = ("fifo", identity.device, identity.inode, table.access(number))
        return Found(pid, number, FileKind.STREAM, opened, identity.inode, link, f"FIFO {link}")
    if stat.S_ISCHR(identity.mode):
        if identity.special in _DEVICES:
            return Found(pid, number, FileKind.OTHER, (pid, number, link), 0, link, _DEVICES[identity.special])
        if identity.special == _MULTIPLEXER:
            return Found(pid, number, FileKind.STREAM, (pid, number, link), 0, link, "terminal")
        if identity.special[0] in _TERMINALS:
            key = ("terminal", identity.device, identity.special)
            return Found(pid, number, FileKind.STREAM, key, identity.inode, link, f"terminal {link}")
    return None


def _anonymous(pid: int, number: int, link: str) -> str | None:
    if open_files.inode_in(link, "pidfd") is not None:
        return "pidfd"
    if link == _FANOTIFY:
        flags = open_files.fdinfo(pid, number).get("fanotify flags", "0").partition(" ")[0]
        # A permission event makes a process outside wait for the answer.
        return "fanotify" if int(flags, 16) & (_FAN_CLASS_CONTENT | _FAN_CLASS_PRE_CONTENT) else None
    return _ANONYMOUS.get(link)


def _message_queues(pid: int) -> set[tuple[int, int]]:
    with suppress(OSError):
        return open_files.devices(mountinfo.read(pid), "mqueue")
    return set()


def _counts(sock: socket.SocketType) -> bool:
    if sock.family in _IP:
        if sock.type != socket.SOCK_RAW:
            return True
        return sock.proto not in _TRANSPORT and sock.proto != socket.IPPROTO_RAW
    if sock.family == socket.AF_NETLINK:
        return not sockets.has_multicast_groups(sock)
    if sock.family == socket.AF_PACKET:
        return sock.getsockname()[1] not in _COPIES_OF_OTHERS
    return sock.family not in _NEVER


def _name(sock: socket.SocketType) -> str:
    if sock.family in _IP:
        if sock.type == socket.SOCK_RAW:
            return "raw"
        return _PROTOCOLS.get(sock.proto, f"IP protocol {sock.proto}")
    return _FAMILIES.get(sock.family, f"address family {sock.family}")


_PROTOCOLS = {
    socket.IPPROTO_TCP: "TCP",
    socket.IPPROTO_UDP: "UDP",
    socket.IPPROTO_UDPLITE: "UDP-Lite",
    socket.IPPROTO_SCTP: "SCTP",
    socket.IPPROTO_ICMP: "ICMP",
    socket.IPPROTO_ICMPV6: "ICMPv6",
    sockets.IPPROTO_MPTCP: "MPTCP",
}
_FAMILIES = {
    int(socket.AF_UNIX): "Unix",
    int(socket.AF_VSOCK): "vsock",
    int(socket.AF_NETLINK): "netlink",
    int(socket.AF_PACKET): "packet",
}
