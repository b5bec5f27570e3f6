"""The manager, and what cleans up before it, with the privileges and host paths of their manifest and nothing else."""

import urllib.error
import urllib.request
from pathlib import Path

import pytest
from tests.integration import manifest, node
from tests.integration.cri import Cri
from tests.integration.sleep.helpers.stage import REDIS, Stage

from zeropod import paths

pytestmark = pytest.mark.timeout(120)


def get(address: str, path: str) -> str:
    with urllib.request.urlopen(f"http://{address}:8080{path}", timeout=5) as answer:
        return str(answer.read().decode())


def test_it_sees_the_nodes_shims_and_collects_what_is_left_of_others(stage: Stage, cri: Cri, tmp_path: Path) -> None:
    asleep = stage.app("cri", REDIS)
    asleep.standby()
    orphan = paths.container("k8s.io", "of-a-container-that-is-gone")
    (orphan / "images").mkdir(mode=0o700, parents=True)
    (orphan / "images/pages-1.img").write_bytes(bytes(4096))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/zeropod.pyz").write_bytes(Path("/src/build/zeropod.pyz").read_bytes())
    for path in (tmp_path, tmp_path / "bin", tmp_path / "bin/zeropod.pyz"):
        path.chmod(0o755)  # as in the image: the manager is not root
    with cri.pod(handler="runc") as pod:
        collector = manifest.container(pod, "image-gc", tmp_path, ["--max-checkpoint-bytes", "3Gi"])
        assert collector.wait().exit_code == 0, collector.logs()
        assert not orphan.exists()
        assert "3221225472" in paths.NODE_OVERRIDES.read_text()
        manager = manifest.container(pod, "manager", tmp_path)

        def is_ready() -> bool:
            try:
                return get(pod.ip, "/readyz") != ""
            except urllib.error.HTTPError as error:
                error.close()
                return False
            except OSError:
                assert manager.state != "EXITED", manager.logs()
                return False

        node.until(is_ready, "it is ready", 30)
        assert get(pod.ip, "/healthz")
        (line,) = (
            line
            for line in get(pod.ip, "/metrics").splitlines()
            if line.startswith("zeropod_running{") and 'container="redis"' in line
        )
        assert line.endswith(" 0.0")
        assert paths.container("k8s.io", asleep.id).exists()
        assert manager.state == "RUNNING"
    paths.NODE_OVERRIDES.unlink()
    with asleep.connect() as session:
        assert session.redis("PING") == b"PONG"
