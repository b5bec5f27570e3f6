"""Metrics of the Kubernetes side of the manager."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from zeropod.manager.kube.reconcile import Reconciler


class KubeCollector(Collector):
    """Reads the reconciler's state at each scrape."""

    def __init__(self, reconciler: Reconciler) -> None:
        self._reconciler = reconciler

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        reconciler = self._reconciler
        writes = CounterMetricFamily(
            "zeropod_api_writes", "Writes to the Kubernetes API, by what and how they went.", labels=("kind", "outcome")
        )
        for labels, count in sorted(reconciler.writes.items()):
            writes.add_metric(labels, count)
        yield writes
        kept = GaugeMetricFamily(
            "zeropod_requests_kept",
            "1 for a container whose requests are not what they would be, by the reason.",
            labels=("container", "pod", "namespace", "reason"),
        )
        found = {(each.container, name, namespace, each.kind) for (namespace, name), each in reconciler.notices}
        for key in sorted(found):
            kept.add_metric(key, 1)
        yield kept
        followed = not reconciler.pods.problem and reconciler.pods.ready
        yield GaugeMetricFamily("zeropod_api_followed", "1 while changes of pods are heard of from the API.", followed)
