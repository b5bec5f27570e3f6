"""The container images of the tests, in one OCI archive for ``ctr images import``.

No registry is asked: an image is a few files of the node's own Debian tree on top of a shared layer with a
shell. The format is the OCI image layout; containerd imports an image under the name that the index's
``io.containerd.image.name`` gives.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.node import layers
from tests.node.cache import cached, digest, say
from tests.node.layers import Layer, member, tar

# Workers keep root's uid: CRIU needs CAP_SYS_RESOURCE to dump a process of another user, and a machine in a
# sandbox may lack it.
NGINX_CONF = b"""\
user root;
daemon off;
worker_processes 2;
pid /run/nginx.pid;
error_log /dev/stderr;
events { worker_connections 256; }
http {
    access_log off;
    default_type text/plain;
    server {
        listen 80;
        listen [::]:80;
        root /srv;
        location / { index index.html; }
    }
}
"""

# Pid 1 has no default handlers: without the trap a pod would end by SIGKILL, ten or thirty seconds late.
PAUSE = b"""\
#!/bin/sh
trap 'exit 0' TERM INT
while :; do sleep 2147483647 & wait $!; done
"""

# fmt: off
APPLETS = (
    "cat", "chmod", "cp", "date", "dd", "echo", "env", "false", "grep", "head", "hostname", "id", "ip",
    "kill", "ls", "mkdir", "mount", "nc", "ps", "rm", "sed", "seq", "sh", "sleep", "stat", "sync", "tail",
    "tar", "test", "touch", "tr", "true", "wc", "wget",
)
# fmt: on

ACCOUNTS = {
    "/etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "/etc/group": b"root:x:0:\nnogroup:x:65534:\n",
}
REDIS = ("redis-server", "--save", "", "--protected-mode", "no", "--port", "6379")
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Image:
    """What one image adds to the shared layer, and what it starts."""

    name: str
    entrypoint: tuple[str, ...]
    command: tuple[str, ...] = ()
    user: str = ""
    programs: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    """Files of the tree that are no programs."""
    trees: Mapping[str, int] = field(default_factory=dict)
    """Directories of the tree with all that is in them, and whose they are."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    setuid: tuple[str, ...] = ()
    """Those of the files that run as their owner."""
    links: Mapping[str, str] = field(default_factory=dict)
    directories: tuple[str, ...] = ()
    python: bool = False

    def layer(self, tree: Path) -> bytes:
        """The image's own layer."""
        layer = Layer(tree)
        for directory in self.directories:
            layer.directory(directory)
        for program in self.programs:
            layer.copy_program(program)
        for name in self.copies:
            layer.copy(name)
        for name, owner in self.trees.items():
            layer.copy_tree(name, owner)
        for name, data in self.files.items():
            layer.file(name, data)
        for name in self.setuid:
            layer.make_setuid(name)
        for name, target in self.links.items():
            layer.link(name, target)
        if self.python:
            layer.copy_python()
        return layer.archive()


IMAGES = (
    Image("localhost/pause:test", ("/pause",), files={"/pause": PAUSE}),
    Image(
        "localhost/redis:test",
        (*REDIS, "--enable-debug-command", "yes"),
        programs=("/usr/bin/redis-server", "/usr/bin/redis-cli"),
    ),
    Image(
        "localhost/nginx:test",
        ("nginx", "-c", "/etc/nginx/nginx.conf"),
        programs=("/usr/sbin/nginx",),
        files={"/etc/nginx/nginx.conf": NGINX_CONF, "/srv/index.html": b"hello from nginx\n"},
        directories=("/var/log/nginx", "/var/lib/nginx"),
    ),
    Image("localhost/python:test", ("python3",), programs=("/usr/bin/python3",), python=True),
)


def archive(rootfs: Path) -> Path:
    """The archive with all images, built when it is missing."""

    def build(target: Path) -> None:
        say("the container images")
        (target / "images.tar").write_bytes(oci_archive(rootfs, IMAGES))

    sources = [Path(module).read_bytes() for module in (__file__, layers.__file__)]
    return cached("images", digest(rootfs.name, *sources), build) / "images.tar"


def oci_archive(tree: Path, images: Iterable[Image]) -> bytes:
    """An OCI archive with these images, from the files of ``tree``."""
    blobs: dict[str, bytes] = {}

    def blob(kind: str, data: bytes) -> dict[str, object]:
        name = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{name}"] = data
        media_type = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(data)}

    shell = _shell(tree)
    manifests = []
    for image in images:
        stack = [blob("layer.v1.tar", layer) for layer in (shell, image.layer(tree))]
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Entrypoint": image.entrypoint,
                "Cmd": image.command,
                "Env": [PATH],
                "User": image.user,
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in stack]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": blob("config.v1+json", _json(config)),
            "layers": stack,
        }
        name = {"annotations": {"io.containerd.image.name": image.name}}
        manifests.append(blob("manifest.v1+json", _json(manifest)) | name)
    members = blobs | {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json({"schemaVersion": 2, "manifests": manifests}),
    }
    return tar(member(name, data) for name, data in sorted(members.items()))


def _shell(tree: Path) -> bytes:
    """The layer under all images: a merged /usr, busybox, root's account."""
    layer = Layer(tree)
    for name in sorted(layers.MERGED):
        layer.directory(f"/usr/{name}")
        layer.link(f"/{name}", f"usr/{name}")
    for name in ("/dev", "/etc", "/proc", "/root", "/run", "/srv", "/sys", "/var/log"):
        layer.directory(name)
    layer.directory("/tmp", 0o1777)
    layer.copy("/usr/bin/busybox")
    for applet in APPLETS:
        layer.link(f"/usr/bin/{applet}", "busybox")
    for name, data in ACCOUNTS.items():
        layer.file(name, data)
    return layer.archive()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
