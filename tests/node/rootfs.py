"""The node's Debian tree: debootstrap once, kept for as long as suite, mirror and packages are the same.

Debian forky is the first release whose CRIU (4.2) works on Linux 6.18; it also has containerd 2 and
Python 3.14. The tree is only read afterwards: every node writes to an overlay of its own.
"""

import os
import shutil
from pathlib import Path

from tests.node.cache import CACHE, cached, digest, run_step, say
from tests.node.chroot import CONTAINED, run_inside

SUITE = "forky"
MIRROR = os.environ.get("DEBIAN_MIRROR", "")
"""Where Debian comes from; empty for debootstrap's own default."""

TESTED_WITH = ("containerd", "runc", "criu", "containernetworking-plugins")
LOOKED_AROUND_WITH = (
    "iproute2",
    "nftables",
    "iptables",
    "procps",
    "strace",
    "curl",
    "ca-certificates",
    "kmod",
    "prometheus",
)
RUN_IN_CONTAINERS = ("redis-server", "redis-tools", "nginx-light", "python3", "busybox-static")
COMPILES_BPF = ("python3-bpfcc", "linux-headers-cloud-amd64")
COMPILES_SUBJECTS = ("gcc", "libc6-dev")
PACKAGES = (*TESTED_WITH, *LOOKED_AROUND_WITH, *RUN_IN_CONTAINERS, *COMPILES_BPF, *COMPILES_SUBJECTS)

# dpkg leaves these out while it unpacks.
EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")

# debootstrap has a script per suite, and an older debootstrap none for forky. sid's is the script of every
# newer suite; naming it as an argument needs no change on the host.
SCRIPTS = Path("/usr/share/debootstrap/scripts")


def debian() -> Path:
    """The tree's directory, built when it is missing (about a minute and a half)."""
    return cached("rootfs", digest(SUITE, MIRROR, *PACKAGES, *EXCLUDED), _build)


def _build(tree: Path) -> None:
    log = CACHE / "rootfs.log"
    log.unlink(missing_ok=True)
    say(f"debootstrap of Debian {SUITE}, about half a minute (log: {log})")
    script = SCRIPTS / SUITE if (SCRIPTS / SUITE).exists() else SCRIPTS / "sid"
    bootstrap = ["debootstrap", "--variant=minbase", SUITE, str(tree), MIRROR, str(script)]
    run_step([*CONTAINED, *bootstrap], log, timeout=900)

    say("installing the packages in it, about a minute")
    (tree / "etc/dpkg/dpkg.cfg.d/node").write_text("".join(f"path-exclude={path}\n" for path in EXCLUDED))
    # A mirror may be some days behind; packages are signed all the same.
    (tree / "etc/apt/apt.conf.d/99node").write_text('Acquire::Check-Valid-Until "false";\n')
    starts_no_services = tree / "usr/sbin/policy-rc.d"
    starts_no_services.write_text("#!/bin/sh\nexit 101\n")
    starts_no_services.chmod(0o755)
    run_inside(tree, ["apt-get", "update", "-q"], log)
    run_inside(tree, ["apt-get", "install", "-q", "-y", "--no-install-recommends", *PACKAGES], log)
    for leftover in ("var/lib/apt/lists", "var/cache/apt"):
        shutil.rmtree(tree / leftover)
