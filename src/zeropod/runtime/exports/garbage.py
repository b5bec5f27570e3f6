"""Exports that nothing comes back for, and what is left of ones that were never complete.

Owns when each may be removed. An export that nothing has taken may be all that there is of a container: while its shim
is there it is the shim's, and later it is kept for a successor for as long as is configured. One that was given belongs
to what fetches it; one that was withdrawn to its source, which needs it no more once it has taken its parts back.

      half made                  an hour after the last change
      withdrawn                  ten minutes later, without its shim; a day later in any case
      given                      an hour after the last byte was asked for
      neither (parked, kept)     without its shim, after the configured time: withdrawn first, so that nothing takes it
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from zeropod import paths
from zeropod.runtime.exports import decision, manifest
from zeropod.runtime.exports.decision import Decision
from zeropod.runtime.exports.errors import BadExport
from zeropod.runtime.exports.export import NEW, Export

HALF_MADE: Final = 3600.0
WITHDRAWN: Final = 600.0
WITHDRAWN_IN_ANY_CASE: Final = 86400.0
GIVEN: Final = 3600.0
PARKED: Final = 7 * 86400.0
"""Seconds."""
PREPARED: Final = ".upper"
"""What an archive is called that is made before its export, after its key."""


def collect(
    last_asked: Callable[[str], float], *, parked: float = PARKED, now: float | None = None
) -> Iterator[tuple[str, str]]:
    """Remove what may be removed; yield its name and why it went.

    `last_asked` returns when an export with this key was served last, in seconds since 1970; 0 if it is not known.
    Raises OSError where the directory cannot be read.
    """
    now = time.time() if now is None else now
    try:
        entries = sorted(os.scandir(paths.EXPORTS), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in entries:
        # It may be removed, decided or completed by its owner meanwhile: then the next look is early enough.
        with suppress(OSError):
            if why := _why(entry, last_asked(entry.name), parked, now):
                _remove(Path(entry.path))
                yield entry.name, why


def _why(entry: "os.DirEntry[str]", last_asked: float, parked: float, now: float) -> str:
    """Return why this may be removed; empty if it may not."""
    try:
        export = Export.of(entry.name)
    except ValueError:
        if not entry.name.endswith((NEW, PREPARED)):
            return ""  # nothing of ours
        return "it was never complete" if now - _last_change(Path(entry.path)) > HALF_MADE else ""
    if not entry.is_dir(follow_symlinks=False):
        return ""
    made = _changed(export.directory / manifest.FILE) or entry.stat().st_mtime
    decided_at = _changed(export.directory / decision.FILE)
    try:
        decided = export.decided
    except BadExport:
        return "its decision cannot be read" if now - decided_at > parked else ""
    if decided is Decision.GIVEN:
        return "it was given, and nothing fetches it" if now - max(decided_at, last_asked) > GIVEN else ""
    has_shim = _has_shim(export)
    if decided is Decision.WITHDRAWN:
        over = WITHDRAWN if has_shim is False else WITHDRAWN_IN_ANY_CASE
        return "it was withdrawn" if now - decided_at > over else ""
    if has_shim is not False or now - max(made, last_asked) <= parked:
        return ""
    with suppress(BadExport):
        if export.decide(Decision.WITHDRAWN) is Decision.WITHDRAWN:
            return "nothing has come back for it"
    return ""


def _has_shim(export: Export) -> bool | None:
    """Return whether the container that it is of still has a shim, alive or dead; None if that cannot be known."""
    if not paths.PODS.is_dir():
        return None
    try:
        source = manifest.read(export.directory / manifest.FILE).source
    except (BadExport, OSError):
        return None
    return any(paths.PODS.glob(f"{source.namespace}/*/{source.id}")) if _is_named(source) else None


def _is_named(source: manifest.Source) -> bool:
    return paths.is_identifier(source.namespace) and paths.is_identifier(source.id)


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _last_change(path: Path) -> float:
    """Return when something in it was written last."""
    times = [path.lstat().st_mtime]
    for directory, _, names in os.walk(path) if not path.is_symlink() else ():
        times += [os.lstat(os.path.join(directory, name)).st_mtime for name in (*names, ".")]
    return max(times)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
