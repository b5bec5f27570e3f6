"""All changes are made or none, whatever fails, also when the installer itself is killed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from zeropod.installer.changes import Change, Entry, File, Link, compare, show
from zeropod.installer.root import Root
from zeropod.installer.transaction import JOURNAL, Metadata, Transaction

INSTALL_ROOT = "/opt/zeropod"
WANTED: dict[str, Entry] = {
    f"{INSTALL_ROOT}/bin/zeropod.pyz": File(b"new program", 0o755),
    f"{INSTALL_ROOT}/bin/zeropod": Link("zeropod.pyz"),
    "/etc/containerd/conf.d/zeropod.toml": File(b"version = 3\n"),
    "/etc/containerd/config.toml": File(b"after\n", 0o600),
    "/etc/old.toml": None,
}


class Killed(BaseException):
    """Nothing catches it, as nothing runs after a SIGKILL."""


@pytest.fixture
def root(tmp_path: Path) -> Root:
    (tmp_path / "etc/containerd").mkdir(parents=True)
    (tmp_path / "etc/containerd/config.toml").write_bytes(b"before\n")
    (tmp_path / "etc/containerd/config.toml").chmod(0o600)
    os.utime(tmp_path / "etc/containerd/config.toml", ns=(1, 1_000_000_000))
    (tmp_path / "etc/old.toml").write_bytes(b"old\n")
    return Root(str(tmp_path))


def everything(root: Root) -> dict[str, object]:
    found: dict[str, object] = {}
    for parent, directories, names in os.walk(root.top):
        for name in directories:
            found[os.path.join(parent, name)] = "directory"
        for name in names:
            path = os.path.join(parent, name)
            status = os.lstat(path)
            content = os.readlink(path) if os.path.islink(path) else Path(path).read_bytes()
            found[path] = (content, status.st_mode, None if os.path.islink(path) else status.st_mtime_ns)
    return found


def changes(root: Root) -> list[Change]:
    return compare(root.look, WANTED)


def test_all_changes_are_made(root: Root) -> None:
    with Transaction(root, INSTALL_ROOT).making(changes(root)):
        pass
    assert {path: root.look(path) for path in WANTED} == WANTED
    assert changes(root) == []
    assert not root.exists(f"{INSTALL_ROOT}/{JOURNAL}")


def test_a_check_that_fails_undoes_them(root: Root) -> None:
    before = everything(root)

    def fail() -> None:
        with Transaction(root, INSTALL_ROOT).making(changes(root)):
            assert changes(root) == []
            raise RuntimeError("not well")

    with pytest.raises(RuntimeError, match="not well"):
        fail()
    assert everything(root) == before


@pytest.mark.parametrize("step", range(40))
def test_a_system_call_that_fails_undoes_them(root: Root, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = everything(root)
    counted = Counted(monkeypatch, step, OSError(28, "No space left on device"))
    try:
        with Transaction(root, INSTALL_ROOT).making(changes(root)):
            counted.stop()
    except OSError:
        assert everything(root) == before
    else:
        assert counted.calls <= step, "a failure was swallowed"
        assert changes(root) == []


@pytest.mark.parametrize("step", range(40))
def test_the_next_run_undoes_what_a_killed_one_did(root: Root, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = everything(root)
    counted = Counted(monkeypatch, step, Killed())
    killed = Transaction(root, INSTALL_ROOT)
    monkeypatch.setattr(killed, "undo", lambda: False)
    try:
        with killed.making(changes(root)):
            counted.stop()
    except Killed:
        counted.stop()
        Transaction(root, INSTALL_ROOT).undo()
        after = everything(root)
        # Only directories may be left: it was killed before it had written down which ones it makes.
        assert {path: entry for path, entry in after.items() if path in before} == before
        assert {entry for path, entry in after.items() if path not in before} <= {"directory"}
    else:
        assert changes(root) == []


class Counted:
    """Lets the system call number `step` of a transaction fail."""

    NAMES = ("rename", "symlink", "link", "makedirs", "fsync", "fchmod", "unlink")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: int, failure: BaseException) -> None:
        self.calls = 0
        self._step, self._failure, self._active = step, failure, True
        for name in self.NAMES:
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))

    def stop(self) -> None:
        self._active = False

    def _counted(self, call: Callable[..., None]) -> Callable[..., None]:
        def counted(*arguments: object, **named: object) -> None:
            if self._active:
                self.calls += 1
                if self.calls == self._step + 1:
                    self._active = False
                    raise self._failure
            call(*arguments, **named)

        return counted


def test_owner_and_date_can_be_given(root: Root) -> None:
    path = "/etc/containerd/config.toml"
    metadata = {path: Metadata(os.getuid(), os.getgid(), 7_000_000_000)}
    with Transaction(root, INSTALL_ROOT).making(changes(root), metadata):
        pass
    assert os.stat(root.outside(path)).st_mtime_ns == 7_000_000_000


def test_a_difference_is_shown_as_a_diff_and_our_own_files_are_counted(root: Root) -> None:
    shown = show(changes(root), INSTALL_ROOT)
    assert "--- /dev/null\n+++ /etc/containerd/conf.d/zeropod.toml\n@@ -0,0 +1 @@\n+version = 3\n" in shown
    assert "-before\n+after\n" in shown
    assert "--- /etc/old.toml\n+++ /dev/null\n" in shown
    assert f"add 2 files below {INSTALL_ROOT} (0.0 MB)\n" in shown
