"""Checks of open and mapped files, directories, devices, pipes, and anonymous inodes."""

import os
import stat
from collections.abc import Iterator

from zeropod.runtime.image import parsers as parse
from zeropod.runtime.image.obstacle import Kind, Obstacle
from zeropod.runtime.image.snapshot import DELETED, Descriptor, Process, Snapshot

GHOST_BLOCKS = (1 << 20) // 512
"""CRIU's default ghost-limit in blocks, which applies to what a deleted file takes on the disk."""

_ANONYMOUS = "anon_inode:"
_KNOWN = {"inotify", "[eventfd]", "[eventpoll]", "[signalfd]", "[timerfd]", "[fanotify]", "[pidfd]"}
"""Anonymous inodes that CRIU has an image of (`dump_one_file` in criu/files.c)."""
_NAMED = {
    "[io_uring]": Kind.IO_URING,
    "[userfaultfd]": Kind.USERFAULTFD,
    "[perf_event]": Kind.PERF,
    "bpf-prog": Kind.BPF,
    "bpf-map": Kind.BPF,
    "bpf_link": Kind.BPF,
    "bpf_iter": Kind.BPF,
    "btf": Kind.BPF,
    "[landlock-ruleset]": Kind.LANDLOCK,
    "seccomp notify": Kind.SECCOMP_NOTIFY,
}
_PLAIN = {(1, minor) for minor in (3, 5, 7, 8, 9, 11)} | {(5, 0), (5, 2)}
"""null, zero, full, random, urandom, kmsg; tty, ptmx."""
_TUN, _CONSOLE, _SLAVES = (10, 200), (5, 1), range(136, 144)
_ALARM_CLOCKS = {"8", "9"}
_SECRET = "/secretmem"
_HUGE = "/anon_hugepage"
_SOCKET = "socket:"
_DMA_BUFFER = "/dmabuf:"
_NAMESPACES = ("cgroup:[", "ipc:[", "mnt:[", "net:[", "pid:[", "time:[", "user:[", "uts:[")
_STANDARD = range(3)


def anonymous(snapshot: Snapshot) -> Iterator[Obstacle]:
    """Find anonymous inodes of kinds that CRIU has no image of, including unknown ones."""
    for process, file in _files(snapshot):
        if file.link.startswith(_ANONYMOUS):
            name = file.link.removeprefix(_ANONYMOUS)
            if name not in _KNOWN:
                yield _NAMED.get(name, Kind.ANONYMOUS_FILE).found(f"{process}, {file.place}")
            elif name == "[eventfd]" and parse.value(file.info, "eventfd-semaphore") == "1":
                yield Kind.SEMAPHORE.found(f"{process}, {file.place}")
            elif name == "[timerfd]" and parse.value(file.info, "clockid") in _ALARM_CLOCKS:
                yield Kind.ALARM_TIMER.found(f"{process}, {file.place}")
        elif file.link.startswith(_DMA_BUFFER):
            yield Kind.ANONYMOUS_FILE.found(f"{process}, {file.place}")


def special_memory(snapshot: Snapshot) -> Iterator[Obstacle]:
    """Find secret memory and huge pages."""
    for process, file in _files(snapshot):
        if file.huge or file.link.startswith((_SECRET, _HUGE)):
            yield Kind.MEMFD_SPECIAL.found(f"{process}, {file.place}")
    for queue in snapshot.queues:
        yield Kind.MESSAGE_QUEUE.found(f"/{queue}")
    for segment in snapshot.shared_segments:
        yield Kind.SHARED_SEGMENT.found(f"shmid {segment}")


def names(snapshot: Snapshot) -> Iterator[Obstacle]:
    """Find files without a usable name: CRIU reopens files by name, and saves deleted ones only up to a limit."""
    queues = {f"/{queue}" for queue in snapshot.queues}
    for process, file in _files(snapshot):
        if not file.link.startswith(("/", "(unreachable)")) or _is_memory(file) or file.path in queues:
            continue
        where = f"{process}, {file.place}"
        is_regular = stat.S_ISREG(file.mode)
        if not file.named and (file.links or not file.mode):
            yield Kind.UNREACHABLE.found(where)
        elif is_regular and file.link.endswith(DELETED) and file.links:
            yield Kind.DELETED_LINKED.found(where)
        elif is_regular and not file.links and file.blocks > GHOST_BLOCKS:
            yield Kind.DELETED_LARGE.found(f"{where}, {file.blocks * 512 >> 10} KiB")


def _is_memory(file: Descriptor) -> bool:
    return file.link.startswith(("/memfd:", _SECRET, _HUGE, _DMA_BUFFER))


