"""Borrowing threads of real processes that check themselves: `injection_subject.c` says what it checks."""

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import random
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

import pytest

from zeropod.kernel import ptrace, userfault
from zeropod.kernel.userfault import PAGE
from zeropod.runtime.memory.userfault import remote_calls
from zeropod.runtime.memory.userfault.holding import Held, held
from zeropod.runtime.memory.userfault.injection import Injection
from zeropod.runtime.memory.userfault.remote_calls import RemoteCalls
from zeropod.runtime.memory.userfault.stopped import Unsuitable, own_thread

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86-64 has been run"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc"),
    pytest.mark.skipif(not os.path.exists(userfault.DEVICE), reason="needs /dev/userfaultfd"),
]

ROLES = (
    *("select", "poll", "sleep", "futex", "read", "epoll", "ppoll", "suspend", "compute", "sequence", "sem"),
    *("spin", "memory"),
)
ADDRESS = 0x1000
"""Nothing is mapped there: to drop no bytes from it is a call that does nothing."""
TWICE = 10.0
"""Seconds in which every role must have done something; it takes some 20 ms."""
FEATURES = userfault.EVENTS


class Subject:
    """The program, running."""

    def __init__(self, program: Path, role: str, *options: str, wrapper: Sequence[str] = ()) -> None:
        with tempfile.TemporaryFile() as counters:
            counters.truncate(PAGE)
            self._counters = mmap.mmap(counters.fileno(), PAGE)
            descriptor = counters.fileno()
            self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
            self.process = subprocess.Popen(
                [*wrapper, str(program), role, str(descriptor), *options],
                stdout=subprocess.PIPE,
                stderr=self.errors,
                pass_fds=[descriptor],
            )
        assert self.process.stdout is not None
        words = self.process.stdout.readline().split()
        assert words, self.said()
        self.semaphores, self.memory, self.length = (int(word) for word in words[1:])
        self.pid = self.process.pid
        if wrapper and "sh" in wrapper[0]:
            (self.pid,) = map(int, Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split())

    def said(self) -> str:
        self.errors.seek(0)
        return self.errors.read().decode()

    def progress(self) -> tuple[int, ...]:
        return struct.unpack(f"={len(ROLES)}Q", self._counters[: 8 * len(ROLES)])

    def state(self) -> tuple[list[str], list[list[str]]]:
        """Its descriptors and mappings."""
        lines = Path(f"/proc/{self.pid}/maps").read_text().splitlines()
        return sorted(os.listdir(f"/proc/{self.pid}/fd")), [line.split()[:2] for line in lines]

    def status(self, name: str) -> str:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return line.split(":", 1)[1].strip()
        raise KeyError(name)

    def check(self, but: Sequence[str] = ()) -> None:
        """Fail unless every role goes on, and nothing was found wrong."""
        before = self.progress()
        until = time.monotonic() + TWICE
        late: list[str] = []
        while time.monotonic() < until:
            assert self.process.poll() is None, (self.process.returncode, self.said())
            late = [
                role
                for role, old, new in zip(ROLES, before, self.progress(), strict=True)
                if new < old + 2 and role not in but
            ]
            if not late:
                return
            time.sleep(0.002)
        raise AssertionError(f"stand still: {late} {self.said()}")

    def end(self) -> None:
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process.kill()
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.process.wait()
        subprocess.run(["ipcrm", "-s", str(self.semaphores)], check=True)
        self._counters.close()
        self.errors.close()


@pytest.fixture(scope="session")
def directory() -> Iterator[Path]:
    """Where programs without rights can be executed from; pytest's own is closed to others."""
    with tempfile.TemporaryDirectory(prefix="zeropod-test-") as path:
        os.chmod(path, 0o755)
        yield Path(path)


def compiled(source: Path, target: Path, *options: str) -> Path:
    subprocess.run(["gcc", "-O1", *options, "-o", str(target), str(source)], check=True, capture_output=True)
    return target


@pytest.fixture(scope="session")
def program(directory: Path) -> Path:
    return compiled(Path(__file__).with_name("injection_subject.c"), directory / "subject", "-pthread")


Start = Callable[..., Subject]


