"""Checks of mounts that CRIU cannot restore, or that runc cannot bind again."""

from collections.abc import Iterator

from zeropod.runtime.image.obstacle import Kind, Obstacle
from zeropod.runtime.image.parsers import is_refreshed
from zeropod.runtime.image.snapshot import Snapshot

_MADE_AGAIN = {
    "binfmt_misc",
    "cgroup",
    "cgroup2",
    "debugfs",
    "devpts",
    "devtmpfs",
    "mqueue",
    "proc",
    "pstore",
    "securityfs",
    "sysfs",
    "tmpfs",
    "tracefs",
}
"""File systems that CRIU restores, including the content of a tmpfs."""
_PROPAGATION = {"shared", "rshared", "slave", "rslave"}


def sources(snapshot: Snapshot) -> Iterator[Obstacle]:
    """Find volumes that cannot be bound again from their source at a restore."""
    for bind in snapshot.binds:
        if bind.changed:
            yield Kind.MOUNT_SOURCE.found(bind.place)
        elif is_refreshed(bind.mount.root):
            yield Kind.VOLATILE_FILE.found(f"mounted by subPath at {bind.place}")
    for mount in snapshot.facts.mounts:
        if mount.is_bind and not _PROPAGATION.isdisjoint(mount.options):
            yield Kind.MOUNT_PROPAGATION.found(mount.place)


def inside(snapshot: Snapshot) -> Iterator[Obstacle]:
    """Find mounts made since the container's creation that CRIU cannot restore: from outside, or of another kind."""
    spec = {mount.place for mount in snapshot.facts.mounts} | {"/"}
    binds = [bind.place.rstrip("/") + "/" for bind in snapshot.binds]
    devices = {mount.device for mount in snapshot.mounts if mount.place in spec}
    for mount in snapshot.mounts:
        if mount.place in spec:
            continue
        is_known = mount.kind in _MADE_AGAIN or mount.device in devices
        if mount.place.startswith(tuple(binds)) or not is_known:
            yield Kind.MOUNT_INSIDE.found(f"{mount.place} ({mount.kind})")


CHECKS = (sources, inside)
