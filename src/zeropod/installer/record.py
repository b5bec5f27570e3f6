"""The installer's record on the node: the files outside the install root that it has written, and their former content.

With it, uninstalling restores the node byte for byte, and a second installation knows its own files.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from zeropod.installer.changes import Entry, File, Link
from zeropod.installer.errors import InstallError
from zeropod.installer.transaction import Metadata

PLACE = "etc/installed.json"
BACKUPS = "etc/backup"
"""Backups of edited files, below this directory under their own paths."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A path outside the install root that the installer has written."""

    digest: str
    """The digest of the written content."""
    edited: bool
    """Whether it also has content of others; if not, it is removed as a whole."""
    existed: bool
    """Whether there is a backup."""
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime_ns: int | None = None

    @property
    def metadata(self) -> Metadata:
        return Metadata(self.uid, self.gid, self.mtime_ns)


@dataclass(frozen=True, slots=True)
class Record:
    version: str
    distribution: str
    config: str
    """The path of containerd's configuration, found or given."""
    socket: str
    drop_in: str | None = None
    files: Mapping[str, Kept] = field(default_factory=dict)
    directories: tuple[str, ...] = ()
    """Directories that did not exist before, the outermost first."""
    inner: tuple[str, ...] = ()
    """The installer's files in the install root, by relative path; any others are not zeropod's."""

    def entry(self) -> File:
        return File((json.dumps(asdict(self), indent=1, sort_keys=True) + "\n").encode(), 0o600)


def read(entry: Entry, path: str) -> Record | None:
    """Return the record in a file; None if there is none. Raises InstallError if it is damaged."""
    if not isinstance(entry, File):
        return None
    try:
        values: dict[str, Any] = json.loads(entry.content)
        files = {name: Kept(**kept) for name, kept in values.pop("files").items()}
        directories, inner = tuple(values.pop("directories")), tuple(values.pop("inner"))
        return Record(**values, files=files, directories=directories, inner=inner)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InstallError(f"{path} is damaged ({error}): restore it, or remove what it is about by hand") from error


def digest(entry: Entry) -> str:
    """Return a digest by which a later change of an entry is detected."""
    match entry:
        case File(content):
            return hashlib.sha256(content).hexdigest()
        case Link(target):
            return f"-> {target}"
        case None:
            return ""
