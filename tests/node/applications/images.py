"""The images of the applications, in an archive of their own."""

from pathlib import Path

from tests.node import images, layers
from tests.node.applications import tree
from tests.node.applications.tree import COMPILED, HERE, POSTGRES
from tests.node.cache import cached, digest, say
from tests.node.images import ACCOUNTS, Image

WWW_DATA = {
    "/etc/passwd": ACCOUNTS["/etc/passwd"] + b"www-data:x:33:33::/:/bin/false\n",
    "/etc/group": ACCOUNTS["/etc/group"] + b"www-data:x:33:\n",
}
POSTGRES_ACCOUNT = {
    "/etc/passwd": ACCOUNTS["/etc/passwd"] + b"postgres:x:%d:%d::/:/bin/false\n" % (POSTGRES, POSTGRES),
    "/etc/group": ACCOUNTS["/etc/group"] + b"postgres:x:%d:\n" % POSTGRES,
}
APACHE = "/usr/lib/apache2/modules"


def applications(debian: Path) -> tuple[Image, ...]:
    """All of them, with what is in this tree."""

    def source(name: str) -> bytes:
        return (HERE / name).read_bytes()

    def place(pattern: str) -> str:
        """The one directory or file of the tree with such a name, whose version we need not know."""
        (found,) = debian.glob(pattern.lstrip("/"))
        return f"/{found.relative_to(debian)}"

    java, postgresql = place("/usr/lib/jvm/java-[0-9][0-9]-openjdk-amd64"), place("/usr/lib/postgresql/*")
    fpm = place("/usr/sbin/php-fpm*")
    return (
        Image(
            "localhost/nginx-www-data:test",
            ("nginx", "-c", "/etc/nginx/nginx.conf"),
            programs=("/usr/sbin/nginx",),
            files={"/etc/nginx/nginx.conf": source("nginx.conf"), **WWW_DATA},
            directories=("/var/log/nginx", "/var/lib/nginx"),
        ),
        Image(
            "localhost/postgresql:test",
            (f"{postgresql}/bin/postgres", "-D", "/srv/postgresql", "-c", "unix_socket_directories=/tmp"),
            programs=(f"{postgresql}/bin/postgres",),
            trees={
                f"{postgresql}/lib": 0,
                place("/usr/share/postgresql/*"): 0,
                "/srv/postgresql": POSTGRES,
            },
            copies=("/usr/share/zoneinfo/Etc/UTC",),
            files=POSTGRES_ACCOUNT,
        ),
        Image("localhost/go-http:test", ("/go-http",), files={"/go-http": _file(debian, f"{COMPILED}/go-http")}),
        Image("localhost/go-grpc:test", ("/go-grpc",), files={"/go-grpc": _file(debian, f"{COMPILED}/go-grpc")}),
        Image(
            "localhost/jvm:test",
            (f"{java}/bin/java", "-cp", "/", "Server"),
            programs=(f"{java}/bin/java", f"{java}/lib/server/libjvm.so"),
            copies=("/usr/lib/x86_64-linux-gnu/libz.so.1",),
            trees={java: 0, place("/etc/java-*-openjdk"): 0},
            files={"/Server.class": _file(debian, f"{COMPILED}/Server.class")},
        ),
        Image(
            "localhost/nodejs:test",
            ("node", "/server.js"),
            programs=("/usr/bin/node",),
            trees={f"/usr/share/nodejs/{name}": 0 for name in ("acorn", "acorn-walk", "undici")},
            files={"/server.js": source("server.js")},
        ),
        Image(
            "localhost/php:test",
            ("/php.sh",),
            programs=(
                "/usr/sbin/apache2",
                fpm,
                *(f"{APACHE}/mod_{name}.so" for name in ("authz_core", "mpm_event", "proxy", "proxy_fcgi")),
            ),
            # The C library looks for it when a thread ends.
            copies=("/usr/lib/x86_64-linux-gnu/libgcc_s.so.1",),
            files={
                "/php.sh": source("php.sh"),
                "/srv/count.php": source("count.php"),
                "/etc/apache2/apache2.conf": source("apache.conf"),
                "/etc/php-fpm.conf": source("php-fpm.conf"),
                **WWW_DATA,
            },
        ),
    )


def _file(debian: Path, name: str) -> bytes:
    return (debian / name.lstrip("/")).read_bytes()


def archive(base: Path) -> Path:
    """The archive with all of them, built when it is missing, as is the tree for it."""
    debian = tree.debian(base)

    def build(target: Path) -> None:
        say("the applications' images")
        (target / "applications.tar").write_bytes(images.oci_archive(debian, applications(debian)))

    contents = [Path(module).read_bytes() for module in (__file__, images.__file__, layers.__file__)]
    contents += [path.read_bytes() for path in tree.sources()]
    return cached("applications", digest(debian.name, *contents), build) / "applications.tar"
