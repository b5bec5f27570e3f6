"""Who goes on with an export, its source or what has taken it: decided once, atomically, and for ever.

The file is made under another name and linked: the first link wins, and what comes later finds it decided. The target
runs only after it knows `given`, the source restores only after it has made `withdrawn`: so never both.
"""

import os
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Final

from zeropod.runtime.exports.errors import BadExport

FILE: Final = "decision"


class Decision(StrEnum):
    GIVEN = "given"
    """What has taken it runs; the source never does again."""
    WITHDRAWN = "withdrawn"
    """The source goes on; nothing may come of the export."""


def read(directory: Path) -> Decision | None:
    """Return what was decided; None before. Raises BadExport, OSError."""
    try:
        text = (directory / FILE).read_bytes()[:64]
    except FileNotFoundError:
        return None
    try:
        return Decision(text.decode().strip())
    except ValueError:
        raise BadExport(f"{directory / FILE} says neither given nor withdrawn") from None


def decide(directory: Path, wanted: Decision) -> Decision:
    """Decide as wanted, unless it is decided already; return what holds now. Raises BadExport, OSError."""
    temporary = directory / f".{FILE}-{os.getpid()}-{os.urandom(4).hex()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "w") as file:
            file.write(wanted)
            file.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):
            os.link(temporary, directory / FILE)
            _sync(directory)
    finally:
        temporary.unlink()
    found = read(directory)
    if found is None:
        raise FileNotFoundError(f"{directory / FILE} is gone")
    return found


def _sync(directory: Path) -> None:
    """Have the name on disk before anything follows from it: after a crash it must not be decided otherwise."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
