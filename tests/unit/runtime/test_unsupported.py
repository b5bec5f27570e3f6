import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.kernel import kcmp, mappings, proc_stat, sock_diag, socket_options, task_attributes
from zeropod.kernel.mountinfo import Mount
from zeropod.kernel.socket_options import Group
from zeropod.runtime import ipcns
from zeropod.runtime.image import parsers as parse
from zeropod.runtime.image import reading, reapplied, unsupported
from zeropod.runtime.image.obstacle import Kind, Obstacle, merged
from zeropod.runtime.image.snapshot import (
    Bind,
    Descriptor,
    Facts,
    Lock,
    Process,
    Snapshot,
    Socket,
    SpecMount,
    Stranger,
    Thread,
    UnixEnd,
)

FACTS = Facts(pid_namespace="/proc/1/ns/pid")
"""A child of the test is in the test's own pid namespace, as in a pod that shares one."""
REGULAR, DIRECTORY, FIFO, CHARACTER, BLOCK = 0o100644, 0o040755, 0o010644, 0o020666, 0o060660

PRELUDE = """
import ctypes, fcntl, mmap, os, signal, socket, struct, subprocess, sys, tempfile, threading, time
libc = ctypes.CDLL(None, use_errno=True)
os.chdir(sys.argv[1])
def ready():
    print("ready", flush=True)
    time.sleep(60)
"""


@contextmanager
def running(code: str, directory: Path) -> Iterator[int]:
    """A child that runs this, and its pid once it has called `ready`."""
    child = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code + "\nready()", str(directory)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        process_group=0,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        yield child.pid
    finally:
        os.killpg(child.pid, signal.SIGKILL)  # with what it has forked
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def kinds(obstacles: list[Obstacle]) -> set[str]:
    return {obstacle.kind for obstacle in obstacles}


def judged(*processes: Process, **parts: Any) -> set[str]:
    return kinds(unsupported.judge(replace(Snapshot(processes=processes or (Process(7),)), **parts)))


def with_files(*files: Descriptor, **parts: Any) -> set[str]:
    return judged(Process(7, "app", started=100.0, descriptors=files), **parts)


# Parsers


def test_locks_are_read_with_those_that_wait() -> None:
    text = (
        "1: FLOCK  ADVISORY  WRITE 12 fe:00:345 0 EOF\n"
        "1: -> FLOCK  ADVISORY  WRITE 99 fe:00:345 0 EOF\n"
        "2: OFDLCK ADVISORY  READ -1 00:2a:7 5 14\n"
        "3: garbage\n"
    )
    found = parse.locks(text)
    assert [(lock.pid, lock.device, lock.inode, lock.waits, lock.kind) for lock in found] == [
        (12, "fe:00", 345, False, "FLOCK"),
        (99, "fe:00", 345, True, "FLOCK"),
        (-1, "00:2a", 7, False, "OFDLCK"),
    ]
    assert found[0].text == found[1].text.replace("99", "12")


def test_maps_give_each_file_once_and_segments_as_often_as_they_are_mapped() -> None:
    text = (
        "7f51ecf97000-7f51ed0fb000 r-xp 00028000 fe:00 12 /usr/lib/libc.so.6\n"
        "7f51ed0fb000-7f51ed0fc000 r--p 00028000 fe:00 12 /usr/lib/libc.so.6\n"
        "7f51ed1fb000-7f51ed1fc000 rw-s 00000000 00:01 5 /SYSV00005a45 (deleted)\n"
        "7f51ed2fb000-7f51ed2fc000 rw-s 00000000 00:01 5 /SYSV00005a45 (deleted)\n"
        "7f51ed3fb000-7f51ed3fc000 rw-s 00000000 00:0f 9 anon_inode:[io_uring]\n"
        "7ffd1000-7ffd2000 rw-p 00000000 00:00 0 [stack]\n"
    )
    areas = list(mappings.parse(text))
    assert [each.name for each in parse.files(areas)] == [
        "/usr/lib/libc.so.6",
        "/SYSV00005a45 (deleted)",
        "anon_inode:[io_uring]",
    ]
    assert ipcns.mapped(areas) == [5, 5]


def test_fdinfo_of_inotify_and_epoll_is_read() -> None:
    info = "pos:\t0\ninotify wd:1 ino:71c sdev:fe00000 mask:80000100 ignored_mask:0 fhandle-bytes:8\ninotify wd:2\n"
    assert parse.watches(info) == [parse.Watch(0x71C, 0xFE00000, 0x80000100)]
    info = "pos:\t0\ntfd:        5 events:       19 data:        5  pos:0 ino:1f sdev:8\ntfd: nothing\n"
    assert parse.polled(info) == [(5, 0x1F)]
    assert parse.value("flags:\t02\nclockid: 9\n", "clockid") == "9"


