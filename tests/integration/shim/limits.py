"""Scenarios: what the cgroup does and says: pause, limits, statistics, the OOM killer; and checkpoints on request."""

import io
import os
import signal
import tarfile
import tempfile
import time

from google.protobuf.message import Message
from tests.integration.containerd import Container, Spec
from tests.integration.shim.scenario import Outcome, World, refusal, scenario

from zeropod.rpc.messages import cgroups_v1_pb2, cgroups_v2_pb2, runc_options_pb2

COUNTER = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"
METRICS: dict[str, type[cgroups_v1_pb2.Metrics] | type[cgroups_v2_pb2.Metrics]] = {
    "io.containerd.cgroups.v1.Metrics": cgroups_v1_pb2.Metrics,
    "io.containerd.cgroups.v2.Metrics": cgroups_v2_pb2.Metrics,
}


@scenario
def pause_and_resume(world: World) -> Outcome:
    with world.container("sh", "-c", COUNTER) as box:
        box.run().streams.stdout.until(b"3\n")
        box.pause()
        outcome: Outcome = {"paused": box.status()}
        time.sleep(0.1)
        before = len(box.streams.stdout.data)
        time.sleep(0.3)
        outcome["still"] = len(box.streams.stdout.data) == before
        outcome["pause again"] = refusal(box.pause)
        outcome["exec while paused"] = refusal(lambda: box.exec("more", "true").start())
        box.resume()
        outcome["resumed"] = box.status()
        outcome["resume again"] = refusal(box.resume)
        time.sleep(0.3)
        outcome["goes on"] = len(box.streams.stdout.data) > before
        return outcome | {"topics": world.topics(box, "resumed")}


@scenario
def kill_while_paused(world: World) -> Outcome:
    with world.container("sleep", "1000") as box:
        box.run().pause()
        kill = refusal(lambda: box.kill(signal.SIGKILL))
        outcome: Outcome = {"kill": kill}
        try:
            outcome["exit"] = box.wait(timeout=2)
        except Exception as error:  # noqa: BLE001 (whatever it is, both runtimes have to show it)
            outcome["exit"] = type(error).__name__
            outcome["state"] = box.status()
            box.resume()
            outcome["exit after resume"] = box.wait()
        return outcome


def _limited(spec: Spec) -> None:
    spec["linux"]["resources"] |= {
        "memory": {"limit": 64 << 20},
        "cpu": {"quota": 50_000, "period": 100_000, "shares": 512},
        "pids": {"limit": 50},
    }


def _limits(box: Container) -> dict[str, str]:
    files = {
        "memory": ("memory", "memory.limit_in_bytes", "memory.max"),
        "quota": ("cpu", "cpu.cfs_quota_us", "cpu.max"),
        "shares": ("cpu", "cpu.shares", "cpu.weight"),
        "pids": ("pids", "pids.max", "pids.max"),
    }
    found = {}
    for key, (controller, *names) in files.items():
        for name in names:
            try:
                found[key] = box.cgroup_file(controller, name)
                break
            except FileNotFoundError:
                continue
    return found


@scenario
def update_of_limits(world: World) -> Outcome:
    with world.container("sleep", "1000", spec=_limited) as box:
        box.run()
        outcome: Outcome = {"at first": _limits(box)}
        box.update(
            {
                "memory": {"limit": 96 << 20},
                "cpu": {"quota": 80_000, "period": 100_000, "shares": 256},
                "pids": {"limit": 70},
            }
        )
        outcome["updated"] = _limits(box)
        outcome["impossible"] = refusal(lambda: box.update({"memory": {"limit": 4096}})).partition(":")[0]
        outcome["nonsense"] = refusal(lambda: box.update({"cpu": {"cpus": "900-901"}})).partition(":")[0]
        return outcome | {"state": box.status()}


def _present(message: Message, prefix: str = "") -> list[str]:
    """The dotted names of all message fields that are set; of repeated ones, the first element's."""
    names = []
    for field, value in message.ListFields():
        name = prefix + field.name
        if field.message_type is None:
            continue
        names.append(name)
        one = value if isinstance(value, Message) else value[0]
        names += _present(one, f"{name}.")
    return names


