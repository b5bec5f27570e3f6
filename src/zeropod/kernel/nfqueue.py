"""Packets that netfilter holds in a queue until they get a verdict (NFQUEUE).

Owns one queue of one network namespace: binding it, reading what arrives, accepting it.

Source of facts: include/uapi/linux/netfilter/nfnetlink_queue.h, net/netfilter/nfnetlink_queue.c.
"""

import socket
import struct
from contextlib import suppress
from dataclasses import dataclass

import trio

from zeropod.kernel import netlink
from zeropod.kernel.nftables import NETLINK_NETFILTER

_SUBSYSTEM = 3 << 8
_PACKET, _VERDICT, _CONFIG = (_SUBSYSTEM | kind for kind in range(3))
_COPY_PACKET = 2
_GSO = 4
_ACCEPT = 1  # NF_ACCEPT
_MOST_PACKETS = 4096
_COPIED = 128  # bytes of each packet: its headers
_RECEIVE_BUFFER = 8 << 20  # bytes; a queued packet's notice takes about 1 KiB of it
_SO_RCVBUFFORCE = 33
_SOL_NETLINK, _NETLINK_NO_ENOBUFS = 270, 5


@dataclass(frozen=True, slots=True)
class Packet:
    """A held packet: the id to give a verdict on, and its first bytes from the IP header on."""

    id: int
    start: bytes

    @property
    def carries_data(self) -> bool:
        """Whether it is TCP with a payload, and not just an acknowledgement or a keep-alive probe.

        False for a packet that is cut off before that can be told.
        """
        if not (tcp := self._tcp()) or len(tcp) < 13:
            return False
        version, header = self.start[0] >> 4, len(self.start) - len(tcp)
        total = _length(self.start, 2) if version == 4 else 40 + _length(self.start, 4)
        return total - header - (tcp[12] >> 4) * 4 > 0

    def key(self, *, incoming: bool) -> bytes:
        """Return remote and local address, remote and local port (two bytes and two zeroes each).

        The remote end of an incoming packet is its source, otherwise its destination. Empty for anything but TCP over
        IPv4 or IPv6; extension headers, which TCP packets rarely have, are not followed.
        """
        if len(tcp := self._tcp()) < 4:
            return b""
        at, size = (12, 4) if self.start[0] >> 4 == 4 else (8, 16)
        source, destination = self.start[at : at + size], self.start[at + size : at + 2 * size]
        ends = [(source, tcp[:2]), (destination, tcp[2:4])]
        (remote, remote_port), (local, local_port) = ends if incoming else reversed(ends)
        return remote + local + remote_port + b"\0\0" + local_port + b"\0\0"

    def _tcp(self) -> bytes:
        """Return the packet from its TCP header on; empty if it has none."""
        start = self.start
        if len(start) >= 20 and start[0] >> 4 == 4 and start[9] == socket.IPPROTO_TCP:
            return start[(start[0] & 0x0F) * 4 :]
        if len(start) >= 40 and start[0] >> 4 == 6 and start[6] == socket.IPPROTO_TCP:
            return start[40:]
        return b""


class Queue:
    """One queue, bound in the network namespace of the calling thread.

    Raises OSError: EPERM when the number is in use there, or without CAP_NET_ADMIN; EINVAL
    or EPROTONOSUPPORT when the kernel has no NFQUEUE. The queue fails closed: packets that do not fit (4096 at most)
    are dropped, and so are those without a verdict at close().
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._family = struct.pack(">BBH", socket.AF_UNSPEC, 0, number)
        self._netlink = netlink.Netlink(NETLINK_NETFILTER)
        connection = self._netlink.socket
        try:
            connection.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
            # A full buffer drops packets; an error at the next read would tell no more than that.
            connection.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
            self._configure(netlink.attribute(1, struct.pack(">BxH", 1, 0)))
            self._configure(
                netlink.attribute(2, struct.pack(">IB", _COPIED, _COPY_PACKET))
                + netlink.attribute(3, struct.pack(">I", _MOST_PACKETS))
                # Without this flag the kernel segments large packets before queueing them.
                + netlink.attribute(4, struct.pack(">I", _GSO))
                + netlink.attribute(5, struct.pack(">I", _GSO))
            )
        except OSError:
            self.close()
            raise
        connection.setblocking(False)

    def close(self) -> None:
        """Unbind the queue; the kernel drops the packets in it."""
        self._netlink.close()

    async def wait_arrived(self) -> None:
        """Wait until receive_nowait() may return packets. One task at a time."""
        await trio.lowlevel.wait_readable(self._netlink.socket)

    def receive_nowait(self) -> list[Packet]:
        """Return the packets that have arrived since the last call, in order."""
        found: list[Packet] = []
        with suppress(BlockingIOError):
            while True:
                messages = netlink.messages(self._netlink.socket.recv(1 << 16))
                found += [parse(message.body) for message in messages if message.kind == _PACKET]
        return found

    def accept(self, packet: int) -> None:
        """Let one packet, by id, continue with the hook after the one that queued it, before this returns."""
        body = self._family + netlink.attribute(2, struct.pack(">II", _ACCEPT, packet))
        # No acknowledgement is asked for: an error (the packet is gone) is skipped by receive_nowait().
        self._netlink.socket.send(netlink.encode(_VERDICT, netlink.NLM_F_REQUEST, 0, body))

    def _configure(self, attributes: bytes) -> None:
        self._netlink.transact([(_CONFIG, netlink.NLM_F_ACK, self._family + attributes)])


def parse(body: bytes) -> Packet:
    """Parse the body of an NFQNL_MSG_PACKET. Raises ValueError when it is not one."""
    found = dict(netlink.attributes(body[4:]))
    if len(header := found.get(1, b"")) < 4:
        raise ValueError("nfqueue message without a packet header")
    return Packet(int.from_bytes(header[:4], "big"), found.get(10, b""))


def _length(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")
