"""What wakes frozen processes: real sockets, pipes and terminals of a child that is stopped.

The test has the application's ends as well, to look at what is left in them. Delivery within the machine is
synchronous: what was sent has arrived when the call returns, or within the deadline of `soon`.
"""

import array
import ctypes
import errno
import fcntl
import os
import pty
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from zeropod.activator.hold import frozen as frozen_module
from zeropod.activator.hold.frozen import Arrived, DescriptorLimit, FrozenSockets, Unread
from zeropod.kernel import pidfd
from zeropod.kernel.mount import mount

RESET = b"\1\0\0\0\0\0\0\0"
"""SO_LINGER: on, for no time at all."""
PATIENCE = 5.0
IPPROTO_MPTCP = 262
IPPROTO_UDPLITE = 136

LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}

Act = Callable[[], object]


class Application:
    """A stopped child that has inherited all that was given to it."""

    def __init__(self, owned: ExitStack, directory: Path) -> None:
        self._owned = owned
        self.own = owned.enter_context
        self.directory = directory
        self._given: list[int] = []
        self.pids: list[int] = []

    def give(self, file: socket.socket | int) -> None:
        """Let the child inherit this; a descriptor is closed with the test, a socket by the one that made it."""
        if isinstance(file, int):
            self._owned.callback(self._close, file)
        self._given.append(file if isinstance(file, int) else file.fileno())

    @staticmethod
    def _close(descriptor: int) -> None:
        with suppress(OSError):
            os.close(descriptor)

    def start(self) -> None:
        """Start a child and stop it. Another one inherits the same."""
        process = subprocess.Popen(
            ["sleep", "60"], pass_fds=self._given, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        self._owned.callback(process.wait)
        self._owned.callback(process.kill)
        os.kill(process.pid, signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        self.pids.append(process.pid)

    def frozen(self, *, known_unread: Mapping[int, int] | None = None) -> FrozenSockets:
        if not self.pids:
            self.start()
        taken = FrozenSockets.take(self.pids, known_unread=known_unread)
        self._owned.callback(taken.close)
        return taken

    def tcp(
        self, family: socket.AddressFamily = socket.AF_INET, protocol: int = 0
    ) -> tuple[socket.socket, socket.socket]:
        """The application's end of an established connection, and the other end."""
        with self.own(socket.socket(family, socket.SOCK_STREAM, protocol)) as listener:
            listener.bind((LOOPBACK[family], 0))
            listener.listen()
            client = self.own(socket.socket(family, socket.SOCK_STREAM, protocol))
            client.connect(listener.getsockname())
            server = self.own(listener.accept()[0])
        self.give(server)
        return server, client


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Application]:
    with ExitStack() as owned:
        yield Application(owned, tmp_path)


def soon(frozen: FrozenSockets) -> Arrived | None:
    """What is ready, within the deadline."""
    poll = select.poll()
    assert frozen._epoll is not None
    poll.register(frozen._epoll.fileno(), select.POLLIN)
    if (arrived := frozen.ready()) is None and poll.poll(PATIENCE * 1000):
        arrived = frozen.ready()
    return arrived


def inode(file: socket.socket | int) -> int:
    return os.fstat(file if isinstance(file, int) else file.fileno()).st_ino


def fill(descriptor: int) -> None:
    """Write until nothing more fits."""
    os.set_blocking(descriptor, False)
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    # The kernel carries what is written to a terminal over to the other end a moment later, which makes room.
    while poll.poll(20):
        for size in (65536, 1024, 1):
            with suppress(BlockingIOError):
                while True:
                    os.write(descriptor, bytes(size))


# What arrives at the application: each function makes a thing and returns how one more arrival in it comes about.


def tcp4(app: Application) -> Act:
    _, client = app.tcp()
    return lambda: client.send(b"hello")


def tcp6(app: Application) -> Act:
    _, client = app.tcp(socket.AF_INET6)
    return lambda: client.send(b"hello")


def mptcp(app: Application) -> Act:
    _, client = app.tcp(protocol=IPPROTO_MPTCP)
    return lambda: client.send(b"hello")


def urgent(app: Application) -> Act:
    _, client = app.tcp()
    return lambda: client.send(b"!", socket.MSG_OOB)


def _listener(app: Application, family: socket.AddressFamily, protocol: int = 0) -> Act:
    listener = app.own(socket.socket(family, socket.SOCK_STREAM, protocol))
    listener.bind((LOOPBACK[family], 0))
    listener.listen()
    app.give(listener)

    def connect() -> None:
        app.own(socket.socket(family, socket.SOCK_STREAM, protocol)).connect(listener.getsockname())

    return connect


def tcp4_listener(app: Application) -> Act:
    return _listener(app, socket.AF_INET)


def tcp6_listener(app: Application) -> Act:
    return _listener(app, socket.AF_INET6)


def mptcp_listener(app: Application) -> Act:
    return _listener(app, socket.AF_INET, IPPROTO_MPTCP)


def _unix_listener(app: Application, kind: socket.SocketKind) -> Act:
    listener = app.own(socket.socket(socket.AF_UNIX, kind))
    listener.bind(str(app.directory / "listener"))
    listener.listen()
    app.give(listener)

    def connect() -> None:
        app.own(socket.socket(socket.AF_UNIX, kind)).connect(listener.getsockname())

    return connect


def unix_listener(app: Application) -> Act:
    return _unix_listener(app, socket.SOCK_STREAM)


def unix_packet_listener(app: Application) -> Act:
    return _unix_listener(app, socket.SOCK_SEQPACKET)


def _unix_pair(app: Application, kind: socket.SocketKind) -> Act:
    server, client = map(app.own, socket.socketpair(socket.AF_UNIX, kind))
    app.give(server)
    return lambda: client.send(b"hello")


def unix_stream(app: Application) -> Act:
    return _unix_pair(app, socket.SOCK_STREAM)


def unix_packets(app: Application) -> Act:
    return _unix_pair(app, socket.SOCK_SEQPACKET)


def unix_datagrams(app: Application) -> Act:
    server = app.own(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    server.bind(str(app.directory / "log"))
    app.give(server)
    client = app.own(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    return lambda: client.sendto(b"hello", server.getsockname())


def _datagrams(app: Application, family: socket.AddressFamily, protocol: int, data: bytes = b"hello") -> Act:
    server = app.own(socket.socket(family, socket.SOCK_DGRAM, protocol))
    server.bind((LOOPBACK[family], 0))
    app.give(server)
    client = app.own(socket.socket(family, socket.SOCK_DGRAM, protocol))
    return lambda: client.sendto(data, server.getsockname())


def udp4(app: Application) -> Act:
    return _datagrams(app, socket.AF_INET, 0)


def udp6(app: Application) -> Act:
    return _datagrams(app, socket.AF_INET6, 0)


def empty_udp(app: Application) -> Act:
    return _datagrams(app, socket.AF_INET, 0, b"")


def udplite(app: Application) -> Act:
    try:
        return _datagrams(app, socket.AF_INET, IPPROTO_UDPLITE)
    except OSError:
        pytest.skip("this kernel has no UDP-Lite")


def raw(app: Application) -> Act:
    server = app.own(socket.socket(socket.AF_INET, socket.SOCK_RAW, 253))  # for experiments, RFC 3692
    app.give(server)
    client = app.own(socket.socket(socket.AF_INET, socket.SOCK_RAW, 253))
    client.connect(("127.0.0.1", 0))
    return lambda: client.send(b"hello")


def icmp(app: Application) -> Act:
    server = app.own(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
    app.give(server)
    client = app.own(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
    return lambda: client.sendto(bytes([8, 0, 0xF7, 0xFF, 0, 0, 0, 0]), ("127.0.0.1", 0))


def netlink(app: Application) -> Act:
    server = app.own(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_USERSOCK))
    server.bind((0, 0))
    app.give(server)
    client = app.own(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_USERSOCK))
    return lambda: client.sendto(struct.pack("=IHHII", 16, 16, 0, 0, 0), (server.getsockname()[0], 0))


def packets(app: Application) -> Act:
    local = 0x88B5  # for experiments, IEEE 802
    server = app.own(socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(local)))
    app.give(server)
    client = app.own(socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0))
    return lambda: client.sendto(b"hello", ("lo", local, 0, 0, bytes(6)))


def _vsock_listener(app: Application) -> socket.socket:
    try:
        listener = app.own(socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM))
        listener.bind((1, socket.VMADDR_PORT_ANY))
        listener.listen()
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as probe:
            probe.settimeout(PATIENCE)
            probe.connect(listener.getsockname())
            listener.accept()[0].close()
    except OSError:
        pytest.skip("this kernel has no vsock loopback")
    return listener


