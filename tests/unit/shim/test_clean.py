"""What containerd runs when a shim is dead."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod import paths as places
from zeropod.kernel import mount
from zeropod.launch.flags import Flags
from zeropod.launch.start import GROUPS
from zeropod.rpc.messages import task_pb2
from zeropod.runtime.images import ImageStore
from zeropod.shim.clean import clean, clean_pod, clean_up
from zeropod.shim.delete import REMOVED, main, response


@pytest.fixture(autouse=True)
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node on which there is nothing but a runc, which notes how it was called."""
    monkeypatch.setattr(places, "CONTAINERS", tmp_path / "images")
    monkeypatch.setattr(places, "NETWORKS", tmp_path / "netns")
    monkeypatch.setattr(places, "PODS", tmp_path / "pods")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    runc(tmp_path / "runc")
    return tmp_path


def runc(path: Path, script: str = "") -> None:
    path.write_text(f'#!/bin/sh\necho "$@" >>{path}.calls\n{script}\n')
    path.chmod(0o755)


def test_where_nothing_is_left_there_is_nothing_to_complain_about(node: Path) -> None:
    assert clean("k8s.io", "web", {"bundle": str(node / "bundle")}) == []
    assert (node / "runc.calls").read_text() == "--root /run/containerd/runc/k8s.io delete --force web\n"


def test_everything_of_the_container_is_removed(node: Path) -> None:
    store = ImageStore.of("k8s.io", "web")
    store.prepare()
    (store.images / "pages-1.img").write_bytes(b"secret")
    ImageStore.of("k8s.io", "other").prepare()
    ImageStore.of("moby", "web").prepare()
    networks = node / "netns"
    for name in ("k8s.io/web", "k8s.io/other", "moby/web"):
        (networks / name).parent.mkdir(parents=True, exist_ok=True)
        (networks / name).touch()
    assert clean("k8s.io", "web", {"bundle": str(node / "bundle")}) == []
    assert os.listdir(node / "images" / "k8s.io") == ["other"]
    assert ImageStore.of("moby", "web").images.exists()
    assert sorted(networks.glob("*/*")) == [networks / "k8s.io" / "other", networks / "moby" / "web"]


def test_a_criu_that_waits_for_its_shim_gets_an_option_without_a_value(node: Path) -> None:
    store = ImageStore.of("k8s.io", "web")
    store.prepare()
    os.mkfifo(store.config)
    with subprocess.Popen(["cat", store.config], stdout=subprocess.PIPE, text=True) as criu:
        until_it_waits(criu.pid)
        assert clean("k8s.io", "web", {"bundle": str(node / "bundle")}) == []
        assert criu.communicate(timeout=30)[0] == "network-lock"
    assert not store.directory.exists()


def until_it_waits(pid: int) -> None:
    """Until a process sleeps, in open(2) that is."""
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}/wchan").read_text() in ("", "0") or Path(f"/proc/{pid}/comm").read_text() != "cat\n":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_runc_is_called_as_the_shim_called_it(node: Path) -> None:
    runc(node / "crun")
    options = {"root": "/run/elsewhere", "binary_name": str(node / "crun")}
    (node / "options.json").write_text(json.dumps(options))
    main(Flags(namespace="k8s.io", id="web", bundle=str(node)))
    assert (node / "crun.calls").read_text() == "--root /run/elsewhere/k8s.io delete --force web\n"
    assert not (node / "runc.calls").exists()


@pytest.mark.parametrize("options", ["", "{"])
def test_options_that_were_never_written_whole_do_not_matter(node: Path, options: str) -> None:
    (node / "options.json").write_text(options)
    main(Flags(namespace="k8s.io", id="web", bundle=str(node)))
    assert (node / "runc.calls").read_text() == "--root /run/containerd/runc/k8s.io delete --force web\n"


def test_what_runc_complains_about_stops_nothing_else(node: Path) -> None:
    runc(node / "runc", "echo no such cgroup >&2; exit 1")
    ImageStore.of("k8s.io", "web").prepare()
    assert clean("k8s.io", "web", {"bundle": str(node / "bundle")}) == ["web: runc delete failed: no such cgroup"]
    assert not ImageStore.of("k8s.io", "web").directory.exists()


