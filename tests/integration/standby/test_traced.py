"""A container in which a process is traced by its parent: only that one stays in memory, and it loses no request.

What is traced runs on while memory of the others is dropped. It may accept a connection meanwhile, and is frozen again
in the middle of its answer; nothing in any queue tells of that afterwards.
"""

import os
import random
import socket
import time
from collections.abc import Iterator

import pytest
from tests.integration.conftest import OURS
from tests.integration.containerd import Container, Containerd
from tests.integration.patience import patient
from tests.integration.sleep.helpers.shims import until

from zeropod.kernel import namespace

MEBIBYTE = 1 << 20
BALLAST = 160
"""MiB of the tracer's."""
ROUNDS = 60
SCALEDOWN = 0.2
ANNOTATIONS = {"zeropod.ctrox.dev/scaledown-duration": "200ms", "zeropod.ctrox.dev/standby-memory": "store"}

SERVER = """
import socket, time
with socket.create_server(("", 80)) as server:
    while True:
        connection, _ = server.accept()
        with connection:
            number = connection.recv(100)
            began = time.monotonic()
            while time.monotonic() < began + 0.005:
                pass
            connection.sendall(number)
"""

TRACER = f"""
import ctypes, os, signal, sys
PTRACE_TRACEME, PTRACE_CONT = 0, 7
libc = ctypes.CDLL(None)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
child = os.fork()
if child == 0:
    libc.ptrace(PTRACE_TRACEME, 0, None, None)
    os.execvp("python3", ["python3", "-c", {SERVER!r}])
ballast = bytearray(os.urandom(1 << 20)) * {BALLAST}
while True:
    _, status = os.waitpid(child, 0)
    if not os.WIFSTOPPED(status):
        sys.exit(1)
    number = os.WSTOPSIG(status)
    libc.ptrace(PTRACE_CONT, child, None, 0 if number == signal.SIGTRAP else number)
"""


class Client:
    """Asks the server from within its own network."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self._network = os.open(f"/proc/{container.get().pid}/ns/net", os.O_RDONLY)

    def ask(self, number: int) -> None:
        with namespace.entered(self._network):
            connection = socket.create_connection(("127.0.0.1", 80), timeout=patient(10))
        with connection:
            connection.sendall(b"%d" % number)
            assert connection.recv(100) == b"%d" % number

    def close(self) -> None:
        os.close(self._network)


@pytest.fixture
def client(containerd: Containerd) -> Iterator[Client]:
    with containerd.container(
        *("python3", "-c", TRACER), runtime=OURS, image="localhost/python:test", annotations=ANNOTATIONS
    ) as container:
        container.run()
        found = Client(container)
        try:
            deadline = time.monotonic() + patient(30)
            while True:
                try:
                    found.ask(0)
                    break
                except ConnectionRefusedError:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            yield found
        finally:
            found.close()


@pytest.mark.timeout(patient(300))
def test_no_request_is_lost_to_a_process_that_cannot_be_stopped(client: Client) -> None:
    def is_out() -> object:
        return until(
            client.container.id,
            lambda status: status.memory_out_bytes > BALLAST * MEBIBYTE * 0.9 and not status.memory_moving,
            "out, but for what is traced",
        )

    is_out()
    chance = random.Random(7)
    for number in range(ROUNDS):
        client.ask(number)
        time.sleep(SCALEDOWN + chance.uniform(0, 0.15))
        client.ask(number)
        if number % 10 == 0:
            is_out()
    is_out()
    status = until(client.container.id, lambda _: True)
    assert "stays in memory: it is traced by" in status.memory_why
