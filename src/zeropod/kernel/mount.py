"""mount(2) and umount2(2) in containerd's terms: a type, a source, options as mount(8) spells them.

Owns the translation of options to flags and the removal of everything below a directory.
"""

import errno
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from zeropod.kernel import idmap, libc, mountinfo

_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8
_BIND, _REC, _REMOUNT, _RDONLY = 0x1000, 0x4000, 0x20, 0x1
_PAGE = 4096

_FLAGS = {
    "remount": _REMOUNT,
    "ro": _RDONLY,
    "rw": 0,
    "nosuid": 0x2,
    "nodev": 0x4,
    "noexec": 0x8,
    "sync": 0x10,
    "mand": 0x40,
    "dirsync": 0x80,
    "noatime": 0x400,
    "nodiratime": 0x800,
    "bind": _BIND,
    "rbind": _BIND | _REC,
    "relatime": 0x200000,
    "strictatime": 0x1000000,
    "defaults": 0,
    "suid": 0,
    "dev": 0,
    "exec": 0,
    "async": 0,
    "atime": 0,
}
_PROPAGATION = {"private": 0x40000, "rprivate": 0x44000, "shared": 0x100000, "rshared": 0x104000}
_PROPAGATION |= {"slave": 0x80000, "rslave": 0x84000}


def mount(kind: str, source: str, target: Path, options: Sequence[str]) -> None:
    """Mount like containerd's `mount.Mount`. Raises OSError naming the target, ValueError for a malformed mapping."""
    maps = dict(option.split("=", 1) for option in options if option.startswith(("uidmap=", "gidmap=")))
    options = [option for option in options if not option.startswith(("uidmap=", "gidmap="))]
    if maps:
        try:
            with idmap.user_namespace(maps["uidmap"], maps["gidmap"]) as users:
                _mount_mapped(kind, source, target, options, users)
        except OSError as error:
            raise OSError(error.errno, f"cannot mount {kind} with mapped ids on {target}: {error.strerror}") from error
        return
    flags, propagation, data = 0, 0, []
    for option in options:
        if option in _FLAGS:
            flags |= _FLAGS[option]
        elif option in _PROPAGATION:
            propagation = _PROPAGATION[option]
        elif option != "loop":
            data.append(option)
    text = ",".join(data)
    try:
        if len(text) >= _PAGE and kind == "overlay":
            _mount_long_overlay(source, target, flags, data)
        else:
            libc.call("mount", source, os.fspath(target), kind, flags, text or None)
        if flags & _BIND and flags & ~(_BIND | _REC):
            # A bind mount takes its other flags only when it is mounted again.
            libc.call("mount", "none", os.fspath(target), kind, flags | _REMOUNT, None)
        if propagation:
            libc.call("mount", "none", os.fspath(target), "", propagation, None)
    except OSError as error:
        raise OSError(error.errno, f"cannot mount {kind} on {target}: {error.strerror}") from error


def _mount_mapped(kind: str, source: str, target: Path, options: Sequence[str], users: int) -> None:
    """Mount with the owners of the files mapped by the user namespace `users`."""
    if kind != "overlay":
        idmap.bind(source, target, users)
        if rest := [option for option in options if option not in ("bind", "rbind")]:
            mount("none", "none", target, ["remount", "bind", *rest])
        return
    # An overlay is mapped through its lower layers; the upper one already belongs to these users. It keeps its layers
    # after the mounts that mapped them are gone.
    lower, rest = _layers(options)
    common = os.path.commonpath(lower)
    with tempfile.TemporaryDirectory(prefix="mapped-", dir=target.parent) as mapped:
        idmap.bind(common, Path(mapped), users)
        try:
            layers = ":".join(os.path.normpath(f"{mapped}/{os.path.relpath(layer, common)}") for layer in lower)
            mount(kind, source, target, [*rest, f"lowerdir={layers}"])
        finally:
            libc.call("umount2", mapped, _MNT_DETACH | _UMOUNT_NOFOLLOW)


def _mount_long_overlay(source: str, target: Path, flags: int, data: list[str]) -> None:
    # mount(2) takes one page of options; many layers need more. Relative to their common directory they fit.
    lower, rest = _layers(data)
    common = os.path.commonpath(lower)
    short = ["lowerdir=" + ":".join(os.path.relpath(layer, common) for layer in lower)]
    home = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(common)
        libc.call("mount", source, os.fspath(target), "overlay", flags, ",".join(short + rest))
    finally:
        os.fchdir(home)
        os.close(home)


def _layers(options: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return an overlay's lower layers, and the other options."""
    lower = next(option for option in options if option.startswith("lowerdir="))
    return lower.removeprefix("lowerdir=").split(":"), [option for option in options if option != lower]


def unmount_below(directory: Path) -> None:
    """Unmount the directory and everything below it, busy or not; do nothing if nothing is mounted. Raises OSError.

    If the directory is a symbolic link, its target is left alone.
    """
    for target in reversed(mounted_below(directory)):
        with suppress(FileNotFoundError):
            try:
                libc.call("umount2", target, _MNT_DETACH | _UMOUNT_NOFOLLOW)
            except OSError as error:
                if error.errno != errno.EINVAL:  # not a mount point any more
                    raise


def mounted_below(directory: Path) -> list[str]:
    """Return the mount points that are this directory or below it, those within others after them. Raises OSError."""
    # The kernel lists mount points without symbolic links.
    place = os.path.join(os.path.realpath(directory.parent), directory.name)
    found = [mount.place for mount in mountinfo.read() if mount.place == place or mount.place.startswith(f"{place}/")]
    return sorted(found, key=len)
