"""The requirements of a node, one entry each: the check, how necessary it is, and what to do if it fails.

`looks` implements the checks; here are only their texts, to be read in one place.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from zeropod import paths
from zeropod.manager import looks
from zeropod.manager.looks import Missing
from zeropod.requirements import OLDEST_KERNEL


class Need(Enum):
    REQUIRED = "required"
    """Without it no container sleeps, or none runs."""
    WANTED = "wanted"
    """Without it something is slower or unavailable."""


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    need: Need
    look: Callable[[], str]
    """Returns what was found, as text. Raises Missing, or OSError."""
    without: str
    """The consequence if it is missing."""
    remedy: str


@dataclass(frozen=True, slots=True)
class Finding:
    check: Check
    found: str
    missing: bool = False

    @property
    def verdict(self) -> str:
        if not self.missing:
            return "ok"
        return "FAILS" if self.check.need is Need.REQUIRED else "lacks"


CHECKS = (
    Check("root", Need.REQUIRED, looks.root, "no other check is possible", "Run it with sudo."),
    Check(
        "kernel",
        Need.REQUIRED,
        looks.kernel,
        "zeropod needs features of newer kernels",
        f"Use a node image with Linux {'.'.join(map(str, OLDEST_KERNEL))} or newer.",
    ),
    Check(
        "userfaultfd",
        Need.WANTED,
        looks.userfaultfd,
        "a wake from COLD reads all memory before the container runs, and the page store is unavailable",
        "Use a kernel with CONFIG_USERFAULTFD=y.",
    ),
    Check(
        "standby memory",
        Need.WANTED,
        looks.standby_memory,
        "containers in STANDBY keep their memory; only their CPU time is saved",
        "Give the node swap, on zram or a disk, or a kernel with CONFIG_USERFAULTFD=y.",
    ),
    Check(
        "tcp_migrate_req",
        Need.WANTED,
        looks.migrate,
        "containers do not go COLD",
        "Where containerd runs in a container, let it write to /proc/sys/net of pods' network namespaces.",
    ),
    Check(
        "sk_lookup",
        Need.WANTED,
        looks.sk_lookup,
        "new connections are only counted for a whole pod, and health probes wake",
        "Use a kernel with CONFIG_BPF_SYSCALL=y and CONFIG_INET, with CONFIG_DEBUG_INFO_BTF=y if it is older, and "
        "give containerd CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN.",
    ),
    Check(
        "nf_tables",
        Need.WANTED,
        looks.connection_lock,
        "containers with open connections do not go COLD",
        "Load the modules nf_tables and nfnetlink_queue: modprobe nfnetlink_queue.",
    ),
    Check(
        "cgroups",
        Need.REQUIRED,
        looks.freezer,
        "nothing can be frozen",
        "Mount cgroup v2, or the freezer of v1, at /sys/fs/cgroup.",
    ),
    Check(
        "runc",
        Need.REQUIRED,
        looks.runc,
        "no container starts",
        f"Put runc into {paths.PROGRAMS} or on containerd's PATH.",
    ),
    Check(
        "CRIU",
        Need.WANTED,
        looks.criu_version,
        "there is no COLD: containers sleep only in STANDBY",
        f"Put CRIU 4.2 or newer into {paths.PROGRAMS}.",
    ),
    Check(
        "criu check",
        Need.WANTED,
        looks.criu_check,
        "dumps fail: containers sleep only in STANDBY",
        "CRIU names what the kernel lacks, or what containerd may not do.",
    ),
    Check(
        "capabilities",
        Need.WANTED,
        looks.capabilities,
        "containers whose processes do not run as root do not go COLD",
        "Give containerd CAP_SYS_RESOURCE, which its systemd unit has: it may run in a restricted container.",
    ),
    Check(
        "disk",
        Need.WANTED,
        looks.disk,
        "containers keep their memory and do not go COLD, to keep the disk from filling up",
        f"Free space on the disk of {paths.STATE}, or use a larger one.",
    ),
    Check(
        "configuration",
        Need.WANTED,
        looks.configuration,
        "invalid entries are ignored, and the defaults used",
        f"Correct {paths.NODE_CONFIG}.",
    ),
    Check(
        "shim",
        Need.REQUIRED,
        looks.shim,
        "containerd cannot start a container of this runtime",
        "Link zeropod to containerd-shim-zeropod-v2 in a directory on containerd's PATH, such as /usr/local/bin.",
    ),
    Check(
        "containerd",
        Need.WANTED,
        looks.handler,
        "pods with the RuntimeClass zeropod do not start, or their annotations have no effect",
        "Add the runtime zeropod with its pod_annotations to containerd's configuration, and restart containerd.",
    ),
)


def carry_out(check: Check) -> Finding:
    """Run a check; a failure of the check itself is a finding, too."""
    try:
        return Finding(check, check.look())
    except Missing as reason:
        return Finding(check, str(reason), missing=True)
    except OSError as error:
        return Finding(check, f"cannot be checked: {error}", missing=True)