def test_what_the_kubelet_replaces_is_known_by_its_path() -> None:
    assert parse.is_refreshed("/etc/config/..2026_11_30_07_00_00.123/key")
    assert not parse.is_refreshed("/srv/..hidden/key")


@given(st.text())
def test_no_text_breaks_a_parser(text: str) -> None:
    for parser in (parse.locks, parse.watches, parse.polled, proc_stat.fields):
        parser(text)
    parse.value(text, "pos")
    socket_options.groups(text, text)


@given(st.lists(st.from_regex(r"(inotify|tfd:|lock:)?[ \tA-Za-z0-9:/.()-]{0,60}", fullmatch=True)))
def test_no_line_breaks_a_parser(lines: list[str]) -> None:
    text = "\n".join(lines)
    for parser in (parse.locks, parse.watches, parse.polled):
        parser(text)
    with_files(Descriptor(4, "anon_inode:inotify", info=text), Descriptor(5, "/f", mode=REGULAR, info=text))


@given(st.binary(max_size=80))
def test_a_message_of_unix_diag_is_parsed_or_refused(body: bytes) -> None:
    try:
        sock_diag.parse_unix(body)
    except ValueError:
        return
    assert body[0] == socket.AF_UNIX


def test_groups_that_every_interface_is_in_do_not_count() -> None:
    igmp = (
        "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n"
        "1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n"
        "2\teth0      :     2      V3\n\t\t\t\t030201EF     1 0:00000000\t\t0\n"
    )
    igmp6 = (
        "1    lo              ff020000000000000000000000000001     1 0000000C 0\n"
        "2    eth0            ff0200000000000000000001ff123456     1 00000004 0\n"
        "2    eth0            ff020000000000000000000000001234     1 00000004 0\n"
    )
    assert socket_options.groups(igmp, igmp6) == [Group(2, "239.1.2.3"), Group(2, "ff02::1234")]


# Rules


def test_nothing_stands_against_an_ordinary_process() -> None:
    files = (
        Descriptor(0, "/dev/null", mode=CHARACTER, special=os.makedev(1, 3)),
        Descriptor(1, "pipe:[5]", inode=5, mode=FIFO, flags=1),
        Descriptor(3, "anon_inode:[eventpoll]", info="tfd: 4 events: 19 data: 4 pos:0 ino:9 sdev:8"),
        Descriptor(4, "socket:[9]", inode=9),
        Descriptor(5, "anon_inode:[eventfd]", info="eventfd-semaphore: 0"),
        Descriptor(6, "anon_inode:[timerfd]", info="clockid: 1"),
        Descriptor(7, "anon_inode:[signalfd]"),
        Descriptor(8, "anon_inode:[pidfd]"),
        Descriptor(9, "/memfd:x (deleted)", mode=REGULAR, links=0, blocks=99999),
        Descriptor(10, "/var/log/app.log", mode=REGULAR),
        Descriptor(11, "/tmp/gone (deleted)", mode=REGULAR, links=0, blocks=8),
    )
    assert with_files(*files) == set()


@pytest.mark.parametrize(
    ("link", "info", "kind"),
    [
        ("anon_inode:[io_uring]", "", Kind.IO_URING),
        ("anon_inode:[userfaultfd]", "", Kind.USERFAULTFD),
        ("anon_inode:bpf-map", "", Kind.BPF),
        ("anon_inode:[perf_event]", "", Kind.PERF),
        ("anon_inode:kvm-vm", "", Kind.ANONYMOUS_FILE),
        ("anon_inode:seccomp notify", "", Kind.SECCOMP_NOTIFY),
        ("anon_inode:[landlock-ruleset]", "", Kind.LANDLOCK),
        ("anon_inode:[eventfd]", "eventfd-semaphore: 1", Kind.SEMAPHORE),
        ("anon_inode:[timerfd]", "clockid: 9", Kind.ALARM_TIMER),
        ("/dmabuf:", "", Kind.ANONYMOUS_FILE),
        ("/secretmem (deleted)", "", Kind.MEMFD_SPECIAL),
        ("net:[123]", "", Kind.NAMESPACE_FILE),
        ("anon_inode:[eventpoll]", "tfd: 4 events: 19 data: 4 pos:0 ino:77 sdev:8", Kind.EPOLL_FOREIGN),
    ],
)
def test_files_without_an_image(link: str, info: str, kind: Kind) -> None:
    assert with_files(Descriptor(4, link, info=info)) == {kind.code}


