"""The archive of an upper layer, made from one real overlay and applied to another with the same image."""

import io
import json
import os
import shutil
import socket
import stat
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from zeropod.kernel import mount, mountinfo
from zeropod.runtime.exports import layer
from zeropod.runtime.exports.errors import BadExport
from zeropod.runtime.exports.upper import records
from zeropod.runtime.exports.upper.applying import NotApplied, apply
from zeropod.runtime.exports.upper.packing import Unpackable, find, pack
from zeropod.runtime.exports.upper.records import BadArchive, Entry, Kind

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
"""cap_net_bind_service, as VFS_CAP_REVISION_2."""


@dataclass
class Container:
    """An overlay over an image."""

    directory: Path
    image: Path

    @property
    def root(self) -> Path:
        return self.directory / "root"

    @property
    def upper(self) -> Path:
        return self.directory / "upper"

    def mount(self, *options: str) -> None:
        for name in ("root", "upper", "work"):
            (self.directory / name).mkdir(parents=True)
        own = [f"lowerdir={self.image}", f"upperdir={self.upper}", f"workdir={self.directory / 'work'}"]
        mount.mount("overlay", "overlay", self.root, [*own, *options])


@dataclass
class Pair:
    source: Container
    target: Container

    def move(self) -> int:
        archive = io.BytesIO()
        pack(find(self.source.root), archive)
        archive.seek(0)
        return apply(archive, self.target.root)


def image(directory: Path) -> None:
    """What both have below."""
    for name in ("etc/passwd", "etc/ssl/cert", "usr/bin/tool", "usr/lib/a/b/c", "srv/old/deep/file", "gone/x/y"):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(f"image {name}")
    (directory / "var").symlink_to("srv")
    (directory / "usr/bin/tool").chmod(0o755)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    image(tmp_path / "image")
    made = Pair(Container(tmp_path / "source", tmp_path / "image"), Container(tmp_path / "target", tmp_path / "image"))
    made.source.mount("redirect_dir=off", "metacopy=off")
    made.target.mount("redirect_dir=off", "metacopy=off")
    yield made
    for each in reversed(mountinfo.read()):
        if each.place.startswith(f"{tmp_path}/"):
            subprocess.run(["umount", "-l", os.fsencode(each.place)], check=True)


def tree(root: Path) -> dict[bytes, tuple[object, ...]]:
    """Everything that a process sees of a file system, without inode numbers."""
    found: dict[bytes, tuple[object, ...]] = {}
    inodes: dict[int, bytes] = {}

    def look(path: bytes, name: bytes) -> None:
        status = os.lstat(path)
        content: object = None
        if stat.S_ISREG(status.st_mode):
            content = Path(os.fsdecode(path)).read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        attributes = {
            key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)
        }
        linked = b""
        if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
            linked = inodes.setdefault(status.st_ino, name)
        times = (status.st_mtime_ns,)
        found[name] = (status.st_mode, status.st_uid, status.st_gid, status.st_rdev, times, content, attributes, linked)
        if stat.S_ISDIR(status.st_mode):
            for entry in sorted(os.listdir(path)):
                look(path + b"/" + entry, name + b"/" + entry)

    look(os.fsencode(root), b"")
    return found


