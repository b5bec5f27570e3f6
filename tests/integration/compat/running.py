"""An application in a pod, and what the node sees of it."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.integration import node
from tests.integration.compat import programs
from tests.integration.compat.applications import Application
from tests.integration.compat.talk import Session
from tests.integration.cri import Container, Cri
from tests.integration.patience import FACTOR, patient_duration
from tests.integration.sleep.helpers import shims

from zeropod import paths
from zeropod.rpc.messages.status_pb2 import ContainerStatus

# Long enough to look at it between two sleeps. An emulated machine is not as much slower in that as in all else.
SCALEDOWN = "500ms" if FACTOR == 1 else "250ms"
PREFIX = "zeropod.ctrox.dev/"
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Running:
    application: Application
    container: Container
    sidecar: Container | None

    def talk(self) -> AbstractContextManager[Session]:
        """A new connection."""
        return self.application.talk(self.container.pod.ip, self.application.port)

    def until_answers(self) -> None:
        def answers() -> bool:
            try:
                with self.talk() as session:
                    session.ask()
            except (OSError, EOFError, RuntimeError):  # PostgreSQL says that it is starting
                return False
            return True

        try:
            node.until(answers, f"{self.application.title} answers", 30)
        except TimeoutError as error:
            error.add_note(self.container.logs())
            raise

    def until_state(self, *wanted: str) -> ContainerStatus:
        return shims.until_state(self.container.id, wanted, 30)

    @property
    def images(self) -> str:
        return str(paths.container("k8s.io", self.container.id) / "images")

    def seen(self) -> Mapping[str, str]:
        """What must be the same after each wake, as the node sees it: where it runs, as whom, under what limits."""
        process = Path(f"/proc/{self.until_state('RUNNING').pid}")
        status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
        found = {
            "cgroup": (process / "cgroup").read_text(),
            "user": status["Uid"].split()[0],
            "groups": status["Gid"] + status["Groups"],
            "capabilities": status["CapEff"] + status["CapBnd"],
            "seccomp": status["Seccomp"],
            "no new privileges": status["NoNewPrivs"],
            "oom": (process / "oom_score_adj").read_text().strip(),
            "limits": (process / "limits").read_text(),
            "users": (process / "uid_map").read_text(),
            "namespaces": " ".join(os.readlink(process / "ns" / name) for name in ("ipc", "net", "uts")),
        }
        try:
            found["profile"] = (process / "attr/current").read_text().strip()
        except OSError:
            found["profile"] = ""  # this kernel has no AppArmor
        return found | _limits(found["cgroup"])


def _limits(cgroups: str) -> dict[str, str]:
    """Of memory and CPU, in the words of cgroup v2, by the text of a process's /proc/PID/cgroup."""
    places: dict[str, str] = {}
    for line in cgroups.splitlines():
        _, names, path = line.split(":", 2)
        places |= dict.fromkeys(names.split(","), path.lstrip("/"))
    if "memory" not in places:
        directory = CGROUPS / places[""]
        return {name: (directory / f"{name}.max").read_text().strip() for name in ("memory", "cpu")}

    def read(controller: str, name: str) -> str:
        hierarchy = next(each for each in CGROUPS.iterdir() if controller in each.name.split(","))
        return (hierarchy / places[controller] / name).read_text().strip()

    quota, period = read("cpu", "cpu.cfs_quota_us"), read("cpu", "cpu.cfs_period_us")
    return {"memory": read("memory", "memory.limit_in_bytes"), "cpu": f"{quota} {period}"}


@contextmanager
def running(cri: Cri, application: Application, depth: str) -> Iterator[Running]:
    """The application in a pod that sleeps this deep, once it answers; all of it is gone afterwards."""
    with ExitStack() as stack:
        annotations = {"scaledown-duration": SCALEDOWN, "standby-max-resident": "256Mi", **application.annotations}
        if depth == "COLD":
            annotations["standby"] = "false"
        pod = stack.enter_context(
            cri.pod(
                annotations={PREFIX + name: patient_duration(value) for name, value in annotations.items()},
                **application.pod,
            )
        )
        volumes, secrets = (
            {place: stack.enter_context(_directory(files)) for place, files in each.items()}
            for each in (application.volumes, application.secrets)
        )
        container = pod.container(
            "application",
            application.image,
            args=application.args,
            mounts=volumes,
            read_only_mounts=secrets,
            **application.container,
        )
        sidecar = None
        if application.sidecar:
            other = programs.program(programs.NOTHING.replace("pass", "pass", 1))[1].replace("8080", "8082")
            sidecar = pod.container("sidecar", application.image, args=("-c", other))
        made = Running(application, container, sidecar)
        made.until_answers()
        yield made


@contextmanager
def _directory(files: Mapping[str, str]) -> Iterator[str]:
    """A directory of the node with these files."""
    directory = tempfile.mkdtemp(prefix="volume-", dir="/var/lib")
    try:
        for name, text in files.items():
            (Path(directory) / name).write_text(text)
        yield directory
    finally:
        shutil.rmtree(directory)
