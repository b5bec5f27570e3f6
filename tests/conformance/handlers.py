"""The handlers that the suites are run with, by a file that containerd's configuration imports.

"awake" is zeropod as the installer configures it, "asleep" the same with a short scaledown-duration for every
container, by a specification that all of them start from: the suites' pods have no annotations for us.
"""

import json
import subprocess
from pathlib import Path

from zeropod.installer import handler

REFERENCE = "runc"
AWAKE, ASLEEP = "awake", "asleep"

DROP_IN = Path("/etc/containerd/conf.d/conformance.toml")
BASE = Path("/etc/containerd/asleep.json")
SCALEDOWN = "500ms"
VERSION = 3
"""Of containerd's configuration."""


def configure(shim: str, default: str = REFERENCE, more: str = "") -> None:
    """Write the handlers for this shim, and `more`; pods that ask for none get the default.

    For the next start of containerd.
    """
    BASE.write_text(base())
    awake = handler.table(VERSION, shim, None).replace(".zeropod]", f".{AWAKE}]")
    asleep = handler.table(VERSION, shim, {"base_runtime_spec": str(BASE)}).replace(".zeropod]", f".{ASLEEP}]")
    chosen = f'[plugins."{handler.plugin(VERSION)}".containerd]\n  default_runtime_name = "{default}"\n'
    DROP_IN.parent.mkdir(exist_ok=True)
    DROP_IN.write_text(f"version = {VERSION}\n{chosen}{awake}{asleep}{more}")


def base() -> str:
    """What containerd starts a container's specification from by itself, with the annotation."""
    spec = json.loads(subprocess.run(["ctr", "oci", "spec"], capture_output=True, check=True, timeout=30).stdout)
    spec["annotations"] = {"zeropod.ctrox.dev/scaledown-duration": SCALEDOWN}
    return json.dumps(spec)