def test_everything_that_was_written_comes_back(pair: Pair) -> None:
    root = pair.source.root
    (root / "etc/passwd").write_text("changed")
    (root / "new").mkdir(mode=0o2751)
    (root / "new/file").write_bytes(os.urandom(3 << 20))
    os.chown(root / "new/file", 1000, 2000)
    (root / "new/file").chmod(0o4755)
    os.setxattr(root / "new/file", "security.capability", CAPABILITY)
    os.setxattr(root / "new/file", "user.mine", b"\0\xff binary")
    os.setxattr(root / "new", "trusted.ours", b"t")
    os.link(root / "new/file", root / "etc/other-name")
    os.link(root / "new/file", root / "new/third")
    os.symlink("/nowhere/\n/x", root / "new/link")
    os.lchown(root / "new/link", 7, 8)
    os.mkfifo(root / "new/fifo", 0o622)
    os.mknod(root / "new/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "new/loop", stat.S_IFBLK | 0o640, os.makedev(7, 1))
    os.utime(root / "new/fifo", ns=(11, 1_234_567_890_123_456_789))
    os.utime(root / "new", ns=(5, 1_000_000_001))
    (root / "new/empty").touch()
    os.makedirs(os.fsencode(root) + b"/odd/\xff\xfe/na\nme/ \\ ")
    Path(os.fsdecode(os.fsencode(root) + b"/odd/\xff\xfe/na\nme/\x01")).write_text("odd")
    shutil.rmtree(root / "gone")
    (root / "etc/ssl/cert").unlink()
    shutil.rmtree(root / "srv/old")
    (root / "srv/old").mkdir()
    (root / "srv/old/only").write_text("this")
    shutil.rmtree(root / "usr/lib/a")
    (root / "usr/lib/a").write_text("a file where a directory was")
    (root / "usr/bin/tool").unlink()
    (root / "usr/bin/tool").mkdir()
    (root / "var").unlink()
    (root / "var").mkdir()
    (root / "var/inside").write_text("not in srv")
    assert pair.move() > 20
    expected = tree(root)
    assert tree(pair.target.root) == expected
    assert expected[b"/new/third"][-1] == b"/etc/other-name"
    assert b"/srv/old/deep" not in expected
    assert pair.move(), "it can be applied to what it was applied to"
    assert tree(pair.target.root) == expected


def test_what_the_target_has_written_before_gives_way(pair: Pair) -> None:
    (pair.source.root / "etc/hosts").write_text("source")
    (pair.source.root / "data").mkdir()
    (pair.target.root / "etc/hosts").mkdir()
    (pair.target.root / "etc/hosts/x").write_text("target")
    (pair.target.root / "data").symlink_to("/etc")
    os.setxattr(pair.target.root / "etc", "user.stale", b"1")
    pair.move()
    assert tree(pair.target.root) == tree(pair.source.root)


def test_holes_stay_holes(pair: Pair) -> None:
    sparse = pair.source.root / "sparse"
    with sparse.open("wb") as file:
        file.truncate(64 << 30)
        for offset in (0, 5 << 30, (64 << 30) - 100):
            file.seek(offset)
            file.write(b"x" * 100)
    (pair.source.root / "hole").touch()
    os.truncate(pair.source.root / "hole", 1 << 30)
    archive = io.BytesIO()
    packed = pack(pair.source.upper, archive)
    assert packed.bytes < 1 << 20
    assert len(archive.getvalue()) < 1 << 20
    archive.seek(0)
    apply(archive, pair.target.root)
    there = (pair.target.root / "sparse").stat()
    assert there.st_size == 64 << 30
    assert there.st_blocks * 512 < 1 << 20
    with (pair.target.root / "sparse").open("rb") as file:
        file.seek(5 << 30)
        assert file.read(101) == b"x" * 100 + b"\0"
    assert (pair.target.root / "hole").stat().st_size == 1 << 30


def test_sockets_are_left_and_said(pair: Pair) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(pair.source.upper / "s.sock"))
        packed = pack(pair.source.upper, io.BytesIO())
    assert packed.skipped == ["s.sock"]


def test_deletions_and_opaque_directories_as_attributes(pair: Pair) -> None:
    """As overlayfs has them in layers without devices, and in those of users."""
    upper, prefix = pair.source.upper, "user.overlay."
    (upper / "etc").mkdir()
    os.setxattr(upper / "etc", f"{prefix}opaque", b"x")
    (upper / "etc/passwd").touch()
    os.setxattr(upper / "etc/passwd", f"{prefix}whiteout", b"y")
    (upper / "usr").mkdir()
    os.setxattr(upper / "usr", f"{prefix}opaque", b"y")
    archive = io.BytesIO()
    pack(upper, archive)
    archive.seek(0)
    apply(archive, pair.target.root)
    assert sorted(os.listdir(pair.target.root / "etc")) == ["ssl"]
    assert os.listdir(pair.target.root / "usr") == []
    assert not os.listxattr(pair.target.root / "usr")


