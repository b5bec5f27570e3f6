"""The shim's log: lines in containerd's format, written to the fifo that containerd reads, without ever waiting for it.

The fifo is opened for reading and writing, so that it survives a restart of containerd. While it is full because
nothing reads it, lines are dropped and counted, and the count is logged as soon as there is room again.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime


class ContainerdFormatter(logging.Formatter):
    """logrus' text format, which containerd and readers of its log expect."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z")
        level = {"WARNING": "warning", "CRITICAL": "fatal"}.get(record.levelname, record.levelname.lower())
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        fields = {"time": time, "level": level, "msg": text, "runtime": "io.containerd.zeropod.v2"}
        if container := getattr(record, "container", None):
            fields["container"] = container
        return " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())


def _quoted(value: str) -> str:
    if value and all(character.isalnum() or character in "-._/@^+" for character in value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


class FifoHandler(logging.Handler):
    """Writes whole lines without blocking."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        if self._lost and self._write(
            f'level=warning msg="{self._lost} lines of this log were lost: they were not read"'
        ):
            self._lost = 0
        if not self._write(self.format(record)):
            self._lost += 1

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        super().close()

    def _write(self, line: str) -> bool:
        # Up to PIPE_BUF bytes, a write is complete or fails.
        try:
            os.write(self._fd, line.encode(errors="replace")[:4000] + b"\n")
        except BlockingIOError:
            return False
        return True


@contextmanager
def configured(path: str) -> Iterator[None]:
    """Send all logging to the fifo inside the block. Raises OSError."""
    handler = configure(path, debug=False)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def configure(path: str, *, debug: bool) -> logging.Handler:
    """Send all logging to the fifo, which containerd has made in the bundle of the shim's first container. Raises
    OSError."""
    handler = FifoHandler(path)
    handler.setFormatter(ContainerdFormatter())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    return handler
