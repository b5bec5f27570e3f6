"""How many files have to be open to follow three journeys, and that docs/architecture.md names them in a true order."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.lifecycle.journeys import CGROUPS

ROOT = Path(__file__).parents[3]
MOST = (8, 15, 12)
"""Files: of a connection in STANDBY, a fall asleep, a probe asleep."""

ORDERS = re.compile(r"^Reading order: (.*?)\n\n", re.MULTILINE | re.DOTALL)


@pytest.mark.skipif(
    os.geteuid() != 0 or not (CGROUPS / "freezer").is_dir(), reason="makes cgroups (v1) and a network namespace"
)
def test_each_file_is_read_once_and_few_have_to_be() -> None:
    command = [sys.executable, "-m", "tests.unit.lifecycle.journeys", "--json"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    output = subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=120, stdout=subprocess.PIPE).stdout
    text = (ROOT / "docs/architecture.md").read_text()
    orders = [re.findall(r"`([a-z_/]+\.py)`", order) for order in ORDERS.findall(text)]
    for (name, files, steps), order, most in zip(json.loads(output), orders, MOST, strict=True):
        assert sorted(order) == sorted(files), name
        assert len(files) <= most, name
        assert not [(each, to) for each, to in steps if order.index(each) > order.index(to)], name
