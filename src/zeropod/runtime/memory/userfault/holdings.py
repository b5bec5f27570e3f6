"""The shim's state of a container whose memory is in the page store: the store, the pager, and the processes.

Owns the generation: one pager with the journal and the index that it was started with. A move makes a new generation,
since the index of a pager changes only by what the processes do. The old pager ends first, with everything recorded;
the userfaultfds stay open here, so page faults block meanwhile.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from zeropod.kernel import pagemap_scan, userfault
from zeropod.runtime.memory.backend import MemoryFailed, MemoryLost
from zeropod.runtime.memory.userfault import extents
from zeropod.runtime.memory.userfault.extents import Index
from zeropod.runtime.memory.userfault.ranges import Range
from zeropod.runtime.memory.userfault.store import PageStore
from zeropod.runtime.pagemap import Image
from zeropod.runtime.pager import Pager, WorkingSet
from zeropod.runtime.pager.files import PagesFile
from zeropod.runtime.pager.journal import MISSING, MOVABLE, Event, Journal, Kind, Phase
from zeropod.runtime.pager.service import Service
from zeropod.runtime.pager.space import Space, Spaces
from zeropod.runtime.pager.working_set import BLOCK

RETIRE_WITHIN: Final = 5.0
"""Seconds within which a pager must end when told to; it takes a millisecond."""
GUARDED_WITHIN: Final = 0.5
"""Seconds within which the userfaultfd of a forked process must arrive."""
STARTS: Final = 3
"""Attempts to start a pager: memory may be short for a moment."""
UNKNOWN: Final = 1 << 40
"""Plus the number of the address space: placeholder for the pid of a forked process that is not identified yet."""

AHEAD: Final = BLOCK
"""The most pages that one fault brings in."""
NOTED: Final = 1.0
"""Seconds after the first fault of a wake during which faults count for the working set: the first requests."""
FILL: Final = 384
"""The most pages of the working set that are brought in while the container sleeps: 1.5 MB. The rest follows at the
wake, while the container runs on these."""


@dataclass(slots=True)
class Member:
    """One process whose memory is out, or may go out."""

    pid: int
    """`UNKNOWN` or above if it is not known."""
    uffd: int
    """The shim's own descriptor of its userfaultfd."""
    number: int = -1
    """The number of its address space in the present generation."""
    tracked: bool = False
    """Whether the page map tells which pages were written to since they were stored."""
    ranges: list[Range] = field(default_factory=list)
    """The mappings that can be moved out by the present move."""

    @property
    def known(self) -> bool:
        return self.pid < UNKNOWN

    def close(self) -> None:
        """Let go of the userfaultfd."""
        with suppress(OSError):
            os.close(self.uffd)


class Generation:
    """A pager, with copies of its tables."""

    def __init__(self, pager: Pager, spaces: Spaces, members: list[Member], out: int) -> None:
        self.pager = pager
        self.spaces = spaces
        self.members = members
        self.dropped = 0
        """Pages dropped since it began."""
        self._out_at_start = out

    def space(self, member: Member) -> Space:
        return self.spaces.all[member.number]

    @property
    def progress(self) -> tuple[int, int, int]:
        """Return values that change with every action of the pager."""
        journal = self.pager.journal
        return journal.event_count, journal.pages_brought, len(self.pager.guards)

    @property
    def pages_out(self) -> int:
        if self.pager.ended:
            return 0
        return max(0, self._out_at_start + self.dropped + self.pager.journal.pages_missing)


@dataclass(slots=True)
class Written:
    """What a move has stored of one process."""

    ranges: list[Range] = field(default_factory=list)
    """The pages whose older copies are outdated."""
    index: Index = field(default_factory=Index)


@dataclass(frozen=True, slots=True)
class _Plan:
    """The input for the next generation."""

    members: list[Member]
    """In the order of their future numbers."""
    files: list[int]
    """The store's numbers of the files referred to."""
    image: Image
    states: list[bytearray]
    """Of each member's pages."""


