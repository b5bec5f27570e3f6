"""The addresses of the node's own interfaces, and notifications of changes to them (rtnetlink).

Owns a socket that receives notifications, in the network namespace of its creator, and the reading of the table. The
content of a notification is ignored: even if some are lost, the table read afterwards is correct.

Source of facts: rtnetlink(7), include/uapi/linux/{rtnetlink,if_addr}.h.
"""

import errno
import socket
import struct
from contextlib import suppress
from ipaddress import ip_address

import trio

from zeropod.kernel import netlink

_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_GROUPS = 0x10 | 0x100  # RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_MESSAGE = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, interface
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_SIZES = {socket.AF_INET: 4, socket.AF_INET6: 16}
_MUCH = 1 << 16  # bytes

SERVICES = "kube-ipvs0"
"""kube-proxy's interface in IPVS mode: it carries every service's address; no connection originates there."""


class NodeAddresses:
    """Opens on creation, in the network namespace of the calling thread. Raises OSError."""

    def __init__(self) -> None:
        self._changes = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        try:
            self._changes.bind((0, _GROUPS))
            self._table = netlink.Netlink(socket.NETLINK_ROUTE)
        except BaseException:
            self._changes.close()
            raise

    def close(self) -> None:
        self._changes.close()
        self._table.close()

    def all(self) -> frozenset[str]:
        """Return the IPv4 and IPv6 addresses from which processes of this node may connect. Raises OSError."""
        found = set()
        for kind, body in self._table.dump(_RTM_GETADDR, _MESSAGE.pack(socket.AF_UNSPEC, 0, 0, 0, 0)).messages:
            if kind == _RTM_NEWADDR and (parsed := parse(body)):
                address, interface = parsed
                if not ip_address(address).is_loopback and _name(interface) != SERVICES:
                    found.add(address)
        return frozenset(found)

    async def changed(self) -> None:
        """Return when an address has come or gone since the last call."""
        await trio.lowlevel.wait_readable(self._changes)
        # It may have been closed since it became readable: what closes it cancels this first.
        await trio.lowlevel.checkpoint_if_cancelled()
        with suppress(BlockingIOError):
            while True:
                try:
                    self._changes.recv(_MUCH)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:  # more changes than fit: changed all the same
                        raise


def parse(body: bytes) -> tuple[str, int] | None:
    """Return address and interface number of an RTM_NEWADDR; None for other families. Raises ValueError if short."""
    if len(body) < _MESSAGE.size:
        raise ValueError(f"rtnetlink: an address message of {len(body)} bytes")
    family, _, _, _, interface = _MESSAGE.unpack_from(body)
    attributes = dict(netlink.attributes(body[_MESSAGE.size :]))
    # IFA_ADDRESS is the other end's on a point-to-point interface.
    address = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS) or b""
    if len(address) != _SIZES.get(family):
        return None
    return socket.inet_ntop(family, address), interface


def _name(interface: int) -> str:
    try:
        return socket.if_indextoname(interface)
    except OSError:
        return ""  # gone meanwhile, of which a notification follows
