"""Sockets of other processes: finding them, duplicating them, making a listener ready to hand over.

A duplicate is the same kernel socket: it stays bound and listening when its process dies, and
polling it says when something arrives. What is held, and for how long, is decided above.
"""

import contextlib
import errno
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
"""Bytes of the answer: 512 multicast groups; generic netlink, which has the most, has some dozens."""
IPPROTO_MPTCP = 262


def sockets_of(pid: int) -> Iterator[tuple[int, int]]:
    """Yields (file descriptor, inode) of every socket a process has open.

    Raises nothing for a process that ends meanwhile: it simply has no more sockets.
    """
    with contextlib.suppress(*open_files.GONE), open_files.table(pid) as table:
        for number, link in table:
            if (inode := open_files.inode_in(link, "socket")) is not None:
                yield number, inode


def duplicate(pids: Iterable[int], inodes: Collection[int]) -> dict[int, socket.socket]:
    """Takes one duplicate of each wanted socket out of whichever process has it, by inode.

    A socket or a process that vanishes meanwhile is left out of the result. Raises OSError where
    the kernel refuses (EPERM); then nothing is kept open.
    """
    found: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as undo:
        for pid in pids:
            if len(found) == len(inodes):
                break
            try:
                process = pidfd.open(pid)
            except ProcessLookupError:
                continue
            try:
                for fd, inode in sockets_of(pid):
                    if inode in inodes and inode not in found:
                        with contextlib.suppress(ProcessLookupError):
                            if copy := _duplicate(process, fd, inode):
                                found[inode] = undo.enter_context(copy)
            finally:
                os.close(process)
        undo.pop_all()
    return found


def _duplicate(process: int, fd: int, inode: int) -> socket.socket | None:
    try:
        copy = socket.socket(fileno=pidfd.getfd(process, fd))
    except OSError as error:
        if error.errno == errno.EBADF:
            return None
        raise
    # The number may have been closed and given to another file since the directory was read.
    if os.fstat(copy.fileno()).st_ino == inode:
        return copy
    copy.close()
    return None


def adopt(descriptor: int) -> socket.SocketType:
    """Return a socket object for a descriptor that it owns from now on, of whatever address family.

    The plain one that socket.socket is made of: it costs half, which counts with thousands.
    """
    with contextlib.suppress(OSError):
        return socket.SocketType(fileno=descriptor)
    # Left to find out the family by itself, Python asks for the address, which not every family has.
    made = socket.SocketType(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=descriptor)
    try:
        family = made.getsockopt(socket.SOL_SOCKET, _SO_DOMAIN)
        kind = made.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
        protocol = made.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL)
    finally:
        made.detach()
    return socket.SocketType(family, kind, protocol, fileno=descriptor)


def in_accept_queue(listener: socket.SocketType) -> int | None:
    """Return how many connections wait in a TCP listener's accept queue; None for a listener that does not say so."""
    if listener.proto != socket.IPPROTO_TCP:
        return None
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_UNACKED.size)
    return int(_TCP_INFO_UNACKED.unpack(info)[0]) if len(info) == _TCP_INFO_UNACKED.size else None


def receive_memory(sock: socket.SocketType) -> int:
    """Return the bytes of kernel memory that what has been received takes (of a Unix socket always 0).

    Unlike FIONREAD it tells of every datagram, not only of the first.
    """
    return int(struct.unpack("=I", sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4))[0])


def has_multicast_groups(netlink: socket.SocketType) -> bool:
    """Whether a netlink socket has joined a group, and so is told of what happens to others."""
    return any(netlink.getsockopt(_SOL_NETLINK, _NETLINK_LIST_MEMBERSHIPS, _MEMBERSHIPS))


def is_listening(sock: socket.SocketType) -> bool:
    """Whether listen(2) was called on this socket."""
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def hand_over_ready(sock: socket.socket) -> None:
    """Lets a restored listener bind the address that the held listener `sock` has.

    CRIU binds its listeners with SO_REUSEPORT, and the kernel lets two sockets share an address
    only if both have it and both belong to the same uid (inet_csk_get_port). CRIU runs as root, so
    the held one must be root's. When it is closed afterwards, with net.ipv4.tcp_migrate_req=1, the
    connections waiting in its accept queue, with the data they sent, move to the restored one
    (inet_csk_listen_stop). Call it only when the application is gone: it sees a changed option.
    """
    os.fchown(sock.fileno(), 0, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def enter_repair(sock: socket.socket) -> None:
    """Lets a connection vanish without a word to its other end, no FIN and no reset, when it is closed for the last
    time: in repair mode the kernel only forgets it (tcp_close).

    That is what a connection wants which is in a checkpoint, and whose process is to be killed. The last close may
    be this duplicate's. Data that has been sent but not acknowledged is not sent again. Raises OSError: EPERM for a
    listener, and without CAP_NET_ADMIN.
    """
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, _TCP_REPAIR_ON)


def leave_repair(sock: socket.socket) -> None:
    """Takes a connection out of the repair mode of CRIU, in which recv(2) fails with EPERM, if it is in it."""
    if sock.getsockopt(socket.IPPROTO_TCP, _TCP_REPAIR):
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, _TCP_REPAIR_OFF)
