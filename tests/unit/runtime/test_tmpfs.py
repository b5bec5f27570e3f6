"""Which tmpfs mounts of a container are kept; the mounting itself is tested on the node."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from zeropod.kernel import detached_mount, mountinfo
from zeropod.runtime.tmpfs import KeptMounts, Mount, whole

MOUNTINFO = """\
289 288 0:41 / / rw,relatime - overlay overlay rw,lowerdir=/a
291 289 0:49 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
292 289 0:171 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
293 292 0:172 / /dev/pts rw,nosuid,noexec,relatime - devpts devpts rw,gid=5
294 292 0:173 / /dev/shm rw,nosuid,nodev,noexec,relatime master:7 - tmpfs shm rw,size=65536k
297 289 0:174 / /cache rw - tmpfs tmpfs rw
298 289 0:175 / /cache rw - ext4 /dev/vda rw
119 291 0:109 / /proc/acpi ro,relatime - tmpfs tmpfs ro,size=4k,nr_inodes=1
120 291 0:171 /null /proc/keys rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
122 296 0:109 / /sys/firmware ro,relatime - tmpfs tmpfs ro,size=4k,nr_inodes=1
123 289 0:180 / /with\\040blank rw - tmpfs tmpfs rw
124 289 0:181 / /größe rw - tmpfs tmpfs rw
125 289 0:182 / /with\\134backslash rw - tmpfs tmpfs rw
"""


def test_whole_tmpfs_mounts_are_found_and_neither_parts_of_them_nor_what_is_hidden() -> None:
    assert whole(mountinfo.parse(MOUNTINFO)) == [
        Mount(292, "0:171", "/dev"),
        Mount(294, "0:173", "/dev/shm"),
        Mount(119, "0:109", "/proc/acpi"),
        Mount(122, "0:109", "/sys/firmware"),
    ]


def test_a_copy_that_could_not_be_taken_back_is_taken_back_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: Iterator[OSError | int] = iter([OSError(errno.EMFILE, "too many"), os.open("/dev/null", os.O_RDONLY)])

    def copy(place: Path) -> int:
        assert place == tmp_path / "0"
        if isinstance(found := next(copies), OSError):
            raise found
        return found

    monkeypatch.setattr(detached_mount, "copy", copy)
    monkeypatch.setattr(detached_mount, "detach", lambda place: None)
    mount, kept = Mount(292, "0:171", "/dev"), KeptMounts(tmp_path)
    (tmp_path / "0").mkdir()
    kept._copies, kept._placed = {mount: os.open("/dev/null", os.O_RDONLY)}, {mount: tmp_path / "0"}
    with pytest.raises(OSError, match="too many"):
        kept.has_failed()
    kept.has_failed()
    assert not tmp_path.exists()
    kept.close()
