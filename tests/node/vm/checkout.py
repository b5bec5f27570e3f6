"""The checkout for the machine: a tar archive that it reads as a disk.

A disk of one size, whatever is in it, since a resumed machine has seen it before. What is made for the host alone stays
behind; so does the machine's own cache, which is far too large.
"""

import tarfile
from collections.abc import Mapping
from pathlib import Path

from tests.node.cache import NodeError

SIZE = 256 << 20
"""Bytes of the disk."""

HOSTS = {".git"} | {
    f"build/{name}"
    for name in ("cache", "critest", "kubernetes", "kubernetes-oldest", "node", "results", "venv", "wheels")
}
CACHES = {"__pycache__", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".import_linter_cache"}


def carried(name: str) -> bool:
    """Whether this path, relative to the checkout, goes into the machine."""
    return name not in HOSTS and Path(name).name not in CACHES


def disk(image: Path, checkout: Path, more: Mapping[str, Path]) -> None:
    """Write the disk: the checkout as /src, and `more` directories by their places in the machine.

    Raises NodeError when there is more than fits.
    """

    def chosen(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return _rooted(info) if carried(info.name.removeprefix("src/")) else None

    with tarfile.open(image, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.add(checkout, "src", filter=chosen)
        for place, directory in more.items():
            archive.add(directory, place, filter=_rooted)
    if image.stat().st_size > SIZE:
        large = max((path for path in (checkout / "build").iterdir() if carried(f"build/{path.name}")), key=_size)
        raise NodeError(f"the checkout has more than {SIZE >> 20} MiB for the machine; is {large} needed?")
    with image.open("r+b") as file:
        file.truncate(SIZE)


def _rooted(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    return info


def _size(path: Path) -> int:
    return sum(each.stat().st_size for each in (path, *path.rglob("*")) if each.is_file())
