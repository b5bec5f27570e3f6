"""Every path on a node that more than one module or process has to agree on, and what each one is for.

What belongs to one container lies below containerd's namespace and the container's id, each a directory of its own:
two containers whose ids are the same in two namespaces, or whose names are the same only when written side by side
("a-b", "c" and "a", "b-c"), share nothing. Both are identifiers of containerd's, checked here, so that none of them
leads out of its directory. What containerd waits for may not import this module, which imports pathlib: the two paths
that it needs are in `launch.start` and `launch.zygote_client`.
"""

import os
import re
import stat
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

INSTALL_ROOT = "/opt/zeropod"
"""Where the installer puts zeropod on most nodes."""

ROOT_VARIABLE = "ZEROPOD_ROOT"
"""The environment variable by which what the installer has put elsewhere says where."""

ROOT = os.environ.get(ROOT_VARIABLE, INSTALL_ROOT)
"""The install root of what runs here."""

PROGRAMS = f"{ROOT}/bin"
"""Looked into before PATH for `criu` and `runc`."""

NODE_CONFIG = Path(ROOT, "etc/zeropod.toml")
"""What the administrator has configured for all containers of the node; may be missing."""

NODE_OVERRIDES = Path("/run/zeropod/zeropod.toml")
"""What the node's manager was told on its command line; gone after a reboot."""

RUN = "/run/zeropod"
"""Everything that a reboot ends."""

STATE = "/var/lib/zeropod"
"""Everything else that is made on the node while containers run: sleeping containers, unpacked code."""

CONTAINERS = Path("/var/lib/zeropod/containers")
"""A directory for each namespace, in it one for each container: its image, its page store, CRIU's logs."""

KEPT = Path("/var/lib/zeropod/kept")
"""Images of containers that could not be restored from them: kept for the user, who removes them."""

OLD_IMAGES = Path("/var/lib/zeropod/i")
"""Where shims of an older version, which may still run, keep images: a directory for each id, without a namespace."""

NETWORKS = Path("/run/zeropod/netns")
"""Network namespaces that runc would otherwise have made anew at each restore, pinned by name."""

TMPFS = Path("/run/zeropod/tmpfs")
"""Where CRIU finds the tmpfs mounts that a container kept, for as long as a restore takes."""

PODS = Path("/run/zeropod/pods")
"""What containers there are, for when their shim is dead: containerd has forgotten by then which they were."""

ADMISSION_SLOTS = Path("/run/zeropod/turns")
"""The locks that limit how many containers of the node fall asleep at once."""

CONSOLES = "/run/zeropod"
"""Where the sockets through which runc hands over a terminal are made, for an instant."""

STATUS_SOCKETS = "/run/zeropod/s"
"""One socket for each shim, through which commands, the manager and the installer find it."""

RESERVED = "reserved"
"""In a container's directory while it is dumped: the bytes that its image is expected to need."""

MANAGER_GROUP = 65414
"""The group that may talk to shims: that of the node's manager, which is not root. Nothing else has this number."""

LONGEST = 76
"""Characters of the longest identifier that containerd accepts."""

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def is_identifier(name: str) -> bool:
    """Returns whether this may be a namespace or an id of containerd's."""
    return len(name) <= LONGEST and _IDENTIFIER.fullmatch(name) is not None


def container(containerd_namespace: str, id: str) -> Path:
    """The directory of all that this container keeps on disk while it sleeps; removed with it. Raises ValueError."""
    return CONTAINERS.joinpath(*_checked(containerd_namespace, id))


def store(containerd_namespace: str, id: str) -> Path:
    """The directory of the page store, for a container that sleeps in place. Raises ValueError."""
    return container(containerd_namespace, id) / "store"


def reservation(containerd_namespace: str, id: str) -> Path:
    """The file with the bytes that the image of this container, which is being dumped, will need. Raises ValueError."""
    return container(containerd_namespace, id) / RESERVED


def reservations_lock() -> Path:
    """Held by the shim that looks whether there is room on the disk. Its name cannot be that of a namespace."""
    return CONTAINERS / ".lock"


def network(containerd_namespace: str, id: str) -> Path:
    """The place of the network namespace that was made for this container. Raises ValueError."""
    return NETWORKS.joinpath(*_checked(containerd_namespace, id))


def tmpfs(containerd_namespace: str, id: str) -> Path:
    """The directory for the tmpfs mounts of this container. Raises ValueError."""
    return TMPFS.joinpath(*_checked(containerd_namespace, id))


def pod(containerd_namespace: str, group: str) -> Path:
    """Where the containers of this shim are listed: a file named by the id, with what `delete` has to know in JSON.

    A group is an annotation's value, which may be any text: one that is not an identifier is hashed. Raises ValueError.
    """
    if not is_identifier(group):
        group = f"={sha256(group.encode(errors='surrogateescape')).hexdigest()}"
        return PODS.joinpath(*_checked(containerd_namespace), group)
    return PODS.joinpath(*_checked(containerd_namespace, group))


def status_socket(containerd_namespace: str, id: str) -> str:
    """Where the shim that was started for this container, the first one of its pod, listens. Raises ValueError.

    A socket's path has room for 107 bytes, an identifier alone may have 76: hence the hash.
    """
    name = "/".join(_checked(containerd_namespace, id))
    return f"{STATUS_SOCKETS}/{sha256(name.encode()).hexdigest()[:32]}.sock"


def make_private(directory: Path) -> None:
    """Makes a directory, and those above it that are missing, each for root alone. Raises OSError.

    `Path.mkdir` would make those above it with what the umask leaves.
    """
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError:
        make_private(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)


def make_status_sockets() -> None:
    """Makes the directory in which shims listen, if it is not there yet. Raises OSError."""
    os.makedirs(os.path.dirname(STATUS_SOCKETS), mode=0o700, exist_ok=True)
    if not os.path.isdir(STATUS_SOCKETS):
        open_to_manager(STATUS_SOCKETS)


def open_to_manager(place: str) -> None:
    """Lets the manager's group, and no other user but root, use a directory of sockets, or one socket. Raises OSError.

    Makes the directory if there is nothing. Where the group may not be given away, all remains root's: the manager then
    sees nothing.
    """
    with suppress(FileExistsError):
        os.mkdir(place, 0o700)
    is_directory = stat.S_ISDIR(os.stat(place).st_mode)
    os.chmod(place, 0o700 if is_directory else 0o600)
    with suppress(PermissionError):
        os.chown(place, -1, MANAGER_GROUP)
        os.chmod(place, 0o750 if is_directory else 0o660)


def _checked(*names: str) -> tuple[str, ...]:
    for name in names:
        if not is_identifier(name):
            raise ValueError(f"{name!r} is not an identifier as containerd has them")
    return names
