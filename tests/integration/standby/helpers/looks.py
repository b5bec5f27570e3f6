"""What the kernel knows of a frozen process and of a connection, looked up without touching either."""

import os
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from tests.integration.sleep.helpers.client import TIMEOUT, Session
from tests.integration.sleep.helpers.stage import App

from zeropod.kernel.namespace import entered
from zeropod.runtime import cgroups

ESTABLISHED = 1


def run_time(pid: int) -> int:
    """Nanoseconds that the threads of a process have had the CPU (/proc/PID/schedstat, the first number)."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
            total += int(file.read().split()[0])
    return total


def resident(pid: int) -> int:
    """Bytes that its cgroup keeps in memory; its program is not among them, though the node has that in a tmpfs."""
    return cgroups.of(pid).resident_bytes()


def started(pid: int) -> str:
    """When the process began, in ticks since the boot: with its pid, what makes it this one and no other."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[19]


def retransmitted(session: Session) -> int:
    """Packets that this end has sent again, the first of its handshake included (tcp_info.tcpi_total_retrans)."""
    return int(struct.unpack_from("I", _information(session), 100)[0])


def undisturbed(session: Session) -> bool:
    """Whether the other end has neither closed nor reset the connection, nor sent anything."""
    readable, _, _ = select.select([session.socket], [], [], 0)
    return not readable and _information(session)[0] == ESTABLISHED


def _information(session: Session) -> bytes:
    return session.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)


@contextmanager
def reachable_from(app: App) -> Iterator[socket.socket]:
    """A server of the test's, to which the application can connect."""
    with app.connect() as session:
        host = session.own_address
    if app.address:
        server = socket.create_server((host, 0))
    else:
        with entered(app.network):
            server = socket.create_server((host, 0))
    with server:
        server.settimeout(TIMEOUT)
        yield server


@contextmanager
def called_by(app: App) -> Iterator[Session]:
    """A connection that the application has made to the test, on which it answers as on any other."""
    with reachable_from(app) as server:
        with app.connect() as session:
            session.ask("dial {} {}".format(*server.getsockname()))
        connection, _ = server.accept()
    with Session(connection) as session:
        yield session
