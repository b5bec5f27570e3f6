"""The zygote on a real node: shims are its forks, and nothing depends on its life.

What `start` costs is guarded by what does not vary with the machine: modules, system calls, memory.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.integration import huge_pages, node
from tests.integration.cri import Cri, Pod
from tests.integration.patience import patient
from tests.integration.shimsocket import ShimSocket, address
from tests.integration.sleep.helpers.shims import statuses
from tests.integration.sleep.helpers.stage import PREFIX

from zeropod.launch.zygote_client import DIRECTORY as ZYGOTES
from zeropod.rpc.messages.status_pb2 import State
from zeropod.zygote.preparation import STEPS

SHIM = "/usr/local/bin/containerd-shim-zeropod-v2"
REDIS = "localhost/redis:test"

MODULES = 45
"""That `start` has loaded at its end, the interpreter's own among them: os or json would bring a dozen more."""

CALLS = 700
"""System calls of a `start`, most of them the interpreter's and its search for modules."""

SHIMS = 20
SHIM_MIB = 6.0
SLEEPS = {PREFIX + "scaledown-duration": "3s"}


def zygotes() -> list[int]:
    """The zygotes, and their idle forks."""
    return [pid for pid, line in node.processes().items() if line[-1] == "zygote"]


def shim_of(pod: Pod) -> int:
    with ShimSocket(address(f"{node.TASKS}/k8s.io/{pod.id}")) as shim:
        return shim.connect(pod.id).shim_pid


def status(pid: int, name: str) -> str:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return line.split()[1]
    raise KeyError(name)


def of(pid: int, what: str) -> str:
    return Path(f"/proc/{pid}/{what}").read_text()


def settled() -> None:
    """Returns when no zygote is left of earlier tests; raises TimeoutError with those that are, and their shims."""
    try:
        node.until(lambda: not zygotes(), "no zygote is left of earlier tests", 30)
    except TimeoutError as error:
        ours = [f"{pid}: {' '.join(line)}" for pid, line in node.processes().items() if "zeropod" in " ".join(line)]
        raise TimeoutError(f"{error}, but {ours}") from None


@pytest.mark.timeout(240)
def test_shims_are_forks_that_need_no_zygote(cri: Cri) -> None:
    settled()
    containerd = node.containerd_pid()
    with cri.pod() as first:
        app = first.container("app", REDIS)
        node.until(lambda: len(zygotes()) == 2, "a zygote and its idle fork", 60)
        [zygote] = [pid for pid in zygotes() if status(pid, "PPid") != str(os.getpid()) and pid == min(zygotes())]
        shim = shim_of(first)
        assert status(shim, "PPid") not in map(str, zygotes())
        assert first.id in of(shim, "cmdline").split("\0")
        assert of(shim, "comm") == "zeropod-shim\n"
        assert of(shim, "cgroup") == of(containerd, "cgroup")
        assert int(of(shim, "oom_score_adj")) == min(int(of(containerd, "oom_score_adj")) + 1, 1000)
        assert os.getsid(shim) == os.getpgid(shim) == shim
        assert os.readlink(f"/proc/{shim}/cwd") == f"{node.TASKS}/k8s.io/{first.id}"
        assert [os.readlink(f"/proc/{shim}/fd/{number}") for number in range(3)] == ["/dev/null"] * 3
        for path in (Path(ZYGOTES), *Path(ZYGOTES).iterdir()):
            assert (path.lstat().st_uid, path.lstat().st_mode & 0o077) == (0, 0), path

        for pid in zygotes():
            os.kill(pid, signal.SIGKILL)
        settled()
        assert app.exec("redis-cli", "ping").exit_code == 0
        with cri.pod() as second:
            second.container("app", REDIS)
            assert len({zygote, *zygotes()}) > 1
            assert shim_of(first) == shim != shim_of(second)
        assert app.exec("redis-cli", "ping").exit_code == 0
    settled()
    assert os.listdir(ZYGOTES) == ["lock"]


@pytest.mark.timeout(120)
def test_without_a_zygote_a_shim_is_a_program_of_its_own(cri: Cri) -> None:
    settled()
    os.chmod(ZYGOTES, 0o777)
    try:
        with cri.pod() as pod:
            app = pod.container("app", REDIS)
            node.until(lambda: app.exec("redis-cli", "ping").exit_code == 0, "redis answers")
            assert of(shim_of(pod), "cmdline").split("\0")[-2] == "serve"
            assert not zygotes()
    finally:
        os.chmod(ZYGOTES, 0o700)
    why = f"no zygote could fork it: {ZYGOTES} has mode 0777"
    assert any(why in line for line in node.containerd_log())


