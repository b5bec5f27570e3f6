"""Runs in the machine, as a service: takes commands from the host through a virtio port, one after the other.

It is started before the machine's memory is kept, so that a resumed machine has it running, with no start of an
interpreter in between. Such a machine believes that it is the moment when it was kept, and would draw the same random
numbers in every run: each request brings the time and some entropy.
"""

import fcntl
import json
import os
import pty
import selectors
import signal
import struct
import subprocess
import sys
import termios
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.node.vm.frames import Decoder, Frame, Kind

PORTS = Path("/sys/class/virtio-ports")
NAME = "node"

# <linux/random.h>
RNDADDENTROPY = 0x40085203
RNDRESEEDCRNG = 0x5207

CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Request:
    """A command for the machine. `terminal` is its rows and columns, or nothing for three pipes; `now` is UNIX time."""

    command: Sequence[str]
    environment: Mapping[str, str]
    directory: str
    terminal: tuple[int, int] | None
    now: float
    entropy: str

    @classmethod
    def of(cls, data: bytes) -> "Request":
        return cls(**json.loads(data))


class Port:
    """The machine's end of the port."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDWR)
        self.frames = deque[Frame]()
        self._decoder = Decoder()

    def send(self, kind: Kind, data: bytes = b"") -> None:
        rest = memoryview(bytes(Frame(kind, data)))
        while rest:
            rest = rest[os.write(self.descriptor, rest) :]

    def receive(self) -> None:
        """Put what comes next into `frames`. At the end of file the host has gone, for good or to be replaced."""
        data = os.read(self.descriptor, CHUNK)
        if not data:
            time.sleep(0.1)
        self.frames += self._decoder.feed(data)


class Child:
    """The command's process, and its three streams or its terminal."""

    def __init__(self, request: Request) -> None:
        self._pending = bytearray()
        self._input_ends = False
        own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment = {**own, **request.environment}
        if request.terminal:
            self.pid, terminal = pty.fork()
            if self.pid == 0:
                signal.signal(signal.SIGPIPE, signal.SIG_DFL)
                os.chdir(request.directory)
                os.execvpe(request.command[0], list(request.command), environment)
            self.resize(terminal, *request.terminal)
            self.outputs = {terminal: Kind.OUTPUT}
            self.input: int | None = terminal
            self.terminal: int | None = terminal
        else:
            ends = [os.pipe() for _ in range(3)]
            (to_read, self.input), (out, to_write), (errors, to_complain) = ends
            self.pid = subprocess.Popen(
                list(request.command),
                stdin=to_read,
                stdout=to_write,
                stderr=to_complain,
                env=environment,
                cwd=request.directory,
                start_new_session=True,
            ).pid
            for end in (to_read, to_write, to_complain):
                os.close(end)
            self.outputs = {out: Kind.OUTPUT, errors: Kind.ERRORS}
            self.terminal = None
        self.pidfd = os.pidfd_open(self.pid)
        for descriptor in (*self.outputs, self.input):
            if descriptor is not None:
                os.set_blocking(descriptor, False)

    @staticmethod
    def resize(terminal: int, rows: int, columns: int) -> None:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def handle(self, frame: Frame) -> None:
        """Do what a frame of the host's asks for."""
        match frame.kind:
            case Kind.INPUT:
                self._pending += frame.data
                self._input_ends |= not frame.data
                self.write()
            case Kind.SIGNAL:
                with suppress(ProcessLookupError):
                    os.killpg(self.pid, int(frame.data))
            case Kind.RESIZE if self.terminal is not None:
                rows, columns = map(int, frame.data.split())
                self.resize(self.terminal, rows, columns)
            case _:
                print(f"while a command runs, {frame.kind.name} means nothing", file=sys.stderr)

    @property
    def wants_to_write(self) -> bool:
        return self.input is not None and bool(self._pending)

    def write(self) -> None:
        """Pass on what has come for its standard input, as much as it takes."""
        if self.input is None:
            return
        try:
            while self._pending:
                del self._pending[: os.write(self.input, self._pending)]
        except BlockingIOError:
            return
        except OSError:  # nobody reads it any more
            self._input_ends = True
            self._pending.clear()
        if self._input_ends and self.terminal is None:
            os.close(self.input)
            self.input = None

    def read(self, descriptor: int) -> bytes | None:
        """What it has written; nothing at the end, None if it may write more."""
        try:
            return os.read(descriptor, CHUNK)
        except BlockingIOError:
            return None
        except OSError:  # a terminal that nobody has open
            return b""

    def close(self) -> int:
        """Its exit status, as a shell has it, once it has ended."""
        _, status = os.waitpid(self.pid, 0)
        for descriptor in {*self.outputs, self.pidfd} | ({self.input} if self.input is not None else set()):
            os.close(descriptor)
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code


def run(port: Port, request: Request) -> int:
    """Run the command until it ends; what it left behind goes on, as after a login."""
    child = Child(request)
    open_outputs = set(child.outputs)
    with selectors.DefaultSelector() as selector:
        selector.register(port.descriptor, selectors.EVENT_READ)
        selector.register(child.pidfd, selectors.EVENT_READ)
        for descriptor in open_outputs:
            selector.register(descriptor, selectors.EVENT_READ)
        ended = False
        while True:
            while port.frames:
                child.handle(port.frames.popleft())
            came = [key.fd for key, _ in selector.select(0 if ended else 0.05 if child.wants_to_write else None)]
            for descriptor in open_outputs & set(came):
                data = child.read(descriptor)
                if data:
                    port.send(child.outputs[descriptor], data)
                elif data is not None:
                    selector.unregister(descriptor)
                    open_outputs.discard(descriptor)
            if ended and not open_outputs & set(came):
                return child.close()
            if port.descriptor in came:
                port.receive()
            child.write()
            ended |= child.pidfd in came


def start_afresh(request: Request) -> None:
    """Leave the moment at which this machine was kept."""
    time.clock_settime(time.CLOCK_REALTIME, request.now)
    entropy = bytes.fromhex(request.entropy)
    with open("/dev/urandom", "wb") as device:
        fcntl.ioctl(device, RNDADDENTROPY, struct.pack("ii", 8 * len(entropy), len(entropy)) + entropy)
        fcntl.ioctl(device, RNDRESEEDCRNG)


def path() -> str:
    """The port's device. Raises FileNotFoundError where there is none."""
    for port in PORTS.iterdir():
        if (port / "name").read_text().strip() == NAME:
            return f"/dev/{port.name}"
    raise FileNotFoundError(f"{PORTS} has no port named {NAME}")


def main() -> None:
    port = Port(path())
    port.send(Kind.READY)
    while True:
        while not port.frames:
            port.receive()
        frame = port.frames.popleft()
        if frame.kind is not Kind.RUN:
            continue  # meant for a command that has ended meanwhile
        request = Request.of(frame.data)
        start_afresh(request)
        try:
            status = run(port, request)
        except OSError as error:
            port.send(Kind.ERRORS, f"{request.command[0]}: {error}\n".encode())
            status = 127
        port.send(Kind.STATUS, b"%d" % status)


if __name__ == "__main__":
    main()
