"""Situations of processes: children in every state, daemons, others in the same namespace, masters with heartbeats."""

import os
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.integration import node
from tests.integration.protos import cri_v1_pb2 as v1
from tests.integration.situations.scene import PYTHON, Scene, Situation, Subject


def stat(pid: int) -> tuple[str, str]:
    """The state of a process on the node, and when it was started."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], fields[19]


def _is_zombie(one: Subject) -> bool:
    return bool(one.tell('status(kept["dead"])["State"][0]') == "Z")


CHILDREN = """
    def child(work):
        pid = os.fork()
        if pid == 0:
            os.closerange(3, 200)
            try:
                work()
            finally:
                os._exit(99)
        return pid

    def spin():
        while True:
            time.sleep(0.02)

    def ended(name):
        return os.waitstatus_to_exitcode(os.waitpid(kept[name], 0)[1])

    kept["digest"] = digest()
"""


def stopped_and_dead_children(scene: Scene) -> Iterator[None]:
    one = scene.subject()
    one.tell(CHILDREN)
    one.tell("""
        kept["stopped"] = child(spin)
        os.kill(kept["stopped"], signal.SIGSTOP)
        os.waitpid(kept["stopped"], os.WUNTRACED)
        kept["dead"] = child(lambda: os._exit(9))
    """)
    node.until(partial(_is_zombie, one), "a child is a zombie")
    yield
    one.sleeps_still()
    assert one.tell('[status(kept[name])["State"][0] for name in ("stopped", "dead")]') == ["T", "Z"]
    assert one.tell('ended("dead")') == 9
    one.tell("""
        os.kill(kept["stopped"], signal.SIGCONT)
        os.waitpid(kept["stopped"], os.WCONTINUED)
        os.kill(kept["stopped"], signal.SIGTERM)
    """)
    assert one.tell('ended("stopped")') == -15
    one.is_whole()


def traced_children(scene: Scene) -> Iterator[None]:
    one = scene.subject()
    one.tell(CHILDREN)
    one.tell("""
        libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        PTRACE_TRACEME, PTRACE_CONT, PTRACE_SEIZE, PTRACE_INTERRUPT = 0, 7, 0x4206, 0x4207

        def traced():
            libc.ptrace(PTRACE_TRACEME, 0, 0, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            os._exit(42 if digest() == kept["digest"] else 43)

        kept["traced"] = child(traced)
        os.waitpid(kept["traced"], 0)
        kept["seized"] = child(spin)
        libc.ptrace(PTRACE_SEIZE, kept["seized"], 0, 0)
    """)
    yield
    one.sleeps_still()
    assert one.tell('status(kept["traced"])["State"][0]') == "t"
    one.tell('libc.ptrace(PTRACE_CONT, kept["traced"], 0, 0)')
    assert one.tell('ended("traced")') == 42
    assert one.tell("""
        libc.ptrace(PTRACE_INTERRUPT, kept["seized"], 0, 0)
        os.WIFSTOPPED(os.waitpid(kept["seized"], 0)[1])
    """)
    one.is_whole()


def daemon_that_an_exec_has_left(scene: Scene) -> Iterator[None]:
    one = scene.subject()
    one.cri.exec("sh", "-c", "(setsid sleep 54321 </dev/null >/dev/null 2>&1 &); exit 0")
    found = node.running("sleep", "54321")
    assert len(found) == 1
    before = stat(found[0])[1]
    yield
    one.sleeps_still()
    assert stat(found[0])[1] == before
    assert one.cri.exec("true").exit_code == 0
    one.is_whole()
    assert node.running("sleep", "54321") == found
    assert stat(found[0])[1] == before


COUNTER = """
import os, time
number = 0
while True:
    number += 1
    with open("/vol/new", "w") as file:
        file.write(f"{number} {os.getpid()}")
    os.rename("/vol/new", "/vol/count")
    time.sleep(0.02)
"""


def _beside(one: Subject, directory: Path, others: v1.LinuxContainerSecurityContext | None) -> Iterator[None]:
    beside = one.cri.pod.container(
        f"beside-{one.port}", PYTHON, args=("-c", COUNTER), mounts={"/vol": str(directory)}, security=others
    )

    def count() -> list[str]:
        return (directory / "count").read_text().split()

    node.until((directory / "count").exists, "the other container counts")
    # It sees the processes of the subject, and they are in reach of its signals and its ptrace.
    assert "python3" in beside.exec("sh", "-c", "cat /proc/*/cmdline").stdout.decode().replace("\0", " ")
    began, status = count(), beside.status
    yield
    one.sleeps_still()
    first = count()
    time.sleep(0.5)
    second = count()
    assert int(second[0]) - int(first[0]) >= 5, "it does not run while the subject sleeps"
    assert int(first[0]) > int(began[0])
    one.is_whole()
    one.standby()
    assert (beside.state, beside.status.started_at, count()[1]) == ("RUNNING", status.started_at, began[1])
    beside.remove()
    one.is_whole()


def debugging_container_in_its_process_namespace(scene: Scene) -> Iterator[None]:
    one = scene.subject()
    names = v1.NamespaceOption(network=v1.POD, pid=v1.TARGET, ipc=v1.POD, target_id=one.id)
    yield from _beside(one, scene.volume("debug"), v1.LinuxContainerSecurityContext(namespace_options=names))


def pod_with_one_process_namespace(scene: Scene) -> Iterator[None]:
    one = scene.subject(pod=scene.own_pod(shared_pid=True))
    yield from _beside(one, scene.volume("shared"), None)


def threads_in_every_kind_of_wait(scene: Scene) -> Iterator[None]:
    one = scene.subject()
    one.tell("""
        beats = {}
        condition, pipe = threading.Condition(), os.pipe()
        def beat(name, wait):
            while True:
                wait()
                beats[name] = beats.get(name, 0) + 1
        def on_condition():
            with condition:
                condition.wait(0.01)
        waits = {
            "sleep": lambda: time.sleep(0.01),
            "futex": on_condition,
            "select": lambda: select.select([pipe[0]], [], [], 0.01),
            "poll": lambda: select.poll().poll(10),
            "epoll": lambda epoll=select.epoll(): epoll.poll(0.01),
            "sigtimedwait": lambda: signal.sigtimedwait([signal.SIGUSR2], 0.01),
            "child": lambda: os.waitpid(os.posix_spawn("/bin/sleep", ["sleep", "0.01"], {}), 0),
        }
        for name, wait in waits.items():
            threading.Thread(target=beat, args=(name, wait), daemon=True).start()
        for _ in range(4):
            threading.Thread(target=lambda: os.read(pipe[0], 1), daemon=True).start()
    """)
    time.sleep(0.1)
    yield
    one.sleeps_still()
    before = one.tell("dict(beats)")
    assert len(before) == 7

    def all_go_on() -> bool:
        after = one.tell("dict(beats)")
        return all(after[name] > before[name] for name in before)

    # The one in select(2) waits for a second once: this process has children, which are to go first.
    node.until(all_go_on, "every thread goes on", 5)
    one.is_whole()


PREFORKING = r"""
import os, random, select, signal, socket, sys, tempfile, time

# As gunicorn does it: a worker touches a file of its own several times in a timeout, the master kills one that has not
# for the whole of it, by the monotonic clock, which goes on while all of them are frozen.
port, timeout = int(sys.argv[1]), float(sys.argv[2])
ballast = random.Random(port).randbytes(32 << 20)
listener = socket.create_server(("", port), backlog=512)
listener.setblocking(False)
workers, killed = {}, 0

def work(beat, report):
    number = 0
    while True:
        number += 1
        os.utime(beat, ns=(time.monotonic_ns(),) * 2)
        if not select.select([listener], [], [], timeout / 8)[0]:
            continue
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            continue
        connection.settimeout(5)
        connection.recv(100)
        connection.sendall(open(report).read().encode() + b"\n")
        connection.close()

def spawn():
    beat = os.open(tempfile.mkstemp()[1], os.O_RDWR)
    os.utime(beat, ns=(time.monotonic_ns(),) * 2)
    pid = os.fork()
    if pid == 0:
        work(beat, "/tmp/report")
    workers[pid] = beat

def report():
    open("/tmp/report.new", "w").write(f"{killed} {sorted(workers)}")
    os.rename("/tmp/report.new", "/tmp/report")

report()
for _ in range(3):
    spawn()
while True:
    report()
    select.select([], [], [], timeout / 4)
    for pid, beat in list(workers.items()):
        if (late := time.monotonic_ns() - os.fstat(beat).st_mtime_ns) > timeout * 1e9:
            print(f"killed {pid}, which has not been heard of for {late / 1e9:.3f} s", flush=True)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            del workers[pid]
            killed += 1
            spawn()
"""

SLEEPS = 20
HEARTBEAT = 1.0
"""Seconds after which the master kills a worker; each sleep is longer."""


def preforking_server_that_checks_heartbeats(scene: Scene) -> Iterator[None]:
    pod = scene.own_pod(scene.annotations(scaledown_duration="200ms"))
    port = scene.port()
    container = pod.container(f"s{port}", PYTHON, args=("-c", PREFORKING, str(port), str(HEARTBEAT)))
    one = Subject(container, "k8s.io", scene.backend, pod.ip, port, 0)

    def ask() -> str:
        """What it says; the error where the worker that was to answer is killed meanwhile."""
        try:
            with socket.create_connection((pod.ip, port), 10) as connection:
                connection.sendall(b"how many\n")
                return connection.makefile().readline().strip()
        except OSError as error:
            return str(error)

    def answers() -> bool:
        return ask().count(",") == 2

    def sleeps() -> list[str]:
        answered = []
        for _ in range(SLEEPS):
            one.standby()
            time.sleep(HEARTBEAT + 0.1)
            answered.append(ask())
            time.sleep(HEARTBEAT / 3)  # the master looks, and the next one sees what it has done
        return answered

    node.until(answers, "three workers are there")
    first = ask()
    running = scene.background(sleeps)
    yield
    answered = running.result(180)
    assert container.logs().splitlines() == []
    assert answered == [first] * SLEEPS
    assert one.status.restores >= SLEEPS


def same_main_process_and_cgroup_after_many_sleeps(scene: Scene) -> Iterator[None]:
    one = scene.subject(night=False)

    def seen() -> tuple[object, ...]:
        pid = one.status.pid
        cgroup = Path(f"/proc/{pid}/cgroup").read_text()
        listed = scene.processes(one.id)
        inside = one.tell("os.getpid(), threading.get_native_id(), os.getppid()")
        return pid, stat(pid)[1], cgroup, cgroup_inodes(cgroup), listed, inside

    def sleeps() -> list[tuple[object, ...]]:
        found = []
        for _ in range(10):
            one.standby()
            found.append(seen())
        return found

    first = seen()
    running = scene.background(sleeps)
    yield
    assert running.result(60) == [first] * 10
    one.is_whole()
    assert one.status.restores >= 10


def cgroup_inodes(text: str) -> tuple[int, ...]:
    found = []
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        for hierarchy in Path("/sys/fs/cgroup").iterdir() if names else [Path("/sys/fs/cgroup")]:
            directory = hierarchy / path.lstrip("/")
            if (not names or set(names.split(",")) & set(hierarchy.name.split(","))) and directory.is_dir():
                found.append(os.stat(directory).st_ino)
    return tuple(found)


SITUATIONS: tuple[Situation, ...] = (
    preforking_server_that_checks_heartbeats,
    same_main_process_and_cgroup_after_many_sleeps,
    stopped_and_dead_children,
    traced_children,
    daemon_that_an_exec_has_left,
    debugging_container_in_its_process_namespace,
    pod_with_one_process_namespace,
    threads_in_every_kind_of_wait,
)
