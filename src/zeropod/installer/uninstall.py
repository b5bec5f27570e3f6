"""Remove everything and restore the node, byte for byte as far as its files were not changed since."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable

from zeropod import paths
from zeropod.installer import changes, configure, containerd, record, service, users
from zeropod.installer.changes import Entry, File, Link
from zeropod.installer.errors import InstallError
from zeropod.installer.record import Kept, Record
from zeropod.installer.root import Root
from zeropod.installer.service import Service
from zeropod.installer.transaction import Metadata, Transaction

STATE = (paths.STATE, paths.RUN)
"""Files that zeropod creates at run time: images, unpacked code, sockets."""

Say = Callable[[str], None]


def uninstall(
    root: Root, known: Record, install_root: str, restarter: Service, say: Say, *, force: bool, dry: bool
) -> None:
    """Uninstall. Raises InstallError if containers still use the runtime; or InstallError or OSError after restoring
    everything."""
    in_use = _users(root, say, force=force, dry=dry)
    wanted, metadata = _restored(root, known, install_root, say)
    differences = changes.compare(root.look, wanted)
    configures = any(not isinstance(change.before, Link) for change in differences)
    if dry:
        print(changes.show(differences, install_root), end="")
        say(f"{install_root} and {', '.join(STATE)} would be removed")
        return
    making = Transaction(root, install_root).making(differences, metadata)
    with service.restarting(root, restarter, say) as restart, making:
        if configures:
            restart()
            if restarter.is_automatic:
                containerd.verify(root.outside(known.socket), present=False)
    _remove(root, known, install_root, say, keep_state=in_use)
    if configures and not restarter.is_automatic:
        say(f"NOT IN EFFECT YET: restart {restarter.name}")
    say("zeropod is uninstalled")


def _users(root: Root, say: Say, *, force: bool, dry: bool) -> bool:
    """Whether containers use the runtime. Wakes those that sleep, if it is to go on nevertheless."""
    found, silent = users.look(root)
    if not found and not silent:
        return False
    names = [*(users.name(each.status) for each in found), *silent]
    if not force:
        shown = "\n  ".join(names)
        raise InstallError(
            f"{len(names)} containers still use the runtime:\n  {shown}\ndelete them, or say --force: they then go on,"
            " awake, and cannot sleep any more"
        )
    sleeping = [each for each in found if each.status.state in users.ASLEEP]
    if sleeping and not dry:
        say(f"waking {len(sleeping)} containers")
        if failures := users.wake(sleeping):
            raise InstallError("could not wake all that sleep, so nothing was changed:\n  " + "\n  ".join(failures))
    return True


def _restored(root: Root, known: Record, install_root: str, say: Say) -> tuple[dict[str, Entry], dict[str, Metadata]]:
    """Return the content and metadata that the files outside the install root should have."""
    wanted: dict[str, Entry] = {}
    metadata: dict[str, Metadata] = {}
    for path, kept in known.files.items():
        present = root.look(path)
        if record.digest(present) == kept.digest:
            wanted[path] = None
            if kept.existed:
                wanted[path], metadata[path] = _backup(root, install_root, path, kept), kept.metadata
        elif isinstance(present, File) and kept.edited:
            say(f"note: {path} has been changed since; only what is zeropod's is taken out of it")
            rest = configure.taken_back(present.content.decode(), known.drop_in)
            gone = configure.is_ours_alone(rest) and not kept.existed
            wanted[path] = None if gone else File(rest.encode(), present.mode)
        elif isinstance(present, Link):
            say(f"note: {path} is not zeropod's any more and stays as it is")
        else:
            wanted[path] = None
    return wanted, metadata


def _backup(root: Root, install_root: str, path: str, kept: Kept) -> File:
    backup = root.look(f"{install_root}/{record.BACKUPS}{path}")
    if not isinstance(backup, File):
        raise InstallError(f"the backup of {path} is not in {install_root}/{record.BACKUPS} any more: restore it there")
    return File(backup.content, kept.mode)


def _remove(root: Root, known: Record, install_root: str, say: Say, *, keep_state: bool) -> None:
    """Remove the install root; containerd does not refer to it any more, so nothing is undone from here on."""
    ours = {f"{install_root}/{path}" for path in (record.PLACE, *known.inner)}
    # Python's compiled files are below lib, too.
    foreign = [
        path for path in root.walk(install_root) if path not in ours and not path.startswith(f"{install_root}/lib/")
    ]
    doomed: list[str] = []
    if foreign:
        say(f"note: {', '.join(foreign[:5])} in {install_root} are not zeropod's and stay")
        _remove_files(root, ours, install_root)
    else:
        doomed.append(install_root)
    if keep_state:
        say(f"{' and '.join(STATE)} stay for the containers that go on; remove them afterwards")
    else:
        doomed += STATE
    left: list[str] = []
    for directory in doomed:
        left += _remove_tree(root.outside(directory))
    if left:
        raise InstallError("zeropod is uninstalled, but some of it could not be removed:\n  " + "\n  ".join(left))
    for directory in reversed(known.directories):
        with contextlib.suppress(OSError):  # it has files of others
            os.rmdir(root.outside(directory))


def _remove_files(root: Root, paths: Iterable[str], install_root: str) -> None:
    """Remove these files, and directories in the install root that are empty then."""
    shutil.rmtree(root.outside(f"{install_root}/lib"), ignore_errors=True)
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(root.outside(path, follow=False))
    for parent, _, _ in os.walk(root.outside(install_root), topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(parent)


def _remove_tree(directory: str) -> list[str]:
    """Remove a directory with its content. Returns what could not be removed, with reasons."""
    left: list[str] = []
    shutil.rmtree(directory, onerror=lambda _call, path, failure: left.append(f"{path}: {failure[1]}"))
    # A separate disk may be mounted there; its empty mount point stays.
    return left if os.path.lexists(directory) and os.listdir(directory) else []
