"""What Prometheus sees, read back by Prometheus' own parser."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from zeropod.manager.metrics import LABELS, families, merged, registry
from zeropod.manager.node import Node
from zeropod.rpc.messages import status_pb2
from zeropod.rpc.messages.status_pb2 import ContainerStatus, Histogram

Samples = dict[tuple[str, tuple[str, ...]], float]


def histogram(*counts: int, total: float = 0.0) -> Histogram:
    return Histogram(bounds=(0.1, 1.0), counts=counts, sum=total)


def sleeper(**fields: object) -> ContainerStatus:
    given: dict[str, object] = {
        "id": "c1",
        "namespace": "k8s.io",
        "pod_namespace": "default",
        "pod": "web-0",
        "container": "nginx",
        "may_sleep": True,
    }
    return ContainerStatus(**{**given, **fields})  # type: ignore[arg-type]


class Fixed(Collector):
    def __init__(self, *statuses: ContainerStatus) -> None:
        self.statuses = statuses

    def collect(self) -> list[Metric]:
        return list(families(self.statuses))


def exposed(*statuses: ContainerStatus) -> str:
    made = CollectorRegistry()
    made.register(Fixed(*statuses))
    return generate_latest(made).decode()


def samples(*statuses: ContainerStatus) -> Samples:
    """By name, and the labels in alphabetical order of their names."""
    found: Samples = {}
    for family in text_string_to_metric_families(exposed(*statuses)):
        for sample in family.samples:
            key = sample.name, tuple(value for _, value in sorted(sample.labels.items()))
            assert key not in found, "a series is there twice"
            found[key] = sample.value
    return found


NGINX = ("nginx", "default", "web-0")


def test_the_names_that_users_know_are_there_with_their_labels_and_types() -> None:
    types = {family.name: family.type for family in text_string_to_metric_families(exposed(sleeper()))}
    assert types["zeropod_checkpoint_duration_seconds"] == types["zeropod_restore_duration_seconds"] == "histogram"
    assert types["zeropod_running"] == types["zeropod_last_checkpoint_time"] == "gauge"
    assert types["zeropod_last_restore_time"] == "gauge"
    assert types["zeropod_checkpoint_errors"] == types["zeropod_restore_errors"] == "counter"
    text = exposed(sleeper(checkpoint_errors=3))
    assert 'zeropod_checkpoint_errors_total{container="nginx",namespace="default",pod="web-0"} 3.0' in text


def test_a_histogram_is_one_with_cumulated_buckets() -> None:
    found = samples(sleeper(checkpoint_seconds=histogram(1, 2, 4, total=9.5)))
    name = "zeropod_checkpoint_duration_seconds"
    buckets = [found[f"{name}_bucket", ("nginx", bound, "default", "web-0")] for bound in ("0.1", "1.0", "+Inf")]
    assert buckets == [1, 3, 7]
    assert (found[f"{name}_count", NGINX], found[f"{name}_sum", NGINX]) == (7, 9.5)


def test_wakes_from_both_depths_are_one_histogram_and_two_counters() -> None:
    status = sleeper(standby_wake_seconds=histogram(5, 0, 0), cold_wake_seconds=histogram(0, 2, 0), standby_sleeps=6)
    found = samples(status)
    assert found["zeropod_restore_duration_seconds_count", NGINX] == 7
    assert found["zeropod_wakes_total", ("nginx", "standby", "default", "web-0")] == 5
    assert found["zeropod_wakes_total", ("nginx", "cold", "default", "web-0")] == 2
    assert found["zeropod_sleeps_total", ("nginx", "standby", "default", "web-0")] == 6


def test_the_memory_of_standby_is_told_by_backend_and_where_it_is() -> None:
    fields: dict[str, object] = {"memory_backend": "swap", "memory_out_bytes": 300, "memory_left_bytes": 4}
    found = samples(sleeper(state=status_pb2.STANDBY, **fields))
    name = "zeropod_standby_memory_bytes"
    assert found[name, ("swap", "nginx", "default", "web-0", "out")] == 300
    assert found[name, ("swap", "nginx", "default", "web-0", "left")] == 4
    assert not any(key[0] == name for key in samples(sleeper(state=status_pb2.RUNNING, **fields)))


def test_what_was_written_and_brought_back_is_counted() -> None:
    found = samples(sleeper(memory_written_bytes_total=7, memory_faults_total=3))
    assert found["zeropod_standby_memory_written_bytes_total", NGINX] == 7
    assert found["zeropod_standby_page_faults_total", NGINX] == 3


@pytest.mark.parametrize(
    ("state", "running"), [(status_pb2.RUNNING, 1), (status_pb2.STANDBY, 0), (status_pb2.COLD, 0), (99, 0)]
)
def test_running_is_one_or_zero(state: int, running: int) -> None:
    assert samples(sleeper(state=state))["zeropod_running", NGINX] == running


def test_what_has_not_happened_has_no_time() -> None:
    status = sleeper()
    assert ("zeropod_last_restore_time", NGINX) not in samples(status)
    status.last_restore.FromNanoseconds(1_688_065_891_505_882_000)
    assert samples(status)["zeropod_last_restore_time", NGINX] == 1.688065891505882e18


def test_two_containers_with_the_same_names_are_one_series() -> None:
    one = sleeper(id="a", state=status_pb2.STOPPED, dozes=2, checkpoint_seconds=histogram(1, 0, 0))
    other = sleeper(id="b", state=status_pb2.RUNNING, dozes=3, checkpoint_seconds=histogram(0, 1, 0))
    found = samples(one, other)
    assert found["zeropod_dozes_total", NGINX] == 5
    assert found["zeropod_running", NGINX] == 1
    assert found["zeropod_checkpoint_duration_seconds_count", NGINX] == 2


def test_without_a_pod_a_container_goes_by_its_id() -> None:
    status = ContainerStatus(id="redis", namespace="moby", may_sleep=True)
    assert ("zeropod_running", ("redis", "moby", "")) in samples(status)


def test_a_sandbox_is_no_container() -> None:
    assert samples(ContainerStatus(id="s", sandbox="s", pod="web-0", pod_namespace="default")) == {}


def test_what_never_sleeps_only_says_that_it_runs() -> None:
    assert samples(sleeper(may_sleep=False, state=status_pb2.RUNNING)) == {("zeropod_running", NGINX): 1}


def test_labels_may_be_anything() -> None:
    weird = sleeper(container='a"\\\n}', pod="ü")
    assert samples(weird)["zeropod_running", ('a"\\\n}', "default", "ü")] == 0


def histograms(bounds: list[float]) -> st.SearchStrategy[Histogram]:
    counts = st.lists(st.integers(0, 1000), min_size=len(bounds) + 1, max_size=len(bounds) + 1)
    return st.builds(Histogram, bounds=st.just(sorted(bounds)), counts=counts, sum=st.floats(0, 1e6))


@given(st.lists(st.lists(st.floats(1e-6, 1e3), unique=True, max_size=5).flatmap(histograms), max_size=4))
def test_histograms_of_any_bounds_add_up(parts: list[Histogram]) -> None:
    buckets, total = merged(parts)
    bounds = [math.inf if bound == "+Inf" else float(bound) for bound, _ in buckets]
    counts = [count for _, count in buckets]
    assert bounds == sorted(set(bounds))
    assert bounds[-1] == math.inf
    assert counts == sorted(counts)
    assert counts[-1] == sum(sum(part.counts) for part in parts)
    assert total == pytest.approx(sum(part.sum for part in parts))


def test_two_who_look_see_the_same_and_take_nothing_away() -> None:
    made = CollectorRegistry()
    made.register(Fixed(sleeper(checkpoint_seconds=histogram(1, 2, 4, total=9.5), dozes=4)))
    assert generate_latest(made) == generate_latest(made)


def test_the_node_and_this_process_are_there_too() -> None:
    text = generate_latest(registry(Node())).decode()
    assert "zeropod_shims 0.0" in text
    assert "process_resident_memory_bytes" in text


def test_all_containers_have_the_three_labels() -> None:
    for family in families([sleeper()]):
        assert all(set(LABELS) <= set(sample.labels) for sample in family.samples), family.name
