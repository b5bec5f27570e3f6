"""What `zeropod manager` says when it cannot start."""

import socket

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
