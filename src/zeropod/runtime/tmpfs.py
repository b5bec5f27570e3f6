"""A container's small tmpfs mounts, which need not go through its image: kept by us as they are, while it sleeps.

CRIU packs each into an archive with tar and gzip, and unpacks it at the restore; for a small container that takes about
as much time as all else that it does (docs/performance.md), for a /dev that never changes and an empty /dev/shm. So we
keep a copy of the mount, and tell CRIU that it is external: where it comes from is our business. What is large goes to
the image as before, since a container that sleeps must not keep memory.
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
"""Bytes in the files of a tmpfs up to which it is kept."""

NUMBER: Final = 16
"""How many are kept at most."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A whole tmpfs as it is mounted in a container."""

    id: int
    device: str
    """Which tmpfs: several mounts may show the same one."""
    place: str


_PLAIN = re.compile(r"[!-\[\]-~]+")
"""Names that mean in CRIU's options what they say: ASCII without a blank or a backslash."""


def whole(mounts: list[mountinfo.Mount]) -> list[Mount]:
    """The tmpfs mounts among these that show all of theirs, and that nothing is mounted over."""
    return [
        Mount(mount.id, mount.device, mount.place)
        for mount in mountinfo.visible(mounts)
        if mount.kind == "tmpfs" and mount.root == "/" and _PLAIN.fullmatch(mount.place)
    ]


def small(mount: int) -> bool:
    """Whether what is in it may stay in memory. Raises OSError.

    One without a limit does not say how much that is.
    """
    stat = os.fstatvfs(mount)
    return bool(stat.f_blocks) and (stat.f_blocks - stat.f_bfree) * stat.f_frsize <= SMALL


class KeptMounts:
    """Those of one container. The copies end with us; they have places only while CRIU looks for them there."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._copies: dict[Mount, int] = {}
        self._placed: dict[Mount, Path] = {}

    def keep(self, pids: Collection[int], excepted: Collection[str]) -> None:
        """Before a dump: keeps what is there and small, except at the places `excepted`. Raises OSError."""
        first = min(pids)
        self._take_back()
        now = set(_of(first))
        # With mount namespaces of its own inside, one place may mean several mounts.
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
        """Whether the frozen container has mounted something else since. Raises OSError."""
        return bool(self._copies) and not set(self._copies) <= set(_of(min(pids)))

    def for_dump(self) -> list[str]:
        """Lines of CRIU's configuration."""
        return [f"external mnt[{mount.place}]:{_key(mount)}" for mount in self._copies]

    def for_restore(self) -> list[str]:
        """Gives them places; lines of CRIU's configuration that tell it of them. Raises OSError."""
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
        """CRIU does not look for them any more. Raises OSError."""
        self._take_back()
        # The same tmpfs at the same places, in mounts with other numbers.
        now = {(mount.device, mount.place): mount for mount in _of(min(pids))} if pids else {}
        kept = self._copies.items()
        self._copies = {now.get((old.device, old.place), old): descriptor for old, descriptor in kept}

    def has_failed(self) -> None:
        """The same after a restore that has failed."""
        self._take_back()

    def _take_back(self) -> None:
        # What has had a place cannot get another one, so what is kept on is a new copy.
        while self._placed:
            mount, place = next(iter(self._placed.items()))
            copy = detached_mount.copy(place)
            os.close(self._copies[mount])
            self._copies[mount] = copy
            del self._placed[mount]  # if this fails later on, the copy is good, and the place in nobody's way
            detached_mount.detach(place)
            place.rmdir()
        with suppress(OSError):
            self._directory.rmdir()

    def close(self) -> None:
        while self._copies:
            os.close(self._copies.popitem()[1])
        release(self._directory)


def release(directory: Path) -> None:
    """Takes everything from its place; nothing there is no error."""
    with suppress(OSError):
        for place in directory.iterdir():
            with suppress(OSError):
                detached_mount.detach(place)
            with suppress(OSError):  # never more than an empty directory: what is mounted is not ours to remove
                place.rmdir()
        directory.rmdir()


def _key(mount: Mount) -> str:
    """What it is called in the image."""
    return f"zeropod{mount.place}"


def _of(pid: int) -> list[Mount]:
    return whole(mountinfo.read(pid))
