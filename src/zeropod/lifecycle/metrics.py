"""Counters of a container's sleep, which only grow.

The shim keeps them, so collectors may come and go, and query as often as they like.
"""

from bisect import bisect_left
from dataclasses import dataclass, field, fields

from zeropod.rpc.messages import status_pb2

BOUNDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds: from a thaw on an idle machine to the longest dump."""


class Histogram:
    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        """Observations in each bucket; the last one has no upper bound."""
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds

    @property
    def count(self) -> int:
        return sum(self.counts)

    def message(self) -> status_pb2.Histogram:
        return status_pb2.Histogram(bounds=BOUNDS, counts=self.counts, sum=self.sum)


@dataclass(slots=True)
class ContainerMetrics:
    checkpoint_seconds: Histogram = field(default_factory=Histogram)
    """Durations of falling asleep, from the freeze on."""
    standby_wake_seconds: Histogram = field(default_factory=Histogram)
    cold_wake_seconds: Histogram = field(default_factory=Histogram)
    standby_sleeps: int = 0
    cold_sleeps: int = 0
    """Including those that were in STANDBY before."""
    dozes: int = 0
    probes_answered: int = 0
    checkpoint_errors: int = 0
    restore_errors: int = 0
    refused_sleeps: int = 0
    memory_written_bytes_total: int = 0
    """Written by the moves of all sleeps."""
    memory_faults_total: int = 0
    """Page faults that brought memory back in."""
    dry_run_sleeps: int = 0
    dry_run_wakes: int = 0
    last_checkpoint: float = 0.0
    """Duration of the last fall asleep in seconds; 0 before the first."""
    last_restore: float = 0.0
    last_checkpoint_ns: int = 0
    """Time of the last fall asleep, in nanoseconds since 1970; 0 before the first."""
    last_restore_ns: int = 0

    @property
    def checkpoints(self) -> int:
        return self.checkpoint_seconds.count

    @property
    def restores(self) -> int:
        return self.standby_wake_seconds.count + self.cold_wake_seconds.count

    def slept(self, seconds: float, at_ns: int) -> None:
        self.checkpoint_seconds.observe(seconds)
        self.last_checkpoint, self.last_checkpoint_ns = seconds, at_ns

    def woke(self, seconds: float, at_ns: int, *, cold: bool) -> None:
        (self.cold_wake_seconds if cold else self.standby_wake_seconds).observe(seconds)
        self.last_restore, self.last_restore_ns = seconds, at_ns

    def describe(self, status: status_pb2.ContainerStatus) -> None:
        """Write all values into the message."""
        status.last_checkpoint_ms = self.last_checkpoint * 1000
        status.last_restore_ms = self.last_restore * 1000
        status.checkpoints = self.checkpoints
        status.restores = self.restores
        for name in _COUNTERS:
            setattr(status, name, getattr(self, name))
        for name in _HISTOGRAMS:
            getattr(status, name).CopyFrom(getattr(self, name).message())
        if self.last_checkpoint_ns:
            status.last_checkpoint.FromNanoseconds(self.last_checkpoint_ns)
        if self.last_restore_ns:
            status.last_restore.FromNanoseconds(self.last_restore_ns)


_COUNTERS = tuple(each.name for each in fields(ContainerMetrics) if each.type is int and not each.name.endswith("_ns"))
_HISTOGRAMS = tuple(each.name for each in fields(ContainerMetrics) if each.type is Histogram)
