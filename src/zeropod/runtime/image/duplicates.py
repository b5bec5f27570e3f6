"""Facts that only the open files themselves can tell, read from duplicates: unread data and errors.

This changes nothing in the container: a duplicate is polled and its options are read, then it is closed.
"""

import fcntl
import os
import select
import socket
import sys
import termios
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace

from zeropod.kernel import pidfd, sock_diag, socket_options, sockets
from zeropod.kernel.sock_diag import TcpState
from zeropod.runtime.image.snapshot import Descriptor, Process, Socket, UnixEnd

_SOCKET = "socket:["
_EVENTS = ("anon_inode:inotify", "anon_inode:[fanotify]")
_PIPE = "pipe:["
_INET = (socket.AF_INET, socket.AF_INET6)
_UDP_CORK = 1


def with_polls(processes: Sequence[Process]) -> list[Process]:
    """Return the processes with the poll(2) results of their watches and pipes added. Raises OSError."""
    return [replace(process, descriptors=_polled(process)) if _to_poll(process) else process for process in processes]


def _to_poll(process: Process) -> bool:
    return any(each.link.startswith((_PIPE, *_EVENTS)) for each in process.descriptors)


def _polled(process: Process) -> list[Descriptor]:
    found = []
    with pidfd.opened(process.pid) as handle:
        for each in process.descriptors:
            if (
                each.link.startswith((_PIPE, *_EVENTS))
                and (duplicate := pidfd.getfd_if_open(handle, each.number)) is not None
            ):
                try:
                    seen = _poll(duplicate)
                finally:
                    os.close(duplicate)
                alone = bool(seen & (select.POLLHUP | select.POLLERR))
                each = replace(each, readable=bool(seen & select.POLLIN), alone=alone)
            found.append(each)
    return found


def _poll(descriptor: int) -> int:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return next((seen for _, seen in poll.poll(0)), 0)


def read_sockets(processes: Sequence[Process]) -> list[Socket]:
    """Return the sockets of these processes, each once. Raises OSError."""
    found: dict[int, Socket] = {}
    for process in processes:
        mine = [each for each in process.descriptors if each.link.startswith(_SOCKET) and each.inode not in found]
        if not mine:
            continue
        with pidfd.opened(process.pid) as handle:
            for each in mine:
                if each.inode in found or (duplicate := pidfd.getfd_if_open(handle, each.number)) is None:
                    continue
                holder = f"{process}, descriptor {each.number}"
                with closing(sockets.adopt(duplicate)) as sock:
                    found[each.inode] = _asked(sock, each.inode, holder)
    return list(found.values())


def _asked(sock: socket.SocketType, inode: int, holder: str) -> Socket:
    """Return the facts about a socket from a duplicate."""
    family, kind, protocol = int(sock.family), int(sock.type), sock.proto
    plain = Socket(inode, holder, family, kind, protocol)
    if family == socket.AF_NETLINK:
        return replace(plain, readable=bool(_poll(sock.fileno()) & select.POLLIN))
    if family not in _INET or kind not in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
        return plain
    if kind == socket.SOCK_STREAM:
        if protocol != socket.IPPROTO_TCP:
            return plain
        is_closed = socket_options.tcp_state(sock) == TcpState.CLOSE
        return replace(plain, failed=is_closed and bool(_poll(sock.fileno()) & select.POLLERR))
    return replace(
        plain,
        local=_local(sock),
        readable=bool(_poll(sock.fileno()) & select.POLLIN),
        unsent=_unsent(sock),
    )


def _unsent(sock: socket.SocketType) -> int:
    with suppress(OSError):  # ICMP and raw sockets do not have the option
        if sock.getsockopt(socket.IPPROTO_UDP, _UDP_CORK):
            return 1
        return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    return 0


def _local(sock: socket.SocketType) -> str:
    with suppress(OSError):
        address, port = sock.getsockname()[:2]
        return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    return ""


def read_unix(processes: Sequence[Process], pid: int, known: Sequence[Socket]) -> list[UnixEnd]:
    """Return the details of the Unix sockets among these sockets of these processes. Raises OSError.

    A socket that accept(2) returned is in the network namespace of its client: one that is not found here is connected
    to a process elsewhere.
    """
    ours = {each.inode for process in processes for each in process.descriptors if each.link.startswith(_SOCKET)}
    if not ours:
        return []
    everything = {each.inode: each for each in sock_diag.unix(f"/proc/{pid}/ns/net")}
    waiting = {client for inode in ours & everything.keys() for client in everything[inode].pending}
    found = []
    for inode in (each.inode for each in known if each.family == socket.AF_UNIX):
        if inode not in everything:
            found.append(UnixEnd(inode, "", peer_is_foreign=True))
            continue
        end = everything[inode]
        foreign = sum(
            client not in ours or (client in everything and everything[client].unsent > 0) for client in end.pending
        )
        is_elsewhere = bool(end.peer) and end.peer not in ours
        # Connected but not accepted yet, and not pending at one of the container's listeners.
        is_dangling = end.peer == 0 and end.type != socket.SOCK_DGRAM and not end.is_shut and inode not in waiting
        found.append(UnixEnd(inode, end.name, is_elsewhere or is_dangling, foreign))
    return found
