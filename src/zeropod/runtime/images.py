"""Where a sleeping container lives on disk: one directory a container, open to root alone, gone with it.

An image holds all of the container's memory, secrets included, hence the modes. The inventory taken after a
dump tells an image that was truncated, deleted or written to from a good one before CRIU gets to see it.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from zeropod import paths
from zeropod.kernel import mount


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What changes when a file does. Reading gigabytes for a checksum would take longer than the restore itself."""

    size: int
    """In bytes."""
    inode: int
    changed_ns: int
    """The kernel sets it at every write and every change of the modification time, and nobody else can."""

    @classmethod
    def of(cls, found: os.stat_result) -> "Fingerprint":
        return cls(found.st_size, found.st_ino, found.st_ctime_ns)


Inventory = dict[str, Fingerprint]


@dataclass(frozen=True, slots=True)
class ImageStore:
    """The directory of one container. `images` is CRIU's image, `work` has its logs and sockets.

    The page store of a container that sleeps in place is below it too (`paths.store`), and is removed with it.
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
        """Makes empty directories for the next dump; raises OSError when the disk does not let us."""
        paths.make_private(self.directory)
        for path in (self.images, self.work, self.predump):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(mode=0o700)

    def prepare_restore(self) -> None:
        """A fresh work directory: the last pager's socket would be taken for the next one's."""
        mount.unmount_below(self.work)  # a CRIU that was killed leaves its cgroup mounts there
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(mode=0o700, exist_ok=True)

    def inventory(self) -> Inventory:
        """The files and how to recognise them."""
        files = [entry for entry in os.scandir(self.images) if entry.is_file()]
        return {entry.name: Fingerprint.of(entry.stat()) for entry in files}

    def damage(self, inventory: Inventory) -> str:
        """What is wrong with the image compared with the inventory taken after the dump; empty if nothing is."""
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
        """Takes what is on disk of the memory's pages out of the page cache. Raises OSError."""
        for path in self.images.glob("pages-*.img"):
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def keep(self) -> Path:
        """Move the image and CRIU's logs to where the container's end does not take them, and return that directory.

        An older one of the same container is replaced. Raises OSError.
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
