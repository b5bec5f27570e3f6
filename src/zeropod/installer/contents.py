"""The content of the install root: zeropod, and the parts of a bundle that this node lacks."""

import json
import os
import platform
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zeropod import SHIM_BINARY, paths
from zeropod.installer import wrappers
from zeropod.installer.changes import Entry, File, Link
from zeropod.installer.errors import InstallError

PROGRAM, SHIM = "zeropod", SHIM_BINARY
ARCHIVE = "bin/zeropod.pyz"
NODE_CONFIG = "etc/zeropod.toml"
"""The path of the node's zeropod.toml in the install root."""
LINKS = "/usr/local/bin"
"""A directory on the PATH of users and of containerd, which may search it for the shim binary."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Parts that the node lacks."""

    python: bool
    """Python 3.11 or newer, with the modules that zeropod imports."""
    tar: bool
    """GNU tar, which CRIU runs."""


def contents(bundle: str, root: str, needs: Needs) -> dict[str, Entry]:
    """Return the entries of the install root, from a bundle (`installer/bundle.py`). Raises InstallError, OSError."""
    description = describe(bundle)
    wanted = {"python3": needs.python, "tar": needs.tar, "gzip": needs.tar}
    programs = [name for name in description["programs"] if wanted.get(name, True)]
    entries: dict[str, Entry] = {}
    for path, entry in _tree(bundle).items():
        is_python = path.startswith("lib/python3.") and not needs.python
        is_other = path.startswith("lib/programs/") and path.removeprefix("lib/programs/") not in programs
        if not (is_python or is_other):
            entries[f"{root}/{path}"] = entry
    entries[f"{root}/lib/criu/README"] = File(b"CRIU looks here for its plugins; zeropod needs none.\n")
    for name in programs:
        entries[f"{root}/bin/{name}"] = File(wrappers.program(root, name).encode(), 0o755)
    return entries | starters(root, needs)


def bare(archive: bytes, root: str) -> dict[str, Entry]:
    """Return the entries to install without a bundle, on a node that lacks nothing."""
    return {f"{root}/{ARCHIVE}": File(archive, 0o755)} | starters(root, Needs(python=False, tar=False))


def starters(root: str, needs: Needs) -> dict[str, Entry]:
    """Return the entries that start zeropod under its own name and the shim's."""
    if not needs.python and root == paths.INSTALL_ROOT:
        link = Link(ARCHIVE.rpartition("/")[2])
        return {f"{root}/bin/{PROGRAM}": link, f"{root}/bin/{SHIM}": link}
    modes = {PROGRAM: "", SHIM: "shim"}
    return {f"{root}/bin/{name}": File(wrappers.mode(root, mode).encode(), 0o755) for name, mode in modes.items()}


def links(root: str) -> dict[str, Entry]:
    return {f"{LINKS}/{name}": Link(f"{root}/bin/{name}") for name in (PROGRAM, SHIM)}


def describe(bundle: str) -> dict[str, Any]:
    """Return the bundle's description. Raises InstallError if it is not a bundle, or one for another architecture."""
    try:
        description = json.loads((Path(bundle) / "bundle.json").read_text())
        architecture = description["architecture"]
    except (OSError, ValueError, KeyError) as error:
        raise InstallError(f"{bundle} is not a bundle of zeropod ({error}): choose one with --bundle") from error
    if architecture != platform.machine():
        raise InstallError(f"{bundle} is for {architecture}, and this is {platform.machine()}: take the other one")
    assert isinstance(description, dict)
    return description


def _tree(top: str) -> dict[str, Entry]:
    """Yield every file and link below a directory, with its relative path."""
    entries: dict[str, Entry] = {}
    for directory, _, names in os.walk(top):
        for name in sorted(names):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            key = os.path.relpath(path, top)
            if stat.S_ISLNK(status.st_mode):
                entries[key] = Link(os.readlink(path))
            else:
                entries[key] = File(Path(path).read_bytes(), 0o755 if status.st_mode & 0o100 else 0o644)
    return entries
