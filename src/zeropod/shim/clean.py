"""What `delete` does where a shim has not lived to do it: nothing of its containers may be left on the node.

Everything is found by the container's id and bundle, and nothing is asked of the shim.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from zeropod.kernel import mount, namespace
from zeropod.runtime import images
from zeropod.runtime.programs import QUICK, RUNC_ROOT, UNFINISHED, environment
from zeropod.runtime.tmpfs import release
from zeropod.shim import places, start
from zeropod.shim.bootstrap import Flags

PAGER = b"zeropod-pager\n"
"""What `runtime.pager` calls its processes."""


def up(flags: Flags, bundle: Path) -> list[str]:
    """Removes all that is left of the container, and of its pod if that has no shim any more; returns complaints."""
    options = _options(bundle / "options.json") or {"bundle": str(bundle)}
    try:
        group = start.group(flags.id, str(bundle))
    except (OSError, ValueError):  # no bundle that was ever started
        return clean(flags.namespace, flags.id, options)
    pod = places.pod(flags.namespace, group)
    own = pod / flags.id
    was_listed = own.exists()
    with _turn(pod):
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
def _turn(pod: Path) -> Iterator[None]:
    """The only one that cleans up after this pod's shim.

    containerd runs `delete` for all its containers at once and gives each five seconds, in which all of them would do
    everything side by side; so nobody waits for longer than that either. The lock is that of the directory: it ends
    with who has it, whatever ends that.
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
    """The same for all containers whose shim is dead with it: containerd asks for the pod's sandbox alone."""
    pod, complaints = places.pod(containerd_namespace, group), []
    for member in sorted(pod.iterdir()) if pod.exists() else ():
        complaints += _clean_listed(containerd_namespace, member, _options(member))
    with suppress(OSError):
        pod.rmdir()
    return complaints


def _clean_listed(containerd_namespace: str, member: Path, options: Mapping[str, str]) -> list[str]:
    """The same for one of a pod's containers, of which it is noted then that nothing is left."""
    complaints = clean(containerd_namespace, member.name, options)
    _kill_pagers(member.name)
    member.unlink(missing_ok=True)
    return complaints


def clean(containerd_namespace: str, id: str, options: Mapping[str, str]) -> list[str]:
    """Ends and removes everything of one container; returns what went wrong, in words.

    `options`: what its shim has kept of the request that created it.
    """
    store = images.ImageStore.of(id)
    _end_dump(store.config)
    complaints = [f"{id}: {words}"] if (words := _delete_in_runc(containerd_namespace, id, options)) else []
    removals: dict[str, Callable[[], None]] = {
        "its mounts": lambda: mount.unmount_below(Path(options["bundle"]) / "rootfs") if "bundle" in options else None,
        "its network namespace": lambda: namespace.unpin(places.network(containerd_namespace, id)),
        "its tmpfs mounts": lambda: release(places.tmpfs(containerd_namespace, id)),
        "its image": lambda: shutil.rmtree(store.directory) if store.directory.exists() else None,
        "its status socket": lambda: Path(places.status_socket(containerd_namespace, id)).unlink(missing_ok=True),
    }
    for what, remove in removals.items():
        try:
            remove()
        except OSError as error:
            complaints.append(f"{id}: {what} could not be removed: {error}")
    return complaints


def _options(path: Path) -> dict[str, str]:
    """What was kept in a file; nothing if it was never written whole."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _delete_in_runc(containerd_namespace: str, id: str, options: Mapping[str, str]) -> str:
    root = Path(options.get("root") or RUNC_ROOT) / containerd_namespace
    with suppress(OSError):
        mount.unmount_below(root / id)  # by a restore under way: runc would empty the container's root with its own
    # It also thaws what a v1 freezer holds; such a task could not be killed otherwise.
    command = [options.get("binary_name") or "runc", "--root", str(root), "delete", "--force", id]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=QUICK, env=environment(), check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"runc delete failed: {error}"
    return f"runc delete failed: {done.stderr.strip()}" if done.returncode else ""


def _end_dump(configuration: Path) -> None:
    """A CRIU that waits for its shim would do so for ever: it gets the end of what it waits for, and fails."""
    with suppress(OSError):
        if configuration.is_fifo():
            # Open at both ends: whoever waits for a writer goes on, and whoever comes before it is gone need not wait.
            fifo = os.open(configuration, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                os.write(fifo, UNFINISHED.encode())
                configuration.unlink()
            finally:
                os.close(fifo)


def _kill_pagers(id: str) -> None:
    """Ends pagers that have outlived their shim, and by now what they served: one that is stopped would stay.

    They have the image mapped, whose files may be gone.
    """
    served = os.fsencode(images.ImageStore.of(id).images)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if (entry / "comm").read_bytes() == PAGER and served in (entry / "maps").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
