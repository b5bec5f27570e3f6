"""What the node's file says of annotations that a pod does not have, and what a pod has from its namespace."""

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from tests.integration.cri import Pod
from tests.integration.patience import patient, patient_duration
from tests.integration.sleep.helpers import shims
from tests.integration.sleep.helpers.stage import OURS, PREFIX, REDIS, App, Stage, answers

from zeropod import paths

pytestmark = pytest.mark.timeout(60)

Write = Callable[[str], None]


@pytest.fixture
def node_says() -> Iterator[Write]:
    """Writes the node's configuration, which there is none of otherwise."""
    paths.NODE_CONFIG.parent.mkdir(parents=True, exist_ok=True)
    yield lambda text: _write(paths.NODE_CONFIG, text)
    paths.NODE_CONFIG.unlink()


def _write(file: Path, text: str) -> None:
    file.write_text(text)


def task(stage: Stage, annotations: Mapping[str, str]) -> App:
    """A container without a pod that has these annotations and no others of ours."""
    ours = {PREFIX + key: text for key, text in annotations.items()}
    made = stage.client.container(*REDIS.argv, runtime=OURS, image=REDIS.image, annotations=ours)
    return App(REDIS, stage.stack.enter_context(made).run()).ready()


def in_pod(stage: Stage, annotations: Mapping[str, str]) -> App:
    """A container in a pod that has these annotations and no others of ours."""
    ours = {PREFIX + key: text for key, text in annotations.items()}
    pod: Pod = stage.stack.enter_context(stage.kubelet.pod(annotations=ours))
    return stage.add(pod, REDIS)


def reasons(app: App) -> list[str]:
    """What `zeropod why` says of it, sentence by sentence."""
    command = ["zeropod", "why", "--json", app.id]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patient(60), check=True)
    return [reason["text"] for reason in json.loads(done.stdout)["reasons"]]


def stays_in_memory(app: App) -> None:
    """Wait until it sleeps, and has said where its memory is."""
    shims.until(app.id, lambda status: status.memory_backend == "resident", "asleep with its memory where it was")


def test_a_container_that_says_nothing_sleeps_as_the_node_says(stage: Stage, node_says: Write) -> None:
    soon = patient_duration("300ms")
    node_says(f'[defaults]\nscaledown-duration = "{soon}"\nstandby = true\nstandby-memory = "resident"\n')
    for app in (task(stage, {}), in_pod(stage, {})):
        stays_in_memory(app)
        told = f"Set for it: scaledown-duration={soon} (node), standby=true (node), standby-memory=resident (node)."
        assert reasons(app)[-1] == told
        with app.connect() as session:
            assert answers(session, app.kind)


def test_a_pod_and_its_namespace_win_over_the_node(stage: Stage, node_says: Write) -> None:
    node_says('[defaults]\nscaledown-duration = "0"\nstandby-memory = "swap"\n')
    soon = patient_duration("300ms")
    own = in_pod(stage, {"scaledown-duration": soon, "standby-memory": "resident", "from-namespace": "standby-memory"})
    other = in_pod(stage, {})
    stays_in_memory(own)
    told = f"Set for it: scaledown-duration={soon} (pod), standby-memory=resident (namespace)."
    assert reasons(own)[-1] == told
    assert (other.state, other.status.may_sleep) == ("RUNNING", False)
    assert reasons(other)[0] == "The node's default for scaledown-duration is 0."


def test_what_is_wrong_with_a_default_is_told_and_fails_no_container(stage: Stage, node_says: Write) -> None:
    node_says('[defaults]\nstandby-memory = "disk"\nscaledown = "1s"\nstandby-duration = [1]\n')
    soon = patient_duration("300ms")
    app = in_pod(stage, {"scaledown-duration": soon, "standby": "perhaps", "from-namespace": "standby"})
    app.standby()
    told = reasons(app)
    assert "A default is not taken, standby-memory of the node: 'disk' is not auto, swap, store or resident." in told
    assert "A default is not taken, standby of the namespace: 'perhaps' is not true or false." in told
    assert "A default is not taken, scaledown of the node: this version has no such annotation." in told
    command = ["zeropod", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patient(60), check=False)
    found = next(check for check in json.loads(done.stdout) if check["name"] == "configuration")
    assert not found["ok"]
    for words in ("'disk'", "scaledown of the node", "defaults.standby-duration: [1]"):
        assert words in found["found"]


def test_a_change_of_the_node_holds_for_containers_that_are_created_afterwards(stage: Stage, node_says: Write) -> None:
    node_says('[defaults]\nscaledown-duration = "1h"\n')
    before = task(stage, {})
    node_says(f'[defaults]\nscaledown-duration = "{patient_duration("300ms")}"\n')
    task(stage, {}).asleep()
    assert before.state == "RUNNING"
    assert "scaledown-duration=1h (node)" in reasons(before)[-1]
