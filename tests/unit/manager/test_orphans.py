"""Images that nobody owns any more."""

import logging
from pathlib import Path

import pytest

from zeropod.manager import orphans
from zeropod.runtime import images
from zeropod.shim import places


def test_containers_are_looked_for_where_shims_list_them() -> None:
    assert orphans.PODS == places.PODS


async def test_after_a_reboot_images_without_a_container_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(images, "ROOT", tmp_path / "i")
    monkeypatch.setattr(orphans, "PODS", tmp_path / "pods")
    for name in ("a", "b"):
        (tmp_path / "i" / name).mkdir(parents=True)
    (tmp_path / "pods" / "default-pod").mkdir(parents=True)
    (tmp_path / "pods" / "default-pod" / "a").touch()
    with caplog.at_level(logging.WARNING):
        await orphans.collect()
    assert [path.name for path in (tmp_path / "i").iterdir()] == ["a"]
    assert "removed the image of b" in caplog.text


async def test_what_cannot_be_looked_at_is_told_and_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "i").touch()
    monkeypatch.setattr(images, "ROOT", tmp_path / "i")
    await orphans.collect()
    assert "could not be looked for" in caplog.text
