"""Forks pagers: a process that was forked from the shim before its first pager, and has done nothing since.

Owns the order for a pager, and the descriptors that go with it. A pager shares memory with the process that it was
forked from until either writes to it. The shim always does, and whatever it changes or frees its pagers would have to
themselves: several megabytes after some sleeps. The seed leaves its memory as it is, and its pagers have to themselves
only what they write.

The seed never reads an order: it forks as soon as there is one, and the fork takes it. It ignores the end of its
children, so no pager becomes a zombie. It ends with the shim, whose end of the socket is the only one.
"""

import os
import pickle
import select
import signal
import socket
import struct
import threading
from dataclasses import replace
from mmap import ACCESS_READ, mmap
from typing import Final

from zeropod.runtime.pager import child
from zeropod.runtime.pager.child import Inheritance

NAME: Final = "zeropod-seed"
TAKEN_WITHIN: Final = 5.0
"""Seconds within which an order must be taken; it takes two milliseconds."""
_AT_ONCE: Final = 250
"""Descriptors in one message: the kernel takes 253."""
_NUMBER: Final = struct.Struct("=i")
_GO: Final = b"g"

_lock = threading.Lock()
_orders: list[socket.socket] = []
"""The socket to the seed of this process, if it has one."""


def fork(inheritance: Inheritance, control: socket.socket) -> tuple[int, int]:
    """Start a pager at the other end of `control`; return its pid and a pidfd. Raises OSError."""
    with _lock:
        if _orders and _has_ended(_orders[0]):
            _orders.pop().close()
        try:
            return _ordered(inheritance, control)
        except OSError:  # it was killed in between, say; a fork that has not been answered ends
            return _ordered(inheritance, control)


def _ordered(inheritance: Inheritance, control: socket.socket) -> tuple[int, int]:
    if not _orders:
        _orders.append(_start())
    try:
        return _order(_orders[0], inheritance, control)
    except OSError:
        # What it has not taken of the order would be mistaken for the next one.
        _orders.pop().close()
        raise


def _has_ended(orders: socket.socket) -> bool:
    poll = select.poll()
    poll.register(orders, 0)  # its end is reported all the same
    return bool(poll.poll(0))


def _start() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(TAKEN_WITHIN)
    try:
        child.forked(lambda: _seed(theirs))
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return ours


def _order(orders: socket.socket, inheritance: Inheritance, control: socket.socket) -> tuple[int, int]:
    listener = inheritance.listener
    numbers = [control.fileno(), *inheritance.descriptors, *([listener.fileno()] if listener else [])]
    text = os.memfd_create(NAME, os.MFD_CLOEXEC)
    try:
        with open(text, "wb", closefd=False) as file:
            pickle.dump((numbers, bool(listener), replace(inheritance, listener=None)), file, pickle.HIGHEST_PROTOCOL)
        sent = [text, *numbers]
        for at in range(0, len(sent), _AT_ONCE):
            socket.send_fds(orders, [_NUMBER.pack(len(sent))], sent[at : at + _AT_ONCE])
    finally:
        os.close(text)
    answer = orders.recv(_NUMBER.size)
    if not answer:
        raise OSError("the process that forks pagers has ended")
    (pid,) = _NUMBER.unpack(answer)
    handle = os.pidfd_open(pid)
    try:
        orders.send(_GO)
    except OSError:
        os.close(handle)
        raise
    return pid, handle


def _seed(orders: socket.socket) -> None:
    child.forget_the_shim({orders.fileno()}, NAME)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    poll = select.poll()
    poll.register(orders, select.POLLIN)
    while not poll.poll()[0][1] & select.POLLHUP:
        reader, taking = os.pipe()
        if os.fork() == 0:
            try:
                _take(orders, taking)
            finally:
                os._exit(1)
        os.close(taking)
        if not os.read(reader, 1):
            return  # the shim waits for an answer that will not come
        os.close(reader)


def _take(orders: socket.socket, taking: int) -> None:
    """Take the order, in a fork of the seed, and become a pager; `taking` shows the seed that the fork works."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    received: list[int] = []
    count = 1
    while len(received) < count:
        data, some, _, _ = socket.recv_fds(orders, _NUMBER.size, _AT_ONCE)
        if not data:
            return
        (count,) = _NUMBER.unpack(data)
        received += some
    with mmap(received[0], 0, access=ACCESS_READ) as text:
        numbers, has_listener, inheritance = pickle.loads(text)
    places = dict(zip(numbers, received[1:], strict=True))
    listener = socket.socket(fileno=received[-1]) if has_listener else None
    # A shim that has given up meanwhile gets no pager.
    orders.send(_NUMBER.pack(os.getpid()))
    if orders.recv(1) == _GO:
        orders.close()
        os.write(taking, _GO)
        os.close(taking)
        child.become(replace(inheritance.renumbered(places), listener=listener), socket.socket(fileno=received[1]))
