"""Statistics of a container that sleeps and wakes, for every field of both messages."""

from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from zeropod.rpc.messages import cgroups_v1_pb2 as v1
from zeropod.rpc.messages import cgroups_v2_pb2 as v2
from zeropod.runtime.cgroups import Metrics, accumulate, asleep
from zeropod.runtime.cgroups.sleeping import Kind, kind_of

counts = st.integers(0, 2**62)
few = st.integers(0, 3)


@st.composite
def v1_metrics(draw: st.DrawFn) -> v1.Metrics:
    entries = draw(
        st.lists(
            st.builds(v1.BlkIOEntry, op=st.sampled_from(["Read", "Write"]), major=few, minor=few, value=counts),
            unique_by=lambda entry: (entry.op, entry.major, entry.minor),
        )
    )
    return v1.Metrics(
        pids=draw(st.builds(v1.PidsStat, current=counts, limit=counts)),
        cpu=v1.CPUStat(
            usage=v1.CPUUsage(total=draw(counts), per_cpu=draw(st.lists(counts, max_size=4))),
            throttling=v1.Throttle(periods=draw(counts)),
        ),
        memory=draw(
            st.none()
            | st.builds(
                v1.MemoryStat,
                rss=counts,
                total_pg_fault=counts,
                hierarchical_memory_limit=counts,
                usage=st.builds(v1.MemoryEntry, limit=counts, usage=counts, max=counts, failcnt=counts),
            )
        ),
        blkio=v1.BlkIOStat(io_service_bytes_recursive=entries, io_queued_recursive=entries),
    )


def leaves(message: Message, path: tuple[object, ...] = ()) -> Iterator[tuple[tuple[object, ...], Kind, int]]:
    """(place, kind, value) of every number that is set."""
    for field, value in message.ListFields():
        kind = kind_of(field)
        if kind is None:
            for part in value if field.is_repeated else [value]:
                label = tuple(getattr(part, name, None) for name in ("op", "major", "minor", "pagesize"))
                yield from leaves(part, (*path, field.name, label))
        elif field.message_type is None and field.cpp_type == FieldDescriptor.CPPTYPE_UINT64:
            for index, item in enumerate(value if field.is_repeated else [value]):
                yield (*path, field.name, index), kind, item


def by_kind(message: Message, kind: Kind) -> dict[tuple[object, ...], int]:
    return {place: value for place, found, value in leaves(message) if found is kind}


@given(v1_metrics(), v1_metrics())
def test_no_counter_or_peak_ever_goes_backwards(base: v1.Metrics, current: v1.Metrics) -> None:
    total = accumulate(base, current)
    for kind in (Kind.COUNTER, Kind.PEAK):
        after = by_kind(total, kind)
        for place, value in [*by_kind(base, kind).items(), *by_kind(current, kind).items()]:
            assert after[place] >= value


@given(v1_metrics(), v1_metrics())
def test_gauges_are_those_of_the_present_cgroup(base: v1.Metrics, current: v1.Metrics) -> None:
    assert by_kind(accumulate(base, current), Kind.GAUGE) == by_kind(current, Kind.GAUGE)


@given(v1_metrics(), v1_metrics(), v1_metrics())
def test_a_container_that_slept_twice_has_three_lives_added_up(
    first: v1.Metrics, second: v1.Metrics, third: v1.Metrics
) -> None:
    one_by_one = accumulate(accumulate(first, second), third)
    at_once = accumulate(first, accumulate(second, third))
    for kind in (Kind.COUNTER, Kind.PEAK, Kind.GAUGE):
        assert by_kind(one_by_one, kind) == by_kind(at_once, kind)


@given(v1_metrics())
def test_a_sleeping_container_uses_nothing_and_keeps_its_counters_and_limits(last: v1.Metrics) -> None:
    sleeping = asleep(last)
    assert by_kind(sleeping, Kind.GAUGE) == {}
    for kind in (Kind.COUNTER, Kind.PEAK, Kind.SETTING):
        assert by_kind(sleeping, kind) == by_kind(last, kind)
    assert asleep(sleeping) == sleeping


