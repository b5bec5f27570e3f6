"""Images that nobody owns any more."""

import logging
from pathlib import Path

import pytest

from zeropod import paths
from zeropod.manager import orphans


@pytest.fixture(autouse=True)
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "CONTAINERS", tmp_path / "containers")
    monkeypatch.setattr(paths, "OLD_IMAGES", tmp_path / "i")
    monkeypatch.setattr(paths, "PODS", tmp_path / "pods")


async def test_after_a_reboot_images_without_a_container_go(caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b"):
        paths.container("default", name).mkdir(parents=True)
    paths.container("moby", "a").mkdir(parents=True)
    paths.pod("default", "pod").mkdir(parents=True)
    (paths.pod("default", "pod") / "a").touch()
    with caplog.at_level(logging.WARNING):
        await orphans.collect()
    assert list(paths.CONTAINERS.glob("*/*")) == [paths.container("default", "a")]
    assert "removed the image of default/b" in caplog.text
    assert "removed the image of moby/a" in caplog.text


async def test_what_a_shim_of_an_older_version_lists_is_no_orphan(caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b"):
        (paths.OLD_IMAGES / name).mkdir(parents=True)
    (paths.PODS / "default-pod").mkdir(parents=True)
    (paths.PODS / "default-pod" / "a").touch()
    with caplog.at_level(logging.WARNING):
        await orphans.collect()
    assert [path.name for path in paths.OLD_IMAGES.iterdir()] == ["a"]
    assert "removed the image of b" in caplog.text


async def test_what_cannot_be_looked_at_is_told_and_no_end(caplog: pytest.LogCaptureFixture) -> None:
    paths.CONTAINERS.touch()
    await orphans.collect()
    assert "could not be looked for" in caplog.text
