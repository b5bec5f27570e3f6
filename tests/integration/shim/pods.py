"""Scenarios: pods and their containers through the CRI, as a kubelet works with them."""

import os
import time

from tests.integration import node
from tests.integration.cri import Container, Cri
from tests.integration.patience import patient
from tests.integration.protos import cri_v1_pb2 as v1
from tests.integration.shim.scenario import Outcome, World, normal, refusal, scenario
from tests.integration.shimsocket import address

IMAGE = "localhost/redis:test"


def _ended(container: Container) -> tuple[str, int, str, str]:
    status = container.wait()
    state = v1.ContainerState.Name(status.state)
    return state, status.exit_code, status.reason, normal(status.message)


def _bundle(id: str) -> str:
    return f"{node.TASKS}/k8s.io/{id}"


@scenario
def a_pod_of_two_containers(world: World) -> Outcome:
    with Cri() as cri, cri.pod(handler=world.handler) as pod:
        first = pod.container("first", IMAGE)
        second = pod.container(
            "second", IMAGE, command=["sh", "-c", "echo hello; sleep 0.1; echo oops >&2; exec sleep 1000"]
        )
        shims = {address(_bundle(name)) for name in (pod.id, first.id, second.id)}
        outcome: Outcome = {
            "states": (first.state, second.state),
            "shims": len(shims),
            "ip": pod.ip.startswith("10.88."),
        }
        node.until(lambda: len(second.records()) == 2, "both lines are in the log")
        node.until(lambda: b"PONG" in second.exec("redis-cli", "ping").stdout, "redis answers over localhost")
        executed = first.exec("sh", "-c", "echo out; echo err >&2; exit 6")
        outcome["exec"] = (executed.exit_code, executed.stdout, executed.stderr)
        outcome["logs"] = [(record.stream, record.tag, record.text) for record in second.records()]
        listed = cri.list_containers(pod.id)
        outcome["listed"] = sorted((entry.metadata.name, v1.ContainerState.Name(entry.state)) for entry in listed)
        outcome["missing program"] = refusal(lambda: first.exec("no-such-program"))
        outcome["exec timeout"] = refusal(lambda: first.exec("sleep", "1000", timeout=1)).partition(":")[0]
        first.stop(5)
        outcome["stopped"] = _ended(first)
        outcome["other"] = second.state
        second.stop()
        outcome["killed"] = _ended(second)
    node.until(lambda: not node.leftovers(pod.id), f"nothing is left of the pod, but {node.leftovers(pod.id)}")
    return outcome


@scenario
def two_pods_side_by_side(world: World) -> Outcome:
    with Cri() as cri, cri.pod(handler=world.handler) as one, cri.pod(handler=world.handler) as other:
        boxes = [pod.container("redis", IMAGE) for pod in (one, other)]
        outcome: Outcome = {
            "addresses differ": one.ip != other.ip,
            "shims": len({address(_bundle(pod.id)) for pod in (one, other)}),
        }
        for number, box in enumerate(boxes):
            node.until(lambda box=box: box.exec("redis-cli", "ping").exit_code == 0, "redis answers")  # type: ignore[misc]
            box.exec("redis-cli", "set", "who", str(number))
        outcome["answers"] = [box.exec("redis-cli", "get", "who").stdout for box in boxes]
        one.remove()
        return outcome | {"other lives": boxes[1].exec("redis-cli", "get", "who").stdout}


@scenario
def a_container_restarted_in_its_pod(world: World) -> Outcome:
    with Cri() as cri, cri.pod(handler=world.handler) as pod:
        first = pod.container("app", IMAGE, command=["sh", "-c", "echo attempt 0; exit 1"])
        outcome: Outcome = {"first": _ended(first), "first log": first.logs()}
        second = pod.container("app", IMAGE, command=["sh", "-c", "echo attempt 1; exec sleep 1000"], attempt=1)
        outcome["second"] = second.state
        node.until(lambda: second.logs() != "", "the second attempt has written")
        first.remove()
        return outcome | {"second log": second.logs(), "still": second.state}


@scenario
def a_container_whose_program_does_not_exist(world: World) -> Outcome:
    with Cri() as cri, cri.pod(handler=world.handler) as pod:
        box = pod.container("app", IMAGE, command=["no-such-program"], start=False)
        outcome: Outcome = {"start": refusal(box.start), "ended": _ended(box)}
        again = pod.container("app", IMAGE, command=["sleep", "1000"], attempt=1)
        return outcome | {"again": again.state}


