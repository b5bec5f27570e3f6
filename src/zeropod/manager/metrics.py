"""Exports the shims' counters as Prometheus metrics.

All counting is done in the shims, so nothing is lost when this process ends, and all scrapers see the same. Prometheus
identifies a container by container, pod and namespace: the counts of containers with the same three are added up.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from math import inf, isinf

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from zeropod.manager.node import Node
from zeropod.rpc.messages.status_pb2 import DOZING, RUNNING, STANDBY, ContainerStatus, Histogram

LABELS = ("container", "pod", "namespace")

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Counter:
    """A counter; `labels` are further labels, with their values for this part of the counter."""

    name: str
    help: str
    value: Callable[[ContainerStatus], int]
    labels: dict[str, str] = field(default_factory=dict)


COUNTERS = (
    Counter(
        "zeropod_checkpoint_errors",
        "Checkpoints that failed; the container stayed awake.",
        lambda status: status.checkpoint_errors,
    ),
    Counter(
        "zeropod_restore_errors",
        "Containers that could not be woken, and ended.",
        lambda status: status.restore_errors,
    ),
    Counter(
        "zeropod_sleeps",
        "Times that a container got into this depth of sleep.",
        lambda status: status.standby_sleeps,
        {"depth": "standby"},
    ),
    Counter("zeropod_sleeps", "", lambda status: status.cold_sleeps, {"depth": "cold"}),
    Counter(
        "zeropod_wakes",
        "Times that a container was woken from this depth of sleep.",
        lambda status: sum(status.standby_wake_seconds.counts),
        {"depth": "standby"},
    ),
    Counter("zeropod_wakes", "", lambda status: sum(status.cold_wake_seconds.counts), {"depth": "cold"}),
    Counter(
        "zeropod_dozes",
        "Times that a container in standby ran for a probe or an exec, and was frozen again.",
        lambda status: status.dozes,
    ),
    Counter(
        "zeropod_probes_answered",
        "Health probes that were answered in the place of a sleeping container.",
        lambda status: status.probes_answered,
    ),
    Counter(
        "zeropod_refused_sleeps",
        "Times that a container stayed awake to keep the disk from filling up.",
        lambda status: status.refused_sleeps,
    ),
    Counter(
        "zeropod_standby_memory_written_bytes",
        "Bytes of memory that were written to swap or to the page store when containers got into standby.",
        lambda status: status.memory_written_bytes_total,
    ),
    Counter(
        "zeropod_standby_page_faults",
        "Page faults that brought memory back from the page store; the kernel serves those from swap uncounted.",
        lambda status: status.memory_faults_total,
    ),
    Counter(
        "zeropod_dry_run_sleeps",
        "Times that a container would have fallen asleep, were it not for dry-run.",
        lambda status: status.dry_run_sleeps,
    ),
    Counter(
        "zeropod_dry_run_wakes",
        "Times that a container would have been woken, were it not for dry-run.",
        lambda status: status.dry_run_wakes,
    ),
)


@dataclass(frozen=True, slots=True)
class Gauge:
    name: str
    help: str
    value: Callable[[ContainerStatus], int | None]
    """Returns the value; None if there is none yet."""
    merge: Callable[[Iterable[int]], int] = max
    """Combines the values of containers with the same labels."""


GAUGES = (
    Gauge(
        "zeropod_running",
        "1 while the container runs, 0 while it sleeps or has ended.",
        lambda status: int(status.state == RUNNING),
    ),
    Gauge(
        "zeropod_last_checkpoint_time",
        "When the last checkpoint was done, in nanoseconds since 1970.",
        lambda status: status.last_checkpoint.ToNanoseconds() or None,
    ),
    Gauge(
        "zeropod_last_restore_time",
        "When the container was woken last, in nanoseconds since 1970.",
        lambda status: status.last_restore.ToNanoseconds() or None,
    ),
    Gauge(
        "zeropod_image_bytes",
        "What the image of the container takes on disk now.",
        lambda status: status.image_bytes,
        sum,
    ),
)

HISTOGRAMS: dict[str, tuple[str, Callable[[ContainerStatus], tuple[Histogram, ...]]]] = {
    "zeropod_checkpoint_duration_seconds": (
        "How long checkpoints took, from the freeze to the end.",
        lambda status: (status.checkpoint_seconds,),
    ),
    "zeropod_restore_duration_seconds": (
        "How long it took until a container ran again that was woken, from any depth of sleep.",
        lambda status: (status.standby_wake_seconds, status.cold_wake_seconds),
    ),
}


def labels(status: ContainerStatus) -> Labels:
    """Return a container's labels; without a pod they are its id and containerd's namespace."""
    return (status.container or status.id, status.pod, status.pod_namespace or status.namespace)


def counted(statuses: Iterable[ContainerStatus]) -> dict[Labels, list[ContainerStatus]]:
    """Return the containers by their labels, without pods' sandboxes, which only hold namespaces."""
    found: dict[Labels, list[ContainerStatus]] = {}
    for status in statuses:
        if status.id != status.sandbox:
            found.setdefault(labels(status), []).append(status)
    return found


