"""The table of the choice: what a node has, what is wanted, what a container gets and what is said about it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.runtime.memory import choice
from zeropod.runtime.memory.backend import Kind
from zeropod.runtime.memory.choice import NodeFacts, SwapDevice

MEBIBYTE = 1 << 20
FILE = SwapDevice("/swap.img", "file", 1024 * MEBIBYTE, 0)
ZRAM = SwapDevice("/dev/zram0", "partition", 1024 * MEBIBYTE, 0)
BOTH = NodeFacts(machine="x86_64", swaps=(FILE,), accounting=True, userfaultfd=True)
NO_SWAP = replace(BOTH, swaps=())
NO_STORE = replace(BOTH, userfaultfd=False)
NEITHER = replace(NO_SWAP, userfaultfd=False)
FULL = replace(BOTH, swaps=(replace(FILE, used=900 * MEBIBYTE),))


@pytest.mark.parametrize(
    ("wanted", "node", "present", "kind", "why"),
    [
        ("auto", BOTH, 100, Kind.SWAP, "1.0 GiB of swap are free (/swap.img: file, 1.0 GiB of 1.0 GiB)"),
        ("auto", BOTH, 16, Kind.RESIDENT, "16 MiB are too little to move"),
        ("auto", BOTH, 17, Kind.SWAP, "swap are free"),
        ("auto", NO_SWAP, 100, Kind.STORE, "not in swap: the node has no swap; page store by userfaultfd"),
        ("auto", FULL, 60, Kind.SWAP, "124 MiB of swap are free"),
        ("auto", FULL, 61, Kind.STORE, "only 124 MiB of swap are free, 61 MiB and 64 MiB more are needed"),
        ("auto", replace(BOTH, accounting=False), 100, Kind.STORE, "cgroups do not account swap"),
        ("auto", replace(NO_SWAP, machine="vax"), 100, Kind.RESIDENT, "not in store: not supported on vax"),
        ("auto", replace(BOTH, machine="s390x"), 100, Kind.SWAP, "swap are free"),
        ("auto", NEITHER, 100, Kind.RESIDENT, "not in swap: the node has no swap; not in store: /dev/userfaultfd is"),
        ("swap", BOTH, 1, Kind.SWAP, "swap are free"),
        ("swap", NO_SWAP, 1, Kind.STORE, "not in swap: the node has no swap; page store"),
        ("store", BOTH, 1, Kind.STORE, "page store by userfaultfd"),
        ("store", NO_STORE, 100, Kind.RESIDENT, "not in store: /dev/userfaultfd is missing"),
        ("resident", BOTH, 1000, Kind.RESIDENT, "memory stays in place, as the annotation says"),
    ],
)
def test_the_choice(wanted: str, node: NodeFacts, present: int, kind: Kind, why: str) -> None:
    chosen, said = choice.choose(wanted, node, present * MEBIBYTE)
    assert chosen is kind
    assert why in said


def test_another_word_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'disk' is none of auto, swap, store, resident"):
        choice.choose("disk", BOTH, 0)


@given(
    st.sampled_from(["auto", *Kind]),
    st.builds(
        NodeFacts,
        machine=st.sampled_from(["x86_64", "aarch64", "vax"]),
        swaps=st.sampled_from([(), (FILE,), (ZRAM, FILE)]),
        accounting=st.booleans(),
        userfaultfd=st.booleans(),
    ),
    st.integers(0, 1 << 40),
)
def test_what_is_chosen_is_possible_and_never_better_than_wanted(wanted: str, node: NodeFacts, present: int) -> None:
    kind, why = choice.choose(wanted, node, present)
    assert choice.obstacle(kind, node, present) is None
    assert why
    if wanted != "auto":
        order = list(Kind)
        assert order.index(kind) >= order.index(Kind(wanted))


@pytest.mark.parametrize(
    ("node", "lines"),
    [
        (BOTH, ["swap: yes", "store: yes", "better: zram"]),
        (replace(BOTH, swaps=(ZRAM,)), ["swap: yes, 1.0 GiB of swap are free (/dev/zram0: zram", "store: yes"]),
        (NO_SWAP, ["swap: no, the node has no swap", "store: yes", "better: swap"]),
        (NEITHER, ["swap: no", "store: no, /dev/userfaultfd is missing", "better: swap", "sleeping containers keep"]),
    ],
)
def test_doctor_says_what_there_is_and_what_would_be_better(node: NodeFacts, lines: list[str]) -> None:
    said = choice.advice(node)
    assert len(said) == len(lines)
    assert all(line.startswith(beginning) for line, beginning in zip(said, lines, strict=True))


SWAPS = r"""Filename				Type		Size		Used		Priority
/dev/zram0                              partition	1048572		1024		100
/var/my\040swap\040(deleted)            file		524284		0		-2
nonsense
"""


def test_swaps_are_read() -> None:
    zram, file = choice.parse_swaps(SWAPS)
    assert zram == SwapDevice("/dev/zram0", "partition", 1048572 << 10, 1 << 20)
    assert zram.in_memory
    assert file.name == "/var/my swap (deleted)"
    assert not file.in_memory
    assert file.free == 524284 << 10


@given(st.text())
def test_no_text_is_too_strange(text: str) -> None:
    choice.parse_swaps("head\n" + text)


def test_this_node_can_be_read() -> None:
    node = choice.facts()
    assert choice.advice(node)


@pytest.mark.parametrize(
    ("wanted", "present", "kind"),
    [
        ("auto", 100, Kind.STORE),
        ("auto", 16, Kind.RESIDENT),
        ("swap", 100, Kind.STORE),
        ("swap", 16, Kind.RESIDENT),
        ("store", 1, Kind.STORE),
        ("resident", 100, Kind.RESIDENT),
    ],
)
def test_swap_is_not_chosen_for_what_a_dump_would_read_back(wanted: str, present: int, kind: Kind) -> None:
    assert choice.choose(wanted, BOTH, present * MEBIBYTE, for_a_dump=True)[0] is kind
