"""What holds for a container: of the pod, the namespace and the node the first that says something sensible."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.lifecycle.defaults import Choice, Source, complaints_about, resolve
from zeropod.lifecycle.settings import FROM_NAMESPACE, KNOWN, PREFIX, Settings, SettingsError

GOOD = {
    "scaledown-duration": "7s",
    "container-names": "web,other",
    "ports-map": "web=80",
    "pre-dump": "true",
    "disable-checkpointing": "true",
    "connect-timeout": "3s",
    "proxy-timeout": "4s",
    "standby": "false",
    "standby-duration": "1h",
    "standby-memory": "swap",
    "standby-max-resident": "1Mi",
    "tcp-established": "false",
    "wake-on-stop": "false",
    "disable-probe-detection": "true",
    "probe-buffer-size": "2Ki",
    "probe-processes": "mine",
    "io-uring": "true",
    "localhost-traffic": "true",
    "dry-run": "true",
    "migrate": "web",
    "live-migrate": "web",
    "keep-on-restart": "true",
    "disable-migrate-data": "true",
}
"""A value of each that is not the built-in one."""
TAKE_ANY_TEXT = {"container-names", "probe-processes", "migrate", "live-migrate"}


def pod(from_namespace: str = "", **texts: str) -> dict[str, str]:
    given = {PREFIX + key.replace("_", "-"): text for key, text in texts.items()}
    return given | ({PREFIX + FROM_NAMESPACE: from_namespace} if from_namespace else {})


def test_the_examples_are_of_all_that_there_are() -> None:
    assert GOOD.keys() == KNOWN


@pytest.mark.parametrize("key", sorted(KNOWN))
def test_the_node_has_a_default_for_every_annotation(key: str) -> None:
    by_node, by_pod = resolve({}, {key: GOOD[key]}, "web"), resolve({PREFIX + key: GOOD[key]}, {}, "web")
    assert by_node.settings == by_pod.settings
    assert by_node.settings != Settings() or key == "container-names"
    assert by_node.choices == (Choice(key, GOOD[key], Source.NODE),)
    assert by_pod.choices == (Choice(key, GOOD[key], Source.POD),)


def test_names_of_the_node_choose_containers() -> None:
    assert [resolve({}, {"container-names": "web"}, name).settings.selected for name in ("web", "db")] == [True, False]


@pytest.mark.parametrize(
    ("annotations", "node", "seconds", "source"),
    [
        (pod(), {}, 60, None),
        (pod(), {"scaledown-duration": "3s"}, 3, Source.NODE),
        (pod(scaledown_duration="1s"), {"scaledown-duration": "3s"}, 1, Source.POD),
        (pod("scaledown-duration", scaledown_duration="2s"), {"scaledown-duration": "3s"}, 2, Source.NAMESPACE),
        (pod("standby,scaledown-duration", scaledown_duration="2s"), {}, 2, Source.NAMESPACE),
        (pod("standby", scaledown_duration="1s"), {"scaledown-duration": "3s"}, 1, Source.POD),
        (pod(scaledown_duration="0"), {"scaledown-duration": "3s"}, 0, Source.POD),
        (pod(), {"scaledown-duration": "0"}, 0, Source.NODE),
        (pod("scaledown-duration"), {"scaledown-duration": "3s"}, 3, Source.NODE),
    ],
)
def test_the_pod_wins_over_its_namespace_and_that_over_the_node(
    annotations: dict[str, str], node: dict[str, str], seconds: float, source: Source | None
) -> None:
    found = resolve(annotations, node, "web")
    assert (found.settings.scaledown, found.source("scaledown-duration")) == (seconds, source)
    assert found.complaints == ()


@pytest.mark.parametrize("key", sorted(KNOWN - TAKE_ANY_TEXT))
def test_a_bad_default_is_passed_over_with_a_complaint(key: str) -> None:
    found = resolve({}, {key: "soon"}, "web")
    assert (found.settings, found.choices) == (Settings(), ())
    (complaint,) = found.complaints
    assert str(complaint).startswith(f"a default is not taken, {key} of the node: 'soon' is not ")


@pytest.mark.parametrize("key", sorted(KNOWN - TAKE_ANY_TEXT))
def test_below_a_bad_value_of_the_namespace_the_nodes_holds(key: str) -> None:
    found = resolve({PREFIX + key: "soon", PREFIX + FROM_NAMESPACE: key}, {key: GOOD[key]}, "web")
    assert found.choices == (Choice(key, GOOD[key], Source.NODE),)
    (complaint,) = found.complaints
    assert str(complaint).startswith(f"a default is not taken, {key} of the namespace: 'soon' is not ")


@pytest.mark.parametrize("key", sorted(KNOWN - TAKE_ANY_TEXT))
def test_a_bad_value_of_the_pods_own_fails_it_whatever_the_node_says(key: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        resolve({PREFIX + key: "soon"}, {key: GOOD[key]}, "web")
    assert str(refusal.value).startswith(f"annotation {PREFIX}{key}: 'soon' is not ")


def test_a_default_that_a_pod_overrides_is_not_complained_about() -> None:
    assert resolve(pod(standby="true"), {"standby": "soon"}, "web").complaints == ()


def test_a_default_for_what_there_is_not_is_complained_about() -> None:
    no_such = "a default is not taken, scaledown of the node: this version has no such annotation"
    assert list(map(str, resolve({}, {"scaledown": "1m", "standby": "false"}, "web").complaints)) == [no_such]
    assert list(map(str, complaints_about({"scaledown": "1m", "standby": "soon"}))) == [
        no_such,
        "a default is not taken, standby of the node: 'soon' is not true or false",
    ]


TEXTS = st.dictionaries(st.sampled_from(sorted(KNOWN)), st.text(max_size=6) | st.sampled_from(sorted(GOOD.values())))


@given(TEXTS, TEXTS)
def test_no_default_of_the_namespace_or_the_node_fails_a_container(
    namespace: dict[str, str], node: dict[str, str]
) -> None:
    annotations = {PREFIX + key: text for key, text in namespace.items()}
    found = resolve({**annotations, PREFIX + FROM_NAMESPACE: ",".join(namespace)}, node, "web")
    for choice in found.choices:
        given = namespace if choice.source is Source.NAMESPACE else node
        assert choice.text == given[choice.key].strip()
    # Each that anything was said about either holds, or is complained about.
    chosen = {choice.key for choice in found.choices}
    for key in (namespace.keys() | node.keys()) - chosen:
        assert any(f", {key} of the " in str(complaint) for complaint in found.complaints)


@given(TEXTS, st.text())
def test_no_list_of_names_fails_a_container(node: dict[str, str], listed: str) -> None:
    assert resolve({PREFIX + FROM_NAMESPACE: listed}, node, "web").settings == resolve({}, node, "web").settings
