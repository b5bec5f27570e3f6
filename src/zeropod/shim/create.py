"""Create a container: from containerd's request to a container that runc has created.

Decides, once, whether it may ever sleep, and why not. Only the bundle of a container that may sleep is changed: its
network namespace gets a name, so that it outlives the processes, and CRIU gets its configuration.
"""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from zeropod import paths
from zeropod.activator.network import avoid_multipath
from zeropod.kernel import mount, namespace
from zeropod.lifecycle import defaults, settings
from zeropod.lifecycle.controller import Controller
from zeropod.lifecycle.defaults import Resolution, Source
from zeropod.lifecycle.reasons import Explanation, Reason
from zeropod.lifecycle.restart import RestartStrategy
from zeropod.lifecycle.settings import SettingsError
from zeropod.lifecycle.suspend import SuspendStrategy
from zeropod.rpc.messages import events_pb2, runc_options_pb2, task_pb2
from zeropod.rpc.status import Code, RpcError
from zeropod.runtime import criu, node_config
from zeropod.runtime.images import ImageStore
from zeropod.runtime.runc import Runc
from zeropod.runtime.spec import CONTAINER_NAME, Spec
from zeropod.runtime.stdio import ProcessIO, Stdio
from zeropod.shim import options as runtime_options
from zeropod.shim.container import Container
from zeropod.shim.errors import reported
from zeropod.shim.pod import Pod
from zeropod.shim.process import Process

HOST_NETWORK = "/proc/self/ns/net"


async def create(request: task_pb2.CreateTaskRequest, pod: Pod) -> Container:
    """Return a container that runc has created. Raises RpcError, and then removes everything of it."""
    if not paths.is_identifier(request.id):
        raise RpcError(Code.INVALID_ARGUMENT, f"{request.id!r} is not an identifier as containerd has them")
    bundle = Path(request.bundle)
    options = runtime_options.read(request.options)
    with reported("cannot create the container"):
        spec = Spec.read(bundle)
    node, complaints = node_config.read()
    try:
        resolution = defaults.resolve(spec.annotations, node.defaults, spec.annotations.get(CONTAINER_NAME, request.id))
    except SettingsError as error:
        raise RpcError(Code.INVALID_ARGUMENT, str(error)) from error
    runc = Runc(
        namespace=pod.namespace,
        bundle=bundle,
        binary=options.binary_name,
        root=options.root,
        systemd_cgroup=options.systemd_cgroup,
        no_pivot=options.no_pivot_root,
        no_new_keyring=options.no_new_keyring,
    )
    stdio = Stdio(request.stdin, request.stdout, request.stderr, request.terminal)
    init = Process(request.id, ProcessIO(stdio))
    container = Container(request.id, spec, resolution, runc, init, pod)
    container.io_owner = (options.io_uid, options.io_gid)
    for annotation in settings.unknown(spec.annotations):
        container.log.warning("annotation %s is unknown to this version and has no effect", annotation)
    pod.complain([*complaints, *map(str, resolution.complaints)], container.log)
    try:
        with reported("cannot prepare the container"):
            _keep_for_delete(container, options)
            _mount_root(request, bundle)
            container.life.explanation = why_never(spec, resolution)
            if container.life.explanation is None:
                _prepare_for_sleep(container)
        if request.checkpoint:
            container.restore_from = Path(request.checkpoint)
        elif not await _has_come_back(container, partial(_renew_root, request, bundle)):
            await container.create()
    except BaseException:
        await container.remove()
        raise
    pod.add(container)
    return container


def _mount_root(request: task_pb2.CreateTaskRequest, bundle: Path) -> None:
    """Raises OSError."""
    for part in request.rootfs:
        mount.mount(part.type, part.source, bundle / "rootfs" / part.target.lstrip("/"), part.options)


