"""A container whose memory is in the page store goes to disk by CRIU, and comes back: the store stays where it is.

CRIU dumps what is present and leaves out what is missing, so a dump takes as long as there is memory left, which is
little. After the restore, before an instruction of them runs, the processes get userfaultfds and a pager with the same
index: the mappings are at the same addresses. The image and the store belong together.

Traps:

- CRIU looks at the rseq area of each thread by ptrace, which cannot wait for a page: they are brought in before.
- It has no image of a userfaultfd, so the duplicate that a process keeps is closed before the dump.
- What is present in a restored process has not been stored as it is there, whatever the index says: the kernel takes it
  for written to, and the next move stores it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from zeropod.kernel import userfault
from zeropod.kernel.process_memory import Buffer
from zeropod.kernel.userfault import PAGE
from zeropod.runtime.memory.backend import MemoryFailed, MemoryLost
from zeropod.runtime.memory.userfault import extents, mappings
from zeropod.runtime.memory.userfault.extents import Extent
from zeropod.runtime.memory.userfault.freezer import Freezer
from zeropod.runtime.memory.userfault.holding import Hold
from zeropod.runtime.memory.userfault.holdings import Holdings, Member
from zeropod.runtime.memory.userfault.injection import Injection
from zeropod.runtime.memory.userfault.opening import KEPT_AT, features
from zeropod.runtime.memory.userfault.ranges import Range, subtract
from zeropod.runtime.memory.userfault.stopped import Unsuitable, own_thread

Carried = Mapping[int, Sequence[Extent]]
"""What is in the store of each process, by its pid in its own PID namespace."""


class InStore:
    """What an image leaves out, since it is in the store."""

    def __init__(self, holdings: Holdings, carried: Carried, limiter: trio.CapacityLimiter) -> None:
        self._holdings = holdings
        self._carried = carried
        self._limiter = limiter

    async def processes_ended(self) -> None:
        """End the pager: the files stay, and with them what is in them."""
        generation, self._holdings.generation = self._holdings.generation, None
        if generation:
            await generation.pager.kill()
        self._holdings.kept.clear()

    async def rejoin(self, pids: Sequence[int]) -> None:
        """Give the restored processes, which are still stopped, userfaultfds and a pager of their own.

        Raises MemoryFailed, MemoryLost; they must not run then, and it can be tried again with others.
        """
        await self.processes_ended()  # of an attempt that failed
        try:
            await trio.to_thread.run_sync(
                own_thread, lambda: rejoin(self._holdings, self._carried, pids), limiter=self._limiter
            )
        except OSError as error:
            raise MemoryFailed(f"the restored processes cannot be given their memory: {error}") from error


def leave(holdings: Holdings, freezer: Freezer, pids: Sequence[int]) -> Carried | None:
    """Make the frozen processes ready for a dump that leaves out what is in the store; None where it cannot be.

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
    return {_inner_pid(pid): holdings.extents(member) for pid, member in members.items()}


def rejoin(holdings: Holdings, carried: Carried, pids: Sequence[int]) -> None:
    """Give restored processes, which are still stopped, what is in the store of them.

    Runs in `own_thread`. Raises MemoryFailed and MemoryLost; they must not run then.
    """
    processes = {_inner_pid(pid): pid for pid in pids}
    if missing := carried.keys() - processes.keys():
        raise MemoryLost(f"processes {', '.join(map(str, sorted(missing)))} were not restored")
    indexed: list[tuple[Member, list[Extent]]] = []
    try:
        for inner, found in carried.items():
            member = _member(processes[inner], holdings)
            indexed.append((member, list(found)))
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


def _register(member: Member, found: Sequence[Extent], *, tracking: bool) -> None:
    modes = userfault.MISSING | (userfault.WRITES if tracking else 0)
    registered: list[Range] = []
    for start, end in mappings.movable(mappings.read_smaps(member.pid)):
        userfault.register(member.uffd, start, end - start, modes)
        registered.append((start, end))
    if left := subtract(extents.missing(found), registered):
        raise MemoryLost(f"process {member.pid} has no mapping at {left[0][0]:#x}, where it had one")


def _inner_pid(pid: int) -> int:
    """Its pid in its own PID namespace. Raises OSError when it is gone."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return int(line.split()[-1])
    raise ProcessLookupError(f"process {pid} has no pid")
