"""What `zeropod manager` says when it cannot start."""

import os
import socket
import subprocess
import sys

import pytest

from zeropod.manager import daemon


@pytest.mark.usefixtures("place")
def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert daemon.main(["--listen", address]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("zeropod manager: ")
    assert address in said
    assert "in use" in said


KUBERNETES = ("--status-labels", "--status-events", "--in-place-scaling", "--zeropods")


@pytest.mark.parametrize("flag", KUBERNETES)
def test_what_talks_to_kubernetes_says_what_it_lacks(
    flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("NODE_NAME", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    assert daemon.main([flag]) == 2
    assert "NODE_NAME" in capsys.readouterr().err
    assert daemon.main([flag, "--node-name=n"]) == 2
    assert "not in a pod" in capsys.readouterr().err


def test_without_such_a_flag_none_of_it_is_imported() -> None:
    program = "import sys, zeropod.manager.daemon; print([name for name in sys.modules if 'kube' in name])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
