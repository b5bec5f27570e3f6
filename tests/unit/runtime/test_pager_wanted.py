"""What the pager brings in before it faults, with a userfaultfd on memory of this process."""

import ctypes
import mmap
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from zeropod.kernel import userfault
from zeropod.kernel.userfault import PAGE
from zeropod.runtime.pagemap import Image, Runs
from zeropod.runtime.pager import wire
from zeropod.runtime.pager.journal import IN, MISSING, OUTDATED, Event, Journal, Kind
from zeropod.runtime.pager.pages import Pages
from zeropod.runtime.pager.serve import Server
from zeropod.runtime.pager.service import Service
from zeropod.runtime.pager.space import Spaces
from zeropod.runtime.pager.working_set import BLOCK, block_of

PID = 7
COUNT = 80
pytestmark = pytest.mark.skipif(not os.path.exists(userfault.DEVICE), reason="needs /dev/userfaultfd")


class WithoutKeeper(Server):
    """Nothing forks here, so no process has to keep a fork's descriptor."""

    def keep(self) -> None:
        pass


class World:
    """A process with COUNT pages, all of which are out; page n is filled with the byte n."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.memory = mmap.mmap(-1, COUNT * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        (directory / "pages").write_bytes(b"".join(bytes([page]) * PAGE for page in range(COUNT)))
        self.file = os.open(directory / "pages", os.O_RDONLY)
        stack.callback(os.close, self.file)
        self.journal = Journal.create()
        runs = Runs()
        runs.append(self.start, self.start + COUNT * PAGE, 0, 0, True)
        self.spaces = Spaces(Image({PID: runs}, (directory / "pages",)), [0], self.journal)
        self._stack = stack
        self.control, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.callback(self.control.close)
        stack.callback(self.theirs.close)

    def server(self, wanted: list[int], fill: int) -> Server:
        pages = [(PID, self.start + page * PAGE) for page in wanted]
        service = Service(ahead=16, completes=False, fill=fill)
        server = WithoutKeeper(self.journal, self.spaces, Pages([self.file]), self.theirs, pages, service)
        self.spaces.happen([Event(Kind.ADOPT, 0, PID)])
        uffd = userfault.open()
        self._stack.callback(os.close, uffd)  # or unmapping waits for its event to be read
        userfault.register(uffd, self.start, COUNT * PAGE, userfault.MISSING)
        server.serve_space(uffd, self.spaces.all[0])
        return server

    def block(self, page: int) -> list[int]:
        """The pages of a block: a mapping need not begin with one."""
        _, first = block_of((PID, self.start + page * PAGE))
        return [(first - self.start) // PAGE + number for number in range(BLOCK)]

    def tell(self, server: Server, command: bytes) -> None:
        self.control.send(command)
        server._step(1)

    def present(self) -> set[int]:
        states = self.spaces.all[0].states
        found = {page for page in range(COUNT) if states[page] == IN}
        for page in found:
            assert self.memory[page * PAGE : (page + 1) * PAGE] == bytes([page]) * PAGE
        return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


def test_the_first_ones_come_while_it_sleeps_and_the_rest_at_the_wake(world: World) -> None:
    server = world.server([40, 3, 4, 5, 20, 60], fill=3)
    world.tell(server, wire.FILL)
    assert world.present() == {40, 3, 4, 5}  # pages that lie side by side are not separated
    world.tell(server, wire.LOOK)
    assert world.present() == {40, 3, 4, 5}
    world.tell(server, wire.WAKE)
    server._bring_wanted(COUNT)
    assert world.present() == {40, 3, 4, 5, 20, 60}
    assert world.journal.pages_brought == 6


def test_a_wake_in_the_middle_of_a_move_brings_in_what_is_out(world: World) -> None:
    server = world.server([9, 8], fill=8)
    world.tell(server, wire.WAKE)
    server._bring_wanted(COUNT)
    assert world.present() == {8, 9}


def test_a_fault_brings_its_neighbours(world: World) -> None:
    block = world.block(48)
    server = world.server([], fill=1)
    server._fault(next(iter(server.served)), world.start + block[3] * PAGE)
    assert world.present() == set(block)


def test_small_gaps_between_wanted_pages_are_copied_as_well(world: World) -> None:
    server = world.server([3, 6, 10], fill=1)
    world.tell(server, wire.FILL)
    assert world.present() == {3, 4, 5, 6}
    world.tell(server, wire.WAKE)
    server._bring_wanted(COUNT)
    assert world.present() == {3, 4, 5, 6, 10}


def test_a_gap_that_was_discarded_stays_zero(world: World) -> None:
    server = world.server([3, 5], fill=1)
    server._happened(Event(Kind.REMOVE, 0, world.start + 4 * PAGE, world.start + 5 * PAGE))
    world.tell(server, wire.FILL)
    world.tell(server, wire.WAKE)
    server._bring_wanted(COUNT)
    server._fault(next(iter(server.served)), world.start + 4 * PAGE)
    assert world.memory[4 * PAGE : 5 * PAGE] == bytes(PAGE)
    assert world.present() == {3, 5}


def test_a_page_that_was_moved_between_others_is_copied_by_itself(world: World) -> None:
    server = world.server([3, 4, 5], fill=1)
    server._happened(Event(Kind.REMAP, 0, world.start + 40 * PAGE, world.start + 4 * PAGE, PAGE))
    world.tell(server, wire.FILL)
    world.tell(server, wire.WAKE)
    server._bring_wanted(COUNT)
    assert world.memory[4 * PAGE : 5 * PAGE] == bytes([40]) * PAGE
    assert world.spaces.all[0].states[40] == IN
    assert world.spaces.all[0].states[4] == MISSING


def test_a_gap_that_is_in_already_is_not_copied_over(world: World) -> None:
    server = world.server([3, 5], fill=1)
    server.spaces.all[0].states[4] = OUTDATED
    world.tell(server, wire.FILL)
    assert world.present() == {3}


def test_pages_that_were_moved_come_to_where_they_are_now(world: World) -> None:
    server = world.server([3, 40, 41], fill=1)
    world.tell(server, wire.FILL)
    server._happened(Event(Kind.REMAP, 0, world.start + 41 * PAGE, world.start + 50 * PAGE, PAGE))
    server._happened(Event(Kind.REMOVE, 0, world.start + 40 * PAGE, world.start + 41 * PAGE))
    world.tell(server, wire.WAKE)
    server._bring_wanted(COUNT)
    assert world.present() == {3}, "nothing is copied to an address that has other pages now"


def test_memory_outside_of_the_image_is_zero_and_neighbours_of_the_image_are_left_alone(world: World) -> None:
    server = world.server([], fill=0)
    server._happened(Event(Kind.REMOVE, 0, world.start + 17 * PAGE, world.start + 20 * PAGE))
    server._fault(next(iter(server.served)), world.start + 17 * PAGE)
    assert world.memory[17 * PAGE : 20 * PAGE] == bytes(3 * PAGE)
    assert world.present() == set()
    server._fault(next(iter(server.served)), world.start + 20 * PAGE)
    assert world.memory[20 * PAGE] == 20
