"""The directory of a container that sleeps, and whether what is in it is still whole."""

import os
import stat
from pathlib import Path

import pytest

from zeropod import paths
from zeropod.runtime.images import ImageStore


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageStore:
    monkeypatch.setattr(paths, "CONTAINERS", tmp_path / "zeropod" / "containers")
    store = ImageStore.of("default", "web")
    store.prepare()
    (store.images / "pages-1.img").write_bytes(b"x" * 4096)
    (store.images / "core-1.img").write_bytes(b"y" * 100)
    return store


def test_nobody_else_may_look_into_any_of_the_directories(store: ImageStore) -> None:
    directories = [paths.CONTAINERS.parent, *paths.CONTAINERS.parent.rglob("*")]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directories if path.is_dir()}
    assert modes == dict.fromkeys(["zeropod", "containers", "default", "web", "images", "work", "predump"], 0o700)


def test_the_umask_opens_nothing_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "CONTAINERS", tmp_path / "i")
    before = os.umask(0)
    try:
        ImageStore.of("default", "web").prepare()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "i" / "default" / "web" / "images").stat().st_mode) == 0o700


def test_the_inventory_has_names_and_sizes(store: ImageStore) -> None:
    sizes = {name: fingerprint.size for name, fingerprint in store.inventory().items()}
    assert sizes == {"pages-1.img": 4096, "core-1.img": 100}


def test_the_link_to_a_pre_dump_is_no_file(store: ImageStore) -> None:
    (store.images / "parent").symlink_to("../predump")
    assert "parent" not in store.inventory()


def test_an_image_that_nobody_touched_is_whole(store: ImageStore) -> None:
    inventory = store.inventory()
    assert store.damage(inventory) == ""
    (store.images / "stats-restore").write_bytes(b"CRIU's own")
    assert store.damage(inventory) == ""


def test_a_file_that_is_gone_is_named(store: ImageStore) -> None:
    inventory = store.inventory()
    (store.images / "core-1.img").unlink()
    assert store.damage(inventory) == f"{store.images}/core-1.img is missing"


def test_a_file_that_was_cut_is_named_with_both_sizes(store: ImageStore) -> None:
    inventory = store.inventory()
    os.truncate(store.images / "pages-1.img", 4000)
    assert store.damage(inventory) == f"{store.images}/pages-1.img has 4000 bytes instead of 4096"


def test_a_file_that_was_written_to_is_named_though_its_size_and_time_are_the_same(store: ImageStore) -> None:
    inventory = store.inventory()
    page = store.images / "pages-1.img"
    before = page.stat()
    while page.stat().st_ctime_ns == before.st_ctime_ns:  # the kernel's clock for files ticks every few milliseconds
        page.write_bytes(b"x" * before.st_size)
        os.utime(page, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.damage(inventory) == f"{page} was written to"


def test_a_file_that_was_replaced_is_named(store: ImageStore) -> None:
    inventory = store.inventory()
    core = store.images / "core-1.img"
    (store.images / "new").write_bytes(core.read_bytes())
    (store.images / "new").rename(core)
    assert store.damage(inventory) == f"{core} was written to"


def test_an_image_that_is_gone_is_named(store: ImageStore) -> None:
    inventory = store.inventory()
    store.remove()
    assert store.damage(inventory) == f"{store.images} cannot be read: No such file or directory"


def test_the_next_dump_begins_with_empty_directories(store: ImageStore) -> None:
    (store.work / "dump.log").touch()
    (store.predump / "pages-1.img").touch()
    store.config.write_text("network-lock skip\n")
    store.prepare()
    assert [os.listdir(path) for path in (store.images, store.work, store.predump)] == [[], [], []]
    assert store.config.exists()


def test_a_restore_keeps_the_image_and_begins_with_an_empty_work_directory(store: ImageStore) -> None:
    (store.work / "lazy-pages.socket").touch()
    inventory = store.inventory()
    store.prepare_restore()
    assert os.listdir(store.work) == []
    assert stat.S_IMODE(store.work.stat().st_mode) == 0o700
    assert store.damage(inventory) == ""


def test_without_the_image_the_logs_stay(store: ImageStore) -> None:
    (store.work / "restore.log").write_text("ok")
    store.drop_images()
    assert sorted(os.listdir(store.directory)) == ["work"]
    store.drop_images()


def test_a_container_that_is_gone_leaves_nothing_and_others_alone(store: ImageStore) -> None:
    ImageStore.of("default", "other").prepare()
    store.remove()
    store.remove()
    assert os.listdir(paths.CONTAINERS / "default") == ["other"]


def test_one_of_the_same_id_in_another_namespace_keeps_its_image(store: ImageStore) -> None:
    inventory = store.inventory()
    other = ImageStore.of("moby", "web")
    other.prepare()
    (other.images / "pages-1.img").write_bytes(b"z")
    assert store.damage(inventory) == ""
    other.drop_images()
    other.remove()
    assert store.damage(inventory) == ""


def test_the_page_store_goes_with_the_image(store: ImageStore) -> None:
    pages = paths.store("default", "web")
    pages.mkdir()
    (pages / "pages").write_bytes(b"secret")
    store.remove()
    assert not pages.exists()


def test_a_disk_that_takes_nothing_is_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(paths, "CONTAINERS", tmp_path / "file" / "i")
    with pytest.raises(OSError, match="file"):
        ImageStore.of("default", "web").prepare()
