"""The images that the suites ask for, under the names that they ask for, in an archive of their own.

Made of the node's Debian, as the tests' own images are: no registry can be reached. A busybox has all of its applets
here; Kubernetes' agnhost is built from Kubernetes' module (tests/node/kubernetes.py).
"""

from collections.abc import Iterator
from pathlib import Path

from tests.node import images, layers
from tests.node.cache import cached, digest, say
from tests.node.chroot import output_inside
from tests.node.images import Image

CRI_TOOLS = "gcr.io/k8s-staging-cri-tools"
E2E = "registry.k8s.io/e2e-test-images"

USERS = {
    "/etc/passwd": b"""\
root:x:0:0:root:/root:/bin/sh
www-data:x:33:33::/var/www:/bin/false
default-user:x:1000:1000::/home/default-user:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
""",
    "/etc/group": b"""\
root:x:0:
www-data:x:33:
default-user:x:1000:
group-defined-in-image:x:50000:default-user
nogroup:x:65534:
""",
}
IMAGE_USERS = {
    f"{CRI_TOOLS}/test-image-user-uid:latest": "1002",
    f"{CRI_TOOLS}/test-image-user-username:latest": "www-data",
    f"{CRI_TOOLS}/test-image-user-uid-group:latest": "1003:1004",
    f"{CRI_TOOLS}/test-image-user-username-group:latest": "www-data:1004",
    f"{CRI_TOOLS}/test-image-predefined-group:latest": "1000",
    f"{E2E}/nonroot:1.5": "1234",
}
"""Images that are a busybox with a user of their own."""
BUSYBOXES = (f"{E2E}/busybox:1.29-2", f"{E2E}/busybox:1.37.0-2")
BUSYBOX_PROGRAMS = ("/usr/bin/ipcs", "/usr/bin/pgrep")
"""What a busybox has elsewhere, and Debian's has not."""
PULLED = {
    f"{CRI_TOOLS}/test-image-tag:test": b"tag",
    f"{CRI_TOOLS}/test-image-tag:all": b"tag",
    f"{CRI_TOOLS}/test-image-latest:latest": b"latest",
    **{f"{CRI_TOOLS}/test-image-{number}:latest": b"%d" % number for number in (1, 2, 3)},
    **{f"{CRI_TOOLS}/test-image-tags:{number}": b"tags" for number in (1, 2, 3)},
    "registry.k8s.io/pause:3.9": b"pause",
    "k8s.gcr.io/pause:3.9": b"pause",
}
"""Images that are pulled and removed, with what they differ in."""
NGINXES = {
    f"{E2E}/nginx:1.14-2": 80,
    f"{E2E}/nginx:1.27.0-2": 80,
    f"{E2E}/nginx:1.28.0-2": 80,
    f"{CRI_TOOLS}/hostnet-nginx-amd64:latest": 12003,
}
"""With the port that each of them listens to."""
HTTPD = f"{E2E}/httpd:2.4.39-4"
NNP = "/usr/local/bin/nnp"
AGNHOSTS = (f"{E2E}/agnhost:2.55", f"{E2E}/agnhost:2.66.1")
AGNHOST_PROGRAMS = ("/usr/bin/bash", "/usr/bin/curl", "/usr/bin/ipcs", "/usr/bin/ss")
PAUSE = "registry.k8s.io/pause:3.10.2"


def _common(tree: Path) -> Iterator[Image]:
    applets = {f"/usr/bin/{name}": "busybox" for name in output_inside(tree, ["/usr/bin/busybox", "--list"]).split()}
    for name in ("busybox", "pgrep"):
        applets.pop(f"/usr/bin/{name}", None)
    for name in BUSYBOXES:
        yield Image(name, (), ("sh",), programs=BUSYBOX_PROGRAMS, links=applets)
    for name, user in IMAGE_USERS.items():
        yield Image(name, (), ("sh",), user, links=applets, files=USERS)
    for name, port in NGINXES.items():
        configuration = images.NGINX_CONF.replace(b"80;", b"%d;" % port)
        yield Image(
            name,
            ("nginx", "-c", "/etc/nginx/nginx.conf"),
            programs=("/usr/sbin/nginx",),
            files={"/etc/nginx/nginx.conf": configuration, "/srv/index.html": b"Welcome to nginx!\n"},
            links={"/var/run": "/run"},
            directories=("/var/log/nginx", "/var/lib/nginx"),
        )


def _of_critest(programs: Path) -> Iterator[Image]:
    for name, text in PULLED.items():
        yield Image(name, (), ("sh",), files={"/etc/image": text})
    yield Image(f"{E2E}/nonewprivs:1.3", (), ("nnp",), files={NNP: (programs / "nnp").read_bytes()}, setuid=(NNP,))
    serve = ("sh", "-c", "echo httpd; exec busybox httpd -f -h /srv")
    yield Image(HTTPD, (), serve, files={"/srv/index.html": b"It works!\n"})


def _of_kubernetes(programs: Path) -> Iterator[Image]:
    agnhost = (programs / "agnhost").read_bytes()
    users = {name: data.replace(b"default-user", b"user-defined-in-image") for name, data in USERS.items()}
    for name in AGNHOSTS:
        yield Image(
            name,
            ("/agnhost",),
            ("pause",),
            programs=AGNHOST_PROGRAMS,
            files={"/agnhost": agnhost, **users},
            links={"/agnhost-2": "agnhost"},
            directories=("/uploads",),
        )
    yield Image(PAUSE, ("/agnhost", "pause"), files={"/agnhost": agnhost})
    yield Image(f"{E2E}/nonewprivs:1.4", (), ("nnp",), files={NNP: (programs / "nnp").read_bytes()}, setuid=(NNP,))


def archive(tree: Path, suite: str, programs: Path) -> Path:
    """The archive for "critest" or "e2e", with these programs; built when it is missing."""
    own = {"critest": _of_critest, "e2e": _of_kubernetes}[suite]

    def build(target: Path) -> None:
        say(f"the images of {suite}")
        (target / f"{suite}.tar").write_bytes(images.oci_archive(tree, [*_common(tree), *own(programs)]))

    sources = [Path(module).read_bytes() for module in (__file__, images.__file__, layers.__file__)]
    return cached(suite, digest(tree.name, programs.name, *sources), build) / f"{suite}.tar"
