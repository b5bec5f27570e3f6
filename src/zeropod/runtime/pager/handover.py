"""Receives from CRIU the userfaultfds of the processes that it restores.

CRIU connects to `lazy-pages.socket` in its work directory and sends for each task its pid as 32 bits, then a byte with
the userfaultfd; for a zombie only the negative pid; at the end a number that is not a pid. Restored memory may be
touched before that, so page faults are served meanwhile.

Source of facts: CRIU's criu/uffd.c.
"""

import array
import os
import select
import socket
import struct
from pathlib import Path

from zeropod.runtime.pager import wire
from zeropod.runtime.pager.journal import Phase
from zeropod.runtime.pager.serve import Server
from zeropod.runtime.pager.wire import Lost

NAME = "lazy-pages.socket"
FINISHED = 0x52535446
_PID = struct.Struct("=i")


def listen(work: Path) -> socket.socket:
    """Return the socket that CRIU connects to. Raises OSError.

    Bound through /proc/self/fd: the path may be longer than a socket address takes.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    directory = os.open(work, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{directory}/{NAME}")
        os.chmod(NAME, 0o600, dir_fd=directory)
        listener.listen(1)
    except OSError:
        listener.close()
        raise
    finally:
        os.close(directory)
    return listener


def receive(server: Server, listener: socket.socket) -> None:
    """Take over every process, and serve those received already while others arrive.

    Raises Lost if CRIU ends before all are received.
    """
    _until_readable(server, listener.fileno(), even_orphaned=False)
    if server.orphan:
        return
    criu, _ = listener.accept()
    listener.close()
    with criu:
        while True:
            number = _PID.unpack(_read(server, criu, _PID.size)[0])[0]
            if number == FINISHED:
                break
            if number < 0:
                continue
            _, descriptors = _read(server, criu, 1)
            if not descriptors:
                raise Lost(f"CRIU sent no userfaultfd for process {number}")
            server.adopt(descriptors[0], number)
            wire.send(server.control, wire.GUARD, server.spaces.all[-1].number, descriptors[0])
    server.journal.phase = Phase.SERVING
    wire.send(server.control, wire.COMPLETE, len(server.served))


def _read(server: Server, criu: socket.socket, size: int) -> tuple[bytes, "array.array[int]"]:
    data, descriptors = b"", array.array("i")
    while len(data) < size:
        _until_readable(server, criu.fileno())
        part, ancillary, _, _ = criu.recvmsg(size - len(data), socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        if not part:
            raise Lost("CRIU ended before it had handed over every process: the restore failed")
        data += part
        for level, kind, value in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(value)
    return data, descriptors


def _until_readable(server: Server, descriptor: int, *, even_orphaned: bool = True) -> None:
    server.poll.register(descriptor, select.EPOLLIN)
    try:
        while not server.wait(descriptor) and (even_orphaned or not server.orphan):
            pass
    finally:
        server.poll.unregister(descriptor)
