"""Whether there is room for one more image."""

import fcntl
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod import paths
from zeropod.runtime import budget
from zeropod.runtime.budget import Usage, collect_orphans, refusal, release, reserve, usage
from zeropod.runtime.node_config import NodeConfig

A, B, C = ("n", "a"), ("n", "b"), ("n", "c")
SIZES = st.integers(0, 2**45)
UNLIMITED = NodeConfig(0, 0)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "OLD_IMAGES", tmp_path / "i")
    monkeypatch.setattr(paths, "CONTAINERS", tmp_path / "containers")
    return tmp_path / "containers"


def image(root: Path, name: str, size: int = 1 << 20, namespace: str = "n") -> Path:
    directory = root / namespace / name / "images"
    directory.mkdir(parents=True)
    (directory / "pages-1.img").write_bytes(os.urandom(size))
    return directory


@given(SIZES, SIZES, SIZES, SIZES, SIZES, SIZES)
def test_what_is_let_through_fits(need: int, taken: int, outstanding: int, free: int, most: int, least: int) -> None:
    seen, config = Usage(taken, outstanding, free), NodeConfig(most, least)
    if refusal(need, seen, config, "its image"):
        assert (most and taken + need > most) or free - outstanding - need < least
    else:
        assert not most or taken + need <= most
        assert free - outstanding - need >= least


def test_a_refusal_has_all_numbers_and_the_name_of_the_setting() -> None:
    words = refusal(30 << 20, Usage(50 << 20, 0, 1 << 40), NodeConfig(64 << 20, 0), "its memory")
    assert all(
        part in words for part in ("its memory would take", "30 MiB", "50 MiB", "64 MiB", "max-checkpoint-bytes")
    )
    words = refusal(30 << 20, Usage(0, 0, 40 << 20), NodeConfig(0, 20 << 20), "its memory")
    assert all(part in words for part in ("its memory would take", "30 MiB", "10 MiB", "20 MiB", "min-free-bytes"))


def test_images_of_all_containers_count_but_for_ones_own(root: Path) -> None:
    image(root, "a")
    image(root, "b")
    assert usage().images == pytest.approx(2 << 20, rel=0.1)
    assert usage(without=A).images == pytest.approx(1 << 20, rel=0.1)


def test_what_a_store_has_already_counts_beside_what_it_adds(root: Path) -> None:
    config = NodeConfig(10 << 20, 0)
    image(root, "a", 6 << 20)
    assert reserve(A, 6 << 20, config, "its image") == "", "an image takes the place of the one before"
    release(A)
    assert "max-checkpoint-bytes" in reserve(A, 6 << 20, config, "its memory", beside=True)
    assert reserve(A, 2 << 20, config, "its memory", beside=True) == ""
    assert usage().images == pytest.approx(8 << 20, rel=0.1)
    assert "max-checkpoint-bytes" in reserve(B, 3 << 20, config, "its image")


def test_a_node_on_which_nothing_ever_slept_has_all_of_its_disk(root: Path) -> None:
    assert (usage().images, usage().outstanding) == (0, 0)
    assert usage().free > 0


def test_two_that_fall_asleep_at_once_do_not_get_the_same_room(root: Path) -> None:
    config = NodeConfig(10 << 20, 0)
    assert reserve(A, 6 << 20, config, "its image") == ""
    assert "max-checkpoint-bytes" in reserve(B, 6 << 20, config, "its image")
    assert reserve(C, 4 << 20, config, "its image") == ""
    release(A)
    assert reserve(B, 6 << 20, config, "its image") == ""


def test_what_is_reserved_and_not_written_yet_counts_as_taken_from_the_disk(root: Path) -> None:
    reserve(A, 10 << 20, UNLIMITED, "its image")
    image(root, "a", 4 << 20)
    seen = usage()
    assert seen.images == 10 << 20
    assert seen.outstanding == pytest.approx(6 << 20, rel=0.01)


def test_an_image_that_is_larger_than_expected_counts_as_it_is(root: Path) -> None:
    reserve(A, 1 << 20, UNLIMITED, "its image")
    image(root, "a", 4 << 20)
    assert (usage().images >= 4 << 20, usage().outstanding) == (True, 0)


def test_who_holds_the_lock_for_ever_holds_up_nobody_for_long(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "PATIENCE", 0.02)
    root.mkdir()
    with open(paths.reservations_lock(), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert reserve(A, 1, UNLIMITED, "its image") == ""


def test_a_broken_reservation_is_none(root: Path) -> None:
    image(root, "a", 4096)
    paths.reservation(*A).write_text("much")
    assert usage().outstanding == 0


def test_orphans_are_removed_and_nothing_else(root: Path) -> None:
    image(root, "alive")
    image(root, "orphan")
    reserve(("n", "alive"), 1, UNLIMITED, "its image")  # makes the lock
    removed = collect_orphans(lambda: {("n", "alive")})
    assert [key for key, _ in removed] == [("n", "orphan")]
    assert removed[0][1] >= 1 << 20
    assert [entry.name for entry in (root / "n").iterdir()] == ["alive"]
    assert paths.reservations_lock().exists()


def test_the_same_id_in_two_namespaces_is_two_containers(root: Path) -> None:
    for namespace in ("one", "two"):
        image(root, "web", namespace=namespace)
    assert usage(without=("one", "web")).images == pytest.approx(1 << 20, rel=0.1)
    reserve(("one", "web"), 4 << 20, UNLIMITED, "its image")
    assert usage(without=("one", "web")).images == pytest.approx(1 << 20, rel=0.1)
    release(("two", "web"))
    assert usage().images == pytest.approx(5 << 20, rel=0.1)
    assert [key for key, _ in collect_orphans(lambda: {("two", "web")})] == [("one", "web")]
    assert (root / "two" / "web" / "images" / "pages-1.img").exists()


@pytest.mark.parametrize("namespace", ["", "two"])
def test_an_image_of_an_older_version_stays_while_a_container_in_any_namespace_has_its_id(
    root: Path, namespace: str
) -> None:
    for name in ("web", "orphan"):
        (paths.OLD_IMAGES / name / "images").mkdir(parents=True)
        (paths.OLD_IMAGES / name / "images" / "pages-1.img").write_bytes(b"x" * (1 << 20))
    assert usage().images >= 2 << 20
    assert [key for key, _ in collect_orphans(lambda: {(namespace, "web")})] == [("", "orphan")]
    assert os.listdir(paths.OLD_IMAGES) == ["web"]
    assert [key for key, _ in collect_orphans(set)] == [("", "web")]
    assert not paths.OLD_IMAGES.exists()


def test_what_cannot_be_a_namespace_is_left_alone(root: Path) -> None:
    (root / "lost+found" / "1").mkdir(parents=True)
    assert collect_orphans(set) == []
    assert (root / "lost+found" / "1").exists()


def test_a_container_that_is_created_meanwhile_keeps_its_image(root: Path) -> None:
    image(root, "old")

    def existing() -> set[budget.Key]:
        image(root, "new")
        return {("n", "old")}

    assert collect_orphans(existing) == []
    assert (root / "n" / "new").exists()


def test_who_cannot_be_looked_at_is_no_orphan(root: Path) -> None:
    (root / "n").mkdir(parents=True)
    (root / "elsewhere").symlink_to("/etc")
    (root / "n" / "elsewhere").symlink_to("/etc")
    assert collect_orphans(set) == []
    assert Path("/etc").exists()
