"""The kubelet's probes, by a process of that name: `python3 kubelet.py KIND ADDRESS PORT SECONDS COUNT [NAME]`.

It connects as the kubelet's prober does: a connection for each probe, from the node's own address, a timeout of a
second, no keep-alive. A line for each probe goes to standard output: `ok` or `failed`, the milliseconds, the reason.
"""

import ctypes
import http.client
import os
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable

import h2.events
from h2.config import H2Configuration
from h2.connection import H2Connection

TIMEOUT = 1.0
AGENT = "kube-probe/1.34"
PR_SET_NAME = 15


def http_probe(address: str, port: int) -> None:
    _get(http.client.HTTPConnection(address, port, timeout=TIMEOUT), AGENT)


def unnamed_probe(address: str, port: int) -> None:
    """A probe whose `httpHeaders` replace the kubelet's User-Agent."""
    _get(http.client.HTTPConnection(address, port, timeout=TIMEOUT), "my-check/1")


def large_probe(address: str, port: int) -> None:
    _get(http.client.HTTPConnection(address, port, timeout=TIMEOUT), AGENT, {"X-Large": "x" * 2000})


def https_probe(address: str, port: int) -> None:
    context = ssl._create_unverified_context()
    _get(http.client.HTTPSConnection(address, port, timeout=TIMEOUT, context=context), AGENT)


def _get(connection: http.client.HTTPConnection, agent: str, more: dict[str, str] | None = None) -> None:
    headers = {"User-Agent": agent, "Accept": "*/*", "Connection": "close", **(more or {})}
    connection.request("GET", "/", headers=headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    if not 200 <= response.status < 400:
        raise ValueError(f"status {response.status}: {body[:80]!r}")


def tcp_probe(address: str, port: int) -> None:
    # The kubelet has its sockets wait a second at their end (SO_LINGER).
    with socket.create_connection((address, port), TIMEOUT) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 1))


def grpc_probe(address: str, port: int) -> None:
    """As grpc-go does it: nothing is asked before the server has sent SETTINGS. grpcio names its threads otherwise."""
    client = H2Connection(H2Configuration(header_encoding="utf-8"))
    client.initiate_connection()
    headers = [(":method", "POST"), (":scheme", "http"), (":path", "/grpc.health.v1.Health/Check")]
    headers += [(":authority", f"{address}:{port}"), ("content-type", "application/grpc"), ("te", "trailers")]
    asked, answer, status = False, b"", ""
    with socket.create_connection((address, port), TIMEOUT) as connection:
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


KINDS: dict[str, Callable[[str, int], None]] = {
    "http": http_probe,
    "unnamed": unnamed_probe,
    "large": large_probe,
    "https": https_probe,
    "tcp": tcp_probe,
    "grpc": grpc_probe,
}


def main() -> None:
    kind, address, port, seconds, count, *name = sys.argv[1:]
    ctypes.CDLL(None).prctl(PR_SET_NAME, (name[0] if name else "kubelet").encode(), 0, 0, 0)
    print("pid", os.getpid(), flush=True)
    for _ in range(int(count)):
        started = time.monotonic()
        try:
            KINDS[kind](address, int(port))
        except Exception as error:  # noqa: BLE001 - whatever it is, the probe has failed
            outcome, reason = "failed", repr(error).replace("\n", " ")
        else:
            outcome, reason = "ok", ""
        took = time.monotonic() - started
        print(outcome, f"{took * 1000:.1f}", reason, flush=True)
        time.sleep(max(0.0, float(seconds) - took))


if __name__ == "__main__":
    main()