def test_a_node_without_runc_is_cleaned_all_the_same(node: Path) -> None:
    ImageStore.of("k8s.io", "web").prepare()
    [complaint] = clean("k8s.io", "web", {"binary_name": "/nonexistent/runc"})
    assert complaint.startswith("web: runc delete failed: ")
    assert not ImageStore.of("k8s.io", "web").directory.exists()


def test_what_the_shim_has_removed_is_not_looked_for(node: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    (node / REMOVED).touch()
    (node / "init.pid").write_text("4194305")
    assert main(Flags(namespace="k8s.io", id="web", bundle=str(node))) == 0
    assert task_pb2.DeleteResponse.FromString(capfdbinary.readouterr().out).pid == 4194305
    assert not (node / "runc.calls").exists()


def pod(node: Path, *ids: str) -> None:
    bundle = node / "bundles" / ids[0]
    bundle.mkdir(parents=True)
    (bundle / "config.json").write_text(json.dumps({"annotations": {GROUPS[1]: ids[0]}}))
    listed = places.pod("k8s.io", ids[0])
    listed.mkdir(parents=True)
    for name in ids:
        (listed / name).write_text(json.dumps({"bundle": str(node / "bundles" / name)}))


def test_the_whole_pod_of_a_dead_shim_is_removed_and_no_other(
    node: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    pod(node, "sandbox", "web", "cache")
    pod(node, "other")
    for name in ("web", "cache", "other"):
        ImageStore.of("k8s.io", name).prepare()
    main(Flags(namespace="k8s.io", id="sandbox", bundle=str(node / "bundles" / "sandbox")))
    assert os.listdir(node / "images" / "k8s.io") == ["other"]
    assert not places.pod("k8s.io", "sandbox").exists()
    assert capfdbinary.readouterr().err == b""


def test_the_rest_of_a_pod_whose_shim_lives_is_left_alone(
    node: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zeropod.launch.start.answers", lambda path: True)
    pod(node, "sandbox", "web")
    ImageStore.of("k8s.io", "web").prepare()
    main(Flags(namespace="k8s.io", id="sandbox", bundle=str(node / "bundles" / "sandbox")))
    assert os.listdir(node / "images" / "k8s.io") == ["web"]
    assert task_pb2.DeleteResponse.FromString(capfdbinary.readouterr().out).exit_status == 137


def test_of_those_that_clean_up_after_one_shim_one_does_it(node: Path) -> None:
    pod(node, "sandbox", "web")
    listed = places.pod("k8s.io", "sandbox")
    (node / "bundles" / "web").mkdir()
    shutil.copy(node / "bundles" / "sandbox" / "config.json", node / "bundles" / "web")
    turn = os.open(listed, os.O_RDONLY)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        complaints: list[str] = []
        later = threading.Thread(
            target=lambda: complaints.extend(
                clean_up(
                    Flags(namespace="k8s.io", id="web", bundle=str(node / "bundles" / "web")), node / "bundles" / "web"
                )
            )
        )
        later.start()
        while not waits_for_a_lock():
            assert later.is_alive()
        for file in listed.iterdir():
            file.unlink()
        listed.rmdir()
    finally:
        os.close(turn)
    later.join(30)
    assert not later.is_alive()
    assert complaints == []
    assert not (node / "runc.calls").exists()


def waits_for_a_lock() -> bool:
    waiting = (line.split() for line in Path("/proc/locks").read_text().splitlines() if "->" in line)
    return any(line[2] == "FLOCK" and str(os.getpid()) in line for line in waiting)


def test_what_has_been_cleaned_is_not_listed_any_more_though_its_shim_lives(
    node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zeropod.launch.start.answers", lambda path: True)
    pod(node, "sandbox", "web")
    bundle = node / "bundles" / "sandbox"
    assert clean_up(Flags(namespace="k8s.io", id="sandbox", bundle=str(bundle)), bundle) == []
    assert os.listdir(places.pod("k8s.io", "sandbox")) == ["web"]


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**62))
def test_the_answer_is_the_message_that_containerd_reads(pid: int, at_ns: int) -> None:
    found = task_pb2.DeleteResponse.FromString(response(pid, at_ns))
    assert (found.pid, found.exit_status, found.exited_at.ToNanoseconds()) == (pid, 137, at_ns)


def test_the_answer_is_containerds_and_complaints_go_to_stderr(
    node: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    runc(node / "runc", "echo busy >&2; exit 1")
    (node / "init.pid").write_text("4194305")  # beyond what the kernel gives to a process
    assert main(Flags(namespace="k8s.io", id="web", bundle=str(node))) == 0
    said = capfdbinary.readouterr()
    found = task_pb2.DeleteResponse.FromString(said.out)
    assert (found.pid, found.exit_status) == (4194305, 137)
    assert found.exited_at.seconds > 0
    assert said.err == b"containerd-shim-zeropod-v2: web: runc delete failed: busy\n"


def test_without_a_bundle_flag_the_container_is_beside_the_present_directory(
    node: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sandbox", "web"):
        (node / name).mkdir()
    (node / "web" / "init.pid").write_text("4194305")
    monkeypatch.chdir(node / "sandbox")
    assert main(Flags(namespace="k8s.io", id="web")) == 0
    assert task_pb2.DeleteResponse.FromString(capfdbinary.readouterr().out).pid == 4194305


@pytest.mark.parametrize("asked_for", ["the container", "its pod"])
@pytest.mark.parametrize("of", ["an image", "the page store"])
def test_pagers_of_this_container_are_ended_and_no_others(node: Path, asked_for: str, of: str) -> None:
    def pager(id: str) -> "subprocess.Popen[bytes]":
        store = ImageStore.of("k8s.io", id)
        directory = store.images if of == "an image" else store.directory / "store" / "pages"
        directory.mkdir(parents=True)
        (directory / "pages-1.img").write_bytes(b"x")
        script = (
            "import sys, time\n"
            "open('/proc/self/comm', 'w').write('zeropod-pager')\n"
            "served = open(sys.argv[1])\n"
            "print(flush=True); time.sleep(1000)\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(directory / "pages-1.img")], stdout=subprocess.PIPE
        )
        assert process.stdout
        process.stdout.readline()
        process.stdout.close()
        return process

    own, other = pager("web"), pager("other")
    try:
        pod(node, "web")
        if asked_for == "its pod":
            clean_pod("k8s.io", "web")
        else:
            bundle = node / "bundles" / "web"
            assert clean_up(Flags(namespace="k8s.io", id="web", bundle=str(bundle)), bundle) == []
        assert not places.pod("k8s.io", "web").exists()
        assert own.wait(10) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        for process in (own, other):
            process.kill()
            process.wait()


def test_limits_that_a_dead_shim_had_opened_are_put_back(node: Path) -> None:
    opened, changed = node / "memory.swap.max", node / "memory.other"
    opened.write_text("max")
    changed.write_text("7")  # by an update since, which has the last word
    record = places.store("k8s.io", "web") / "limits"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps([[str(opened), "0", "max"], [str(changed), "0", "max"]]))
    assert clean("k8s.io", "web", {"bundle": str(node / "bundle")}) == []
    assert (opened.read_text(), changed.read_text()) == ("0", "7")
    assert not record.exists()


def test_a_restore_that_outlives_its_shim_ends_with_all_its_children(node: Path) -> None:
    root = node / "runc-root"

    def restore(id: str) -> "subprocess.Popen[bytes]":
        # What CRIU restores may have sessions of its own.
        script = "setsid sh -c 'sleep 1000 & echo; wait' & wait"
        process = subprocess.Popen(
            ["sh", "-c", script, "--root", str(root / "k8s.io"), "restore", id], stdout=subprocess.PIPE
        )
        assert process.stdout
        process.stdout.readline()
        return process

    own, other = restore("web"), restore("other")
    try:
        started = [*below(own.pid), *(pid for child in below(own.pid) for pid in below(child))]
        assert len(started) == 2
        assert clean("k8s.io", "web", {"root": str(root)}) == []
        assert own.wait(10) == -signal.SIGKILL
        assert [pid for pid in started if runs(pid)] == []
        assert other.poll() is None
        assert clean("k8s.io", "other", {"root": str(root)}) == []
        assert other.wait(10) == -signal.SIGKILL
    finally:
        for process in (own, other):
            process.kill()
            process.communicate()


def below(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_bundle_that_containerd_could_not_remove_is_removed(node: Path) -> None:
    bundle, work = node / "tasks" / "web", node / "work" / "web"
    for directory in (work, bundle / "rootfs" / "proc", bundle / "rootfs" / "etc"):
        directory.mkdir(parents=True)
    (bundle / "rootfs" / "etc" / "hosts").touch()
    (bundle / "work").symlink_to(work)
    assert clean("k8s.io", "web", {"bundle": str(bundle)}) == []
    assert [os.listdir(node / "tasks"), os.listdir(node / "work")] == [[], []]


def test_no_file_of_what_is_still_mounted_in_a_bundle_is_removed(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume, place = node / "volume", node / "bundle" / "rootfs" / "data"
    volume.mkdir()
    (volume / "empty").touch()
    place.mkdir(parents=True)
    mount.mount("none", str(volume), place, ["bind"])
    monkeypatch.setattr(mount, "unmount_below", lambda _: None)  # as where the kernel refuses it
    try:
        (complaint,) = clean("k8s.io", "web", {"bundle": str(node / "bundle")})
    finally:
        subprocess.run(["umount", place], check=True)
    assert f"its bundle could not be removed: [Errno 16] still mounted: '{place}'" in complaint
    assert (volume / "empty").exists()


@pytest.mark.parametrize("name", ["größe", "with blank"])
def test_no_file_of_a_volume_is_removed_with_a_bundle(node: Path, name: str) -> None:
    volume, place = node / "volume", node / "real" / "bundle" / "rootfs" / name
    volume.mkdir()
    (volume / "empty").touch()
    place.mkdir(parents=True)
    (node / "link").symlink_to("real")
    mount.mount("none", str(volume), place, ["bind"])
    try:
        assert clean("k8s.io", "web", {"bundle": str(node / "link" / "bundle")}) == []
    finally:
        subprocess.run(["umount", "--quiet", place], check=False)
    assert (volume / "empty").exists()
    assert not (node / "real" / "bundle").exists()


def test_a_bundle_that_containerd_has_not_come_to_is_left_to_it(node: Path) -> None:
    bundle = node / "tasks" / "web"
    (bundle / "rootfs").mkdir(parents=True)
    assert clean("k8s.io", "web", {"bundle": str(bundle)}) == []
    assert os.listdir(bundle) == ["rootfs"]


def test_a_bundle_with_a_file_that_has_a_content_is_kept(node: Path) -> None:
    bundle = node / "tasks" / "web"
    (bundle / "rootfs" / "etc").mkdir(parents=True)
    (bundle / "rootfs" / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
    [complaint] = clean("k8s.io", "web", {"bundle": str(bundle)})
    assert complaint.startswith("web: its bundle could not be removed: ")
    assert (bundle / "rootfs" / "etc" / "hosts").read_text() == "127.0.0.1 localhost\n"


def test_it_goes_on_when_containerd_does_not_wait_any_longer(node: Path) -> None:
    bundle = node / "tasks" / "web"
    (bundle / "rootfs").mkdir(parents=True)
    os.mkfifo(node / "go")
    runc(node / "runc", f"read line <{node}/go; echo no such cgroup >&2; exit 1")
    ImageStore.of("k8s.io", "web").prepare()
    program = (
        "import sys; from pathlib import Path; from zeropod import paths;"
        "from zeropod.shim import delete; from zeropod.launch.flags import Flags; top = sys.argv[1];"
        "paths.CONTAINERS, paths.PODS = Path(top, 'images'), Path(top, 'pods');"
        "delete.main(Flags(namespace='k8s.io', id='web', bundle=top + '/tasks/web'))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(node)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:  # fmt: skip
        with (node / "go").open("w") as go:  # once runc has been started
            process.kill()
            assert process.wait(30) == -signal.SIGKILL
            go.write("on\n")
        said = process.communicate(timeout=30)
    assert said == ("", "containerd-shim-zeropod-v2: web: runc delete failed: no such cgroup\n")
    assert [os.listdir(node / "images" / "k8s.io"), os.listdir(node / "tasks")] == [[], []]


def test_what_it_did_not_expect_is_a_failure(
    node: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unexpected(*_: object) -> None:
        raise RuntimeError("unexpected")

    monkeypatch.setattr("zeropod.shim.clean.clean_up", unexpected)
    with pytest.raises(SystemExit) as ended:
        main(Flags(namespace="k8s.io", id="web", bundle=str(node)))
    assert ended.value.code == 1
    said = capfdbinary.readouterr()
    assert said.out == b""
    assert b"RuntimeError: unexpected" in said.err
