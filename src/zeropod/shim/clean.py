"""Clean up after a dead shim: what `delete` does so that nothing of its containers is left on the node.

Everything is found by the container's id and bundle; no shim is queried.
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


def clean_up(flags: Flags, bundle: Path) -> list[str]:
    """Remove all that is left of the container, and of its pod if that has no shim any more; return complaints."""
    options = _options(bundle / "options.json") or {"bundle": str(bundle)}
    try:
        group = start.group(flags.id, str(bundle))
    except (OSError, ValueError):  # no bundle of a started container
        return clean(flags.namespace, flags.id, options)
    pod = paths.pod(flags.namespace, group)
    own = pod / flags.id
    was_listed = own.exists()
    with _cleanup_lock(pod):
        if was_listed and not own.exists():
            return []  # another process has removed the whole pod
        address = start.socket_path(flags, group)
        if start.answers(address):
            complaints = clean(flags.namespace, flags.id, options)
            own.unlink(missing_ok=True)
            return complaints
        Path(address).unlink(missing_ok=True)
        return _clean_listed(flags.namespace, own, options) + clean_pod(flags.namespace, group)


@contextmanager
def _cleanup_lock(pod: Path) -> Iterator[None]:
    """Keep other processes from cleaning up after this pod's shim inside the block.

    containerd runs `delete` for all containers of a pod at once, and each would clean up the whole pod. Waits `QUICK`
    seconds at most for each container. The lock is on the directory, so it ends with its process.
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
    """Clean up after all containers of a pod whose shim is dead: containerd calls `delete` for its sandbox only."""
    pod, complaints = paths.pod(containerd_namespace, group), []
    for member in sorted(pod.iterdir()) if pod.exists() else ():
        complaints += _clean_listed(containerd_namespace, member, _options(member))
    with suppress(OSError):
        pod.rmdir()
    return complaints


def _clean_listed(containerd_namespace: str, member: Path, options: Mapping[str, str]) -> list[str]:
    """Clean up after one of a pod's containers, and record in its bundle that nothing is left."""
    complaints = clean(containerd_namespace, member.name, options)
    leftovers.kill_pagers(containerd_namespace, member.name)
    member.unlink(missing_ok=True)
    return complaints


def clean(containerd_namespace: str, id: str, options: Mapping[str, str]) -> list[str]:
    """End and remove everything of one container, and return complaints. `options`: the runtime options that its shim
    has saved at its creation."""
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
    """Run the block, and return its failure in words."""
    try:
        action()
    except OSError as error:
        return [f"{id}: {what}: {error}"]
    return []


def _options(path: Path) -> dict[str, str]:
    """Return the options saved in a file; none if it was not written completely."""
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
    """Unmount everything in a bundle, and remove it if containerd has given it up.

    That is so when a restore has made mount points in the bundle's root after it was unmounted: containerd logs that,
    and never tries again. A directory that is not empty is not a mount point, and stays. Raises OSError.
    """
    root = bundle / "rootfs"
    mount.unmount_below(root)  # before reading it: a mount may show a directory of the node
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
    """Remove the bundle of a container of which nothing else is left; containerd keeps it when `delete` has failed."""
    try:
        if bundle.name == id and bundle.exists():  # as containerd names them
            _remove(bundle)
    except OSError as error:
        return [f"{id}: its bundle could not be removed: {error}"]
    return []


def _remove(bundle: Path) -> None:
    """Remove the bundle, and containerd's files beside it. Raises OSError, also if its root is not empty."""
    with suppress(FileNotFoundError):
        os.rmdir(bundle / "rootfs")
    work = bundle / "work"
    if work.is_symlink() and work.readlink().name == bundle.name:
        shutil.rmtree(work.readlink(), ignore_errors=True)
    with suppress(FileNotFoundError):  # containerd has removed it after all
        shutil.rmtree(bundle)
