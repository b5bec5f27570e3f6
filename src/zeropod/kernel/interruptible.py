"""A write(2) in a thread that can be broken off by a signal: for control files with which the kernel works for long.

Owns the signal and the guarantee that it reaches the write: since it may come a moment before the kernel looks for
signals, it is sent again until the write has returned. Python's own os.write would begin anew after each.

SIGURG: nothing of ours is told by it, and a process that has no handler for it ignores it.

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
"""Waits for some milliseconds; returns whether the write is to be broken off. Called in a thread of its own."""


def prepare() -> None:
    """Give the signal a handler, without which the kernel drops it; in a thread other than the main one do nothing."""
    # ValueError: not the main thread. What is written there cannot be broken off then, and nothing else is lost.
    with suppress(ValueError):
        if signal.getsignal(_SIGNAL) in (signal.SIG_DFL, signal.SIG_IGN):
            signal.signal(_SIGNAL, _ignore)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing: that the signal has a handler is all that is needed."""


def write(path: Path, value: str, over: Over) -> bool:
    """Write a control file until `over` says so; return whether the kernel had finished. Raises OSError.

    Call it in a thread, which blocks meanwhile.
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
