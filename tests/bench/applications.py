"""Programs to put to sleep: how each is started, what it is asked and how the right answer begins."""

import socket
import time
from dataclasses import dataclass, replace

LOADS = 120.0
"""Seconds for a question to be answered; filling a redis is one, too."""


@dataclass(frozen=True)
class Application:
    name: str
    image: str
    argv: tuple[str, ...]
    port: int
    question: bytes
    answer: bytes
    prepare: bytes = b""
    """Sent once, on a connection of its own, before anything is measured; the answer begins with `+OK`."""
    stays: bool = True
    """Whether the connection stays after an answer."""

    def ask(self) -> float:
        """Milliseconds from the connect to the first byte of the answer; inside the container's network."""
        return self.exchange(self.question, self.answer)

    def exchange(self, question: bytes, answer: bytes) -> float:
        began = time.perf_counter()
        with socket.create_connection(("127.0.0.1", self.port), timeout=LOADS) as connection:
            self._exchange(connection, question, answer)
            return (time.perf_counter() - began) * 1000

    def ask_on(self, connection: socket.socket) -> float:
        """The same on a connection that is open already, from the question on."""
        began = time.perf_counter()
        self._exchange(connection, self.question, self.answer)
        return (time.perf_counter() - began) * 1000

    def _exchange(self, connection: socket.socket, question: bytes, answer: bytes) -> None:
        connection.sendall(question)
        if not connection.recv(4096).startswith(answer):
            raise OSError(f"{self.name} did not answer")


REDIS = Application(
    "redis 5 MB",
    "redis",
    ("redis-server", "--save", "", "--protected-mode", "no", "--port", "6379", "--enable-debug-command", "yes"),
    6379,
    b"PING\r\n",
    b"+PONG",
)


def redis(name: str, keys: int) -> Application:
    """One with so many keys of a kilobyte, of which one is asked for.

    Each is asked for once beforehand: while redis moves its table to a larger one, step by step with each command and
    ten times a second, every step reads keys anywhere in memory. That lasts for a minute of being awake.
    """
    return replace(
        REDIS,
        name=f"redis {name}",
        question=b"GET key:5\r\n",
        answer=b"$",
        prepare=b"DEBUG POPULATE %d key 1000\r\n"
        b"EVAL \"for i = 0, %d do redis.call('STRLEN', 'key:' .. i) end\" 0\r\n" % (keys, keys - 1),
    )


REDIS_60M, REDIS_350M, REDIS_2G = redis("60 MB", 50_000), redis("350 MB", 300_000), redis("2 GB", 1_750_000)

NGINX = Application(
    "nginx",
    "nginx",
    ("nginx", "-c", "/etc/nginx/nginx.conf"),
    80,
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HTTP/1.1 200",
)

JVM = Application(
    "JVM",
    "jvm",
    ("sh", "-c", "exec /usr/lib/jvm/java-*/bin/java -cp / Server"),
    8080,
    b"GET /count HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"HTTP/1.1 200",
    stays=False,
)
"""HotSpot with its default options and an HTTP server of the JDK's."""

_SERVER = """
import sys, http.server
for name in sys.argv[2:]:
    __import__(name)
ballast = bytearray(b"x") * (int(sys.argv[1]) << 20)
http.server.ThreadingHTTPServer(("", 8000), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
_IMPORTS = (
    "argparse asyncio calendar concurrent.futures configparser csv ctypes dataclasses datetime decimal difflib "
    "email.mime.text fractions ftplib gettext html.parser imaplib inspect ipaddress json logging.config mailbox "
    "multiprocessing optparse pathlib pdb pickle pkgutil platform plistlib pprint pydoc queue random shelve shlex "
    "smtplib socketserver statistics string tarfile tempfile textwrap tokenize traceback typing unittest.mock "
    "urllib.request uuid wave xml.dom.minidom xml.etree.ElementTree xmlrpc.client zipfile zoneinfo"
)


def python(name: str, megabytes: int, imports: str = "") -> Application:
    argv = ("python3", "-c", _SERVER, str(megabytes), *imports.split())
    return Application(name, "python", argv, 8000, b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.0 ", stays=False)


PYTHON = python("Python app", 0, _IMPORTS)
"""A server with a good part of the standard library imported."""
PYTHON_350M = python("Python beside 350 MB", 350)
