"""WebSocket's framing (RFC 6455, section 5.2) as far as an echo needs it: unfragmented frames below 64 KiB.

The application in the container has this module's source in front of its own, so it imports the standard library alone.
"""

import struct
from itertools import cycle

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


def frame(opcode: int, payload: bytes, mask: bytes = b"") -> bytes:
    """A frame; a client has to mask its own with four bytes."""
    count, masked = len(payload), 0x80 if mask else 0
    if count < 126:
        head = struct.pack("!BB", 0x80 | opcode, masked | count)
    else:
        head = struct.pack("!BBH", 0x80 | opcode, masked | 126, count)
    return head + mask + (unmasked(payload, mask) if mask else payload)


def unmasked(payload: bytes, mask: bytes) -> bytes:
    """A masked payload as it was, and the other way round."""
    return bytes(one ^ other for one, other in zip(payload, cycle(mask), strict=False))


def measure(head: bytes) -> tuple[int, int, int]:
    """Of a frame's first two bytes: opcode, how many bytes of length and mask come next, and a length below 126."""
    count = head[1] & 0x7F
    return head[0] & 0x0F, (2 if count == 126 else 0) + (4 if head[1] & 0x80 else 0), count
