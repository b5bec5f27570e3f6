"""When exports are removed that nothing comes back for."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.runtime.transfer.exports import make

from zeropod import paths
from zeropod.runtime.exports import decision, garbage, manifest
from zeropod.runtime.exports.decision import Decision
from zeropod.runtime.exports.export import Export

NOW = time.time()
DAY = 86400.0


@pytest.fixture
def exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "EXPORTS", tmp_path / "exports")
    monkeypatch.setattr(paths, "PODS", tmp_path / "pods")
    (tmp_path / "exports").mkdir()
    (tmp_path / "pods").mkdir()
    return tmp_path / "exports"


def has_a_shim(pods: Path) -> None:
    (pods / "k8s.io/pod").mkdir(parents=True)
    (pods / "k8s.io/pod/abc").touch()


def made(exports: Path, age: float, decided: Decision | None = None, decided_for: float = 0.0) -> Export:
    export = make(exports, {"images/x": b"x"}, "1.app")
    os.utime(export.directory / manifest.FILE, (NOW - age, NOW - age))
    if decided:
        export.decide(decided)
        os.utime(export.directory / decision.FILE, (NOW - decided_for, NOW - decided_for))
    return export


def collected(last_asked: Callable[[str], float] = lambda key: 0.0) -> list[tuple[str, str]]:
    return list(garbage.collect(last_asked, now=NOW))


def test_without_the_directory_there_is_nothing(exports: Path) -> None:
    exports.rmdir()
    assert collected() == []


@pytest.mark.parametrize(
    ("decided", "decided_for", "age", "goes"),
    [
        (None, 0.0, 6.9 * DAY, False),
        (None, 0.0, 7.1 * DAY, True),
        (Decision.GIVEN, 3500.0, 30 * DAY, False),
        (Decision.GIVEN, 3700.0, 3800.0, True),
        (Decision.WITHDRAWN, 500.0, 30 * DAY, False),
        (Decision.WITHDRAWN, 700.0, 800.0, True),
    ],
)
def test_what_has_no_shim_goes_after_its_time(
    exports: Path, decided: Decision | None, decided_for: float, age: float, goes: bool
) -> None:
    export = made(exports, age, decided, decided_for)
    assert [name for name, _ in collected()] == (["1.app"] if goes else [])
    assert export.exists is not goes


def test_what_has_a_shim_stays_however_old_it_is(exports: Path) -> None:
    has_a_shim(paths.PODS)
    export = made(exports, 1000 * DAY)
    assert collected() == []
    assert export.decided is None


def test_what_is_withdrawn_is_the_shims_for_a_day(exports: Path) -> None:
    has_a_shim(paths.PODS)
    made(exports, 2 * DAY, Decision.WITHDRAWN, 0.9 * DAY)
    assert collected() == []
    os.utime(exports / "1.app" / decision.FILE, (NOW - 1.1 * DAY, NOW - 1.1 * DAY))
    assert collected() == [("1.app", "it was withdrawn")]


def test_where_shims_cannot_be_seen_nothing_is_taken_for_abandoned(exports: Path) -> None:
    paths.PODS.rmdir()
    export = made(exports, 1000 * DAY)
    assert collected() == []
    assert export.decided is None


def test_what_is_being_fetched_stays(exports: Path) -> None:
    made(exports, 9000.0, Decision.GIVEN, 8000.0)
    assert collected(lambda key: NOW - 60.0) == []
    assert collected(lambda key: NOW - 3700.0) == [("1.app", "it was given, and nothing fetches it")]


def test_what_is_given_while_it_is_looked_at_stays(exports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export, decide = made(exports, 8 * DAY), Export.decide

    def given_before(export: Export, wanted: Decision) -> Decision:
        decide(export, Decision.GIVEN)
        return decide(export, wanted)

    monkeypatch.setattr(Export, "decide", given_before)
    assert collected() == []
    assert export.decided is Decision.GIVEN


def test_what_was_never_complete_goes_an_hour_after_the_last_change(exports: Path) -> None:
    (exports / "1.app.new/images").mkdir(parents=True)
    (exports / "1.app.new/images/x").touch()
    (exports / "1.app.upper").touch()
    (exports / "lost+found").mkdir()
    for path in exports.rglob("*"):
        os.utime(path, (NOW - 3700, NOW - 3700))
    os.utime(exports / "1.app.new/images/x", (NOW - 3500, NOW - 3500))
    assert collected() == [("1.app.upper", "it was never complete")]
    os.utime(exports / "1.app.new/images/x", (NOW - 3700, NOW - 3700))
    assert collected() == [("1.app.new", "it was never complete")]
    assert os.listdir(exports) == ["lost+found"]


def test_a_link_is_removed_and_not_followed(exports: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (exports / "1.app.new").symlink_to(tmp_path / "outside")
    os.utime(exports / "1.app.new", (NOW - 9000, NOW - 9000), follow_symlinks=False)
    assert [name for name, _ in collected()] == ["1.app.new"]
    assert (tmp_path / "outside").exists()
