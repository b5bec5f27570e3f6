"""One night for each memory backend that the node has: all situations that are to run sleep through it together.

Swap is the whole machine's: it is on for these tests only, and off again however they end.
"""

import fcntl
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.integration.containerd import Containerd
from tests.integration.cri import Cri
from tests.integration.situations.scene import Scene, Situation
from tests.integration.sleep.helpers.report import pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport"]

DISK = Path(__file__).parents[3] / "build"
"""The node's own files are in memory or on an overlay, neither of which can hold a swap file."""

SWAP = 4 << 30
BACKENDS = ("store", "swap")
BEGIN_AT_ONCE = 4
"""First halves that run at the same time."""


class Swap:
    """A swap file, on while the block lasts; `why_not` says why there is none.

    Its lock tells whether that is so: a run that is killed leaves swap on, and the next one switches it off.
    """

    def __init__(self) -> None:
        self._file = DISK / f"situations-swap-{os.urandom(4).hex()}"
        self._lock = -1
        self.why_not = ""

    def __enter__(self) -> "Swap":
        for left in DISK.glob("situations-swap-*"):
            with open(left, "rb") as file, suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _switch_off(left)
        try:
            with open(self._file, "wb") as made:
                os.fchmod(made.fileno(), 0o600)
                self._lock = os.open(self._file, os.O_RDONLY)
                fcntl.flock(self._lock, fcntl.LOCK_EX)
                os.posix_fallocate(made.fileno(), 0, SWAP)
            subprocess.run(["mkswap", self._file], check=True, stdout=subprocess.DEVNULL)
            on = subprocess.run(["swapon", self._file], check=False, capture_output=True, text=True)
            self.why_not = on.stderr
        except OSError as error:
            self.why_not = str(error)
        return self

    def __exit__(self, *_: object) -> None:
        _switch_off(self._file)
        if self._lock >= 0:
            os.close(self._lock)


def _switch_off(file: Path) -> None:
    subprocess.run(["swapoff", file], check=False, capture_output=True, timeout=60)
    file.unlink(missing_ok=True)


class Night:
    """All situations with one backend, each at its yield; or what its first half raised."""

    def __init__(self, halves: Mapping[Situation, Iterator[None] | BaseException]) -> None:
        self._halves = halves

    def half(self, situation: Situation) -> Iterator[None]:
        """What is left of a situation. Raises what its first half raised."""
        found = self._halves[situation]
        if isinstance(found, BaseException):
            raise found
        return found


def _wanted(session: pytest.Session, backend: str) -> list[Situation]:
    """The situations of the tests that were selected."""
    found: list[Situation] = []
    for item in session.items:
        parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
        if parameters.get("backend") == backend and "situation" in parameters:
            found.append(parameters["situation"])
    return found


def _first_half(situation: Situation, scene: Scene) -> Iterator[None] | BaseException:
    try:
        rest = situation(scene)
        next(rest)
    except BaseException as error:  # noqa: BLE001 - a test's failure, or that it is skipped
        return error
    return rest


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """A memory backend, with what the node needs for it."""
    name: str = request.param
    if name != "swap":
        yield name
        return
    with Swap() as swap:
        if swap.why_not:
            pytest.skip(f"no swap file on this disk: {swap.why_not}")
        yield name


@pytest.fixture(scope="module")
def night(request: pytest.FixtureRequest, backend: str) -> Iterator[Night]:
    wanted = _wanted(request.session, backend)
    with ExitStack() as stack:
        client, kubelet = stack.enter_context(Containerd()), stack.enter_context(Cri())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/run", prefix="situations-")))
        scene = Scene(kubelet, client, backend, directory, stack)
        with ThreadPoolExecutor(BEGIN_AT_ONCE) as pool:
            halves = [pool.submit(_first_half, situation, scene) for situation in wanted]
        scene.goodnight()
        yield Night({situation: half.result() for situation, half in zip(wanted, halves, strict=True)})
