"""Builds zeropod.pyz: one executable file that holds zeropod, its dependencies and their licences.

The same input gives the same bytes on every machine: entries are sorted, carry one date and one mode, and
are stored rather than deflated, because deflate's output differs between versions of zlib. The dependencies
are exactly the wheels of installer/requirements.lock, checked by hash; a wheel that is not pure Python fails
the build, since the archive has to run on every Python from 3.11 on and on every architecture.

What the archive does when it is run is in header.sh, tree_check.py, archive_main.py and start.py here, and in
zeropod.boot.unpack.
"""

import argparse
import hashlib
import io
import os
import re
import shlex
import sys
import time
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from wheels import BuildError, Entries, fetch_wheels, wanted, wheel_entries

ROOT = Path(__file__).resolve().parent.parent
INSTALLER = ROOT / "installer"
# Where a built archive unpacks itself, one directory for each build.
LIBRARY = "/var/lib/zeropod/lib"
# The earliest date that a zip archive can hold, in seconds since 1970.
EARLIEST = 315532800


def own_entries(root: Path) -> Entries:
    """What the archive carries of the checkout at `root`: the package, what starts it, and the licences."""
    source = root / "src"
    entries = {
        path.relative_to(source).as_posix(): path.read_bytes()
        for path in (source / "zeropod").rglob("*")
        if path.is_file() and wanted(path.relative_to(source).as_posix())
    }
    entries["__main__.py"] = (INSTALLER / "archive_main.py").read_bytes()
    entries["start.py"] = (INSTALLER / "start.py").read_bytes()
    entries["licenses/zeropod/LICENSE"] = (root / "LICENSE").read_bytes()
    for path in (root / "bpf").glob("LICENSE-*"):
        entries[f"licenses/zeropod/bpf/{path.name}"] = path.read_bytes()
    return entries


def merge(parts: Iterable[Entries]) -> Entries:
    """All entries in one. Raises BuildError where two parts bring different files of one name.

    Folders without an __init__.py (google/ is one) get an empty one: zipimport does not see a namespace
    package in an archive before Python 3.13, and a package of that name elsewhere on the path must not be
    mixed in.
    """
    merged: Entries = {}
    for part in parts:
        for name, content in part.items():
            if merged.setdefault(name, content) != content:
                raise BuildError(f"two of the packages bring a file {name}, with different contents")
    for name in list(merged):
        folder = name.rpartition("/")[0]
        while name.endswith(".py") and folder:
            merged.setdefault(f"{folder}/__init__.py", b"")
            folder = folder.rpartition("/")[0]
    return merged


def tree_check(permissions: str) -> str:
    """The Python code that looks at the unpacked tree: tree_check.py, with the module `permissions` in it."""
    before, line, after = (
        (INSTALLER / "tree_check.py").read_text().partition("from zeropod.boot.permissions import exposure")
    )
    if not line:
        raise BuildError("installer/tree_check.py has to import zeropod.boot.permissions, for the build to replace")
    return before + permissions + after.partition("\n")[2]


def digest(entries: Mapping[str, bytes]) -> str:
    """A name for these contents: the first 16 hexadecimal digits of a sha256 over all names and contents."""
    total = hashlib.sha256()
    for name, content in sorted(entries.items()):
        total.update(f"{name}\0{len(content)}\0".encode())
        total.update(content)
    return total.hexdigest()[:16]


def archive(entries: Entries, library: str, seconds: int) -> bytes:
    """The executable archive: a shell header, then a zip file; `seconds` after 1970 is its entries' date."""
    tree = f"{library}/{digest(entries)}"
    built = entries["zeropod/boot/build_info.py"].decode()
    unset = "TREE: str | None = None\n"
    if built.count(unset) != 1:
        raise BuildError(f"zeropod/boot/build_info.py has to hold the line {unset!r} once, for the build to fill in")
    filled = entries | {"zeropod/boot/build_info.py": built.replace(unset, f"TREE: str | None = {tree!r}\n").encode()}

    output = io.BytesIO()
    header = (INSTALLER / "header.sh").read_text().replace("@TREE@", tree)
    output.write(
        header.replace("@CHECK@", shlex.quote(tree_check(entries["zeropod/boot/permissions.py"].decode()))).encode()
    )
    date = time.gmtime(max(seconds, EARLIEST))[:6]
    # Appending to what is there makes the zip file's offsets count from the header's first byte, as unzip
    # expects.
    with zipfile.ZipFile(output, "a", zipfile.ZIP_STORED) as opened:
        for name, content in sorted(filled.items()):
            entry = zipfile.ZipInfo(name, date)
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            opened.writestr(entry, content)
    return output.getvalue()


def build(output: Path, wheels: Iterable[Path], library: str = LIBRARY, seconds: int = EARLIEST) -> None:
    """Writes the archive of this checkout and `wheels` to `output`, which is replaced in one step.

    `library` is where it will unpack itself, `seconds` the date of its entries. Raises BuildError.
    """
    if not re.fullmatch(r"/[\w./-]+", library):
        raise BuildError(f"{library!r} has to be an absolute path of plain characters: it goes into a shell script")
    entries = merge([own_entries(ROOT), *map(wheel_entries, wheels)])
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(archive(entries, library, seconds))
        unfinished.chmod(0o755)
        unfinished.replace(output)
    finally:
        unfinished.unlink(missing_ok=True)


def main() -> int:
    """Builds as the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(description="Build zeropod.pyz, the one file that runs on a node.")
    parser.add_argument("--output", type=Path, default=ROOT / "build/zeropod.pyz")
    parser.add_argument("--lock", type=Path, default=INSTALLER / "requirements.lock", help="the pinned dependencies")
    parser.add_argument("--wheels", type=Path, default=ROOT / "build/wheels", help="where downloaded wheels are kept")
    parser.add_argument("--library", default=LIBRARY, help="where the archive unpacks itself on a node")
    options = parser.parse_args()
    try:
        seconds = int(os.environ.get("SOURCE_DATE_EPOCH", EARLIEST))
        build(options.output, fetch_wheels(options.lock, options.wheels), options.library, seconds)
    except (BuildError, ValueError) as error:
        print(f"pyz: {error}", file=sys.stderr)
        return 1
    size = options.output.stat().st_size / 1e6
    print(f"{options.output}: {size:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
