"""What the integration tests share: connections to the node's containerd, and the choice of runtimes.

They run as root inside the test node: `./justw test`, or `tests/node/enter python3 -m pytest /src/tests/integration`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from tests.integration.containerd import Containerd
from tests.integration.cri import Cri
from tests.integration.endpoint import ADDRESS
from tests.integration.patience import FACTOR
from tests.integration.shim.scenario import World

REFERENCE = "io.containerd.runc.v2"
OURS = "io.containerd.zeropod.v2"
HANDLERS = {REFERENCE: "runc", OURS: "zeropod"}

MORE = 8
"""What --long multiplies the moments by that are met."""
LONGER = 30
"""What it multiplies limits of time by."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--runtime",
        action="append",
        choices=list(HANDLERS),
        help="compare nothing: run the scenarios on this runtime only, and show the outcomes (with -s or -rP)",
    )
    parser.addoption(
        "--long",
        action="store_true",
        help="many times as many cycles and kills in the tests that can have them; hours for all of those",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not os.path.exists(ADDRESS):
        raise pytest.UsageError(
            "these tests need the test node: tests/node/enter python3 -m pytest /src/tests/integration"
        )
    for item in items:
        factor = FACTOR * (LONGER if config.getoption("--long") and _can_be_long(item) else 1)
        if factor != 1 and (limit := item.get_closest_marker("timeout")):
            item.add_marker(pytest.mark.timeout(limit.args[0] * factor), append=False)


def _can_be_long(item: pytest.Item) -> bool:
    return bool({"more", "long"} & set(getattr(item, "fixturenames", ())))


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether tests are to have as many cycles as the product must bear, not just a few."""
    return bool(request.config.getoption("--long"))


@pytest.fixture(scope="session")
def more(long: bool) -> int:
    """How many times as many moments are to be met as in every run."""
    return MORE if long else 1


@dataclass(frozen=True, slots=True)
class Worlds:
    """Opens what a scenario works with, for one runtime at a time."""

    runtimes: tuple[str, ...]

    @contextmanager
    def open(self, runtime: str) -> Iterator[World]:
        with Containerd() as client, client.events() as events:
            yield World(runtime, HANDLERS[runtime], client, events)


@pytest.fixture
def worlds(request: pytest.FixtureRequest) -> Worlds:
    return Worlds(tuple(request.config.getoption("--runtime") or HANDLERS))


@pytest.fixture
def containerd() -> Iterator[Containerd]:
    with Containerd() as client:
        yield client


@pytest.fixture
def cri() -> Iterator[Cri]:
    with Cri() as client:
        yield client
