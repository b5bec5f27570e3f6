import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.kernel import mappings
from zeropod.rpc.messages.ipcns_pb2 import IpcDesc, IpcShm
from zeropod.runtime import ipcns
from zeropod.runtime.errors import CriuError

MAGIC = b"\x16\x43\x56\x54\x01\x02\x03\x04"

TABLE = """\
       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid  atime  dtime  ctime
   1514504          0   600                    56    17    27      6   100   100   100   100     10     20     10
         0          5   600               1048576    17    27      0   100   100   100   100     10     20     10
"""

MAPS = """\
7f0a9c000000-7f0a9c001000 rw-s 00000000 00:01 0                          /SYSV00171c08 (deleted)
7f0a9c001000-7f0a9c101000 rw-s 00000000 00:01 32769                      /SYSV00000000 (deleted)
7f0a9c200000-7f0a9c201000 r--p 00000000 08:01 4711                       /srv/SYSV and more
7f0a9c300000-7f0a9c301000 rw-p 00000000 00:00 0
"""


def image(*ids: int, in_pagemaps: bool = True) -> bytes:
    segments = [IpcShm(desc=IpcDesc(id=each), in_pagemaps=in_pagemaps).SerializeToString() for each in ids]
    return MAGIC + b"".join(struct.pack("<I", len(segment)) + segment for segment in segments)


def test_what_is_attached_is_read_from_the_kernels_tables() -> None:
    assert ipcns.attachments(TABLE) == {0: 6, 5: 0}
    assert ipcns.mapped(mappings.parse(MAPS)) == [0, 32769]
    assert ipcns.attachments("  key shmid\n") == {}


def test_only_what_the_container_had_attached_stays_in_its_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleared: list[Path] = []
    monkeypatch.setattr(ipcns, "clear", lambda images, namespace: cleared.append(images))
    for kind in ("shm", "sem", "msg"):
        (tmp_path / f"ipcns-{kind}-11.img").write_bytes(image(1, 2, 3))
    ipcns.separate(tmp_path, "/proc/1/ns/ipc", {2, 7})
    assert (tmp_path / "ipcns-shm-11.img").read_bytes() == image(2)
    assert (tmp_path / "ipcns-sem-11.img").read_bytes() == MAGIC
    assert (tmp_path / "ipcns-msg-11.img").read_bytes() == MAGIC
    assert cleared == [tmp_path]


def test_a_segment_is_known_by_its_id_as_criu_writes_it() -> None:
    # Key, uid, gid, cuid, cgid, mode and id; the size; and that the contents are elsewhere.
    description = bytes([0x08, 1, 0x10, 2, 0x18, 3, 0x20, 4, 0x28, 5, 0x30, 6, 0x38, 7])
    record = bytes([0x0A, len(description), *description, 0x10, 56, 0x18, 1])
    image = MAGIC + struct.pack("<I", len(record)) + record
    assert [segment.id for segment in ipcns.records(image)] == [7]


@pytest.mark.parametrize("strange", [image(1, in_pagemaps=False), image(1) + b"\xff", image(1)[:-1]])
def test_an_image_that_is_not_understood_is_an_error(strange: bytes) -> None:
    with pytest.raises(CriuError, match="cannot be read"):
        ipcns.records(strange)


@given(st.binary())
def test_any_image_is_read_or_refused(data: bytes) -> None:
    with suppress(CriuError):
        ipcns.records(data)