@pytest.fixture
def start(program: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def run(role: str, *options: str, wrapper: Sequence[str] = ()) -> Subject:
            subject = Subject(program, role, *options, wrapper=wrapper)
            stack.callback(subject.end)
            return subject

        yield run


class Freezer:
    """A cgroup with a freezer, of either version."""

    def __init__(self, directory: Path, name: str, words: tuple[str, str]) -> None:
        self._directory, self._file, self._words = directory, directory / name, words
        self._members: list[int] = []
        directory.mkdir()

    def add(self, pid: int) -> None:
        # To move a process takes the kernel seconds on a busy machine.
        if pid not in self._members:
            self._members.append(pid)
            (self._directory / "cgroup.procs").write_text(str(pid))

    def freeze(self, *, wait: bool = True) -> None:
        self._file.write_text(self._words[0])
        until = time.monotonic() + 5
        while wait and not self.frozen():
            assert time.monotonic() < until
            os.sched_yield()

    def thaw(self) -> None:
        self._file.write_text(self._words[1])

    def frozen(self) -> bool:
        if self._file.name == "freezer.state":
            return self._file.read_text().strip() == "FROZEN"
        return "frozen 1" in (self._directory / "cgroup.events").read_text()

    def remove(self) -> None:
        self.thaw()
        for pid in (self._directory / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                (self._directory.parent / "cgroup.procs").write_text(pid)
        until = time.monotonic() + 5
        while self._directory.exists() and time.monotonic() < until:
            with suppress(OSError):
                self._directory.rmdir()


def make_freezer(version: str) -> Freezer:
    name = f"zeropod-test-{os.getpid()}-{threading.get_native_id()}"
    if version == "v1":
        if not os.path.exists("/sys/fs/cgroup/freezer/cgroup.procs"):
            pytest.skip("no freezer of cgroup v1")
        return Freezer(Path("/sys/fs/cgroup/freezer", name), "freezer.state", ("FROZEN", "THAWED"))
    for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        if os.path.exists(f"{root}/cgroup.controllers"):
            return Freezer(Path(root, name), "cgroup.freeze", ("1", "0"))
    pytest.skip("no cgroup v2")


@pytest.fixture
def versions() -> Iterator[Callable[[str], Freezer]]:
    with ExitStack() as stack:

        def make(version: str) -> Freezer:
            freezer = make_freezer(version)
            stack.callback(freezer.remove)
            return freezer

        yield make


@contextmanager
def frozen(freezer: Freezer, subjects: Sequence[Subject]) -> Iterator[Freezer]:
    """Subjects in a frozen cgroup, which is thawed at the end."""
    for subject in subjects:
        freezer.add(subject.pid)
    freezer.freeze()
    try:
        yield freezer
    finally:
        freezer.thaw()


def borrow(pid: int) -> None:
    """All that there is to borrow a thread for."""
    borrowed = Injection.stop(pid)
    try:
        os.close(borrowed.open_userfaultfd(FEATURES))
        for _ in range(3):
            borrowed.drop([(ADDRESS, 0), (ADDRESS, 0)])
    finally:
        borrowed.release()


# What it was doing goes on


@pytest.mark.parametrize("options", [(), ("alarm",)], ids=["quiet", "alarm"])
@pytest.mark.parametrize("role", ROLES)
def test_a_thread_goes_on_with_what_it_was_doing(role: str, options: tuple[str, ...], start: Start) -> None:
    subject = start(role, *options)
    before = subject.state()
    for turn in range(25):
        own_thread(lambda: borrow(subject.pid))
        assert subject.status("TracerPid") == "0"
        time.sleep(0.003 * (turn % 3))
    subject.check()
    assert subject.state() == before


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("options", [(), ("alarm",)], ids=["quiet", "alarm"])
@pytest.mark.parametrize("role", ["spin", "epoll", "suspend", "sleep"])
def test_no_instruction_runs_between_one_frost_and_the_next(
    role: str, options: tuple[str, ...], version: str, start: Start, versions: Callable[[str], Freezer]
) -> None:
    freezer = versions(version)
    subjects = [start(role, *options) for _ in range(2)]

    def work() -> None:
        with held([subject.pid for subject in subjects], thaw=freezer.thaw, freeze=freezer.freeze) as all_of_them:
            assert all_of_them.unsuitable == {}
            assert [borrowed.pid for borrowed in all_of_them.injections] == [subject.pid for subject in subjects]
            for borrowed in all_of_them.injections:
                os.close(borrowed.open_userfaultfd(FEATURES))
                borrowed.drop([(ADDRESS, 0)])
            assert not freezer.frozen()

    for _ in range(8):
        with frozen(freezer, subjects):
            before = [subject.progress() for subject in subjects]
            own_thread(work)
            assert freezer.frozen()
            time.sleep(0.003)
            assert [subject.progress() for subject in subjects] == before
            assert {subject.status("TracerPid") for subject in subjects} == {"0"}
        time.sleep(0.003)
    for subject in subjects:
        subject.check()


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_frost_that_is_not_waited_for_suffices(
    version: str, start: Start, versions: Callable[[str], Freezer]
) -> None:
    freezer = versions(version)
    subject = start("spin")

    def work() -> None:
        with held([subject.pid], thaw=freezer.thaw, freeze=lambda: freezer.freeze(wait=False)):
            pass

    for _ in range(20):
        with frozen(freezer, [subject]):
            before = subject.progress()
            own_thread(work)
            time.sleep(0.001)
            assert subject.progress() == before
    subject.check()


def test_a_container_that_is_woken_meanwhile_runs_on(start: Start, versions: Callable[[str], Freezer]) -> None:
    freezer = versions("v1")
    subject = start("spin")

    def work() -> None:
        with held([subject.pid], thaw=freezer.thaw, freeze=lambda: None):
            pass

    with frozen(freezer, [subject]):
        own_thread(work)
        subject.check()


def test_whoever_gives_up_while_it_waits_leaves_nothing_traced(
    start: Start, versions: Callable[[str], Freezer]
) -> None:
    class GaveUpError(Exception):
        pass

    def give_up() -> None:
        raise GaveUpError

    freezer = versions("v1")
    subject = start("spin", "stops")

    def work() -> None:
        # Never thawed, so never stopped: only the end of the thread can let go.
        with held([subject.pid], thaw=lambda: None, freeze=lambda: None, while_waiting=give_up):
            pass

    with frozen(freezer, [subject]):
        with pytest.raises(GaveUpError):
            own_thread(work)
        assert subject.status("TracerPid") == "0"
    subject.check()


# The memory


@contextmanager
def meanwhile(do: Callable[[], object]) -> Iterator[None]:
    """Do it again and again in another thread, as a pager serves what is borrowed from."""
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            do()
            time.sleep(0.0001)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def becomes(condition: Callable[[], bool]) -> bool:
    """Whether that holds before long."""
    until = time.monotonic() + TWICE
    while not condition() and time.monotonic() < until:
        time.sleep(0.001)
    return condition()


class Pages:
    """Serves what has been dropped of a subject's memory."""

    def __init__(self, subject: Subject, borrowed: Injection) -> None:
        with open(f"/proc/{subject.pid}/mem", "rb") as memory:
            memory.seek(subject.memory)
            self._copy = ctypes.create_string_buffer(memory.read(subject.length), subject.length + PAGE)
        self._page = ctypes.create_string_buffer(2 * PAGE)
        self._lock = threading.Lock()
        self._start, self._length = subject.memory, subject.length
        self.uffd = borrowed.open_userfaultfd(FEATURES, keep_at=500)
        self.faults = self.removed = 0
        self.dropping = True
        userfault.register(self.uffd, self._start, self._length)

    def serve(self) -> None:
        try:
            data = os.read(self.uffd, 64 * userfault.MESSAGE)
        except BlockingIOError:
            return
        for message in userfault.messages(data):
            if message.event == userfault.REMOVE:
                self.removed += message.second - message.first
            elif message.event == userfault.PAGEFAULT:
                self.faults += 1
                self.bring(message.second & -PAGE)

    def bring(self, address: int) -> None:
        page = (ctypes.addressof(self._page) + PAGE - 1) & -PAGE
        with self._lock:
            ctypes.memmove(page, ctypes.addressof(self._copy) + address - self._start, PAGE)
            _, error = userfault.copy(self.uffd, address, page, PAGE)
        # There already, or no longer registered: a fault that was read late.
        assert error in (0, errno.EEXIST, errno.ENOENT), os.strerror(error)

    def bring_all(self) -> None:
        for address in range(self._start, self._start + self._length, PAGE):
            self.bring(address)
        userfault.unregister(self.uffd, self._start, self._length)


def test_pages_are_dropped_and_served(start: Start, versions: Callable[[str], Freezer]) -> None:
    freezer = versions("v1")
    subject = start("memory", "alarm")
    served: list[Pages] = []

    def work() -> None:
        with held([subject.pid], thaw=freezer.thaw, freeze=freezer.freeze) as all_of_them:
            (borrowed,) = all_of_them.injections
            pages = Pages(subject, borrowed)
            served.append(pages)
            assert borrowed.kept_descriptor == 500
            assert borrowed.holds(500)
            half = subject.length // 2
            with meanwhile(pages.serve):
                borrowed.drop([(subject.memory, half)])
                borrowed.drop([(subject.memory + half, half)])
                assert becomes(lambda: pages.removed == subject.length)
            assert pages.faults == 0

    def again() -> None:
        borrowed = Injection.stop(subject.pid)
        borrowed.close_descriptor(500)
        borrowed.close_descriptor(0)
        borrowed.release()

    for _ in range(3):
        before = subject.state()
        with frozen(freezer, [subject]):
            own_thread(work)
            assert "500" in subject.state()[0]
        pages = served.pop()
        with meanwhile(pages.serve):
            subject.check()
            assert pages.faults > 0
            pages.bring_all()
            subject.check()
        os.close(pages.uffd)
        own_thread(again)
        subject.check()
        assert subject.state() == before


def test_the_kernels_own_faults_within_a_call_are_served(start: Start) -> None:
    subject = start("memory")

    def work() -> None:
        borrowed = Injection.stop(subject.pid)
        (page,) = borrowed.kept_pages
        areas = borrowed.rseq_areas()
        assert len(areas) == len(borrowed._process.stops)
        assert any(page <= address < page + PAGE for address, _ in areas)
        uffd = borrowed.open_userfaultfd(FEATURES)
        with open(f"/proc/{subject.pid}/mem", "rb") as memory:
            memory.seek(page)
            copy = ctypes.create_string_buffer(memory.read(PAGE), 2 * PAGE)
        aligned = (ctypes.addressof(copy) + PAGE - 1) & -PAGE
        ctypes.memmove(aligned, ctypes.addressof(copy), PAGE)
        faults: list[int] = []

        def serve() -> None:
            with suppress(BlockingIOError):
                for message in userfault.messages(os.read(uffd, 64 * userfault.MESSAGE)):
                    if message.event == userfault.PAGEFAULT:
                        faults.append(message.second & -PAGE)
                        userfault.copy(uffd, page, aligned, PAGE)

        with meanwhile(serve):
            userfault.register(uffd, page, PAGE)
            borrowed.drop([(page, PAGE)])
            borrowed.drop([(ADDRESS, 0)])
            borrowed.release()
            assert becomes(lambda: bool(faults))
        assert set(faults) == {page}
        userfault.unregister(uffd, page, PAGE)
        os.close(uffd)

    own_thread(work)
    subject.check()


def test_what_comes_before_a_range_that_cannot_be_dropped_is(start: Start) -> None:
    subject = start("memory", "stops")
    os.kill(subject.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, subject.pid, os.WSTOPPED)
    begin = subject.memory

    def work() -> None:
        borrowed = Injection.stop(subject.pid, even_stopped=True)
        with pytest.raises(OSError, match="madvise in process"):
            borrowed.drop([(begin + 4 * PAGE, PAGE), (begin + 1, PAGE), (begin + 5 * PAGE, PAGE)])
        borrowed.release()

    own_thread(work)
    with open(f"/proc/{subject.pid}/mem", "rb") as memory:
        memory.seek(begin)
        content = memory.read(7 * PAGE)
    assert [any(content[page * PAGE : (page + 1) * PAGE]) for page in range(3, 7)] == [True, False, True, True]


# What may be in the way


def test_neither_a_seccomp_filter_nor_missing_rights_matter(start: Start) -> None:
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")
    for options, wrapper in ((("seccomp",), ()), ((), nobody), (("seccomp", "alarm"), nobody)):
        subject = start("select", *options, wrapper=wrapper)
        if options:
            until = time.monotonic() + 5
            while subject.status("Seccomp") != "2" and time.monotonic() < until:
                os.sched_yield()
        before = subject.state()
        own_thread(partial(borrow, subject.pid))
        subject.check()
        assert subject.state() == before


def test_a_seccomp_filter_that_cannot_be_suspended_is_not_tried(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ptrace, "SUSPEND_SECCOMP", 1 << 30)
    free = start("select")
    own_thread(lambda: borrow(free.pid))
    free.check()
    subject = start("poll", "seccomp")
    subject.check()
    before = subject.state()
    with pytest.raises(Unsuitable, match="seccomp filter"):
        own_thread(lambda: borrow(subject.pid))
    assert subject.status("TracerPid") == "0"
    subject.check()
    assert subject.state() == before


@pytest.mark.parametrize(("spare", "call"), [(0, "socketpair"), (1, "socketpair"), (2, "recvmsg"), (3, "ioctl")])
def test_a_call_that_fails_in_the_process_is_named_and_undone(spare: int, call: str, start: Start) -> None:
    subject = start("select")
    before = subject.state()
    highest = max(map(int, before[0]))
    assert len(before[0]) == highest + 1, "there are gaps"
    resource.prlimit(subject.pid, resource.RLIMIT_NOFILE, (highest + 1 + spare, 20000))
    with pytest.raises(Unsuitable, match=call) as caught:
        own_thread(lambda: borrow(subject.pid))
    assert caught.value.pid == subject.pid
    subject.check()
    assert subject.state() == before
    resource.prlimit(subject.pid, resource.RLIMIT_NOFILE, (highest + 5, 20000))
    own_thread(lambda: borrow(subject.pid))
    assert subject.state() == before


def test_what_fails_on_our_side_is_undone(start: Start) -> None:
    subject = start("select")
    before = subject.state()
    ours = os.listdir("/proc/self/fd")

    def work() -> None:
        borrowed = Injection.stop(subject.pid)
        with pytest.raises(OSError, match="Invalid"):
            borrowed.open_userfaultfd(1 << 60, keep_at=900)
        assert borrowed.kept_descriptor is None
        borrowed.release()

    own_thread(work)
    subject.check()
    assert subject.state() == before
    assert os.listdir("/proc/self/fd") == ours


def test_our_descriptor_is_ready_and_closed_on_exec(start: Start) -> None:
    subject = start("select")
    resource.prlimit(subject.pid, resource.RLIMIT_NOFILE, (800, 20000))

    def work() -> None:
        borrowed = Injection.stop(subject.pid)
        uffd = borrowed.open_userfaultfd(FEATURES, keep_at=900)
        assert borrowed.kept_descriptor == 700
        assert fcntl.fcntl(uffd, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
        assert fcntl.fcntl(uffd, fcntl.F_GETFL) & os.O_NONBLOCK
        assert not select.select([uffd], [], [], 0)[0]
        flags = Path(f"/proc/{subject.pid}/fdinfo/700").read_text().split("flags:")[1].split()[0]
        assert int(flags, 8) & os.O_CLOEXEC
        borrowed.close_descriptor(700)
        assert borrowed.kept_descriptor is None
        os.close(uffd)
        borrowed.release()

    own_thread(work)


def refused(pid: int, reason: str) -> None:
    with pytest.raises(Unsuitable, match=reason) as caught:
        own_thread(lambda: borrow(pid))
    assert str(caught.value) == f"process {pid} {caught.value.reason}"


def test_a_stopped_process_is_refused_and_stays_stopped(start: Start) -> None:
    subject = start("sleep", "alarm", "stops")
    os.kill(subject.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, subject.pid, os.WSTOPPED)
    refused(subject.pid, "stopped by a signal")
    assert subject.status("State").startswith("T (stopped)")
    os.kill(subject.pid, signal.SIGCONT)
    subject.check()


def test_a_stopped_process_can_be_borrowed_from_if_that_is_wanted(start: Start) -> None:
    subject = start("sleep", "alarm", "stops")
    os.kill(subject.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, subject.pid, os.WSTOPPED)
    before = subject.progress()

    def work() -> None:
        borrowed = Injection.stop(subject.pid, even_stopped=True)
        os.close(borrowed.open_userfaultfd(FEATURES))
        borrowed.drop([(ADDRESS, 0)] * 3)
        borrowed.release()

    for _ in range(5):
        own_thread(work)
        time.sleep(0.002)
        assert subject.status("State").startswith("T (stopped)")
    assert subject.progress() == before
    os.kill(subject.pid, signal.SIGCONT)
    subject.check()


def test_a_stopped_and_frozen_process_does_not_block(start: Start, versions: Callable[[str], Freezer]) -> None:
    freezer = versions("v1")
    stopped, other = start("sleep", "stops"), start("spin")
    os.kill(stopped.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, stopped.pid, os.WSTOPPED)
    found: list[Held] = []

    def work() -> None:
        with held([stopped.pid, other.pid], thaw=freezer.thaw, freeze=freezer.freeze) as all_of_them:
            found.append(all_of_them)

    with frozen(freezer, [stopped, other]):
        before = stopped.progress(), other.progress()
        own_thread(work)
        assert (stopped.progress(), other.progress()) == before
    assert found[0].unsuitable == {stopped.pid: "is stopped by a signal"}
    assert [borrowed.pid for borrowed in found[0].injections] == [other.pid]
    other.check()
    os.kill(stopped.pid, signal.SIGCONT)
    stopped.check()


@contextmanager
def traced(pid: int) -> Iterator[int]:
    """All threads of the process have another tracer, whose number this is."""
    seized, done = threading.Event(), threading.Event()

    def trace() -> None:
        for tid in os.listdir(f"/proc/{pid}/task"):
            ptrace.seize(int(tid))
        seized.set()
        done.wait(30)

    tracer = threading.Thread(target=trace)
    tracer.start()
    try:
        assert seized.wait(10)
        assert tracer.native_id
        yield tracer.native_id
    finally:
        done.set()
        tracer.join()


def test_a_traced_process_is_left_alone_and_the_others_are_held(
    start: Start, versions: Callable[[str], Freezer]
) -> None:
    freezer = versions("v1")
    subject, other = start("select"), start("spin", "stops")
    with traced(subject.pid) as tracer:
        refused(subject.pid, f"traced by {tracer}")

        def work() -> None:
            before = other.progress(), subject.progress()
            with held([other.pid, subject.pid], thaw=freezer.thaw, freeze=freezer.freeze) as all_of_them:
                assert [borrowed.pid for borrowed in all_of_them.injections] == [other.pid]
                assert all_of_them.unsuitable == {subject.pid: f"is traced by {tracer}"}
                assert all_of_them.running == {subject.pid}
                os.close(all_of_them.injections[0].open_userfaultfd(FEATURES))
                until = time.monotonic() + TWICE
                while subject.progress() == before[1]:
                    assert time.monotonic() < until, "it does not run"
                    time.sleep(0.002)
                assert other.progress() == before[0]

        with frozen(freezer, [subject, other]):
            before = other.progress()
            own_thread(work)
            assert freezer.frozen()
            assert other.progress() == before
            assert other.status("TracerPid") == "0"
    other.check()


def test_where_all_are_traced_nothing_is_thawed(start: Start, versions: Callable[[str], Freezer]) -> None:
    freezer = versions("v1")
    subject = start("select")

    def work() -> None:
        with held([subject.pid], thaw=freezer.thaw, freeze=freezer.freeze) as all_of_them:
            assert (all_of_them.injections, all_of_them.running) == ([], set())
            assert list(all_of_them.unsuitable) == [subject.pid]

    with traced(subject.pid), frozen(freezer, [subject]):
        before = subject.progress()
        own_thread(work)
        assert freezer.frozen()
        assert subject.progress() == before


SHARING = """
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>
static char stack[65536];
static int child(void *nothing) { for (;;) pause(); }
int main(void) {
  printf("%d\\n", clone(child, stack + sizeof stack, CLONE_VM | SIGCHLD, 0));
  fflush(stdout);
  for (;;) pause();
}
"""


def test_what_shares_its_memory_with_a_traced_process_is_not_borrowed_from(directory: Path) -> None:
    """Otherwise a page could be written to between the last look at it and its drop."""
    source = directory / "sharing.c"
    source.write_text(SHARING)
    thaws: list[None] = []
    with subprocess.Popen([compiled(source, directory / "sharing")], stdout=subprocess.PIPE) as process:
        assert process.stdout
        child = int(process.stdout.readline())
        try:

            def work() -> dict[int, str]:
                with held([process.pid, child], thaw=lambda: thaws.append(None), freeze=lambda: None) as both:
                    assert both.injections == []
                    return both.unsuitable

            with traced(child) as tracer:
                assert own_thread(work) == {
                    child: f"is traced by {tracer}",
                    process.pid: f"shares its memory with process {child}, which cannot be stopped",
                }
            assert thaws == []
        finally:
            for pid in (child, process.pid):
                os.kill(pid, signal.SIGKILL)


def test_a_zombie_what_never_was_and_the_kernel_are_refused() -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        refused(process.pid, "zombie")

        def work() -> dict[int, str]:
            with held([process.pid], thaw=lambda: None, freeze=lambda: None) as all_of_them:
                return all_of_them.unsuitable

        assert own_thread(work) == {process.pid: "is a zombie"}
    refused(process.pid, "has ended")
    if os.path.exists("/proc/2/status") and "kthreadd" in Path("/proc/2/status").read_text():
        refused(2, "thread of the kernel")


def test_a_process_that_has_lost_its_first_thread_is_held_all_the_same(
    start: Start, versions: Callable[[str], Freezer]
) -> None:
    freezer = versions("v1")
    subject = start("spin", "leave")
    gone = ["spin"]
    until = time.monotonic() + 5
    while not subject.status("State").startswith("Z") and time.monotonic() < until:
        os.sched_yield()
    refused(subject.pid, "has lost its first thread")
    subject.check(but=gone)

    def work() -> dict[int, str]:
        with held([subject.pid], thaw=freezer.thaw, freeze=freezer.freeze) as all_of_them:
            time.sleep(0.003)
            return all_of_them.unsuitable

    with frozen(freezer, [subject]):
        before = subject.progress()
        assert own_thread(work) == {subject.pid: "has lost its first thread"}
        assert subject.progress() == before
    subject.check(but=gone)


def test_a_32_bit_process_is_refused(directory: Path) -> None:
    source = directory / "narrow.c"
    source.write_text(
        "void _start(void) { for (;;) { int result; struct { int seconds, rest; } t = {0, 1000000};"
        ' __asm__ volatile("int $0x80" : "=a"(result) : "a"(162), "b"(&t), "c"(0) : "memory");'
        " if (result) __builtin_trap(); } }"
    )
    try:
        narrow = compiled(source, directory / "narrow", "-m32", "-nostdlib", "-static", "-ffreestanding", "-no-pie")
        process = subprocess.Popen([str(narrow)])
    except (subprocess.CalledProcessError, OSError) as error:
        pytest.skip(f"no 32-bit programs here: {error}")
    try:
        time.sleep(0.01)
        refused(process.pid, "32-bit")
        time.sleep(0.01)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_a_process_that_handles_its_calls_itself_is_refused() -> None:
    # PR_SET_SYSCALL_USER_DISPATCH with a selector that lets every call pass.
    script = (
        "import ctypes, sys; c = ctypes.CDLL(None); s = ctypes.create_string_buffer(1); none = ctypes.c_long(0);"
        "c.prctl(59, 1, none, none, ctypes.byref(s)) or print('up', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        if not select.select([process.stdout], [], [], 5)[0]:
            process.stdin.close()
            pytest.skip("no system call user dispatch")
        refused(process.pid, "system calls itself")


def test_a_thread_that_cannot_stop_makes_its_process_unsuitable(start: Start) -> None:
    subject = start("select", "vfork", "stops")
    until = time.monotonic() + 5
    child: list[str] = []
    tasks = Path(f"/proc/{subject.pid}/task")
    while not child and time.monotonic() < until:
        child = [pid for task in tasks.iterdir() for pid in (task / "children").read_text().split()]
    try:

        def work() -> None:
            Injection.stop(subject.pid, deadline=time.monotonic() + 0.05)

        with pytest.raises(Unsuitable, match=r"has threads that do not stop: \d+ in \w+"):
            own_thread(work)
        for task in tasks.iterdir():
            assert "TracerPid:\t0" in (task / "status").read_text()
        subject.check()
    finally:
        for pid in child:
            os.kill(int(pid), signal.SIGKILL)
    subject.check()
    own_thread(lambda: borrow(subject.pid))
    subject.check()


# Whoever dies


def test_a_process_that_is_killed_meanwhile_is_no_error_to_release(start: Start) -> None:
    subject = start("select")

    def work() -> None:
        borrowed = Injection.stop(subject.pid)
        with meanwhile(lambda: os.kill(subject.pid, signal.SIGKILL)), pytest.raises(ProcessLookupError):
            borrowed.drop([(ADDRESS, 0)] * 10000)
        with pytest.raises(ProcessLookupError):
            borrowed.open_userfaultfd(FEATURES)
        borrowed.release()
        borrowed.release()

    own_thread(work)
    assert subject.process.wait(5) == -signal.SIGKILL


def test_the_parent_of_a_process_that_is_killed_meanwhile_hears_of_it(start: Start) -> None:
    subject = start("select", wrapper=("/bin/sh", "-c", '"$@"; exit $(($? - 100))', "sh"))
    assert subject.pid != subject.process.pid
    released = threading.Event()

    def work() -> None:
        borrowed = Injection.stop(subject.pid)
        os.kill(subject.pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            borrowed.drop([(ADDRESS, 0)])
        borrowed.release()
        assert subject.process.wait(5) == 128 + signal.SIGKILL - 100
        released.set()

    own_thread(work)
    assert released.is_set()


def test_a_stop_signal_that_comes_meanwhile_stops_it_afterwards(start: Start) -> None:
    subject = start("sleep", "alarm", "stops")

    def work() -> None:
        borrowed = Injection.stop(subject.pid)
        sent: list[int] = []

        def send() -> None:
            if not sent:
                os.kill(subject.pid, signal.SIGSTOP)
                sent.append(1)

        with meanwhile(send):
            os.close(borrowed.open_userfaultfd(FEATURES))
            borrowed.drop([(ADDRESS, 0)] * 500)
            assert becomes(lambda: bool(sent))
            borrowed.drop([(ADDRESS, 0)])
        borrowed.release()

    own_thread(work)
    os.waitid(os.P_PID, subject.pid, os.WSTOPPED)
    before = subject.progress()
    time.sleep(0.005)
    assert subject.progress() == before
    os.kill(subject.pid, signal.SIGCONT)
    subject.check()


def dropped_unread(subject: Subject, reader: Callable[[int], None]) -> None:
    """Drop pages with an event that `reader`, started with the userfaultfd, may or may not read."""
    borrowed = Injection.stop(subject.pid)
    uffd = borrowed.open_userfaultfd(FEATURES)
    userfault.register(uffd, subject.memory, PAGE)
    # All threads are stopped: what `reader` reads first is the page as it was.
    helper = threading.Thread(target=reader, args=(uffd,))
    helper.start()
    try:
        with pytest.raises(TimeoutError, match="does not return"):
            borrowed.drop([(subject.memory, PAGE)])
        borrowed.release()
    finally:
        helper.join()
        os.close(uffd)


def test_a_call_that_never_returns_ends_the_process(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_calls, "CALL_WITHIN", 0.05)
    monkeypatch.setattr(remote_calls, "RECOVER_WITHIN", 0.05)
    subject = start("select")
    own_thread(lambda: dropped_unread(subject, lambda uffd: None))
    assert subject.process.wait(5) == -signal.SIGKILL


def test_a_call_that_returns_late_is_put_back(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_calls, "CALL_WITHIN", 0.05)
    subject = start("select")
    late = threading.Event()
    back_to_trap = RemoteCalls._back_to_trap

    def tell(self: RemoteCalls, own: ptrace.Registers) -> None:
        if self._in_call:
            late.set()
        back_to_trap(self, own)

    monkeypatch.setattr(RemoteCalls, "_back_to_trap", tell)
    source = ctypes.create_string_buffer(2 * PAGE)
    aligned = (ctypes.addressof(source) + PAGE - 1) & -PAGE

    def read_late(uffd: int) -> None:
        with open(f"/proc/{subject.pid}/mem", "rb") as memory:
            memory.seek(subject.memory)
            ctypes.memmove(aligned, memory.read(PAGE), PAGE)
        assert late.wait(TWICE)
        (message,) = userfault.messages(os.read(uffd, userfault.MESSAGE))
        assert message.event == userfault.REMOVE
        userfault.copy(uffd, subject.memory, aligned, PAGE)

    own_thread(lambda: dropped_unread(subject, read_late))
    subject.check()


def test_it_belongs_to_one_thread(start: Start) -> None:
    subject = start("select")

    def work() -> None:
        borrowed = Injection.stop(subject.pid)
        with pytest.raises(RuntimeError, match="another thread"):
            own_thread(lambda: borrowed.drop([]))
        borrowed.release()
        with pytest.raises(RuntimeError, match="released"):
            borrowed.drop([])

    own_thread(work)
    subject.check()


def test_a_thread_of_its_own_hands_on_what_comes_of_it() -> None:
    assert own_thread(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        own_thread(lambda: 1 // 0)


def test_a_helper_that_is_killed_leaves_the_process_whole_or_dead(program: Path) -> None:
    """Never running on with something of ours: that is what the subject would notice."""
    chance = random.Random(7)
    outcomes = {"whole": 0, "killed": 0}
    subject = Subject(program, "sleep", "alarm", "stops")
    roles = iter(ROLES * 100)
    try:
        before = subject.state()
        for _ in range(80):
            reading, writing = os.pipe()
            helper = os.fork()
            if helper == 0:
                with suppress(BaseException):
                    os.write(writing, b"x")
                    while True:
                        borrow(subject.pid)
                os._exit(1)
            os.read(reading, 1)
            os.close(reading)
            os.close(writing)
            time.sleep(chance.uniform(0, 0.012))
            os.kill(helper, signal.SIGKILL)
            os.waitpid(helper, 0)
            try:
                subject.check()
                assert subject.state() == before
                outcomes["whole"] += 1
            except (AssertionError, FileNotFoundError):
                assert subject.process.returncode == -signal.SIGKILL, subject.said()
                assert subject.said() == ""
                outcomes["killed"] += 1
                subject.end()
                subject = Subject(program, next(roles), "alarm", "stops")
                before = subject.state()
    finally:
        subject.end()
    print(outcomes)
    assert outcomes["whole"]
    assert outcomes["killed"]


def test_a_helper_that_is_killed_while_nothing_is_borrowed_does_no_harm(start: Start) -> None:
    subject = start("sleep", "alarm")
    for _ in range(10):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            helper = os.fork()
            if helper == 0:
                with suppress(BaseException):
                    borrowed = Injection.stop(subject.pid)
                    os.close(borrowed.open_userfaultfd(FEATURES))
                    borrowed.drop([(ADDRESS, 0)])
                    theirs.send(b"x")
                    signal.pause()
                os._exit(1)
            assert ours.recv(1)
            before = subject.progress()
            time.sleep(0.002)
            assert subject.progress() == before
            os.kill(helper, signal.SIGKILL)
            os.waitpid(helper, 0)
        subject.check()
