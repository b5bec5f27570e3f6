"""What is installed from: a bundle made on this very node, of its Debian packages and the checkout's zeropod.pyz."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.installer.plain import without_product
from tests.integration.patience import patient


@pytest.fixture(scope="package")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("bundle") / "zeropod"
    line = ["python3", "/src/installer/bundle.py", "--pyz", "/src/build/zeropod.pyz", "--output", str(output)]
    subprocess.run(line, check=True, timeout=patient(180))
    return output


@pytest.fixture(autouse=True, scope="package")
def nothing_installed() -> Iterator[None]:
    with without_product():
        yield
