"""Files of pages that a pager reads: held open, and checked for changes."""

import os
from dataclasses import dataclass
from pathlib import Path

from zeropod.runtime.images import Fingerprint
from zeropod.runtime.pager.presence import Filling, Presence


@dataclass(frozen=True, slots=True)
class PagesFile:
    """One pages file, held open: a deleted image can still be served."""

    path: Path
    descriptor: int
    fingerprint: Fingerprint
    """Of when it was opened; use `current` for a file that is filled from elsewhere."""
    presence: Presence | None = None
    """Which pieces are there, for a file that is filled from elsewhere."""

    @classmethod
    def open(cls, path: Path, presence: Presence | None = None) -> "PagesFile":
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return cls(path, descriptor, Fingerprint.of(os.fstat(descriptor)), presence)

    def again(self) -> "PagesFile":
        """Return a further descriptor of the same file, with the fingerprint of this one."""
        return PagesFile(self.path, os.dup(self.descriptor), self.fingerprint, self.presence)

    @property
    def complete(self) -> bool:
        """Whether all of it is there."""
        return self.presence is None or self.presence.filling is Filling.COMPLETE

    @property
    def current(self) -> Fingerprint:
        """Return the fingerprint that a complete file must have."""
        return self.fingerprint if self.presence is None else self.presence.fingerprint

    def damage(self) -> str:
        if not self.complete:
            return ""
        now, before = Fingerprint.of(os.fstat(self.descriptor)), self.current
        if now.size != before.size:
            return f"{self.path} has {now.size} bytes instead of {before.size}"
        # Deleting a file changes its ctime as well, but not the content of the open descriptor.
        if now != before and os.fstat(self.descriptor).st_nlink:
            return f"{self.path} was written to"
        return ""
