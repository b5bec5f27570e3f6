"""A segment of a connection that one end has forgotten already."""

import socket
import struct

ACK = 0x10
NOBODYS_PORT = 9
"""No connection has it at this end."""


def acknowledge(address: str, port: int) -> None:
    """Sends a bare acknowledgement of nothing from this node."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        raw.connect((address, 0))
        ends = socket.inet_aton(raw.getsockname()[0]) + socket.inet_aton(address)
        segment = struct.pack("!HHIIBBHHH", NOBODYS_PORT, port, 1, 1, 5 << 4, ACK, 1024, 0, 0)
        pseudo_header = ends + struct.pack("!HH", socket.IPPROTO_TCP, len(segment))
        checksum = struct.pack("!H", _checksum(pseudo_header + segment))
        raw.send(segment[:16] + checksum + segment[18:])


def _checksum(data: bytes) -> int:
    """RFC 1071; of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