@given(v1_metrics(), v1_metrics())
def test_adding_changes_neither_of_the_two(base: v1.Metrics, current: v1.Metrics) -> None:
    before = base.SerializeToString(), current.SerializeToString()
    accumulate(base, current)
    asleep(current)
    assert before == (base.SerializeToString(), current.SerializeToString())


def test_v2_counters_are_added_and_gauges_replaced() -> None:
    base = v2.Metrics(
        pids=v2.PidsStat(current=7, limit=100),
        cpu=v2.CPUStat(usage_usec=1000, user_usec=600, system_usec=400),
        memory=v2.MemoryStat(anon=50, pgfault=9, usage=70, usage_limit=500, max_usage=90),
        memory_events=v2.MemoryEvents(oom_kill=1),
        io=v2.IOStat(usage=[v2.IOEntry(major=8, minor=0, rbytes=10), v2.IOEntry(major=8, minor=16, wios=1)]),
        hugetlb=[v2.HugeTlbStat(pagesize="2MB", current=4, max=8)],
    )
    current = v2.Metrics(
        pids=v2.PidsStat(current=1, limit=200),
        cpu=v2.CPUStat(usage_usec=5, user_usec=3, system_usec=2),
        memory=v2.MemoryStat(anon=20, pgfault=1, usage=30, usage_limit=600, max_usage=40),
        io=v2.IOStat(usage=[v2.IOEntry(major=8, minor=0, rbytes=1, wbytes=2)]),
        hugetlb=[v2.HugeTlbStat(pagesize="2MB", current=2, max=16)],
    )
    assert accumulate(base, current) == v2.Metrics(
        pids=v2.PidsStat(current=1, limit=200),
        cpu=v2.CPUStat(usage_usec=1005, user_usec=603, system_usec=402),
        memory=v2.MemoryStat(anon=20, pgfault=10, usage=30, usage_limit=600, max_usage=90),
        memory_events=v2.MemoryEvents(oom_kill=1),
        io=v2.IOStat(
            usage=[
                v2.IOEntry(major=8, minor=0, rbytes=11, wbytes=2),
                v2.IOEntry(major=8, minor=16, wios=1),
            ]
        ),
        hugetlb=[v2.HugeTlbStat(pagesize="2MB", current=2, max=16)],
    )
    sleeping = asleep(base)
    assert sleeping.memory == v2.MemoryStat(pgfault=9, usage_limit=500, max_usage=90)
    assert sleeping.hugetlb == [v2.HugeTlbStat(pagesize="2MB", max=8)]


def test_a_counter_wraps_around_as_the_kernel_s_do() -> None:
    base = v2.Metrics(cpu=v2.CPUStat(usage_usec=2**64 - 1))
    assert accumulate(base, v2.Metrics(cpu=v2.CPUStat(usage_usec=3))).cpu.usage_usec == 2


def test_v1_and_v2_are_not_added_up() -> None:
    one: Metrics = v1.Metrics()
    other: Metrics = v2.Metrics()
    with pytest.raises(TypeError, match="cannot be added"):
        accumulate(one, other)


def entry_types(message: Descriptor, seen: set[str]) -> Iterator[Descriptor]:
    """Every message that stands in a list whose entries are added up one by one."""
    for field in message.fields:
        if field.message_type is not None and kind_of(field) is None:
            if field.is_repeated:
                yield field.message_type
            if field.message_type.full_name not in seen:
                yield from entry_types(field.message_type, seen | {field.message_type.full_name})


@pytest.mark.parametrize("file", [v1.DESCRIPTOR, v2.DESCRIPTOR])
def test_every_list_can_tell_its_entries_apart(file: FileDescriptor) -> None:
    for entry in entry_types(file.message_types_by_name["Metrics"], set()):
        labels = [field for field in entry.fields if kind_of(field) is Kind.SETTING]
        assert labels, entry.full_name
