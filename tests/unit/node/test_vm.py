"""The parts of the test node's machine that need no machine: frames, archives, QEMU's command line."""

import io
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.node.cache import NodeError
from tests.node.vm import checkout
from tests.node.vm.frames import HEADER, LONGEST, Decoder, Frame, Kind
from tests.node.vm.initrd import Entry, newc
from tests.node.vm.qemu import KVM, TCG, Parts, command

FRAMES = st.lists(st.builds(Frame, st.sampled_from(Kind), st.binary(max_size=50)), max_size=8)


@given(FRAMES, st.integers(1, 20))
def test_frames_cut_anywhere_decode_the_same(frames: list[Frame], size: int) -> None:
    stream, decoder = b"".join(map(bytes, frames)), Decoder()
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    assert [frame for piece in pieces for frame in decoder.feed(piece)] == frames


def test_what_cannot_be_a_frame_is_refused_before_it_is_waited_for() -> None:
    with pytest.raises(ValueError, match="bytes came through"):
        Decoder().feed(HEADER.pack(Kind.OUTPUT, LONGEST + 1))


def members(archive: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Name, mode and data of each member of a newc archive, as the kernel reads it."""
    at = 0
    while at < len(archive):
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * number : at + 14 + 8 * number], 16) for number in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        at += -(-(110 + name_size) // 4) * 4
        yield name, mode, archive[at : at + size]
        at += -(-size // 4) * 4


@given(st.lists(st.tuples(st.text("abc/", min_size=1, max_size=9), st.binary(max_size=9)), max_size=5))
def test_the_kernel_reads_the_archive(files: list[tuple[str, bytes]]) -> None:
    mode = stat.S_IFREG | 0o755
    archive = newc(Entry(name, mode, data) for name, data in files)
    assert list(members(archive)) == [*((name, mode, data) for name, data in files), ("TRAILER!!!", 0, b"")]


def made(tmp_path: Path, *names: str) -> Path:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def test_the_disk_has_the_checkout_without_what_is_the_hosts(tmp_path: Path) -> None:
    names = ("src/a.py", "build/zeropod.pyz", "build/node/large", "build/venv/bin/x", ".git/HEAD", "src/__pycache__/a")
    source, more = made(tmp_path / "checkout", *names), made(tmp_path / "more", "lib/x")
    image = tmp_path / "image"
    checkout.disk(image, source, {"var/lib/zeropod": more})
    assert image.stat().st_size == checkout.SIZE
    with tarfile.open(fileobj=io.BytesIO(image.read_bytes()[: 1 << 20])) as archive:
        files = {info.name for info in archive if info.isfile()}
    assert files == {"src/src/a.py", "src/build/zeropod.pyz", "var/lib/zeropod/lib/x"}


def test_a_checkout_too_large_for_the_disk_says_what_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkout, "SIZE", 1 << 14)
    source = made(tmp_path / "checkout", "build/small")
    (source / "build/large").write_bytes(bytes(1 << 16))
    with pytest.raises(NodeError, match="build/large needed"):
        checkout.disk(tmp_path / "image", source, {})


def parts(**more: object) -> Parts:
    return Parts(Path("/k"), Path("/i"), Path("/with,comma/disk"), Path("/checkout"), **more)  # type: ignore[arg-type]


def test_a_run_writes_to_a_layer_of_its_own_and_a_kept_machine_to_its_disk() -> None:
    run, kept = (" ".join(command(parts(keep=keep), TCG, Path("/c"), 3, 4)) for keep in (False, True))
    assert "file=/with,,comma/disk,format=raw" in run
    assert ("snapshot=on" in run, "snapshot=on" in kept) == (True, False)


def test_a_machine_goes_on_from_a_memory_only_when_there_is_one() -> None:
    assert "-incoming" not in command(parts(), KVM, Path("/c"), 3, 4)
    line = command(parts(memory=Path("/a b/memory")), KVM, Path("/c"), 3, 4)
    assert line[line.index("-incoming") + 1] == "exec:cat '/a b/memory'"


def test_a_machine_has_no_network() -> None:
    line = command(parts(), TCG, Path("/c"), 3, 4)
    assert line[line.index("-nic") + 1] == "none"
