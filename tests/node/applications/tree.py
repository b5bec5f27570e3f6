"""The Debian tree that the applications' images are made of: the node's, with their packages and what is compiled.

Packages are unpacked, not installed: nothing of them runs on the node itself, and a Go library's dependencies, say, are
a hundred times what its compilation needs.
"""

import shutil
from pathlib import Path

from tests.node import rootfs
from tests.node.cache import CACHE, cached, digest, run_step, say
from tests.node.chroot import run_inside

HERE = Path(__file__).resolve().parent

RUN = ("apache2", "default-jre-headless", "nodejs", "php-fpm", "postgresql")
"""With all that they depend on."""

# ecj compiles Java, and needs no JDK, which is six times as large as what runs it.
COMPILE = ("ecj",)
COMPILE_GO = (
    "golang-github-golang-protobuf-1-5-dev",
    "golang-golang-x-net-dev",
    "golang-golang-x-sys-dev",
    "golang-golang-x-text-dev",
    "golang-google-genproto-dev",
    "golang-google-grpc-dev",
    "golang-google-protobuf-dev",
)
"""Without what they depend on."""

POSTGRES = 100
"""The uid and gid of PostgreSQL's cluster."""

UNPACK = f"""
set -ex
mkdir -p /var/cache/apt/archives/partial /var/lib/apt/lists/partial
cd /var/cache/apt/archives
apt-get update -q
apt-get install -q -y --no-install-recommends --download-only {" ".join((*RUN, *COMPILE))}
go=$(apt-cache depends golang-go golang-src | \
sed -n 's/^ *Depends: \\(golang-[0-9.]*-\\(go\\|src\\)\\)$/\\1/p' | sort -u)
apt-get download -q $go {" ".join(COMPILE_GO)}
for package in *.deb; do dpkg-deb -x "$package" /; done
apt-get clean
rm -rf *.deb /var/lib/apt/lists
"""

COMPILED = "/usr/local/lib/applications"

BUILD = f"""
set -ex
cd /applications
export GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE=/tmp/go CGO_ENABLED=0 GOTOOLCHAIN=local GOTELEMETRY=off
for program in http grpc; do
  /usr/lib/go-*/bin/go build -trimpath -ldflags=-s -o {COMPILED}/go-$program ./$program
done
rm -rf /tmp/go
/usr/lib/jvm/default-java/bin/java -jar /usr/share/java/eclipse-jdt-core-compiler-batch.jar \
-21 -d {COMPILED} Server.java
"""

# By the hand of who owns it: PostgreSQL refuses to be root.
INITDB = f"""
set -ex
echo postgres:x:{POSTGRES}:{POSTGRES}::/:/bin/false >>/etc/passwd
mkdir -m 0700 /srv/postgresql
chown {POSTGRES}:{POSTGRES} /srv/postgresql
setpriv --reuid {POSTGRES} --regid {POSTGRES} --clear-groups /usr/lib/postgresql/*/bin/initdb \\
  --pgdata /srv/postgresql --auth trust --username postgres --encoding UTF8 --locale C --no-sync --no-instructions
echo "listen_addresses = '*'" >>/srv/postgresql/postgresql.conf
echo "host all all all trust" >>/srv/postgresql/pg_hba.conf
"""


def sources() -> list[Path]:
    """What is compiled, or goes into an image as it is."""
    return sorted(path for path in HERE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc"))


def debian(base: Path) -> Path:
    """The tree's directory, made of the node's tree when it is missing (about a minute and a half)."""

    def build(target: Path) -> None:
        log = CACHE / "apptree.log"
        log.unlink(missing_ok=True)
        say(f"the applications' packages, about a minute (log: {log})")
        run_step(["cp", "-a", "--reflink=auto", f"{base}/.", str(target)], log, timeout=300)
        run_inside(target, ["sh", "-c", UNPACK], log)
        say("compiling in Go and Java, about a minute")
        for source in compiled:
            copy = target / "applications" / source.relative_to(HERE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
        run_inside(target, ["sh", "-c", BUILD], log)
        run_inside(target, ["sh", "-c", INITDB], log)
        # Two thirds of the tree, and not needed any more.
        for path in ("usr/share/gocode", *(str(path.relative_to(target)) for path in target.glob("usr/*/go-*"))):
            shutil.rmtree(target / path)

    compiled = [path for path in sources() if path.suffix in (".go", ".java")]
    contents = [path.read_bytes() for path in compiled]
    return cached("apptree", digest(base.name, rootfs.MIRROR, UNPACK, BUILD, INITDB, *contents), build)
