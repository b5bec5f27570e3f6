"""`start`: gives containerd the address of the pod's shim, starting that shim if it is not there yet.

containerd waits for it at every pod, so it needs the standard library alone: it binds the socket, hands it to the
process that will serve, and answers. The kernel queues containerd's first request until that process is up.
"""

import errno
import json
import os
import socket
import sys
from hashlib import sha256

from zeropod.shim.bootstrap import Flags

TYPE_CHECKING = False  # as type checkers know it, without the import of typing
if TYPE_CHECKING:
    from collections.abc import Mapping

SOCKETS = "/run/containerd/s"
"""Where containerd's shims have their sockets (its `shim.SocketAddress`)."""

SOCKET_FD = 3
"""The descriptor at which `serve` finds its listening socket."""

BACKLOG = 4096
"""Connections that wait while the shim comes up; the kernel takes the smaller of this and net.core.somaxconn."""

GROUPS = ("io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id")
"""Annotations whose value is shared by the containers of one shim, the first one that is there."""

PROTOCOLS = "/run/zeropod"
"""Where the protocol that each containerd of the node takes is remembered."""

OLD_PROTOCOL, NEW_PROTOCOL = 2, 3
"""What containerd 1.7 takes, and 2.x. Neither says so: both set MAX_SHIM_VERSION to 2."""


def main(flags: Flags) -> int:
    """Runs in the bundle's directory; prints the bootstrap parameters. Returns 1 with the reason on stderr."""
    try:
        address = start(flags)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"containerd-shim-zeropod-v2: cannot start the shim of {flags.id}: {error}\n")
        return 1
    print(json.dumps({"version": protocol(flags.publish_binary), "address": address, "protocol": "ttrpc"}))
    return 0


def protocol(containerd: str) -> int:
    """The newest protocol that this containerd takes; when in doubt the old one, which all of them do.

    Asking it takes some 40 ms, so the answer is kept, under what tells this very binary from its next version.
    """
    try:
        status = os.stat(containerd)
        known = f"{PROTOCOLS}/protocol-{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"
        try:
            with open(known) as file:
                return int(file.read())
        except (FileNotFoundError, ValueError):
            version = _version(containerd)
        os.makedirs(PROTOCOLS, mode=0o700, exist_ok=True)
        with open(f"{known}.{os.getpid()}", "w") as file:
            file.write(str(version))
        os.rename(f"{known}.{os.getpid()}", known)
    except OSError:
        return OLD_PROTOCOL
    return version


def _version(containerd: str) -> int:
    import re
    import subprocess

    try:
        done = subprocess.run([containerd, "--version"], capture_output=True, text=True, timeout=5, check=False)
    except subprocess.TimeoutExpired:
        return OLD_PROTOCOL
    found = re.search(r"\bv?(\d+)\.\d+\.\d+", done.stdout)
    return NEW_PROTOCOL if found and int(found[1]) >= 2 else OLD_PROTOCOL


def start(flags: Flags) -> str:
    """The address of a shim that serves, or will when it is up. Raises OSError, ValueError for a bad config.json."""
    path = socket_path(flags, group(flags.id))
    with socket.socket(socket.AF_UNIX) as listener:
        if _bind(listener, path):
            try:
                _spawn(listener, flags)
            except BaseException:
                os.unlink(path)
                raise
    address = f"unix://{path}"
    with open("address", "w") as file:
        file.write(address)
    return address


def group(id: str, bundle: str = ".") -> str:
    """Which shim the container with this bundle belongs to. Raises OSError, ValueError for no JSON."""
    with open(f"{bundle}/config.json", "rb") as file:
        return group_of(id, json.load(file).get("annotations") or {})


def group_of(id: str, annotations: "Mapping[str, str]") -> str:
    """The same, by the container's annotations."""
    return next((annotations[key] for key in GROUPS if annotations.get(key)), id)


def socket_path(flags: Flags, group: str) -> str:
    # A path has room for 107 bytes, an id alone may have 76.
    name = "/".join(("zeropod", flags.address, flags.namespace, group))
    return f"{SOCKETS}/{sha256(name.encode()).hexdigest()}"


def _bind(listener: socket.socket, path: str) -> bool:
    """Binds and listens; False when another shim of the group listens there already."""
    os.makedirs(SOCKETS, mode=0o711, exist_ok=True)
    for attempt in range(2):
        try:
            previous = os.umask(0o177)  # never open to others, not for an instant
            try:
                listener.bind(path)
            finally:
                os.umask(previous)
            break
        except OSError as error:
            if error.errno != errno.EADDRINUSE or attempt:
                raise
            if answers(path):
                return False
            os.unlink(path)  # a shim that was killed left it
    listener.listen(BACKLOG)
    return True


def answers(path: str) -> bool:
    """Whether a shim listens there."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def _spawn(listener: socket.socket, flags: Flags) -> None:
    """Starts `serve` with the socket, in a process group of its own, as this very program was started."""
    own = list(flags.arguments)
    program = sys.orig_argv[: len(sys.orig_argv) - len(own)]
    arguments = [*program, *own[: own.index("start")], "serve"]
    # First out of the way of the numbers that it is to be duplicated to.
    handed = os.dup(listener.fileno())
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_DUP2, handed, SOCKET_FD),
    ]
    pid = os.posix_spawn(sys.executable, arguments, os.environ, file_actions=actions, setpgroup=0)
    os.close(handed)
    _adjust_oom_score(pid)


def _adjust_oom_score(pid: int) -> None:
    """One more than containerd's own, as all shims have: containers go first, then shims (1000 is the most)."""
    try:
        with open(f"/proc/{os.getppid()}/oom_score_adj") as file:
            score = min(int(file.read()) + 1, 1000)
        with open(f"/proc/{pid}/oom_score_adj", "w") as file:
            file.write(str(score))
    except OSError as error:
        # Lowering it needs CAP_SYS_RESOURCE, which containerd may not have; the shim works without.
        if error.errno not in (errno.EACCES, errno.EPERM, errno.ENOENT):
            raise
