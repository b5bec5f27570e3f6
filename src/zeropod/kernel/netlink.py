"""Netlink messages: their framing, requests with an answer, dumps. Shared by sock_diag and netfilter.

Owns one socket with a bounded wait and the checks that hold for every netlink family.

Source of facts: netlink(7), include/uapi/linux/netlink.h.
"""

import itertools
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR = 0x1, 0x4, 0x10
NLM_F_DUMP = 0x300
NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x200, 0x400, 0x800
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_F_NESTED = 0x8000
_NLA_TYPE = 0x3FFF
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_TIMEOUT = 2.0  # seconds; the kernel answers within the call, only a bug makes us wait
_BUFFER = 1 << 18  # more than the largest dump message the kernel builds (32 KiB)
_MOST = 1 << 16  # messages in one dump


@dataclass(frozen=True, slots=True)
class Message:
    kind: int
    flags: int
    sequence: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Dump:
    """A dump's messages as (kind, body); `interrupted` when the tables changed while it ran."""

    messages: list[tuple[int, bytes]]
    interrupted: bool


class Netlink:
    """A netlink socket of one family, in the network namespace of the calling thread."""

    def __init__(self, family: int) -> None:
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        self.socket.settimeout(_TIMEOUT)
        self.socket.bind((0, 0))
        self._sequence = itertools.count(1)

    def close(self) -> None:
        self.socket.close()

    def dump(self, kind: int, body: bytes) -> Dump:
        """Return all entries of a table. Raises OSError with the kernel's error, TimeoutError after 2 s."""
        sequence = next(self._sequence)
        self.socket.send(encode(kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, body))
        found: list[tuple[int, bytes]] = []
        interrupted = False
        while len(found) < _MOST:
            for message in self._receive():
                if message.sequence != sequence:
                    continue  # left behind by an earlier request that ended early
                interrupted |= bool(message.flags & NLM_F_DUMP_INTR)
                if message.kind == NLMSG_DONE:
                    raise_error(message.body, kind)
                    return Dump(found, interrupted)
                if message.kind == NLMSG_ERROR:
                    raise_error(message.body, kind)
                else:
                    found.append((message.kind, message.body))
        raise OSError(f"netlink dump {kind}: more than {_MOST} messages")

    def ask(self, kind: int, body: bytes) -> tuple[int, bytes]:
        """Request one entry and return it as (kind, body). Raises OSError with the kernel's error."""
        sequence = next(self._sequence)
        self.socket.send(encode(kind, NLM_F_REQUEST, sequence, body))
        while True:
            for message in self._receive():
                if message.sequence == sequence:
                    if message.kind == NLMSG_ERROR:
                        raise_error(message.body, kind)
                    return message.kind, message.body

    def transact(self, requests: Sequence[tuple[int, int, bytes]]) -> None:
        """Send several requests (kind, flags, body) as one and wait for the acknowledgements of those with NLM_F_ACK.

        Raises OSError with the first error that the kernel reports for any of them.
        """
        numbered = [(next(self._sequence), kind, flags, body) for kind, flags, body in requests]
        self.socket.send(
            b"".join(encode(kind, flags | NLM_F_REQUEST, number, body) for number, kind, flags, body in numbered)
        )
        kinds = {number: kind for number, kind, _, _ in numbered}
        awaited = {number for number, _, flags, _ in numbered if flags & NLM_F_ACK}
        while awaited:
            for message in self._receive():
                if message.kind == NLMSG_ERROR and message.sequence in kinds:
                    awaited.discard(message.sequence)
                    raise_error(message.body, kinds[message.sequence])

    def _receive(self) -> Iterator[Message]:
        data, _, flags, _ = self.socket.recvmsg(_BUFFER)
        if flags & socket.MSG_TRUNC:
            raise OSError("netlink: the kernel's message did not fit into the buffer")
        return messages(data)


def encode(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Return one message. The kernel fills in the sender's port id."""
    return padded(_HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body)


def messages(data: bytes) -> Iterator[Message]:
    """Yield the messages of one datagram. Raises ValueError for a length that does not fit."""
    while data:
        if len(data) < _HEADER.size:
            raise ValueError(f"netlink: {len(data)} bytes are too few for a header")
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data)
        if not _HEADER.size <= length <= len(data):
            raise ValueError(f"netlink: a message of {length} bytes in {len(data)}")
        yield Message(kind, flags, sequence, data[_HEADER.size : length])
        data = data[_aligned(length) :]


def attribute(kind: int, value: bytes) -> bytes:
    """Return one attribute, padded. Nest others by joining them into `value` and adding NLA_F_NESTED."""
    return padded(_ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (kind, value) of each attribute, without flags. Raises ValueError for a length that does not fit."""
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            raise ValueError(f"netlink: an attribute of {length} bytes in {len(data)}")
        yield kind & _NLA_TYPE, data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]


def raise_error(body: bytes, kind: int) -> None:
    """Raise the OSError in the body of an NLMSG_ERROR or NLMSG_DONE, unless it reports success."""
    if len(body) < 4:
        return
    (number,) = struct.unpack_from("=i", body)
    if number < 0:
        raise OSError(-number, f"netlink request {kind}: {os.strerror(-number)}")


def padded(data: bytes) -> bytes:
    """Pad with zeroes to a multiple of four bytes, netlink's alignment."""
    return data + bytes(_aligned(len(data)) - len(data))


def _aligned(length: int) -> int:
    return (length + 3) & ~3
