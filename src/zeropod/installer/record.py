"""What the installer remembers on the node: which files outside the install root it has written, and what they were.

With it, uninstalling restores the node byte for byte, and installing again knows what is its own.
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
"""Below it, each file that was edited, as it was, under its own path."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A path outside the install root that we have written."""

    digest: str
    """Of what we have written."""
    edited: bool
    """Whether it holds what is not ours, too; else it is removed as a whole."""
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
    """containerd's configuration, as it was found or named."""
    socket: str
    drop_in: str | None = None
    files: Mapping[str, Kept] = field(default_factory=dict)
    directories: tuple[str, ...] = ()
    """Those that did not exist before, the outermost first."""
    inner: tuple[str, ...] = ()
    """What we have put into the install root, relative to it; the rest there is not ours."""

    def entry(self) -> File:
        return File((json.dumps(asdict(self), indent=1, sort_keys=True) + "\n").encode(), 0o600)


def read(entry: Entry, path: str) -> Record | None:
    """The record in a file; None if there is none. Raises InstallError for a damaged one."""
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
    """What tells whether an entry has been changed since."""
    match entry:
        case File(content):
            return hashlib.sha256(content).hexdigest()
        case Link(target):
            return f"-> {target}"
        case None:
            return ""