@pytest.mark.parametrize(
    ("number", "kinds"),
    [((10, 229), {"device"}), ((1, 3), set()), ((10, 200), set()), ((5, 2), set()), ((136, 0), {"terminal"})],
)
def test_devices(number: tuple[int, int], kinds: set[str]) -> None:
    assert with_files(Descriptor(4, "/dev/x", mode=CHARACTER, special=os.makedev(*number))) == kinds


def test_a_terminal_is_its_own_if_it_has_the_master() -> None:
    master = Descriptor(4, "/dev/ptmx", mode=CHARACTER, special=os.makedev(5, 2), info="tty-index:\t3\n")
    slave = Descriptor(5, "/dev/pts/3", mode=CHARACTER, special=os.makedev(136, 3))
    assert with_files(master, slave) == set()
    assert with_files(slave) == {"terminal"}


def test_an_interface_behind_a_tun_device_would_not_be_there() -> None:
    tun = Descriptor(4, "/dev/net/tun", mode=CHARACTER, special=os.makedev(10, 200), info="iff:\ttun0\n")
    assert with_files(tun) == {"tun"}


def test_block_devices() -> None:
    assert with_files(Descriptor(4, "/dev/vda", mode=BLOCK, special=os.makedev(8, 0))) == {"device"}


def test_deleted_files_are_kept_up_to_a_limit_and_only_without_other_names() -> None:
    gone = Descriptor(4, "/tmp/f (deleted)", mode=REGULAR, links=0, blocks=2048)
    assert with_files(gone) == set()
    assert with_files(replace(gone, blocks=2056)) == {"deleted-large"}
    assert with_files(replace(gone, links=1)) == {"deleted-linked"}
    assert with_files(replace(gone, mode=DIRECTORY, links=1)) == set()


def test_what_its_name_does_not_lead_to_is_unreachable() -> None:
    assert with_files(Descriptor(4, "/data/f", mode=REGULAR, named=False)) == {"unreachable"}
    assert with_files(Descriptor(4, "(unreachable)/f", mode=REGULAR, named=False)) == {"unreachable"}


OVERLAY = Mount(1, "0:42", "/", "/", "overlay")
HOST = Bind("/vol", Mount(2, "254:0", "/srv/data", "/vol", "ext4"))
POD = Bind("/vol", Mount(2, "254:0", "/var/lib/kubelet/pods/1/volumes/kubernetes.io~empty-dir/v", "/vol", "ext4"))


def volume(bind: Bind) -> dict[str, Any]:
    mount = SpecMount("/vol", "bind", "/srv/data")
    return {"mounts": [OVERLAY, bind.mount], "binds": [bind], "facts": Facts(mounts=(mount,))}


@pytest.mark.parametrize(
    ("bind", "shared"),
    [
        (HOST, True),
        (POD, False),
        (replace(POD, elsewhere=True), True),
        (replace(POD, refreshed=True), True),
        (replace(POD, mount=replace(POD.mount, kind="nfs4")), True),
        (replace(HOST, mount=replace(HOST.mount, root="/")), False),
        (replace(HOST, mount=replace(HOST.mount, root="/opt/provisioner/pvc-12_ns_name")), False),
    ],
)
def test_locks_and_watches_and_fifos_matter_where_others_reach(bind: Bind, shared: bool) -> None:
    text = "1: FLOCK  ADVISORY  WRITE 7 fe:00:345 0 EOF"
    lock = Descriptor(4, "/vol/lock", mode=REGULAR, flags=2, info=f"flags:\t02\nlock:\t{text}\n")
    watch = Descriptor(5, "anon_inode:inotify", info=f"inotify wd:1 ino:1 sdev:{254 << 20:x} mask:100")
    fifo = Descriptor(6, "/vol/fifo", mode=FIFO)
    expected = {"lock-shared", "watch-shared", "fifo-outside"} if shared else set()
    assert with_files(lock, watch, fifo, locks=parse.locks(text), **volume(bind)) == expected


def test_a_lock_on_its_own_files_is_its_own() -> None:
    text = "1: POSIX  ADVISORY  WRITE 7 00:2a:345 0 EOF"
    lock = Descriptor(4, "/tmp/lock", mode=REGULAR, info=f"flags:\t02\nlock:\t{text}\n")
    waits = Lock(7, "00:2a", 345, True, "POSIX", "POSIX ADVISORY WRITE 7 00:2a:345 0 0")
    assert with_files(lock, locks=[*parse.locks(text), waits], mounts=[OVERLAY]) == set()
    assert with_files(lock, locks=[*parse.locks(text), replace(waits, pid=99)], mounts=[OVERLAY]) == {"lock-waited"}


