"""Restarts what runs containerd: a unit of systemd, a service of OpenRC, or by a command that the user names."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from zeropod.installer.distributions import Distribution, Kind
from zeropod.installer.errors import InstallError
from zeropod.installer.root import Root

SECONDS = 300.0
"""K3s says that it has started when its whole control plane has."""


@dataclass(frozen=True, slots=True)
class Service:
    """How containerd is restarted on this node; no command if that is not known."""

    command: tuple[str, ...] | None
    name: str
    by_itself: bool = False
    """Whether what runs containerd restarts it when its configuration changes."""

    @property
    def advice(self) -> str:
        """What a person has to do where we cannot."""
        return f"restart {self.name}"


def find(root: Root, distribution: Distribution, command: str | None) -> Service:
    """The service of this node. `command` is the user's own, run on the node by a shell."""
    names = " or ".join(distribution.units)
    if command is not None:
        return Service(("/bin/sh", "-c", command), f"containerd, by {shlex.quote(command)}")
    if distribution.kind is Kind.DROP_IN:
        return Service(None, names, by_itself=True)
    if root.exists("/run/systemd/system"):
        for unit in distribution.units:
            if root.succeeds(["systemctl", "is-active", "--quiet", unit]) is not None:
                return Service(("systemctl", "restart", unit), unit)
    elif root.exists("/run/openrc"):
        for unit in distribution.units:
            if root.succeeds(["rc-service", unit, "status"]) is not None:
                return Service(("rc-service", unit, "restart"), unit)
    return Service(None, names if distribution.units else "containerd")


def restart(root: Root, service: Service) -> None:
    """Raises InstallError with what the command has said."""
    assert service.command is not None
    command: Sequence[str] = service.command
    done = root.run(command, SECONDS)
    if done.returncode:
        raise InstallError(f"{' '.join(command)} failed with {done.returncode}: {done.stdout.strip()[-2000:]}")
