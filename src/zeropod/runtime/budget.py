"""Disk space for images: checked by one shim at a time, and reserved until the image is written.

A dump grows from nothing to the size of the container's memory, while other containers dump too. So before a dump the
space that it will need is recorded in the container's own directory, and counts as used until the dump ends.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from zeropod import paths
from zeropod.runtime.node_config import NodeConfig
from zeropod.runtime.quantity import shown

PATIENCE = 2.0
"""Seconds after which a lock held by another shim is ignored: checking takes milliseconds."""

_BLOCK = 512  # of st_blocks

Key = tuple[str, str]
"""A container: containerd's namespace and the id. The namespace is empty for images made by an older version."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Disk space, in bytes."""

    images: int
    """Used by all images; those being written count with their full size."""
    outstanding: int
    """The part of `images` that is not written yet."""
    free: int
    """Free on the file system."""


def refusal(need: int, usage: Usage, config: NodeConfig, what: str) -> str:
    """Return why `what`, of `need` bytes, must not be written; empty if it may."""
    most, least = config.max_checkpoint_bytes, config.min_free_bytes
    if most and usage.images + need > most:
        return (
            f"{what} would take about {shown(need)}, existing images take {shown(usage.images)}, "
            f"and max-checkpoint-bytes is {shown(most)}"
        )
    left = usage.free - usage.outstanding - need
    if left < least:
        return (
            f"{what} would take about {shown(need)} and leave {shown(max(left, 0))} free on the disk, "
            f"and min-free-bytes is {shown(least)}"
        )
    return ""


def usage(without: Key | None = None) -> Usage:
    """Return the present usage in all namespaces, `without` the image of this container. Raises OSError."""
    taken = outstanding = 0
    for key, directory in _directories():
        if key != without:
            written, reserved = size(directory), _reserved(directory)
            taken += max(written, reserved)
            outstanding += max(0, reserved - written)
    disk = os.statvfs(paths.CONTAINERS if paths.CONTAINERS.exists() else "/")
    return Usage(taken, outstanding, disk.f_bavail * disk.f_frsize)


def reserve(key: Key, need: int, config: NodeConfig, what: str, *, beside: bool = False) -> str:
    """Reserve `need` bytes for `what` of this container ("its image"); return a refusal or "". Raises OSError.

    `beside`: in addition to what the container has on disk already; otherwise in place of it.
    """
    with _alone():
        stays, taken = size(paths.container(*key)) if beside else 0, usage(without=key)
        words = refusal(need, replace(taken, images=taken.images + stays), config, what)
        if not words:
            paths.make_private(paths.container(*key))
            paths.reservation(*key).write_text(str(stays + need))
    return words


def release(key: Key) -> None:
    """Drop the reservation: the image is written, or will not be."""
    with suppress(OSError):
        paths.reservation(*key).unlink(missing_ok=True)


def size(directory: Path) -> int:
    """Return the bytes on disk below the directory; files that vanish meanwhile do not count."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * _BLOCK
    return total


def collect_orphans(existing: Callable[[], Collection[Key]]) -> list[tuple[Key, int]]:
    """Remove the images of containers that do not exist, typically after a reboot; return their keys and sizes.

    `existing` lists the containers that exist. It is called after the images are listed, because a container exists
    before its image. An image of an older version has no namespace: it stays while any namespace has its id.
    """
    removed, found = [], sorted(_directories())
    alive = existing()
    ids = {key[1] for key in alive}
    for key, directory in found:
        if key not in alive and (key[0] or key[1] not in ids):
            removed.append((key, size(directory)))
            shutil.rmtree(directory, ignore_errors=True)
    with suppress(OSError):  # it does not exist, or a container of an older shim still uses it
        paths.OLD_IMAGES.rmdir()
    return removed


def _directories() -> Iterator[tuple[Key, Path]]:
    """Yield the directories of all containers. Raises OSError."""
    for namespace in _below(paths.CONTAINERS):
        for name in _below(paths.CONTAINERS / namespace):
            yield (namespace, name), paths.CONTAINERS / namespace / name
    for name in _below(paths.OLD_IMAGES):
        yield ("", name), paths.OLD_IMAGES / name


def _below(directory: Path) -> list[str]:
    """Return the subdirectories whose names can be identifiers, unlike lost+found."""
    try:
        with os.scandir(directory) as entries:
            found = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    return [name for name in found if paths.is_identifier(name)]


def _reserved(directory: Path) -> int:
    try:
        return int((directory / paths.RESERVED).read_text())
    except (OSError, ValueError):
        return 0


@contextmanager
def _alone() -> Iterator[None]:
    paths.make_private(paths.CONTAINERS)
    descriptor = os.open(paths.reservations_lock(), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
