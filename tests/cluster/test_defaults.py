"""Defaults for annotations: of a namespace, which the API server gives to new pods, and of nodes, by a ConfigMap."""

import pytest
from tests.cluster import product
from tests.cluster.kube import KubectlError
from tests.cluster.pods import PREFIX, Place, Pod, container
from tests.integration.patience import patient_duration
from tests.integration.shimsocket import ShimSocket

from zeropod.rpc.messages.status_pb2 import WhyRequest, WhyResponse

SOON = patient_duration("1s")
OF_THE_NODE = "probe-buffer-size=2Ki (node)"
"""What manifests/zeropod.toml says."""


@pytest.fixture(scope="module", autouse=True)
def policies() -> None:
    if not product.has_mutating_policies():
        pytest.skip("defaults of namespaces need Kubernetes 1.36")


def annotate(place: Place, **texts: str | None) -> None:
    """Give the namespace defaults, or take them away."""
    values = {f"{PREFIX}/{key.replace('_', '-')}": text for key, text in texts.items()}
    place.api.patch("namespaces", place.name, {"metadata": {"annotations": values}})


def pod(place: Place, name: str, **texts: str) -> Pod:
    """A pod that has these annotations of its own and no others."""
    values = {f"{PREFIX}/{key.replace('_', '-')}": text for key, text in texts.items()}
    return place.pod(name, container(), annotated=values)


def ours(pod: Pod) -> dict[str, str]:
    """zeropod's annotations of a pod."""
    found = pod.now["metadata"].get("annotations") or {}
    return {key.partition("/")[2]: text for key, text in found.items() if key.startswith(f"{PREFIX}/")}


def reasons(pod: Pod) -> list[str]:
    """What the shim says of the pod's container, sentence by sentence."""
    pod.says()
    with ShimSocket(pod.place.states.socket_of(pod.place.name, pod.name)) as shim:
        answer = shim.call("Why", WhyRequest(id=pod.says()["id"]), WhyResponse, "zeropod.v1.Status")
    return [reason.text for reason in answer.reasons]


def test_new_pods_have_what_their_namespace_says_and_the_others_keep_theirs(place: Place) -> None:
    before = pod(place, "before")
    annotate(place, scaledown_duration=SOON, standby_memory="resident")
    after = pod(place, "after")
    inherited = {"scaledown-duration": SOON, "standby-memory": "resident"}
    assert ours(after) == {**inherited, "from-namespace": "scaledown-duration,standby-memory"}
    after.until_asleep()
    told = f"Set for it: {OF_THE_NODE}, scaledown-duration={SOON} (namespace), standby-memory=resident (namespace)."
    assert reasons(after)[-1] == told
    assert ours(before) == {}
    assert before.state() == "RUNNING"
    assert reasons(before)[-1] == f"Set for it: {OF_THE_NODE}."
    annotate(place, scaledown_duration=None, standby_memory=None)
    assert ours(after).keys() == {*inherited, "from-namespace"}
    assert ours(pod(place, "later")) == {}


def test_a_pod_wins_over_its_namespace(place: Place) -> None:
    annotate(place, scaledown_duration="1h", standby_memory="resident", wanted="Asleep")
    own = pod(place, "own", scaledown_duration=SOON, from_namespace="scaledown-duration", probe_buffer_size="3Ki")
    assert ours(own) == {
        "scaledown-duration": SOON,
        "standby-memory": "resident",
        "probe-buffer-size": "3Ki",
        "from-namespace": "standby-memory",
    }
    own.until_asleep()
    told = f"probe-buffer-size=3Ki (pod), scaledown-duration={SOON} (pod), standby-memory=resident (namespace)"
    assert reasons(own)[-1] == f"Set for it: {told}."


def test_a_pod_that_claims_to_have_something_from_its_namespace_has_not(place: Place) -> None:
    claims = pod(place, "claims", scaledown_duration=SOON, from_namespace="scaledown-duration")
    assert ours(claims) == {"scaledown-duration": SOON}


def test_a_bad_value_of_a_namespace_fails_no_pod_and_is_told(place: Place) -> None:
    annotate(place, scaledown_duration=SOON, standby_memory="disk")
    made = pod(place, "made").until_asleep()
    words = "A default is not taken, standby-memory of the namespace: 'disk' is not auto, swap, store or resident."
    assert words in reasons(made)


def test_pods_of_a_deployment_have_the_defaults_too(place: Place) -> None:
    annotate(place, scaledown_duration=SOON)
    place.deployment("web", replicas=2, annotated={})
    for each in place.ready_pods("web", 2):
        each.until_asleep()


def test_who_may_do_everything_in_a_namespace_may_not_change_its_defaults(place: Place) -> None:
    place.kubectl("create", "rolebinding", "author", "--clusterrole=admin", "--user=author")
    assert place.kubectl("auth", "can-i", "create", "pods", "--as=author").strip() == "yes"
    for verb in ("update", "patch"):
        with pytest.raises(KubectlError, match="no"):
            place.kubectl("auth", "can-i", verb, f"namespaces/{place.name}", "--as=author")
    with pytest.raises(KubectlError, match="orbidden"):
        place.kubectl("annotate", "namespace", place.name, f"{PREFIX}/dry-run=true", "--as=author")
