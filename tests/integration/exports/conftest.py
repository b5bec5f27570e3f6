"""The stage of each test: containers that come back with their memory after a restart."""

from collections.abc import Iterator

import pytest
from tests.integration.containerd import Containerd
from tests.integration.cri import Cri
from tests.integration.sleep.helpers.report import pytest_runtest_makereport
from tests.integration.sleep.helpers.stage import Stage

__all__ = ["pytest_runtest_makereport", "stage"]


@pytest.fixture
def stage(containerd: Containerd, cri: Cri) -> Iterator[Stage]:
    made = Stage(containerd, cri, {"keep-on-restart": "true"})
    with made.stack:
        yield made
