"""A pager that is killed loses nothing, and nobody reads a zero where there was data."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio
from tests.integration.pager import image
from tests.integration.pager.conftest import ADDRESS, Restore, Restored, Subject
from tests.integration.pager.image import PAGE

from zeropod.runtime.pager.pager import SUCCESSORS

LARGE = 12000
SEEDS = range(12)


def descriptors(pid: int) -> list[str]:
    """What a process has open."""
    links = Path(f"/proc/{pid}/fd").iterdir()
    return [os.readlink(link) for link in links]


async def test_a_process_that_touches_a_page_without_a_pager_waits_for_the_next_one(restore: Restore) -> None:
    async with restore(LARGE) as one:
        os.kill(one.pager.pid, signal.SIGSTOP)
        await one.process.say("check", ADDRESS, 100, ADDRESS)
        await trio.sleep(0.05)
        os.kill(one.pager.pid, signal.SIGKILL)
        assert await one.process.answer() == "right"
        assert len(one.said) == 1
        await one.drained()
        assert await one.process.check(0, LARGE) == "right"


async def test_a_successor_knows_what_was_discarded_moved_and_forked(restore: Restore) -> None:
    async with restore(LARGE) as one:
        assert await one.process.ask("discard", ADDRESS, 10 * PAGE) == "done"
        assert await one.process.ask("move", ADDRESS + 100 * PAGE, ADDRESS + 0x10000000, 10 * PAGE) == "done"
        assert await one.process.check(200, 1) == "right"  # the pager is done with what came before
        os.kill(one.pager.pid, signal.SIGKILL)
        assert await one.process.check(0, 10, zero=True) == "right"
        assert await one.process.ask("check", ADDRESS + 0x10000000, 10, ADDRESS + 100 * PAGE) == "right"
        assert await one.process.ask("fork", ADDRESS + 500 * PAGE, 100, ADDRESS + 500 * PAGE) == "right"
        assert await one.process.check(201, 1) == "right"
        os.kill(one.pager.pid, signal.SIGKILL)
        assert await one.process.ask("fork", ADDRESS + 700 * PAGE, 100, ADDRESS + 700 * PAGE) == "right"
        await one.drained()
        assert not one.lost
        assert await one.process.check(110, LARGE - 110) == "right"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("forks", [True, False], ids=["forking", "alone"])
async def test_killed_at_any_moment_it_leaves_right_memory_or_says_that_it_is_lost(
    restore: Restore, seed: int, forks: bool
) -> None:
    """Lost is what dies between reading of a fork and recording it: the process is then killed, and reads nothing."""
    chance = random.Random(seed)
    discarded: set[int] = set()

    async def use() -> None:
        for _ in range(60):
            first = chance.randrange(0, LARGE - 20)
            match chance.randrange(4):
                case 0:
                    assert await one.process.ask("discard", ADDRESS + first * PAGE, 5 * PAGE) == "done"
                    discarded.update(range(first, first + 5))
                case 1:
                    pages = [page for page in range(first, first + 20) if page not in discarded]
                    start = pages[0] if pages else 0
                    if forks and pages and pages == list(range(start, start + len(pages))):
                        origin = ADDRESS + start * PAGE
                        assert await one.process.ask("fork", origin, len(pages), origin) == "right"
                case _:
                    for page in range(first, first + 20):
                        assert await one.process.check(page, 1, zero=page in discarded) == "right"

    async with restore(LARGE) as one:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(use)
                for death in range(SUCCESSORS):
                    await trio.sleep(chance.uniform(0, 0.02))
                    if death == 2:
                        one.pager.drain()
                    if one.lost or one.ended.is_set():
                        break
                    os.kill(one.pager.pid, signal.SIGKILL)
        except* (EOFError, trio.BrokenResourceError):
            with trio.fail_after(5):
                await one.ended.wait()
            assert forks
            assert one.lost == "the pager died, and a process was forking"
        if not one.lost:
            await one.drained()
        if not one.lost:
            for page in range(0, LARGE, 50):
                for zero in (False, True):
                    numbers = [number for number in range(page, page + 50) if (number in discarded) is zero]
                    for number in numbers if zero else numbers[::10]:
                        assert await one.process.check(number, 1, zero=zero) == "right"


async def test_one_death_too_many_is_the_end(restore: Restore) -> None:
    async with restore(LARGE) as one:
        for number in range(SUCCESSORS + 1):
            assert await one.process.check(number, 1) == "right"
            os.kill(one.pager.pid, signal.SIGKILL)
            await until(partial(said_or_ended, one, number))
        assert one.lost == f"the pager died {SUCCESSORS + 1} times"


async def test_the_pager_holds_nothing_of_the_shim_s(restore: Restore, tmp_path: Path) -> None:
    with (tmp_path / "open").open("w"):
        async with restore() as one:
            held = descriptors(one.pager.pid)
            assert not [link for link in held if link == str(tmp_path / "open")]
            assert sorted(link for link in held if link.startswith("pipe:")) == []
            assert len([link for link in held if link.startswith("socket:")]) == 1
            assert name(one.pager.pid) == "zeropod-pager"


SHIM = """
import sys, trio
from pathlib import Path
from zeropod.runtime.pager import Pager

async def main():
    pager = Pager.start(Path(sys.argv[1]), Path(sys.argv[2]), say=print)
    print(pager.pid, flush=True)
    sys.stdin.readline()
    await pager.guarded()
    print("guarded", flush=True)
    sys.stdin.readline()

trio.run(main)
"""


async def test_a_pager_without_a_shim_serves_until_the_process_is_gone(tmp_path: Path) -> None:
    images, work = tmp_path / "images", tmp_path / "work"
    for path in (images, work):
        path.mkdir()
    image.write(images, [image.Run(ADDRESS, LARGE)])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    program = [sys.executable, "-c", SHIM, str(images), str(work)]
    with subprocess.Popen(  # noqa: ASYNC220 - a millisecond
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as shim:
        assert shim.stdin
        assert shim.stdout
        pager = int(shim.stdout.readline())
        process = Subject(work / "lazy-pages.socket", LARGE)
        assert await process.answer() == "restored"
        shim.stdin.write(b"\n")
        shim.stdin.flush()
        assert shim.stdout.readline() == b"guarded\n"
        shim.kill()
    await trio.sleep(0.5)
    assert await process.check(0, LARGE) == "right"
    assert alive(pager)
    await process.close()
    await until(lambda: not alive(pager))


def name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def said_or_ended(one: Restored, number: int) -> bool:
    return len(one.said) > number or one.ended.is_set()


async def until(happened: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not happened():  # noqa: ASYNC110 - what happens in another process sets no event here
            await trio.sleep(0.005)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
