"""The cgroup files' text formats: what a kernel writes is read back, and nothing makes them fail."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.runtime.cgroups.parse import (
    RDMA_UNLIMITED,
    UNLIMITED,
    DeviceCount,
    device_counts,
    flat_keyed,
    nested_keyed,
    number,
    partition_names,
)

keys = st.from_regex(r"[a-z][a-z0-9_.]{0,20}", fullmatch=True)
counts = st.integers(0, UNLIMITED)
devices = st.tuples(st.integers(0, 2**12 - 1), st.integers(0, 2**20 - 1))


@given(counts)
def test_a_number_is_read_back(value: int) -> None:
    assert number(f"{value}\n") == value


def test_max_is_the_largest_number_of_its_width() -> None:
    assert number("max\n") == 2**64 - 1
    assert number("max", RDMA_UNLIMITED) == 2**32 - 1
    # v1 reports "no limit on processes" as 0.
    assert number("max", unlimited=0) == 0


@pytest.mark.parametrize("text", [None, "", "\n", "-1\n", "nonsense", "\u00b2"])
def test_what_is_not_a_number_counts_as_zero(text: str | None) -> None:
    assert number(text) == 0


@given(st.dictionaries(keys, counts))
def test_a_flat_keyed_file_is_read_back(values: dict[str, int]) -> None:
    assert flat_keyed("".join(f"{key} {value}\n" for key, value in values.items())) == values


@given(st.dictionaries(keys, st.dictionaries(keys, counts)))
def test_a_nested_keyed_file_is_read_back(values: dict[str, dict[str, int]]) -> None:
    lines = [" ".join([key, *(f"{sub}={value}" for sub, value in row.items())]) for key, row in values.items()]
    read = nested_keyed("\n".join(lines) + "\n")
    numbers = {key: {sub: number(value) for sub, value in row.items()} for key, row in read.items()}
    assert numbers == values


@given(st.text())
def test_no_text_makes_a_parser_fail(text: str) -> None:
    flat_keyed(text)
    nested_keyed(text)
    partition_names(text)
    list(device_counts(text))


@given(st.lists(st.tuples(devices, st.sampled_from(["Read", "Write", "Sync", "Async", "Discard"]), counts)))
def test_a_blkio_file_is_read_back_without_its_total(
    rows: list[tuple[tuple[int, int], str, int]],
) -> None:
    lines = [f"{major}:{minor} {operation} {value}" for (major, minor), operation, value in rows]
    text = "\n".join([*lines, f"Total {sum(row[2] for row in rows)}"])
    expected = [DeviceCount(*device, operation, value) for device, operation, value in rows]
    assert list(device_counts(text)) == expected


def test_a_blkio_file_that_does_not_tell_operations_apart_has_none() -> None:
    first, second = DeviceCount(8, 0, "", 1024), DeviceCount(8, 16, "", 7)
    assert list(device_counts("8:0 1024\n8:16 7\n")) == [first, second]


PARTITIONS = """\
major minor  #blocks  name

 254        0  268435456 vda
 254        1         10 vda1
 254        0  268435456 again
"""


def test_partitions_are_named_by_device_number_and_the_first_name_counts() -> None:
    assert partition_names(PARTITIONS) == {(254, 0): "/dev/vda", (254, 1): "/dev/vda1"}
