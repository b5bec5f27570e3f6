"""A process's standard streams: pipes owned by the shim, and the copying between them and containerd's fifos.

The container never gets containerd's fifo itself, for two reasons: CRIU can return an inherited pipe to a restored
process, which is how logs continue after a wake, and a fifo of the host has no path inside the container. The shim
keeps both ends of each pipe, so nothing written is lost while the container sleeps. Bytes move by splice(2); Python
only waits. The fifos are opened for reading and writing: their other end may be closed and opened again (containerd
restarts) without an error here, and a slow or absent reader blocks only the writer.
"""

import array
import errno
import fcntl
import logging
import os
import socket
import struct
import tempfile
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import trio

from zeropod import paths
from zeropod.kernel import splice
from zeropod.runtime.errors import StdioError
from zeropod.runtime.logger import Logger

log = logging.getLogger(__name__)

FAILED_WRITE = 1.0
"""Seconds until output that could not be written is tried again."""


@dataclass(frozen=True, slots=True)
class Stdio:
    """The streams that containerd asked for: paths of fifos, URIs, or empty for none."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False


@dataclass(frozen=True, slots=True)
class Streams:
    """The descriptors that a new process gets as its standard streams; None is /dev/null."""

    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None


@dataclass(slots=True)
class ProcessIO:
    """The open streams of one process, from before it is created until after it is deleted."""

    stdio: Stdio
    streams: Streams = field(default_factory=Streams)
    console: int | None = None
    """The master of its terminal, when it has one."""
    drained: trio.Event = field(default_factory=trio.Event)
    """Set when all output of the process has reached containerd."""
    _copies: list[tuple[int, int]] = field(default_factory=list)
    _stdin_copy: tuple[int, int] | None = None
    _stdin_holder: int | None = None
    _outputs: dict[str, int] = field(default_factory=dict)
    _logger: Logger | None = None
    _open: set[int] = field(default_factory=set)

    def _keep(self, *descriptors: int) -> None:
        self._open.update(descriptors)

    def _close(self, *descriptors: int | None) -> None:
        for descriptor in descriptors:
            if descriptor in self._open:
                self._open.discard(descriptor)
                trio.lowlevel.notify_closing(descriptor)
                os.close(descriptor)

    def open_pipes(self, uid: int, gid: int) -> None:
        """Open the streams that containerd named, with a pipe for each. Streams without a name get nothing."""
        stdin: int | None = None
        stdout: int | None
        stderr: int | None
        if self.stdio.stdin:
            ours = self._open_stdin()
            stdin, writing = self._pipe()
            os.fchown(stdin, uid, gid)
            self._stdin_copy = (ours, writing)
        if urlsplit(self.stdio.stdout).scheme == "binary":
            (out, stdout), (err, stderr) = self._pipe(), self._pipe()
            self._logger = Logger(self.stdio.stdout, out, err)
            self._outputs = {"stdout": stdout, "stderr": stderr}
        else:
            for target in dict.fromkeys(filter(None, (self.stdio.stdout, self.stdio.stderr))):
                # stdout and stderr into one file share one pipe, so that their order is kept
                reading, self._outputs[target] = self._pipe()
                self._copies.append((reading, self._open_sink(target)))
            stdout, stderr = self._outputs.get(self.stdio.stdout), self._outputs.get(self.stdio.stderr)
        for writing in self._outputs.values():
            os.fchown(writing, uid, gid)
        self.streams = Streams(stdin, stdout, stderr)

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe2(os.O_CLOEXEC)
        self._keep(*ends)
        return ends

    def _open_stdin(self) -> int:
        try:
            reading = os.open(self.stdio.stdin, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            self._keep(reading)
            # Keep a writer open until CloseIO, so that a restart of containerd does not look like an end of file.
            self._stdin_holder = os.open(self.stdio.stdin, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise StdioError(f"cannot open stdin {self.stdio.stdin}: {error.strerror}") from error
        self._keep(self._stdin_holder)
        return reading

    def _open_sink(self, target: str) -> int:
        scheme, path = urlsplit(target).scheme, urlsplit(target).path
        try:
            if scheme in ("", "fifo"):
                sink = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            elif scheme == "file":
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                # Not O_APPEND, which splice refuses.
                sink = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
                os.lseek(sink, 0, os.SEEK_END)
            else:
                raise StdioError(f"cannot log to {target}: the scheme {scheme!r} is none of fifo, file, binary")
        except OSError as error:
            raise StdioError(f"cannot open {target}: {error.strerror}") from error
        self._keep(sink)
        return sink

    async def start_logger(self, id: str, namespace: str) -> None:
        if self._logger:
            await self._logger.start(id, namespace)

    def attach_console(self, master: int) -> None:
        """Take ownership of the terminal of the process and connect it with containerd's fifos."""
        self._close(self.console)
        self._keep(master)
        self.console = master
        os.set_blocking(master, False)
        if self.stdio.stdin and self._stdin_copy is None:
            self._stdin_copy = (self._open_stdin(), master)
        if self.stdio.stdout and not self._copies:
            self._copies.append((master, self._open_sink(self.stdio.stdout)))

    async def copy(self, on_input: Callable[[], None] | None = None) -> None:
        """Copy until every writer of the outputs is gone; call `on_input` whenever stdin has data or ends."""
        async with trio.open_nursery() as nursery:
            if self._stdin_copy:
                nursery.start_soon(self._copy_stdin, *self._stdin_copy, on_input)
            async with trio.open_nursery() as outputs:
                for source, sink in self._copies:
                    outputs.start_soon(self._copy_output, source, sink)
            self.drained.set()
            nursery.cancel_scope.cancel()

    async def _copy_output(self, source: int, sink: int) -> None:
        while True:
            try:
                await splice.copy(source, sink)
                break
            except trio.ClosedResourceError:
                return  # closed meanwhile: a child of the ended process still held its output open
            except OSError as error:
                # For instance a full disk. Nothing is lost: the writer blocks as with a slow reader.
                log.error("cannot write output, retrying in %g s: %s", FAILED_WRITE, error)
                await trio.sleep(FAILED_WRITE)
        # Close now, not at the deletion: containerd's client deletes a task only after reading its fifos to the end.
        self._close(sink)

    async def _copy_stdin(self, source: int, sink: int, on_input: Callable[[], None] | None) -> None:
        # read(2) of a fifo that has no writer yet returns the end of the file; only poll(2) can tell the two apart.
        with suppress(trio.ClosedResourceError):
            await trio.lowlevel.wait_readable(source)
            await splice.copy(source, sink, on_data=on_input)
            if on_input:
                on_input()  # the end of the input wakes the container, too
        if sink != self.console:
            self._close(sink)

    def close_stdin(self) -> None:
        """Handle CloseIO: the process sees the end of its input once containerd's end is closed too."""
        self._close(self._stdin_holder)

    def process_exited(self) -> None:
        """Close our write ends, so that `copy` ends when the last other writer is gone."""
        self._close(*self._outputs.values(), self.streams.stdin)
        if not self._copies:
            self.drained.set()

    def resize(self, width: int, height: int) -> None:
        """Set columns and rows of the terminal; do nothing for a process without one."""
        if self.console is not None:
            fcntl.ioctl(self.console, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def close(self) -> None:
        self._close(*list(self._open))


@contextmanager
def console_socket() -> Iterator[tuple[Path, socket.socket]]:
    """Yield a listening socket, with its path, on which runc sends the master of a new terminal."""
    os.makedirs(paths.CONSOLES, mode=0o700, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="pty-", dir=paths.CONSOLES) as directory,
        socket.socket(socket.AF_UNIX) as listener,
    ):
        path = Path(directory) / "s"
        listener.bind(str(path))
        listener.listen(1)
        yield path, listener


def receive_console(listener: socket.socket) -> int:
    """Return the terminal master that runc has sent. Call it when runc has ended: it does not wait.

    Raises StdioError when runc sent none.
    """
    listener.setblocking(False)
    try:
        connection, _ = listener.accept()
        with connection:
            _, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4))
    except OSError as error:
        raise StdioError(f"runc sent no terminal: {errno.errorcode.get(error.errno or 0, '?')}") from error
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors = array.array("i", data[:4])
            os.set_inheritable(descriptors[0], False)
            return descriptors[0]
    raise StdioError("runc sent no terminal")
