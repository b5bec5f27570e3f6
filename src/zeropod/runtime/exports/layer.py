"""What a container has written to its root file system, as one file of its export.

Owns the file, and what a failure means: an archive that cannot be made leaves the container where it is, one that is
applied in part leaves a root file system that no container may have. `upper` has the archive itself.
"""

import os
from pathlib import Path

from zeropod.runtime.exports.errors import BadExport
from zeropod.runtime.exports.upper import applying, packing
from zeropod.runtime.exports.upper.applying import NotApplied
from zeropod.runtime.exports.upper.packing import Unpackable
from zeropod.runtime.exports.upper.records import BadArchive


class HalfApplied(Exception):  # noqa: N818 - what the root file system is
    """The root file system is neither as the image has it nor as the container left it; the text says why."""


def pack(rootfs: Path, archive: Path) -> packing.Packed:
    """Write the archive of what lies above the image at `rootfs`. Blocks. Raises BadExport with the reason, OSError."""
    archive.unlink(missing_ok=True)
    try:
        upper = packing.find(rootfs)
        with open(archive, "xb", opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW, 0o600)) as to:
            return packing.pack(upper, to)
    except Unpackable as error:
        archive.unlink(missing_ok=True)
        raise BadExport(str(error)) from error


def apply(archive: Path, rootfs: Path) -> None:
    """Do again in a new root file system what the archive has. Blocks. Raises HalfApplied; OSError without one."""
    with archive.open("rb") as file:
        try:
            applying.apply(file, rootfs)
        except (BadArchive, NotApplied) as error:
            raise HalfApplied(f"what it has written to its root file system cannot be had again: {error}") from error
