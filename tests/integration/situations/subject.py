"""The application that gets into a situation: runs what a test tells it, and has memory to lose.

`PROGRAM` is the application, as `python3 -c` in a container; `Told` is a connection to it. A line is Python source in
JSON; its last expression is the answer. All lines share one namespace, which holds what is defined in the program.
"""

import hashlib
import json
import random
import socket
import textwrap
from typing import Any, Self

from tests.integration.patience import patient

MEBIBYTE = 1 << 20
BALLAST = 32
"""MiB that each subject has, so that the memory backends take it for something to move."""

PROGRAM = r"""
import array, ast, ctypes, fcntl, hashlib, json, mmap, os, random, resource, select, selectors, signal, socket, struct
import sys, termios, threading, time, traceback

port, megabytes = int(sys.argv[1]), int(sys.argv[2])
ballast = bytearray(megabytes << 20)
source = random.Random(port)
for at in range(0, len(ballast), 1 << 20):
    ballast[at:at + (1 << 20)] = source.randbytes(1 << 20)
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
kept = {}
x86 = os.uname().machine == "x86_64"

def call(number, *arguments):
    # A system call; numbers are passed as long, whatever ctypes makes of them.
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    result = libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def digest():
    return hashlib.sha256(ballast).hexdigest()

def status(pid="self"):
    lines = open(f"/proc/{pid}/status").read().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)

def run(source):
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "told", "exec"), globals())
    return eval(compile(ast.Expression(last.value), "told", "eval"), globals()) if last else None

def answer(connection, line):
    try:
        said = [True, run(json.loads(line))]
    except BaseException:
        said = [False, traceback.format_exc()]
    connection.sendall(json.dumps(said, default=repr).encode() + b"\n")

def serve():
    listener = socket.create_server(("", port), backlog=2048)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    unfinished = {}
    print("listening", flush=True)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                connection, _ = listener.accept()
                unfinished[connection] = b""
                selector.register(connection, selectors.EVENT_READ)
                continue
            connection = key.fileobj
            try:
                data = connection.recv(1 << 16)
            except ConnectionError:
                data = b""
            if not data:
                selector.unregister(connection)
                connection.close()
                del unfinished[connection]
                continue
            *lines, unfinished[connection] = (unfinished[connection] + data).split(b"\n")
            for line in lines:
                answer(connection, line)

if __name__ == "__main__":
    serve()
"""


def ballast(port: int, megabytes: int = BALLAST) -> str:
    """Return what `digest()` of a subject on this port has to be, however often it has slept."""
    source, found = random.Random(port), hashlib.sha256()
    for _ in range(megabytes):
        found.update(source.randbytes(MEBIBYTE))
    return found.hexdigest()


class Failed(AssertionError):  # noqa: N818 - named for what happened
    """What the subject was told raised there."""


class Told:
    """One connection to a subject. Raises OSError or EOFError where it is silent, reset or closed."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(patient(20.0))
        self.socket = connection
        self._reader = connection.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._reader.close()
        self.socket.close()

    def send(self, source: str) -> None:
        """Tell it without waiting for the answer."""
        self.socket.sendall(json.dumps(textwrap.dedent(source).strip()).encode() + b"\n")

    def answer(self) -> Any:
        line = self._reader.readline()
        if not line.endswith(b"\n"):
            raise EOFError(f"the subject closed the connection after {line!r}")
        fine, value = json.loads(line)
        if not fine:
            raise Failed(value)
        return value

    def __call__(self, source: str) -> Any:
        """Tell it to run this, and return the value of the last expression."""
        self.send(source)
        return self.answer()
