"""The stage, and what kills on it."""

import pytest
from tests.integration.kills.killing import SOURCE, Killer
from tests.integration.programs import compiled
from tests.integration.sleep.helpers.report import pytest_runtest_makereport
from tests.integration.standby.conftest import stage

__all__ = ["killer", "pytest_runtest_makereport", "stage"]


@pytest.fixture(scope="session")
def killer(tmp_path_factory: pytest.TempPathFactory) -> Killer:
    if (program := compiled(SOURCE, tmp_path_factory.mktemp("killat"))) is None:
        pytest.skip("needs a compiler")
    return Killer(program)
