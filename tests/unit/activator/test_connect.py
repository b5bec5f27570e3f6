"""What our own connections to the application are said to be, and for how long."""

from contextlib import ExitStack
from typing import Any

import pytest
from tests.unit.activator.words import FakeWords

from zeropod.activator.connect import CLOSED_REMEMBERED, OurConnections
from zeropod.kernel.lookup import Flow, FlowOrigin

ADDRESS, PORT = "10.0.0.7", 8080


def flow(number: int) -> Flow:
    return Flow((ADDRESS, 40000 + number), PORT)


@pytest.fixture
def words() -> FakeWords:
    return FakeWords()


@pytest.fixture
def ours(words: Any) -> OurConnections:
    return OurConnections(words)


def test_somebodys_counts_for_as_long_as_it_exists(words: FakeWords, ours: OurConnections) -> None:
    with ours.announced(FlowOrigin.CLIENT, PORT)(flow(0).remote):
        assert words.said == {flow(0): FlowOrigin.CLIENT}
    assert words.said == {}


def test_what_is_left_of_a_probes_is_a_probes(words: FakeWords, ours: OurConnections) -> None:
    for number in range(3 * CLOSED_REMEMBERED):
        with ours.announced(FlowOrigin.PROBE, PORT)(flow(number).remote):
            pass
        assert words.said[flow(number)] is FlowOrigin.PROBE
    assert list(words.said) == [flow(number) for number in range(2 * CLOSED_REMEMBERED, 3 * CLOSED_REMEMBERED)]


def test_none_that_exists_is_forgotten(words: FakeWords, ours: OurConnections) -> None:
    with ExitStack() as stack:
        for number in range(2 * CLOSED_REMEMBERED):
            stack.enter_context(ours.announced(FlowOrigin.PROBE, PORT)(flow(number).remote))
        for number in range(2 * CLOSED_REMEMBERED, 4 * CLOSED_REMEMBERED):
            with ours.announced(FlowOrigin.PROBE, PORT)(flow(number).remote):
                pass
        assert words.said.keys() >= {flow(number) for number in range(2 * CLOSED_REMEMBERED)}


@pytest.mark.parametrize("said", [FlowOrigin.PROBE, FlowOrigin.CLIENT])
def test_one_from_a_port_that_is_used_again_is_not_forgotten_in_the_place_of_the_first(
    words: FakeWords, ours: OurConnections, said: FlowOrigin
) -> None:
    with ours.announced(FlowOrigin.PROBE, PORT)(flow(0).remote):
        pass
    with ours.announced(said, PORT)(flow(0).remote):
        for number in range(1, CLOSED_REMEMBERED + 2):
            with ours.announced(FlowOrigin.PROBE, PORT)(flow(number).remote):
                pass
        assert words.said[flow(0)] is said
