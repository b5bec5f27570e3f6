"""A pager that is killed loses nothing, and nobody reads a zero where there was data."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import trio
from tests.integration.pager import image
from tests.integration.pager.conftest import ADDRESS, Restore, Restored, Subject
from tests.integration.pager.image import PAGE
from tests.integration.patience import patient

from zeropod.runtime.pager import child, seed
from zeropod.runtime.pager.journal import Standing
from zeropod.runtime.pager.pager import USELESS
from zeropod.runtime.pager.serve import Server

LARGE = 12000
SEEDS = range(12)
DEATHS = 20
"""In a row, a few milliseconds from each other."""
GIVEN_UP = patient(3.0)
"""Seconds."""


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
                for death in range(DEATHS):
                    await trio.sleep(chance.uniform(0, 0.02))
                    if death == 2:
                        one.pager.drain()
                    if one.lost or one.ended.is_set():
                        break
                    with suppress(ProcessLookupError):  # between two of them
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


async def test_a_pager_with_nothing_to_do_is_replaced_as_often_as_it_is_killed(restore: Restore) -> None:
    async with restore(LARGE) as one:
        for number in range(2 * USELESS):
            await until(lambda: one.pager.journal.standing is Standing.WAITING)
            os.kill(one.pager.pid, signal.SIGKILL)
            await until(partial(said_or_ended, one, number))
        assert not one.lost
        assert await one.process.check(0, LARGE) == "right"


async def test_one_that_serves_a_page_is_replaced_as_often_as_it_is_killed(restore: Restore) -> None:
    async with restore(LARGE) as one:
        for number in range(2 * USELESS):
            assert await one.process.check(100 * number, 1) == "right"
            await until(lambda: one.pager.journal.standing is Standing.PROVEN)
            os.kill(one.pager.pid, signal.SIGKILL)
            await until(partial(said_or_ended, one, number))
        assert not one.lost
        assert await one.process.check(0, LARGE) == "right"


def without_a_seed() -> None:
    """Have the next pager come from a new one, which is as this process is then."""
    while seed._orders:
        seed._orders.pop().close()


@pytest.fixture(autouse=True)
def _no_seed_is_left() -> Iterator[None]:
    yield
    without_a_seed()


def at_its_start(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_its_first_page(server: Server, *_: object) -> None:
    if server.spaces.all:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("where", "method", "dies"), [(child, "_take_over", at_its_start), (Server, "_fault", at_its_first_page)]
)
async def test_pagers_that_all_die_of_the_first_thing_they_do_are_the_end_at_some_point(
    restore: Restore, monkeypatch: pytest.MonkeyPatch, where: object, method: str, dies: Callable[..., None]
) -> None:
    async with restore(LARGE) as one:
        assert await one.process.check(0, 1) == "right"
        monkeypatch.setattr(where, method, dies)  # in all that are forked from now on
        without_a_seed()
        began = trio.current_time()
        os.kill(one.pager.pid, signal.SIGKILL)
        await one.process.say("check", ADDRESS + 100 * PAGE, 1, ADDRESS + 100 * PAGE)
        await until(one.ended.is_set)
        assert one.lost == f"{USELESS + 1} pagers in a row died before they had done anything"
        assert len(one.said) in (USELESS, USELESS + 1)  # as the first of all has served a page, and perhaps noted it
        assert trio.current_time() - began < GIVEN_UP


async def test_a_pager_that_is_let_go_of_between_two_has_no_successor(
    restore: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with restore(LARGE) as one:
        monkeypatch.setattr(child, "_take_over", at_its_start)
        without_a_seed()
        os.kill(one.pager.pid, signal.SIGKILL)
        await until(lambda: len(one.said) > USELESS // 2)
        one.process.kill()
        await one.pager.kill()
        await until(one.ended.is_set)
        assert not one.lost


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
