"""All paths on a node that several modules or processes use, and their purposes.

Files of one container are below containerd's namespace and the container's id, each a directory of its own: containers
with the same id in two namespaces, or whose names are equal only when joined ("a-b", "c" and "a", "b-c"), share no
path. Both are checked to be identifiers of containerd, so that neither leads out of its directory. Code that containerd
waits for may not import this module, because it imports pathlib: the two paths that it needs are in `launch.start` and
`launch.zygote_client`.
"""

import os
import re
import stat
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

INSTALL_ROOT = "/opt/zeropod"
"""The install root on most nodes."""

ROOT_VARIABLE = "ZEROPOD_ROOT"
"""The environment variable with the install root, if that is another one."""

ROOT = os.environ.get(ROOT_VARIABLE, INSTALL_ROOT)
"""The install root of the running code."""

PROGRAMS = f"{ROOT}/bin"
"""Searched before PATH for `criu` and `runc`."""

NODE_CONFIG = Path(ROOT, "etc/zeropod.toml")
"""The administrator's configuration for all containers of the node; optional."""

NODE_OVERRIDES = Path("/run/zeropod/zeropod.toml")
"""Limits set by `zeropod image-gc`, which take precedence over NODE_CONFIG; gone after a reboot."""

RUN = "/run/zeropod"
"""State that does not survive a reboot."""

STATE = "/var/lib/zeropod"
"""State that survives a reboot: sleeping containers, unpacked code."""

CONTAINERS = Path("/var/lib/zeropod/containers")
"""For each namespace, a directory with one for each container: its image, its page store, CRIU's logs."""

KEPT = Path("/var/lib/zeropod/kept")
"""Images of containers that could not be restored, until a user removes them."""

EXPORTS = Path("/var/lib/zeropod/exports")
"""What containers have left to come back from, elsewhere or after a restart: a directory for each, by its key."""

MARKS = Path("/var/lib/zeropod/marks")
"""A file for each container that is to come back after a restart, by its key, with the boot in which it was created."""

OLD_IMAGES = Path("/var/lib/zeropod/i")
"""Images of shims of an older version, which may still run: a directory for each id, without a namespace."""

NETWORKS = Path("/run/zeropod/netns")
"""Pinned network namespaces of containers without a pod; otherwise runc would make a new one at each restore."""

TMPFS = Path("/run/zeropod/tmpfs")
"""Mount points of kept tmpfs mounts during a restore, where CRIU finds them."""

PODS = Path("/run/zeropod/pods")
"""The containers of each shim, for `delete` after the shim's death: containerd has forgotten them by then."""

ADMISSION_SLOTS = Path("/run/zeropod/turns")
"""Locks that limit how many containers of the node move memory or are dumped at once."""

CONSOLES = "/run/zeropod"
"""Sockets through which runc hands over a terminal; each exists for an instant."""

STATUS_SOCKETS = "/run/zeropod/s"
"""One socket for each shim, for commands, the manager and the installer."""

MANAGER_SOCKETS = "/run/zeropod/n"
"""Where a manager with --migration listens for the node's shims; the manager's group may write to it."""

NODE_SOCKET = f"{MANAGER_SOCKETS}/node.sock"
"""Where shims ask when a container may leave, and what there is to come back from."""

TRANSFER_SOCKET = f"{MANAGER_SOCKETS}/transfer.sock"
"""Where a shim gets a connection to what another node has to come back from."""

EXPORTS_SOCKET = "/run/zeropod/x/exports.sock"
"""Where the node's exporter, which is root, gives the manager what containers have left behind."""

RESERVED = "reserved"
"""A file in a container's directory during a dump: the bytes that its image is expected to need."""

MANAGER_GROUP = 65414
"""The group that may connect to shims: that of the node's manager, which is not root. No other group has this
number."""

LONGEST = 76
"""Most characters of an identifier in containerd."""

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def is_identifier(name: str) -> bool:
    """Return whether this may be a namespace or an id in containerd."""
    return len(name) <= LONGEST and _IDENTIFIER.fullmatch(name) is not None