def _renew_root(request: task_pb2.CreateTaskRequest, bundle: Path) -> None:
    """Have the root file system as it was mounted, without anything that was written to it. Raises OSError."""
    mount.unmount_below(bundle / "rootfs")
    for option in (option for part in request.rootfs for option in part.options):
        name, _, upper = option.partition("=")
        if name == "upperdir":
            for path in Path(upper).iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
    _mount_root(request, bundle)


async def _has_come_back(container: Container, renew_root: Callable[[], None]) -> bool:
    """Whether the container has come back from what was left for it; it is to be created otherwise."""
    is_asked = container.settings.keep_on_restart or (container.name and paths.has_manager())
    if not is_asked or container.controller is None:
        return False
    from zeropod.shim import arrival  # only what may come back ever needs it

    with reported("cannot prepare the container"):
        why = await arrival.come_back(container, renew_root)
    if container.has_come_back or not why:
        return container.has_come_back
    container.life.failure = container.life.explanation = Reason.STARTED_ANEW.because(why)
    container.log.warning("%s", container.life.failure)
    return False


def created_event(request: task_pb2.CreateTaskRequest, pid: int) -> events_pb2.TaskCreate:
    io = events_pb2.TaskIO(stdin=request.stdin, stdout=request.stdout, stderr=request.stderr, terminal=request.terminal)
    return events_pb2.TaskCreate(
        container_id=request.id,
        bundle=request.bundle,
        rootfs=request.rootfs,
        io=io,
        checkpoint=request.checkpoint,
        pid=pid,
    )


def why_never(spec: Spec, resolution: Resolution) -> Explanation | None:
    """Return why this container will never sleep; None if it may."""
    wanted = resolution.settings
    namespaces = spec.namespaces
    if spec.is_sandbox:
        return Reason.SANDBOX.because()
    if not wanted.selected:
        return Reason.NOT_SELECTED.because(_owner("container-names", resolution))
    if not wanted.scaledown:
        return Reason.NO_SCALEDOWN.because(_owner("scaledown-duration", resolution))
    path = namespaces.get("network")
    if path is None or (path and namespace.same(path, HOST_NETWORK)):
        return Reason.HOST_NETWORK.because()
    if "user" in namespaces and not path:
        return Reason.USER_NAMESPACE.because()
    return None


def _owner(key: str, resolution: Resolution) -> str:
    """Return the prefix of a setting's name in messages: that of a pod's annotation, or that it is a default."""
    source = resolution.source(key)
    return settings.PREFIX if source is Source.POD else f"the {source}'s default for "


def _prepare_for_sleep(container: Container) -> None:
    spec, store = container.spec, ImageStore.of(container.runc.namespace, container.id)
    network = spec.namespaces["network"]
    if not network:
        container.pinned_network = paths.network(container.runc.namespace, container.id)
        paths.make_private(container.pinned_network.parent)
        namespace.unpin(container.pinned_network)
        namespace.create_pinned(container.pinned_network)
        network = str(container.pinned_network)
        spec = spec.with_network(network)
    avoid_multipath(network)
    store.prepare()
    own = Path(spec.annotations.get(criu.CONFIG_ANNOTATION, criu.DEFAULT_CONFIG))
    container.criu_configuration = own.read_text() if own.exists() else ""
    container.configure_criu()
    container.spec = spec.with_annotation(criu.CONFIG_ANNOTATION, str(store.config))
    container.spec.write()
    container.controller = Controller(
        container, network, RestartStrategy if container.settings.disable_checkpointing else SuspendStrategy
    )


def _keep_for_delete(container: Container, options: runc_options_pb2.Options) -> None:
    """Save what `delete` needs if this shim dies."""
    bundle, pod = container.runc.bundle, paths.pod(container.runc.namespace, container.group)
    kept = {"root": options.root, "binary_name": options.binary_name, "bundle": str(bundle)}
    paths.make_private(pod)
    for path in (bundle / "options.json", pod / container.id):
        path.write_text(json.dumps(kept))
