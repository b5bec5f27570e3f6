"""containerd 1.7 beside the node's own, with a configuration, a socket and directories of its own."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.integration import node
from tests.integration.installer.plain import run
from tests.integration.patience import patient

PROGRAMS = Path("/src/build/containerd-1.7/usr/bin")
DIRECTORY = Path("/etc/older")
STATE = Path("/run/older")
PID = Path("/run/older.pid")
LOG = Path("/run/older.log")

CONFIG = """\
# What a person has written here has to stay as it is.
version = 2
root = "/var/lib/containerd/older"
state = "/run/older"
imports = [
  "/etc/older/conf.d/*.toml", # more of it
]
disabled_plugins = [
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.blockfile", "io.containerd.nri.v1.nri",
]

[grpc]
  address = "/run/older/containerd.sock"

[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
"""

CRI = """\
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:test"
  restrict_oom_score_adj = true
  disable_apparmor = true
  enable_unprivileged_ports = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      NoNewKeyring = true
"""
"""In a file that is imported: containerd 1.7 takes the plugin's whole section from there."""

RESTART = f"""\
#!/bin/sh
if old=$(cat {PID} 2>/dev/null); then
  kill "$old"
  while kill -0 "$old" 2>/dev/null; do sleep 0.05; done
fi
env -i HOME=/root PATH={PROGRAMS}:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \\
  setsid containerd --config {DIRECTORY}/config.toml >>{LOG} 2>&1 </dev/null &
echo $! >{PID}
"""


@dataclass(frozen=True, slots=True)
class Older:
    config: Path
    imported: Path
    socket: Path
    restart: Path

    def ctr(self, *arguments: str) -> None:
        line = [str(PROGRAMS / "ctr"), "--address", str(self.socket), *arguments]
        run = subprocess.run(line, capture_output=True, text=True, timeout=patient(60), check=False)
        assert run.returncode == 0, f"{' '.join(line)}: {run.stderr}\n{LOG}:\n{LOG.read_text()[-5000:]}"


@contextmanager
def older() -> Iterator[Older]:
    """It runs until the end of the block."""
    (DIRECTORY / "conf.d").mkdir(parents=True)
    config, imported = DIRECTORY / "config.toml", DIRECTORY / "conf.d/cri.toml"
    made = Older(config, imported, STATE / "containerd.sock", DIRECTORY / "restart")
    made.config.write_text(CONFIG)
    made.imported.write_text(CRI)
    made.restart.write_text(RESTART)
    made.restart.chmod(0o755)
    try:
        run(str(made.restart))
        node.until(made.socket.exists, f"containerd 1.7 listens, see {LOG}", 30)
        made.ctr("--namespace", "k8s.io", "images", "import", "/node/images/images.tar")
        yield made
    finally:
        pid = int(PID.read_text())
        os.kill(pid, signal.SIGTERM)
        node.until(lambda: not node.alive(pid), "containerd 1.7 has ended")
        run("rm", "-rf", str(DIRECTORY), str(STATE), str(PID))
