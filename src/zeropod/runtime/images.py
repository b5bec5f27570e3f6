"""The directory of a sleeping container on disk: one for each container, accessible to root alone, removed with it.

An image holds all of the container's memory, secrets included, hence the modes. The inventory taken after a
dump detects an image that was truncated, deleted or written to, before CRIU reads it.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from zeropod import paths
from zeropod.kernel import mount


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Metadata that changes when a file does: a checksum over gigabytes would take longer than the restore."""

    size: int
    """In bytes."""
    inode: int
    changed_ns: int
    """The change time (ctime), which only the kernel sets, at every write and every change of metadata."""

    @classmethod
    def of(cls, found: os.stat_result) -> "Fingerprint":
        return cls(found.st_size, found.st_ino, found.st_ctime_ns)


Inventory = dict[str, Fingerprint]


@dataclass(frozen=True, slots=True)
class ImageStore:
    """The directory of one container. `images` is CRIU's image, `work` has its logs and sockets.

    The page store of a container that sleeps in place is in it too (`paths.store`), and is removed with it.
    """

    directory: Path

    @classmethod
    def of(cls, containerd_namespace: str, id: str) -> "ImageStore":
        return cls(paths.container(containerd_namespace, id))

    @property
    def images(self) -> Path:
        return self.directory / "images"

    @property
    def work(self) -> Path:
        return self.directory / "work"

    @property
    def predump(self) -> Path:
        return self.directory / "predump"

    @property
    def config(self) -> Path:
        return self.directory / "criu.conf"

    def prepare(self) -> None:
        """Make empty directories for the next dump. Raises OSError."""
        paths.make_private(self.directory)
        for path in (self.images, self.work, self.predump):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(mode=0o700)

    def prepare_restore(self) -> None:
        """Make an empty work directory, so that CRIU cannot connect to the previous pager's socket."""
        mount.unmount_below(self.work)  # a CRIU that was killed leaves its cgroup mounts there
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(mode=0o700, exist_ok=True)

    def inventory(self) -> Inventory:
        """Return the image's files with their fingerprints."""
        files = [entry for entry in os.scandir(self.images) if entry.is_file()]
        return {entry.name: Fingerprint.of(entry.stat()) for entry in files}

    def damage(self, inventory: Inventory) -> str:
        """Return how the image differs from the inventory taken after the dump; empty if it does not."""
        try:
            found = self.inventory()
        except OSError as error:
            return f"{self.images} cannot be read: {error.strerror}"
        for name, dumped in inventory.items():
            if name not in found:
                return f"{self.images / name} is missing"
            if found[name].size != dumped.size:
                return f"{self.images / name} has {found[name].size} bytes instead of {dumped.size}"
            if found[name] != dumped:
                return f"{self.images / name} was written to"
        return ""

    def forget_pages(self) -> None:
        """Drop the image's memory pages from the page cache, as far as they are on disk. Raises OSError."""
        for path in self.images.glob("pages-*.img"):
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def keep(self) -> Path:
        """Move the image and CRIU's logs to a directory that outlives the container, and return that.

        Replaces one kept earlier for the same container. Raises OSError.
        """
        kept = paths.KEPT / self.directory.parent.name / self.directory.name
        shutil.rmtree(kept, ignore_errors=True)
        paths.make_private(kept)
        for path in (self.images, self.work, self.directory / "store"):
            if path.exists():
                path.rename(kept / path.name)
        return kept

    def drop_images(self) -> None:
        for path in (self.images, self.predump):
            shutil.rmtree(path, ignore_errors=True)

    def remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