@scenario
def a_container_out_of_memory(world: World) -> Outcome:
    limit = v1.LinuxContainerResources(memory_limit_in_bytes=16 << 20, memory_swap_limit_in_bytes=16 << 20)
    with Cri() as cri, cri.pod(handler=world.handler) as pod:
        box = pod.container("app", IMAGE, command=["tail", "-c", "60000000", "/dev/zero"], resources=limit)
        return {"ended": _ended(box)}


@scenario
def resources_and_statistics_of_a_pod(world: World) -> Outcome:
    def limits() -> str:
        return box.exec(
            "sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max"
        ).stdout.decode()

    limit = v1.LinuxContainerResources(memory_limit_in_bytes=64 << 20, cpu_shares=512)
    parent = node.pod_cgroup()
    with Cri() as cri, cri.pod(handler=world.handler, cgroup_parent=parent) as pod:
        box = pod.container("app", IMAGE, resources=limit)
        outcome: Outcome = {"limit": limits()}
        cri.update_container_resources(box.id, v1.LinuxContainerResources(memory_limit_in_bytes=96 << 20))
        outcome["updated"] = limits()
        stats = box.stats
        outcome["memory"] = (stats.memory.working_set_bytes.value > 0, stats.memory.rss_bytes.value > 0)
        outcome["cpu"] = stats.cpu.usage_core_nano_seconds.value > 0
        outcome["name"] = stats.attributes.metadata.name
        inside = cri.pod_sandbox_stats(pod.id).linux
        outcome["pod"] = (
            inside.process.process_count.value,
            [entry.attributes.metadata.name for entry in inside.containers],
        )
    node.remove_cgroups(parent)
    return outcome


@scenario
def a_log_that_is_rotated(world: World) -> Outcome:
    with Cri() as cri, cri.pod(handler=world.handler) as pod:
        box = pod.container(
            "app", IMAGE, command=["sh", "-c", "i=0; while [ $i -lt 40 ]; do i=$((i+1)); echo $i; sleep 0.01; done"]
        )
        time.sleep(0.15)
        os.rename(box.log, f"{box.log}.1")
        cri.reopen_container_log(box.id)
        outcome: Outcome = {"ended": _ended(box)}
        with open(f"{box.log}.1") as file:
            old = [line.rsplit(" ", 1)[1].strip() for line in file]
        lines = old + box.logs().split()
        return outcome | {"all lines in order": lines == [str(number) for number in range(1, 41)]}


@scenario
def a_pod_with_a_shared_pid_namespace(world: World) -> Outcome:
    with Cri() as cri, cri.pod(handler=world.handler, shared_pid=True) as pod:
        first = pod.container("first", IMAGE, command=["sh", "-c", "sleep 4711 & exec sleep 4712"])
        second = pod.container("second", IMAGE, command=["sleep", "4713"])
        seen = second.exec("sh", "-c", "ps -o args | grep -c 'sleep 471[1-3]'").stdout
        first.stop()
        outcome: Outcome = {"seen": seen, "ended": _ended(first), "second": second.state}
        left = second.exec("sh", "-c", "ps -o args | grep 'sleep 471[1-3]' | grep -v grep").stdout
        return outcome | {"left": left}


@scenario
def a_pod_in_the_nodes_network(world: World) -> Outcome:
    with Cri() as cri, cri.pod(handler=world.handler, host_network=True) as pod:
        box = pod.container(
            "app", IMAGE, command=["sh", "-c", "cat /proc/net/dev | grep -c cni || true; exec sleep 1000"]
        )
        return {"ip": pod.ip, "state": box.state}


@scenario
def a_pod_survives_a_restart_of_containerd(world: World) -> Outcome:
    with Cri() as cri, cri.pod(handler=world.handler) as pod:
        program = f"i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo $i; sleep {patient(0.02)}; done; exit 9"
        counting = pod.container("counting", IMAGE, command=["sh", "-c", program])
        redis = pod.container("redis", IMAGE)
        node.until(lambda: redis.exec("redis-cli", "set", "a", "b").exit_code == 0, "redis answers")
        node.start_containerd(*node.stop_containerd())
        outcome: Outcome = {"ended": _ended(counting)}
        node.until(lambda: counting.logs().endswith("60\n"), "the last line is in the log")
        outcome["lines"] = counting.logs().split() == [str(number) for number in range(1, 61)]
        outcome["data"] = redis.exec("redis-cli", "get", "a").stdout
        return outcome | {"state": redis.state}


@scenario
def a_container_that_ignores_sigterm(world: World) -> Outcome:
    with Cri() as cri, cri.pod(handler=world.handler) as pod:
        box = pod.container("app", IMAGE, command=["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"])
        start = time.monotonic()
        box.stop(1)
        return {"ended": _ended(box), "patience": 0.9 < time.monotonic() - start < patient(4)}