def test_events_and_flags_of_watches() -> None:
    assert with_files(Descriptor(5, "anon_inode:inotify", readable=True)) == {"events-pending"}
    assert with_files(Descriptor(5, "anon_inode:[fanotify]", readable=True)) == {"events-pending"}
    once = Descriptor(5, "anon_inode:inotify", info="inotify wd:1 ino:1 sdev:2a mask:80000100")
    assert with_files(once) == {"watch-flags"}
    removed = Descriptor(6, "/tmp/f (deleted)", inode=1, mode=REGULAR, links=0)
    watch = replace(once, info="inotify wd:1 ino:1 sdev:2a mask:100")
    assert with_files(watch, removed) == {"watch-removed"}


def test_files_of_volumes_that_change_by_themselves() -> None:
    key = Descriptor(4, "/vol/..2026_11_30_07_00_00.1/key", mode=REGULAR)
    assert with_files(key, **volume(POD)) == {"volatile-file"}
    log = Descriptor(4, "/vol/log", mode=REGULAR, modified=200.0, inode=5)
    assert with_files(log, **volume(HOST)) == {"growing-file"}
    assert with_files(replace(log, modified=50.0), **volume(HOST)) == set()
    assert with_files(log, replace(log, number=5, flags=os.O_WRONLY), **volume(HOST)) == set()
    assert with_files(replace(log, link="/tmp/log"), **volume(HOST)) == set()


def test_pipes_with_an_end_outside() -> None:
    pipe = Descriptor(4, "pipe:[5]", inode=5, mode=FIFO)
    assert with_files(pipe) == {"pipe-outside"}
    assert with_files(replace(pipe, alone=True)) == set()
    assert with_files(pipe, replace(pipe, number=6, flags=1)) == set()
    assert with_files(pipe, replace(pipe, number=0)) == set()
    assert with_files(replace(pipe, alone=True, flags=os.O_DIRECT)) == {"packet-pipe"}


def test_queues_and_segments() -> None:
    queue = Descriptor(4, "/q", mode=REGULAR, named=False)
    assert with_files(queue, queues=["q"]) == {"mqueue"}
    assert judged(shared_segments=[5]) == {"sysv-shared"}


@pytest.mark.parametrize(
    ("process", "kinds"),
    [
        (Process(7, status={"State": "T (stopped)"}), {"stopped"}),
        (Process(7, status={"State": "D (disk sleep)"}, waits_in="do_signal_stop"), {"stopped"}),
        (Process(7, status={"State": "t (tracing stop)", "TracerPid": "9"}), {"traced"}),
        (Process(7, status={"State": "Z (zombie)", "Threads": "2"}), {"dead-leader"}),
        (Process(7, status={"State": "Z (zombie)", "Threads": "1"}), set()),
        (Process(7, personality=0x40000), {"personality"}),
        (Process(7, threads=[Thread(8, own_tables=("files",))]), {"thread-private"}),
        (Process(7, status={"NoNewPrivs": "1", "Seccomp_filters": "0"}), {"landlock"}),
        (Process(7, status={"NoNewPrivs": "1", "Seccomp_filters": "1"}), set()),
    ],
)
def test_processes(process: Process, kinds: set[str]) -> None:
    assert judged(process) == kinds


def test_namespaces() -> None:
    own = {"user": "user:[1]", "pid": "pid:[1]", "net": "net:[1]", "pid_for_children": "pid:[1]"}
    init = Process(7, namespaces=own)
    child = Process(8, status={"PPid": "7"}, namespaces=own)
    assert judged(init, child, user_namespace="user:[1]") == set()
    assert judged(init, user_namespace="user:[2]") == {"user-namespace"}
    assert judged(init, replace(child, namespaces=own | {"net": "net:[2]"})) == {"nested-namespace"}
    assert judged(init, replace(child, namespaces=own | {"mnt": "mnt:[2]"})) == set()
    assert judged(init, replace(child, namespaces=own | {"pid_for_children": "pid:[2]"})) == {"nested-namespace"}
    assert judged(init, facts=Facts(pid_namespace=None)) == {"host-pid"}
    # containerd names the sandbox's, which is the node's.
    joined = Facts(pid_namespace="/proc/5/ns/pid")
    assert judged(init, facts=joined, pid_namespace="pid:[2]") == set()
    assert judged(init, facts=joined, pid_namespace="pid:[1]") == {"host-pid"}


