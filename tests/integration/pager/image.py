"""Images as CRIU writes them, made by hand: every page's contents say where it belongs."""

import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE = mmap.PAGESIZE
LAZY = 4 | 2
EAGER = 4
PARENT = 1


@dataclass(frozen=True, slots=True)
class Run:
    address: int
    pages: int
    flags: int = LAZY


def contents(address: int) -> bytes:
    """What a page of the image holds."""
    return struct.pack("<Q", address ^ 0x5A5A5A5A5A5A5A5A) * (PAGE // 8)


def varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def message(fields: dict[int, int]) -> bytes:
    body = b"".join(varint(key << 3) + varint(value) for key, value in fields.items())
    return struct.pack("<I", len(body)) + body


def write(directory: Path, runs: Sequence[Run], pid: int = 1, pages_id: int = 1) -> None:
    """Writes pagemap-PID.img and pages-ID.img."""
    entries = [message({1: run.address, 5: run.pages, 4: run.flags}) for run in runs]
    (directory / f"pagemap-{pid}.img").write_bytes(bytes(8) + message({1: pages_id}) + b"".join(entries))
    with (directory / f"pages-{pages_id}.img").open("wb") as file:
        for run in runs:
            if run.flags & EAGER:
                file.writelines(contents(run.address + number * PAGE) for number in range(run.pages))
