"""Sockets of other processes: finding them, duplicating them, making a listener ready to hand over.

A duplicate is the same kernel socket: it stays bound and listening when its process dies, and polling it says when
something arrives.
"""

import contextlib
import os
import socket
import struct
from collections.abc import Collection, Iterable, Iterator

from zeropod.kernel import open_files, pidfd

_TCP_REPAIR = 19
_TCP_REPAIR_OFF, _TCP_REPAIR_ON = 0, 1
_TCP_INFO_UNACKED = struct.Struct("=24xI")
_SO_DOMAIN, _SO_MEMINFO = 39, 55
_SOL_NETLINK, _NETLINK_LIST_MEMBERSHIPS = 270, 9
_MEMBERSHIPS = 64
"""Size of the answer in bytes, for 512 multicast groups; generic netlink, which has the most, has some dozens."""
IPPROTO_MPTCP = 262


def sockets_of(pid: int) -> Iterator[tuple[int, int]]:
    """Yield (file descriptor, inode) of every socket a process has open.

    Yields no more sockets if the process ends meanwhile.
    """
    with contextlib.suppress(*open_files.GONE), open_files.table(pid) as table:
        for number, link in table:
            if (inode := open_files.inode_in(link, "socket")) is not None:
                yield number, inode


def duplicate(pids: Iterable[int], inodes: Collection[int]) -> dict[int, socket.socket]:
    """Duplicate each of the sockets from any of the processes that has it; return them by inode.

    Sockets and processes that vanish meanwhile are left out of the result. Raises OSError where the
    kernel refuses (EPERM); then nothing is kept open.
    """
    found: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as undo:
        for pid in pids:
            if len(found) == len(inodes):
                break
            with contextlib.suppress(ProcessLookupError), pidfd.opened(pid) as process:
                for fd, inode in sockets_of(pid):
                    if inode in inodes and inode not in found and (copy := _duplicate(process, fd, inode)):
                        found[inode] = undo.enter_context(copy)
        undo.pop_all()
    return found


def _duplicate(process: int, fd: int, inode: int) -> socket.socket | None:
    if (duplicate := pidfd.getfd_if_open(process, fd)) is None:
        return None
    copy = socket.socket(fileno=duplicate)
    # The number may have been closed and given to another file since the directory was read.
    if os.fstat(copy.fileno()).st_ino == inode:
        return copy
    copy.close()
    return None


def adopt(descriptor: int) -> socket.SocketType:
    """Return a socket object that owns this descriptor, of whatever address family.

    An instance of the base class of socket.socket, which costs half as much; that matters for thousands.
    """
    with contextlib.suppress(OSError):
        return socket.SocketType(fileno=descriptor)
    # To detect the family itself, Python would ask for the address, which not every family has.
    made = socket.SocketType(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=descriptor)
    try:
        family = made.getsockopt(socket.SOL_SOCKET, _SO_DOMAIN)
        kind = made.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
        protocol = made.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL)
    finally:
        made.detach()
    return socket.SocketType(family, kind, protocol, fileno=descriptor)


def in_accept_queue(listener: socket.SocketType) -> int | None:
    """Return how many connections wait in a TCP listener's accept queue; None if it does not report that."""
    if listener.proto != socket.IPPROTO_TCP:
        return None
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_UNACKED.size)
    return int(_TCP_INFO_UNACKED.unpack(info)[0]) if len(info) == _TCP_INFO_UNACKED.size else None


def receive_memory(sock: socket.SocketType) -> int:
    """Return the kernel memory that unread received data takes, in bytes (always 0 for a Unix socket).

    Unlike FIONREAD it covers every datagram, not only the first.
    """
    return int(struct.unpack("=I", sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4))[0])


def has_multicast_groups(netlink: socket.SocketType) -> bool:
    """Return whether a netlink socket has joined a multicast group, and so receives notifications."""
    return any(netlink.getsockopt(_SOL_NETLINK, _NETLINK_LIST_MEMBERSHIPS, _MEMBERSHIPS))


def is_listening(sock: socket.SocketType) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def hand_over_ready(sock: socket.socket) -> None:
    """Allow a restored listener to bind the address of the held listener `sock`.

    CRIU binds its listeners with SO_REUSEPORT, and the kernel lets two sockets share an address
    only if both have it and both belong to the same uid (inet_csk_get_port). CRIU runs as root, so
    the held one must be root's. When it is closed afterwards, with net.ipv4.tcp_migrate_req=1, the
    connections waiting in its accept queue, with the data they sent, move to the restored one
    (inet_csk_listen_stop). Call it only when the application is gone: it sees a changed option.
    """
    os.fchown(sock.fileno(), 0, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def enter_repair(sock: socket.socket) -> None:
    """Put a connection into repair mode: its last close sends neither FIN nor reset to the other end (tcp_close).

    For a connection in a checkpoint whose process is to be killed. The last close may be that of this duplicate. Data
    that was sent but not acknowledged is not sent again. Raises OSError: EPERM for a listener, and without
    CAP_NET_ADMIN.
    """
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, _TCP_REPAIR_ON)


def leave_repair(sock: socket.socket) -> None:
    """Take a connection out of CRIU's repair mode, in which recv(2) fails with EPERM, if it is in that."""
    if sock.getsockopt(socket.IPPROTO_TCP, _TCP_REPAIR):
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, _TCP_REPAIR_OFF)
