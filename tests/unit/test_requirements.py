"""What zeropod runs with is said the same everywhere."""

from pathlib import Path

import pytest

from zeropod import requirements
from zeropod.manager.checks import CHECKS

KERNEL, CRIU = (".".join(map(str, version)) for version in (requirements.OLDEST_KERNEL, requirements.OLDEST_CRIU))
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["README.md", "docs/install.md"])
def test_the_pages_name_the_oldest_kernel_and_the_oldest_criu(page: str) -> None:
    text = (ROOT / page).read_text()
    assert f"Linux {KERNEL} or newer" in text
    assert f"CRIU {CRIU} or newer" in text


def test_the_doctor_names_the_oldest_kernel() -> None:
    (check,) = (check for check in CHECKS if check.name == "kernel")
    assert f"Linux {KERNEL} or newer" in check.remedy


@pytest.mark.parametrize(
    ("version", "good"),
    [("6.1.0-57-cloud-amd64", True), ("6.18", True), ("10.0", True), ("5.15.9", False), ("", False)],
)
def test_versions_are_compared_by_their_numbers(version: str, good: bool) -> None:
    assert (requirements.too_old(version, (6, 1)) == "") is good