def container(containerd_namespace: str, id: str) -> Path:
    """Return the directory of this container on disk while it sleeps; removed with it. Raises ValueError."""
    return CONTAINERS.joinpath(*_checked(containerd_namespace, id))


def store(containerd_namespace: str, id: str) -> Path:
    """Return the directory of a container's page store. Raises ValueError."""
    return container(containerd_namespace, id) / "store"


def reservation(containerd_namespace: str, id: str) -> Path:
    """Return the file with the bytes reserved for this container's image during a dump. Raises ValueError."""
    return container(containerd_namespace, id) / RESERVED


def reservations_lock() -> Path:
    """Return the lock held by a shim that checks the free disk space. Its name cannot be that of a namespace."""
    return CONTAINERS / ".lock"


def network(containerd_namespace: str, id: str) -> Path:
    """Return the path of the network namespace that was made for this container. Raises ValueError."""
    return NETWORKS.joinpath(*_checked(containerd_namespace, id))


def tmpfs(containerd_namespace: str, id: str) -> Path:
    """Return the directory for the tmpfs mounts of this container. Raises ValueError."""
    return TMPFS.joinpath(*_checked(containerd_namespace, id))


def pod(containerd_namespace: str, group: str) -> Path:
    """Return the directory that lists the containers of this shim: for each id a JSON file with the data for `delete`.

    The group is the value of an annotation, which may be any text: it is hashed if it is not an identifier. Raises
    ValueError.
    """
    if not is_identifier(group):
        group = f"={sha256(group.encode(errors='surrogateescape')).hexdigest()}"
        return PODS.joinpath(*_checked(containerd_namespace), group)
    return PODS.joinpath(*_checked(containerd_namespace, group))


def status_socket(containerd_namespace: str, id: str) -> str:
    """Return the socket of the shim that was started for this container, the first of its pod. Raises ValueError.

    A socket's path has at most 107 bytes, and an identifier alone may have 76: hence the hash.
    """
    name = "/".join(_checked(containerd_namespace, id))
    return f"{STATUS_SOCKETS}/{sha256(name.encode()).hexdigest()[:32]}.sock"


def has_manager() -> bool:
    """Returns whether this node has a manager that moves containers."""
    return os.path.exists(NODE_SOCKET)


def make_private(directory: Path) -> None:
    """Make a directory and missing parents, each accessible only to root. Raises OSError.

    `Path.mkdir` would make the parents with the umask's mode.
    """
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError:
        make_private(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)


def make_status_sockets() -> None:
    """Make the directory of the shims' sockets, if it does not exist. Raises OSError."""
    os.makedirs(os.path.dirname(STATUS_SOCKETS), mode=0o700, exist_ok=True)
    if not os.path.isdir(STATUS_SOCKETS):
        open_to_manager(STATUS_SOCKETS)


def open_to_manager(place: str) -> None:
    """Make a directory of sockets, or one socket, accessible to root and the manager's group only. Raises OSError.

    Creates a missing directory. If the group may not be changed, it stays root's, and the manager cannot connect.
    """
    with suppress(FileExistsError):
        os.mkdir(place, 0o700)
    is_directory = stat.S_ISDIR(os.stat(place).st_mode)
    os.chmod(place, 0o700 if is_directory else 0o600)
    with suppress(PermissionError):
        os.chown(place, -1, MANAGER_GROUP)
        os.chmod(place, 0o750 if is_directory else 0o660)


def give_to_manager(directory: str) -> None:
    """Lets the manager's group, and no other user but root, make sockets in a directory. Raises OSError.

    Makes the directory if there is nothing.
    """
    open_to_manager(directory)
    if os.stat(directory).st_gid == MANAGER_GROUP:
        os.chmod(directory, 0o770)


def _checked(*names: str) -> tuple[str, ...]:
    for name in names:
        if not is_identifier(name):
            raise ValueError(f"{name!r} is not an identifier as containerd has them")
    return names
