"""Images that nothing owns any more, the node's limits, and who may talk to shims."""

import os
import stat
from pathlib import Path

import pytest

from zeropod import paths
from zeropod.manager import image_gc
from zeropod.runtime import node_config
from zeropod.runtime.node_config import NodeConfig


@pytest.fixture(autouse=True)
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "NODE_CONFIG", tmp_path / "zeropod.toml")
    monkeypatch.setattr(paths, "NODE_OVERRIDES", tmp_path / "run" / "zeropod.toml")
    monkeypatch.setattr(paths, "CONTAINERS", tmp_path / "containers")
    monkeypatch.setattr(paths, "OLD_IMAGES", tmp_path / "i")
    monkeypatch.setattr(paths, "PODS", tmp_path / "pods")
    monkeypatch.setattr(paths, "STATUS_SOCKETS", str(tmp_path / "run" / "s"))
    monkeypatch.setattr(paths, "MANAGER_SOCKETS", str(tmp_path / "run" / "n"))
    return tmp_path


def test_after_a_reboot_images_without_a_container_go(caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b"):
        paths.container("default", name).mkdir(parents=True)
    paths.container("moby", "a").mkdir(parents=True)
    paths.pod("default", "pod").mkdir(parents=True)
    (paths.pod("default", "pod") / "a").touch()
    assert image_gc.main([]) == 0
    assert list(paths.CONTAINERS.glob("*/*")) == [paths.container("default", "a")]
    assert "removed the image of default/b" in caplog.text
    assert "removed the image of moby/a" in caplog.text


def test_what_a_shim_of_an_older_version_lists_is_no_orphan(caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b"):
        (paths.OLD_IMAGES / name).mkdir(parents=True)
    (paths.PODS / "default-pod").mkdir(parents=True)
    (paths.PODS / "default-pod" / "a").touch()
    assert image_gc.main([]) == 0
    assert [path.name for path in paths.OLD_IMAGES.iterdir()] == ["a"]
    assert "removed the image of b" in caplog.text


def test_what_cannot_be_looked_at_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    paths.CONTAINERS.touch()
    assert image_gc.main([]) == 1
    assert f"zeropod image-gc: {paths.CONTAINERS}: Not a directory" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--max-checkpoint-bytes", "--min-free-bytes"])
def test_a_number_that_is_none_is_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        image_gc.main([flag, "much"])
    assert ended.value.code == 2
    assert "'much' is not a number of bytes" in capsys.readouterr().err


def test_its_flags_hold_for_all_shims() -> None:
    assert image_gc.main(["--max-checkpoint-bytes", "1Gi"]) == 0
    assert node_config.read() == (NodeConfig(max_checkpoint_bytes=1 << 30), [])
    assert image_gc.main([]) == 0
    assert node_config.read() == (NodeConfig(), [])


@pytest.mark.skipif(os.geteuid() != 0, reason="gives away a group")
def test_the_managers_group_gets_at_the_sockets_and_at_nothing_beside_them(node: Path) -> None:
    (node / "run" / "s").mkdir(parents=True)  # as a kubelet makes them, which mounts them first
    assert image_gc.main([]) == 0
    expected = (("", 0o700, 0), ("s", 0o750, paths.MANAGER_GROUP), ("n", 0o770, paths.MANAGER_GROUP))
    for name, mode, group in expected:
        place = node / "run" / name
        status = place.stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (mode, 0, group)
