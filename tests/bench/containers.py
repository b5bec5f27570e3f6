"""Containers to measure, and a way into their network."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

from tests.integration.containerd import Container, Containerd

from zeropod.kernel import namespace

OURS, PEER = "io.containerd.zeropod.v2", "io.containerd.runc.v2"
RUNTIMES = (OURS, PEER)

AWAKE = {"zeropod.ctrox.dev/scaledown-duration": "0"}


@dataclass(frozen=True)
class Application:
    """A program that answers, a question for it and how the right answer begins."""

    name: str
    image: str
    argv: tuple[str, ...]
    port: int
    question: bytes
    answer: bytes
    prepare: bytes = b""
    """Sent once, on a connection of its own, before anything is measured."""

    def ask(self) -> float:
        """Milliseconds from the connect to the first byte of the answer; inside the container's network."""
        return self.exchange(self.question, self.answer)

    def exchange(self, question: bytes, answer: bytes) -> float:
        began = time.perf_counter()
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(question)
            if not connection.recv(256).startswith(answer):
                raise OSError(f"{self.name} did not answer")
            return (time.perf_counter() - began) * 1000


REDIS = Application(
    "redis",
    "redis",
    ("redis-server", "--save", "", "--protected-mode", "no", "--port", "6379", "--enable-debug-command", "yes"),
    6379,
    b"PING\r\n",
    b"+PONG",
)
LARGE_REDIS = replace(
    REDIS, name="redis, 350 MB", question=b"GET key:5\r\n", answer=b"$", prepare=b"DEBUG POPULATE 300000 key 1000\r\n"
)
NGINX = Application(
    "nginx",
    "nginx",
    ("nginx", "-c", "/etc/nginx/nginx.conf"),
    80,
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"HTTP/1.1 200",
)
_SERVER = """
import http.server, sys
ballast = bytearray(b"x") * (int(sys.argv[1]) << 20)
http.server.ThreadingHTTPServer(("", 8000), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
PYTHON, LARGE_PYTHON = (
    Application(name, "python", ("python3", "-c", _SERVER, size), 8000, b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.0 ")
    for name, size in (("Python http.server", "0"), ("the same beside 350 MB", "350"))
)


@contextmanager
def running(
    client: Containerd, application: Application, runtime: str, annotations: Mapping[str, str]
) -> Iterator[Container]:
    """The application in a container, once it answers; its network is entered by `entered(container)`."""
    image = f"localhost/{application.image}:test"
    with client.container(*application.argv, runtime=runtime, image=image, annotations=annotations) as container:
        container.run()
        _networks[container.id] = os.open(f"/proc/{container.get().pid}/ns/net", os.O_RDONLY)
        with entered(container):
            deadline = time.monotonic() + 30
            while True:
                try:
                    application.ask() if not application.prepare else application.exchange(application.prepare, b"+OK")
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)
        yield container
        os.close(_networks.pop(container.id))


_networks: dict[str, int] = {}
"""Network namespaces by container: containerd knows the first pid only, which a sleep has made somebody else's."""


def entered(container: Container) -> AbstractContextManager[None]:
    return namespace.entered(_networks[container.id])


def run(*argv: str, cwd: str | None = None) -> str:
    """A command's output; raises CalledProcessError with its words."""
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()[-500:]}")
    return done.stdout
