"""One command installs and a pod sleeps and wakes; again it changes nothing; uninstalled, the node is what it was."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.integration import manifest, node
from tests.integration.cri import Container, Cri
from tests.integration.installer import plain
from tests.integration.installer.older import Older, older
from tests.integration.installer.plain import Installer

IMAGE = "localhost/redis:test"
SHORT = {"zeropod.ctrox.dev/scaledown-duration": "300ms"}
CONFIG = Path("/etc/containerd/config.toml")
TABLE = re.compile(r"^ *\[plugins\.\S+\.containerd\.runtimes\.zeropod(?:\.options)?\]\n(?: +\w+ = .*\n)+", re.MULTILINE)

RESTART = """\
#!/bin/sh
PYTHONPATH=/node/site:/src:/src/src exec python3 -B -c \\
  'from tests.integration import node; node.start_containerd(*node.stop_containerd())'
"""


@pytest.fixture
def restart(tmp_path: Path) -> Path:
    script = tmp_path / "restart"
    script.write_text(RESTART)
    script.chmod(0o755)
    return script


@pytest.fixture
def installer(bundle: Path, restart: Path) -> Iterator[Installer]:
    """For the node's own containerd, without the handler that the other tests have in its configuration."""
    texts = {path: path.read_text() for path in (CONFIG, *CONFIG.parent.glob("conf.d/*.toml"))}
    for path, text in texts.items():
        path.write_text(TABLE.sub("", text))
    restarted(restart)
    # On a machine whose services are systemd's, the installer needs nobody's help.
    made = Installer(bundle, () if node.SYSTEMD else ("--restart-command", str(restart)))
    yield made
    if plain.INSTALL_ROOT.exists():  # the test has failed, and the next one begins without
        made("--uninstall", "--force")
    for path, text in texts.items():
        path.write_text(text)
    restarted(restart)


def restarted(script: Path) -> None:
    """Runs it. What begins without, with containerd's old configuration, fails much later and says nothing of why."""
    said = plain.run(str(script))
    assert said.status == 0, said.text


def handlers(cri: Cri) -> str:
    return cri.status(verbose=True).info["config"]


def test_containerd_2(installer: Installer) -> None:
    with Cri() as cri:
        if cri.version().runtime_version.startswith("1.7."):
            pytest.skip("that is test_containerd_1_7")
        assert '"zeropod"' not in handlers(cri)
        before = plain.files()

        shown = installer("--dry-run")
        assert shown.status == 0, shown.text
        assert "+++ /etc/containerd/conf.d/zeropod.toml" in shown.text
        assert plain.differences(before, plain.files()) == []

        installed = installer()
        assert installed.status == 0, installed.text
        assert "containerd knows the handler zeropod" in installed.text
        with cri.pod(handler="zeropod", annotations=SHORT) as pod:
            redis = pod.container("redis", IMAGE)
            node.until(lambda: redis.exec("redis-cli", "set", "city", "Zürich").exit_code == 0, "redis answers")
            plain.until_asleep(redis)
            assert plain.ask_redis(pod.ip, "get city").endswith("Zürich")

            present = plain.files("/etc", "/opt", "/usr")
            again = installer()
            assert (again.status, again.text.splitlines()[-1][-13:]) == (0, "nothing to do")
            refused = installer("--uninstall")
            assert refused.status == 1
            assert pod.name in refused.text
            assert plain.differences(present, plain.files("/etc", "/opt", "/usr")) == []

        removed = installer("--uninstall")
        assert removed.status == 0, removed.text
        assert '"zeropod"' not in handlers(cri)
        assert plain.differences(before, plain.files()) == []


def test_a_failure_leaves_the_node_as_it_was(installer: Installer) -> None:
    before = plain.files()
    failed = installer("--restart-command", "echo no such service >&2; exit 3")
    assert failed.status == 1
    assert "no such service" in failed.text
    assert plain.differences(before, plain.files()) == []


def test_as_the_daemon_set_runs_it(installer: Installer, bundle: Path, restart: Path) -> None:
    """In a container with the node's root at /host, and no more privileges than the manifest grants."""
    before = plain.files()
    wanted = Path("/run/restart-containerd")
    waits = f"touch {wanted}; while [ -e {wanted} ]; do sleep 0.1; done"
    with Cri() as cri, cri.pod(handler="runc") as pod:
        for arguments in (["--restart-command", waits], ["--uninstall", "--restart-command", waits]):
            made = manifest.container(pod, "installer", bundle, arguments)
            # Until it has ended somebody on the node restarts containerd for it.
            node.until(partial(wants_a_restart, wanted, made), "it wants a restart", 120)
            restarted(restart)
            wanted.unlink(missing_ok=True)
            assert made.wait(120).exit_code == 0, made.logs()
            assert ('"zeropod"' in handlers(cri)) == ("--uninstall" not in arguments), made.logs()
    assert plain.differences(before, plain.files()) == []


def wants_a_restart(wanted: Path, installer: Container) -> bool:
    """Or it has ended without."""
    return wanted.exists() or installer.state == "EXITED"


@pytest.mark.skipif(node.SYSTEMD, reason="its programs are not brought to the machine")
def test_containerd_1_7(bundle: Path) -> None:
    with older() as old, Cri(str(old.socket)) as cri:
        assert cri.version().runtime_version.startswith("1.7.")
        before = plain.files()
        options = ("--containerd-config", str(old.config), "--containerd-socket", str(old.socket))
        installer = Installer(bundle, (*options, "--restart-command", str(old.restart), "--python", "bundled"))
        installed = installer()
        assert installed.status == 0, installed.text
        assert old.imported.read_text().startswith(before_text := old.imported.read_text().partition("# zeropod:")[0])
        assert "NoNewKeyring = true" in old.imported.read_text().removeprefix(before_text)
        assert installer().text.endswith("nothing to do\n")

        with cri.pod(handler="zeropod", annotations=SHORT) as pod:
            redis = pod.container("redis", IMAGE)
            node.until(lambda: redis.exec("redis-cli", "set", "city", "Zürich").exit_code == 0, "redis answers")
            assert shim_runs_bundled_python()
            plain.until_asleep(redis)
            assert plain.ask_redis(pod.ip, "get city").endswith("Zürich")
            plain.until_asleep(redis)

            forced = installer("--uninstall", "--force")
            assert forced.status == 0, forced.text
            assert redis.state == "RUNNING"
            assert plain.ask_redis(pod.ip, "get city").endswith("Zürich")
        check_restored(before, old)


def shim_runs_bundled_python() -> bool:
    return any("/opt/zeropod/lib/programs/python3" in line for line in node.processes().values())


def check_restored(before: dict[str, tuple[object, ...]], old: Older) -> None:
    """All but the state that containers still had when it was uninstalled."""
    changed = plain.differences(before, plain.files())
    assert [path for path in changed if not path.startswith(plain.STATE)] == []
