"""What `delete` does where a shim has not lived to do it: nothing of its containers may be left on the node.

Everything is found by the container's id and bundle, and nothing is asked of the shim.
"""

import errno
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from zeropod import paths
from zeropod.kernel import mount, namespace
from zeropod.launch import start
from zeropod.launch.flags import Flags
from zeropod.runtime import images
from zeropod.runtime.memory.limits import LIMITS, restore_limits
from zeropod.runtime.programs import QUICK, RUNC_ROOT, environment
from zeropod.runtime.tmpfs import release
from zeropod.shim import leftovers


def up(flags: Flags, bundle: Path) -> list[str]:
    """Removes all that is left of the container, and of its pod if that has no shim any more; returns complaints."""
    options = _options(bundle / "options.json") or {"bundle": str(bundle)}
    try:
        group = start.group(flags.id, str(bundle))
    except (OSError, ValueError):  # no bundle that was ever started
        return clean(flags.namespace, flags.id, options)
    pod = paths.pod(flags.namespace, group)
    own = pod / flags.id
    was_listed = own.exists()
    with _cleanup_lock(pod):
        if was_listed and not own.exists():
            return []  # another one has removed the whole pod
        address = start.socket_path(flags, group)
        if start.answers(address):
            complaints = clean(flags.namespace, flags.id, options)
            own.unlink(missing_ok=True)
            return complaints
        Path(address).unlink(missing_ok=True)
        return _clean_listed(flags.namespace, own, options) + clean_pod(flags.namespace, group)


@contextmanager
def _cleanup_lock(pod: Path) -> Iterator[None]:
    """Inside, no other process cleans up after this pod's shim.

    containerd runs `delete` for all its containers at once, and all of them would do everything side by side. The one
    with the lock is done after `QUICK` for each container at the latest. The lock is that of the directory: it ends
    with the process that has it, however that ends.
    """
    try:
        descriptor = os.open(pod, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def clean_pod(containerd_namespace: str, group: str) -> list[str]:
    """Clean up after all containers of a pod whose shim is dead: containerd asks for its sandbox alone."""
    pod, complaints = paths.pod(containerd_namespace, group), []
    for member in sorted(pod.iterdir()) if pod.exists() else ():
        complaints += _clean_listed(containerd_namespace, member, _options(member))
    with suppress(OSError):
        pod.rmdir()
    return complaints


def _clean_listed(containerd_namespace: str, member: Path, options: Mapping[str, str]) -> list[str]:
    """Clean up after one of a pod's containers, and note that nothing is left of it."""
    complaints = clean(containerd_namespace, member.name, options)
    leftovers.kill_pagers(containerd_namespace, member.name)
    member.unlink(missing_ok=True)
    return complaints


def clean(containerd_namespace: str, id: str, options: Mapping[str, str]) -> list[str]:
    """Ends and removes everything of one container; returns what went wrong, in words.

    `options`: what its shim has kept of the request that created it.
    """
    store = images.ImageStore.of(containerd_namespace, id)
    limits = paths.store(containerd_namespace, id) / LIMITS
    complaints = _complaints(id, "its limits could not be put back", lambda: restore_limits(limits))
    leftovers.end_dump(store.config)
    leftovers.end_restore(_runc_root(containerd_namespace, options), id)
    complaints += [f"{id}: {words}"] if (words := _delete_in_runc(containerd_namespace, id, options)) else []
    removals: dict[str, Callable[[], None]] = {
        "its bundle": lambda: _empty(Path(options["bundle"])) if "bundle" in options else None,
        "its network namespace": lambda: namespace.unpin(paths.network(containerd_namespace, id)),
        "its tmpfs mounts": lambda: release(paths.tmpfs(containerd_namespace, id)),
        "its image": lambda: shutil.rmtree(store.directory) if store.directory.exists() else None,
        "its status socket": lambda: Path(paths.status_socket(containerd_namespace, id)).unlink(missing_ok=True),
    }
    for what, remove in removals.items():
        complaints += _complaints(id, f"{what} could not be removed", remove)
    return complaints


def _complaints(id: str, what: str, action: Callable[[], None]) -> list[str]:
    """Do it, and return what went wrong, in words."""
    try:
        action()
    except OSError as error:
        return [f"{id}: {what}: {error}"]
    return []


def _options(path: Path) -> dict[str, str]:
    """What was kept in a file; nothing if it was never written whole."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _runc_root(containerd_namespace: str, options: Mapping[str, str]) -> Path:
    return Path(options.get("root") or RUNC_ROOT) / containerd_namespace


def _delete_in_runc(containerd_namespace: str, id: str, options: Mapping[str, str]) -> str:
    root = _runc_root(containerd_namespace, options)
    with suppress(OSError):
        mount.unmount_below(root / id)  # by a restore under way: runc would empty the container's root with its own
    # It also thaws what a v1 freezer holds; such a task could not be killed otherwise.
    command = [options.get("binary_name") or "runc", "--root", str(root), "delete", "--force", id]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=QUICK, env=environment(), check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"runc delete failed: {error}"
    return f"runc delete failed: {done.stderr.strip()}" if done.returncode else ""


def _empty(bundle: Path) -> None:
    """Unmount what is in a bundle, and remove the whole of it if containerd has given it up.

    That is so when a restore has made mount points in the bundle's root after it was unmounted: containerd says so in
    its log and never tries again. What is not empty is not a mount point, and stays. Raises OSError.
    """
    root = bundle / "rootfs"
    mount.unmount_below(root)  # before anything there is looked at: it may be a directory of the node's
    if still := mount.mounted_below(root):
        raise OSError(errno.EBUSY, "still mounted", still[0])
    if root.is_symlink() or not root.is_dir() or not os.listdir(root):
        return
    for parent, directories, files in os.walk(root, topdown=False):
        for path in (Path(parent, name) for name in files):
            if path.lstat().st_size == 0:
                path.unlink()
        for name in directories:
            os.rmdir(os.path.join(parent, name))
    _remove(bundle)


def remove_abandoned_bundle(id: str, bundle: Path) -> list[str]:
    """For a container of which nothing else is left: its bundle, which containerd keeps when `delete` has failed."""
    try:
        if bundle.name == id and bundle.exists():  # as containerd names them
            _remove(bundle)
    except OSError as error:
        return [f"{id}: its bundle could not be removed: {error}"]
    return []


def _remove(bundle: Path) -> None:
    """The bundle, and what containerd keeps beside it. Raises OSError, also if there is anything in its root."""
    with suppress(FileNotFoundError):
        os.rmdir(bundle / "rootfs")
    work = bundle / "work"
    if work.is_symlink() and work.readlink().name == bundle.name:
        shutil.rmtree(work.readlink(), ignore_errors=True)
    with suppress(FileNotFoundError):  # containerd has come to it after all
        shutil.rmtree(bundle)
