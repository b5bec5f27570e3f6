"""The stage of each test, and that these tests are for a machine alone: `./justw test-vm`."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration import node
from tests.integration.containerd import Containerd
from tests.integration.cri import Cri
from tests.integration.sleep.helpers.report import pytest_runtest_makereport
from tests.integration.sleep.helpers.stage import Stage

__all__ = ["pytest_runtest_makereport", "stage"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not node.SYSTEMD:
        here, reason = Path(__file__).parent, "this node has no systemd: ./justw test-vm"
        for item in items:
            if here in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def stage(containerd: Containerd, cri: Cri) -> Iterator[Stage]:
    made = Stage(containerd, cri)
    with made.stack:
        yield made
