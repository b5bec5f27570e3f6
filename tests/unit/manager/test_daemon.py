"""What `zeropod manager` says when it cannot start, and how it passes its flags on."""

import socket
from pathlib import Path

import pytest

from zeropod import paths
from zeropod.manager import daemon
from zeropod.runtime import node_config
from zeropod.runtime.node_config import NodeConfig


@pytest.fixture(autouse=True)
def node(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "NODE_CONFIG", tmp_path / "zeropod.toml")
    monkeypatch.setattr(paths, "NODE_OVERRIDES", tmp_path / "run" / "zeropod.toml")
    monkeypatch.setattr(paths, "CONTAINERS", tmp_path / "containers")
    monkeypatch.setattr(paths, "OLD_IMAGES", tmp_path / "i")
    monkeypatch.setattr(paths, "PODS", tmp_path / "pods")


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


@pytest.mark.parametrize("flag", ["--max-checkpoint-bytes", "--min-free-bytes"])
def test_a_number_that_is_none_is_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        daemon.main([flag, "much"])
    assert ended.value.code == 2
    assert "'much' is not a number of bytes" in capsys.readouterr().err


def test_its_flags_hold_for_all_shims(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(addresses: list[tuple[str, int]]) -> None:
        assert addresses == [("0.0.0.0", 8080)]

    monkeypatch.setattr(daemon, "run", run)
    assert daemon.main(["--max-checkpoint-bytes", "1Gi"]) == 0
    assert node_config.read() == (NodeConfig(max_checkpoint_bytes=1 << 30), [])
    assert daemon.main([]) == 0
    assert node_config.read() == (NodeConfig(), [])
