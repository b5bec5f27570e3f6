"""A pager whose files are still being filled, with userfaultfds on memory of this process.

Memory that is registered is touched by the C library alone, without the interpreter's lock: a thread that waits for a
page must not keep this process, which fetches it, from running.
"""

import ctypes
import mmap
import os
import random
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from zeropod.kernel import userfault
from zeropod.kernel.userfault import PAGE
from zeropod.runtime.images import Fingerprint
from zeropod.runtime.pagemap import Image, Runs
from zeropod.runtime.pager import Pager, PagerLost, WorkingSet, seed
from zeropod.runtime.pager.files import PagesFile
from zeropod.runtime.pager.journal import Event, Journal, Kind, Phase
from zeropod.runtime.pager.pages import Pages, source
from zeropod.runtime.pager.presence import PIECE, Filling, Presence
from zeropod.runtime.pager.serve import Server
from zeropod.runtime.pager.service import Service
from zeropod.runtime.pager.space import Spaces
from zeropod.runtime.pager.wire import Lost

PID = 7
PER_PIECE = PIECE // PAGE
WITHIN = 60.0
"""Seconds."""
pytestmark = pytest.mark.skipif(not os.path.exists(userfault.DEVICE), reason="needs /dev/userfaultfd")
_MAYMOVE, _FIXED = 1, 2
_FORKS = 1 << 1
"""UFFD_FEATURE_EVENT_FORK."""
_libc = ctypes.CDLL(None)
_libc.mremap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)
_libc.mremap.restype = ctypes.c_void_p
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)


@pytest.fixture(autouse=True)
def _no_seed_is_left() -> Iterator[None]:
    yield
    while seed._orders:
        seed._orders.pop().close()


