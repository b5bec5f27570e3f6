"""The dashboard and the alerts ask for metrics and labels that there are."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from prometheus_client.core import Metric
from tests.unit.installer.test_manifests import MANIFESTS

from zeropod.manager.kube.metrics import KubeCollector
from zeropod.manager.kube.reconcile import Reconciler
from zeropod.manager.metrics import NodeCollector, families, registry
from zeropod.manager.node import Node
from zeropod.rpc.messages.status_pb2 import STANDBY, ContainerStatus

DASHBOARD = json.loads((MANIFESTS / "components/grafana-dashboard/zeropod.json").read_text())
RULES = yaml.safe_load((MANIFESTS / "components/prometheus-operator/alerts.yaml").read_text())
MONITOR = yaml.safe_load((MANIFESTS / "components/prometheus-operator/pod-monitor.yaml").read_text())

OF_PROMETHEUS = {"up": set[str]()}
OF_TARGET = {"instance", "job", "node"}
"""Labels that Prometheus adds."""
METRIC = re.compile(r"\b(?:zeropod_\w+|process_\w+|up)\b")


def exported() -> dict[str, set[str]]:
    """The labels of each series, by its name."""
    node = Node()
    status = ContainerStatus(
        id="c", pod="p", container="c", may_sleep=True, state=STANDBY, memory_backend="swap", memory_out_bytes=1
    )
    reconciler = SimpleNamespace(
        writes=Counter({("event", "ok"): 1}),
        notices=[(("ns", "p"), SimpleNamespace(container="c", kind="Deferred"))],
        pods=SimpleNamespace(problem="", ready=True),
    )
    found: dict[str, set[str]] = {}
    collectors = (NodeCollector(node), KubeCollector(cast(Reconciler, reconciler)))
    metrics: list[Metric] = [*families([status]), *registry(node).collect()]
    for metric in (*metrics, *(each for collector in collectors for each in collector.collect())):
        for sample in metric.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found | OF_PROMETHEUS


def expressions() -> Iterator[tuple[str, str]]:
    """Whose it is, and what it asks for."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield f"{panel['title']} {target['refId']}", target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield f"${variable['name']}", variable["query"]["query"]
    for rule in rules():
        yield rule["alert"], rule["expr"]


def rules() -> list[dict[str, Any]]:
    return [rule for group in RULES["spec"]["groups"] for rule in group["rules"]]


def labels_of(expression: str) -> set[str]:
    """All labels that an expression names: to select by, to group by, or to list."""
    grouped = re.findall(r"\b(?:by|without|on) \(([^)]*)\)", expression)
    listed = re.findall(r"label_values\([^,]+(?:\{[^}]*\})?, (\w+)\)", expression)
    return {
        *re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression),
        *(name.strip() for names in grouped for name in names.split(",")),
        *listed,
    }


@pytest.mark.parametrize(("whose", "expression"), [pytest.param(*each, id=each[0]) for each in expressions()])
def test_it_asks_for_what_is_exported(whose: str, expression: str) -> None:
    there, named = exported(), METRIC.findall(expression)
    assert named, whose
    assert set(named) <= there.keys(), whose
    known = set.union(*(there[name] for name in named)) | OF_TARGET
    assert labels_of(expression) <= known, whose


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_it_knows(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    said = " ".join(rule["annotations"].values())
    assert rule["annotations"].keys() == {"summary", "description"}
    named = set(re.findall(r"\$labels\.(\w+)", said))
    grouped = re.search(r"by \(([^)]*)\)", rule["expr"])
    left = {name.strip() for name in grouped[1].split(",")} if grouped else exported()[METRIC.findall(rule["expr"])[0]]
    assert named <= left | (set() if grouped else OF_TARGET)


def test_panels_have_room_and_ids_of_their_own() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_every_panel_asks_the_source_that_was_chosen() -> None:
    sources = [panel["datasource"] for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    sources += [target["datasource"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)


def test_the_monitor_finds_the_managers_and_leaves_their_labels_alone() -> None:
    daemon_set = yaml.safe_load((MANIFESTS / "base/daemon-set.yaml").read_text())
    base = yaml.safe_load((MANIFESTS / "base/kustomization.yaml").read_text())
    (given,) = (each["pairs"] for each in base["labels"] if each.get("includeSelectors"))
    assert MONITOR["spec"]["selector"]["matchLabels"] == given
    (endpoint,) = MONITOR["spec"]["podMetricsEndpoints"]
    (manager,) = daemon_set["spec"]["template"]["spec"]["containers"]
    assert endpoint["port"] in [port["name"] for port in manager["ports"]]
    assert endpoint["honorLabels"], "else pod and namespace would be the manager's"
