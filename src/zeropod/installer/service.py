"""Restart the service that runs containerd: a systemd unit, an OpenRC service, or a command of the user."""

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from zeropod.installer.distributions import Distribution, Kind
from zeropod.installer.errors import InstallError
from zeropod.installer.root import Root

SECONDS = 300.0
"""Timeout in seconds. K3s reports its start only when its whole control plane has started."""


@dataclass(frozen=True, slots=True)
class Service:
    """How containerd is restarted on this node; without a command if that is not known."""

    command: tuple[str, ...] | None
    name: str
    by_itself: bool = False
    """Whether the service restarts containerd by itself when its configuration changes."""

    @property
    def is_automatic(self) -> bool:
        """Whether containerd gets a new configuration without manual action."""
        return self.command is not None or self.by_itself


def find(root: Root, distribution: Distribution, command: str | None) -> Service:
    """Return the service of this node. `command` is the user's own, for a shell on the node."""
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
    """Run the restart command. Raises InstallError with its output."""
    assert service.command is not None
    done = root.run(service.command, SECONDS)
    if done.returncode:
        raise InstallError(f"{' '.join(service.command)} failed with {done.returncode}: {done.stdout.strip()[-2000:]}")


@contextmanager
def restarting(root: Root, service: Service, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Yield the function that restarts containerd; if the block fails afterwards, restart it once more.

    By then, the block has restored containerd's old configuration.
    """
    restarted = False

    def now() -> None:
        nonlocal restarted
        if service.command is not None:
            say(f"restarting {service.name}")
            restarted = True
            restart(root, service)

    try:
        yield now
    except BaseException:  # on interruption, too: no change may stay half made
        say("it failed; everything is as it was before")
        if restarted:
            try:
                restart(root, service)
                say(f"restarted {service.name} with its old configuration")
            except InstallError as error:
                say(f"{service.name} has to be restarted by hand: {error}")
        raise
