"""Statistics across sleeps: counters never go backwards, gauges show present use.

A restored container is in a new cgroup whose counters begin at zero, while the readers of its metrics (the kubelet,
`kubectl top`) take differences of counters and would see negative CPU time. So the last statistics before the sleep are
kept and added to those of the new cgroup. A table assigns every field of the messages to one of four kinds.
"""

from collections.abc import Iterable, MutableSequence
from copy import deepcopy
from enum import Enum, auto
from itertools import zip_longest
from typing import TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from .base import Metrics

_Metrics = TypeVar("_Metrics", bound=Metrics)
_Part = TypeVar("_Part", bound=Message)

_UINT64 = 2**64 - 1


class Kind(Enum):
    """What happens to a field while its container sleeps, and when the statistics before the sleep are added."""

    COUNTER = auto()  #: only grows: stays while asleep, and is added up
    PEAK = auto()  #: the highest so far: stays while asleep, and the higher one counts
    SETTING = auto()  #: a limit or a name: stays while asleep; afterwards the new cgroup's counts
    GAUGE = auto()  #: the present use: zero while asleep; afterwards the new cgroup's counts


def _table() -> dict[str, Kind]:
    kinds = {
        Kind.COUNTER: """
            v1.CPUUsage: total kernel user per_cpu
            v1.Throttle: periods throttled_periods throttled_time
            v1.MemoryStat: pg_pg_in pg_pg_out pg_fault pg_maj_fault
            v1.MemoryStat: total_pg_pg_in total_pg_pg_out total_pg_fault total_pg_maj_fault
            v1.MemoryEntry: failcnt
            v1.MemoryOomControl: oom_kill
            v1.HugetlbStat: failcnt
            v1.BlkIOEntry: value
            v1.NetworkStat: rx_bytes rx_packets rx_errors rx_dropped
            v1.NetworkStat: tx_bytes tx_packets tx_errors tx_dropped
            v2.CPUStat: usage_usec user_usec system_usec nr_periods nr_throttled throttled_usec
            v2.CPUStat: nr_bursts burst_usec
            v2.PSIData: total
            v2.MemoryStat: pgfault pgmajfault pgrefill pgscan pgsteal
            v2.MemoryStat: pgactivate pgdeactivate pglazyfree pglazyfreed
            v2.MemoryStat: workingset_refault workingset_activate workingset_nodereclaim
            v2.MemoryStat: thp_fault_alloc thp_collapse_alloc
            v2.MemoryEvents: low high max oom oom_kill
            v2.IOEntry: rbytes wbytes rios wios
            """,
        Kind.PEAK: """
            v1.MemoryEntry: max
            v1.HugetlbStat: max
            v2.MemoryStat: max_usage swap_max_usage
            """,
        Kind.SETTING: """
            v1.PidsStat: limit
            v1.MemoryStat: hierarchical_memory_limit hierarchical_swap_limit
            v1.MemoryEntry: limit
            v1.MemoryOomControl: oom_kill_disable
            v1.HugetlbStat: pagesize
            v1.BlkIOEntry: op device major minor
            v1.RdmaStat: limit
            v1.NetworkStat: name
            v2.PidsStat: limit
            v2.MemoryStat: usage_limit swap_limit
            v2.HugeTlbStat: max pagesize
            v2.IOEntry: major minor
            v2.RdmaStat: limit
            """,
        # Lists whose entries are gauges as a whole; plain numbers are gauges by default.
        Kind.GAUGE: """
            v1.RdmaStat: current
            v1.BlkIOStat: io_queued_recursive
            v2.RdmaStat: current
            """,
    }
    table = {}
    for kind, lines in kinds.items():
        for line in lines.split("\n"):
            message, _, fields = line.strip().partition(": ")
            table.update({f"io.containerd.cgroups.{message}.{field}": kind for field in fields.split()})
    return table


_KINDS = _table()

#: The fields that identify an entry of a list.
_IDENTITY = {
    "io.containerd.cgroups.v1.BlkIOEntry": ("major", "minor", "op"),
    "io.containerd.cgroups.v1.HugetlbStat": ("pagesize",),
    "io.containerd.cgroups.v1.NetworkStat": ("name",),
    "io.containerd.cgroups.v2.IOEntry": ("major", "minor"),
    "io.containerd.cgroups.v2.HugeTlbStat": ("pagesize",),
}


def kind_of(field: FieldDescriptor) -> Kind | None:
    """Return the kind of a field, or None for a message whose own fields have theirs."""
    default = None if field.message_type is not None else Kind.GAUGE
    return _KINDS.get(field.full_name, default)


def accumulate(base: _Metrics, current: _Metrics) -> _Metrics:
    """Return `current` combined with earlier statistics: counters added, higher peaks, the rest from `current`.

    `base` may itself be such a sum. Raises TypeError if one is of cgroup v1 and the other of v2.
    """
    if type(base) is not type(current):
        raise TypeError("statistics of a cgroup v1 and of a v2 cannot be added up")
    total = deepcopy(current)
    _add(total, base)
    return total


def asleep(message: _Part) -> _Part:
    """Return statistics with every gauge at zero, for a container without processes; counters and limits stay."""
    rest = deepcopy(message)
    for field, value in message.ListFields():
        kind = kind_of(field)
        if kind is Kind.GAUGE:
            rest.ClearField(field.name)
        elif kind is None and field.is_repeated:
            rest.ClearField(field.name)
            getattr(rest, field.name).extend(asleep(entry) for entry in value)
        elif kind is None:
            getattr(rest, field.name).CopyFrom(asleep(value))
    return rest


def _add(total: Message, base: Message) -> None:
    for field, value in base.ListFields():
        kind = kind_of(field)
        here = getattr(total, field.name)
        if kind is Kind.PEAK:
            setattr(total, field.name, max(here, value))
        elif kind is Kind.COUNTER and field.is_repeated:
            # A CPU may have been added or removed since.
            here[:] = [_sum(one, other) for one, other in zip_longest(here, value, fillvalue=0)]
        elif kind is Kind.COUNTER:
            setattr(total, field.name, _sum(here, value))
        elif kind is None and field.is_repeated:
            _add_entries(here, value)
        elif kind is None:
            here.SetInParent()
            _add(here, value)


def _add_entries(total: MutableSequence[_Part], base: Iterable[_Part]) -> None:
    """Add up entries for the same device or page size, and keep the others."""
    known = {_identity(entry): entry for entry in total}
    for entry in base:
        same = known.get(_identity(entry))
        if same is None:
            total.append(asleep(entry))
        else:
            _add(same, entry)


def _identity(entry: Message) -> tuple[object, ...]:
    return tuple(getattr(entry, name) for name in _IDENTITY[entry.DESCRIPTOR.full_name])


def _sum(one: int, other: int) -> int:
    # The kernel's counters wrap around, too.
    return (one + other) & _UINT64