def vsock_listener(app: Application) -> Act:
    listener = _vsock_listener(app)
    app.give(listener)

    def connect() -> None:
        app.own(socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)).connect(listener.getsockname())

    return connect


def vsock(app: Application) -> Act:
    listener = _vsock_listener(app)
    client = app.own(socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM))
    client.connect(listener.getsockname())
    app.give(app.own(listener.accept()[0]))
    return lambda: client.send(b"hello")


def pipe(app: Application) -> Act:
    reads, writes = os.pipe()
    app.give(reads)
    app.own(os.fdopen(writes, "wb", buffering=0))
    return lambda: os.write(writes, b"hello")


def fifo(app: Application) -> Act:
    path = app.directory / "fifo"
    os.mkfifo(path)
    app.give(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    writes = app.own(path.open("wb", buffering=0))
    return lambda: writes.write(b"hello")


def terminal(app: Application) -> Act:
    master, slave = pty.openpty()
    tty.setraw(slave)
    app.give(slave)
    app.own(os.fdopen(master, "wb", buffering=0))
    return lambda: os.write(master, b"hello")


def event_counter(app: Application) -> Act:
    counter = os.eventfd(0)
    app.give(counter)
    return lambda: os.eventfd_write(counter, 1)


def message_queue(app: Application) -> Act:
    libc = ctypes.CDLL(None, use_errno=True)
    mounted, name = app.directory / "mqueue", f"/zeropod-test-{os.getpid()}".encode()
    mounted.mkdir()
    try:
        mount("mqueue", "mqueue", mounted, [])
    except OSError:
        pytest.skip("no POSIX message queues can be mounted here")
    undo = app.own(ExitStack())
    undo.callback(lambda: subprocess.run(["umount", str(mounted)], check=True))
    descriptor = libc.mq_open(name, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o600, None)
    undo.callback(libc.mq_unlink, name)
    app.give(descriptor)
    return lambda: libc.mq_send(descriptor, b"hello", 5, 0)


LISTENERS = [
    tcp4_listener,
    tcp6_listener,
    mptcp_listener,
    unix_listener,
    unix_packet_listener,
    vsock_listener,
]
QUEUES = [
    tcp4,
    tcp6,
    mptcp,
    unix_stream,
    unix_packets,
    unix_datagrams,
    udp4,
    udp6,
    empty_udp,
    udplite,
    raw,
    icmp,
    netlink,
    packets,
    vsock,
    pipe,
    fifo,
    terminal,
    message_queue,
]
MAKERS = [*LISTENERS, *QUEUES]


@pytest.mark.parametrize("make", [*MAKERS, event_counter, urgent])
async def test_what_arrives_wakes(app: Application, make: Callable[[Application], Act], nursery: trio.Nursery) -> None:
    arrive = make(app)
    frozen = app.frozen()
    assert len(frozen) == 1
    assert not frozen.pending()
    assert frozen.ready() is None
    waiting = Waiting(frozen, nursery)
    await wait_all_tasks_blocked()
    assert waiting.arrived is None
    arrive()
    expected = Arrived.CONNECTION if make in LISTENERS else Arrived.DATA
    assert await waiting.result() is expected
    assert frozen.ready() is expected


@pytest.mark.parametrize("make", [*MAKERS, event_counter])
def test_what_lies_there_does_not_wake_but_what_comes_to_it_does(
    app: Application, make: Callable[[Application], Act]
) -> None:
    arrive = make(app)
    app.start()
    first = app.frozen()
    arrive()
    assert soon(first)
    first.close()

    frozen = app.frozen()
    assert frozen.ready() is None
    assert bool(frozen.pending()) is (make is not event_counter)
    arrive()
    assert soon(frozen)
    frozen.disregard()
    assert frozen.ready() is None
    arrive()
    assert soon(frozen)


@pytest.mark.parametrize("make", MAKERS)
def test_what_was_there_at_the_attempt_before_is_not_told_of_again(
    app: Application, make: Callable[[Application], Act]
) -> None:
    arrive = make(app)
    app.start()
    arrive()
    attempt = app.frozen()
    found = attempt.pending()
    assert len(found.unread) == 1
    assert found.unread[0].amount > 0
    assert str(found)
    attempt.close()

    again = app.frozen(known_unread=found.amounts)
    assert not again.pending()
    assert again.pending().amounts == found.amounts
    assert again.ready() is None


COUNTED = [tcp4, tcp4_listener, unix_stream, unix_packets, udp4, empty_udp, raw, netlink, pipe, fifo]
"""Those that say exactly how much is there. Unix datagrams, message queues and other listeners only say that it is, and
what is written to a terminal takes a moment to be seen."""


@pytest.mark.parametrize("make", COUNTED)
def test_more_than_was_there_at_the_attempt_before_is_told_of(
    app: Application, make: Callable[[Application], Act]
) -> None:
    arrive = make(app)
    app.start()
    arrive()
    found = app.frozen().pending()
    arrive()
    assert app.frozen(known_unread=found.amounts).pending()


def test_amounts_are_bytes_and_connections(app: Application) -> None:
    (server, client), connect = app.tcp(), tcp4_listener(app)
    client.send(b"hello")
    connect()
    connect()
    frozen = app.frozen()
    connections = next(unread for unread in frozen.pending().unread if unread.inode != inode(server))
    assert connections.amount == 2
    assert Unread(inode(server), 5) in frozen.pending().unread
    client.shutdown(socket.SHUT_WR)
    assert frozen.pending().amounts[inode(server)] == 6


# Ends and errors.


def finish(app: Application, *, unread: bool) -> Act:
    _, client = app.tcp()
    if unread:
        client.send(b"hello")
    return lambda: client.shutdown(socket.SHUT_WR)


def reset(app: Application, *, unread: bool) -> Act:
    _, client = app.tcp()
    if unread:
        client.send(b"hello")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    return client.close


def reset_after_end(app: Application, *, unread: bool) -> Act:
    _, client = app.tcp()
    if unread:
        client.send(b"hello")
    client.shutdown(socket.SHUT_WR)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    return client.close


def mptcp_finish(app: Application, *, unread: bool) -> Act:
    _, client = app.tcp(protocol=IPPROTO_MPTCP)
    if unread:
        client.send(b"hello")
    return client.close


def unix_close(app: Application, *, unread: bool) -> Act:
    server, client = map(app.own, socket.socketpair())
    app.give(server)
    if unread:
        client.send(b"hello")
    return client.close


def port_unreachable(app: Application, *, unread: bool) -> Act:
    server, other = (app.own(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
    for each in (server, other):
        each.bind(("127.0.0.1", 0))
    server.connect(other.getsockname())
    app.give(server)
    if unread:
        other.sendto(b"hello", server.getsockname())
    other.close()
    return lambda: server.send(b"to nothing")  # stands in for a datagram sent just before the freeze


def pipe_close(app: Application, *, unread: bool) -> Act:
    reads, writes = os.pipe()
    app.give(reads)
    if unread:
        os.write(writes, b"hello")
    return lambda: os.close(writes)


def reader_gone(app: Application, *, unread: bool) -> Act:
    reads, writes = os.pipe()
    app.give(writes)
    if unread:
        os.write(writes, b"hello")
    return lambda: os.close(reads)


def hangup(app: Application, *, unread: bool) -> Act:
    master, slave = pty.openpty()
    tty.setraw(slave)
    app.give(slave)
    if unread:
        os.write(master, b"hello")
    return lambda: os.close(master)


@pytest.mark.parametrize("unread", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        finish,
        reset,
        reset_after_end,
        mptcp_finish,
        unix_close,
        port_unreachable,
        pipe_close,
        reader_gone,
        hangup,
    ],
)
def test_an_end_or_an_error_wakes_once(app: Application, make: Callable[..., Act], unread: bool) -> None:
    act = make(app, unread=unread)
    frozen = app.frozen()
    assert frozen.ready() is None
    act()
    assert soon(frozen) is Arrived.DATA
    found = frozen.pending()
    assert found
    frozen.close()

    again = app.frozen(known_unread=found.amounts)
    assert again.ready() is None
    assert not again.pending()


def test_the_end_of_a_process_that_is_waited_for_wakes(app: Application) -> None:
    other = subprocess.Popen(["sleep", "60"])
    app.give(os.pidfd_open(other.pid))
    frozen = app.frozen()
    assert (len(frozen), frozen.ready()) == (1, None)
    other.kill()
    other.wait()
    assert soon(frozen) is Arrived.DATA


# Room.


def taking(descriptor: int) -> Act:
    """Read what is there, if there is anything."""
    os.set_blocking(descriptor, False)

    def take() -> None:
        with suppress(BlockingIOError):
            os.read(descriptor, 1 << 20)

    return take


def room_in_tcp(app: Application) -> tuple[int, Act]:
    server, client = app.tcp()
    return server.fileno(), taking(client.fileno())


def room_in_unix(app: Application) -> tuple[int, Act]:
    server, client = map(app.own, socket.socketpair())
    app.give(server)
    return server.fileno(), taking(client.fileno())


def room_in_unix_datagrams(app: Application) -> tuple[int, Act]:
    log = app.own(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    log.bind(str(app.directory / "log"))
    server = app.own(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    server.connect(log.getsockname())
    app.give(server)
    return server.fileno(), taking(log.fileno())


def room_in_pipe(app: Application) -> tuple[int, Act]:
    reads, writes = os.pipe()
    app.give(writes)
    app.own(os.fdopen(reads, "rb", buffering=0))
    return writes, taking(reads)


def room_in_terminal(app: Application) -> tuple[int, Act]:
    master, slave = pty.openpty()
    tty.setraw(slave)
    app.give(slave)
    app.own(os.fdopen(master, "rb", buffering=0))
    return slave, taking(master)


@pytest.mark.parametrize("make", [room_in_tcp, room_in_unix, room_in_unix_datagrams, room_in_pipe, room_in_terminal])
def test_room_to_write_wakes_only_where_there_was_none(
    app: Application, make: Callable[[Application], tuple[int, Act]]
) -> None:
    descriptor, take = make(app)
    os.set_blocking(descriptor, False)
    os.write(descriptor, b"a little")
    app.start()
    roomy = app.frozen()
    take()
    assert roomy.ready() is None
    roomy.close()

    fill(descriptor)
    full = app.frozen()
    assert full.ready() is None
    assert not full.pending()
    deadline = time.monotonic() + PATIENCE
    while (arrived := full.ready()) is None and time.monotonic() < deadline:
        take()
    assert arrived is Arrived.DATA


def test_a_connect_that_finishes_wakes(app: Application) -> None:
    # A queue that is full answers no SYN. The kernel takes one more than is said.
    full = app.own(socket.create_server(("127.0.0.1", 0), backlog=0))
    app.own(socket.create_connection(full.getsockname()))
    connecting = app.own(socket.socket())
    connecting.setblocking(False)
    assert connecting.connect_ex(full.getsockname()) == errno.EINPROGRESS
    app.give(connecting)
    frozen = app.frozen()
    assert frozen.ready() is None
    assert not frozen.pending()
    full.accept()[0].close()
    # The next SYN goes out a second after the first.
    assert soon(frozen) is Arrived.DATA


# What does not count.


def both_ends(app: Application) -> Act:
    for end in socket.socketpair():
        app.give(app.own(end))
    for descriptor in os.pipe():
        app.give(descriptor)
    return lambda: None


def inotify(app: Application) -> Act:
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    libc.inotify_add_watch(watch, os.fsencode(app.directory), 0xFFF)
    app.give(watch)
    return (app.directory / "config").touch


def timer(app: Application) -> Act:
    libc = ctypes.CDLL(None, use_errno=True)
    made = int(libc.timerfd_create(1, os.O_NONBLOCK))
    libc.timerfd_settime(made, 0, struct.pack("=qqqq", 0, 1, 0, 1), None)
    app.give(made)
    return lambda: select.select([made], [], [], PATIENCE)


def epoll(app: Application) -> Act:
    reads, writes = os.pipe()
    app.own(os.fdopen(reads, "rb", buffering=0))
    app.own(os.fdopen(writes, "wb", buffering=0))
    made = select.epoll()
    made.register(reads, select.EPOLLIN)
    app.own(made)
    app.give(os.dup(made.fileno()))
    return lambda: os.write(writes, b"hello")


def regular_file(app: Application) -> Act:
    path = app.directory / "file"
    path.touch()
    app.give(os.open(path, os.O_RDONLY))
    app.give(os.open("/dev/urandom", os.O_RDONLY))
    app.give(os.open("/", os.O_RDONLY))
    return lambda: path.write_text("hello")


def routes(app: Application) -> Act:
    told = app.own(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE))
    told.bind((0, 1))  # RTMGRP_LINK
    app.give(told)
    return lambda: None


def sniffer(app: Application) -> Act:
    app.give(app.own(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))))
    app.give(app.own(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)))
    app.give(app.own(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)))
    app.give(app.own(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)))

    def talk() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"hello", ("127.0.0.1", 9))

    return talk