def families(statuses: Iterable[ContainerStatus]) -> Iterator[Metric]:
    """Yield all metrics of these containers. Containers that never sleep have only `zeropod_running`."""
    containers = counted(statuses)
    sleepers = {key: group for key, group in containers.items() if any(status.may_sleep for status in group)}
    for name, (text, select) in HISTOGRAMS.items():
        histogram = HistogramMetricFamily(name, text, labels=LABELS)
        for key, group in sleepers.items():
            buckets, total = merged([part for status in group for part in select(status)])
            histogram.add_metric(key, buckets, total)
        yield histogram
    for gauge in GAUGES:
        family = GaugeMetricFamily(gauge.name, gauge.help, labels=LABELS)
        for key, group in (containers if gauge.name == "zeropod_running" else sleepers).items():
            values = [value for status in group if (value := gauge.value(status)) is not None]
            if values:
                family.add_metric(key, gauge.merge(values))
        yield family
    yield _standby_memory(sleepers)
    counters: dict[str, CounterMetricFamily] = {}
    for counter in COUNTERS:
        if counter.name not in counters:
            names = (*LABELS, *counter.labels)
            counters[counter.name] = CounterMetricFamily(counter.name, counter.help, labels=names)
        for key, group in sleepers.items():
            value = sum(map(counter.value, group))
            counters[counter.name].add_metric((*key, *counter.labels.values()), value)
    yield from counters.values()


def _standby_memory(sleepers: Mapping[Labels, Iterable[ContainerStatus]]) -> Metric:
    """Return where the memory of the containers in STANDBY is; containers in other states are left out."""
    family = GaugeMetricFamily(
        "zeropod_standby_memory_bytes",
        "Memory of a container in standby: out, in swap or the page store, or left in memory.",
        labels=(*LABELS, "backend", "state"),
    )
    for key, group in sleepers.items():
        sums: dict[tuple[str, str], int] = {}
        for status in group:
            if status.state in (STANDBY, DOZING) and (backend := status.memory_backend):
                for state, value in (("out", status.memory_out_bytes), ("left", status.memory_left_bytes)):
                    sums[backend, state] = sums.get((backend, state), 0) + value
        for (backend, state), total in sums.items():
            family.add_metric((*key, backend, state), total)
    return family


def merged(parts: Iterable[Histogram]) -> tuple[list[tuple[str, float]], float]:
    """Merge histograms: return cumulative buckets by their bounds, and the sum of all observations in seconds.

    Shims of different versions may have different bounds. The result has the bounds of all, and is exact except for
    observations between two bounds.
    """
    counts: dict[float, int] = {}
    total = 0.0
    for part in parts:
        for bound, count in zip((*part.bounds, inf), part.counts, strict=False):
            counts[bound] = counts.get(bound, 0) + count
        total += part.sum
    counts.setdefault(inf, 0)
    bounds = sorted(counts)
    cumulated = accumulate(counts[bound] for bound in bounds)
    names = ("+Inf" if isinf(bound) else str(bound) for bound in bounds)
    return list(zip(names, cumulated, strict=True)), total


class NodeCollector(Collector):
    """Collects the node's metrics at each scrape."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def collect(self) -> Iterator[Metric]:
        yield from families(self._node.containers)
        yield GaugeMetricFamily("zeropod_shims", "Shims that report their containers.", self._node.answering)
        silent = len(self._node.silent)
        yield GaugeMetricFamily("zeropod_silent_shims", "Shims that are dead or do not answer.", silent)


def registry(node: Node, more: Iterable[Collector] = ()) -> CollectorRegistry:
    """Return the registry with the metrics of the node's containers, of this process, and additional ones."""
    made = CollectorRegistry(auto_describe=False)
    for collector in (NodeCollector(node), *more):
        made.register(collector)
    ProcessCollector(registry=made)
    return made
