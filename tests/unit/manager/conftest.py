"""A directory for the sockets of a node's shims."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from zeropod import paths


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # What the path of a socket has room for is less than pytest's directories take.
    with tempfile.TemporaryDirectory() as directory:
        monkeypatch.setattr(paths, "STATUS_SOCKETS", directory)
        yield Path(directory)
