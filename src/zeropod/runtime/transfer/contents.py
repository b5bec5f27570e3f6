"""The files of an export, as both ends number them: by the order of their names in the manifest."""

from dataclasses import dataclass
from typing import Self

from zeropod.runtime.exports.manifest import STORE, Manifest


@dataclass(frozen=True, slots=True)
class Listed:
    """One file."""

    name: str
    size: int

    @property
    def is_store(self) -> bool:
        """Whether it is of the page store: its pieces may come while the container runs."""
        return self.name.startswith(f"{STORE}/")

    @property
    def store_number(self) -> int:
        """The number of a file of the page store there."""
        return int(self.name.rpartition("-")[2])


@dataclass(frozen=True, slots=True)
class Contents:
    """Every file, in the order of their numbers."""

    files: tuple[Listed, ...]

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Return the files that a manifest lists: their names were checked when it was read."""
        return cls(tuple(Listed(name, size) for name, size in sorted(manifest.files.items())))