def ciphers(app: Application) -> Act:
    try:
        app.give(app.own(socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)))
    except OSError:
        pytest.skip("this kernel has no AF_ALG")
    return lambda: None


@pytest.mark.parametrize("make", [both_ends, inotify, timer, epoll, regular_file, routes, sniffer, ciphers])
def test_what_does_not_count_does_not_wake(app: Application, make: Callable[[Application], Act]) -> None:
    act = make(app)
    frozen = app.frozen()
    assert len(frozen) == (4 if make is both_ends else 0)
    act()
    assert frozen.ready() is None
    assert not frozen.pending()


@pytest.mark.parametrize("path", ["/dev/net/tun", "/dev/fuse"])
def test_a_device_with_a_queue_is_watched(app: Application, path: str) -> None:
    if not Path(path).exists():
        pytest.skip(f"no {path} here")
    app.give(os.open(path, os.O_RDWR))
    frozen = app.frozen()
    assert len(frozen) == 1
    assert frozen.ready() is None
    assert not frozen.pending()


@pytest.mark.parametrize(("flags", "watched"), [(0, 0), (0x4, 1), (0x8, 1)])
def test_fanotify_counts_where_its_answer_is_waited_for(app: Application, flags: int, watched: int) -> None:
    descriptor = int(ctypes.CDLL(None).fanotify_init(flags, 0))
    if descriptor < 0:
        pytest.skip("fanotify may not be used here")
    app.give(descriptor)
    assert len(app.frozen()) == watched


