"""The host's end of the port: runs one command in the machine, with our own streams, until it ends."""

import json
import os
import secrets
import selectors
import shutil
import signal
import socket
import sys
import termios
import time
import tty
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from tests.node.cache import NodeError
from tests.node.vm.frames import Decoder, Frame, Kind

CHUNK = 1 << 16


class Conversation:
    """With the agent of one machine, whose every command ends before the next one."""

    def __init__(self, port: socket.socket) -> None:
        self._port = port
        self._decoder = Decoder()

    def until_ready(self, timeout: float) -> None:
        """Wait until the agent of a machine that boots is there. Raises NodeError when it does not come."""
        deadline = time.monotonic() + timeout
        while not any(frame.kind is Kind.READY for frame in self._receive(deadline)):
            pass

    def run(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        directory: str = "/",
        timeout: float,
        attached: bool = False,
        output: int = 1,
    ) -> int:
        """Run a command, print what it prints (its output to the descriptor `output`), return its exit status.

        `attached` gives it our standard input, and a terminal if we have one. Raises NodeError after `timeout` seconds
        and when the machine ends; a signal's exception passes through, the command going on (see `interrupt`).
        """
        terminal = attached and sys.stdin.isatty() and sys.stdout.isatty()
        request = {
            "command": list(command),
            "environment": dict(environment or {}),
            "directory": directory,
            "terminal": _size() if terminal else None,
            "now": time.time(),
            "entropy": secrets.token_hex(64),
        }
        self._send(Kind.RUN, json.dumps(request).encode())
        if not attached:
            self._send(Kind.INPUT)
        with raw_terminal() if terminal else _nothing():
            return self._until_it_ends(command, time.monotonic() + timeout, attached, output)

    def interrupt(self, number: signal.Signals, timeout: float) -> int:
        """Send a signal to the command that runs and go on with it for at most `timeout` seconds more."""
        self._send(Kind.SIGNAL, b"%d" % number)
        return self._until_it_ends(["the command"], time.monotonic() + timeout, False)

    def _until_it_ends(self, command: Sequence[str], deadline: float, attached: bool, output: int = 1) -> int:
        with selectors.DefaultSelector() as selector:
            selector.register(self._port, selectors.EVENT_READ)
            if attached:
                _register_input(selector)
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise NodeError(f"{' '.join(command)} has not ended in time; --timeout gives it more")
                for key, _ in selector.select(left):
                    if key.fileobj is self._port:
                        for frame in self._receive(deadline):
                            if frame.kind is Kind.STATUS:
                                return int(frame.data)
                            _show(frame, output)
                    else:
                        data = os.read(key.fd, CHUNK)
                        self._send(Kind.INPUT, data)
                        if not data:
                            selector.unregister(key.fd)

    def _send(self, kind: Kind, data: bytes = b"") -> None:
        try:
            self._port.sendall(bytes(Frame(kind, data)))
        except BrokenPipeError:
            raise NodeError("the machine has ended") from None

    def _receive(self, deadline: float) -> list[Frame]:
        self._port.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            data = self._port.recv(CHUNK)
        except TimeoutError:
            raise NodeError("the machine has said nothing in time") from None
        finally:
            self._port.settimeout(None)
        if not data:
            raise NodeError("the machine has ended")
        return self._decoder.feed(data)


def _register_input(selector: selectors.BaseSelector) -> None:
    # A plain file, such as /dev/null redirected by a shell, is always ready, but epoll does not take it.
    with suppress(PermissionError):
        selector.register(0, selectors.EVENT_READ)


def _show(frame: Frame, output: int) -> None:
    descriptor = {Kind.OUTPUT: output, Kind.ERRORS: 2}.get(frame.kind)
    rest = memoryview(frame.data)
    while descriptor and rest:
        rest = rest[os.write(descriptor, rest) :]


def _size() -> tuple[int, int]:
    size = shutil.get_terminal_size()
    return size.lines, size.columns


@contextmanager
def raw_terminal() -> Iterator[None]:
    """Our terminal passes every key on: it is the machine's that makes a signal of Ctrl-C."""
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextmanager
def _nothing() -> Iterator[None]:
    yield
