"""One process that containerd knows, the container's init or an exec: its streams, its pid, its exit."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from zeropod.kernel.pidfd import ExitStatus
from zeropod.runtime.stdio import ProcessIO, Stdio, console_socket, receive_console

DRAIN = 2.0
"""Seconds that a deletion waits for the rest of the output, as containerd's runc shim does."""

Command = Callable[[Path | None], Awaitable[None]]
"""The runc command that creates a process; its argument is the socket for its terminal, if it has one."""


@dataclass(slots=True)
class Process:
    id: str
    io: ProcessIO
    spec: Mapping[str, Any] = field(default_factory=dict)
    """OCI's description of an exec; None for the init process, which has its own in the bundle."""
    starting: bool = False
    """Whether a request to start it is being carried out."""
    pid: int = 0
    exit: ExitStatus | None = None
    exited: trio.Event = field(default_factory=trio.Event)

    @property
    def stdio(self) -> Stdio:
        return self.io.stdio

    async def create(self, command: Command, owner: tuple[int, int], container: str, namespace: str) -> None:
        """Open the streams, which belong to `owner`, and run the command; on failure close them again. Raises
        StdioError or RuncError."""
        try:
            if self.stdio.terminal:
                with console_socket() as (path, listener):
                    await command(path)
                    self.io.attach_console(receive_console(listener))
            else:
                self.io.open_pipes(*owner)
                await self.io.start_logger(container, namespace)
                await command(None)
        except BaseException:  # on cancellation, too
            self.io.close()
            raise

    def ended(self, status: ExitStatus) -> None:
        self.exit = status
        self.io.process_exited()
        self.exited.set()

    async def release(self) -> None:
        """Wait until the last output is read, for DRAIN seconds at most, and close the streams."""
        if self.exited.is_set():
            with trio.move_on_after(DRAIN):
                await self.io.drained.wait()
        self.io.close()