def test_processes_of_others() -> None:
    own = {"pid": "pid:[1]", "pid_for_children": "pid:[1]"}
    init = Process(7, namespaces=own, started=1.0)
    assert judged(init, strangers=[Stranger(9, "sh")]) == {"foreign-process"}
    assert judged(init, Process(9, namespaces=own, started=2.0)) == {"exec"}
    assert judged(init, Process(9, namespaces={"pid": "pid:[2]"}, started=2.0)) == {"foreign-member"}
    assert judged(init, replace(init, pid=8, status={"PPid": "7"}, shares_memory_with=7)) == {"shared-mm"}


@pytest.mark.parametrize(
    ("family", "type", "protocol", "known"),
    [
        (socket.AF_INET, socket.SOCK_STREAM, 6, True),
        (socket.AF_INET6, socket.SOCK_DGRAM, 17, True),
        (socket.AF_INET, socket.SOCK_DGRAM, 1, True),
        (socket.AF_INET, socket.SOCK_RAW, 89, True),
        (socket.AF_INET, socket.SOCK_STREAM, 262, False),
        (socket.AF_INET, socket.SOCK_STREAM, 132, False),
        (socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, True),
        (socket.AF_NETLINK, socket.SOCK_RAW, 15, True),
        (socket.AF_PACKET, socket.SOCK_RAW, 3, True),
        (socket.AF_VSOCK, socket.SOCK_STREAM, 0, False),
        (44, socket.SOCK_RAW, 0, False),
    ],
)
def test_kinds_of_sockets(family: int, type: int, protocol: int, known: bool) -> None:
    assert judged(sockets=[Socket(5, "x", family, type, protocol)]) == (set() if known else {"socket-kind"})


def test_what_waits_in_sockets() -> None:
    udp = Socket(5, "x", socket.AF_INET, socket.SOCK_DGRAM, 17)
    assert judged(sockets=[replace(udp, readable=True)]) == {"datagrams"}
    assert judged(sockets=[replace(udp, unsent=9)]) == {"corked"}
    assert judged(sockets=[Socket(5, "x", socket.AF_NETLINK, 3, 0, readable=True)]) == {"netlink-pending"}
    assert judged(sockets=[Socket(5, "x", socket.AF_INET, 1, 6, failed=True)]) == {"reset"}
    assert judged(unix=[UnixEnd(5, "/s", peer_is_foreign=True)]) == {"unix-peer"}
    assert judged(unix=[UnixEnd(5, "/s", pending_foreign=1)]) == {"unix-pending"}
    assert judged(unix=[UnixEnd(5, "/s")]) == set()


def test_mounts() -> None:
    assert judged(**volume(replace(HOST, changed=True))) == {"mount-source"}
    subpath = replace(HOST, mount=replace(HOST.mount, root="/v/..2026_11_30_07_00_00.1/key"))
    assert judged(**volume(subpath)) == {"volatile-file"}
    below = Mount(9, "0:50", "/", "/vol/sub", "tmpfs")
    parts = volume(HOST)
    assert judged(**parts | {"mounts": [OVERLAY, HOST.mount, below]}) == {"mount"}
    assert judged(**parts | {"mounts": [OVERLAY, HOST.mount, replace(below, place="/mnt")]}) == set()
    assert judged(**parts | {"mounts": [OVERLAY, replace(below, place="/mnt", kind="overlay")]}) == {"mount"}
    spec = (SpecMount("/vol", "bind", "/srv", frozenset({"rbind", "rslave"})),)
    assert judged(facts=Facts(mounts=spec)) == {"mount-propagation"}


def test_a_config_tells_the_facts() -> None:
    spec = {
        "process": {"terminal": True, "noNewPrivileges": True},
        "linux": {
            "namespaces": [{"type": "pid", "path": "/p"}, {"type": "user"}],
            "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["x"], "action": "SCMP_ACT_NOTIFY"}]},
        },
        "mounts": [{"destination": "/v/", "source": "/s", "options": ["rbind"]}],
    }
    facts = Facts.of(spec)
    assert (facts.pid_namespace, facts.user_namespace, facts.terminal) == ("/p", True, True)
    assert (facts.no_new_privileges, facts.seccomp, facts.seccomp_notify) == (True, True, True)
    assert facts.mounts == (SpecMount("/v", "", "/s", frozenset({"rbind"})),)
    assert facts.mounts[0].is_bind
    assert Facts.of({}).pid_namespace is None
    assert judged(facts=replace(facts, pid_namespace="")) == {"user-namespace", "terminal", "seccomp-notify"}


