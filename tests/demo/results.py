"""What the demo has measured and checked, and the tables that it closes with."""

from dataclasses import dataclass, field

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from tests.demo.plan import COLD, STANDBY
from tests.demo.words import median, size, spread

Seconds = list[float]
Bytes = list[int]


@dataclass(slots=True)
class Requests:
    """One kind of request: seconds to the first byte, awake and from each depth of sleep."""

    kind: str
    awake: Seconds = field(default_factory=list)
    asleep: dict[str, Seconds] = field(default_factory=lambda: {STANDBY: [], COLD: []})


@dataclass(slots=True)
class Sleeps:
    """The sleeps of one container."""

    name: str
    processes: int = 0
    """How many it has when it is awake."""
    pid: int = 0
    """Of its init process, which STANDBY keeps."""
    awake: Bytes = field(default_factory=list)
    """Its memory."""
    asleep: dict[str, Bytes] = field(default_factory=lambda: {STANDBY: [], COLD: []})
    """What is left of it at each depth of sleep; the pager's included."""
    out: Bytes = field(default_factory=list)
    """What has moved out of memory in STANDBY."""
    backend: str = ""
    """Where to."""
    image: Bytes = field(default_factory=list)
    """The size of its checkpoint on disk in COLD."""
    slept_in: Seconds = field(default_factory=list)
    """From the beginning of the freeze to STANDBY."""
    woke_in: dict[str, Seconds] = field(default_factory=lambda: {STANDBY: [], COLD: []})
    """By zeropod's own clock, which starts when it has heard of the request."""


@dataclass(slots=True)
class Results:
    requests: list[Requests] = field(default_factory=list)
    sleeps: list[Sleeps] = field(default_factory=list)
    held: int = 0
    """Checks that held."""
    failures: list[str] = field(default_factory=list)

    def summary(self) -> RenderableType:
        return Group("", self._requests(), "", self._sleeps(), "", self._verdict(), "")

    def _requests(self) -> Table:
        table = _table("time to the first byte", "awake", "from STANDBY (min … max)", "from COLD (min … max)", "wakes")
        for row in self.requests:
            wakes = sum(map(len, row.asleep.values()))
            table.add_row(row.kind, median(row.awake), *map(spread, row.asleep.values()), str(wakes))
        return table

    def _sleeps(self) -> Table:
        asleep = ("memory", "STANDBY", "moved out", "COLD", "image", "frozen in", "thawed in", "restored in")
        table = _table("container", *asleep)
        for row in self.sleeps:
            standby, cold = map(_largest, row.asleep.values())
            out = f"{_largest(row.out)} ({row.backend})"
            memory = (_largest(row.awake), standby, out, cold, _largest(row.image))
            table.add_row(row.name, *memory, median(row.slept_in), *map(spread, row.woke_in.values()))
        return table

    def _verdict(self) -> Text:
        if self.failures:
            text = f"{len(self.failures)} of {self.held + len(self.failures)} checks did not hold:\n"
            return Text(text + "\n".join(f"  {failure}" for failure in self.failures), style="bold red")
        sleeps = sum(len(row.slept_in) for row in self.sleeps)
        return Text(f"{self.held} of {self.held} checks held over {sleeps} sleeps.", style="bold green")


def _largest(values: list[int]) -> str:
    return size(max(values)) if values else "-"


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table
