"""A container's environment on its node: other processes in its pid namespace, shared volumes, message queues."""

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from zeropod.kernel import mountinfo, proc_stat
from zeropod.kernel.mountinfo import Mount
from zeropod.runtime.image.descriptors import text
from zeropod.runtime.image.snapshot import REFRESHED, Bind, Facts

_SANDBOX = "pause"
"""The name of the process in a pod's sandbox, which mounts the pod's shared memory but does not use it."""

_REMOVED = "//deleted"
"""The suffix of a mount's root in mountinfo once that is deleted."""


@dataclass(frozen=True, slots=True)
class Other:
    """A process outside of the container."""

    pid: int
    name: str
    pid_namespace: str
    mount_namespace: str


def look(pids: Collection[int]) -> list[Other]:
    """Return all processes but these; skip those that end meanwhile or may not be examined."""
    found = []
    for pid in proc_stat.pids():
        if pid not in pids:
            with suppress(OSError):
                namespaces = os.readlink(f"/proc/{pid}/ns/pid"), os.readlink(f"/proc/{pid}/ns/mnt")
                found.append(Other(pid, text(f"/proc/{pid}/comm").strip(), *namespaces))
    return found


def binds(facts: Facts, mounts: Sequence[Mount], pid: int, around: Sequence[Other]) -> list[Bind]:
    """Return the container's bind mounts as they are now. Raises OSError."""
    by_place: dict[str, Mount] = {mount.place: mount for mount in mounts}
    wanted = [(each, by_place[each.place]) for each in facts.mounts if each.is_bind and each.place in by_place]
    if not wanted:
        return []
    others = _others_mounts(pid, around)
    return [
        Bind(
            each.place,
            mount,
            mount.root.endswith(_REMOVED) or _is_changed(each.source, f"/proc/{pid}/root{each.place}"),
            os.path.lexists(f"/proc/{pid}/root{each.place}{REFRESHED}"),
            any(_overlap(mount, other) for other in others.get(mount.device, ())),
            os.path.isdir(f"/proc/{pid}/root{each.place}"),
        )
        for each, mount in wanted
    ]


def _is_changed(source: str, place: str) -> bool:
    """Return whether a volume's source is not what is mounted. A relative source is in the bundle."""
    if not source.startswith("/"):
        return False
    with suppress(FileNotFoundError, NotADirectoryError):
        return not os.path.samestat(os.stat(source), os.stat(place))
    return True


def _others_mounts(pid: int, around: Sequence[Other]) -> Mapping[str, list[Mount]]:
    """Return the mounts of other containers by device, without those of the node and of pods' sandboxes."""
    ours = {os.readlink(f"/proc/{pid}/ns/mnt"), os.readlink("/proc/self/ns/mnt"), _mount_namespace_of(1)}
    found: dict[str, list[Mount]] = {}
    seen = set(ours)
    for other in around:
        if other.mount_namespace not in seen and other.name != _SANDBOX:
            seen.add(other.mount_namespace)
            with suppress(OSError):
                theirs = mountinfo.read(other.pid)
                # A service with its own mount namespace (systemd's PrivateTmp) has the node's root: not a container.
                if _is_node(theirs):
                    continue
                for mount in theirs:
                    found.setdefault(mount.device, []).append(mount)
    return found


def _mount_namespace_of(pid: int) -> str:
    with suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/mnt")
    return ""


def _is_node(mounts: Sequence[Mount]) -> bool:
    ours = {(mount.device, mount.root) for mount in mountinfo.read() if mount.place == "/"}
    return any((mount.device, mount.root) in ours for mount in mounts if mount.place == "/")


def _overlap(one: Mount, other: Mount) -> bool:
    first, second = one.root.rstrip("/") + "/", other.root.rstrip("/") + "/"
    return first.startswith(second) or second.startswith(first)


def queues(mounts: Sequence[Mount], pid: int) -> list[str]:
    """Return the POSIX message queues that the container sees. Raises OSError."""
    found = []
    for mount in mounts:
        if mount.kind == "mqueue":
            found += os.listdir(f"/proc/{pid}/root{mount.place}")
    return found
