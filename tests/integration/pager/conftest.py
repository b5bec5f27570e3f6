"""A process whose memory is missing, and a pager that has it."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from tests.integration.pager import image, subject
from tests.integration.pager.image import PAGE, Run

from zeropod.runtime.pager import Pager, PagerLost, WorkingSet

ADDRESS = 0x200000000000
"""Where the memory is; nothing else is mapped near it."""
ELSEWHERE = 0x210000000000
BEYOND = 16
"""Pages of the memory, behind those of the image, that are zero."""
ANSWER = 20.0
"""Seconds."""


class Subject:
    """Talks to `subject.py`."""

    def __init__(self, socket: Path, pages: int) -> None:
        program = [sys.executable, subject.__file__, str(socket), f"{ADDRESS:#x}", str(pages + BEYOND)]
        asked, commands = os.pipe()
        answers, answered = os.pipe()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(program, stdin=asked, stdout=answered, env=environment)
        os.close(asked)
        os.close(answered)
        self._commands = trio.lowlevel.FdStream(commands)
        self._answers = trio.lowlevel.FdStream(answers)
        self._read = b""

    @property
    def pid(self) -> int:
        return self.process.pid

    async def answer(self) -> str:
        with trio.fail_after(ANSWER):
            while b"\n" not in self._read:
                part = await self._answers.receive_some()
                if not part:
                    raise EOFError(f"the process ended with {self.process.wait(5)}")
                self._read += part
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    async def say(self, command: str, *numbers: int) -> None:
        await self._commands.send_all(f"{' '.join([command, *map(str, numbers)])}\n".encode())

    async def ask(self, command: str, *numbers: int) -> str:
        await self.say(command, *numbers)
        return await self.answer()

    async def check(self, first: int, pages: int, at: int = ADDRESS, *, zero: bool = False) -> str:
        """Compares pages, by their number at `at`, with the image's; `zero`: with nothing."""
        return await self.ask("check", at + first * PAGE, pages, 0 if zero else ADDRESS + first * PAGE)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(5)

    async def close(self) -> None:
        self.kill()
        await self._commands.aclose()
        await self._answers.aclose()


class Restored:
    """One process with its pager."""

    def __init__(self, directory: Path, runs: Sequence[Run], wanted: WorkingSet) -> None:
        self.images, self.work = directory / "images", directory / "work"
        for path in (self.images, self.work):
            path.mkdir()
        image.write(self.images, runs)
        self.said: list[str] = []
        self.pager = Pager.start(self.images, self.work, wanted, say=self.said.append)
        self.pages = max(run.address + run.pages * PAGE for run in runs) // PAGE - ADDRESS // PAGE
        self.process = Subject(self.work / "lazy-pages.socket", self.pages)
        self.lost = ""
        self.ended = trio.Event()

    async def supervise(self) -> None:
        """As the shim does: what cannot be completed is killed."""
        try:
            await self.pager.run()
        except PagerLost as reason:
            self.lost = str(reason)
            self.process.kill()
            await self.pager.kill()
        self.ended.set()

    async def drained(self) -> None:
        self.pager.drain()
        with trio.fail_after(ANSWER):
            await self.ended.wait()


class Restore:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @asynccontextmanager
    async def __call__(
        self, pages: int = 2000, *, runs: Sequence[Run] = (), wanted: WorkingSet = ()
    ) -> AsyncIterator[Restored]:
        """A restored process of so many pages, or of these runs."""
        one = Restored(self._directory, runs or [Run(ADDRESS, pages)], wanted)
        try:
            assert await one.process.answer() == "restored"
            await one.pager.guarded()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.supervise)
                yield one
                one.process.kill()
                await one.pager.kill()
        finally:
            with trio.CancelScope(shield=True):
                await one.process.close()
                await one.pager.kill()


@pytest.fixture
def restore(tmp_path: Path) -> Restore:
    return Restore(tmp_path)
