"""What the node has to say when a test of sleep fails: a hook for the conftest of a folder of such tests."""

import subprocess
from collections.abc import Generator

import pytest
from tests.integration.patience import patient

LOG = "/run/containerd.log"
LINES = 25
WIDTH = 400


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for title, command in (
            ("zeropod ps", ["zeropod", "ps"]),
            (f"the end of {LOG}", ["tail", "-n", str(LINES), LOG]),
        ):
            said = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=patient(20), check=False
            )
            lines = [line[:WIDTH] for line in said.stdout.splitlines()]
            report.sections.append((title, "\n".join(lines)))
    return report
