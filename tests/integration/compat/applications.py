"""The table: which applications sleep and wake, how each is made and asked, and what must be as it was afterwards."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.integration.compat import programs
from tests.integration.compat.talk import Grpc, Postgres, Talk, http_counter
from tests.integration.protos import cri_v1_pb2 as v1
from tests.node.applications.tree import POSTGRES

PYTHON = "localhost/python:test"

APPARMOR = "cri-containerd.apparmor.d (enforce)"

Directories = Mapping[str, Mapping[str, str]]
"""Files with their contents, in directories of the node that are mounted, by their places in the container."""


@dataclass(frozen=True, slots=True)
class Application:
    """One row. `pod` and `container` are settings of `tests.integration.cri`."""

    title: str
    image: str = PYTHON
    args: tuple[str, ...] = ()
    port: int = 8080
    talk: Talk = field(default_factory=http_counter)
    other_users: bool = False
    """Not all of its processes are root's, so that CRIU needs CAP_SYS_RESOURCE, which not every node has."""
    machine: bool = False
    """Only a machine of its own has what it needs."""
    pod: Mapping[str, Any] = field(default_factory=dict)
    container: Mapping[str, Any] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    volumes: Directories = field(default_factory=dict)
    secrets: Directories = field(default_factory=dict)
    """Volumes that can only be read."""
    sidecar: bool = False
    """Whether another container of the pod runs, which must stay awake."""
    shows: Mapping[str, str] = field(default_factory=dict)
    """What must be seen of its init process from the node; see `seen`."""
    not_cold: str = ""
    """A regular expression for what COLD would lose, if it stays in STANDBY therefore."""
    note: str = ""
    """For users, in the table."""

    @property
    def slug(self) -> str:
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


def uses(title: str, feature: str, **more: Any) -> Application:
    """A small program that uses this feature."""
    return Application(title, args=programs.program(feature), **more)


def _security(**settings: Any) -> dict[str, Any]:
    return {"security": v1.LinuxContainerSecurityContext(**settings)}


LIMITS = v1.LinuxContainerResources(
    memory_limit_in_bytes=128 << 20, cpu_period=100_000, cpu_quota=80_000, cpu_shares=512
)

APPLICATIONS = (
    Application(
        "nginx, workers as www-data",
        "localhost/nginx-www-data:test",
        talk=http_counter("/count", re.compile(r"(?P<token>Active) .*\n.*\n \d+ \d+ (?P<count>\d+) .*\n.*\n?")),
        other_users=True,
        note="two workers",
    ),
    Application(
        "PostgreSQL 18, as postgres",
        "localhost/postgresql:test",
        port=5432,
        talk=Postgres,
        other_users=True,
        container=_security(run_as_user=v1.Int64Value(value=POSTGRES), run_as_group=v1.Int64Value(value=POSTGRES)),
        note="its shared memory with System V's; a session with temporary data",
    ),
    Application(
        "Apache and PHP-FPM, as www-data",
        "localhost/php:test",
        talk=http_counter("/count.php"),
        other_users=True,
        note="over a unix socket",
    ),
    Application("Go, net/http", "localhost/go-http:test", note="listens with TCP instead of MPTCP"),
    Application("Go, gRPC", "localhost/go-grpc:test", talk=Grpc),
    Application("Java 25, HttpServer", "localhost/jvm:test", note="HotSpot with its default options"),
    Application("Node.js 24", "localhost/nodejs:test"),
    uses("Python 3.14", programs.NOTHING),
    uses("unix sockets", programs.UNIX_SOCKETS, note="listening, connected, with data in them"),
    uses("pipes", programs.PIPES, note="and FIFOs, with data in them"),
    uses("other sockets", programs.OTHER_SOCKETS, note="UDP, and IPv6 on localhost"),
    uses("epoll", programs.EPOLL),
    uses("inotify", programs.INOTIFY),
    uses("timerfd", programs.TIMERFD),
    uses("eventfd", programs.EVENTFD),
    uses(
        "eventfd as a semaphore",
        programs.EVENTFD_SEMAPHORE,
        not_cold="eventfd counts as a semaphore",
        note="CRIU 4.2 would restore it without the flag",
    ),
    uses("signalfd", programs.SIGNALFD, note="with a signal that is pending"),
    uses("a deleted file that is open", programs.DELETED_FILE),
    uses("file locks", programs.FILE_LOCKS, note="flock and POSIX"),
    uses("200 threads", programs.THREADS),
    uses("process groups", programs.PROCESS_GROUPS, note="and sessions, of children"),
    uses("shared memory", programs.SHARED_MEMORY, note="System V's, POSIX', anonymous, memfd; a semaphore"),
    uses("a pseudo-terminal", programs.PSEUDO_TERMINAL, note="of its own; a container with `tty: true` never sleeps"),
    uses(
        "not root",
        programs.NOT_ROOT,
        other_users=True,
        container=_security(run_as_user=v1.Int64Value(value=1000), run_as_group=v1.Int64Value(value=1000)),
        shows={"user": "1000"},
        note="`runAsUser`",
    ),
    uses("a read-only root file system", programs.READ_ONLY, container=_security(readonly_rootfs=True)),
    uses(
        "volumes",
        programs.VOLUMES,
        volumes={"/empty": {}, "/host": {"file": "of the node\n"}},
        secrets={"/secret": {"password": "hunter2"}},
        note="`emptyDir`, `hostPath`, a secret, with open files",
    ),
    uses(
        "a shared process namespace", programs.PROCESS_GROUPS, pod={"shared_pid": True}, note="`shareProcessNamespace`"
    ),
    uses(
        "a sidecar that stays awake",
        programs.NOTHING,
        sidecar=True,
        annotations={"container-names": "application"},
        note="by `container-names`",
    ),
    uses(
        "limits of memory and CPU",
        programs.NOTHING,
        container={"resources": LIMITS},
        shows={"memory": str(128 << 20), "cpu": "80000 100000"},
        note="in the same scope of systemd's, with the systemd driver",
    ),
    uses(
        "limits, cgroupfs driver",
        programs.NOTHING,
        machine=True,
        pod={"handler": "zeropod-cgroupfs", "cgroup_parent": "/kubepods/pod-of-cgroupfs"},
        container={"resources": LIMITS},
        shows={"memory": str(128 << 20), "cpu": "80000 100000"},
        note="in the same cgroup v2, without systemd",
    ),
    uses(
        "seccomp, RuntimeDefault",
        programs.NOTHING,
        container=_security(seccomp=v1.SecurityProfile()),
        shows={"seccomp": "2"},
        note="containerd's default profile",
    ),
    uses("AppArmor", programs.NOTHING, shows={"profile": APPARMOR}, note="containerd's default profile"),
    uses(
        "a user namespace",
        programs.NOTHING,
        pod={"user_namespace": True},
        not_cold="user namespace",
        note="`hostUsers: false`; [criu#2651](https://github.com/checkpoint-restore/criu/issues/2651)",
    ),
    uses(
        "io_uring",
        programs.IO_URING,
        not_cold="io_uring",
        note="[criu#2131](https://github.com/checkpoint-restore/criu/issues/2131)",
    ),
)