@scenario
def statistics(world: World) -> Outcome:
    with world.container(
        "sh", "-c", "head -c 8000000 /dev/zero | tail -c 8000000 >/dev/null; echo ready; sleep 1000", spec=_limited
    ) as box:
        box.run().streams.stdout.until(b"ready")
        data = box.metrics()
        metrics = METRICS[data.type_url]()
        metrics.ParseFromString(data.value)
        outcome: Outcome = {"type": data.type_url, "fields": _present(metrics)}
        if isinstance(metrics, cgroups_v1_pb2.Metrics):
            memory = metrics.memory.usage
            outcome["memory"] = (memory.limit, 0 < memory.usage < 64 << 20, memory.usage <= memory.max, memory.failcnt)
            outcome["cpu"] = (metrics.cpu.usage.total > 0, len(metrics.cpu.usage.per_cpu) > 0)
            outcome["statistics"] = sorted(
                field.name
                for field, _ in metrics.memory.ListFields()
                if field.name in {"total_rss", "rss", "cache", "pg_fault"}
            )
        else:
            outcome["memory"] = (metrics.memory.usage_limit, 0 < metrics.memory.usage < 64 << 20)
            outcome["cpu"] = metrics.cpu.usage_usec > 0
        outcome["pids"] = (metrics.pids.current, metrics.pids.limit)
        return outcome


@scenario
def statistics_of_a_stopped_task(world: World) -> Outcome:
    with world.container("true") as box:
        box.run().wait()
        return {"stats": refusal(box.metrics)}


@scenario
def out_of_memory(world: World) -> Outcome:
    def change(spec: Spec) -> None:
        spec["linux"]["resources"]["memory"] = {"limit": 16 << 20, "swap": 16 << 20}

    with world.container("tail", "-c", "60000000", "/dev/zero", spec=change) as box:
        outcome: Outcome = {"exit": box.run().wait()}
        world.events.until(box.id, "oom")
        return outcome | {"topics": sorted(set(world.topics(box, "exit")))}


@scenario
def out_of_memory_in_an_exec(world: World) -> Outcome:
    def change(spec: Spec) -> None:
        spec["linux"]["resources"]["memory"] = {"limit": 16 << 20, "swap": 16 << 20}

    with world.container("sleep", "1000", spec=change) as box:
        box.run()
        more = box.exec("more", "tail", "-c", "60000000", "/dev/zero").run()
        outcome: Outcome = {"exit": more.wait()}
        world.events.until(box.id, "oom")
        return outcome | {"container": box.status()}


def _checkpoint(world: World, *, exit: bool) -> Outcome:
    with tempfile.TemporaryDirectory() as directory:
        images, work = os.path.join(directory, "images"), os.path.join(directory, "work")
        with world.container("sh", "-c", "trap 'exit 5' TERM; echo ready; sleep 1000 & while :; do wait; done") as box:
            box.run().streams.stdout.until(b"ready")
            options = runc_options_pb2.CheckpointOptions(exit=exit, image_path=images, work_path=work)
            kept = box.checkpoint(options)
            if os.path.isdir(images):
                names = os.listdir(images)
            else:
                # containerd 1.7 heeds the path only where the runtime's name begins with io.containerd.runc; for all
                # others it has the images made in a directory of its own, and keeps them itself.
                with tarfile.open(fileobj=io.BytesIO(world.client.read_content(kept[0].digest))) as archive:
                    names, kept = archive.getnames(), ()
            outcome: Outcome = {"descriptors": len(kept)}
            outcome["images"] = sorted({"inventory.img", "pstree.img"} & {os.path.basename(name) for name in names})
            outcome["log"] = os.path.exists(os.path.join(work, "dump.log"))
            if not exit:
                outcome["state"] = box.status()
                box.kill(signal.SIGTERM)
            return outcome | {
                "exit": box.wait(),
                "topics": [topic for topic in world.topics(box, "exit") if topic != "delete"],
            }


@scenario
def a_checkpoint_on_request(world: World) -> Outcome:
    return _checkpoint(world, exit=False)


@scenario
def a_checkpoint_on_request_that_ends_the_task(world: World) -> Outcome:
    return _checkpoint(world, exit=True)
