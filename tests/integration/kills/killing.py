"""Kills a process before its n-th system call, or stops it there so that something else can be killed at that moment.

So "at every step" needs no list of steps: what a process does to the world is its system calls, and where it dies
between two of them makes no difference to anything but itself. `killat.c` counts them.
"""

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.integration.patience import patient
from tests.integration.sleep.helpers import faults

SOURCE = Path(__file__).with_name("killat.c")
ATTACH = patient(5.0)
"""Seconds until all threads are traced; it takes milliseconds."""
LISTED = Path("/run/killat")
"""What a watch of a program says that begins by itself."""


@dataclass
class Watch:
    """One process whose system calls are counted."""

    pid: int
    process: "subprocess.Popen[bytes]"
    calls: int = 0
    """How many it had made when the wanted one was reached, or when the watch ended."""
    reached: bool = False
    call: int = -1
    """The number of the system call that was reached."""

    def wait(self, seconds: float) -> bool:
        """Whether the wanted call is reached within so many seconds."""
        until = time.monotonic() + seconds
        while not self.reached and (rest := until - time.monotonic()) > 0:
            if not self._take(rest):
                break
        return self.reached

    def go_on(self) -> None:
        """Let a process run on that was stopped at the wanted call."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)

    def end(self) -> None:
        self.process.terminate()
        while self._take(ATTACH):
            pass
        self.process.wait(ATTACH)

    def _take(self, seconds: float) -> bool:
        assert self.process.stdout
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            return False
        match words := self.process.stdout.readline().decode().split():
            case ["reached", number, call]:
                self.calls, self.call, self.reached = int(number), int(call), True
            case ["counted", number]:
                self.calls = self.calls or int(number)
        return bool(words)


@dataclass(frozen=True)
class Killer:
    program: Path

    @contextmanager
    def watch(self, pid: int, count: int = 0, action: Literal["kill", "hold"] = "kill") -> Iterator[Watch]:
        """From now on: before its `count`th system call the process is killed, or stopped; 0: never."""
        command = [self.program, action, str(count), str(pid)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as process:
            assert process.stdout
            watch = Watch(pid, process)
            try:
                assert process.stdout.readline() == b"attached\n"
                yield watch
                watch.end()
            finally:
                watch.go_on()
                process.kill()

    @contextmanager
    def program_once(
        self, name: str, count: int, when: str, action: Literal["kill", "hold"] = "kill"
    ) -> Iterator[None]:
        """The node's program of that name is killed, or stopped, at that system call of its own, counted anew each time
        that it is run while `when` holds, a condition of the shell; once. 0: never."""
        LISTED.write_text("")
        script = f"""
            if {when} && ! grep -q reached {LISTED}; then
                attached=$(grep -c attached {LISTED})
                (setsid {self.program} -x {action} {count} $$ >>{LISTED} 2>&1 </dev/null &)
                until [ "$(grep -c attached {LISTED})" -gt "$attached" ]; do sleep 0.002; done
            fi"""
        with faults.program(name, script):
            yield

    @staticmethod
    def reached() -> bool:
        """Whether the program of `program_once` was killed, or stopped."""
        return "reached" in LISTED.read_text()

    @staticmethod
    def counted() -> int:
        """The most calls that a run of that program has made."""
        words = [line.split() for line in LISTED.read_text().splitlines()]
        return max((int(line[1]) for line in words if line[0] == "counted"), default=0)
