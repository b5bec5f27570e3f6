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
from tests.integration.patience import FACTOR, patient
from tests.integration.shim.scenario import World

REFERENCE = "io.containerd.runc.v2"
OURS = "io.containerd.zeropod.v2"
HANDLERS = {REFERENCE: "runc", OURS: "zeropod"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--runtime",
        action="append",
        choices=list(HANDLERS),
        help="compare nothing: run the scenarios on this runtime only, and show the outcomes (with -s or -rP)",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not os.path.exists(ADDRESS):
        raise pytest.UsageError(
            "these tests need the test node: tests/node/enter python3 -m pytest /src/tests/integration"
        )
    for item in items:
        if FACTOR != 1 and (limit := item.get_closest_marker("timeout")):
            item.add_marker(pytest.mark.timeout(patient(limit.args[0])), append=False)


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