def test_a_filter_of_the_application_goes_on_filtering(app: Application) -> None:
    server, client = (app.own(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
    server.bind(("127.0.0.1", 0))
    app.give(server)
    nothing = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0), 8)  # BPF_RET, 0 bytes
    program = struct.pack("HL", 1, ctypes.addressof(nothing))
    server.setsockopt(socket.SOL_SOCKET, 26, program)  # SO_ATTACH_FILTER
    frozen = app.frozen()
    client.sendto(b"hello", server.getsockname())
    assert frozen.ready() is None
    server.setsockopt(socket.SOL_SOCKET, 27, 0)  # SO_DETACH_FILTER
    client.sendto(b"hello", server.getsockname())
    assert frozen.ready() is Arrived.DATA


# Ports.


class Waiting:
    """A task that waits for the event."""

    def __init__(self, frozen: FrozenSockets, nursery: trio.Nursery, ports: frozenset[int] = frozenset()) -> None:
        self._over = trio.Event()
        self.arrived: Arrived | None = None
        nursery.start_soon(self._wait, frozen, ports)

    async def _wait(self, frozen: FrozenSockets, ports: frozenset[int]) -> None:
        self.arrived = await frozen.event(ports)
        self._over.set()

    async def result(self) -> Arrived | None:
        with trio.fail_after(PATIENCE):
            await self._over.wait()
        return self.arrived


