"""Room on disk for one more image: decided by one shim at a time, and reserved until the image is there.

A dump grows from nothing to the size of the container's memory, beside those of other containers. So what it will need
is written down before it begins, in the container's own directory, and counts as taken until the dump is over.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from zeropod.runtime import images
from zeropod.runtime.node_config import NodeConfig

RESERVED = "reserved"
"""In a container's directory while it is dumped: the bytes that it is expected to need."""

LOCK = ".lock"

PATIENCE = 2.0
"""Seconds after which a lock that somebody holds is ignored: looking takes milliseconds."""

_BLOCK = 512  # of st_blocks


@dataclass(frozen=True, slots=True)
class Usage:
    """What is taken, in bytes."""

    images: int
    """By all images, those that are being written with their full size."""
    outstanding: int
    """Of that, what is not written yet."""
    free: int
    """On the file system."""


def refusal(need: int, usage: Usage, config: NodeConfig) -> str:
    """Why an image of `need` bytes must not be written; empty if it may."""
    most, least = config.max_checkpoint_bytes, config.min_free_bytes
    if most and usage.images + need > most:
        return (
            f"its image would take about {_size(need)}, all others take {_size(usage.images)}, "
            f"and max-checkpoint-bytes is {_size(most)}"
        )
    left = usage.free - usage.outstanding - need
    if left < least:
        return (
            f"its image would take about {_size(need)} and leave {_size(max(left, 0))} free on the disk, "
            f"and min-free-bytes is {_size(least)}"
        )
    return ""


def usage(without: str = "") -> Usage:
    """What is taken now; `without` the image of this container. Raises OSError."""
    taken = outstanding = 0
    for entry in _directories():
        if entry.name != without:
            written, reserved = size(Path(entry.path)), _reserved(Path(entry.path))
            taken += max(written, reserved)
            outstanding += max(0, reserved - written)
    disk = os.statvfs(images.ROOT if images.ROOT.exists() else "/")
    return Usage(taken, outstanding, disk.f_bavail * disk.f_frsize)


def reserve(id: str, need: int, config: NodeConfig) -> str:
    """Reserves `need` bytes for this container's image, unless there is no room: then why not. Raises OSError."""
    with _alone():
        words = refusal(need, usage(without=id), config)
        if not words:
            directory = images.ROOT / id
            directory.mkdir(mode=0o700, exist_ok=True)
            (directory / RESERVED).write_text(str(need))
    return words


def release(id: str) -> None:
    """The image is written, or will not be."""
    with suppress(OSError):
        (images.ROOT / id / RESERVED).unlink(missing_ok=True)


def size(directory: Path) -> int:
    """Bytes on disk below the directory; what vanishes meanwhile does not count."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * _BLOCK
    return total


def collect_orphans(existing: Callable[[], Collection[str]]) -> list[tuple[str, int]]:
    """Removes the images of containers that do not exist, after a reboot above all; their ids and sizes.

    `existing` looks up the ids of those that do. It is asked after the images: a container exists before its image.
    """
    removed, names = [], sorted(entry.name for entry in _directories())
    alive = existing()
    for name in names:
        if name not in alive:
            directory = images.ROOT / name
            removed.append((name, size(directory)))
            shutil.rmtree(directory, ignore_errors=True)
    return removed


def _directories() -> list[os.DirEntry[str]]:
    try:
        return [entry for entry in os.scandir(images.ROOT) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _reserved(directory: Path) -> int:
    try:
        return int((directory / RESERVED).read_text())
    except (OSError, ValueError):
        return 0


@contextmanager
def _alone() -> Iterator[None]:
    images.ROOT.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(images.ROOT / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.005)
        yield
    finally:
        os.close(descriptor)


def _size(count: float) -> str:
    """Bytes in words."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