def volumes(snapshot: Snapshot) -> Iterator[Obstacle]:
    """Find files on volumes that may be replaced or grow while the container is in COLD: the restore would fail."""
    init = snapshot.init
    written = {
        (file.device, file.inode)
        for process in snapshot.processes
        for file in process.descriptors
        if file.flags & os.O_ACCMODE != os.O_RDONLY
    }
    for process, file in _files(snapshot):
        if not file.link.startswith("/") or not file.mode or file.link.endswith(DELETED):
            continue
        if parse.is_refreshed(file.path):
            yield Kind.VOLATILE_FILE.found(f"{process}, {file.place}")
        elif (
            init is not None
            and stat.S_ISREG(file.mode)
            and file.modified > init.started
            and (file.device, file.inode) not in written
            and snapshot.bind_of(file.path) is not None
        ):
            yield Kind.GROWING_FILE.found(f"{process}, {file.place}")


def devices(snapshot: Snapshot) -> Iterator[Obstacle]:
    """Find devices other than stateless ones, and terminals whose master is outside of the container."""
    masters = {
        parse.value(file.info, "tty-index") for process in snapshot.processes for file in process.descriptors
    } - {""}
    if snapshot.facts.terminal:
        yield Kind.TERMINAL_OUTSIDE.found("")
    for process, file in _files(snapshot):
        number = os.major(file.special), os.minor(file.special)
        where = f"{process}, {file.place}"
        if stat.S_ISBLK(file.mode):
            yield Kind.DEVICE.found(where)
        elif stat.S_ISCHR(file.mode) and file.flags & os.O_PATH == 0:
            if number == _CONSOLE or (number[0] in _SLAVES and str(_index(number)) not in masters):
                yield Kind.TERMINAL_OUTSIDE.found(where)
            elif number == _TUN:
                if parse.value(file.info, "iff"):
                    yield Kind.TUN.found(where)
            elif number not in _PLAIN and number[0] not in _SLAVES:
                yield Kind.DEVICE.found(where)


def _index(number: tuple[int, int]) -> int:
    return (number[0] - _SLAVES.start << 20) + number[1]


def pipes(snapshot: Snapshot) -> Iterator[Obstacle]:
    """Find pipes in packet mode, and pipes and FIFOs with an end outside; runc restores the standard streams."""
    init = snapshot.init
    standard = {file.inode for file in init.descriptors if file.number in _STANDARD} if init else set()
    ends: dict[int, set[int]] = {}
    for _, file in _files(snapshot):
        if file.link.startswith("pipe:"):
            ends.setdefault(file.inode, set()).add(file.flags & os.O_ACCMODE)
    for process, file in _files(snapshot):
        where = f"{process}, {file.place}"
        if file.link.startswith("pipe:"):
            if file.flags & os.O_DIRECT:
                yield Kind.PACKET_PIPE.found(where)
            is_whole = os.O_RDWR in ends[file.inode] or len(ends[file.inode]) > 1
            if not is_whole and not file.alone and file.inode not in standard:
                yield Kind.PIPE_OUTSIDE.found(where)
        elif stat.S_ISFIFO(file.mode) and file.link.startswith("/"):
            bind = snapshot.bind_of(file.path)
            if bind is not None and bind.is_shared:
                yield Kind.FIFO_OUTSIDE.found(where)


def epolls(snapshot: Snapshot) -> Iterator[Obstacle]:
    """Find epolls that watch another process's files: CRIU looks them up among the epoll owner's descriptors."""
    for process in snapshot.processes:
        inodes = {file.inode for file in process.descriptors}
        for file in process.descriptors:
            if file.link == _ANONYMOUS + "[eventpoll]":
                gone = [number for number, inode in parse.polled(file.info) if inode not in inodes]
                if gone:
                    yield Kind.EPOLL_FOREIGN.found(f"{process}, descriptor {file.number} watches {gone[0]}")


def namespace_files(snapshot: Snapshot) -> Iterator[Obstacle]:
    """Find open namespaces that are not dumped."""
    known = {link for process in snapshot.processes for link in process.namespaces.values()}
    for process, file in _files(snapshot):
        if file.link.startswith(_NAMESPACES) and file.link not in known:
            yield Kind.NAMESPACE_FILE.found(f"{process}, {file.place}")


def _files(snapshot: Snapshot) -> Iterator[tuple[Process, Descriptor]]:
    """Yield all open files but sockets, of which there may be thousands."""
    for process in snapshot.processes:
        for file in process.files:
            if not file.link.startswith(_SOCKET):
                yield process, file


CHECKS = (anonymous, special_memory, names, volumes, devices, pipes, epolls, namespace_files)
