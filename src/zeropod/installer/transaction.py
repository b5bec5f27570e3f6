"""Make all changes or none, even if the installer is killed in between.

Before the first change, a journal records what is at each path, and which directories are missing. If a change or the
final check fails, everything is restored; an installer that finds a journal of a killed one does so first.
"""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from zeropod.installer.changes import Change, Entry, File, Link
from zeropod.installer.errors import InstallError
from zeropod.installer.root import Root

JOURNAL = ".unfinished"
"""The journal's directory in the install root."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """A file's metadata besides content and mode."""

    uid: int = 0
    gid: int = 0
    mtime_ns: int | None = None
    """None means now."""


class Transaction:
    """The changes of one run, and their journal. `directories` are the created ones, the outermost first."""

    def __init__(self, root: Root, install_root: str) -> None:
        self._root = root
        self._install_root = install_root
        self._place = f"{install_root}/{JOURNAL}"
        self.directories: list[str] = []

    @contextlib.contextmanager
    def making(self, changes: Sequence[Change], metadata: dict[str, Metadata] | None = None) -> Iterator[None]:
        """Make the changes; they are final at the end of the block, and undone if it raises."""
        try:
            self._begin(changes)
            for change in changes:
                self._put(change.path, change.after, (metadata or {}).get(change.path))
            _sync(self._root.outside(self._install_root))
            yield
        except BaseException:
            self.undo()
            raise
        shutil.rmtree(self._root.outside(self._place))

    def undo(self) -> bool:
        """Restore everything in the journal, if there is one."""
        place = self._root.outside(self._place)
        try:
            with open(f"{place}/journal.json") as file:
                journal = json.load(file)
        except FileNotFoundError:
            shutil.rmtree(place, ignore_errors=True)  # before the first change
            self._remove(self.directories)
            return False
        except ValueError as error:
            raise InstallError(f"{place}/journal.json is damaged ({error}): look at it, then remove it") from error
        for number, path in reversed(list(enumerate(journal["paths"]))):
            self._put_back(path, f"{place}/{number}")
        shutil.rmtree(place)
        self._remove(journal["directories"])
        return True

    def _remove(self, directories: Sequence[str]) -> None:
        for directory in reversed(directories):
            with contextlib.suppress(OSError):  # it was not created yet, or another program has files there
                os.rmdir(self._root.outside(directory))

    def _begin(self, changes: Sequence[Change]) -> None:
        parents = [os.path.dirname(change.path) for change in changes if change.after is not None]
        self.directories = missing([self._install_root, *parents], self._root.exists)
        os.makedirs(self._root.outside(self._install_root), 0o755, exist_ok=True)
        place = self._root.outside(self._place)
        os.mkdir(place, 0o700)
        for number, change in enumerate(changes):
            with contextlib.suppress(FileNotFoundError):
                # Files are replaced by rename, never written in place, so a hard link can serve as the copy.
                _duplicate(self._root.outside(change.path, follow=False), f"{place}/{number}")
        written = {"paths": [change.path for change in changes], "directories": self.directories}
        with open(f"{place}/.journal", "w") as file:
            json.dump(written, file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(f"{place}/.journal", f"{place}/journal.json")
        _sync(place)
        for directory in self.directories:
            os.makedirs(self._root.outside(directory), 0o755, exist_ok=True)

    def _put(self, path: str, entry: Entry, metadata: Metadata | None) -> None:
        outside = self._root.outside(path, follow=False)
        new = f"{outside}.zeropod-new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)
        match entry:
            case None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(outside)
                return
            case Link(target):
                os.symlink(target, new)
            case File(content, mode):
                with open(new, "xb") as file:
                    file.write(content)
                    file.flush()
                    os.fchmod(file.fileno(), mode)
                    _give(file.fileno(), outside, metadata)
                    if not path.startswith(f"{self._install_root}/"):
                        os.fsync(file.fileno())
        os.rename(new, outside)

    def _put_back(self, path: str, kept: str) -> None:
        outside = self._root.outside(path, follow=False)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(f"{outside}.zeropod-new")
        if os.path.lexists(kept):
            _duplicate(kept, f"{outside}.zeropod-new")
            os.rename(f"{outside}.zeropod-new", outside)
            with contextlib.suppress(FileNotFoundError):
                # rename(2) does nothing if both names are of one file, which then was not replaced yet.
                os.unlink(f"{outside}.zeropod-new")
        else:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(outside)


def missing(directories: Sequence[str], exists: Callable[[str], bool]) -> list[str]:
    """Return those of the directories and their parents that do not exist, the outermost first."""
    found: set[str] = set()
    for directory in directories:
        while directory not in found and directory != "/" and not exists(directory):
            found.add(directory)
            directory = os.path.dirname(directory)
    return sorted(found)


def stat_of(root: Root, path: str) -> dict[str, Any]:
    """Return the `Metadata` of a file."""
    status = os.lstat(root.outside(path, follow=False))
    return {"uid": status.st_uid, "gid": status.st_gid, "mtime_ns": status.st_mtime_ns}


def _duplicate(path: str, copy: str) -> None:
    try:
        os.link(path, copy, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copy2(path, copy, follow_symlinks=False)
        if not os.path.islink(path):
            status = os.stat(path)
            os.chown(copy, status.st_uid, status.st_gid)


def _give(descriptor: int, outside: str, metadata: Metadata | None) -> None:
    """Give a file that will replace `outside` the same owner, or the owner in `metadata`."""
    if metadata is None:
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(outside)
            os.fchown(descriptor, status.st_uid, status.st_gid)
        return
    os.fchown(descriptor, metadata.uid, metadata.gid)
    if metadata.mtime_ns is not None:
        os.utime(descriptor, ns=(metadata.mtime_ns, metadata.mtime_ns))


def _sync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