class Holdings:
    """Used by the thread of a move, and between moves by trio's thread."""

    def __init__(self, store: PageStore, started: Callable[[Pager], None], say: Callable[[str], None]) -> None:
        """Start empty. `started` must have trio run `Pager.run`, which ends with the pager."""
        self.store = store
        self.tracking = _can_track()
        """Whether the kernel can tell which pages were written to."""
        self.generation: Generation | None = None
        self.working_set: WorkingSet = ()
        self.kept: dict[int, int] = {}
        """The descriptor number of the userfaultfd's duplicate in each process, by pid."""
        self._started = started
        self._say = say

    @property
    def members(self) -> list[Member]:
        return self.generation.members if self.generation else []

    def index(self, member: Member) -> Index:
        """Return where its pages are in the store. The processes must be frozen."""
        assert self.generation
        self.generation.spaces.catch_up()
        return Index.of_space(self.generation.space(member))

    def replace(
        self,
        new: Sequence[Member] = (),
        written: Mapping[int, Written] | None = None,
        *,
        as_of: int | None = None,
        learn: bool = False,
        check: Callable[[], None] = lambda: None,
    ) -> bool:
        """Start the next generation, with new members and the newly written pages, by number of the address space.

        Returns False if processes have run since `as_of` events: the written pages are then left out of the index.
        `learn`: the faults since the last generation belong to a wake. `check` raises to cancel; it is called as long
        as everything can be left unchanged. If this raises, the new members' userfaultfds are closed. Raises
        MemoryFailed, MemoryLost.
        """
        old, right = self.generation, True
        newcomers = [(member, Index()) for member in new]
        if old is None:
            try:
                first = self._start(self._plan(newcomers))
            except OSError as error:
                for member in new:
                    member.close()
                raise MemoryFailed(f"no pager can be started: {error}") from error
            self._go_on_with(first)
            return True
        if learn:
            changed = {old.spaces.all[number].pid: found.ranges for number, found in (written or {}).items()}
            self.working_set = old.pager.learnt(changed)
        before = old.progress
        heir = None
        try:
            # Do everything slow while the old pager still serves.
            heir = self._start(self._plan([*self._indexed(old, written or {}), *newcomers]), waits=True)
            check()
            if not old.pager.retire(RETIRE_WITHIN):
                raise MemoryFailed("the pager does not end when it is told to")
        except BaseException as error:  # a cut, too: the old pager goes on as it was
            if heir:
                heir.pager.abandon()
            for member in new:
                member.close()
            if isinstance(error, OSError):
                raise MemoryFailed(f"no pager can be started: {error}") from error
            raise
        waiting: Generation | None = heir
        try:
            if reason := old.pager.doubt():
                raise MemoryLost(f"the pager died, and {reason}")
            old.spaces.catch_up()
            old.spaces.happen(old.pager.journal.unrecorded())
            right = as_of is None or as_of == old.pager.journal.event_count
            if before != old.progress or not right:
                # The processes were thawed meanwhile. Page faults block until the next pager runs.
                waiting = None
                heir.pager.abandon()
                plan = self._plan([*self._indexed(old, written or {} if right else {}), *newcomers])
                waiting = heir = self._start(plan, waits=True)
            heir.pager.begin()
        except BaseException as error:  # the old pager has ended: whatever it is, nothing serves page faults any more
            if waiting:
                waiting.pager.abandon()
            for member in new:
                member.close()
            if isinstance(error, MemoryLost):
                raise
            # The old pager keeps its guards, so missing pages stay missing.
            raise MemoryLost(f"no pager can be started: {error}") from error
        kept = {member.uffd for member in heir.members}
        for uffd in old.pager.take_guards().values():
            if uffd not in kept:
                os.close(uffd)
        self._go_on_with(heir)
        old.pager.close()
        return right

    def _go_on_with(self, generation: Generation) -> None:
        for number, member in enumerate(generation.members):
            member.number = number
            if not member.known:
                member.pid = UNKNOWN + number
        self.generation = generation
        self._started(generation.pager)

    def resume(self, indexed: Sequence[tuple[Member, Index]]) -> None:
        """Start a generation for processes that came back with this index. Raises MemoryLost; the caller then keeps the
        members' userfaultfds."""
        try:
            generation = self._start(self._plan(indexed))
        except OSError as error:
            raise MemoryLost(f"no pager can be started: {error}") from error
        self._go_on_with(generation)

    def _indexed(self, old: Generation, written: Mapping[int, Written]) -> list[tuple[Member, Index]]:
        """Return the members whose memory still exists, with the index of their pages in the next generation."""
        old.spaces.catch_up()
        members = {member.number: member for member in old.members}
        tracked = all(member.tracked for member in old.members)
        result = []
        for number, uffd in sorted(old.pager.guards.items()):
            if number >= len(old.spaces.all):
                continue  # forked after the members were listed, which is repeated then
            space = old.spaces.all[number]
            if space.gone or not userfault.alive(uffd):
                continue
            member = members.get(number) or Member(UNKNOWN + number, uffd, tracked=tracked)
            member.uffd = uffd
            found = Index.of_space(space)
            if (ours := written.get(number)) is not None:
                found = extents.replaced(found, ours.ranges, ours.index)
            result.append((member, found))
        return result

    def _plan(self, indexed: Sequence[tuple[Member, Index]]) -> "_Plan":
        numbers = sorted({number for _, found in indexed for number in found.files})
        places = {number: place for place, number in enumerate(numbers)}
        runs_of = {}
        for number, (member, found) in enumerate(indexed):
            pid = member.pid if member.known else UNKNOWN + number
            runs_of[pid] = extents.renumbered(found.runs, places)
        image = Image(runs_of, tuple(self.store.files[number].path for number in numbers))
        return _Plan([member for member, _ in indexed], numbers, image, [found.states for _, found in indexed])

    def _start(self, plan: "_Plan", *, waits: bool = False) -> Generation:
        for _ in range(STARTS - 1):
            with suppress(OSError):
                return self._try(plan, waits)
            time.sleep(0.01)
        return self._try(plan, waits)

    def _try(self, plan: "_Plan", waits: bool) -> Generation:
        files, journal = self._again(plan.files), Journal.create()
        spaces = Spaces(plan.image, plan.files, journal)
        for number, (member, states) in enumerate(zip(plan.members, plan.states, strict=True)):
            spaces.happen([Event(Kind.ADOPT, number, member.pid if member.known else UNKNOWN + number)])
            spaces.all[number].states[: len(states)] = states
        journal.phase = Phase.WAITING if waits else Phase.SERVING
        guards = {number: member.uffd for number, member in enumerate(plan.members)}
        service = Service(ahead=AHEAD, protected=self.tracking, completes=False, noted=NOTED, fill=FILL)
        pager = Pager(plan.image, files, journal, self.working_set, self._say, guards=guards, service=service)
        return Generation(pager, spaces, plan.members, sum(states.count(MISSING) for states in plan.states))

    def _again(self, numbers: Iterable[int]) -> list[PagesFile]:
        files: list[PagesFile] = []
        try:
            files.extend(self.store.files[number].again() for number in numbers)
        except OSError:
            for file in files:
                os.close(file.descriptor)
            raise
        return files

    def look_for_members(self) -> None:
        """Add members for forked processes, and remove those whose memory has ended, by exit or execve(2).

        The processes are frozen: a fork is recorded at once, but its userfaultfd may arrive later.
        """
        if self.generation is None:
            return
        self.generation.spaces.catch_up()
        numbers = {member.number for member in self.members}
        tracked = all(member.tracked for member in self.members)
        until = time.monotonic() + GUARDED_WITHIN
        for space in self.generation.spaces.all:
            if space.number in numbers or space.gone:
                continue
            while (uffd := self.generation.pager.guards.get(space.number)) is None and time.monotonic() < until:
                time.sleep(0.0005)
            if uffd is not None:
                self.members.append(Member(UNKNOWN + space.number, uffd, space.number, tracked))
        self.generation.members = [member for member in self.members if userfault.alive(member.uffd)]

    def movable(self) -> list[Member]:
        """Return the members that can be moved out."""
        return [member for member in self.members if member.known and member.number < MOVABLE]

    def forget_files(self) -> None:
        """Delete the files of the store that the present generation does not refer to."""
        self.store.keep(self.live_bytes())

    def live_bytes(self) -> dict[int, int]:
        """Return how many bytes of each file are current."""
        live: dict[int, int] = {}
        if self.generation:
            self.generation.spaces.catch_up()
            for space in self.generation.spaces.all:
                extents.count(space, live)
        return live

    def close(self) -> None:
        """Release everything. Call it when the processes have ended and the pager has been killed."""
        self.generation = None
        self.store.close()


def _can_track() -> bool:
    try:
        return bool(userfault.offered() & userfault.WP_ASYNC) and pagemap_scan.available()
    except OSError:
        return False