def page_content(number: int) -> bytes:
    return number.to_bytes(4, "little") * (PAGE // 4)


class World:
    """Memory of PID all of which is out, in a file of which nothing has arrived."""

    def __init__(self, directory: Path, pieces: int, ahead: int = 16, skew: int = 0, *, events: bool = False) -> None:
        """`skew` moves the memory against the file: a block of it is then in two pieces.

        With `events` the pager hears of changes of addresses, and there is as much free memory behind.
        """
        self.events = events
        self.count = pieces * PER_PIECE - skew
        self.skew = skew
        mapped = self.count * PAGE * (2 if events else 1)
        self.memory = mmap.mmap(-1, mapped, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.path = directory / "pages-1"
        self.file = os.open(self.path, os.O_RDWR | os.O_CREAT)
        os.ftruncate(self.file, pieces * PIECE)
        self.asked: list[tuple[int, bool]] = []
        self.on_need: Callable[[int, bool], None] = lambda piece, urgent: None
        self.presence = Presence(pieces * PIECE, self._need)
        self.runs = Runs()
        self.runs.append(self.start, self.start + self.count * PAGE, 0, skew * PAGE, True)
        self.image = Image({PID: self.runs}, (self.path,))
        self.said: list[str] = []
        self.ahead = ahead

    def _need(self, piece: int, urgent: bool) -> None:
        self.asked.append((piece, urgent))
        self.on_need(piece, urgent)

    def arrive(self, piece: int) -> None:
        pages = b"".join(page_content(piece * PER_PIECE + page) for page in range(PER_PIECE))
        os.pwrite(self.file, pages, piece * PIECE)
        self.presence.mark(piece)

    def complete(self) -> None:
        assert self.presence.next_missing() == -1
        self.presence.complete(Fingerprint.of(os.fstat(self.file)))

    def pager(self, working_set: WorkingSet = ()) -> Pager:
        self.uffd = userfault.new(device := userfault.device())
        os.close(device)
        # This process forks in other tests, after which the pager would have to serve the child, too.
        userfault.handshake(self.uffd, userfault.EVENTS & ~_FORKS if self.events else 0)
        userfault.register(self.uffd, self.start, self.count * PAGE, userfault.MISSING)
        journal = Journal.create()
        spaces = Spaces(self.image, [0], journal)
        spaces.happen([Event(Kind.ADOPT, 0, PID)])
        journal.phase = Phase.SERVING
        service = Service(ahead=self.ahead, completes=False, fill=64)
        files = [PagesFile.open(self.path, self.presence)]
        return Pager(self.image, files, journal, working_set, self.said.append, guards={0: self.uffd}, service=service)

    def touch(self, page: int) -> bool:
        """Read a page, in a thread; return whether it has the right content."""
        expected = page_content(page + self.skew)
        return not _libc.memcmp(self.start + page * PAGE, expected, PAGE)

    def move(self, page: int, to: int, pages: int) -> None:
        """mremap(2), to the free memory."""
        place = self.start + to * PAGE
        found = _libc.mremap(self.start + page * PAGE, pages * PAGE, pages * PAGE, _MAYMOVE | _FIXED, place)
        assert found == place

    def discard(self, page: int, pages: int) -> None:
        assert not _libc.madvise(self.start + page * PAGE, pages * PAGE, mmap.MADV_DONTNEED)

    def has(self, page: int, content: bytes) -> bool:
        """Read a page, in a thread; return whether it has this content."""
        return not _libc.memcmp(self.start + page * PAGE, content, PAGE)

    async def is_right(self, page: int) -> None:
        assert await trio.to_thread.run_sync(partial(self.touch, page), abandon_on_cancel=True), page

    def was_replaced(self, times: int) -> bool:
        """Whether the pager was replaced more often than that."""
        return len(self.said) > times

    def close(self) -> None:
        os.close(self.file)


@asynccontextmanager
async def served(world: World, working_set: WorkingSet = ()) -> AsyncIterator[Pager]:
    """A pager that is looked after."""
    pager = world.pager(working_set)
    with trio.fail_after(WITHIN):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pager.run)
            try:
                yield pager
            finally:
                await pager.kill()
    world.close()


async def until(happened: Callable[[], bool]) -> None:
    with trio.fail_after(WITHIN):
        while not happened():  # noqa: ASYNC110 - other processes and threads make it happen
            await trio.sleep(0.001)


async def test_a_page_fault_waits_until_its_piece_has_arrived(tmp_path: Path) -> None:
    world = World(tmp_path, 4)
    async with served(world), trio.open_nursery() as nursery:
        done = trio.Event()

        async def fault() -> None:
            await world.is_right(2 * PER_PIECE + 5)
            done.set()

        nursery.start_soon(fault)
        await until(lambda: (2, True) in world.asked)
        world.arrive(1)
        await trio.sleep(0.02)
        assert not done.is_set()
        world.arrive(2)
        await done.wait()
    assert {piece for piece, _ in world.asked} == {2}


async def test_a_fault_that_waits_does_not_keep_others_waiting(tmp_path: Path) -> None:
    world = World(tmp_path, 4)
    world.arrive(3)
    async with served(world), trio.open_nursery() as nursery:
        nursery.start_soon(world.is_right, 0)
        await until(lambda: (0, True) in world.asked)
        for page in range(3 * PER_PIECE, 4 * PER_PIECE, 7):
            await world.is_right(page)
        world.arrive(0)


@pytest.mark.parametrize("skew", [0, 3, 9])
async def test_nothing_beside_a_fault_is_read_before_it_is_there(tmp_path: Path, skew: int) -> None:
    world = World(tmp_path, 5, ahead=32, skew=skew)
    async with served(world):
        for piece in (3, 1, 4, 0, 2):
            world.arrive(piece)
            first = max(0, piece * PER_PIECE - skew)
            last = min(world.count, (piece + 1) * PER_PIECE - skew) - 1
            for page in (first, last, (first + last) // 2):
                await world.is_right(page)
        assert not world.asked
        for page in range(world.count):
            await world.is_right(page)


async def test_a_fault_asks_once_a_second_at_most(tmp_path: Path) -> None:
    world = World(tmp_path, 2)
    async with served(world), trio.open_nursery() as nursery:
        for page in range(20):
            nursery.start_soon(world.is_right, page)
        await trio.sleep(0.2)
        assert world.asked == [(0, True)]
        world.arrive(0)


async def test_the_working_set_is_brought_in_as_far_as_it_is_there_and_asks_for_the_rest(tmp_path: Path) -> None:
    world = World(tmp_path, 3)
    world.arrive(1)
    pages = [5, PER_PIECE + 4, 2 * PER_PIECE + 2, PER_PIECE + 30]
    async with served(world, tuple((PID, world.start + page * PAGE, 2) for page in pages)) as pager:
        assert await pager.fill() == 2
        await until(lambda: len(world.asked) == 2)
        assert sorted(world.asked) == [(0, False), (2, False)]
        world.arrive(2)
        await world.is_right(2 * PER_PIECE + 2)


async def test_the_drain_takes_what_has_arrived_and_then_the_rest(tmp_path: Path) -> None:
    world = World(tmp_path, 6)
    for piece in (1, 4):
        world.arrive(piece)
    async with served(world) as pager, trio.open_nursery() as nursery:
        nursery.start_soon(pager.drained)
        pager.drain()
        await until(lambda: pager.journal.pages_brought == 2 * PER_PIECE)
        await until(lambda: {piece for piece, _ in world.asked} >= {0, 2})
        for piece in (5, 0, 3, 2):
            world.arrive(piece)
        world.complete()
    for page in range(world.count):
        assert world.touch(page)


async def test_the_loss_of_the_source_is_told_when_a_page_is_needed(tmp_path: Path) -> None:
    world = World(tmp_path, 2)
    world.arrive(0)
    pager = world.pager()
    with trio.fail_after(WITHIN):
        async with trio.open_nursery() as nursery:
            failures: list[str] = []

            async def look_after() -> None:
                try:
                    await pager.run()
                except PagerLost as lost:
                    failures.append(str(lost))
                nursery.cancel_scope.cancel()

            nursery.start_soon(look_after)
            await world.is_right(1)
            world.presence.lose("the node is gone")
            await world.is_right(PER_PIECE - 1)
            assert not failures
            nursery.start_soon(world.is_right, PER_PIECE + 1)
    assert len(failures) == 1
    assert "the node is gone" in failures[0]
    await pager.kill()  # and the thread reads zeroes, which no process would live to see
    world.close()


async def test_a_file_is_checked_from_when_it_is_complete(tmp_path: Path) -> None:
    world = World(tmp_path, 2)
    pager = world.pager()
    file, lost = PagesFile.open(world.path, world.presence), trio.Event()
    with trio.fail_after(WITHIN):
        async with trio.open_nursery() as nursery:

            async def look_after() -> None:
                with pytest.raises(PagerLost, match="written to"):
                    await pager.run()
                lost.set()

            nursery.start_soon(look_after)
            for piece in range(2):
                world.arrive(piece)
            await world.is_right(0)
            assert not pager.damage()
            world.complete()
            await world.is_right(PER_PIECE)
            assert file.complete
            assert not file.damage()
            os.pwrite(world.file, b"x", 17)
            assert "written to" in file.damage()
            nursery.start_soon(trio.to_thread.run_sync, world.touch, PER_PIECE + 40)
            await lost.wait()
            await pager.kill()
    os.close(file.descriptor)
    world.close()


@pytest.mark.parametrize("kills", [0, 8])
async def test_random_faults_while_pieces_arrive_in_any_order(tmp_path: Path, kills: int) -> None:
    chance = random.Random(kills)
    world = World(tmp_path, 40, skew=5)
    to_come = list(range(40))
    chance.shuffle(to_come)
    urgent: list[int] = []
    world.on_need = lambda piece, waits: urgent.append(piece) if waits else None

    async def fetch() -> None:
        while to_come:
            await trio.sleep(chance.random() * 0.01)
            piece = urgent.pop() if urgent and chance.random() < 0.7 else to_come[-1]
            if piece in to_come:
                to_come.remove(piece)
                world.arrive(piece)
        world.complete()

    async def read(seed: int) -> None:
        pages = random.Random(seed)
        for _ in range(300):
            await world.is_right(pages.randrange(world.count))

    async with served(world) as pager:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch)
            for seed in range(6):
                nursery.start_soon(read, seed)
            for number in range(kills):
                await trio.sleep(0.02)
                os.kill(pager.pid, signal.SIGKILL)
                await until(partial(world.was_replaced, number))
        for page in range(world.count):
            await world.is_right(page)
    assert len(world.said) == kills


@pytest.mark.parametrize("kills", [0, 6])
async def test_addresses_that_change_while_faults_wait(tmp_path: Path, kills: int) -> None:
    """Pages that were moved come to where they are, and discarded ones are zero, whenever their piece arrives."""
    chance = random.Random(kills + 10)
    world = World(tmp_path, 12, skew=7, events=True)
    for piece in (0, 5):
        world.arrive(piece)
    expected = {page: page_content(page + world.skew) for page in range(world.count)}

    async def right(page: int, content: bytes) -> None:
        assert await trio.to_thread.run_sync(world.has, page, content, abandon_on_cancel=True), page

    async with served(world) as pager:
        async with trio.open_nursery() as nursery:
            for page in chance.sample(range(world.count // 2), 8):
                nursery.start_soon(right, page, expected[page])  # most of them wait
            await until(lambda: len(world.asked) > 2)

            async def kill() -> None:
                for number in range(kills):
                    await trio.sleep(0.01)
                    os.kill(pager.pid, signal.SIGKILL)
                    await until(partial(world.was_replaced, number))

            async def change() -> None:
                # In the second half, where nothing waits yet.
                for start in range(world.count // 2, world.count - 24, 24):
                    pages, to = chance.randrange(1, 20), world.count + start
                    await trio.to_thread.run_sync(world.move, start, to, pages)
                    for page in range(pages):
                        expected[to + page] = expected.pop(start + page)
                    gone = start + pages
                    await trio.to_thread.run_sync(world.discard, gone, 3)
                    expected.update({gone + page: bytes(PAGE) for page in range(3)})
                    await trio.sleep(0.002)

            nursery.start_soon(kill)
            nursery.start_soon(change)
            for piece in chance.sample([1, 2, 3, 4, 6, 7, 8, 9, 10, 11], 10):
                await trio.sleep(0.02)
                world.arrive(piece)
            world.complete()
        for page, content in expected.items():
            await right(page, content)
    assert len(world.said) == kills


def test_a_missing_piece_is_never_read(tmp_path: Path) -> None:
    world = World(tmp_path, 4)
    pages = Pages([world.file], (), {0: world.presence.descriptor})
    world.arrive(1)
    assert pages.absent(source(0, 0)) == [(0, 0)]
    assert pages.absent(source(0, PIECE)) == []
    assert pages.absent(source(0, PIECE - PAGE), 2) == [(0, 0)]
    assert pages.absent(source(0, 2 * PIECE - PAGE), 2) == [(0, 2)]
    assert pages.there_around(source(0, PIECE - 3 * PAGE), 10, 5) == (3, 7)
    assert pages.there_around(source(0, 2 * PIECE - 3 * PAGE), 10, 1) == (0, 3)
    assert pages.there_around(source(0, PIECE + PAGE), 10, 1) == (0, 10)
    world.close()


def test_a_lost_source_is_a_loss_for_what_has_not_arrived_alone(tmp_path: Path) -> None:
    world = World(tmp_path, 2)
    pages = Pages([world.file], (), {0: world.presence.descriptor})
    world.arrive(0)
    world.presence.lose("gone " + "x" * 500)
    assert pages.absent(source(0, 0)) == []
    with pytest.raises(Lost, match="gone xxx"):
        pages.absent(source(0, PIECE))
    assert world.presence.filling is Filling.LOST
    world.close()


def test_a_drain_that_looks_past_absent_pages_does_not_forget_what_moves_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, 4)
    world.arrive(1)
    journal, (ours, theirs) = Journal.create(), socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    spaces = Spaces(world.image, [0], journal)
    spaces.happen([Event(Kind.ADOPT, 0, PID)])
    pages = Pages([world.file], (), {0: world.presence.descriptor})
    server = Server(journal, spaces, pages, theirs, (), Service(completes=False))
    server.served[-1] = space = spaces.all[0]

    def moves_meanwhile(*_: object) -> None:
        last = world.start + (world.count - 1) * PAGE
        server._happened(Event(Kind.REMAP, 0, last, world.start - 10 * PAGE, PAGE))

    monkeypatch.setattr(server, "_drain", moves_meanwhile)
    assert server._drain_slice(64)
    assert space.missing(64)[0] == world.start - 10 * PAGE
    for end in (ours, theirs):
        end.close()
    server.poll.close()
    world.close()
