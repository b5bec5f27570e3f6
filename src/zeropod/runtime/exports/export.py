"""One export on disk: its directory, how it comes to be there, and how it goes.

    <key>/manifest.json  images/…  store/pages-N  index-<pid>  upper.tar  decision

It is made beside its place and renamed into it when it is complete: what has its name has all of its files. CRIU's
image and the store's directory are renamed as they are, which leaves the fingerprints of the files in them valid.
"""

import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Final

from zeropod import paths
from zeropod.runtime.exports import decision, index_file, manifest
from zeropod.runtime.exports.decision import Decision
from zeropod.runtime.exports.errors import BadExport
from zeropod.runtime.exports.manifest import IMAGES, INDEX, PAGES, STORE, UPPER, Manifest
from zeropod.runtime.memory.userfault.extents import Index

_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\.[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
NEW: Final = ".new"
"""What an export is called that is not complete, after its key. No key ends like this."""


def key_of(pod_uid: str, container: str) -> str:
    """Return the key of a pod's container. Raises ValueError."""
    return checked(f"{pod_uid}.{container}")


def key_without_pod(containerd_namespace: str, id: str) -> str:
    """Return the key of a container without a pod: the id may have any length and dots, so it is hashed."""
    return f"ctr.{sha256(f'{containerd_namespace}/{id}'.encode()).hexdigest()[:32]}"


def checked(key: str) -> str:
    """Return the key, which is a file's name. Raises ValueError."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} is not the key of an export")
    return key


@dataclass(frozen=True, slots=True)
class Export:
    directory: Path

    @classmethod
    def of(cls, key: str) -> "Export":
        """Return the export with this key, whether it is there or not. Raises ValueError."""
        return cls(paths.EXPORTS / checked(key))

    @property
    def key(self) -> str:
        return self.directory.name

    @property
    def images(self) -> Path:
        return self.directory / IMAGES

    @property
    def store(self) -> Path:
        return self.directory / STORE

    @property
    def upper(self) -> Path:
        return self.directory / UPPER

    @property
    def exists(self) -> bool:
        return self.directory.is_dir()

    # Made

    def make(self, made: Manifest, indexes: Mapping[int, Index], images: Path, store: Path | None) -> Manifest:
        """Rename a container's image and its page store into the export, which is there when all of it is.

        `made` is completed by the files. Raises BadExport where an earlier export is still being taken, OSError; what
        was renamed is back at its place then.
        """
        self._make_room()
        new = self.directory.with_name(self.key + NEW)
        shutil.rmtree(new, ignore_errors=True)
        paths.make_private(new)
        moved: list[tuple[Path, Path]] = []
        try:
            if self._prepared_upper.exists():
                moved.append((self._prepared_upper, new / UPPER))
            moved.append((images, new / IMAGES))
            if store:
                moved.append((store, new / STORE))
            for before, after in moved:
                before.rename(after)
            for pid, index in indexes.items():
                index_file.write(new / f"{INDEX}{pid}", index)
            complete = _completed(made, new, indexes)
            (new / manifest.FILE).write_bytes(complete.encode())
            new.rename(self.directory)
        except BaseException:  # whatever fails, the container gets its image back: it has to live on
            for before, after in reversed(moved):
                if after.exists():
                    after.rename(before)
            shutil.rmtree(new, ignore_errors=True)
            raise
        return complete

    @property
    def _prepared_upper(self) -> Path:
        """What is put there for the next export of this key: made before the rest, since it takes longest."""
        return self.directory.with_name(f"{self.key}.upper")

    def prepare_upper(self) -> Path:
        """Return where to write the archive of what it has written to its root file system."""
        paths.make_private(self.directory.parent)
        return self._prepared_upper

    def _make_room(self) -> None:
        if not self.exists:
            return
        if self.decide(Decision.WITHDRAWN) is Decision.GIVEN and (self.images.exists() or self.store.exists()):
            raise BadExport(f"{self.directory} is still being taken")
        self.remove()

    # Read

    def read(self) -> Manifest:
        """Return the manifest of a complete export. Raises BadExport, FileNotFoundError, OSError."""
        found = manifest.read(self.directory / manifest.FILE)
        self.check_files(found)
        return found

    def check_files(self, found: Manifest) -> None:
        """See that its files are there, and no others where it matters. Raises BadExport, OSError."""
        for name, size in found.files.items():
            path = self.directory / name
            try:
                there = path.lstat()
            except FileNotFoundError:
                raise BadExport(f"{path} is missing") from None
            if not path.is_file() or path.is_symlink():
                raise BadExport(f"{path} is not a file")
            if there.st_size != size:
                raise BadExport(f"{path} has {there.st_size} bytes instead of {size}")
        for directory in (IMAGES, STORE):
            with suppress(FileNotFoundError):
                for name in os.listdir(self.directory / directory):
                    if f"{directory}/{name}" not in found.files:
                        raise BadExport(f"{self.directory / directory / name} does not belong to it")

    def indexes(self, found: Manifest) -> dict[int, Index]:
        """Return where the pages of each process are in the store. Raises BadExport, OSError."""
        sizes = found.stored
        return {pid: index_file.read(self.directory / name, sizes) for pid, name in found.carried.items()}

    # Decided

    def decide(self, wanted: Decision) -> Decision:
        """See `decision.decide`."""
        return decision.decide(self.directory, wanted)

    @property
    def decided(self) -> Decision | None:
        """What was decided. Raises BadExport, OSError."""
        return decision.read(self.directory)

    # Gone

    def give_back(self, images: Path, store: Path | None) -> None:
        """Rename its parts back to the container that they are of; what is left is removed. Raises OSError."""
        for before, after in ((self.images, images), (self.store, store)):
            if after:
                _take_place(before, after)
        self.remove()

    def remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        self._prepared_upper.unlink(missing_ok=True)


def _completed(made: Manifest, directory: Path, indexes: Mapping[int, Index]) -> Manifest:
    files = {
        f"{parent.name}/{path.name}": path.stat().st_size
        for parent in (directory / IMAGES, directory / STORE)
        if parent.exists()
        for path in parent.iterdir()
        if path.is_file()
    }
    files |= {f"{INDEX}{pid}": (directory / f"{INDEX}{pid}").stat().st_size for pid in indexes}
    data = (directory / UPPER).exists()
    if data:
        files[UPPER] = (directory / UPPER).stat().st_size
    carried = {pid: f"{INDEX}{pid}" for pid in indexes}
    complete = replace(made, carried=carried, files=files, data=data)
    # What could not be read again must not be written: it is read on another node, when its source may be gone.
    return manifest.decode(complete.encode())


def _take_place(before: Path, after: Path) -> None:
    """Rename a directory to where an empty one may be."""
    with suppress(FileNotFoundError):
        after.rmdir()
    before.rename(after)


def take(export: Export, images: Path, store: Path) -> None:
    """Rename the parts of an export that was given to the container that runs from it. Raises OSError."""
    _take_place(export.images, images)
    if export.store.exists():
        _take_place(export.store, store)
    export.remove()


__all__ = ["NEW", "PAGES", "Export", "checked", "key_of", "key_without_pod", "take"]
