"""Open files of another process: told without a question to a file system that may not answer."""

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.kernel import libc, mountinfo, open_files, sockets

PATIENCE = 10.0


@pytest.fixture
def owned() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def opened(owned: ExitStack, path: Path | str, flags: int) -> int:
    descriptor = os.open(path, flags)
    owned.callback(os.close, descriptor)
    return descriptor


def test_the_table_lists_what_is_open(owned: ExitStack, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    file = opened(owned, tmp_path / "file", os.O_RDONLY)
    sock = owned.enter_context(socket.socket())
    with open_files.table(os.getpid()) as table:
        links = dict(table)
    assert links[file] == str(tmp_path / "file")
    assert open_files.inode_in(links[sock.fileno()], "socket") == os.fstat(sock.fileno()).st_ino
    assert (sock.fileno(), os.fstat(sock.fileno()).st_ino) in sockets.sockets_of(os.getpid())


def test_a_process_that_is_gone_has_no_table() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(open_files.GONE), open_files.table(gone.pid):
        pass
    assert list(sockets.sockets_of(gone.pid)) == []


def test_an_identity_is_what_stat_says(owned: ExitStack, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", "/dev/null", "/"):
        descriptor = opened(owned, path, os.O_RDONLY | os.O_NONBLOCK)
        found = os.fstat(descriptor)
        with open_files.table(os.getpid()) as table:
            identity = table.identity(descriptor)
        assert identity
        assert stat.S_IFMT(identity.mode) == stat.S_IFMT(found.st_mode)
        assert identity.inode == found.st_ino
        assert identity.device == (os.major(found.st_dev), os.minor(found.st_dev))
        assert identity.special == (os.major(found.st_rdev), os.minor(found.st_rdev))


def test_the_access_of_a_descriptor_is_told(owned: ExitStack, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with open_files.table(os.getpid()) as table:
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
            assert table.access(opened(owned, tmp_path / "file", flags)) == flags


def test_a_descriptor_that_is_closed_is_nothing(owned: ExitStack) -> None:
    descriptor = os.open("/dev/null", os.O_RDONLY)
    with open_files.table(os.getpid()) as table:
        os.close(descriptor)
        assert table.identity(descriptor) is None
        assert table.access(descriptor) == -1
    assert open_files.fdinfo(os.getpid(), descriptor) == {}


def test_a_file_system_that_does_not_answer_is_not_waited_for(owned: ExitStack, tmp_path: Path) -> None:
    server = opened(owned, "/dev/fuse", os.O_RDWR)
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0"
    try:
        libc.call("mount", "nothing", str(tmp_path), "fuse", 0, options)
    except OSError:
        pytest.skip("FUSE cannot be mounted here")
    owned.callback(libc.call, "umount2", str(tmp_path), 2)  # MNT_DETACH; the close of the server ends what waits
    directory = opened(owned, tmp_path, os.O_PATH)
    code = f"""
from zeropod.kernel import open_files
with open_files.table({os.getpid()}) as table:
    print(table.identity({directory}).mode)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert stat.S_ISDIR(int(said.stdout))


def test_what_lies_unread_is_counted(owned: ExitStack) -> None:
    one, other = map(owned.enter_context, socket.socketpair())
    assert open_files.unread(one.fileno()) == 0
    other.send(b"hello")
    assert open_files.unread(one.fileno()) == 5
    assert open_files.unread(opened(owned, "/dev/null", os.O_RDONLY)) == 0


def test_fdinfo_is_read(owned: ExitStack) -> None:
    descriptor = opened(owned, "/dev/null", os.O_RDONLY)
    assert open_files.fdinfo(os.getpid(), descriptor)["pos"] == "0"


@pytest.mark.parametrize(
    ("link", "inode"),
    [("socket:[17]", 17), ("socket:[]", None), ("socket:[x]", None), ("socket:17", None), ("pipe:[17]", None)],
)
def test_an_inode_is_read_from_a_link(link: str, inode: int | None) -> None:
    assert open_files.inode_in(link, "socket") == inode


@given(st.text())
def test_any_link_is_read(link: str) -> None:
    open_files.inode_in(link, "socket")
    open_files.inode_in(f"socket:[{link}]", "socket")


def test_devices_of_a_file_system_are_found() -> None:
    text = """\
25 30 0:23 / /sys rw,nosuid - sysfs sysfs rw
31 30 0:28 / /dev/mqueue rw,relatime shared:5 - mqueue mqueue rw
32 30 0:29 / /other/mqueue\\040two rw master:1 shared:6 - mqueue none rw
"""
    assert open_files.devices(mountinfo.parse(text), "mqueue") == {(0, 28), (0, 29)}
    assert open_files.devices([], "mqueue") == set()
