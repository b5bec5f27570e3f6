"""Each kind of situation comes out right in STANDBY: nothing is lost, and no process is ended."""

from contextlib import suppress

import pytest
from tests.integration.situations import ending, files, memory, objects, processes, sockets, tasks
from tests.integration.situations.conftest import Night
from tests.integration.situations.scene import Situation

pytestmark = pytest.mark.timeout(240)

SITUATIONS = (
    *files.SITUATIONS,
    *sockets.SITUATIONS,
    *objects.SITUATIONS,
    *memory.SITUATIONS,
    *tasks.SITUATIONS,
    *processes.SITUATIONS,
    *ending.SITUATIONS,
)


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.__name__)
def test_situation(night: Night, situation: Situation) -> None:
    with suppress(StopIteration):
        next(night.half(situation))
        pytest.fail("a situation has two halves")
