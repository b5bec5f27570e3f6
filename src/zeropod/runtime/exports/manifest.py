"""The manifest of an export: where it comes from, what a node needs for it, and which files belong to it.

Owns the format, and the check of a manifest that is read: it may come from another node. File names in it are the only
ones that are ever opened, and they follow fixed patterns.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from zeropod.runtime.exports import noted as noted_json
from zeropod.runtime.exports.errors import BadExport
from zeropod.runtime.exports.reading import Object, digits, entries, number, parse, text
from zeropod.runtime.image.reapplied import Noted
from zeropod.runtime.pager import WORKING_SET_PAGES, WorkingSet

FORMAT: Final = 1
FILE: Final = "manifest.json"
LARGEST: Final = 32 << 20
"""Bytes of the largest manifest that is read."""

IMAGES: Final = "images"
STORE: Final = "store"
UPPER: Final = "upper.tar"
INDEX: Final = "index-"
PAGES: Final = "pages-"

_NAMES: Final = re.compile(
    r"images/[A-Za-z0-9][A-Za-z0-9._-]{0,127}|store/pages-[1-9][0-9]{0,9}|index-[1-9][0-9]{0,9}|upper\.tar"
)


@dataclass(frozen=True, slots=True)
class Source:
    """The container that it was."""

    node: str = ""
    pod_namespace: str = ""
    pod: str = ""
    pod_uid: str = ""
    container: str = ""
    namespace: str = ""
    """containerd's, and so is the id."""
    id: str = ""
    image: str = ""
    """Its digest; empty if it is not known."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a node has to have for a restore, or has."""

    architecture: str = ""
    kernel: str = ""
    criu: str = ""
    cpu_features: tuple[str, ...] = ()
    page_size: int = 0

    def against(self, has: "Needs") -> str:
        """Return why a node that has this cannot restore it; empty if it can."""
        if self.architecture != has.architecture:
            return f"it comes from a node with {self.architecture}, this one has {has.architecture}"
        if self.page_size != has.page_size:
            return f"it has pages of {self.page_size} bytes, this node has some of {has.page_size}"
        if missing := sorted(set(self.cpu_features) - set(has.cpu_features)):
            return f"this node's processors lack {', '.join(missing[:8])}"
        return ""


@dataclass(frozen=True, slots=True)
class Manifest:
    source: Source
    needs: Needs
    asleep: bool
    """Whether it goes on asleep, without having run."""
    carried: Mapping[int, str] = field(default_factory=dict)
    """The index of each process whose memory is in the store, a file's name by the pid in its own namespace."""
    noted: Noted = field(default_factory=Noted)
    working_set: WorkingSet = ()
    memory_needed: int = 0
    """Bytes that it takes once all of it is back."""
    files: Mapping[str, int] = field(default_factory=dict)
    """All files of it with their sizes."""
    data: bool = False
    """Whether what it has written to its root file system is there."""
    made_at: int = 0
    """Nanoseconds since 1970."""

    @property
    def stored(self) -> dict[int, int]:
        """The sizes of the store's files by number."""
        prefix = f"{STORE}/{PAGES}"
        return {int(name.removeprefix(prefix)): size for name, size in self.files.items() if name.startswith(prefix)}

    def encode(self) -> bytes:
        return json.dumps(_to_json(self), separators=(",", ":")).encode()


def read(path: Path) -> Manifest:
    """Raises BadExport, OSError."""
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    try:
        return decode(content)
    except BadExport as error:
        raise BadExport(f"{path}: {error}") from None


def decode(content: bytes) -> Manifest:
    """Return the manifest in a file's content. Raises BadExport."""
    if len(content) > LARGEST:
        raise BadExport("it is too large")
    found = parse(content)
    if (version := found.number("format")) != FORMAT:
        raise BadExport(f"it has format {version}, this version knows {FORMAT}")
    source, needs = found.part("source"), found.part("needs")
    manifest = Manifest(
        source=Source(**{name: source.text(name, longest=256) for name in Source.__slots__}),
        needs=Needs(
            needs.text("architecture", longest=64),
            needs.text("kernel", longest=256),
            needs.text("criu", longest=64),
            tuple(text(each, "a CPU feature", 64) for each in needs.items("cpu_features")),
            needs.number("page_size", highest=1 << 24),
        ),
        asleep=found.truth("asleep"),
        carried=found.mapping("carried", digits, text),
        noted=noted_json.from_json(found.part("noted")),
        working_set=_working_set(found),
        memory_needed=found.number("memory_needed"),
        files=found.mapping("files", _name, number),
        data=found.truth("data"),
        made_at=found.number("made_at"),
    )
    _check(manifest)
    return manifest


def _check(manifest: Manifest) -> None:
    for pid, name in manifest.carried.items():
        if name != f"{INDEX}{pid}" or name not in manifest.files:
            raise BadExport(f"the index of process {pid} is not among its files")
    indexes = {name for name in manifest.files if name.startswith(INDEX)}
    if indexes != set(manifest.carried.values()):
        raise BadExport("it has an index of a process without memory in the store")
    if manifest.data != (UPPER in manifest.files):
        raise BadExport("what it says of its root file system is not what it has")
    if not any(name.startswith(f"{IMAGES}/") for name in manifest.files):
        raise BadExport("it has no image")


def _name(name: str) -> str:
    if not _NAMES.fullmatch(name):
        raise ValueError(name)
    return name


def _working_set(found: Object) -> WorkingSet:
    rows = found.items("working_set")
    if len(rows) > WORKING_SET_PAGES:
        raise BadExport("its working set is too large")
    result = []
    for row in rows:
        parts = entries(row, "a page of its working set")
        if len(parts) != 3:
            raise BadExport("a page of its working set has not three parts")
        pid, address = (number(part, "a page of its working set", 1 << 56) for part in parts[:2])
        standing = parts[2]
        if not isinstance(standing, int) or isinstance(standing, bool) or not -16 <= standing <= 16:
            raise BadExport("a page of its working set has no standing")
        result.append((pid, address, standing))
    return tuple(result)


def _to_json(manifest: Manifest) -> dict[str, Any]:
    source, needs = manifest.source, manifest.needs
    return {
        "format": FORMAT,
        "source": {name: getattr(source, name) for name in Source.__slots__},
        "needs": {name: getattr(needs, name) for name in Needs.__slots__},
        "asleep": manifest.asleep,
        "carried": {str(pid): name for pid, name in manifest.carried.items()},
        "noted": noted_json.to_json(manifest.noted),
        "working_set": [list(page) for page in manifest.working_set],
        "memory_needed": manifest.memory_needed,
        "files": dict(manifest.files),
        "data": manifest.data,
        "made_at": manifest.made_at,
    }
