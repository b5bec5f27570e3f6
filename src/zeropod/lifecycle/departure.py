"""A container's attempt to leave: asked for from outside of the machine, carried out by it, and its end.

Owns what both sides know of it. The one that asks waits for `exported`; the strategy refuses, or exports. What the
export comes to is decided on disk (`runtime.exports.decision`): here is only who waits for that.
"""

from dataclasses import dataclass
from pathlib import Path

import trio

from zeropod.lifecycle.reasons import Explanation
from zeropod.runtime.exports import layer
from zeropod.runtime.exports.export import Export
from zeropod.runtime.exports.manifest import Manifest, Source
from zeropod.runtime.memory.backend import Stored


@dataclass(frozen=True, slots=True)
class Exported:
    """What has left the container."""

    export: Export
    manifest: Manifest


class Departure:
    def __init__(self, key: str, source: Source, *, live: bool = False, wakes: bool = False) -> None:
        """Raises ValueError for a key that is none.

        `live`: it may leave while it runs. `wakes`: once exported it comes back for what comes for it, as from COLD.
        """
        self.export = Export.of(key)
        self.source = source
        self.live = live
        self.wakes = wakes
        self.is_kept = False
        """Whether the export stays when the container ends, for a successor that comes later."""
        self.was_awake = False
        """Whether it ran when it left."""
        self.result: Exported | None = None
        self.why: Explanation | None = None
        """Why it stays."""
        self._over = trio.Event()
        self._decided = trio.Event()
        self.address = ""
        """Of the pod that has taken it, to which connections go that still come here."""
        self.passes_on_for = 0.0
        """Seconds for which they do, at most."""
        self.is_given = False
        """Whether what asked for it knows that the export was given."""

    def make(self, made: Manifest, images: Path, stored: Stored | None, rootfs: Path, *, data: bool) -> Manifest:
        """Make the export of the container, whose processes are in the image. Blocks. Raises BadExport, OSError.

        `data`: with what it has written to its root file system, which is mounted at `rootfs`.
        """
        if data:
            layer.pack(rootfs, self.export.prepare_upper())
        indexes, store = (stored.indexes, stored.directory) if stored else ({}, None)
        return self.export.make(made, indexes, images, store)

    @property
    def is_over(self) -> bool:
        """Whether it is exported, or was refused."""
        return self._over.is_set()

    def refuse(self, why: Explanation) -> None:
        """It stays, for this reason."""
        if not self.is_over:
            self.why = why
            self._over.set()

    def has_exported(self, manifest: Manifest) -> None:
        """All of it is in the export."""
        self.result = Exported(self.export, manifest)
        self._over.set()

    async def exported(self) -> Exported | None:
        """Return what was exported, None where it was refused."""
        await self._over.wait()
        return self.result

    def end(self, *, given: bool) -> None:
        """What has asked for it knows that it was given, or is kept; or wants it back. The first time counts."""
        if self._decided.is_set():
            return
        self.is_given = given
        self._decided.set()

    async def ended(self) -> bool:
        """Return whether it was given, once that is told; False where it is wanted back."""
        await self._decided.wait()
        return self.is_given
