"""Files of pages that a pager reads: held open, and checked for changes."""

import os
from dataclasses import dataclass
from pathlib import Path

from zeropod.runtime.images import Fingerprint


@dataclass(frozen=True, slots=True)
class PagesFile:
    """One pages file, held open: a deleted image can still be served."""

    path: Path
    descriptor: int
    fingerprint: Fingerprint

    @classmethod
    def open(cls, path: Path) -> "PagesFile":
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return cls(path, descriptor, Fingerprint.of(os.fstat(descriptor)))

    def again(self) -> "PagesFile":
        """Return a further descriptor of the same file, with the fingerprint of this one."""
        return PagesFile(self.path, os.dup(self.descriptor), self.fingerprint)

    def damage(self) -> str:
        now = Fingerprint.of(os.fstat(self.descriptor))
        if now.size != self.fingerprint.size:
            return f"{self.path} has {now.size} bytes instead of {self.fingerprint.size}"
        # Deleting a file changes its ctime as well, but not the content of the open descriptor.
        if now != self.fingerprint and os.fstat(self.descriptor).st_nlink:
            return f"{self.path} was written to"
        return ""
