"""The containers of the DaemonSet as its manifest has them: their command, their host paths, and no privilege more."""

from collections.abc import Sequence
from pathlib import Path

import yaml
from tests.integration.cri import Container, Pod
from tests.integration.protos import cri_v1_pb2 as v1

MANIFEST = Path("/src/installer/manifests/base/daemon-set.yaml")


def container(pod: Pod, name: str, bundle: Path, arguments: Sequence[str] = ()) -> Container:
    """Starts one of them, with further arguments; `bundle` is what the node image has at /zeropod."""
    (manifest,) = yaml.safe_load_all(MANIFEST.read_text())
    spec = manifest["spec"]["template"]["spec"]
    (wanted,) = (entry for entry in spec["initContainers"] + spec["containers"] if entry["name"] == name)
    paths = {volume["name"]: volume["hostPath"]["path"] for volume in spec["volumes"]}
    context = wanted["securityContext"]
    mounts = [
        v1.Mount(
            container_path=mount["mountPath"], host_path=paths[mount["name"]], readonly=mount.get("readOnly", False)
        )
        for mount in wanted["volumeMounts"]
    ]
    number = f"{name}-{len(pod.containers)}"
    config = v1.ContainerConfig(
        metadata=v1.ContainerMetadata(name=number),
        image=v1.ImageSpec(image="localhost/python:test"),
        command=wanted["command"],
        args=[*wanted.get("args", ()), *arguments],
        mounts=[v1.Mount(container_path="/zeropod", host_path=str(bundle), readonly=True), *mounts],
        log_path=f"{number}.log",
        linux=v1.LinuxContainerConfig(
            security_context=v1.LinuxContainerSecurityContext(
                namespace_options=pod.config.linux.security_context.namespace_options,
                capabilities=v1.Capability(
                    add_capabilities=context["capabilities"].get("add", ()),
                    drop_capabilities=context["capabilities"]["drop"],
                ),
                run_as_user=v1.Int64Value(value=context["runAsUser"]),
                run_as_group=v1.Int64Value(value=context.get("runAsGroup", 0)),
                readonly_rootfs=context["readOnlyRootFilesystem"],
                no_new_privs=not context["allowPrivilegeEscalation"],
                seccomp=v1.SecurityProfile(profile_type=v1.SecurityProfile.ProfileType.RuntimeDefault),
            )
        ),
    )
    created = pod.cri.create_container(pod.id, config, pod.config)
    made = Container(pod, number, created, f"{pod.config.log_directory}/{config.log_path}")
    pod.containers.append(made)
    made.start()
    return made
