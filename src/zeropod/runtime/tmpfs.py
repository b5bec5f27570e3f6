"""Keeps a container's small tmpfs mounts alive while it sleeps, instead of dumping them into its image.

CRIU packs each into an archive with tar and gzip, and unpacks it at the restore; for a small container that takes about
as long as the rest of a dump (docs/performance.md), for a /dev that never changes and an empty /dev/shm. So the shim
keeps a copy of the mount, and declares it external to CRIU. Large ones go into the image, since a sleeping container
must not keep memory.
"""

import os
import re
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from zeropod import paths
from zeropod.kernel import detached_mount, mountinfo

SMALL: Final = 64 << 10
"""A tmpfs with up to this many bytes in its files is kept."""

NUMBER: Final = 16
"""The most mounts that are kept."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A whole tmpfs as it is mounted in a container."""

    id: int
    device: str
    """Identifies the tmpfs: several mounts may show the same one."""
    place: str


_PLAIN = re.compile(r"[!-\[\]-~]+")
"""Names that CRIU's options take literally: ASCII without blanks and backslashes."""


def whole(mounts: list[mountinfo.Mount]) -> list[Mount]:
    """Return the tmpfs mounts among these that show the whole file system and have no mount over or below them."""
    return [
        Mount(mount.id, mount.device, mount.place)
        for mount in mountinfo.visible(mounts)
        if mount.kind == "tmpfs" and mount.root == "/" and _PLAIN.fullmatch(mount.place)
    ]


def small(mount: int) -> bool:
    """Return whether the tmpfs is small enough to stay in memory. Raises OSError.

    One without a size limit does not report its usage.
    """
    stat = os.fstatvfs(mount)
    return bool(stat.f_blocks) and (stat.f_blocks - stat.f_bfree) * stat.f_frsize <= SMALL


class KeptMounts:
    """The kept mounts of one container. The copies end with this process; they are attached only during a restore."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._copies: dict[Mount, int] = {}
        self._placed: dict[Mount, Path] = {}

    def keep(self, pids: Collection[int], excepted: Collection[str]) -> None:
        """Before a dump, keep the small tmpfs mounts, except at the places `excepted`. Raises OSError."""
        first = min(pids)
        self._take_back()
        now = set(_mounts_of(first))
        # If processes have mount namespaces of their own, one path may mean several mounts.
        alone = len({os.readlink(f"/proc/{pid}/ns/mnt") for pid in pids}) == 1
        wanted = [mount for mount in now if alone and mount.place not in excepted]
        wanted = sorted(wanted, key=lambda mount: mount.place)[:NUMBER]
        for mount in [mount for mount in self._copies if mount not in wanted or not small(self._copies[mount])]:
            os.close(self._copies.pop(mount))
        missing = [mount for mount in wanted if mount not in self._copies]
        if not missing:
            return
        for mount, descriptor in zip(
            missing, detached_mount.copies_in(first, [mount.place for mount in missing]), strict=True
        ):
            if small(descriptor):
                self._copies[mount] = descriptor
            else:
                os.close(descriptor)

    def changed(self, pids: Collection[int]) -> bool:
        """Return whether the frozen container has replaced a kept mount since `keep`. Raises OSError."""
        return bool(self._copies) and not set(self._copies) <= set(_mounts_of(min(pids)))

    def for_dump(self) -> list[str]:
        """Return lines for CRIU's configuration."""
        return [f"external mnt[{mount.place}]:{_key(mount)}" for mount in self._copies]

    def for_restore(self) -> list[str]:
        """Attach the copies and return lines for CRIU's configuration that name them. Raises OSError."""
        self._take_back()
        lines = []
        for number, (mount, descriptor) in enumerate(self._copies.items()):
            place = self._directory / str(number)
            paths.make_private(place)
            detached_mount.attach(descriptor, place)
            self._placed[mount] = place
            lines.append(f"external mnt[{_key(mount)}]:{place}")
        return lines

    def has_restored(self, pids: Collection[int]) -> None:
        """After a restore, detach the copies and assign them to the restored mounts. Raises OSError."""
        self._take_back()
        # The same tmpfs at the same places, in new mounts.
        now = {(mount.device, mount.place): mount for mount in _mounts_of(min(pids))} if pids else {}
        kept = self._copies.items()
        self._copies = {now.get((old.device, old.place), old): descriptor for old, descriptor in kept}

    def has_failed(self) -> None:
        """After a failed restore, detach the copies, so that it can be tried again. Raises OSError."""
        self._take_back()

    def _take_back(self) -> None:
        # A mount that was attached cannot be attached again, so keep a new copy.
        while self._placed:
            mount, place = next(iter(self._placed.items()))
            copy = detached_mount.copy(place)
            os.close(self._copies[mount])
            self._copies[mount] = copy
            del self._placed[mount]  # if a later step fails, the copy is usable and the attached mount does no harm
            detached_mount.detach(place)
            place.rmdir()
        with suppress(OSError):
            self._directory.rmdir()

    def close(self) -> None:
        while self._copies:
            os.close(self._copies.popitem()[1])
        release(self._directory)


def release(directory: Path) -> None:
    """Detach all copies and remove their places; do nothing if there are none."""
    with suppress(OSError):
        for place in directory.iterdir():
            with suppress(OSError):
                detached_mount.detach(place)
            with suppress(OSError):  # remove empty directories only: the files in a mount must not be deleted
                place.rmdir()
        directory.rmdir()


def _key(mount: Mount) -> str:
    """Return the key of the mount in the image."""
    return f"zeropod{mount.place}"


def _mounts_of(pid: int) -> list[Mount]:
    return whole(mountinfo.read(pid))