def listen(app: Application) -> tuple[int, Act]:
    listener = app.own(socket.create_server(("127.0.0.1", 0)))
    app.give(listener)
    return listener.getsockname()[1], lambda: app.own(socket.create_connection(listener.getsockname()))


async def test_only_connections_to_the_chosen_ports_count_but_all_data_does(
    app: Application, nursery: trio.Nursery
) -> None:
    (chosen, connect), (_, connect_other), send = listen(app), listen(app), udp4(app)
    frozen = app.frozen()
    waiting = Waiting(frozen, nursery, frozenset({chosen}))
    await wait_all_tasks_blocked()
    connect_other()
    await wait_all_tasks_blocked()
    assert waiting.arrived is None
    assert frozen.ready({chosen}) is None
    assert not frozen.pending({chosen})
    assert frozen.pending()
    connect()
    assert await waiting.result() is Arrived.CONNECTION
    send()
    assert frozen.ready({chosen}) is Arrived.DATA


async def test_the_choice_of_ports_is_each_wait_s_own(app: Application) -> None:
    (chosen, connect), (other, connect_other) = listen(app), listen(app)
    frozen = app.frozen()
    connect_other()
    assert not frozen.ready({chosen})
    assert frozen.ready({other})
    with trio.fail_after(PATIENCE):
        assert await frozen.event() is Arrived.CONNECTION
    connect()
    with trio.fail_after(PATIENCE):
        assert await frozen.event({chosen}) is Arrived.CONNECTION


