"""Dump and restore by CRIU of a container whose memory is in the page store, which is not dumped.

CRIU dumps present pages and leaves out missing ones, so a dump takes only as long as the little memory that is left.
After the restore, before the processes run an instruction, they get userfaultfds and a pager with the same index: the
mappings are at the same addresses. The image and the store belong together.

Traps:

- CRIU reads the rseq area of each thread by ptrace, which cannot wait for a page: bring these pages in first.
- CRIU cannot dump a userfaultfd, so the duplicate that a process keeps is closed before the dump.
- Pages present in a restored process count as not stored, whatever the index has for them: the kernel considers them
  written to, and the next move stores them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from zeropod.kernel import userfault
from zeropod.kernel.process_memory import Buffer
from zeropod.kernel.userfault import PAGE
from zeropod.runtime.memory.backend import MemoryFailed, MemoryLost, Stored
from zeropod.runtime.memory.userfault import mappings
from zeropod.runtime.memory.userfault.extents import Index
from zeropod.runtime.memory.userfault.freezer import Freezer
from zeropod.runtime.memory.userfault.holding import Hold
from zeropod.runtime.memory.userfault.holdings import Holdings, Member
from zeropod.runtime.memory.userfault.injection import Injection
from zeropod.runtime.memory.userfault.opening import KEPT_AT, features
from zeropod.runtime.memory.userfault.ranges import Range, subtract
from zeropod.runtime.memory.userfault.stopped import Unsuitable, own_thread

Carried = Mapping[int, Index]
"""Where each process's pages are in the store, by its pid in its own PID namespace."""


class InStore:
    """The memory that an image leaves out, since it is in the store."""

    def __init__(self, holdings: Holdings, carried: Carried, limiter: trio.CapacityLimiter) -> None:
        self._holdings = holdings
        self._carried = carried
        self._limiter = limiter

    def stored(self) -> Stored:
        """See `LeftOut`."""
        store = self._holdings.store
        store.keep({number for found in self._carried.values() for number in found.files})
        return Stored(store.directory, self._carried)

    def detach(self) -> None:
        """Let go of files that are not this container's, and leave them where they are."""
        self._holdings.store.leave_files()

    def has_moved(self, directory: Path) -> None:
        """Take note that the store's directory was renamed."""
        self._holdings.store.has_moved(directory)

    async def processes_ended(self) -> None:
        """End the pager, and keep the files of the store."""
        generation, self._holdings.generation = self._holdings.generation, None
        if generation:
            await generation.pager.kill()
        self._holdings.kept.clear()

    async def rejoin(self, pids: Sequence[int]) -> None:
        """Give the restored processes, which are still stopped, userfaultfds and a pager of their own.

        Raises MemoryFailed, MemoryLost; the processes must not run then, and it can be retried with new ones.
        """
        await self.processes_ended()  # those of a failed attempt
        try:
            await trio.to_thread.run_sync(
                own_thread, lambda: rejoin(self._holdings, self._carried, pids), limiter=self._limiter
            )
        except OSError as error:
            raise MemoryFailed(f"the restored processes cannot be given their memory: {error}") from error


def leave(holdings: Holdings, freezer: Freezer, pids: Sequence[int]) -> Carried | None:
    """Prepare the frozen processes for a dump without the memory in the store; return None if that is impossible.

    Runs in `own_thread`. Raises Cut, MemoryFailed, MemoryLost.
    """
    holdings.look_for_members()
    members = {member.pid: member for member in holdings.members}
    if not members or not all(member.known for member in members.values()) or not members.keys() <= set(pids):
        return None
    buffer = Buffer(PAGE)
    hold = Hold(freezer, pids)
    with hold.stopped() as injections:
        if hold.left:
            return None
        for injection in injections:
            for address, length in injection.rseq_areas():
                for page in range(address & -PAGE, address + length, PAGE):
                    buffer.read(injection.pid, [(page, page + PAGE)])
            number = holdings.kept.pop(injection.pid, None)
            if number is not None and injection.holds(number):
                injection.close_descriptor(number)
    freezer.wait_frozen()
    return {_inner_pid(pid): holdings.index(member) for pid, member in members.items()}


def rejoin(holdings: Holdings, carried: Carried, pids: Sequence[int]) -> None:
    """Give restored processes, which are still stopped, their memory in the store.

    Runs in `own_thread`. Raises MemoryFailed and MemoryLost; the processes must not run then.
    """
    processes = {_inner_pid(pid): pid for pid in pids}
    if missing := carried.keys() - processes.keys():
        raise MemoryLost(f"processes {', '.join(map(str, sorted(missing)))} were not restored")
    indexed: list[tuple[Member, Index]] = []
    try:
        for inner, found in carried.items():
            member = _member(processes[inner], holdings)
            indexed.append((member, found))
            _register(member, found, tracking=holdings.tracking)
        holdings.resume(indexed)
    except BaseException:
        for member, _ in indexed:
            member.close()
        raise


def _member(pid: int, holdings: Holdings) -> Member:
    try:
        injection = Injection.stop(pid, even_stopped=True)
        try:
            uffd = injection.open_userfaultfd(features(holdings), KEPT_AT)
            if injection.kept_descriptor is not None:
                holdings.kept[pid] = injection.kept_descriptor
        finally:
            injection.release()
    except (Unsuitable, OSError) as error:
        raise MemoryFailed(f"the restored process {pid} cannot be given its memory: {error}") from error
    return Member(pid, uffd, tracked=holdings.tracking)


def _register(member: Member, found: Index, *, tracking: bool) -> None:
    modes = userfault.MISSING | (userfault.WRITES if tracking else 0)
    registered: list[Range] = []
    for start, end in mappings.movable(member.pid):
        userfault.register(member.uffd, start, end - start, modes)
        registered.append((start, end))
    if left := subtract(found.missing, registered):
        raise MemoryLost(f"process {member.pid} has no mapping at {left[0][0]:#x}, where it had one")


def _inner_pid(pid: int) -> int:
    """Return a process's pid in its own PID namespace. Raises OSError when it is gone."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return int(line.split()[-1])
    raise ProcessLookupError(f"process {pid} has no pid")
