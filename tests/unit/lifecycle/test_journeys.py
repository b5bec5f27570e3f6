"""How many files have to be open to follow three journeys, and that docs/architecture.md names them in a true order."""

import os
import re
from pathlib import Path

import pytest
from tests.unit.lifecycle.journeys import CGROUPS, record

MOST = (8, 15, 12)
"""Files: of a connection in STANDBY, a fall asleep, a probe asleep."""

ORDERS = re.compile(r"^Reading order: (.*?)\n\n", re.MULTILINE | re.DOTALL)


@pytest.mark.skipif(
    os.geteuid() != 0 or not (CGROUPS / "freezer").is_dir(), reason="makes cgroups (v1) and a network namespace"
)
async def test_each_file_is_read_once_and_few_have_to_be(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs/architecture.md").read_text()
    orders = [re.findall(r"`([a-z_/]+\.py)`", order) for order in ORDERS.findall(text)]
    journeys = await record(tmp_path)
    assert len(orders) == len(journeys)
    for journey, order, most in zip(journeys, orders, MOST, strict=True):
        assert set(order) == set(journey.files), journey.name
        assert len(journey.files) <= most, journey.name
        upwards = {(each, to) for each, to in journey.steps if order.index(each) > order.index(to)}
        assert not upwards, journey.name
