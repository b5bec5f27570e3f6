"""A write(2) in a thread that a signal can interrupt: for control files whose writes keep the kernel busy for long.

Owns the signal and the guarantee that it reaches the write: since it may come a moment before the kernel looks for
signals, it is sent again until the write has returned. Python's own os.write would restart after each.

SIGURG, since zeropod does not use it otherwise, and a process without a handler ignores it.

Source of facts: signal(7), PEP 475.
"""

import errno
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Final

from zeropod.kernel import libc

_SIGNAL: Final = signal.SIGURG
_AGAIN: Final = 0.0005  # seconds between two signals

Over = Callable[[], bool]
"""Waits for some milliseconds; returns whether to interrupt the write. Called in a thread of its own."""


def prepare() -> None:
    """Install a handler, without which the kernel drops the signal. Does nothing outside of the main thread."""
    # ValueError: not the main thread. Writes then cannot be interrupted, which is all that is lost.
    with suppress(ValueError):
        if signal.getsignal(_SIGNAL) in (signal.SIG_DFL, signal.SIG_IGN):
            signal.signal(_SIGNAL, _ignore)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing: that the signal has a handler is all that is needed."""


def write(path: Path, value: str, over: Over) -> bool:
    """Write a control file, and interrupt that when `over` returns True; return whether it completed. Raises OSError.

    Blocks: call it in a thread.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    ended = threading.Event()
    writer = threading.get_ident()

    def watch() -> None:
        while not ended.is_set():
            if over():
                while not ended.wait(_AGAIN):
                    signal.pthread_kill(writer, _SIGNAL)

    # The writer's number stays valid: it waits below for this thread to end.
    watcher = threading.Thread(target=watch, name="interruptible", daemon=True)
    watcher.start()
    try:
        data = value.encode()
        libc.call("write", descriptor, data, len(data))
    except OSError as error:
        if error.errno == errno.EINTR:
            return False
        raise
    finally:
        ended.set()
        watcher.join()
        os.close(descriptor)
    return True
