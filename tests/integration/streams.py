"""The client's ends of a process's standard streams: fifos, as containerd's clients make them.

Owns one thread for every output that is read. A fifo is opened without blocking, because it may be that no process
ever opens the other end.
"""

import fcntl
import os
import select
import struct
import termios
import threading
import time
from collections.abc import Callable
from typing import Self

from tests.integration.patience import patient

TIMEOUT = patient(6.0)


class Output:
    """Reads a fifo to its end; `data` is what has come so far."""

    def __init__(self, path: str) -> None:
        self.path = path
        os.mkfifo(path, 0o600)
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._lock = threading.Condition()
        self._data = bytearray()
        self._ended = False
        self._closed = False
        self._thread = threading.Thread(target=self._read, name=f"reader of {path}", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        while not self._closed:
            if not poll.poll(100):
                continue
            chunk = os.read(self._fd, 1 << 16)
            with self._lock:
                self._data += chunk
                self._ended = not chunk
                self._lock.notify_all()
            if not chunk:
                break

    @property
    def data(self) -> bytes:
        with self._lock:
            return bytes(self._data)

    def until(self, wanted: bytes, timeout: float = TIMEOUT) -> bytes:
        """All data once `wanted` is in it. Raises TimeoutError, which shows what came instead."""
        return self._wait(lambda: wanted in self._data, f"{wanted!r} in", timeout)

    def end(self, timeout: float = TIMEOUT) -> bytes:
        """All data once the last writer has closed the fifo. Raises TimeoutError."""
        return self._wait(lambda: self._ended, "the end of", timeout)

    def _wait(self, done: Callable[[], bool], what: str, timeout: float) -> bytes:
        with self._lock:
            if not self._lock.wait_for(done, timeout):
                shown = bytes(self._data[-500:])
                raise TimeoutError(f"waited {timeout} s for {what} {self.path}, which has {shown!r}")
            return bytes(self._data)

    def close(self) -> None:
        self._closed = True
        self._thread.join()
        os.close(self._fd)


class Input:
    """A fifo to write to. Held open for reading too, so that a writer finds a reader, until `close`."""

    def __init__(self, path: str) -> None:
        self.path = path
        os.mkfifo(path, 0o600)
        self._fd: int | None = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def write(self, data: bytes, timeout: float = TIMEOUT) -> None:
        assert self._fd is not None, f"{self.path} is closed"
        deadline = time.monotonic() + timeout
        while data:
            poll = select.poll()  # select(2) takes no descriptor above 1023
            poll.register(self._fd, select.POLLOUT)
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError(f"nobody reads {self.path}: {len(data)} bytes are left after {timeout} s")
            data = data[os.write(self._fd, data) :]

    def drained(self, timeout: float = TIMEOUT) -> Self:
        """Wait until the other end has taken everything."""
        assert self._fd is not None, f"{self.path} is closed"
        deadline = time.monotonic() + timeout
        while struct.unpack("i", fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4)))[0]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.path} is not empty after {timeout} s")
            time.sleep(0.005)
        return self

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class Streams:
    """The streams of one process in a directory of their own; a terminal has no stderr."""

    def __init__(self, directory: str, name: str, *, stdin: bool, terminal: bool) -> None:
        path = os.path.join(directory, name)
        self.stdin = Input(f"{path}.stdin") if stdin else None
        self.stdout = Output(f"{path}.stdout")
        self.stderr = None if terminal else Output(f"{path}.stderr")

    def paths(self) -> dict[str, str]:
        """As fields of containerd's requests."""
        streams = {"stdin": self.stdin, "stdout": self.stdout, "stderr": self.stderr}
        return {name: stream.path for name, stream in streams.items() if stream is not None}

    def close(self) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()