@pytest.mark.parametrize("attribute", ["redirect", "metacopy"])
@pytest.mark.parametrize("prefix", ["trusted.overlay.", "user.overlay."])
def test_layers_that_are_not_whole_are_refused_with_the_reason(pair: Pair, attribute: str, prefix: str) -> None:
    (pair.source.upper / "moved").mkdir()
    os.setxattr(pair.source.upper / "moved", prefix + attribute, b"/etc")
    with pytest.raises(
        Unpackable, match=f"'moved' in its upper layer .*{'redirect_dir' if attribute == 'redirect' else 'metacopy'}"
    ):
        pack(pair.source.upper, io.BytesIO())


def test_a_file_that_changes_is_an_error(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    file = pair.source.root / "log"
    file.write_bytes(b"a" * (3 << 20))
    read = os.pread

    def and_change(descriptor: int, length: int, offset: int) -> bytes:
        os.pwrite(changing, b"b", 0)
        return read(descriptor, length, offset)

    changing = os.open(pair.source.upper / "log", os.O_RDWR)
    monkeypatch.setattr(os, "pread", and_change)
    with pytest.raises(Unpackable, match="'log' changes while it is read"):
        pack(pair.source.upper, io.BytesIO())
    os.close(changing)


def test_the_upper_layer_is_found_or_it_is_said_why_not(pair: Pair, tmp_path: Path) -> None:
    assert find(pair.source.root) == pair.source.upper
    with pytest.raises(Unpackable, match="nothing is mounted"):
        find(tmp_path / "image")
    mount.mount("tmpfs", "tmpfs", pair.source.root, ["size=64k"])
    with pytest.raises(Unpackable, match="tmpfs and no overlay"):
        find(pair.source.root)
    odd = Container(tmp_path / "so,ur:ce", tmp_path / "image")
    mounts = mountinfo.parse(r"1 2 0:5 / /x rw - overlay overlay rw,lowerdir=/l,upperdir=/a\054b/upper\040,workdir=/w")
    assert find(odd.root, mounts) == Path("/a,b/upper ")
    with pytest.raises(Unpackable, match="read-only"):
        find(odd.root, mountinfo.parse("1 2 0:5 / /x ro - overlay overlay ro,lowerdir=/l:/m"))


# What others may send

ROOT = Entry(Kind.DIRECTORY, b"", 0o755)


def archive_of(*entries: Entry | bytes, end: int | None = None) -> io.BytesIO:
    """Bytes are written as they are."""
    made = io.BytesIO()
    made.write(records.MAGIC)
    for entry in entries:
        if isinstance(entry, Entry):
            records.write(made, entry)
            if entry.kind is Kind.FILE:
                records.write_file_end(made)
        else:
            made.write(entry)
    count = sum(isinstance(entry, Entry) for entry in entries) if end is None else end
    records.write(made, Entry(Kind.END, b"", size=count))
    made.seek(0)
    return made


def file(path: bytes, size: int = 0) -> Entry:
    return Entry(Kind.FILE, path, 0o644, size=size)


@pytest.mark.parametrize(
    "path",
    [
        b"..",
        b"../x",
        b"etc/../../x",
        b"/etc/x",
        b"etc//x",
        b"./x",
        b"etc/",
        b"x\0y",
        b"x" * 256,
        b"/".join([b"a"] * 300),
    ],
)
@pytest.mark.parametrize("kind", [Kind.FILE, Kind.DIRECTORY, Kind.DELETED])
def test_names_that_lead_elsewhere_are_refused(pair: Pair, path: bytes, kind: Kind) -> None:
    before = tree(pair.target.directory.parent / "image")
    with pytest.raises(BadArchive):
        apply(archive_of(ROOT, Entry(kind, path, 0o644)), pair.target.root)
    assert tree(pair.target.directory.parent / "image") == before
    assert sorted(os.listdir(pair.target.directory)) == ["root", "upper", "work"]


def test_a_symbolic_link_is_never_followed(pair: Pair, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    link = Entry(Kind.SYMLINK, b"link", target=os.fsencode(outside))
    with pytest.raises(BadArchive, match="without its directory"):
        apply(archive_of(ROOT, link, file(b"link/kept")), pair.target.root)
    apply(archive_of(ROOT, link, Entry(Kind.DIRECTORY, b"link", 0o700), file(b"link/kept")), pair.target.root)
    assert stat.S_ISDIR(os.lstat(pair.target.root / "link").st_mode)
    assert (outside / "kept").read_text() == "kept"
    (pair.target.root / "there").symlink_to(outside)
    apply(archive_of(ROOT, file(b"there")), pair.target.root)
    assert os.listdir(outside) == ["kept"]
    hard = Entry(Kind.HARD_LINK, b"hard", target=b"by/kept")
    by = Entry(Kind.SYMLINK, b"by", target=os.fsencode(outside))
    with pytest.raises(NotApplied, match=r"symbolic link|Not a directory"):
        apply(archive_of(ROOT, by, hard), pair.target.root)
    for target in (b"../../outside/kept", b"/etc/passwd", b".."):
        with pytest.raises(BadArchive):
            apply(archive_of(ROOT, replace(hard, target=target)), pair.target.root)


@pytest.mark.parametrize("what", ["directory", "file"])
def test_a_mount_in_the_way_is_said_and_left(pair: Pair, tmp_path: Path, what: str) -> None:
    place = pair.target.root / ("usr/bin" if what == "directory" else "etc/passwd")
    if what == "directory":
        mount.mount("tmpfs", "tmpfs", place, ["size=64k"])
        entries = [Entry(Kind.DIRECTORY, b"usr", 0o755), Entry(Kind.DIRECTORY, b"usr/bin", 0o755), file(b"usr/bin/x")]
    else:
        (tmp_path / "mounted").write_text("mounted")
        mount.mount("", str(tmp_path / "mounted"), place, ["bind"])
        entries = [Entry(Kind.DIRECTORY, b"etc", 0o755), file(b"etc/passwd")]
    with pytest.raises(NotApplied, match="a mount is in the way"):
        apply(archive_of(ROOT, *entries), pair.target.root)
    assert os.listdir(place) == [] if what == "directory" else place.read_text() == "mounted"


def test_a_directory_with_a_mount_in_it_is_not_emptied(pair: Pair) -> None:
    mount.mount("tmpfs", "tmpfs", pair.target.root / "usr/bin", ["size=64k"])
    (pair.target.root / "usr/bin/kept").touch()
    with pytest.raises(NotApplied, match="a mount is in the way"):
        apply(archive_of(ROOT, Entry(Kind.DELETED, b"usr")), pair.target.root)
    assert (pair.target.root / "usr/bin/kept").exists()


@pytest.mark.parametrize(
    "archive",
    [
        io.BytesIO(b""),
        io.BytesIO(b"ustar   and more"),
        archive_of(end=0),
        archive_of(file(b"x")),
        archive_of(ROOT, ROOT),
        archive_of(ROOT, file(b"x"), end=1),
        archive_of(ROOT, file(b"a/x")),
        archive_of(ROOT, b"\xff\xff\xff\xff"),
        archive_of(ROOT, b"\0\0\0\2[]"),
        archive_of(ROOT, b"\0\0\0\4null"),
        archive_of(ROOT, Entry(Kind.SYMLINK, b"x", target=b"")),
        archive_of(ROOT, Entry(Kind.FIFO, b"x", target=b"y")),
        archive_of(ROOT, Entry(Kind.FIFO, b"x", mode=0o100644)),
        archive_of(ROOT, Entry(Kind.FIFO, b"x", uid=-1)),
        archive_of(ROOT, Entry(Kind.FIFO, b"x", uid=0xFFFFFFFF)),
        archive_of(ROOT, file(b"x", size=1 << 50)),
        archive_of(ROOT, Entry(Kind.DIRECTORY, b"x", attributes={b"trusted.overlay.redirect": b"/etc"})),
        archive_of(ROOT, Entry(Kind.DIRECTORY, b"x", attributes={b"user.overlay.opaque": b"y"})),
        archive_of(ROOT, Entry(Kind.DIRECTORY, b"x", attributes={b"": b"y"})),
    ],
)
def test_archives_of_another_form_are_refused(pair: Pair, archive: io.BytesIO) -> None:
    archive.seek(0)
    with pytest.raises(BadArchive):
        apply(archive, pair.target.root)


@pytest.mark.parametrize(("offset", "length"), [(90, 20), (1 << 63, 10), (0, 2 << 20)])
def test_parts_that_do_not_fit_into_their_file_are_refused(pair: Pair, offset: int, length: int) -> None:
    made = io.BytesIO()
    made.write(records.MAGIC)
    records.write(made, ROOT)
    records.write(made, file(b"x", size=100))
    records.write_part(made, offset, bytes(length))
    made.seek(0)
    with pytest.raises(BadArchive, match="does not fit"):
        apply(made, pair.target.root)


def test_an_archive_that_was_cut_anywhere_is_refused(pair: Pair) -> None:
    (pair.source.root / "a").mkdir()
    (pair.source.root / "a/file").write_bytes(b"content" * 100)
    whole = io.BytesIO()
    pack(pair.source.upper, whole)
    data = whole.getvalue()
    for length in [*range(0, len(data), 97), len(data) - 1]:
        with pytest.raises((BadArchive, NotApplied)):
            apply(io.BytesIO(data[:length]), pair.target.root)
    with pytest.raises(BadArchive, match="does not end"):
        apply(io.BytesIO(data + b"x"), pair.target.root)
    apply(io.BytesIO(data), pair.target.root)


names = some.binary(min_size=1, max_size=30).filter(
    lambda name: not set(name) & {0, 0x2F} and name not in (b".", b"..")
)
trees = some.recursive(
    some.one_of(some.binary(max_size=50), some.just(None)),
    lambda inner: some.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)


@given(content=some.dictionaries(names, trees, max_size=5))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_trees_of_any_names_come_back(pair: Pair, content: dict[bytes, object]) -> None:
    for root in (pair.source.root, pair.target.root):
        shutil.rmtree(root / "tree", ignore_errors=True)
    (pair.source.root / "tree").mkdir()
    make(os.fsencode(pair.source.root / "tree"), content)
    pair.move()
    assert tree(pair.target.root / "tree") == tree(pair.source.root / "tree")


def make(directory: bytes, content: dict[bytes, object]) -> None:
    for name, inner in content.items():
        path = directory + b"/" + name
        if isinstance(inner, dict):
            os.mkdir(path)
            make(path, inner)
        elif isinstance(inner, bytes):
            Path(os.fsdecode(path)).write_bytes(inner)
        else:
            os.symlink(b"/target of " + name, path)


@given(some.binary(max_size=300))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_noise_is_refused(tmp_path: Path, noise: bytes) -> None:
    (tmp_path / "root").mkdir(exist_ok=True)
    with pytest.raises((BadArchive, NotApplied)):
        apply(io.BytesIO(records.MAGIC + noise), tmp_path / "root")
    assert os.listdir(tmp_path) == ["root"]


def test_json_with_other_types_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    good = io.BytesIO()
    records.write(good, ROOT)
    found = json.loads(good.getvalue()[4:])
    for key in found:
        for wrong in (None, [], {}, "x", -1, 1.5, [1], ["a", "b"], {"a": 1}, True):
            if found[key] == wrong or (key in ("path", "target") and isinstance(wrong, str)) or found[key] is wrong:
                continue
            data = json.dumps({**found, key: wrong}).encode()
            with pytest.raises((BadArchive, NotApplied)):
                apply(io.BytesIO(records.MAGIC + struct.pack(">I", len(data)) + data), tmp_path / "root")


def test_as_a_file_of_an_export(pair: Pair, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_text("of an attempt before")
    (pair.source.root / "new").write_text("new")
    assert layer.pack(pair.source.root, archive).entries == 2
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    layer.apply(archive, pair.target.root)
    assert (pair.target.root / "new").read_text() == "new"
    os.truncate(archive, archive.stat().st_size - 1)
    with pytest.raises(layer.HalfApplied, match="cut short"):
        layer.apply(archive, pair.target.root)
    with pytest.raises(BadExport, match="nothing is mounted"):
        layer.pack(tmp_path / "image", archive)
    assert not archive.exists()
