"""The kubelet's probes, by a process of that name: `kubelet.py ADDRESS SECONDS COUNT TIMEOUT KIND[/PATH]:PORT...`.

It connects as the kubelet's prober does: a connection for each probe, from the node's own address (for HTTP, the one
that SOURCE in the environment names), no keep-alive, a thread for each of the probes. A line for each connection goes
to standard output: the probe's position in the arguments, `ok` or `failed`, the milliseconds, the reason.

With THREAD in the environment the threads have that name, and not the process's: so do packets appear that the kernel
has put off, and receives in the context of some task.
"""

import ctypes
import http.client
import os
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable

import h2.events
from h2.config import H2Configuration
from h2.connection import H2Connection

SOURCE = (os.environ["SOURCE"], 0) if "SOURCE" in os.environ else None
AGENT = "kube-probe/1.34"
PR_SET_NAME = 15


def http_probe(address: str, port: int, path: str, timeout: float) -> None:
    _get(_plain(address, port, timeout), AGENT, path)


def unnamed_probe(address: str, port: int, path: str, timeout: float) -> None:
    """A probe whose `httpHeaders` replace the kubelet's User-Agent."""
    _get(_plain(address, port, timeout), "my-check/1", path)


def large_probe(address: str, port: int, path: str, timeout: float) -> None:
    _get(
        http.client.HTTPConnection(address, port, timeout=timeout, source_address=SOURCE),
        AGENT,
        path,
        {"X-Large": "x" * 2000},
    )


def https_probe(address: str, port: int, path: str, timeout: float) -> None:
    context = ssl._create_unverified_context()
    _get(http.client.HTTPSConnection(address, port, timeout=timeout, context=context), AGENT, path)


def _plain(address: str, port: int, timeout: float) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(address, port, timeout=timeout, source_address=SOURCE)


def _get(connection: http.client.HTTPConnection, agent: str, path: str, more: dict[str, str] | None = None) -> None:
    headers = {"User-Agent": agent, "Accept": "*/*", "Connection": "close", **(more or {})}
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    if not 200 <= response.status < 400:
        raise ValueError(f"status {response.status}: {body[:80]!r}")


def tcp_probe(address: str, port: int, path: str, timeout: float) -> None:
    # The kubelet has its sockets wait a second at their end (SO_LINGER).
    with socket.create_connection((address, port), timeout) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 1))


def grpc_probe(address: str, port: int, path: str, timeout: float) -> None:
    """As grpc-go does it: nothing is asked before the server has sent SETTINGS. grpcio names its threads otherwise."""
    client = H2Connection(H2Configuration(header_encoding="utf-8"))
    client.initiate_connection()
    headers = [(":method", "POST"), (":scheme", "http"), (":path", "/grpc.health.v1.Health/Check")]
    headers += [(":authority", f"{address}:{port}"), ("content-type", "application/grpc"), ("te", "trailers")]
    asked, answer, status = False, b"", ""
    with socket.create_connection((address, port), timeout) as connection:
        while not status:
            connection.sendall(client.data_to_send())
            if not (data := connection.recv(1 << 16)):
                raise ConnectionError("closed without an answer")
            for event in client.receive_data(data):
                if isinstance(event, h2.events.RemoteSettingsChanged) and not asked:
                    asked = True
                    client.send_headers(1, [*headers, ("user-agent", f"{AGENT} grpc-go/1.72")])
                    client.send_data(1, bytes(5), end_stream=True)
                elif isinstance(event, h2.events.DataReceived):
                    answer += event.data
                elif isinstance(event, h2.events.TrailersReceived | h2.events.ResponseReceived):
                    found = {str(name): str(value) for name, value in event.headers}
                    status = found.get("grpc-status", status)
    if (answer, status) != (b"\0\0\0\0\2\x08\1", "0"):
        raise ValueError(f"not serving: {answer!r}, status {status!r}")


KINDS: dict[str, Callable[[str, int, str, float], None]] = {
    "http": http_probe,
    "unnamed": unnamed_probe,
    "large": large_probe,
    "https": https_probe,
    "tcp": tcp_probe,
    "grpc": grpc_probe,
}


def main() -> None:
    address, seconds, count, timeout, *probes = sys.argv[1:]
    take_name()
    for position, subject in enumerate(probes):
        threading.Thread(
            target=probe, args=(position, subject, address, float(seconds), int(count), float(timeout))
        ).start()


def take_name(name: str = "kubelet") -> None:
    """That of the calling thread; a Python of 3.14 gives each its own."""
    ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode(), 0, 0, 0)


def probe(position: int, subject: str, address: str, seconds: float, count: int, timeout: float) -> None:
    take_name(os.environ.get("THREAD", "kubelet"))
    what, _, port = subject.rpartition(":")
    kind, _, path = what.partition("/")
    for _ in range(count):
        started = time.monotonic()
        try:
            KINDS[kind](address, int(port), f"/{path}", timeout)
        except Exception as error:  # noqa: BLE001 - whatever it is, the probe has failed
            outcome, reason = "failed", repr(error).replace("\n", " ")
        else:
            outcome, reason = "ok", ""
        took = time.monotonic() - started
        sys.stdout.write(f"{position} {outcome} {took * 1000:.1f} {reason}\n")
        sys.stdout.flush()
        time.sleep(max(0.0, seconds - took))


if __name__ == "__main__":
    main()
