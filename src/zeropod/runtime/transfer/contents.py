"""The files of an export, as both ends number them: by the order of their names in the manifest.

Owns which names there may be, since the target makes files by them.
"""

import json
import re
from dataclasses import dataclass
from typing import Final, Self

from zeropod.runtime.transfer.errors import ProtocolError
from zeropod.runtime.transfer.protocol import LARGEST_OFFSET

MOST_FILES: Final = 1 << 14
_NAME: Final = re.compile(r"images/[A-Za-z0-9][A-Za-z0-9._-]{0,127}|index-[1-9][0-9]{0,9}|upper\.tar")
_STORE: Final = re.compile(r"store/pages-[1-9][0-9]{0,9}")


@dataclass(frozen=True, slots=True)
class Listed:
    """One file."""

    name: str
    size: int

    @property
    def is_store(self) -> bool:
        """Whether it is of the page store: its pieces may come while the container runs."""
        return self.name.startswith("store/")


@dataclass(frozen=True, slots=True)
class Contents:
    """Every file, in the order of their numbers."""

    files: tuple[Listed, ...]

    @classmethod
    def of_manifest(cls, text: bytes) -> Self:
        """Return the files that a manifest lists. Raises ProtocolError."""
        try:
            manifest = json.loads(text)
        except (ValueError, RecursionError):
            raise ProtocolError("the manifest is not JSON") from None
        files = manifest.get("files") if isinstance(manifest, dict) else None
        if not isinstance(files, dict) or len(files) > MOST_FILES:
            raise ProtocolError("the manifest lists no files, or too many")
        for name, size in files.items():
            if not (_NAME.fullmatch(name) or _STORE.fullmatch(name)):
                raise ProtocolError(f"the manifest lists {name[:200]!r}, which no export has")
            if type(size) is not int or not 0 <= size <= LARGEST_OFFSET:
                raise ProtocolError(f"the manifest lists {name} with an impossible size")
        return cls(tuple(Listed(name, files[name]) for name in sorted(files)))
