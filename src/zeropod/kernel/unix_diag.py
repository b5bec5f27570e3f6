"""The Unix sockets of a network namespace with their peers, as the kernel's sock_diag reports them.

/proc/net/unix has neither the peer of a socket nor a listener's pending connections.

Source of facts: include/uapi/linux/unix_diag.h, net/unix/diag.c.
"""

import os
import socket
import struct
from dataclasses import dataclass

from zeropod.kernel import namespace, netlink

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST = struct.Struct("=BBxxIIIII")
"""struct unix_diag_req: family, protocol, states, inode, flags of what to return, cookie."""
_MESSAGE = struct.Struct("=BBBxIII")
"""struct unix_diag_msg: family, type, state, inode, cookie."""
_ALL_STATES = 0xFFFFFFFF
_NAME, _PEER, _PENDING, _QUEUES, _SHUTDOWN = 0, 2, 3, 4, 6
_SHOW = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 4
"""Name, peer, pending connections and queue lengths."""
_LISTEN = 10
_INODE = struct.Struct("=I")
_TWO = struct.Struct("=II")
"""struct unix_diag_rqlen: incoming, outgoing."""


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """One Unix socket; `peer` is the inode of the other end, None without one.

    The other end has inode 0 while it is not accepted yet, and once it is closed.
    """

    inode: int
    type: int
    listens: bool
    name: str
    """The path it is bound to, with a leading @ if abstract; empty if unbound."""
    is_shut: bool
    """Whether at least one direction is shut down, as when the other end is closed."""
    peer: int | None
    pending: tuple[int, ...]
    """Inodes of the connecting ends that wait to be accepted; 0 for an end that is closed already."""
    unsent: int
    """Bytes that it has sent and the other end has not read; for a listener, the limit of its queue."""


def sockets(netns: namespace.PathOrFd) -> list[UnixSocket]:
    """Return all Unix sockets of a network namespace. Raises OSError."""
    with namespace.entered(netns):
        channel = netlink.Netlink(_NETLINK_SOCK_DIAG)
    try:
        request = _REQUEST.pack(socket.AF_UNIX, 0, _ALL_STATES, 0, _SHOW, 0, 0)
        messages = channel.dump(_SOCK_DIAG_BY_FAMILY, request).messages
    finally:
        channel.close()
    return [parse(body) for kind, body in messages if kind == _SOCK_DIAG_BY_FAMILY]


def parse(body: bytes) -> UnixSocket:
    """Return one unix_diag_msg with its attributes. Raises ValueError for anything else."""
    if len(body) < _MESSAGE.size:
        raise ValueError(f"unix_diag message of {len(body)} bytes, {_MESSAGE.size} expected")
    family, kind, state, inode, _, _ = _MESSAGE.unpack_from(body)
    if family != socket.AF_UNIX:
        raise ValueError(f"unix_diag message of address family {family}")
    attributes = dict(netlink.attributes(body[_MESSAGE.size :]))
    peer = attributes.get(_PEER, b"")
    pending = attributes.get(_PENDING, b"")
    queues = attributes.get(_QUEUES, b"")
    return UnixSocket(
        inode,
        kind,
        state == _LISTEN,
        _printable(attributes.get(_NAME, b"")),
        attributes.get(_SHUTDOWN, b"\0") != b"\0",
        _INODE.unpack_from(peer)[0] if len(peer) >= _INODE.size else None,
        tuple(each for (each,) in _INODE.iter_unpack(pending[: len(pending) // _INODE.size * _INODE.size])),
        _TWO.unpack_from(queues)[1] if len(queues) >= _TWO.size else 0,
    )


def _printable(name: bytes) -> str:
    if name.startswith(b"\0"):
        return "@" + os.fsdecode(name[1:]).replace("\0", "@")
    return os.fsdecode(name.partition(b"\0")[0])
