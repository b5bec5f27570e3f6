"""Everything below a directory is unmounted, whatever its name is and whichever way leads there."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from zeropod.kernel import mount, mountinfo

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts")


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A directory below which nothing is left mounted."""
    yield tmp_path
    for each in reversed(mountinfo.read()):
        if each.place.startswith(f"{tmp_path}/"):
            subprocess.run(["umount", "-l", os.fsencode(each.place)], check=False)


def tmpfs(place: Path) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    mount.mount("tmpfs", "tmpfs", place, ["size=64k"])
    return place


def mounted(directory: Path) -> list[str]:
    return [each.place for each in mountinfo.read() if each.place.startswith(f"{directory}/")]


@pytest.mark.parametrize(
    "name",
    ["größe", "with blank", "back\\slash", "tab\there", "new\nline", "no\u00a0break", "lines\u2028\x85", "\udcff"],
)
def test_a_mount_of_any_name_is_unmounted(directory: Path, name: str) -> None:
    tmpfs(directory / "rootfs" / name)
    mount.unmount_below(directory / "rootfs")
    assert mounted(directory) == []


def test_what_is_mounted_below_a_symbolic_link_is_unmounted(directory: Path) -> None:
    (directory / "real").mkdir()
    (directory / "link").symlink_to("real")
    tmpfs(tmpfs(directory / "real" / "rootfs") / "inside")
    mount.unmount_below(directory / "link" / "rootfs")
    assert mounted(directory) == []


def test_a_directory_that_is_a_link_itself_leaves_what_it_leads_to(directory: Path) -> None:
    kept = tmpfs(directory / "elsewhere")
    (directory / "rootfs").symlink_to(kept)
    mount.unmount_below(directory / "rootfs")
    assert mounted(directory) == [str(kept)]


def test_what_only_begins_like_it_stays_mounted(directory: Path) -> None:
    kept = tmpfs(directory / "rootfs-of-another")
    (directory / "rootfs").mkdir()
    mount.unmount_below(directory / "rootfs")
    assert mounted(directory) == [str(kept)]


def test_where_nothing_is_there_is_nothing_to_do(directory: Path) -> None:
    mount.unmount_below(directory / "missing" / "rootfs")