def test_unix_listeners_count_whatever_the_ports(app: Application) -> None:
    connect = unix_listener(app)
    frozen = app.frozen()
    connect()
    assert frozen.ready({80}) is Arrived.CONNECTION


# What is left as it is.


def test_nothing_is_consumed(app: Application) -> None:
    server, client = map(app.own, socket.socketpair())
    datagrams = app.own(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    datagrams.bind(("127.0.0.1", 0))
    app.give(server)
    app.give(datagrams)
    frozen = app.frozen()
    client.sendall(b"hello")
    datagrams.sendto(b"datagram", datagrams.getsockname())
    assert frozen.ready()
    assert frozen.pending()
    frozen.close()
    assert server.recv(100, socket.MSG_DONTWAIT) == b"hello"
    assert datagrams.recv(100, socket.MSG_DONTWAIT) == b"datagram"


def test_descriptors_in_flight_stay_in_flight(app: Application) -> None:
    server, client = map(app.own, socket.socketpair())
    app.give(server)
    sent, kept = map(app.own, socket.socketpair())
    socket.send_fds(client, [b"here"], [sent.fileno()])
    wanted = inode(sent)
    sent.close()
    frozen = app.frozen()
    assert frozen.pending()
    socket.send_fds(client, [b"and"], [kept.fileno()])
    assert frozen.ready() is Arrived.DATA
    frozen.close()
    message, received, _, _ = socket.recv_fds(server, 4, 1)
    with socket.socket(fileno=received[0]) as arrived:
        assert (message, inode(arrived)) == (b"here", wanted)
        kept.send(b"still connected")
        assert arrived.recv(100) == b"still connected"


def test_modes_of_a_terminal_and_flags_of_a_pipe_stay(app: Application) -> None:
    master, slave = pty.openpty()
    app.give(slave)
    app.give(master)
    reads, writes = os.pipe()
    app.give(reads)
    app.own(os.fdopen(writes, "wb", buffering=0))
    before = termios.tcgetattr(slave), fcntl.fcntl(reads, fcntl.F_GETFL)
    app.frozen().close()
    assert (termios.tcgetattr(slave), fcntl.fcntl(reads, fcntl.F_GETFL)) == before


# One duplicate of each; processes come and go.


def test_what_several_processes_and_descriptors_share_is_watched_once(app: Application) -> None:
    server, client = app.tcp()
    app.give(os.dup(server.fileno()))
    reads, writes = os.pipe()
    app.give(reads)
    app.give(writes)
    app.start()
    app.start()
    frozen = app.frozen()
    assert len(frozen) == 3  # the two ends of a pipe are two
    client.send(b"hello")
    assert frozen.ready() is Arrived.DATA


def test_processes_that_are_gone_have_nothing(app: Application) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    app.tcp()
    app.start()
    app.pids.insert(0, gone.pid)
    assert len(app.frozen()) == 1
    assert not FrozenSockets.take([gone.pid])


def test_renewing_finds_what_was_opened_and_lets_go_of_what_was_closed(app: Application) -> None:
    old, old_client = app.tcp()
    app.start()
    frozen = app.frozen()
    app._given.remove(old.fileno())
    _kept, new_client = app.tcp()
    # Another child stands in for the same one with another table.
    app.pids.clear()
    app.start()
    frozen.renew(app.pids)
    assert len(frozen) == 1
    old_client.send(b"hello")
    assert frozen.ready() is None
    new_client.send(b"hello")
    assert frozen.ready() is Arrived.DATA


def test_what_came_before_it_is_renewed_still_counts(app: Application) -> None:
    send = tcp4(app)
    app.start()
    frozen = app.frozen()
    send()
    frozen.renew(app.pids)
    assert frozen.ready() is Arrived.DATA


def test_what_comes_between_the_look_and_the_watch_counts(app: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    send = tcp4(app)
    looked = frozen_module._polled

    def looked_then_sent(descriptors: Iterable[int], events: int) -> list[tuple[int, int]]:
        found = looked(descriptors, events)
        send()
        return found

    monkeypatch.setattr(frozen_module, "_polled", looked_then_sent)
    assert app.frozen().ready() is Arrived.DATA


# Descriptors.


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


async def test_without_anything_nothing_ever_arrives(nursery: trio.Nursery) -> None:
    frozen = FrozenSockets()
    assert not frozen
    assert not frozen.ready()
    assert not frozen.pending()
    waiting = Waiting(frozen, nursery)
    await wait_all_tasks_blocked()
    assert waiting.arrived is None
    nursery.cancel_scope.cancel()


def test_closing_leaves_the_application_what_it_has_and_may_be_repeated(app: Application) -> None:
    server, client = app.tcp()
    pipe(app)
    app.start()
    before = descriptors()
    frozen = app.frozen()
    assert len(descriptors() - before) == 3  # two duplicates and the epoll set
    frozen.close()
    frozen.close()
    assert not frozen
    assert not frozen.ready()
    assert descriptors() == before
    client.sendall(b"hello")
    assert server.recv(10) == b"hello"


def test_an_end_of_the_application_is_one_once_the_duplicates_are_gone(app: Application) -> None:
    server, client = app.tcp()
    frozen = app.frozen()
    server.close()
    os.kill(app.pids[0], signal.SIGKILL)
    os.waitid(os.P_PID, app.pids[0], os.WEXITED | os.WNOWAIT)
    poll = select.poll()
    poll.register(client, select.POLLIN)
    assert not poll.poll(0)
    frozen.close()
    client.settimeout(PATIENCE)
    assert client.recv(1) == b""


def test_no_duplicate_is_inherited(app: Application) -> None:
    app.tcp()
    frozen = app.frozen()
    for descriptor in frozen._watched:
        assert not os.get_inheritable(descriptor)


@pytest.mark.parametrize("function", ["getfd", "epoll", "register"])
def test_nothing_stays_open_when_the_kernel_refuses(
    app: Application, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    app.tcp()
    app.tcp()
    app.start()
    before = descriptors()
    match function:
        case "getfd":
            monkeypatch.setattr(pidfd, "getfd", refuse)
        case "epoll":
            monkeypatch.setattr(select, "epoll", refuse)
        case _:
            monkeypatch.setattr(frozen_module, "_register", refuse)
    with pytest.raises(OSError, match="No space"):
        app.frozen()
    assert descriptors() == before


def test_a_refusal_to_watch_more_names_the_limit() -> None:
    class Full:
        def register(self, *_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="max_user_watches"):
        frozen_module._register(cast(select.epoll, Full()), 0, 0)


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    """The limit of open files, which the test may lower."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        yield before
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def crowd(app: Application) -> int:
    """Fill the gaps in the table, so that the next descriptor has the number that is returned."""
    highest = max(map(int, descriptors()))
    while (descriptor := app.own(open("/dev/null")).fileno()) <= highest:  # noqa: SIM115
        pass
    return descriptor + 1


def test_a_soft_limit_is_raised_while_it_is_needed(app: Application, limits: tuple[int, int]) -> None:
    for _ in range(20):
        app.tcp()
    app.start()
    lowered = (crowd(app) + 5, limits[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, lowered)
    first = app.frozen()
    assert len(first) == 20
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (limits[1], limits[1])
    second = app.frozen()
    first.close()
    second.close()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == lowered


def test_a_limit_that_is_still_needed_stays_raised(app: Application, limits: tuple[int, int]) -> None:
    limit = DescriptorLimit()
    lowered = (crowd(app) + 1, limits[1])
    with ExitStack() as opened:

        def open_file() -> int:
            descriptor = os.open("/dev/null", os.O_RDONLY)
            opened.callback(os.close, descriptor)
            return descriptor

        resource.setrlimit(resource.RLIMIT_NOFILE, lowered)
        for needed_by in ("first", "second"):
            for _ in range(8):
                limit.make(needed_by, open_file)
            resource.setrlimit(resource.RLIMIT_NOFILE, lowered)
        limit.release("a third, which never needed it")
        limit.make("first", open_file)
        limit.release("first")
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (limits[1], limits[1])
        limit.release("second")
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] < limits[1]


def test_a_hard_limit_that_is_too_low_is_said_in_words(app: Application) -> None:
    # In a process of its own, since the hard limit cannot be raised again.
    for _ in range(20):
        app.tcp()
    app.start()
    code = f"""
import os, resource
from zeropod.activator.hold.frozen import FrozenSockets
before = os.listdir("/proc/self/fd")
most = max(map(int, before)) + 10
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
try:
    FrozenSockets.take([{app.pids[0]}])
except OSError as error:
    print(error)
assert os.listdir("/proc/self/fd") == before
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "Too many open files: zeropod may not open more than" in said.stdout


def test_thousands_of_sockets_are_one_set(app: Application) -> None:
    pairs = [socket.socketpair() for _ in range(500)]
    for server, client in pairs:
        app.own(client)
        app.give(app.own(server))
    frozen = app.frozen()
    assert len(frozen) == 500
    pairs[217][1].send(b"hello")
    assert frozen.ready() is Arrived.DATA
    amount = array.array("i", [0])
    fcntl.ioctl(pairs[217][0], termios.FIONREAD, amount)
    assert frozen.pending().amounts == {inode(pairs[217][0]): amount[0]}
