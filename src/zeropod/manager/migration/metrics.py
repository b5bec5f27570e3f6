"""What the migration side of a manager tells Prometheus."""

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from zeropod.manager.migration.names import COMPLETED, FAILED, PENDING, RUNNING, UNCLAIMED
from zeropod.manager.migration.resource import overall
from zeropod.manager.migration.store import Store
from zeropod.manager.migration.target import Target
from zeropod.manager.migration.transfer import Transfers


class MigrationCollector(Collector):
    """Looks anew at each scrape; of all nodes' figures together each Migration is one."""

    def __init__(self, store: Store, target: Target, transfers: Transfers, node: str) -> None:
        self._store, self._target, self._transfers, self._node = store, target, transfers, node

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        migrations = GaugeMetricFamily(
            "zeropod_migrations", "Migrations of pods that leave this node, by their phase.", labels=("phase",)
        )
        found = Counter(
            overall(each.phase(name) for name in each.names)
            for each in self._store.all
            if each.source_node == self._node
        )
        for phase in (PENDING, RUNNING, COMPLETED, FAILED, UNCLAIMED):
            migrations.add_metric((phase,), found[phase])
        yield migrations
        sent = CounterMetricFamily(
            "zeropod_migration_bytes", "Bytes of transfers with other nodes.", labels=("direction",)
        )
        for direction in ("sent", "received"):
            sent.add_metric((direction,), self._transfers.bytes[direction])
        yield sent
        seconds = SummaryMetricFamily(
            "zeropod_migration_seconds", "Seconds in which containers that came to this node answered to nothing."
        )
        seconds.add_metric((), self._target.count, self._target.seconds)
        yield seconds
        yield CounterMetricFamily(
            "zeropod_migration_refusals",
            "Connections that were refused what a container has left behind.",
            self._transfers.refused,
        )