@contextmanager
def bundle(name: str) -> Iterator[Path]:
    """For a `start` by hand; the shim that it has left behind is ended afterwards."""
    directory = Path("/run/zeropod-test") / name
    directory.mkdir(parents=True)
    (directory / "config.json").write_text('{"ociVersion": "1.2.0", "annotations": {"a": "b"}}')
    os.mkfifo(directory / "log")
    log = os.open(directory / "log", os.O_RDWR | os.O_NONBLOCK)
    try:
        yield directory
    finally:
        os.close(log)
        if (directory / "address").exists():  # it was promised, and gets its name a moment later
            node.until(lambda: bool(node.running("-id", name)), f"the shim of {name} is there")
        for pid in node.running("-id", name):
            os.kill(pid, signal.SIGTERM)
        node.until(lambda: not node.running("-id", name), f"the shim of {name} has ended")


def flags(name: str) -> list[str]:
    containerd = ["-address", "/run/containerd/containerd.sock", "-publish-binary", "/usr/bin/containerd"]
    return ["-namespace", "test", *containerd, "-id", name, "start"]


@pytest.mark.timeout(180)
def test_start_does_little(tmp_path: Path) -> None:
    def run(directory: Path, *command: str) -> str:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=patient(60), check=True,
            env={"PATH": os.environ["PATH"]},
        )  # fmt: skip
        return done.stdout

    def calls(directory: Path, *command: str) -> int:
        run(directory, "strace", "-f", "-c", "-o", str(tmp_path / "calls"), *command)
        [total] = [line.split() for line in (tmp_path / "calls").read_text().splitlines() if line.endswith(" total")]
        return int(total[3] if total[3].isdigit() else total[2])

    with ExitStack() as stack:
        warm, counted, listed = (stack.enter_context(bundle(name)) for name in ("warm", "counted", "listed"))
        tree = run(warm, "zeropod", "unpack").strip()
        run(warm, SHIM, *flags("warm"))
        assert calls(counted, "python3", "-I", "-S", f"{tree}/start.py", SHIM, *flags("counted")) < CALLS

        program = (
            f"import sys; sys.path.insert(0, {tree!r}); import zeropod.launch.flags as b; "
            f"sys.argv[0] = {SHIM!r}; b.main(sys.argv[1:]); print(*sys.modules)"
        )
        said = run(listed, "python3", "-I", "-S", "-c", program, *flags("listed"))
        answer, _, modules = said.partition("\n")
        assert json.loads(answer)["address"].startswith("unix:///run/containerd/s/")
        assert not {"os", "re", "json", "socket", "typing", "trio"} & set(modules.split())
        assert len(modules.split()) < MODULES


@pytest.mark.timeout(600)
def test_twenty_shims_whose_containers_sleep_take_little_memory(cri: Cri, capsys: pytest.CaptureFixture[str]) -> None:
    with ExitStack() as stack:
        pods = [stack.enter_context(cri.pod(annotations=SLEEPS)) for _ in range(SHIMS)]
        apps = [pod.container("app", REDIS) for pod in pods]
        deadline = time.monotonic() + patient(120)
        asleep: set[str] = set()
        while asleep != {app.id for app in apps}:
            assert time.monotonic() < deadline
            time.sleep(patient(1.0))  # each look makes every shim work
            asleep = {own for own, said in statuses().items() if said.state == State.STANDBY}
        sizes = []
        for pod in pods:
            found = re.search(r"^Pss: +(\d+) kB", of(shim_of(pod), "smaps_rollup"), re.MULTILINE)
            assert found
            sizes.append(int(found[1]) / 1024)
        # The median: where the node is very slow, the first `start` has not waited for the zygote.
        median = sorted(sizes)[SHIMS // 2]
        with capsys.disabled():  # a figure to be seen in every run
            print(f"\nmemory (PSS) of a shim among {SHIMS} after a sleep: {median:.2f} MiB, at most {SHIM_MIB:g}")
        assert median <= SHIM_MIB, sorted(sizes)
    settled()


@pytest.mark.timeout(180)
def test_the_kernel_makes_no_huge_pages_of_what_shims_share(cri: Cri) -> None:
    if not huge_pages.can_be_made():
        pytest.skip("this kernel makes no huge pages when asked to: before 6.1, or without them")
    with cri.pod(annotations=SLEEPS) as pod:
        pod.container("app", REDIS)
        shared = huge_pages.mappings(zygotes()[0])
        shim = shim_of(pod)
        assert set(shared) <= set(huge_pages.mappings(shim))
        assert huge_pages.made(shim, shared) == []
    settled()


@pytest.mark.timeout(180)
def test_what_knows_python_from_the_inside_knows_the_node_s(cri: Cri) -> None:
    """A step that does not work with this Python or on this kernel is a warning in containerd's log."""
    settled()
    before = len(node.containerd_log())
    with cri.pod() as pod:
        pod.container("app", REDIS)
    said = node.containerd_log()[before:]
    assert not [line for line in said if "the zygote goes without" in line]
    [summary] = [line for line in said if "the zygote is prepared" in line]
    assert f"{len(STEPS)} of {len(STEPS)} steps" in summary


@pytest.mark.timeout(180)
def test_modules_that_know_python_from_the_inside_pass_their_tests_on_the_node() -> None:
    known = [f"/src/tests/unit/zygote/test_{module}.py" for module in ("cow", "code_layout")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", *known], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "SKIPPED" not in done.stdout
