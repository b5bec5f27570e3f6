"""The door of a spare: how the script that containerd starts gets a shim before Python would be up to ask for one.

Coming up takes a Python longer than all that `start` does, and the spare has been up for long. So the script's first
lines (installer/header.sh) ask it with what a shell has: they read where its door is, two FIFOs, write their pid into
one and read from the other what `start` would print. The rest of what they want is in /proc.

A door is for one question, of who makes the file that says so, and closed after it, answered or not. Who has asked
reads the end of the file then, as he does when the spare dies, and goes on to Python, as everybody does who has found
no door; there all of it happens again, and a shim that has been made for the first question is found by the second. So
whatever is amiss, to close the door is enough, and nothing is to be said.

A shell cannot wait for a while only, so it is the spare that sees to it that nobody waits for long. Who stops the spare
(SIGSTOP) stops who has asked it, until containerd's client gives up.
"""

import os
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from zeropod import SHIM_BINARY
from zeropod.shim import zygote
from zeropod.shim.zygote import Order, oom_score

PID = 9
"""Bytes of a question, a pid and spaces: the largest pid has seven digits."""


class Door:
    """Open from the beginning until `close`."""

    def __init__(self, build: str) -> None:
        """In place of the door before it, whose spare may have been killed. Raises OSError."""
        self.build = build
        own = build.rpartition("/")[2]
        self._file = Path(zygote.DIRECTORY, own)
        """Which door is open."""
        for name in os.listdir(zygote.DIRECTORY):
            if name.startswith(f"{own}."):
                os.unlink(f"{zygote.DIRECTORY}/{name}")
        # Never used before: who has read of an old door must not wait at a new one.
        self._spare = f"{os.getpid()}-{time.monotonic_ns()}"
        self._name = f"{self._file}.{self._spare}"
        with ExitStack() as stack:
            stack.callback(self._remove)
            for fifo in ("ask", "answer"):
                os.mkfifo(f"{self._name}.{fifo}", 0o600)
            # For both, so that it has no end when who has asked is gone.
            self.question = self._opened(stack, "ask", os.O_RDWR)
            """The descriptor that becomes readable when somebody asks."""
            with ExitStack() as reader:
                self._opened(reader, "answer", os.O_RDONLY | os.O_NONBLOCK)
                self._answer = self._opened(stack, "answer", os.O_WRONLY)
            self._show()
            self._parts = stack.pop_all()

    def _opened(self, stack: ExitStack, fifo: str, mode: int) -> int:
        descriptor = os.open(f"{self._name}.{fifo}", mode | os.O_CLOEXEC)
        stack.callback(os.close, descriptor)
        return descriptor

    def _show(self) -> None:
        fresh = f"{self._name}.new"
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{self._spare}\n")
        os.rename(fresh, self._file)

    def _remove(self) -> None:
        with suppress(OSError):
            if self._file.read_text() == f"{self._spare}\n":
                self._file.unlink()
        for part in ("ask", "answer", "taken", "new"):
            with suppress(OSError):
                os.unlink(f"{self._name}.{part}")

    def asker(self) -> int:
        """Who has asked. Raises OSError; ValueError for what is no pid."""
        return int(os.read(self.question, PID))

    def answer(self, text: str) -> None:
        """To be called once, with one line. Raises BrokenPipeError if who has asked is gone."""
        os.write(self._answer, f"{text}\n".encode())

    def close(self) -> None:
        self._parts.close()


def order_of(pid: int) -> Order:
    """What a program would have inherited from this script, had it started one. Raises OSError; ValueError for another.

    The kernel starts a script as its interpreter, the script's path and the arguments.
    """
    process = Path(f"/proc/{pid}")
    _, *arguments = (process / "cmdline").read_bytes().split(b"\0")[:-1]
    if not arguments or arguments[0].rpartition(b"/")[2] != SHIM_BINARY.encode():
        raise ValueError(f"process {pid} is no shim's script")
    variables = (entry.partition(b"=") for entry in (process / "environ").read_bytes().split(b"\0") if entry)
    parent = int((process / "stat").read_bytes().rpartition(b")")[2].split()[1])
    directory = os.readlink(os.fsencode(process / "cwd"))
    return Order(oom_score(parent), directory, arguments, {name: value for name, _, value in variables})
