"""Layers of container images, made of files of the node's Debian tree.

Same tree, same bytes: no time stamp and no owner of the host gets into a layer.
"""

import io
import os.path
import stat
import tarfile
from collections.abc import Iterable
from pathlib import Path

from tests.node.chroot import output_inside

ELF = b"\x7fELF"
LOADER = "/lib64/ld-linux-x86-64.so.2"
MERGED = {"bin", "lib", "lib64", "sbin"}  # links into /usr, in the tree and in the images

Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, data: bytes, mode: int = 0o644) -> Member:
    """A regular file of an archive."""
    info = tarfile.TarInfo(name.lstrip("/"))
    info.size, info.mode = len(data), mode
    return info, data


def tar(members: Iterable[Member]) -> bytes:
    """An archive of ``members`` in the order given."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


class Layer:
    """A layer in the making. Names are absolute paths, the same in the tree and in the image."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        self._members: dict[str, Member] = {}

    def archive(self) -> bytes:
        """The layer as a tar archive; a directory comes before what is in it."""
        return tar(self._members[name] for name in sorted(self._members))

    def directory(self, name: str, mode: int = 0o755) -> None:
        """Add a directory and those above it."""
        for ancestor in reversed(Path(name).parents[:-1]):
            self.directory(str(ancestor))
        info = tarfile.TarInfo(name.lstrip("/"))
        info.type, info.mode = tarfile.DIRTYPE, mode
        self._members.setdefault(name, (info, b""))

    def link(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        info = tarfile.TarInfo(name.lstrip("/"))
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, target, 0o777
        self._members.setdefault(name, (info, b""))

    def file(self, name: str, data: bytes) -> None:
        """Add a file; a program is executable."""
        self.directory(str(Path(name).parent))
        self._members[name] = member(name, data, 0o755 if data.startswith((b"#!", ELF)) else 0o644)

    def make_setuid(self, name: str) -> None:
        """Let a file that has been added run as its owner."""
        info, _ = self._members[name]
        info.mode |= stat.S_ISUID

    def copy(self, name: str) -> None:
        """Add a file of the tree, and if that is a link what it leads to.

        Raises FileNotFoundError when the tree does not have it.
        """
        name = os.path.normpath(name)
        top = Path(name).parts[1]
        if top in MERGED:
            name = f"/usr{name}"
        source = self._tree / name.lstrip("/")
        if source.is_symlink():
            target = str(source.readlink())
            self.copy(str(Path(name).parent / target))
            self.directory(str(Path(name).parent))
            self.link(name, target)
            return
        data, mode = source.read_bytes(), stat.S_IMODE(source.stat().st_mode)
        self.directory(str(Path(name).parent))
        self._members[name] = member(name, data, mode & 0o755)

    def copy_program(self, name: str) -> None:
        """Add a program or shared object with what the loader would map for it."""
        self.copy(name)
        self.copy(LOADER)
        for line in output_inside(self._tree, [LOADER, "--list", name]).splitlines():
            library = line.split("=>")[-1].split("(")[0].strip()
            if library.startswith("/"):
                self.copy(library)

    def copy_tree(self, name: str, owner: int = 0) -> None:
        """Add a directory of the tree with all that is in it, which is this user's; what it needs is not looked for."""
        self.directory(name)
        top = self._tree / name.lstrip("/")
        for source in (top, *sorted(top.rglob("*"))):
            inner = "/" + str(source.relative_to(self._tree))
            if (
                source.is_symlink()
                and not (self._tree / os.path.join(inner, "..", source.readlink()).lstrip("/")).is_file()
            ):
                self.link(inner, str(source.readlink()))
            elif source.is_symlink():
                self.copy(inner)
            elif source.is_dir():
                self.directory(inner)
                self._members[inner][0].mode = stat.S_IMODE(source.stat().st_mode)
            else:
                self.copy(inner)
            info, _ = self._members[inner]
            info.uid = info.gid = owner

    def copy_python(self) -> None:
        """Add Python's standard library with its extensions, without its caches and what is not installed."""
        for source in sorted(self._tree.glob("usr/lib/python3.*/**/*")):
            name = "/" + str(source.relative_to(self._tree))
            if not source.is_file() or "__pycache__" in source.parts:
                continue
            if source.suffix == ".so":
                self.copy_program(name)
            else:
                self.copy(name)
