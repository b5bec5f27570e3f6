"""The tests' Python packages, for the Python of the node, which is newer than the host's.

The host's pip puts them into a directory of their own, wheels only, in the versions that the development
lock names. The node has it on PYTHONPATH for the command alone: the product must find what it needs in
its own file.
"""

import re
from pathlib import Path

from tests.node.cache import CACHE, CHECKOUT, NodeError, cached, digest, run_step, say
from tests.node.chroot import output_inside

REQUIREMENTS = (
    "grpcio",
    "h11",
    "h2",
    "hypothesis",
    "protobuf",
    "pytest",
    "pytest-timeout",
    "pytest-trio",
    "pytest-xdist",
    "PyYAML",
    "rich",
    "trio",
)
LOCK = CHECKOUT / "installer" / "requirements-dev.lock"
VERSION = "import sys; print(*sys.version_info[:2], sep='.')"


def packages(rootfs: Path) -> Path:
    """The directory to have on PYTHONPATH in the node, filled when it is missing."""
    pins = re.findall(r"^[\w.-]+==[\w.]+", LOCK.read_text(), re.MULTILINE)

    def build(target: Path) -> None:
        pip = CHECKOUT / "build" / "venv" / "bin" / "pip"
        if not pip.exists():
            raise NodeError(f"{pip} is not here; any ./justw recipe makes it")
        version = output_inside(rootfs, ["python3", "-c", VERSION]).strip()
        say(f"the tests' packages for Python {version}")
        constraints, log = CACHE / "site.pins", CACHE / "site.log"
        constraints.write_text("\n".join(pins) + "\n")
        log.unlink(missing_ok=True)
        command = [str(pip), "install", "--quiet", "--constraint", str(constraints), "--target", str(target)]
        choice = ["--python-version", version, "--only-binary", ":all:"]
        run_step([*command, *choice, *REQUIREMENTS], log, timeout=600)

    return cached("site", digest(rootfs.name, *REQUIREMENTS, *pins), build)
