"""What a container has written to its root file system, as an archive: what lies in the overlay's upper directory.

Owns where that directory is, by the mount of the container's root. The archive itself is `tar`'s, with extended
attributes; deletions, which overlayfs has as devices 0:0, are in a list of their own and are done again as such.
"""

import os
import shutil
import stat
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from zeropod.kernel import mountinfo

_DELETED: Final = "ZEROPOD.deleted"
_OPAQUE: Final = "ZEROPOD.opaque"
_XATTR: Final = "SCHILY.xattr."
_OVERLAY: Final = "trusted.overlay."


def pack(rootfs: Path, archive: Path) -> None:
    """Write the archive of what lies above the image at `rootfs`; none where that is not an overlay. Raises OSError."""
    upper = _upper_of(rootfs)
    archive.unlink(missing_ok=True)
    if upper is None:
        return
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        archive.chmod(0o600)
        for directory, directories, files in os.walk(upper):
            directories.sort()
            for name in sorted([*directories, *files]):
                _add(tar, upper, Path(directory, name))


def _add(tar: tarfile.TarFile, upper: Path, path: Path) -> None:
    member = tar.gettarinfo(path, arcname=str(path.relative_to(upper)))
    if member is None:
        return  # a socket, which is of no use without its process
    found = path.lstat()
    attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in _names(path)}
    headers = {
        _XATTR + name: value.decode("utf-8", "surrogateescape")
        for name, value in attributes.items()
        if not name.startswith(_OVERLAY)
    }
    if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
        headers[_DELETED] = "1"
    if attributes.get(f"{_OVERLAY}opaque") == b"y":
        headers[_OPAQUE] = "1"
    member.pax_headers = {**headers, "mtime": f"{found.st_mtime_ns / 1e9:.9f}"}
    if member.isreg():
        with path.open("rb") as content:
            tar.addfile(member, content)
    else:
        tar.addfile(member)


def _names(path: Path) -> list[str]:
    with suppress(OSError):
        return os.listxattr(path, follow_symlinks=False)
    return []


def apply(archive: Path, rootfs: Path) -> None:
    """Do again in a new root file system what the archive has. It is this node's own. Raises OSError."""
    directories: list[tuple[Path, tarfile.TarInfo]] = []
    with tarfile.open(archive) as tar:
        for member in tar:
            path = rootfs / member.name
            if _DELETED in member.pax_headers:
                _remove(path)
                continue
            if _OPAQUE in member.pax_headers or not member.isdir():
                _remove(path)
            tar.extract(member, rootfs, numeric_owner=True, filter="fully_trusted")
            if member.isdir():
                directories.append((path, member))
            for key, value in member.pax_headers.items():
                if key.startswith(_XATTR):
                    with suppress(OSError):  # of a kind that this file system does not have
                        os.setxattr(path, key.removeprefix(_XATTR), value.encode("utf-8", "surrogateescape"),
                                    follow_symlinks=False)  # fmt: skip
    for path, member in reversed(directories):
        os.utime(path, (member.mtime, member.mtime))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _upper_of(rootfs: Path) -> Path | None:
    """Return the upper directory of the overlay that is mounted at `rootfs`; None if it is another file system."""
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        if mountinfo.unescaped(fields.split(" ")[4]) == str(rootfs) and kind == "overlay":
            for option in options.split(","):
                name, _, value = option.partition("=")
                if name == "upperdir":
                    return Path(mountinfo.unescaped(value))
            return None
    return None
