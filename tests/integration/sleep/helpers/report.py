"""What the node has to say when a test of sleep fails: a hook for the conftest of a folder of such tests."""

import subprocess
from collections.abc import Generator

import pytest
from tests.integration import node
from tests.integration.patience import patient

LINES = 25
WIDTH = 400


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        command = ["zeropod", "ps"]
        ps = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=patient(20), check=False
        )
        for title, said in (
            ("zeropod ps", ps.stdout.splitlines()),
            ("the end of containerd's log", node.containerd_log()[-LINES:]),
        ):
            report.sections.append((title, "\n".join(line[:WIDTH] for line in said)))
    return report
