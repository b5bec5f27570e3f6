"""What restarts containerd is found on each kind of node, and asked for nothing that is not there."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from zeropod.installer import service
from zeropod.installer.distributions import DISTRIBUTIONS
from zeropod.installer.errors import InstallError
from zeropod.installer.root import Root
from zeropod.installer.service import Service

BY_NAME = {known.name: known for known in DISTRIBUTIONS}


class Node(Root):
    """With an init system's directory, and services that are active."""

    def __init__(self, top: Path, init: str, *active: str) -> None:
        super().__init__(str(top))
        if init:
            (top / init.lstrip("/")).mkdir(parents=True)
        self.active = active

    def run(self, command: Sequence[str], timeout: float) -> "subprocess.CompletedProcess[str]":
        status = 0 if set(command) & set(self.active) else 3
        return subprocess.CompletedProcess(list(command), status, "said\n")


@pytest.mark.parametrize(
    ("init", "active", "command"),
    [
        ("/run/systemd/system", "k3s-agent", ("systemctl", "restart", "k3s-agent")),
        ("/run/systemd/system", "k3s", ("systemctl", "restart", "k3s")),
        ("/run/openrc", "k3s", ("rc-service", "k3s", "restart")),
        ("/run/systemd/system", "docker", None),
        ("", "k3s", None),
    ],
)
def test_the_active_one_of_a_distributions_services(
    tmp_path: Path, init: str, active: str, command: tuple[str, ...] | None
) -> None:
    found = service.find(Node(tmp_path, init, active), BY_NAME["k3s"], None)
    assert found.command == command
    assert found.name == (active if command else "k3s or k3s-agent")


def test_k0s_restarts_it_by_itself(tmp_path: Path) -> None:
    found = service.find(Node(tmp_path, "/run/systemd/system", "k0sworker"), BY_NAME["k0s"], None)
    assert (found.command, found.by_itself) == (None, True)


def test_a_users_own_command_comes_first(tmp_path: Path) -> None:
    found = service.find(Node(tmp_path, "/run/systemd/system", "containerd"), BY_NAME["containerd"], "sv restart c")
    assert found.command == ("/bin/sh", "-c", "sv restart c")


def test_a_restart_that_fails_says_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match=r"systemctl restart containerd failed with 3: said"):
        service.restart(Node(tmp_path, ""), Service(("systemctl", "restart", "containerd"), "containerd"))
