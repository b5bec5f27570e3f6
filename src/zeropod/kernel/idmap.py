"""Id-mapped mounts, whose files have other owners than on disk, as a pod with `hostUsers: false` needs them.

Owns the user namespace that carries a mapping, and the mounts made with it. Source of facts: mount_setattr(2),
clone(2); the options `uidmap` and `gidmap` are containerd's (core/mount/mount_idmapped_linux.go).
"""

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zeropod.kernel import detached_mount, libc
from zeropod.kernel.keeper import Sleeper

_AT_EMPTY_PATH = 0x1000
_MOUNT_ATTR_IDMAP = 0x100000
_MS_PRIVATE = 0x40000
_ATTRIBUTES = struct.Struct("=QQQQ")
"""What to set, what to clear, the propagation, the user namespace."""

_CLONE_NEWUSER = 0x10000000
_LONGEST = 60
"""Seconds after which the process with the namespace ends by itself."""


@contextmanager
def user_namespace(uids: str, gids: str) -> Iterator[int]:
    """Make a user namespace with these mappings and yield its descriptor.

    A mapping is CONTAINER:NODE:COUNT, the first id in the container, the first on the node, and how many; for instance
    `0:131072:65536`. Separate several by commas. Raises ValueError for a malformed mapping, OSError when the kernel
    refuses it.
    """
    maps = {"uid_map": _lines(uids), "gid_map": _lines(gids)}
    inside = Sleeper(_CLONE_NEWUSER, _LONGEST)
    try:
        for name, lines in maps.items():
            Path(f"/proc/{inside.pid}/{name}").write_text(lines)
        descriptor = os.open(f"/proc/{inside.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        inside.end()
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lines(mappings: str) -> str:
    """Return the mappings as /proc/PID/uid_map takes them."""
    lines = []
    for mapping in mappings.split(","):
        numbers = [int(number) for number in mapping.split(":")]
        if len(numbers) != 3:
            raise ValueError(f"{mapping!r} is not a mapping of ids of the form CONTAINER:NODE:COUNT")
        lines.append("{} {} {}\n".format(*numbers))
    return "".join(lines)


def bind(source: str, target: Path, namespace: int) -> None:
    """Bind mount `source` on `target` with the owners of its files mapped. Raises OSError."""
    tree = detached_mount.copy(source)
    try:
        attributes = ctypes.create_string_buffer(
            _ATTRIBUTES.pack(_MOUNT_ATTR_IDMAP, 0, _MS_PRIVATE, namespace), _ATTRIBUTES.size
        )
        libc.syscall("mount_setattr", tree, "", _AT_EMPTY_PATH, attributes, _ATTRIBUTES.size)
        detached_mount.attach(tree, target)
    finally:
        os.close(tree)
