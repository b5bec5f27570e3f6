"""What a manager is told about migration; without the flag nothing of it is there."""

import os
import subprocess
import sys

import pytest

from zeropod.manager import daemon
from zeropod.manager.migration.flags import settings
from zeropod.manager.migration.settings import Settings

PLACE = {"POD_IP": "10.0.0.1"}


def test_the_flags_that_users_know() -> None:
    given = daemon.parser().parse_args(["--migration", "--node-name", "n"])
    assert settings(given, PLACE) == Settings("n", "10.0.0.1", 8090, 10, 300, 10, 0)
    flags = ["--migration-claim-timeout=20s", "--migration-ready-timeout=1m", "--migration-servers-timeout=500ms"]
    flags += ["--node-server-addr=:9090", "--migration-bandwidth=50Mi", "--node-name=n"]
    given = daemon.parser().parse_args(flags)
    assert settings(given, PLACE) == Settings("n", "10.0.0.1", 9090, 20, 60, 0.5, 50 << 20)


@pytest.mark.parametrize(
    "flag",
    [
        "--migration-claim-timeout=soon", "--migration-ready-timeout=5", "--node-server-addr=8090:",
        "--node-server-addr=:99999", "--migration-bandwidth=fast",
    ],
)  # fmt: skip
def test_one_that_means_nothing_is_named(flag: str) -> None:
    with pytest.raises(ValueError, match=flag.partition("=")[0]):
        settings(daemon.parser().parse_args([flag]), PLACE)


def test_other_nodes_have_to_reach_it() -> None:
    with pytest.raises(ValueError, match="POD_IP"):
        settings(daemon.parser().parse_args([]), {})


def test_without_the_flag_nothing_of_it_is_imported() -> None:
    code = (
        "import sys; from zeropod.manager import daemon; daemon._kubernetes(daemon.parser().parse_args([])); "
        "print([name for name in sys.modules if 'migration' in name or 'manager.kube' in name])"
    )
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
