"""Counters and histograms of one container's sleep."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.shim.fakes import World

from zeropod.lifecycle.metrics import BOUNDS, ContainerMetrics, Histogram
from zeropod.rpc.messages import status_pb2
from zeropod.runtime import spec


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0.0, 0), (BOUNDS[0], 0), (BOUNDS[0] * 1.01, 1), (0.15, 8), (60.0, 15), (61.0, 16)]
)
def test_a_bound_belongs_to_its_bucket_as_prometheus_has_it(seconds: float, bucket: int) -> None:
    histogram = Histogram()
    histogram.observe(seconds)
    assert histogram.counts.index(1) == bucket


@given(st.lists(st.floats(0, 1e6)))
def test_every_observation_is_in_one_bucket_and_in_the_sum(observations: list[float]) -> None:
    histogram = Histogram()
    for seconds in observations:
        histogram.observe(seconds)
    message = histogram.message()
    assert sum(message.counts) == histogram.count == len(observations)
    assert message.sum == pytest.approx(sum(observations))
    assert len(message.counts) == len(message.bounds) + 1


def test_sleeps_and_wakes_are_told_with_their_times() -> None:
    metrics = ContainerMetrics()
    metrics.slept(0.2, 1_000)
    metrics.woke(0.001, 2_000, cold=False)
    metrics.woke(0.1, 3_000, cold=True)
    status = status_pb2.ContainerStatus()
    metrics.describe(status)
    assert (status.checkpoints, status.restores) == (1, 2)
    assert (sum(status.standby_wake_seconds.counts), sum(status.cold_wake_seconds.counts)) == (1, 1)
    assert (status.last_checkpoint.ToNanoseconds(), status.last_restore.ToNanoseconds()) == (1_000, 3_000)
    assert status.last_restore_ms == 100.0


def test_before_the_first_there_is_no_time() -> None:
    status = status_pb2.ContainerStatus()
    ContainerMetrics().describe(status)
    assert not status.HasField("last_checkpoint")
    assert not status.HasField("last_restore")


async def test_a_container_of_the_pod_goes_on_counting_where_its_predecessor_ended(world: World) -> None:
    first = world.container
    first.spec = first.spec.with_annotation(spec.CONTAINER_NAME, "nginx")
    first.metrics.dozes = 7
    assert world.pod.metrics_of("nginx") is not first.metrics, "it exists yet: the two would be added up"
    world.pod.remove(first)
    assert world.pod.metrics_of("other").dozes == 0
    assert world.pod.metrics_of("nginx").dozes == 7
    assert world.pod.metrics_of("nginx").dozes == 0, "only one successor has them"


async def test_without_a_pod_nothing_is_kept_of_a_container_that_is_gone(world: World) -> None:
    world.container.metrics.dozes = 7
    world.pod.remove(world.container)
    assert world.pod.metrics_of("").dozes == 0
