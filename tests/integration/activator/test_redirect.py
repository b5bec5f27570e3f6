"""Redirecting and proxying with the real sk_lookup program, between two network namespaces of their own (root)."""

import contextlib
import os
import resource
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import trio

from zeropod.activator.redirect import Redirect
from zeropod.kernel import namespace
from zeropod.kernel.lookup import Lookup, LookupUnavailable
from zeropod.kernel.sock_diag import SockDiag, TcpState

POD4, POD6 = "10.77.0.2", "fd77::2"
CLIENT4, CLIENT6 = "10.77.0.1", "fd77::1"
PORT, OTHER_PORT = 8080, 9090

# It answers each line at once with "<peer's address> <line>"; at the end of input it says how much it got, and closes.
APPLICATION = """
import asyncio, socket, struct, sys
async def serve(reader, writer):
    peer = writer.get_extra_info("peername")[0]
    total = 0
    try:
        while line := await reader.readline():
            total += len(line)
            if line == b"reset\\n":
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.close()
                return
            if line == b"bulk\\n":
                while data := await reader.read(1 << 20):
                    writer.write(data)
                    await writer.drain()
                break
            writer.write(peer.encode() + b" " + line)
        else:
            writer.write(b"total %d\\n" % total)
        await writer.drain()
    except ConnectionError:
        pass
    writer.close()
async def main():
    servers = []
    for port in map(int, sys.argv[1:]):
        servers.append(await asyncio.start_server(serve, ["0.0.0.0", "::"], port, backlog=4096))
    print("listening", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


class Pod:
    """A network namespace with an application that starts on request, and another where its clients are."""

    def __init__(self, directory: Path) -> None:
        self.netns, self.clients = str(directory / "pod"), str(directory / "clients")
        self.lookup: Lookup

    def command(self, *argv: str, netns: str = "") -> None:
        subprocess.run(["nsenter", f"--net={netns or self.netns}", *argv], check=True, timeout=10)

    def link(self) -> None:
        self.command("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", self.clients)
        for netns, addresses in ((self.netns, (POD4, POD6)), (self.clients, (CLIENT4, CLIENT6))):
            self.command("ip", "address", "add", f"{addresses[0]}/24", "dev", "eth0", netns=netns)
            self.command("ip", "address", "add", f"{addresses[1]}/64", "dev", "eth0", "nodad", netns=netns)
            self.command("ip", "link", "set", "eth0", "up", netns=netns)

    @contextlib.contextmanager
    def application(self, *ports: int) -> Iterator["subprocess.Popen[bytes]"]:
        """Returns when it listens."""
        argv = ["nsenter", f"--net={self.netns}", sys.executable, "-c", APPLICATION, *map(str, ports or (PORT,))]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"listening\n"
                yield process
            finally:
                process.kill()

    async def connect(self, address: str = POD4, port: int = PORT, inside: bool = False) -> trio.SocketStream:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with namespace.entered(self.netns if inside else self.clients):
            sock = trio.socket.from_stdlib_socket(socket.socket(family))
        try:
            await sock.connect((address, port))
        except BaseException:
            sock.close()
            raise
        return trio.SocketStream(sock)

    async def ask(self, question: bytes, address: str = POD4, port: int = PORT, inside: bool = False) -> bytes:
        """Sends a line at once, half-closes, and returns all that is answered."""
        async with await self.connect(address, port, inside) as stream:
            await stream.send_all(question + b"\n")
            await stream.send_eof()
            return b"".join([data async for data in stream])

    @asynccontextmanager
    async def redirected(self, *ports: int, **options: Any) -> AsyncIterator[Redirect]:
        """Ends with the redirect closed, and fails if it does not end by itself then."""
        redirect = Redirect(self.netns, ports or (PORT,), self.lookup, **options)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                await nursery.start(redirect.run)
                yield redirect
                redirect.close()


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    pod = Pod(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    with contextlib.ExitStack() as undo:
        for path in (pod.netns, pod.clients):
            namespace.create_pinned(path)
            undo.callback(namespace.unpin, path)
        pod.link()
        try:
            pod.lookup = undo.enter_context(closing(Lookup.attach(pod.netns)))
        except LookupUnavailable as reason:
            pytest.skip(str(reason))
        yield pod
    assert len(os.listdir("/proc/self/fd")) <= before, "descriptors are left over"


def reset(stream: trio.SocketStream) -> None:
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextlib.contextmanager
def no_free_descriptors() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as undo:
        undo.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, limits[1]))
        with contextlib.suppress(OSError):
            while True:
                undo.callback(os.close, os.dup(0))
        yield


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(30):
        while not condition():  # noqa: ASYNC110 - nobody tells of a change in the kernel
            await trio.sleep(0.01)


async def test_fifty_clients_that_come_before_the_application_are_all_served(pod: Pod) -> None:
    answers: dict[int, tuple[str, bytes]] = {}

    async def client(number: int) -> None:
        address, inside = ((POD4, False), (POD6, False), (POD4, True), ("127.0.0.1", True), ("::1", True))[number % 5]
        answers[number] = address, await pod.ask(b"%d" % number, address, inside=inside)

    async with pod.redirected() as redirect, trio.open_nursery() as clients:
        for number in range(50):
            clients.start_soon(client, number)
        await redirect.connection()
        await trio.sleep(0.3)
        assert not answers
        with pod.application():
            redirect.ready()
            await until(lambda: len(answers) == 50)
    for number, (address, answer) in answers.items():
        # What a proxied connection shows of its client is the very address that the client asked for.
        assert answer == f"{address} {number}\ntotal {len(str(number)) + 1}\n".encode()


async def test_later_connections_go_to_the_application_itself(pod: Pod) -> None:
    async with pod.redirected() as redirect, trio.open_nursery() as clients:
        clients.start_soon(pod.ask, b"first")
        await redirect.connection()
        with pod.application():
            redirect.ready()
            assert (await pod.ask(b"x")).startswith(CLIENT4.encode())
            assert (await pod.ask(b"x", POD6)).startswith(CLIENT6.encode())


async def test_no_connection_is_lost_while_the_steering_goes_off(pod: Pod) -> None:
    served = 0

    async def client(address: str, inside: bool) -> None:
        nonlocal served
        while True:
            assert b"hello\ntotal 6\n" in await pod.ask(b"hello", address, inside=inside)
            served += 1

    with pod.application():
        async with trio.open_nursery() as clients:
            for address, inside in ((POD4, False), (POD6, False), ("127.0.0.1", True)) * 4:
                clients.start_soon(client, address, inside)
            for _ in range(60):
                async with trio.open_nursery() as nursery:
                    redirect = Redirect(pod.netns, [PORT], pod.lookup, linger=0.05)
                    await nursery.start(redirect.run)
                    await redirect.connection()
                    redirect.ready()
            clients.cancel_scope.cancel()
    assert served > 500


async def test_a_handshake_that_ends_after_the_steering_did_is_still_served(pod: Pod) -> None:
    wrong, neighbour = "02:00:00:00:00:01", ("ip", "neighbour", "replace", CLIENT4, "dev", "eth0")
    pod.command(*neighbour, "lladdr", wrong)  # SYN+ACK goes astray, until it is repeated after a second
    async with pod.redirected() as redirect, trio.open_nursery() as clients:
        answer = b""

        async def client() -> None:
            nonlocal answer
            answer = await pod.ask(b"slow")

        clients.start_soon(client)
        await trio.sleep(0.2)
        with pod.application():
            redirect.ready()
            pod.command("ip", "neighbour", "delete", CLIENT4, "dev", "eth0")
            await until(lambda: bool(answer))
    assert answer == f"{POD4} slow\ntotal 5\n".encode()


async def test_run_ends_by_itself_when_all_is_done(pod: Pod) -> None:
    with pod.application():
        async with trio.open_nursery() as nursery:
            redirect = Redirect(pod.netns, [PORT], pod.lookup, linger=0.1)
            await nursery.start(redirect.run)
            stream = await pod.connect()
            redirect.ready()
            await trio.sleep(0.3)
            assert nursery.child_tasks
            await stream.send_all(b"still proxied\n")
            assert b"still proxied" in await stream.receive_some()
            with trio.fail_after(5):
                await stream.aclose()


async def test_ports_are_handed_back_one_by_one(pod: Pod) -> None:
    async with pod.redirected(PORT, OTHER_PORT) as redirect:
        async with await pod.connect(port=OTHER_PORT) as waiting:
            with pod.application(PORT):
                redirect.ready({PORT, 1})
                assert (await pod.ask(b"x")).startswith(CLIENT4.encode())
                with pod.application(OTHER_PORT):
                    redirect.ready()
                    await waiting.send_all(b"y\n")
                    assert await waiting.receive_some() == f"{POD4} y\n".encode()


async def test_the_next_redirect_is_not_disturbed_by_the_last_ones_end(pod: Pod) -> None:
    async with trio.open_nursery() as nursery:
        first = Redirect(pod.netns, [PORT], pod.lookup, linger=0.1)
        await nursery.start(first.run)
        first.ready()
        async with pod.redirected() as second:
            await trio.sleep(0.3)
            first.ready()
            async with await pod.connect():
                await second.connection()


async def test_large_data_passes_unchanged_both_ways_at_once(pod: Pod) -> None:
    size, block = 64 << 20, os.urandom(1 << 20)
    async with pod.redirected() as redirect, trio.open_nursery() as nursery:
        stream = await pod.connect()
        with pod.application():
            redirect.ready()

            async def send() -> None:
                await stream.send_all(b"bulk\n")
                for _ in range(size // len(block)):
                    await stream.send_all(block)
                await stream.send_eof()

            nursery.start_soon(send)
            received = bytearray()
            async for data in stream:
                received += data
            await stream.aclose()
    assert received == block * (size // len(block))


async def test_a_slow_reader_gets_everything_despite_a_short_proxy_timeout(pod: Pod) -> None:
    size = 400 << 10  # at less than 100 KiB/s: what the proxy reads at once takes longer than the timeout
    async with pod.redirected(proxy_timeout=1.0) as redirect:
        stream = await pod.connect()
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        with pod.application():
            redirect.ready()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, b"bulk\n" + bytes(size))
                received = 0
                while received < size:
                    await trio.sleep(0.02)
                    data = await stream.receive_some(2 << 10)
                    assert data
                    received += len(data)
            assert await stream.receive_some() == b""
            await stream.aclose()
    assert received == size


async def test_a_quiet_connection_is_closed_after_the_proxy_timeout(pod: Pod) -> None:
    async with pod.redirected(proxy_timeout=0.2) as redirect:
        async with await pod.connect() as stream:
            with pod.application():
                redirect.ready()
                await stream.send_all(b"x\n")
                assert await stream.receive_some() == f"{POD4} x\n".encode()
                with trio.fail_after(2):
                    assert await stream.receive_some() == b""


async def test_a_connection_is_reset_when_the_application_does_not_listen_in_time(pod: Pod) -> None:
    async with pod.redirected(connect_timeout=0.3) as redirect:
        for asked_to_connect in (False, True):
            async with await pod.connect(POD6) as stream:
                if asked_to_connect:
                    redirect.ready()
                started = trio.current_time()
                with pytest.raises(trio.BrokenResourceError), trio.fail_after(5):
                    await stream.receive_some()
                assert trio.current_time() - started > 0.25


async def test_a_connection_waits_until_the_application_listens(pod: Pod) -> None:
    async with pod.redirected() as redirect:
        async with await pod.connect() as stream:
            await redirect.connection()
            redirect.ready()
            await trio.sleep(0.5)
            with pod.application():
                await stream.send_all(b"x\n")
                assert await stream.receive_some() == f"{POD4} x\n".encode()


async def test_the_end_of_the_container_resets_what_waits_and_what_is_proxied(pod: Pod) -> None:
    before = descriptors()
    with pod.application():
        async with pod.redirected(PORT, OTHER_PORT) as redirect:
            proxied, waiting = await pod.connect(), await pod.connect(port=OTHER_PORT)
            redirect.ready({PORT})
            await proxied.send_all(b"x\n")
            await proxied.receive_some()
        for stream in (proxied, waiting):
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
            await stream.aclose()
        assert descriptors() <= before + 1  # the application's output
        assert (await pod.ask(b"x")).startswith(CLIENT4.encode()), "still steered"
        with pytest.raises(ConnectionRefusedError):
            await pod.connect(port=OTHER_PORT)


async def test_a_reset_by_the_application_reaches_the_client(pod: Pod) -> None:
    async with pod.redirected() as redirect:
        async with await pod.connect() as stream:
            with pod.application():
                redirect.ready()
                await stream.send_all(b"x\n")
                assert await stream.receive_some() == f"{POD4} x\n".encode()
                await stream.send_all(b"reset\n")
                with pytest.raises(trio.BrokenResourceError):
                    await stream.receive_some()


async def test_clients_that_reset_leave_nothing_behind(pod: Pod) -> None:
    async with pod.redirected() as redirect:
        before = descriptors()
        for _ in range(100):
            reset(await pod.connect())
        waiting = [await pod.connect() for _ in range(100)]
        with_data = [await pod.connect() for _ in range(100)]
        for stream in with_data:
            await stream.send_all(b"data that nobody has read\n")
        await redirect.connection()
        for stream in waiting + with_data:
            reset(stream)
        await until(lambda: descriptors() <= before)
        with pod.application():
            redirect.ready()
            open_with_application = descriptors()
            proxied = [await pod.connect() for _ in range(20)]
            for stream in proxied:
                await stream.send_all(b"x\n")
                await stream.receive_some()
            for stream in proxied:
                reset(stream)
            await until(lambda: descriptors() <= open_with_application)


async def test_a_thousand_clients_are_served(pod: Pod) -> None:
    done = 0

    async def client() -> None:
        nonlocal done
        assert b" x\n" in await pod.ask(b"x")
        done += 1

    async with pod.redirected() as redirect, trio.open_nursery() as clients:
        for _ in range(1000):
            clients.start_soon(client)
        await redirect.connection()
        await trio.sleep(0.3)
        with pod.application():
            redirect.ready()
            await until(lambda: done == 1000)


async def test_more_clients_than_descriptors_wait_their_turn(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zeropod.activator.listeners._share_of_descriptors", lambda: 3)
    done = 0

    async def client(address: str) -> None:
        nonlocal done
        assert b" x\n" in await pod.ask(b"x", address)
        done += 1

    with pod.application():
        async with pod.redirected(linger=0.0) as redirect, trio.open_nursery() as clients:
            for number in range(50):
                clients.start_soon(client, (POD4, POD6)[number % 2])
            await redirect.connection()
            await trio.sleep(0.2)
            redirect.ready()
            await until(lambda: done == 50)


async def test_without_free_descriptors_connections_wait(pod: Pod) -> None:
    async with pod.redirected() as redirect, contextlib.AsyncExitStack() as undo:
        with namespace.entered(pod.clients):
            sockets = [trio.socket.from_stdlib_socket(socket.socket()) for _ in range(10)]
        streams = [await undo.enter_async_context(trio.SocketStream(sock)) for sock in sockets]
        with no_free_descriptors():
            for sock in sockets:
                await sock.connect((POD4, PORT))
            with trio.move_on_after(0.3) as nobody:
                await redirect.connection()
        assert nobody.cancelled_caught
        with pod.application():
            await redirect.connection()
            redirect.ready()
            for stream in streams:
                await stream.send_all(b"x\n")
                assert await stream.receive_some() == f"{POD4} x\n".encode()


async def test_who_waits_for_an_application_that_dies_comes_to_the_next_redirect(pod: Pod) -> None:
    async with pod.redirected() as first:
        async with await pod.connect() as stream:
            await stream.send_all(b"x\n")
            await first.connection()
            first.ready()
            async with pod.redirected() as second:
                await second.connection()
                with pod.application():
                    second.ready()
                    assert await stream.receive_some() == f"{POD4} x\n".encode()


async def test_a_mistake_of_ours_ends_one_connection_and_nothing_else(
    pod: Pod, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def mistaken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    with pod.application():
        async with pod.redirected() as redirect:
            with monkeypatch.context() as patched:
                patched.setattr("zeropod.activator.redirect.forward", mistaken)
                async with await pod.connect() as stream:
                    assert await stream.receive_some() == b""
            assert "after an unexpected error" in caplog.text
            async with await pod.connect() as stream:
                redirect.ready()
                await stream.send_all(b"x\n")
                assert await stream.receive_some() == f"{POD4} x\n".encode()


async def test_our_own_port_leads_nowhere(pod: Pod) -> None:
    async with pod.redirected() as redirect:
        with closing(SockDiag(pod.netns)) as sockets:
            listeners = sockets.tcp({TcpState.LISTEN})
        ports = {listener.local[1] for listener in listeners if listener.family == socket.AF_INET}
        assert len(ports) == 1
        with pytest.raises(ConnectionRefusedError):
            await pod.connect(port=min(ports))  # it is on loopback only
        async with await pod.connect("127.0.0.1", min(ports), inside=True) as stream:
            assert await stream.receive_some() == b""
        with trio.move_on_after(0.1) as nobody:
            await redirect.connection()
        assert nobody.cancelled_caught


async def test_no_ports_and_no_namespace_are_errors_before_anything_is_open(pod: Pod) -> None:
    with pytest.raises(ValueError, match="no ports"):
        Redirect(pod.netns, [], pod.lookup)
    with pytest.raises(FileNotFoundError):
        await Redirect(pod.netns + "-missing", [PORT], pod.lookup).run()
