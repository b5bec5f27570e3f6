"""The distributions of nodes: where each has containerd's configuration and socket, and what restarts it. A table, no
I/O."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from zeropod import paths
from zeropod.installer.errors import InstallError


class Kind(Enum):
    """How containerd's configuration is produced."""

    CONFIG = "containerd reads the file itself"
    TEMPLATE = "K3s and RKE2 render it from a Go template at each start"
    DROP_IN = "k0s merges what is in a directory, and restarts containerd when that changes"


@dataclass(frozen=True, slots=True)
class Distribution:
    name: str
    kind: Kind
    markers: tuple[str, ...]
    """Paths that identify a node of this distribution."""
    config: str
    """The file that containerd reads; the result of a template; for k0s the drop-in itself."""
    socket: str
    units: tuple[str, ...]
    """Services that may run containerd; the active one is restarted."""
    install_root: str = paths.INSTALL_ROOT
    links: bool = True
    """Whether /usr/local/bin is writable."""


CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
_RANCHER_SOCKET = "/run/k3s/containerd/containerd.sock"

DISTRIBUTIONS = (
    Distribution(
        "microk8s",
        Kind.CONFIG,
        ("/var/snap/microk8s/current/args/containerd-template.toml",),
        "/var/snap/microk8s/current/args/containerd-template.toml",
        "/var/snap/microk8s/common/run/containerd.sock",
        ("snap.microk8s.daemon-containerd",),
    ),
    Distribution(
        "rke2",
        Kind.TEMPLATE,
        ("/var/lib/rancher/rke2/agent/etc/containerd",),
        "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
        _RANCHER_SOCKET,
        ("rke2-server", "rke2-agent"),
    ),
    Distribution(
        "k3s",
        Kind.TEMPLATE,
        ("/var/lib/rancher/k3s/agent/etc/containerd",),
        "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
        _RANCHER_SOCKET,
        ("k3s", "k3s-agent"),
    ),
    Distribution(
        "k0s",
        Kind.DROP_IN,
        ("/etc/k0s/containerd.toml", "/var/lib/k0s/bin/containerd"),
        "/etc/k0s/containerd.d/zeropod.toml",
        "/run/k0s/containerd.sock",
        ("k0sworker", "k0scontroller"),
    ),
    Distribution(
        "gke",
        Kind.CONFIG,
        ("/home/kubernetes/bin",),
        "/etc/containerd/config.toml",
        CONTAINERD_SOCKET,
        ("containerd",),
        # Of the writable file systems on Container-Optimized OS, only this one is not mounted noexec.
        install_root="/home/kubernetes/bin/zeropod",
        links=False,
    ),
    Distribution(
        "kind", Kind.CONFIG, ("/kind/version",), "/etc/containerd/config.toml", CONTAINERD_SOCKET, ("containerd",)
    ),
    Distribution(
        "containerd", Kind.CONFIG, (), "/etc/containerd/config.toml", CONTAINERD_SOCKET, ("containerd",)
    ),
)  # fmt: skip
"""The last one is for all nodes without markers of the others."""

NAMES = tuple(distribution.name for distribution in DISTRIBUTIONS)


def detect(exists: Callable[[str], bool], name: str | None = None) -> Distribution:
    """Return the node's distribution, or the one of that name.

    An uninstalled distribution leaves its directories behind, so one whose socket exists takes precedence. Raises
    InstallError if several are left.
    """
    if name is not None:
        return next(known for known in DISTRIBUTIONS if known.name == name)
    *special, general = DISTRIBUTIONS
    marked = [known for known in special if any(map(exists, known.markers))]
    running = [known for known in marked if exists(known.socket)] or marked
    if len(running) > 1:
        names = ", ".join(known.name for known in running)
        raise InstallError(f"this node looks like more than one of {names}: choose with --distribution")
    return running[0] if running else general
