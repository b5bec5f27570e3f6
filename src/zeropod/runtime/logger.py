"""A logger program: with `binary://PATH?argument=value` a program of the user reads the container's output.

containerd's protocol (`core/runtime/v2/logging`): the program finds standard output and error at the descriptors
3 and 4, and closes descriptor 5 when it is ready. It exits by itself at the end of its input.
"""

import fcntl
import os
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import trio

from zeropod.runtime import programs
from zeropod.runtime.errors import StdioError

START = 10.0
"""Seconds within which a logger must be ready."""

_FIRST_FREE = 10
"""Descriptors are moved here first, so that none of them is overwritten on the way to 3, 4 and 5."""


@dataclass(frozen=True, slots=True)
class Logger:
    target: str
    stdout: int
    stderr: int

    async def start(self, id: str, namespace: str) -> None:
        """Start the program and wait until it is ready. Raises StdioError if it cannot be started or is late."""
        uri = urlsplit(self.target)
        arguments = [part for name, values in parse_qs(uri.query).items() for part in (name, *values) if part]
        environment = {**programs.environment(), "CONTAINER_ID": id, "CONTAINER_NAMESPACE": namespace}
        ready, tell = os.pipe2(os.O_CLOEXEC)
        moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE) for fd in (self.stdout, self.stderr, tell)]
        standard = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
        handed = [(os.POSIX_SPAWN_DUP2, fd, 3 + place) for place, fd in enumerate(moved)]
        try:
            # The shim's periodic reaping of orphans collects the child.
            os.posix_spawn(  # noqa: ASYNC221 - a millisecond, as every start of a program here
                uri.path, [uri.path, *arguments], environment, file_actions=[*standard, *handed]
            )
        except OSError as error:
            os.close(ready)
            raise StdioError(f"cannot start the logger {uri.path}: {error.strerror}") from error
        finally:
            for descriptor in (tell, *moved):
                os.close(descriptor)
        try:
            with trio.fail_after(START):
                await trio.lowlevel.wait_readable(ready)
        except trio.TooSlowError:
            raise StdioError(f"the logger {uri.path} was not ready within {START:g} s") from None
        finally:
            os.close(ready)