def test_each_kind_is_told_once_with_how_many_more_there_are() -> None:
    found = merged([Kind.STOPPED.found("a"), Kind.STOPPED.found("b"), Kind.STOPPED.found("a"), Kind.TRACED.found("c")])
    assert [each.text for each in found] == ["a process is stopped (SIGSTOP): a (and 1 more)", "a process is traced: c"]


def test_the_table_has_a_row_for_each_kind() -> None:
    rows = unsupported.table().splitlines()
    assert len(rows) == len(Kind) + 2
    assert len({kind.code for kind in Kind}) == len(Kind)
    assert all(row.count("|") == 4 for row in rows)


# Real processes


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's own pid namespace is not the node's."""
    here = reading.own_namespace
    monkeypatch.setattr(reading, "own_namespace", lambda kind: "pid:[0]" if kind == "pid" else here(kind))


def test_processes_among_the_nodes_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "own_namespace", lambda kind: os.readlink(f"/proc/self/ns/{kind}"))
    with running("", tmp_path) as pid:
        assert found(pid).keys() == {"host-pid"}


def found(pid: int, facts: Facts = FACTS) -> dict[str, str]:
    return {each.kind: each.text for each in unsupported.find([pid], facts)}


REAL: dict[str, tuple[str, set[str]]] = {
    "nothing": ("", set()),
    "a flock of its own": ("f = open('l', 'w'); fcntl.flock(f, 2)", set()),
    "a small deleted file": ("f = open('d', 'w'); f.write('x'); f.flush(); os.unlink('d')", set()),
    "a large deleted file": (
        "f = open('d', 'wb'); f.write(bytes(b'x') * 2000000); f.flush(); os.unlink('d')",
        {"deleted-large"},
    ),
    "a large deleted file that is mapped": (
        "f = open('d', 'w+b'); f.write(b'x' * 2000000); f.flush(); m = mmap.mmap(f.fileno(), 0)\n"
        "os.unlink('d'); f.close()",
        {"deleted-large"},
    ),
    "a deleted file with another name": (
        "f = open('d', 'w'); os.link('d', 'e'); os.unlink('d')",
        {"deleted-linked"},
    ),
    "a file that was renamed": ("f = open('d', 'w'); os.rename('d', 'e')", set()),
    "a directory that was removed": ("os.mkdir('w'); os.chdir('w'); os.rmdir('../w')", set()),
    "a memfd": ("f = os.memfd_create('m'); os.write(f, b'x' * 3000000); m = mmap.mmap(f, 0)", set()),
    "shared anonymous memory": ("m = mmap.mmap(-1, 3000000); m[:] = b'x' * 3000000", set()),
    "an inotify watch": ("w = libc.inotify_init1(0); libc.inotify_add_watch(w, b'.', 0x100)", set()),
    "events that wait": (
        "w = libc.inotify_init1(0); libc.inotify_add_watch(w, b'.', 0x100); open('n', 'w').close()",
        {"events-pending"},
    ),
    "a watch of a removed file": (
        "f = open('n', 'w'); w = libc.inotify_init1(0o4000); libc.inotify_add_watch(w, b'n', 2); os.unlink('n')\n"
        "try: os.read(w, 4096)\nexcept BlockingIOError: pass",
        {"watch-removed"},
    ),
    "affinity": ("os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})", set()),
    "timer slack": ("libc.prctl(29, 123456, 0, 0, 0)", set()),
    "personality": ("libc.personality(0x40000)", {"personality"}),
    "no_new_privs": ("libc.prctl(38, 1, 0, 0, 0)", {"landlock"}),
    "a pair of Unix sockets": ("a, b = socket.socketpair(); a.send(b'x')", set()),
    "half a pair": ("a, b = socket.socketpair(); b.close()", set()),
    "an eventfd": ("e = os.eventfd(1)", set()),
    "a semaphore": ("e = os.eventfd(1, os.EFD_SEMAPHORE)", {"eventfd-semaphore"}),
    "a pipe": ("r, w = os.pipe()", set()),
    "a pipe without a writer": ("r, w = os.pipe(); os.close(w)", set()),
    "a pipe in packet mode": ("r, w = os.pipe2(os.O_DIRECT)", {"packet-pipe"}),
    "a terminal of its own": ("import pty; m, s = os.openpty()", set()),
    "half a terminal": ("m, s = os.openpty(); os.close(m)", {"terminal"}),
    "TCP with usual options": (
        "l = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(l.getsockname()); s, _ = l.accept()\n"
        "for x in c, s:\n"
        "    x.setsockopt(6, 1, 1); x.setsockopt(1, 9, 1); x.setsockopt(6, 4, 30); x.setsockopt(1, 7, 50000)",
        set(),
    ),
    "TCP with a user timeout": (
        "l = socket.create_server(('127.0.0.1', 0)); l.setsockopt(6, 18, 5000)",
        set(),
    ),
    "a reset connection": (
        "l = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(l.getsockname()); s, _ = l.accept()\n"
        "s.setsockopt(1, 13, struct.pack('ii', 1, 0)); s.close()",
        {"reset"},
    ),
    "UDP": ("u = socket.socket(2, 2); u.bind(('127.0.0.1', 0))", set()),
    "a datagram that waits": (
        "u = socket.socket(2, 2); u.bind(('127.0.0.1', 0)); u.sendto(b'x', u.getsockname())",
        {"datagrams"},
    ),
    "a corked datagram": (
        "u = socket.socket(2, 2); u.connect(('127.0.0.1', 9)); u.setsockopt(17, 1, 1); u.send(b'x')",
        {"corked"},
    ),
    "a multicast group": (
        "u = socket.socket(2, 2); u.setsockopt(0, 35, socket.inet_aton('239.1.2.3') + socket.inet_aton('127.0.0.1'))",
        set(),
    ),
    "a netlink message that waits": (
        "s = socket.socket(16, 3, 0); s.bind((0, 0)); s.send(struct.pack('IHHIIB3x', 20, 18, 0x301, 1, 0, 0))",
        {"netlink-pending"},
    ),
    "vfork": (
        "os.mkfifo('f')\nif os.fork() == 0:\n"
        "    os.posix_spawn('/bin/true', ['true'], {}, file_actions=[(0, 9, 'f', 0, 0)])",
        set(),
    ),
    "a thread with a directory of its own": (
        "def t(): libc.unshare(0x200); b.wait(); time.sleep(60)\n"
        "b = threading.Barrier(2); threading.Thread(target=t, daemon=True).start(); b.wait()",
        {"thread-private"},
    ),
    "many threads": ("for _ in range(50): threading.Thread(target=time.sleep, args=[60], daemon=True).start()", set()),
}


@pytest.mark.parametrize("title", REAL)
def test_a_process_with(title: str, tmp_path: Path) -> None:
    code, expected = REAL[title]
    if "SEMAPHORE" in code and not _tells_semaphores():
        pytest.skip("this kernel does not tell of semaphores")
    with running(code, tmp_path) as pid:
        assert set(found(pid)) == expected, found(pid)


def _tells_semaphores() -> bool:
    descriptor = os.eventfd(0)
    try:
        return "eventfd-semaphore" in Path(f"/proc/self/fdinfo/{descriptor}").read_text()
    finally:
        os.close(descriptor)


def test_a_process_with_an_io_priority(tmp_path: Path) -> None:
    with running("", tmp_path) as pid:
        assert found(pid) == {}
        task_attributes.write(pid, replace(task_attributes.read(pid), io_priority=2 << 13 | 1, timer_slack=70_000))
        assert task_attributes.read(pid).io_priority == 2 << 13 | 1
        assert found(pid) == {}


def test_a_stopped_process(tmp_path: Path) -> None:
    with running("", tmp_path) as pid:
        os.kill(pid, signal.SIGSTOP)
        until(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "T")
        assert set(found(pid)) == {"stopped"}
        os.kill(pid, signal.SIGCONT)


def test_a_lock_that_another_process_waits_for(tmp_path: Path) -> None:
    code = "f = open('l', 'w'); fcntl.flock(f, 2)"
    waiter = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX)"
    with running(code, tmp_path) as pid:
        assert found(pid) == {}
        with subprocess.Popen([sys.executable, "-c", waiter, str(tmp_path / "l")]) as waiting:
            try:
                waits = f"-> FLOCK  ADVISORY  WRITE {waiting.pid} "
                until(lambda: waits in Path("/proc/locks").read_text())
                assert set(found(pid)) == {"lock-waited"}
            finally:
                waiting.kill()


def test_a_unix_socket_whose_peer_is_another_process(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with running("c = socket.socket(1); c.connect('s')", tmp_path) as pid:
            assert set(found(pid)) == {"unix-peer"}
            with listener.accept()[0]:
                assert set(found(pid)) == {"unix-peer"}


def test_a_connection_that_waits_at_a_unix_socket(tmp_path: Path) -> None:
    with running("l = socket.socket(1); l.bind('s'); l.listen()", tmp_path) as pid:
        assert found(pid) == {}
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))
            assert set(found(pid)) == {"unix-pending"}


def test_a_pipe_whose_other_end_is_elsewhere(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    try:
        child = subprocess.Popen(
            ["sleep", "60"], pass_fds=[reader], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            assert "pipe-outside" in found(child.pid)
            os.close(writer)
            writer = -1
            assert "pipe-outside" not in found(child.pid)
        finally:
            child.kill()
            child.wait()
    finally:
        for descriptor in (reader, writer):
            if descriptor >= 0:
                os.close(descriptor)


def test_a_process_that_is_gone_cannot_be_examined() -> None:
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    (obstacle,) = unsupported.find([ended.pid], FACTS)
    assert obstacle.kind == "unreadable"
    assert str(ended.pid) in obstacle.text


def test_a_zombie_is_no_obstacle(tmp_path: Path) -> None:
    with running("child = os.fork()\nif child == 0: os._exit(3)", tmp_path) as pid:
        children = Path(f"/proc/{pid}/task/{pid}/children")
        until(lambda: children.read_text().strip() != "")
        zombie = int(children.read_text())
        until(lambda: Path(f"/proc/{zombie}/stat").read_text().split()[2] == "Z")
        assert unsupported.find([pid, zombie], FACTS) == []


def test_two_thousand_sockets_are_looked_at_in_time(tmp_path: Path) -> None:
    code = (
        "import resource; resource.setrlimit(7, (4096, max(4096, resource.getrlimit(7)[1])))\n"
        "l = socket.create_server(('127.0.0.1', 0), backlog=100); all = []\n"
        "for _ in range(1000):\n    c = socket.create_connection(l.getsockname()); all += [c, l.accept()[0]]"
    )
    with running(code, tmp_path) as pid:
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            assert found(pid) == {}
            times.append(time.perf_counter() - begun)
    assert min(times) < 1.0  # seen: 0.1 s on two busy cores


def test_a_socket_without_addresses(tmp_path: Path) -> None:
    try:
        socket.socket(44, socket.SOCK_RAW).close()  # AF_XDP
    except OSError as error:
        pytest.skip(f"this kernel has none: {error}")
    with running("s = socket.socket(44, 3)", tmp_path) as pid:
        assert set(found(pid)) == {"socket-kind"}


def test_memberships_are_told_by_socket() -> None:
    group = Group(1, "239.1.2.3")
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as member,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        socket_options.join(member, group)
        assert socket_options.memberships(member, [group]) == [group]
        assert socket_options.memberships(other, [group]) == []


def test_options_can_be_set_again() -> None:
    defaults = socket_options.Defaults("/proc/self/ns/net")
    with socket.socket() as one, socket.socket() as other:
        one.setsockopt(socket.IPPROTO_TCP, 18, 5000)
        one.setsockopt(socket.IPPROTO_IP, 11, 1)
        changed = defaults.changed(one)
        assert {option.name for option, _ in changed} == {"TCP_USER_TIMEOUT", "IP_RECVERR"}
        assert defaults.changed(other) == []
        for option, value in changed:
            socket_options.set_option(other, option, value)
        assert defaults.changed(other) == changed


def test_threads_share_what_processes_do_not(tmp_path: Path) -> None:
    with running("threading.Thread(target=time.sleep, args=[60], daemon=True).start()", tmp_path) as pid:
        tids = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
        assert all(kcmp.shared(pid, tid, kcmp.Resource.FILES) for tid in tids)
        assert not kcmp.shared(pid, os.getpid(), kcmp.Resource.FILES)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        select.select([], [], [], 0.005)


def test_what_a_restore_loses_is_set_again(tmp_path: Path) -> None:
    code = (
        "libc.prctl(29, 123456, 0, 0, 0); os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "open('/proc/self/coredump_filter', 'w').write('0x7f')\n"
        "l = socket.socket(); l.bind(('127.0.0.1', 0)); l.listen(); l.setsockopt(6, 18, 5000)\n"
        "u = socket.socket(2, 2); u.setsockopt(0, 35, socket.inet_aton('239.1.2.3') + socket.inet_aton('127.0.0.1'))"
    )
    lost = "l = socket.socket(); l.bind(('127.0.0.1', 0)); l.listen(); u = socket.socket(2, 2)"
    with running(code, tmp_path) as before, running(lost, tmp_path) as after:
        noted = reapplied.note([before])
        noted = reapplied.Noted(
            {after: {after: noted.threads[before][before]}},
            {after: noted.core_filters[before]},
            {after: noted.options[before]},
            {after: noted.groups[before]},
        )
        assert reapplied.reapply([after], noted) == []
        assert reapplied.note([after]) == noted
        assert Path(f"/proc/{after}/coredump_filter").read_text() == "0000007f\n"
