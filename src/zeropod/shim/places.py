"""Where a shim leaves things on the node, for those who look for them there, or remove them when it is dead."""

from hashlib import sha256
from pathlib import Path

NETWORKS = Path("/run/zeropod/netns")
"""Network namespaces that runc would otherwise have made anew at each restore, pinned by name."""

TMPFS = Path("/run/zeropod/tmpfs")
"""Where CRIU finds the tmpfs mounts that a container kept, for as long as a restore takes."""

PODS = Path("/run/zeropod/pods")
"""A directory a pod, in it a file a container: when their shim is dead, containerd has forgotten which they were."""

STATUS_SOCKETS = "/run/zeropod/s"
"""One socket a shim; `zeropod.manager.shims` looks here."""


def network(containerd_namespace: str, id: str) -> Path:
    """The place of the network namespace that was made for this container."""
    return NETWORKS / f"{containerd_namespace}-{id}"


def tmpfs(containerd_namespace: str, id: str) -> Path:
    """The directory for the tmpfs mounts of this container."""
    return TMPFS / f"{containerd_namespace}-{id}"


def pod(containerd_namespace: str, group: str) -> Path:
    """Where the containers of this shim are listed; each file holds what `delete` has to know, in JSON."""
    return PODS / f"{containerd_namespace}-{group}"


def status_socket(containerd_namespace: str, id: str) -> str:
    """Where the shim that was started for this container, the first one of its pod, listens."""
    return f"{STATUS_SOCKETS}/{sha256(f'{containerd_namespace}/{id}'.encode()).hexdigest()[:32]}.sock"
